//! The last step before a description is shown.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::sync::LazyLock;

use ammonia::{Builder, UrlRelative};

use super::{attributes, tidy};

/// What a description may be made of. `tidy` writes nothing else; that it does not is checked here by other code.
static CLEANER: LazyLock<Builder<'static>> = LazyLock::new(|| {
    let classes: HashSet<&str> = attributes::CLASSES.iter().copied().collect();
    let tags: HashSet<&str> = tidy::tags().collect();
    let with_class = tags.iter().map(|&tag| (tag, classes.clone())).collect();
    let of = |names: &[&'static str]| names.iter().copied().collect::<HashSet<&str>>();
    let mut allowed = HashMap::from([
        ("a", of(&["href", "title"])),
        ("abbr", of(&["title"])),
        ("ol", of(&["start", "type"])),
        ("details", of(&["open"])),
    ]);
    for tag in ["td", "th"] {
        allowed.insert(tag, of(&["colspan", "rowspan", "align"]));
    }
    for tag in ["p", "div", "table", "tr", "h2", "h3", "h4", "h5", "h6"] {
        allowed.insert(tag, of(&["align"]));
    }
    let mut builder = Builder::empty();
    builder
        .tags(tags)
        .tag_attributes(allowed)
        .generic_attributes(of(&["id"]))
        .allowed_classes(with_class)
        .url_schemes(of(&["http", "https", "mailto"]))
        .url_relative(UrlRelative::Custom(Box::new(within)))
        .link_rel(Some("nofollow noopener noreferrer"));
    builder
});

/// Addresses without a scheme are those of places in the page.
fn within(url: &str) -> Option<Cow<'_, str>> {
    url.starts_with('#').then_some(Cow::Borrowed(url))
}

/// Safe HTML from any; none if there would be too much of it.
pub(super) fn clean(html: &str, is_done: bool) -> Option<String> {
    let tidy = tidy::tidy(html, is_done)?;
    Some(CLEANER.clean(&tidy).to_string())
}

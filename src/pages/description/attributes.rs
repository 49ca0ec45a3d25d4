//! Attributes by others: which of them stay, and what they may say.

use html5gum::StartTag;

/// The longest address of a link.
const URL_BYTES_MAX: usize = 2000;

/// Classes that mean something to the style sheet.
pub(super) const CLASSES: &[&str] = &[
    "admonition",
    "admonition-title",
    "contents",
    "fields",
    "footnote",
    "image",
    "line-block",
    "note",
    "task",
    "warn",
];

pub(super) fn find(names: &[&'static str], name: &str) -> Option<&'static str> {
    names.iter().find(|&&known| known == name).copied()
}

pub(super) fn attribute(tag: &StartTag<()>, name: &str) -> Option<String> {
    tag.attributes.get(name.as_bytes()).map(|value| String::from_utf8_lossy(value).into_owned())
}

pub(super) fn aligned(tag: &StartTag<()>) -> String {
    let align = attribute(tag, "align").unwrap_or_default().to_ascii_lowercase();
    let known = ["left", "center", "right"].contains(&align.as_str());
    if known { format!(" align=\"{align}\"") } else { String::new() }
}

pub(super) fn classes(tag: &StartTag<()>) -> String {
    let names = attribute(tag, "class").unwrap_or_default();
    let ours = names.split_whitespace().map(|name| match name {
        "markdown-alert-note" | "markdown-alert-tip" | "markdown-alert-important" => "note",
        "markdown-alert-warning" | "markdown-alert-caution" => "warn",
        _ => name,
    });
    let known: Vec<&str> = ours.filter_map(|name| find(CLASSES, name)).take(4).collect();
    if known.is_empty() { String::new() } else { format!(" class=\"{}\"", known.join(" ")) }
}

pub(super) fn block_attributes(name: &str, tag: &StartTag<()>) -> String {
    let mut attributes = classes(tag);
    let number = |name: &str, least: u32, most: u32| {
        let number = attribute(tag, name)?.trim().parse::<u32>().ok()?;
        Some(format!(" {name}=\"{}\"", number.clamp(least, most)))
    };
    match name {
        "td" | "th" => {
            attributes.push_str(&aligned(tag));
            attributes.extend(number("colspan", 1, 100));
            attributes.extend(number("rowspan", 1, 1000));
        }
        "p" | "div" | "table" | "tr" => attributes.push_str(&aligned(tag)),
        "ol" => {
            attributes.extend(number("start", 0, 1_000_000_000));
            let kind = attribute(tag, "type").unwrap_or_default();
            if ["1", "a", "A", "i", "I"].contains(&kind.as_str()) {
                attributes.push_str(&format!(" type=\"{kind}\""));
            }
        }
        "details" if attribute(tag, "open").is_some() => attributes.push_str(" open=\"\""),
        _ => (),
    }
    attributes
}

/// Where the first address within a text begins and ends.
pub(super) fn bare_address(text: &str) -> Option<(usize, usize)> {
    let mut from = 0;
    while let Some(start) = text[from..].find("http").map(|at| from + at) {
        let rest = &text[start..];
        let scheme = ["http://", "https://"].into_iter().find(|scheme| rest.starts_with(scheme));
        let is_apart = text[..start].chars().next_back().is_none_or(|c| !c.is_alphanumeric());
        if let Some(scheme) = scheme.filter(|_| is_apart) {
            let end = rest
                .find(|c: char| c.is_whitespace() || "<>\"`|".contains(c))
                .unwrap_or(rest.len());
            let url = rest[..end]
                .trim_end_matches(['.', ',', ';', ':', '!', '?', '\'', '*', '_', ']', '}']);
            let url = if url.contains('(') { url } else { url.trim_end_matches([')', '.', ',']) };
            if scheme.len() < url.len() {
                return Some((start, start + url.len()));
            }
        }
        from = start + "http".len();
    }
    None
}

/// An address that a link may have: elsewhere by HTTP or mail, or a place in the description itself. One that is
/// relative meant a place in the author's repository, which is not here.
pub(super) fn address(href: &str) -> Option<String> {
    let href = href.trim();
    if URL_BYTES_MAX < href.len() {
        return None;
    }
    if let Some(place) = href.strip_prefix('#') {
        let place = place.strip_prefix("user-content-").unwrap_or(place);
        let is_fine =
            !place.is_empty() && !place.contains(|c: char| c.is_whitespace() || c.is_control());
        return is_fine.then(|| format!("#user-content-{place}"));
    }
    let url = url::Url::parse(href).ok()?;
    let is_fine = match url.scheme() {
        "http" | "https" => url.has_host(),
        "mailto" => true,
        _ => false,
    };
    is_fine.then(|| url.to_string())
}

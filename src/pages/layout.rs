//! What all pages of ours have around their content: head, header with the search, way back, footer.
//!
//! Pages are drawn from values by macros that escape each text. They need no script, load nothing from elsewhere, and
//! say so (`POLICY`).

use maud::{DOCTYPE, Markup, html};
use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};

use super::assets::Asset;
use crate::replication::verdict::{Finding, Level};

/// What our pages may load: what this server itself offers, and nothing that stands in the page.
pub const POLICY: &str = "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; connect-src 'self'; \
                          frame-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'";

/// What cannot stand in one part of an address as it is.
const PART: &AsciiSet = &CONTROLS
    .add(b' ')
    .add(b'"')
    .add(b'#')
    .add(b'%')
    .add(b'/')
    .add(b'<')
    .add(b'>')
    .add(b'?')
    .add(b'[')
    .add(b'\\')
    .add(b']')
    .add(b'^')
    .add(b'`')
    .add(b'{')
    .add(b'|')
    .add(b'}');

/// Where a page is shown, and to whom.
#[derive(Clone, Debug, Default)]
pub struct Place {
    /// The path that this server has below its host, `/pypi` or nothing; links begin with it.
    pub root: String,
    /// The whole address of this server as the reader sees it, without a slash at its end; for commands.
    pub base: String,
    /// The user whose credentials came with the request.
    pub who: Option<String>,
    /// The address of the page itself, below `root`.
    pub here: String,
    /// What this node is: `master` or `replica`.
    pub role: &'static str,
    /// The serial that the node is at.
    pub serial: i64,
    /// How the node is.
    pub health: Finding,
}

impl Place {
    /// A link to an address of this server, given by its parts.
    pub fn link(&self, parts: &[&str]) -> String {
        let mut link = self.root.clone();
        for part in parts {
            link.push('/');
            link.extend(utf8_percent_encode(part, PART));
        }
        if parts.is_empty() {
            link.push('/');
        }
        link
    }
    /// A link with a query.
    pub fn link_with(&self, parts: &[&str], query: &[(&str, &str)]) -> String {
        let mut link = self.link(parts);
        let mut pairs = url::form_urlencoded::Serializer::new(String::new());
        for (name, value) in query.iter().filter(|(_, value)| !value.is_empty()) {
            pairs.append_pair(name, value);
        }
        let pairs = pairs.finish();
        if !pairs.is_empty() {
            link.push('?');
            link.push_str(&pairs);
        }
        link
    }
    /// The address of an asset.
    pub fn asset(&self, asset: Asset) -> String {
        format!("{}/+static/{}", self.root, asset.name())
    }
}

/// One step of the way from the root to a page.
#[derive(Clone, Debug)]
pub struct Crumb {
    /// What it is called.
    pub name: String,
    /// Where it is.
    pub link: String,
}

/// The steps to something below an index, by the parts of its address: user, index, project, version.
pub fn crumbs(place: &Place, parts: &[&str]) -> Vec<Crumb> {
    let step = |end: usize| Crumb {
        name: parts.get(end).copied().unwrap_or_default().to_owned(),
        link: place.link(&parts[..=end]),
    };
    (0..parts.len()).map(step).collect()
}

/// What a page says of itself.
#[derive(Clone, Debug, Default)]
pub struct Page<'a> {
    /// Its title.
    pub title: &'a str,
    /// The way to it, itself last.
    pub crumbs: Vec<Crumb>,
    /// What was searched for, to stand in the field.
    pub search: &'a str,
    /// Scripts that it uses.
    pub scripts: &'a [Asset],
}

/// The whole page.
pub fn draw(place: &Place, page: &Page<'_>, main: &Markup) -> String {
    let whole = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                title { (page.title) " - twinpi" }
                meta name="viewport" content="width=device-width, initial-scale=1";
                link rel="icon" href={ (place.root) "/+static/" (Asset::Icon.name()) } type="image/svg+xml";
                link rel="stylesheet" href=(place.asset(Asset::Style));
                script type="module" src=(place.asset(Asset::Search)) {}
                @for script in page.scripts {
                    script type="module" src=(place.asset(*script)) {}
                }
            }
            body data-root=(place.root) {
                a.skip href="#main" { "Skip to content" }
                (header(place, page))
                (way(page))
                main #main { (main) }
                (footer(place))
            }
        }
    };
    whole.into_string()
}

fn header(place: &Place, page: &Page<'_>) -> Markup {
    html! {
        header.top {
            div.top-row {
                a.brand href=(place.link(&[])) { "twin" span { "pi" } }
                form.find role="search" action=(place.link(&["+search"])) method="get" {
                    label.unseen for="find" { "Search packages" }
                    input #find type="search" name="query" value=(page.search) placeholder="Search packages"
                        autocomplete="off" spellcheck="false";
                    button type="submit" { "Search" }
                }
                nav aria-label="Site" {
                    ul {
                        li { a href=(place.link(&["+changes"])) { "Changes" } }
                        li #state data-live { (state(place)) }
                        @match &place.who {
                            Some(who) => li { a href=(place.link(&[who])) { (who) } },
                            None => li {
                                a href=(place.link_with(&["+signin"], &[("to", &place.here)])) rel="nofollow" { "Sign in" }
                            },
                        }
                    }
                }
            }
        }
    }
}

/// The link to the status, marked with how the node is.
fn state(place: &Place) -> Markup {
    let word = place.health.level.as_str();
    html! {
        a href=(place.link(&["+status"])) title=(place.health.what) {
            span.mark.(word) aria-hidden="true" {} "Status"
            @if place.health.level != Level::Ok { span.unseen { ": " (word) } }
        }
    }
}

fn way(page: &Page<'_>) -> Markup {
    let last = page.crumbs.len().saturating_sub(1);
    html! {
        @if !page.crumbs.is_empty() {
            nav.crumbs aria-label="You are here" {
                ol {
                    @for (at, crumb) in page.crumbs.iter().enumerate() {
                        li {
                            @if at == last {
                                a href=(crumb.link) aria-current="page" { (crumb.name) }
                            } @else {
                                a href=(crumb.link) { (crumb.name) }
                            }
                        }
                    }
                }
            }
        }
    }
}

fn footer(place: &Place) -> Markup {
    html! {
        footer {
            p {
                span { "twinpi " (env!("CARGO_PKG_VERSION")) }
                span { (place.role) " at serial " span.number { (place.serial) } }
                a href=(place.link(&["+searchhelp"])) { "Search help" }
                a href=(place.link(&["+api"])) { "API" }
            }
        }
    }
}

/// A page for a failure: what happened, in one sentence.
pub fn failure(place: &Place, status: u16, text: &str) -> String {
    let heading = match status {
        401 => "Sign in to see this",
        403 => "Not allowed",
        404 => "Not found",
        502..=504 => "Not reachable now",
        500.. => "Something went wrong here",
        _ => "This did not work",
    };
    let main = html! {
        h1 { (heading) }
        p.lead { (text) }
        p { a href=(place.link(&[])) { "All users and indexes" } }
    };
    draw(place, &Page { title: heading, ..Page::default() }, &main)
}

/// Which part of a long list is shown, and how to come to the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Paging {
    /// The page, from 1.
    pub page: usize,
    /// How many pages there are, at least 1.
    pub pages: usize,
    /// How many items there are on all pages.
    pub total: usize,
    size: usize,
}

impl Paging {
    /// The page that was asked for, of `total` items with `size` to a page; beyond the end it is the last one.
    pub fn new(asked: usize, total: usize, size: usize) -> Self {
        let pages = total.div_ceil(size).max(1);
        Self { page: asked.clamp(1, pages), pages, total, size }
    }
    /// The places of the items that are shown.
    pub fn range(&self) -> std::ops::Range<usize> {
        let start = (self.page - 1) * self.size;
        start..(start + self.size).min(self.total)
    }
    /// Links to the other pages; nothing if there are none. `link` gives the address of a page.
    pub fn draw(&self, link: impl Fn(&str) -> String) -> Markup {
        let to = |page: usize| link(&page.to_string());
        html! {
            @if 1 < self.pages {
                nav.pager aria-label="Pages" {
                    @if 1 < self.page { a.button rel="prev" href=(to(self.page - 1)) { "Previous" } }
                    span { "Page " span.number { (self.page) } " of " span.number { (self.pages) } }
                    @if self.page < self.pages { a.button rel="next" href=(to(self.page + 1)) { "Next" } }
                    @if self.page < self.pages { a href=(to(self.pages)) { "Last" } }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_keep_what_stands_in_names_apart() {
        let place = Place { root: "/pypi".into(), ..Place::default() };
        assert_eq!(place.link(&[]), "/pypi/");
        assert_eq!(place.link(&["ann", "dev", "p", "1!2+l"]), "/pypi/ann/dev/p/1!2+l");
        assert_eq!(place.link(&["a/../b", "x?y#z"]), "/pypi/a%2F..%2Fb/x%3Fy%23z");
        let link = place.link_with(&["+search"], &[("query", "a&b c"), ("page", "")]);
        assert_eq!(link, "/pypi/+search?query=a%26b+c");
    }

    #[test]
    fn pages_of_lists_stay_within_them() {
        for (asked, total, page, pages, range) in [
            (0, 0, 1, 1, 0..0),
            (1, 100, 1, 1, 0..100),
            (2, 101, 2, 2, 100..101),
            (9, 101, 2, 2, 100..101),
            (usize::MAX, 10, 1, 1, 0..10),
        ] {
            let paging = Paging::new(asked, total, 100);
            assert_eq!((paging.page, paging.pages, paging.range()), (page, pages, range));
        }
    }

    #[test]
    fn what_comes_from_outside_is_escaped_everywhere() {
        let evil = "\"><script>alert(1)</script>";
        let place = Place { who: Some(evil.into()), here: evil.into(), ..Place::default() };
        let crumbs = crumbs(&place, &[evil, evil]);
        let page = Page { title: evil, crumbs, search: evil, scripts: &[] };
        let drawn = draw(&place, &page, &html! { (evil) });
        assert!(!drawn.contains("<script>") && !failure(&place, 404, evil).contains("<script>"));
    }
}

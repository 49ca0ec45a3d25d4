//! The page of what was found, and what may be asked for.

use maud::{Markup, html};

use super::layout::{Page, Paging, Place, draw};

/// A piece of a text, and whether it is what was looked for.
pub type Piece = (String, bool);

/// A project that was found.
#[derive(Clone, Debug, Default)]
pub struct Hit {
    /// `user/index`
    pub index: String,
    /// The project's name.
    pub project: String,
    /// The version that installers take; empty if that is not known.
    pub version: String,
    /// Its summary.
    pub summary: Vec<Piece>,
    /// Pages of its documentation.
    pub pages: Vec<DocHit>,
    /// How many more pages there are.
    pub pages_more: usize,
    /// Whether only its name is known, from a mirror's upstream.
    pub is_mirrored: bool,
}

/// A page of documentation that was found.
#[derive(Clone, Debug, Default)]
pub struct DocHit {
    /// The version.
    pub version: String,
    /// Its name in the documentation.
    pub path: String,
    /// Its title.
    pub title: String,
    /// The part that has the words.
    pub excerpt: Vec<Piece>,
}

/// What the page shows.
#[derive(Clone, Debug)]
pub struct SearchPage<'a> {
    /// What was asked for.
    pub query: &'a str,
    /// What was found.
    pub hits: &'a [Hit],
    /// Which part of all that is.
    pub paging: Paging,
    /// Whether there is more than was counted.
    pub has_more: bool,
    /// How many serials the search is behind; none while its index is made.
    pub behind: Option<u64>,
}

/// The page of results.
pub fn results(place: &Place, shown: &SearchPage<'_>) -> String {
    let title = match shown.query {
        "" => "Search".to_owned(),
        query => format!("Search: {query}"),
    };
    let main = html! {
        h1 { "Search" }
        @match shown.behind {
            None => div.note { p { "The search index is being made; not everything is found yet." } },
            Some(0) => {},
            Some(behind) => div.note { p { "The last " (behind) " changes are not searched yet." } },
        }
        @if shown.query.is_empty() {
            p.lead { "Type the name of a package, or words from its description or documentation, into the field above." }
        } @else {
            (count(shown))
            ol.plain.hits {
                @for hit in shown.hits { li.card { (result(place, hit)) } }
            }
            (shown.paging.draw(|page| {
                place.link_with(&["+search"], &[("query", shown.query), ("page", page)])
            }))
        }
        p { a href=(place.link(&["+searchhelp"])) { "How to search for exactly what you want" } }
    };
    draw(place, &Page { title: &title, search: shown.query, ..Page::default() }, &main)
}

fn count(shown: &SearchPage<'_>) -> Markup {
    let total = shown.paging.total;
    html! {
        p role="status" {
            @match (total, shown.has_more) {
                (0, _) => "Nothing was found. Names and words are found by their beginnings.",
                (1, false) => "One package.",
                (_, false) => { span.number { (total) } " packages." },
                (_, true) => { "More than " span.number { (total) } " packages; a second word would help." },
            }
        }
    }
}

fn pieces(pieces: &[Piece]) -> Markup {
    html! {
        @for (text, is_found) in pieces {
            @if *is_found { mark { (text) } } @else { (text) }
        }
    }
}

fn result(place: &Place, hit: &Hit) -> Markup {
    let index: Vec<&str> = hit.index.split('/').collect();
    let below = |more: &[&str]| place.link(&[&index[..], more].concat());
    html! {
        h2 {
            a href=(below(&[&hit.project])) { (hit.project) }
            @if !hit.version.is_empty() {
                " " a href=(below(&[&hit.project, &hit.version])) { small { (hit.version) } }
            }
        }
        p.quiet {
            a href=(below(&[])) { (hit.index) }
            @if hit.is_mirrored { " " span.tag { "mirror" } }
        }
        @if !hit.summary.is_empty() { p { (pieces(&hit.summary)) } }
        @if !hit.pages.is_empty() {
            ul.plain {
                @for page in &hit.pages {
                    li {
                        a href={ (below(&[&hit.project, &page.version, "+d"])) "/" (path(&page.path)) } {
                            @if page.title.is_empty() { (page.path) } @else { (page.title) }
                        }
                        @if !page.excerpt.is_empty() { p.quiet { (pieces(&page.excerpt)) } }
                    }
                }
            }
            @if 0 < hit.pages_more { p.quiet { "and " (hit.pages_more) " more pages of its documentation" } }
        }
    }
}

/// A page's name as the end of an address.
fn path(name: &str) -> String {
    let place = Place::default();
    let parts: Vec<&str> = name.split('/').collect();
    place.link(&parts).trim_start_matches('/').to_owned()
}

/// What can be asked for, each with an example.
const HELP: [(&str, &str, &str); 11] = [
    (
        "Words",
        "plot charts",
        "All of them have to be there. A word of three letters and more may be the beginning of a longer one.",
    ),
    (
        "Names",
        "requests",
        "A package of exactly this name comes first, then those whose names begin or have it inside.",
    ),
    ("Phrases", "'draws a line'", "Words in quotes have to stand one after the other."),
    (
        "Alternatives",
        "plot OR chart",
        "The word OR in capitals. AND may be written between others.",
    ),
    ("Without", "plot NOT chart", "NOT or ANDNOT leave out what has the next word."),
    ("Groups", "(plot OR chart) NOT pie", "Parentheses say what belongs together."),
    (
        "Rather with",
        "plot ANDMAYBE fast",
        "What has the second word too comes earlier. plot^2 counts a word twice.",
    ),
    ("Where", "plot user:ann", "user:, index: and path:, as in index:dev or path:/ann/dev/*"),
    ("One name", "name:plotter", "Only a package of this name; name:plot* for all that begin so."),
    (
        "Marks",
        "classifiers:'Framework :: Django'",
        "keywords: and classifiers: take a whole one, or its beginning with *.",
    ),
    (
        "Kinds",
        "type:page install",
        "type: is project, summary, description, keywords, author, title or page (documentation).",
    ),
];

/// The page that explains the language.
pub fn help(place: &Place) -> String {
    let main = html! {
        h1 { "How to search" }
        p.lead { "Packages of this server's own indexes are found by all that is known of them; those of mirrors by name." }
        table.stack {
            thead { tr { th scope="col" { "What" } th scope="col" { "Example" } th scope="col" { "Meaning" } } }
            tbody {
                @for (what, example, meaning) in HELP {
                    tr {
                        th scope="row" { (what) }
                        td { a href=(place.link_with(&["+search"], &[("query", example)])) { code { (example) } } }
                        td { (meaning) }
                    }
                }
            }
        }
    };
    draw(place, &Page { title: "How to search", ..Page::default() }, &main)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_uploaded_or_typed_is_escaped() {
        const EVIL: &str = "\"><script>alert(1)</script>";
        let page = DocHit {
            version: EVIL.into(),
            path: format!("a/{EVIL}"),
            title: EVIL.into(),
            excerpt: vec![(EVIL.into(), true)],
        };
        let hit = Hit {
            index: "ann/dev".into(),
            project: EVIL.into(),
            version: EVIL.into(),
            summary: vec![(EVIL.into(), false), (EVIL.into(), true)],
            pages: vec![page],
            pages_more: 1,
            is_mirrored: true,
        };
        let shown = SearchPage {
            query: EVIL,
            hits: &[hit],
            paging: Paging::new(1, 1, 10),
            has_more: false,
            behind: None,
        };
        let html = results(&Place::default(), &shown);
        assert!(!html.contains("<script>"), "{html}");
        assert!(!help(&Place::default()).contains("<script>"));
    }
}

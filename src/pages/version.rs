//! The page of a version: what it says of itself, its files, and how it came here.

use maud::{Markup, html};

use super::assets::Asset;
use super::commands;
use super::layout::{Page, Paging, Place, crumbs, draw};

/// A file of a version.
#[derive(Clone, Debug, Default)]
pub struct File {
    /// Its name.
    pub name: String,
    /// Its path below the root of this server.
    pub path: String,
    /// What it is, in a word or two.
    pub kind: String,
    /// For which Python it is, as its name says.
    pub python: String,
    /// Its size in bytes, when known.
    pub size_bytes: Option<u64>,
    /// Its SHA-256 in hex, when known.
    pub sha256: String,
    /// When it was uploaded, as `2026-11-22T23:59:04Z`.
    pub uploaded: String,
    /// Whether it was withdrawn, and why.
    pub yanked: Option<String>,
    /// Its test results, newest first.
    pub results: Vec<ResultLine>,
    /// How it came here, one sentence each.
    pub history: Vec<Event>,
}

/// Something that happened to a file.
#[derive(Clone, Debug, Default)]
pub struct Event {
    /// When, as `2026-11-22T23:59:04Z`; empty if that is not known.
    pub at: String,
    /// What.
    pub text: String,
}

/// A test result of a file.
#[derive(Clone, Debug, Default)]
pub struct ResultLine {
    /// The name of its file.
    pub name: String,
    /// Where it ran: environment, machine.
    pub label: String,
    /// Whether all went well; none if it cannot be told.
    pub is_passed: Option<bool>,
    /// When it was uploaded.
    pub at: String,
}

/// A link out, or what was meant to be one.
#[derive(Clone, Debug, Default)]
pub struct Outside {
    /// What it is called.
    pub label: String,
    /// The address as it was given; a link only if it is one of a web page.
    pub address: String,
}

/// Words in groups, each with a name that may be empty.
pub type Groups = Vec<(String, Vec<String>)>;

/// What the page shows.
#[derive(Clone, Debug)]
pub struct VersionPage {
    /// `user/index`
    pub index: String,
    /// The project's name in normal form.
    pub project: String,
    /// The version.
    pub version: String,
    /// The newest version of the index, if that is another one.
    pub newer: Option<String>,
    /// What it says of itself in a line.
    pub summary: String,
    /// Facts in order: name and text.
    pub facts: Vec<(&'static str, String)>,
    /// Lists of words, by name.
    pub lists: Vec<(&'static str, Groups)>,
    /// Links out.
    pub links: Vec<Outside>,
    /// Its files, as far as they are on this page.
    pub files: Vec<File>,
    /// Which part of all files that is.
    pub paging: Paging,
    /// Whether it has documentation.
    pub has_docs: bool,
    /// The description, safe as it is.
    pub description: Markup,
    /// What is to be said of the description.
    pub note: Option<String>,
}

/// The page.
pub fn page(place: &Place, shown: &VersionPage) -> String {
    let index: Vec<&str> = shown.index.split('/').collect();
    let parts = [&index[..], &[&shown.project, &shown.version]].concat();
    let main = html! {
        h1 { (shown.project) small { (shown.version) } }
        @if !shown.summary.is_empty() { p.lead { (shown.summary) } }
        @if let Some(newer) = &shown.newer {
            div.note {
                p {
                    "There is a newer version: "
                    a href=(place.link(&[&index[..], &[&shown.project, newer]].concat())) { (newer) }
                }
            }
        }
        div.columns {
            div {
                (files(place, shown, &parts))
                section.description aria-label="Description" {
                    h2 { "Description" }
                    @if let Some(note) = &shown.note { p.quiet { (note) } }
                    (shown.description)
                }
            }
            div { (aside(place, shown, &parts)) }
        }
    };
    let page = Page {
        title: &format!("{} {}", shown.project, shown.version),
        crumbs: crumbs(place, &parts),
        scripts: &[Asset::Copy],
        ..Page::default()
    };
    draw(place, &page, &main)
}

fn aside(place: &Place, shown: &VersionPage, parts: &[&str]) -> Markup {
    html! {
        h2 { "Install" }
        (commands::of_project(place, &shown.index, &shown.project, Some(&shown.version)))
        @if shown.has_docs {
            p { a.button.main href={ (place.link(parts)) "/+d/index.html" } { "Read the documentation" } }
        }
        @if !(shown.facts.is_empty() && shown.links.is_empty() && shown.lists.is_empty()) {
            h2 { "About" }
        }
        dl.facts {
            @for (name, text) in &shown.facts { dt { (name) } dd { (text) } }
            @if !shown.links.is_empty() {
                dt { "Links" }
                dd { ul.plain { @for link in &shown.links { li { (outside(link)) } } } }
            }
        }
        @for (name, groups) in &shown.lists {
            @let count: usize = groups.iter().map(|(_, words)| words.len()).sum();
            details open[count < 8] {
                summary { (name) " " span.quiet { "(" (count) ")" } }
                @for (group, words) in groups {
                    @if !group.is_empty() { p.quiet { (group) } }
                    ul { @for word in words { li { (word) } } }
                }
            }
        }
    }
}

/// A link if the address is one of a web page, else its text alone.
fn outside(link: &Outside) -> Markup {
    let scheme = link.address.split_once("://").map(|(scheme, _)| scheme.to_ascii_lowercase());
    html! {
        @if matches!(scheme.as_deref(), Some("http" | "https")) {
            a href=(link.address) rel="nofollow noopener noreferrer" { (link.label) }
        } @else {
            (link.label) ": " (link.address)
        }
    }
}

fn files(place: &Place, shown: &VersionPage, parts: &[&str]) -> Markup {
    html! {
        h2 { "Files" }
        @if shown.files.is_empty() { p.quiet { "No file was uploaded for this version." } }
        @for file in &shown.files {
            article.card.file {
                h3 {
                    a href=(place.link(&file.path.split('/').collect::<Vec<_>>())) { (file.name) }
                    @if file.yanked.is_some() { " " span.tag.warn { "yanked" } }
                }
                p.quiet {
                    (file.kind)
                    @if !file.python.is_empty() { ", " (file.python) }
                    @if let Some(size) = file.size_bytes { ", " span.number { (size_text(size)) } }
                    @if !file.uploaded.is_empty() { ", " time datetime=(file.uploaded) { (when(&file.uploaded)) } }
                }
                @if let Some(why) = &file.yanked { @if !why.is_empty() { p { "Withdrawn: " (why) } } }
                @if !file.sha256.is_empty() {
                    p.quiet.label { "SHA-256" }
                    div.command data-label={ "SHA-256 of " (file.name) } {
                        pre tabindex="0" aria-label={ "SHA-256 of " (file.name) } { code { (file.sha256) } }
                    }
                }
                (results(place, file, parts))
                @if !file.history.is_empty() {
                    details {
                        summary { "History" }
                        ul {
                            @for event in &file.history {
                                li {
                                    (event.text)
                                    @if !event.at.is_empty() { ", " time datetime=(event.at) { (when(&event.at)) } }
                                }
                            }
                        }
                    }
                }
            }
        }
        (shown.paging.draw(|page| place.link_with(parts, &[("page", page)])))
    }
}

fn results(place: &Place, file: &File, parts: &[&str]) -> Markup {
    let all = [parts, &["+toxresults", &file.name]].concat();
    html! {
        @if !file.results.is_empty() {
            p { a href=(place.link(&all)) { "Test results" } }
            ul.row {
                @for result in &file.results {
                    li {
                        (verdict(result.is_passed)) " "
                        a href=(place.link(&[&all[..], &[&result.name]].concat())) { (result.label) }
                    }
                }
            }
        }
    }
}

/// A mark that says how tests went.
pub fn verdict(is_passed: Option<bool>) -> Markup {
    html! {
        @match is_passed {
            Some(true) => span.tag.good { "passed" },
            Some(false) => span.tag.bad { "failed" },
            None => span.tag { "unknown" },
        }
    }
}

/// A moment for people: to the minute.
pub fn when(stamp: &str) -> String {
    match (stamp.get(..10), stamp.get(11..16)) {
        (Some(day), Some(minute)) => format!("{day} {minute} UTC"),
        _ => stamp.to_owned(),
    }
}

/// A size for people.
pub fn size_text(bytes: u64) -> String {
    const UNITS: [&str; 4] = ["kB", "MB", "GB", "TB"];
    if bytes < 1000 {
        return format!("{bytes} B");
    }
    let (mut size, mut unit) = (bytes as f64 / 1000.0, 0);
    while 999.95 <= size && unit + 1 < UNITS.len() {
        size /= 1000.0;
        unit += 1;
    }
    format!("{size:.1} {}", UNITS[unit])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_addresses_of_web_pages_are_links() {
        for (address, is_link) in [
            ("https://h/x", true),
            ("HTTP://h/x", true),
            ("javascript:alert(1)", false),
            ("javascript://h/%0aalert(1)", false),
            ("data:text/html,x", false),
            ("//h/x", false),
            ("", false),
        ] {
            let link = Outside { label: "l".into(), address: address.into() };
            assert_eq!(outside(&link).into_string().contains("href"), is_link, "{address}");
        }
    }

    #[test]
    fn what_uploads_say_is_escaped() {
        const EVIL: &str = "\"><script>alert(1)</script>";
        let result = ResultLine { name: EVIL.into(), label: EVIL.into(), ..ResultLine::default() };
        let file = File {
            name: EVIL.into(),
            path: "a/b".into(),
            kind: EVIL.into(),
            python: EVIL.into(),
            sha256: EVIL.into(),
            uploaded: EVIL.into(),
            yanked: Some(EVIL.into()),
            results: vec![result],
            history: vec![Event { at: EVIL.into(), text: EVIL.into() }],
            size_bytes: Some(1),
        };
        let shown = VersionPage {
            index: "ann/dev".into(),
            project: EVIL.into(),
            version: EVIL.into(),
            newer: Some(EVIL.into()),
            summary: EVIL.into(),
            facts: vec![("A", EVIL.into())],
            lists: vec![("B", vec![(EVIL.into(), vec![EVIL.into()])])],
            links: vec![Outside { label: EVIL.into(), address: format!("https://h/{EVIL}") }],
            files: vec![file],
            paging: Paging::new(1, 1, 1),
            has_docs: true,
            description: html! { (EVIL) },
            note: Some(EVIL.into()),
        };
        let html = page(&Place::default(), &shown);
        assert!(!html.contains("<script>"), "{html}");
    }

    #[test]
    fn sizes_and_moments_are_for_people() {
        for (bytes, text) in [
            (0, "0 B"),
            (999, "999 B"),
            (1000, "1.0 kB"),
            (999_999, "1.0 MB"),
            (u64::MAX, "18446744.1 TB"),
        ] {
            assert_eq!(size_text(bytes), text);
        }
        assert_eq!(when("2026-11-22T23:59:04Z"), "2026-11-22 23:59 UTC");
        assert_eq!(when("odd"), "odd");
    }
}

//! The page of a project: its versions over an index and the bases.

use maud::{Markup, html};

use super::assets::Asset;
use super::commands;
use super::layout::{Page, Paging, Place, crumbs, draw};

/// A version in the list.
#[derive(Clone, Debug, Default)]
pub struct Line {
    /// `user/index` that holds it.
    pub index: String,
    /// The version.
    pub version: String,
    /// How many files it has.
    pub files: usize,
    /// Which Python it asks for.
    pub requires_python: String,
    /// Whether it was withdrawn.
    pub is_yanked: bool,
    /// When its first file was uploaded, as `2026-11-22T23:59:04Z`.
    pub uploaded: Option<String>,
    /// Whether it has documentation.
    pub has_docs: bool,
    /// Other indexes that hold it.
    pub also: Vec<String>,
}

/// What the page shows.
#[derive(Clone, Debug)]
pub struct ProjectPage<'a> {
    /// `user/index` that was asked.
    pub index: &'a str,
    /// The project's name in normal form.
    pub project: &'a str,
    /// The version that installers take.
    pub newest: Option<&'a str>,
    /// The index that holds it.
    pub newest_index: &'a str,
    /// What that version says of itself in a line.
    pub summary: &'a str,
    /// Versions of this page, newest first.
    pub lines: &'a [Line],
    /// Which part of all versions that is.
    pub paging: Paging,
    /// Whether mirrors have a part in it, so that they can be asked again.
    pub has_mirrors: bool,
    /// Mirrors that are hidden, each with the index that hides it.
    pub blocked: &'a [(String, String)],
    /// The page of the project at a mirror's upstream.
    pub upstream: Option<&'a str>,
    /// Why the list may be old.
    pub doubt: Option<String>,
}

/// The page.
pub fn page(place: &Place, shown: &ProjectPage<'_>) -> String {
    let mut parts: Vec<&str> = shown.index.split('/').collect();
    parts.push(shown.project);
    let main = html! {
        h1 { (shown.project) @if let Some(newest) = shown.newest { small { (newest) } } }
        @if !shown.summary.is_empty() { p.lead { (shown.summary) } }
        @if let Some(doubt) = &shown.doubt { div.note.warn { p { "This may be old: " (doubt) } } }
        @for (mirror, by) in shown.blocked {
            div.note {
                p {
                    "Releases of " (mirror) " are not offered here, since " (by) " holds a project of this name. "
                    "Its setting " code { "mirror_whitelist" } " can let them through."
                }
            }
        }
        div.columns {
            div { (versions(place, shown)) }
            div { (aside(place, shown, &parts)) }
        }
    };
    let page = Page {
        title: &format!("{} on {}", shown.project, shown.index),
        crumbs: crumbs(place, &parts),
        scripts: &[Asset::Copy],
        ..Page::default()
    };
    draw(place, &page, &main)
}

fn aside(place: &Place, shown: &ProjectPage<'_>, parts: &[&str]) -> Markup {
    let (user, index) = (parts.first().unwrap_or(&""), parts.get(1).unwrap_or(&""));
    html! {
        h2 { "Install" }
        (commands::of_project(place, shown.index, shown.project, None))
        ul.plain {
            @if let Some(newest) = shown.newest {
                @let index: Vec<&str> = shown.newest_index.split('/').collect();
                li { a href=(place.link(&[&index[..], &[shown.project, newest]].concat())) { "Description and files of " (newest) } }
            }
            li { a href={ (place.link(&[user, index, "+simple", shown.project])) "/" } { "Simple page" } }
            @if let Some(url) = shown.upstream {
                li { a href=(url) rel="nofollow noopener noreferrer" { "Page at the upstream" } }
            }
        }
        @if shown.has_mirrors {
            form.inline method="post" action=(place.link(&[user, index, shown.project, "refresh"])) {
                button type="submit" { "Ask the mirrors again" }
            }
        }
    }
}

fn versions(place: &Place, shown: &ProjectPage<'_>) -> Markup {
    let paging = &shown.paging;
    let word = if paging.total == 1 { "version" } else { "versions" };
    let mut own: Vec<&str> = shown.index.split('/').collect();
    own.push(shown.project);
    html! {
        h2 { span.number { (paging.total) } " " (word) }
        @if shown.lines.is_empty() {
            p.quiet { "No release yet." }
        } @else {
            table.stack {
                thead {
                    tr {
                        th scope="col" { "Version" }
                        th scope="col" { "Index" }
                        th scope="col" { "Uploaded" }
                        th scope="col" { "Python" }
                        th.number scope="col" { "Files" }
                        th scope="col" { "Documentation" }
                    }
                }
                tbody { @for line in shown.lines { (version(place, shown, line)) } }
            }
            (paging.draw(|page| place.link_with(&own, &[("page", page)])))
        }
    }
}

fn version(place: &Place, shown: &ProjectPage<'_>, line: &Line) -> Markup {
    let index: Vec<&str> = line.index.split('/').collect();
    let below = |more: &[&str]| place.link(&[&index[..], more].concat());
    html! {
        tr {
            th scope="row" {
                a href=(below(&[shown.project, &line.version])) { (line.version) }
                @if line.is_yanked { " " span.tag.warn { "yanked" } }
            }
            td {
                a href=(below(&[])) { (line.index) }
                @for also in &line.also { ", " span.quiet { (also) } }
            }
            td data-label="Uploaded" { @if let Some(at) = &line.uploaded { time datetime=(at) { (at.get(..10).unwrap_or(at)) } } }
            td data-label="Python" { (line.requires_python) }
            td.number data-label="Files" { (line.files) span.unseen { " files" } }
            td data-label="Documentation" {
                @if line.has_docs {
                    a href={ (below(&[shown.project, &line.version, "+d"])) "/index.html" } {
                        "Read" span.unseen { " documentation of " (line.version) }
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_uploads_say_is_escaped() {
        const EVIL: &str = "\"><script>alert(1)</script>";
        let line = Line {
            index: "ann/dev".into(),
            version: EVIL.into(),
            requires_python: EVIL.into(),
            uploaded: Some(EVIL.into()),
            also: vec![EVIL.into()],
            has_docs: true,
            ..Line::default()
        };
        let shown = ProjectPage {
            index: "ann/dev",
            project: EVIL,
            newest: Some(EVIL),
            newest_index: "ann/dev",
            summary: EVIL,
            lines: &[line],
            paging: Paging::new(1, 1, 50),
            has_mirrors: true,
            blocked: &[(EVIL.to_owned(), EVIL.to_owned())],
            upstream: Some("https://h/\"><script>"),
            doubt: Some(EVIL.to_owned()),
        };
        let html = page(&Place::default(), &shown);
        assert!(!html.contains("<script>"), "{html}");
    }
}

//! The page of an index for people: what it is, how to use it, and what it holds.

use maud::{Markup, html};

use crate::model::overview::ProjectLine;

use super::assets::Asset;
use super::commands;
use super::home::{IndexLine, bases, tags};
use super::layout::{Page, Paging, Place, crumbs, draw};

/// What the page shows.
#[derive(Clone, Debug)]
pub struct IndexPage<'a> {
    /// The index.
    pub line: &'a IndexLine,
    /// What its owner says of it.
    pub description: &'a str,
    /// Where it mirrors from, without credentials.
    pub mirror_url: Option<&'a str>,
    /// Other settings that people ask for: name and values.
    pub settings: &'a [(&'static str, Vec<String>)],
    /// The projects of the page.
    pub projects: &'a [ProjectLine],
    /// Which part of all projects that is.
    pub paging: Paging,
    /// What names were asked to begin with.
    pub starts: &'a str,
    /// What is to be said of the list: that it may be old.
    pub doubt: Option<String>,
}

/// The page.
pub fn page(place: &Place, shown: &IndexPage<'_>) -> String {
    let name = shown.line.name.as_str();
    let parts: Vec<&str> = name.split('/').collect();
    let is_mirror = shown.line.kind == "mirror";
    let main = html! {
        h1 { (name) @if !shown.line.title.is_empty() { small { (shown.line.title) } } }
        p { (tags(shown.line)) }
        @if !shown.description.is_empty() { p.lead { (shown.description) } }
        div.columns {
            div { (projects(place, &parts, shown)) }
            div {
                h2 { "Use it" }
                (commands::of_index(place, name, !is_mirror))
                h2 { "Settings" }
                (facts(place, &parts, shown))
            }
        }
    };
    let page = Page {
        title: name,
        crumbs: crumbs(place, &parts),
        scripts: &[Asset::Copy],
        ..Page::default()
    };
    draw(place, &page, &main)
}

fn facts(place: &Place, parts: &[&str], shown: &IndexPage<'_>) -> Markup {
    let mut simple = parts.to_vec();
    simple.push("+simple");
    let mut changes = parts.to_vec();
    changes.push("+changes");
    html! {
        dl.facts {
            @if let Some(url) = shown.mirror_url { dt { "Mirrors" } dd { (url) } }
            @if !shown.line.bases.is_empty() { dt { "Bases" } dd { (bases(place, &shown.line.bases)) } }
            @for (name, values) in shown.settings {
                dt { (name) }
                dd { @if values.is_empty() { span.quiet { "nobody" } } @else { (values.join(", ")) } }
            }
        }
        ul.row {
            li { a href={ (place.link(&simple)) "/" } { "Simple index" } }
            li { a href=(place.link(&changes)) { "Recent changes" } }
        }
    }
}

fn projects(place: &Place, parts: &[&str], shown: &IndexPage<'_>) -> Markup {
    let (user, index) = (parts.first().unwrap_or(&""), parts.get(1).unwrap_or(&""));
    let paging = &shown.paging;
    let word = if paging.total == 1 { "project" } else { "projects" };
    html! {
        h2 { span.number { (paging.total) } " " (word) }
        form.inline method="get" action=(place.link(parts)) {
            label for="starts" { "Names that begin with" }
            input #starts type="search" name="starts" value=(shown.starts) autocomplete="off" spellcheck="false";
            button type="submit" { "Show" }
        }
        @if let Some(doubt) = &shown.doubt { div.note.warn { p { "The list may be old: " (doubt) } } }
        @if shown.projects.is_empty() {
            p.quiet { @if shown.starts.is_empty() { "Nothing here yet." } @else { "No name begins like that." } }
        } @else {
            table.stack {
                thead { tr { th scope="col" { "Project" } th scope="col" { "Version" } th scope="col" { "Summary" } } }
                tbody {
                    @for project in shown.projects {
                        tr {
                            th scope="row" { a href=(place.link(&[user, index, &project.name])) { (project.name) } }
                            td {
                                @if let Some(version) = &project.version {
                                    a href=(place.link(&[user, index, &project.name, version])) { (version) }
                                }
                            }
                            td { (project.summary) }
                        }
                    }
                }
            }
            (paging.draw(|page| place.link_with(parts, &[("starts", shown.starts), ("page", page)])))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_users_wrote_is_escaped() {
        const EVIL: &str = "<script>alert(1)</script>";
        let line = IndexLine { name: "ann/dev".into(), title: EVIL.into(), ..IndexLine::default() };
        let project =
            ProjectLine { name: "pkg".into(), version: Some(EVIL.into()), summary: EVIL.into() };
        let shown = IndexPage {
            line: &line,
            description: EVIL,
            mirror_url: Some(EVIL),
            settings: &[("Uploads", vec![EVIL.to_owned()])],
            projects: &[project],
            paging: Paging::new(1, 1, 100),
            starts: EVIL,
            doubt: Some(EVIL.to_owned()),
        };
        let html = page(&Place { root: "/r".into(), ..Place::default() }, &shown);
        assert!(!html.contains("<script>") && html.contains("&lt;script&gt;"));
        assert!(html.contains("href=\"/r/ann/dev/pkg\""));
    }
}

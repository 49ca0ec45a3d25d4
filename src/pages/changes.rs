//! The page of what happened lately: who did what when, at which serial, and where it has arrived.

use std::time::SystemTime;

use maud::{Markup, html};

use super::assets::Asset;
use super::layout::{Crumb, Page, Place, crumbs, draw};
use super::live::{self, Live};
use super::when;

/// So many replicas are named for a change; of more only those that lack something.
const NAMED_MAX: usize = 4;

/// A change.
#[derive(Clone, Debug, Default)]
pub struct Line {
    /// Its serial.
    pub serial: u64,
    /// When it was made, if that is known.
    pub at: Option<SystemTime>,
    /// Whether that is only when it came to this node.
    pub is_late: bool,
    /// Who made it, if that is known.
    pub who: Option<String>,
    /// The indexes that it is about.
    pub indexes: Vec<String>,
    /// What it did, in sentences.
    pub what: Vec<String>,
    /// How many changes got no sentence.
    pub more: usize,
    /// Whether this node has the files up to it; none where that is not for it to have.
    pub has_files: Option<bool>,
    /// The replicas, and whether they have it.
    pub arrivals: Vec<Arrival>,
}

/// Whether a replica has a change.
#[derive(Clone, Debug, Default)]
pub struct Arrival {
    /// What it is called.
    pub name: String,
    /// Whether it follows.
    pub is_live: bool,
    /// Whether it has the change.
    pub has: bool,
    /// Whether it has the files up to it; none if it does not tell.
    pub files: Option<bool>,
}

impl Arrival {
    fn is_whole(&self) -> bool {
        self.has && self.files != Some(false)
    }
    fn words(&self) -> (&'static str, &'static str) {
        match (self.has, self.files, self.is_live) {
            (true, Some(false), _) => ("warn", "files on the way"),
            (true, Some(true), _) => ("good", "all of it"),
            (true, None, _) => ("good", "the change"),
            (false, _, true) => ("warn", "on the way"),
            (false, _, false) => ("bad", "not yet, and away"),
        }
    }
}

/// What the page shows.
#[derive(Clone, Debug)]
pub struct ChangesPage<'a> {
    /// The one index whose changes are shown.
    pub index: Option<&'a str>,
    /// The changes, the newest first.
    pub lines: &'a [Line],
    /// The page after this serial, if this is not the newest one.
    pub newer: Option<u64>,
    /// The page before this serial, if there is one.
    pub older: Option<u64>,
    /// When the page is drawn.
    pub now: SystemTime,
    /// How it keeps up, if it shows the newest.
    pub live: Option<Live>,
}

/// The page.
pub fn page(place: &Place, shown: &ChangesPage<'_>) -> String {
    let parts: Vec<&str> = shown.index.map(|name| name.split('/').collect()).unwrap_or_default();
    let mut address = parts.clone();
    address.push("+changes");
    let main = html! {
        h1 { "Recent changes" @if let Some(index) = shown.index { small { "of " (index) } } }
        @if let Some(live) = &shown.live { (live::line(place, live)) }
        @if let Some(index) = shown.index {
            p { a href=(place.link(&["+changes"])) { "Changes of the whole node" } " instead of " (index) " alone" }
        }
        (live::part("changes", &list(place, shown)))
        (pager(place, &address, shown))
        p.quiet {
            "Programs that ask for " code { "application/json" } " at this address get JSON, and may wait for what comes next."
        }
    };
    let mut crumbs = crumbs(place, &parts);
    crumbs.push(Crumb { name: "Recent changes".to_owned(), link: place.link(&address) });
    let page = Page {
        title: "Recent changes",
        crumbs,
        scripts: if shown.live.is_some() { &[Asset::Live] } else { &[] },
        ..Page::default()
    };
    draw(place, &page, &main)
}

fn list(place: &Place, shown: &ChangesPage<'_>) -> Markup {
    html! {
        @if shown.lines.is_empty() {
            p.quiet { "Nothing that you may see." }
        } @else {
            table.stack.changes {
                thead {
                    tr {
                        th.number scope="col" { "Serial" } th scope="col" { "What" } th scope="col" { "Who" }
                        th scope="col" { "When" } th scope="col" { "Where it is" }
                    }
                }
                tbody { @for line in shown.lines { (row(place, line, shown)) } }
            }
        }
    }
}

fn row(place: &Place, line: &Line, shown: &ChangesPage<'_>) -> Markup {
    let others = line.indexes.iter().filter(|index| shown.index != Some(index.as_str()));
    html! {
        tr data-key=(line.serial) {
            th.number scope="row" { span.unseen { "Serial " } (line.serial) }
            td {
                @for sentence in &line.what { p.sentence { (sentence) } }
                @if 0 < line.more { p.sentence.quiet { "and " (line.more) " more" } }
                @for index in others {
                    @let parts: Vec<&str> = index.split('/').collect();
                    a.quiet href=(place.link(&parts)) { (index) } " "
                }
            }
            td {
                @match &line.who {
                    Some(who) => a href=(place.link(&[who])) { (who) },
                    None => span.quiet { "not recorded" },
                }
            }
            td {
                @match line.at {
                    Some(at) => {
                        (when::moment(shown.now, at))
                        @if line.is_late { br; span.quiet { "when it came here" } }
                    },
                    None => span.quiet { "not known" },
                }
            }
            td { (places(place, line)) }
        }
    }
}

/// Where a change has arrived.
fn places(place: &Place, line: &Line) -> Markup {
    let lacking: Vec<_> = line.arrivals.iter().filter(|arrival| !arrival.is_whole()).collect();
    let count = line.arrivals.len();
    let named: Vec<_> =
        if count <= NAMED_MAX { line.arrivals.iter().collect() } else { lacking.clone() };
    let whole = count - lacking.len();
    html! {
        ul.tags {
            @if line.has_files == Some(false) {
                li { span.tag.warn { "this " (place.role) ": files on the way" } }
            } @else {
                li { span.tag.good { "this " (place.role) } }
            }
            @if NAMED_MAX < count && 0 < whole {
                li { span.tag.good { (whole) " of " (count) " replicas" } }
            }
            @for arrival in named.iter().take(2 * NAMED_MAX) {
                @let (class, words) = arrival.words();
                li { span.tag.(class) { (arrival.name) ": " (words) } }
            }
            @if 2 * NAMED_MAX < named.len() {
                li { span.tag.warn { "and " (named.len() - 2 * NAMED_MAX) " more" } }
            }
        }
    }
}

fn pager(place: &Place, address: &[&str], shown: &ChangesPage<'_>) -> Markup {
    let to = |name: &str, serial: u64| place.link_with(address, &[(name, &serial.to_string())]);
    html! {
        @if shown.newer.is_some() || shown.older.is_some() {
            nav.pager #pages data-live aria-label="Pages" {
                @if let Some(newer) = shown.newer {
                    a.button href=(place.link(address)) { "Newest" }
                    a.button rel="prev" href=(to("since", newer)) { "Newer" }
                }
                @if let Some(older) = shown.older { a.button rel="next" href=(to("before", older)) { "Older" } }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn draw(lines: &[Line], index: Option<&str>) -> String {
        let page_of = ChangesPage {
            index,
            lines,
            newer: Some(9),
            older: Some(3),
            now: SystemTime::now(),
            live: Some(Live { mark: "9.1".into(), every: 20 }),
        };
        page(&Place { root: "/r".into(), role: "master", ..Place::default() }, &page_of)
    }

    #[test]
    fn what_users_wrote_is_escaped() {
        const EVIL: &str = "<script>alert(1)</script>";
        let line = Line {
            who: Some(EVIL.into()),
            indexes: vec![EVIL.into()],
            what: vec![EVIL.into()],
            arrivals: vec![Arrival { name: EVIL.into(), ..Arrival::default() }],
            ..Line::default()
        };
        let html = draw(&[line], Some(EVIL));
        assert!(!html.contains("<script>") && html.contains("&lt;script&gt;"));
    }

    #[test]
    fn pages_lead_to_those_before_and_after() {
        let html = draw(&[Line::default()], Some("ann/dev"));
        assert!(html.contains("href=\"/r/ann/dev/+changes?since=9\""));
        assert!(html.contains("href=\"/r/ann/dev/+changes?before=3\""));
        assert!(html.contains("data-live-mark=\"9.1\""));
    }

    #[test]
    fn of_many_replicas_those_that_lack_something_are_named() {
        let replica = |n: u32| Arrival {
            name: format!("node-{n}"),
            is_live: true,
            has: n != 3,
            files: Some(n != 3 && n != 5),
        };
        let line = |count| Line { arrivals: (1..=count).map(replica).collect(), ..Line::default() };
        let html = draw(&[line(9)], None);
        assert!(html.contains("7 of 9 replicas") && !html.contains("node-1"));
        assert!(html.contains("node-3: on the way") && html.contains("node-5: files on the way"));
        let html = draw(&[line(2)], None);
        assert!(html.contains("node-1: all of it") && !html.contains("of 2 replicas"));
    }
}

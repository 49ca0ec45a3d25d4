//! The page of how a node stands: what is wrong and what to do, where it is, its master and its replicas. And the badge.

use std::time::{Duration, SystemTime};

use maud::{Markup, PreEscaped, html};

use crate::replication::history::Point;
use crate::replication::lag::{Behind, Lag};
use crate::replication::verdict::{Finding, Health, Level, SILENT};

use super::assets::Asset;
use super::layout::{Crumb, Page, Place, draw};
use super::live::{self, Live};
use super::plot::plot;
use super::when;

/// So many replicas have a plot.
const PLOTS_MAX: usize = 12;

/// How a replica stands with its master.
#[derive(Clone, Debug)]
pub struct Up {
    /// The master's address.
    pub master: String,
    /// The state, in a word.
    pub state: &'static str,
    /// What went wrong last.
    pub trouble: Option<String>,
    /// The master's serial.
    pub serial: Option<i64>,
    /// How far this node is behind.
    pub lag: Lag,
    /// When the master answered last.
    pub answered: Option<SystemTime>,
    /// Whether this node brings files by itself.
    pub brings_files: bool,
    /// Files to be fetched.
    pub wanted: u64,
    /// Their bytes, and those of files that failed.
    pub bytes: u64,
    /// Files that failed.
    pub failed: u64,
    /// Files that nobody has at present.
    pub unavailable: u64,
    /// The replicas between.
    pub path: Vec<String>,
    /// How far it was behind.
    pub history: Vec<Option<Point>>,
}

/// A replica of this node.
#[derive(Clone, Debug)]
pub struct Down {
    /// What it is called.
    pub name: String,
    /// Its address, if it gives one.
    pub url: Option<String>,
    /// Its uuid.
    pub uuid: String,
    /// Where it asks from.
    pub ip: Option<String>,
    /// Its version, if it is a node of ours.
    pub version: Option<String>,
    /// Why it is refused.
    pub refusal: Option<&'static str>,
    /// How long it has had no request open; none while it has one.
    pub silent: Option<Duration>,
    /// Whether entries are on the way to it.
    pub is_streaming: bool,
    /// The last serial that it confirmed.
    pub serial: i64,
    /// How far it is behind.
    pub lag: Option<Lag>,
    /// When it asked last.
    pub asked: SystemTime,
    /// How far it was behind.
    pub history: Vec<Option<Point>>,
}

impl Down {
    /// How it is connected, in words, and how good that is.
    fn connection(&self) -> (&'static str, String) {
        match (self.refusal, self.silent) {
            (Some(why), _) => ("bad", format!("refused: {why}")),
            (None, Some(silent)) if SILENT <= silent => {
                ("bad", format!("away for {}", when::span(silent)))
            }
            (None, Some(_)) => ("warn", "between two requests".to_owned()),
            (None, None) if self.is_streaming => ("good", "takes entries".to_owned()),
            (None, None) => ("good", "waits for news".to_owned()),
        }
    }
}

/// A file that could not be brought.
#[derive(Clone, Debug)]
pub struct Failed {
    /// Its path.
    pub path: String,
    /// Why.
    pub reason: String,
}

/// What the page shows.
#[derive(Clone, Debug)]
pub struct StatusPage<'a> {
    /// What is wrong.
    pub health: &'a Health,
    /// This node's uuid.
    pub uuid: &'a str,
    /// Its address, if it was told.
    pub outside_url: Option<&'a str>,
    /// The epoch of the newest master that it knows.
    pub epoch: u64,
    /// The hash of all its history.
    pub chain: &'a str,
    /// When its serial moved last.
    pub committed: Option<SystemTime>,
    /// Whether it answers replicas.
    pub takes_replicas: bool,
    /// On a replica, how it stands with its master.
    pub up: Option<Up>,
    /// Its replicas.
    pub down: &'a [Down],
    /// How many more it has.
    pub more: usize,
    /// Files that failed and that the reader may know of.
    pub failed: &'a [Failed],
    /// How many files this master has lost.
    pub lost: u64,
    /// When the page is drawn.
    pub now: SystemTime,
    /// How it keeps up.
    pub live: Live,
}

fn class(level: Level) -> &'static str {
    match level {
        Level::Ok => "good",
        Level::Degraded => "warn",
        Level::Fatal => "bad",
    }
}

/// The page.
pub fn page(place: &Place, shown: &StatusPage<'_>) -> String {
    let verdict = shown.health.verdict();
    let main = html! {
        h1 { "Status" small { (place.role) " at serial " span #serial data-live { (place.serial) } } }
        (live::line(place, &shown.live))
        p.unseen #said role="status" data-live-say { (verdict.what) }
        (live::part("verdict", &verdict_of(shown.health)))
        @if let Some(up) = &shown.up {
            h2 { "Its master" }
            (live::part("master", &upwards(up, shown.now)))
            h3 { "Behind its master, in the last hour" }
            (live::part("plot", &plot("this replica", &up.history)))
        }
        @if !shown.failed.is_empty() { (live::part("failed", &failed(shown.failed))) }
        @if shown.takes_replicas || !shown.down.is_empty() {
            h2 { "Its replicas" }
            (live::part("replicas", &downwards(shown)))
        }
        h2 { "This node" }
        (live::part("node", &node(place, shown)))
        p {
            a href=(place.link_with(&["+status"], &[("format", "json")])) { "The same as JSON" }
            ", with more of it; for machines also "
            a href=(place.link(&["+metrics"])) { "metrics" } ", "
            a href=(place.link(&["+health", "ready"])) { "readiness" } " and the "
            a href=(place.link(&["+badge.svg"])) { "badge" } "."
        }
    };
    let crumb = Crumb { name: "Status".to_owned(), link: place.link(&["+status"]) };
    let page =
        Page { title: "Status", crumbs: vec![crumb], scripts: &[Asset::Live], ..Page::default() };
    draw(place, &page, &main)
}

fn verdict_of(health: &Health) -> Markup {
    let verdict = health.verdict();
    html! {
        (finding(&verdict))
        @if !health.others().is_empty() {
            ul.findings { @for other in health.others() { li { (finding(other)) } } }
        }
    }
}

fn finding(finding: &Finding) -> Markup {
    html! {
        div.note.(class(finding.level)) {
            p {
                span.tag.(class(finding.level)) { (finding.level.as_str()) } " "
                strong { (finding.what) }
            }
            @if !finding.advice.is_empty() { p { (finding.advice) } }
        }
    }
}

/// How far something is behind, in words.
fn behind(behind: &Behind) -> Markup {
    let span = |seconds: f64| when::span(Duration::from_secs_f64(seconds.clamp(0.0, 1e9)));
    html! {
        @match (behind.serials, behind.seconds) {
            (Some(0), _) => "nothing",
            (Some(serials), Some(seconds)) => { (serials) " serials, " (span(seconds)) },
            (Some(serials), None) => { (serials) " serials" },
            (None, Some(seconds)) => { "not known; in step " (span(seconds)) " ago" },
            (None, None) => span.quiet { "not known" },
        }
    }
}

fn upwards(up: &Up, now: SystemTime) -> Markup {
    let state = match up.state {
        "following" | "catching-up" => "good",
        "starting" | "waiting-for-key" => "warn",
        _ => "bad",
    };
    html! {
        dl.facts {
            dt { "Master" } dd { (up.master) }
            @if !up.path.is_empty() { dt { "By way of" } dd { (up.path.join(", ")) } }
            dt { "Connection" }
            dd { span.tag.(state) { (up.state) } @if let Some(trouble) = &up.trouble { " " (trouble) } }
            dt { "Last contact" }
            dd { @match up.answered { Some(at) => (when::moment(now, at)), None => span.quiet { "none since the start" } } }
            dt { "Its serial" }
            dd { @match up.serial { Some(serial) => (serial), None => span.quiet { "not known" } } }
            dt { "The log lacks" } dd { (behind(&up.lag.metadata)) }
            dt { "The files lack" }
            dd {
                @if up.brings_files { (behind(&up.lag.files)) } @else { span.quiet { "brought when a client asks for them" } }
            }
            dt { "Files to come" }
            dd {
                (up.wanted)
                @if 0 < up.failed { ", and " (up.failed) " that failed" }
                @if 0 < up.bytes { " (" (size(up.bytes)) ")" }
                @if 0 < up.unavailable { "; " (up.unavailable) " that nobody has at present" }
            }
        }
    }
}

fn size(bytes: u64) -> String {
    let mut number = bytes as f64;
    for unit in ["bytes", "kB", "MB", "GB"] {
        if number < 1000.0 {
            return if unit == "bytes" {
                format!("{bytes} bytes")
            } else {
                format!("{number:.1} {unit}")
            };
        }
        number /= 1000.0;
    }
    format!("{number:.1} TB")
}

fn failed(all: &[Failed]) -> Markup {
    html! {
        h2 { "Files that could not be brought" }
        table.stack {
            thead { tr { th scope="col" { "File" } th scope="col" { "Why" } } }
            tbody { @for one in all { tr { th scope="row" { (one.path) } td { (one.reason) } } } }
        }
    }
}

fn downwards(shown: &StatusPage<'_>) -> Markup {
    html! {
        @if shown.down.is_empty() {
            p.quiet { "None has asked since this node was started." }
        } @else {
            table.stack {
                thead {
                    tr {
                        th scope="col" { "Replica" } th scope="col" { "Connection" } th scope="col" { "Serial" }
                        th scope="col" { "The log lacks" } th scope="col" { "The files lack" } th scope="col" { "Last contact" }
                    }
                }
                tbody { @for down in shown.down { (row(down, shown.now)) } }
            }
            @if 0 < shown.more { p.quiet { "and " (shown.more) " more" } }
            h3 { "Behind this node, in the last hour" }
            ul.cards.plots {
                @for down in shown.down.iter().take(PLOTS_MAX) {
                    li.card { h4 { (down.name) } (plot(&down.name, &down.history)) }
                }
            }
        }
    }
}

fn row(down: &Down, now: SystemTime) -> Markup {
    let (class, words) = down.connection();
    let web =
        down.url.as_deref().filter(|url| url.starts_with("http://") || url.starts_with("https://"));
    html! {
        tr {
            th scope="row" {
                @match web {
                    Some(url) => a href={ (url.trim_end_matches('/')) "/+status" } rel="noreferrer" { (down.name) },
                    None => (down.name),
                }
                br;
                span.quiet.stamp {
                    @match &down.version { Some(version) => { "twinpi " (version) }, None => "devpi-server" }
                    @if let Some(ip) = &down.ip { " from " (ip) }
                }
            }
            td { span.tag.(class) { (words) } }
            td { span.alone { "Serial " } (down.serial) }
            td { span.alone { "The log lacks " } @match &down.lag { Some(lag) => (behind(&lag.metadata)), None => span.quiet { "not known" } } }
            td {
                span.alone { "The files lack " }
                @match &down.lag {
                    Some(lag) => {
                        (behind(&lag.files))
                        @if let Some(missing) = lag.missing.filter(|missing| 0 < *missing) { " (" (missing) " to come)" }
                    },
                    None => span.quiet { "not known" },
                }
            }
            td { span.alone { "Last contact " } (when::moment(now, down.asked)) }
        }
    }
}

fn node(place: &Place, shown: &StatusPage<'_>) -> Markup {
    html! {
        dl.facts {
            dt { "Role" } dd { (place.role) }
            dt { "Version" } dd { "twinpi " (env!("CARGO_PKG_VERSION")) }
            dt { "Serial" }
            dd { (place.serial) @if let Some(at) = shown.committed { ", " (when::moment(shown.now, at)) } }
            dt { "Position" } dd { "epoch " (shown.epoch) ", " code { (shown.chain) } }
            @if let Some(url) = shown.outside_url { dt { "Address" } dd { (url) } }
            dt { "UUID" } dd { code { (shown.uuid) } }
            @if 0 < shown.lost { dt { "Lost files" } dd { (shown.lost) } }
        }
    }
}

/// The badge: what a node is and how it is, in a word each.
pub fn badge(role: &str, level: Level) -> String {
    let word = level.as_str();
    let ground = match level {
        Level::Ok => "#17683a",
        Level::Degraded => "#7a4a00",
        Level::Fatal => "#a11a2b",
    };
    let width = |text: &str| text.len() * 7 + 14;
    let (left, right) = (width(role), width(word));
    let whole = left + right;
    let text = |x: usize, text: &str| {
        let length = text.len() * 7;
        html! { text x=(x) y="14" textLength=(length) { (text) } }
    };
    let drawn = html! {
        svg xmlns="http://www.w3.org/2000/svg" width=(whole) height="20" role="img" aria-label={ (role) ": " (word) } {
            title { (role) ": " (word) }
            rect width=(whole) height="20" rx="4" fill="#3a4550" {}
            path fill=(ground) d=(format!("M{left} 0h{}a4 4 0 0 1 4 4v12a4 4 0 0 1-4 4H{left}z", right - 4)) {}
            g fill="#ffffff" font-family="Verdana,DejaVu Sans,sans-serif" font-size="11" {
                (text(7, role)) (text(left + 7, word))
            }
        }
    };
    let PreEscaped(drawn) = drawn;
    drawn
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::replication::link::State;
    use crate::replication::verdict::{Signs, Upwards, judge};

    const EVIL: &str = "<script>alert(1)</script>";

    fn lag() -> Lag {
        let metadata = Behind { serials: Some(2), seconds: Some(3.0) };
        Lag { metadata, files: metadata, missing: Some(4) }
    }

    fn shown(health: &Health, down: &[Down], failed: &[Failed]) -> String {
        let page_of = StatusPage {
            health,
            uuid: "u",
            outside_url: None,
            epoch: 1,
            chain: "abc",
            committed: None,
            takes_replicas: true,
            up: None,
            down,
            more: 0,
            failed,
            lost: 0,
            now: SystemTime::UNIX_EPOCH + Duration::from_secs(100),
            live: Live { mark: "1.0".into(), every: 3 },
        };
        page(&Place { root: "/r".into(), role: "master", ..Place::default() }, &page_of)
    }

    fn evil() -> Down {
        Down {
            name: EVIL.into(),
            url: Some(format!("javascript:{EVIL}")),
            uuid: EVIL.into(),
            ip: Some(EVIL.into()),
            version: Some(EVIL.into()),
            refusal: None,
            silent: None,
            is_streaming: false,
            serial: 7,
            lag: Some(lag()),
            asked: SystemTime::UNIX_EPOCH,
            history: vec![Some(lag().into())],
        }
    }

    #[test]
    fn what_others_say_is_escaped_and_leads_nowhere_but_to_the_web() {
        let up = Upwards {
            master: EVIL.into(),
            state: State::Refused,
            trouble: Some(EVIL.into()),
            silent: None,
            is_empty: false,
            is_stale: false,
            lag: lag(),
            failed: 0,
            unavailable: 0,
        };
        let health = judge(&Signs { upwards: Some(up), ..Signs::default() });
        let failed = [Failed { path: EVIL.into(), reason: EVIL.into() }];
        let html = shown(&health, &[evil()], &failed);
        assert!(!html.contains("<script>") && html.contains("&lt;script&gt;"));
        assert!(!html.contains("javascript:"));
        assert!(html.contains("2 serials, 3.0 s") && html.contains("(4 to come)"));
    }

    #[test]
    fn connections_are_told_with_their_reason() {
        let of = |change: &dyn Fn(&mut Down)| {
            let mut down = evil();
            change(&mut down);
            down.connection().1
        };
        assert_eq!(of(&|_| ()), "waits for news");
        assert_eq!(of(&|down| down.is_streaming = true), "takes entries");
        assert_eq!(of(&|down| down.silent = Some(Duration::from_secs(2))), "between two requests");
        assert_eq!(of(&|down| down.silent = Some(Duration::from_secs(99))), "away for 1 min");
        assert_eq!(of(&|down| down.refusal = Some("forked")), "refused: forked");
    }

    #[test]
    fn the_badge_says_what_it_is_and_nothing_else() {
        for level in [Level::Ok, Level::Degraded, Level::Fatal] {
            let drawn = badge("replica", level);
            assert!(drawn.contains(&format!("<title>replica: {}</title>", level.as_str())));
            assert!(drawn.starts_with("<svg xmlns=") && drawn.len() < 1000, "{}", drawn.len());
        }
    }
}

//! How far behind a node was in the last hour, as a small picture: SVG within the page, with its scale beside it in
//! text that does not shrink with the picture.

use std::fmt::Write as _;
use std::time::Duration;

use maud::{Markup, html};

use crate::replication::history::{POINTS, Point};

use super::when;

/// The height of the picture, in its own units; its width is one unit for each point.
const HEIGHT: f64 = 100.0;
/// Room above the highest line, so that it is not cut.
const HEAD: f64 = 4.0;
/// Ends of the scale that people read easily, in seconds.
const ENDS: [f64; 14] = [
    1.0,
    2.0,
    5.0,
    10.0,
    30.0,
    60.0,
    300.0,
    600.0,
    1800.0,
    3600.0,
    21_600.0,
    86_400.0,
    604_800.0,
    31_536_000.0,
];

/// The picture; a sentence where there is nothing to show yet.
pub fn plot(name: &str, points: &[Option<Point>]) -> Markup {
    let log: Vec<_> = points.iter().map(|point| point.and_then(|p| p.metadata.seconds)).collect();
    let files: Vec<_> = points.iter().map(|point| point.and_then(|p| p.files.seconds)).collect();
    let has_files = files.iter().any(Option::is_some);
    if !has_files && log.iter().all(Option::is_none) {
        return html! { p.quiet { "Nothing to plot yet: how far " (name) " is behind was not known in the last hour." } };
    }
    let end = end_of(log.iter().chain(&files).flatten().copied());
    let top = when::span(Duration::from_secs_f64(end)).replace(".0", "");
    let mut words = format!("How far {name} was behind in the last hour. Log: {}.", told(&log));
    if has_files {
        let _ = write!(words, " Files: {}.", told(&files)); // a String takes all
    }
    html! {
        figure.plot {
            div.scale aria-hidden="true" { span { (top) } span { "0" } }
            svg viewBox=(format!("0 0 {POINTS} {HEIGHT}")) preserveAspectRatio="none" role="img" aria-label=(words) {
                path.grid d=(format!("M0 {}H{POINTS}M0 {}H{POINTS}M0 {}H{POINTS}", HEAD, middle(), HEIGHT - 1.0)) {}
                @for (start, count) in gaps(&log) {
                    rect.gap x=(start) y="0" width=(count) height=(HEIGHT) {}
                }
                @if has_files { path.files d=(line(&files, end)) {} }
                path.log d=(line(&log, end)) {}
            }
            div.span aria-hidden="true" { span { "an hour ago" } span { "now" } }
            figcaption {
                span.key.log { "log " (now(&log)) }
                @if has_files { " " span.key.files { "files " (now(&files)) } }
                @if gaps(&log).next().is_some() { " " span.key.gap { "not known" } }
            }
        }
    }
}

fn middle() -> f64 {
    (HEAD + HEIGHT - 1.0) / 2.0
}

/// Where the scale ends.
fn end_of(seconds: impl Iterator<Item = f64>) -> f64 {
    let highest = seconds.fold(0.0, f64::max);
    ENDS.into_iter().find(|end| highest <= *end).unwrap_or(highest)
}

/// Where a point stands from the left, if the last one is now.
fn left(at: usize, count: usize) -> usize {
    POINTS.saturating_sub(count) + at
}

/// The line through what is known; it breaks where nothing is.
fn line(seconds: &[Option<f64>], end: f64) -> String {
    let (mut path, mut is_open) = (String::new(), false);
    for (at, value) in seconds.iter().enumerate() {
        let Some(value) = value else {
            is_open = false;
            continue;
        };
        let x = left(at, seconds.len());
        let y = HEIGHT - 1.0 - (value / end).clamp(0.0, 1.0) * (HEIGHT - 1.0 - HEAD);
        let pen = if is_open { 'L' } else { 'M' };
        let _ = write!(path, "{pen}{x} {y:.1}h1"); // a String takes all
        is_open = true;
    }
    path
}

/// Stretches of which nothing is known: where each begins and how long it is.
fn gaps(seconds: &[Option<f64>]) -> impl Iterator<Item = (usize, usize)> {
    let count = seconds.len();
    let mut at = 0;
    let mut found = Vec::new();
    for run in seconds.chunk_by(|one, next| one.is_some() == next.is_some()) {
        if run.first().is_some_and(Option::is_none) {
            found.push((left(at, count), run.len()));
        }
        at += run.len();
    }
    found.into_iter()
}

fn span_of(seconds: f64) -> String {
    when::span(Duration::from_secs_f64(seconds.clamp(0.0, 1e9)))
}

fn now(seconds: &[Option<f64>]) -> String {
    seconds.last().copied().flatten().map_or("not known".to_owned(), span_of)
}

fn told(seconds: &[Option<f64>]) -> String {
    let most = seconds
        .iter()
        .flatten()
        .copied()
        .fold(None, |most: Option<f64>, one| Some(most.map_or(one, |most| most.max(one))));
    match most {
        None => "not known".to_owned(),
        Some(most) => format!("at most {}, now {}", span_of(most), now(seconds)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::replication::lag::Behind;

    fn point(seconds: f64) -> Option<Point> {
        let metadata = Behind { serials: Some(1), seconds: Some(seconds) };
        Some(Point { metadata, files: Behind::default() })
    }

    #[test]
    fn a_line_breaks_where_nothing_is_known() {
        let seconds = [Some(0.0), Some(5.0), None, Some(10.0)];
        assert_eq!(line(&seconds, 10.0), "M356 99.0h1L357 51.5h1M359 4.0h1");
        assert_eq!(gaps(&seconds).collect::<Vec<_>>(), [(358, 1)]);
        assert_eq!(line(&[], 1.0), "");
    }

    #[test]
    fn it_says_in_words_what_it_shows() {
        let drawn = plot("berlin", &[point(0.0), point(42.0), None, point(3.0)]).into_string();
        assert!(drawn.contains("Log: at most 42 s, now 3.0 s."), "{drawn}");
        assert!(drawn.contains("<span>1 min</span>") && !drawn.contains("Files:"));
        assert!(drawn.contains("not known") && !drawn.contains("style="));
        for empty in [vec![], vec![None, None]] {
            assert!(plot("berlin", &empty).into_string().contains("Nothing to plot yet"));
        }
    }

    #[test]
    fn scales_end_where_people_expect_it() {
        for (highest, end) in [(0.0, 1.0), (1.5, 2.0), (31.0, 60.0), (4e7, 4e7)] {
            assert!((end_of([0.0, highest].into_iter()) - end).abs() < 1e-6);
        }
    }
}

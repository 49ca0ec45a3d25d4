//! How far behind nodes were over the last hour, for plots. In memory only and of fixed size; what was not known is a
//! gap.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use super::lag::{Behind, Lag};

/// The time between two points.
pub const STEP: Duration = Duration::from_secs(10);
/// How many points a series has at most: those of an hour.
pub const POINTS: usize = 360;
/// How many series there are at most; a node that comes when there are so many is not plotted.
pub const SERIES_MAX: usize = 33;

/// How far behind a node was at one moment.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Point {
    /// Its log.
    pub metadata: Behind,
    /// Its files.
    pub files: Behind,
}

impl From<Lag> for Point {
    fn from(lag: Lag) -> Self {
        Self { metadata: lag.metadata, files: lag.files }
    }
}

/// The points of some nodes, by name.
#[derive(Clone, Debug, Default)]
pub struct History {
    /// Each ends at the last sample; one that is shorter than others began later.
    series: BTreeMap<String, VecDeque<Option<Point>>>,
    /// Which step the last sample was of.
    last: Option<u64>,
}

impl History {
    /// Notes where nodes stand. `step` counts spans of `STEP` from any beginning: steps that were left out become gaps.
    pub fn sample(&mut self, step: u64, now: Vec<(String, Option<Point>)>) {
        let missed = self.last.map_or(0, |last| step.saturating_sub(last.saturating_add(1)));
        let missed = usize::try_from(missed).unwrap_or(POINTS).min(POINTS);
        self.last = Some(step);
        let mut now: BTreeMap<_, _> = now.into_iter().collect();
        for (name, points) in &mut self.series {
            points.extend(std::iter::repeat_n(None, missed));
            points.push_back(now.remove(name).flatten());
            let surplus = points.len().saturating_sub(POINTS);
            points.drain(..surplus);
        }
        self.series.retain(|_, points| points.iter().any(Option::is_some));
        for (name, point) in now {
            if self.series.len() < SERIES_MAX && point.is_some() {
                self.series.insert(name, VecDeque::from([point]));
            }
        }
    }

    /// The points of a node, the last one now; empty if none are known.
    pub fn of(&self, name: &str) -> Vec<Option<Point>> {
        self.series.get(name).map_or_else(Vec::new, |points| points.iter().copied().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn point(serials: u64) -> Option<Point> {
        let behind = Behind { serials: Some(serials), seconds: Some(serials as f64) };
        Some(Point { metadata: behind, files: behind })
    }

    fn at(points: &[(&str, u64)]) -> Vec<(String, Option<Point>)> {
        points.iter().map(|(name, serials)| ((*name).to_owned(), point(*serials))).collect()
    }

    fn serials(history: &History, name: &str) -> Vec<Option<u64>> {
        let serials = |point: Point| point.metadata.serials.expect("known");
        history.of(name).into_iter().map(|point| point.map(serials)).collect()
    }

    #[test]
    fn what_was_not_known_stays_a_gap() {
        let mut history = History::default();
        history.sample(7, at(&[("a", 1)]));
        history.sample(8, at(&[("a", 2), ("b", 9)]));
        history.sample(9, at(&[("b", 8)]));
        history.sample(12, at(&[("a", 5)]));
        assert_eq!(serials(&history, "a"), [Some(1), Some(2), None, None, None, Some(5)]);
        assert_eq!(serials(&history, "b"), [Some(9), Some(8), None, None, None]);
        assert_eq!(serials(&history, "c"), []);
    }

    #[test]
    fn it_keeps_an_hour_and_forgets_those_that_are_gone() {
        let mut history = History::default();
        history.sample(0, at(&[("gone", 1)]));
        for step in 1..=POINTS as u64 {
            history.sample(step, at(&[("a", step)]));
        }
        assert_eq!(serials(&history, "gone"), []);
        let kept = serials(&history, "a");
        assert_eq!((kept.len(), kept[0], kept[POINTS - 1]), (POINTS, Some(1), Some(POINTS as u64)));
        history.sample(u64::MAX, at(&[("b", 1)]));
        assert_eq!(serials(&history, "a"), []);
        history.sample(3, at(&[("b", 2)]));
        assert_eq!(serials(&history, "b"), [Some(1), Some(2)]);
    }

    #[test]
    fn it_is_bounded_in_nodes() {
        let names: Vec<String> = (0..2 * SERIES_MAX).map(|n| format!("{n:03}")).collect();
        let mut history = History::default();
        history.sample(0, names.iter().map(|name| (name.clone(), point(1))).collect());
        history.sample(1, vec![("unknown".into(), None)]);
        assert_eq!(history.series.len(), SERIES_MAX);
    }
}

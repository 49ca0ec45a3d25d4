//! Two replicas with one uuid, as a folder that was copied makes them: told apart by a name that each start of a
//! replica has for itself. A restart changes that name for good; two nodes take turns.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::serial::Serial;

/// So often an earlier name must come back.
const TURNS: u32 = 2;
/// What was two is one again after so long without a turn; polls are parked for half of it.
const MEMORY: Duration = Duration::from_secs(60);
/// A longer name is not one of ours.
const NAME_BYTES_MAX: usize = 64;

/// A name for this start of this node.
pub fn name() -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_nanos());
    format!("{:x}-{now:x}", std::process::id())
}

/// The two starts of one uuid that were heard of last.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Starts {
    last: Option<Start>,
    before: Option<Start>,
    turns: u32,
    turned_at: Option<SystemTime>,
}

#[derive(Clone, Debug, PartialEq)]
struct Start {
    name: String,
    held: Option<Serial>,
}

impl Starts {
    /// Notes who asks and what it has. Gives whether it is news that there are two.
    pub fn meet(&mut self, name: Option<&str>, held: Option<Serial>, now: SystemTime) -> bool {
        let Some(name) = name.filter(|name| name.len() <= NAME_BYTES_MAX) else { return false };
        let start = Start { name: name.to_owned(), held };
        if self.last.as_ref().is_none_or(|last| last.name == name) {
            self.last = Some(start);
            return false;
        }
        let were_two = self.are_two(now);
        let is_back = self.before.as_ref().is_some_and(|before| before.name == name);
        self.turns = if is_back { self.turns.saturating_add(1) } else { 0 };
        self.turned_at = Some(now);
        self.before = self.last.replace(start);
        !were_two && self.are_two(now)
    }

    /// Whether two nodes ask under one uuid.
    pub fn are_two(&self, now: SystemTime) -> bool {
        let is_recent = |at: SystemTime| now.duration_since(at).unwrap_or_default() < MEMORY;
        TURNS <= self.turns && self.turned_at.is_some_and(is_recent)
    }

    /// What all nodes of this uuid have, where the one that asks has `held`.
    pub fn all_have(&self, held: Option<Serial>, now: SystemTime) -> Option<Serial> {
        match &self.before {
            Some(before) if self.are_two(now) => before.held.min(held),
            _ => held,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_take_turns_and_a_restart_does_not() {
        let (mut starts, now) = (Starts::default(), SystemTime::now());
        let (four, nine) = (Serial::new(4), Serial::new(9));
        for name in ["a", "a", "b", "b", "c", "d"] {
            assert!(!starts.meet(Some(name), four, now) && !starts.are_two(now), "{name}");
        }
        // A request of the one before that was on its way.
        assert!(!starts.meet(Some("c"), four, now));
        assert!(!starts.meet(None, None, now), "a devpi-server has no such name");
        assert!(starts.meet(Some("d"), nine, now), "the second time it is told");
        assert!(!starts.meet(Some("c"), four, now) && starts.are_two(now), "once");
        assert_eq!((starts.all_have(four, now), starts.all_have(nine, now)), (four, nine));
        starts.meet(Some("d"), nine, now);
        assert_eq!(starts.all_have(nine, now), four);
        let later = now + MEMORY;
        assert!(!starts.are_two(later));
        assert_eq!(starts.all_have(nine, later), nine);
    }
}

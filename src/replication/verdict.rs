//! Whether all is well with a node, as one sentence and what to do. Pure: the badge, the pages and the routes for
//! machines say the same, and a table of cases tests it.

use std::time::Duration;

use super::lag::{Behind, Lag};
use super::link::State;

/// A log that is so far behind is worth a look, and after the second span an alarm.
const LOG_LATE: (Duration, Duration) = (Duration::from_secs(60), Duration::from_secs(30 * 60));
/// The same for files.
const FILES_LATE: (Duration, Duration) =
    (Duration::from_secs(5 * 60), Duration::from_secs(60 * 60));
/// A master that was not reached for so long is an alarm.
const AWAY: Duration = Duration::from_secs(30 * 60);
/// A replica that follows always has a request open; one that has none for so long is away.
pub const SILENT: Duration = Duration::from_secs(15);

/// How bad it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Nothing is wrong.
    #[default]
    Ok,
    /// It works, and somebody should have a look.
    Degraded,
    /// It does not get better by itself.
    Fatal,
}

impl Level {
    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Degraded => "degraded",
            Self::Fatal => "fatal",
        }
    }
}

/// One thing that is wrong, or that nothing is.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Finding {
    /// How bad it is.
    pub level: Level,
    /// What it is, in one sentence.
    pub what: String,
    /// What to do; empty where there is nothing to do.
    pub advice: String,
}

/// All that is wrong with a node, the worst first; at least one entry.
#[derive(Clone, Debug, PartialEq)]
pub struct Health(Vec<Finding>);

impl Health {
    /// The worst.
    pub fn verdict(&self) -> Finding {
        self.0.first().cloned().unwrap_or_default()
    }
    /// The others.
    pub fn others(&self) -> &[Finding] {
        self.0.get(1..).unwrap_or_default()
    }
    /// How bad the worst is.
    pub fn level(&self) -> Level {
        self.0.first().map_or(Level::Ok, |finding| finding.level)
    }
}

/// How a replica stands with its master, as it sees it itself.
#[derive(Clone, Debug)]
pub struct Upwards {
    /// The master's address.
    pub master: String,
    /// The state.
    pub state: State,
    /// What went wrong last.
    pub trouble: Option<String>,
    /// How long ago the master answered last; none if it never did.
    pub silent: Option<Duration>,
    /// Whether anything came from it yet.
    pub is_empty: bool,
    /// Whether what is followed is a replica that is not current itself.
    pub is_stale: bool,
    /// How far this node is behind.
    pub lag: Lag,
    /// Files that failed.
    pub failed: u64,
    /// Files that nobody has at present.
    pub unavailable: u64,
}

/// How a replica stands, as its master sees it.
#[derive(Clone, Debug)]
pub struct Downwards {
    /// What it is called.
    pub name: String,
    /// Why it is refused, if it is.
    pub refusal: Option<&'static str>,
    /// Whether two nodes take turns under its uuid.
    pub are_two: bool,
    /// How long no request of it was open; none while one is.
    pub silent: Option<Duration>,
    /// How far it is behind, as far as that is known.
    pub lag: Option<Lag>,
}

/// What a verdict is made from.
#[derive(Clone, Debug, Default)]
pub struct Signs {
    /// On a replica, how it stands with its master.
    pub upwards: Option<Upwards>,
    /// The replicas of this node.
    pub downwards: Vec<Downwards>,
    /// The epoch of the newer master that this node met and must not write beside.
    pub fence: Option<u64>,
    /// Files whose bytes this master has lost.
    pub lost: u64,
}

/// Judges a node.
pub fn judge(signs: &Signs) -> Health {
    let mut all = Vec::new();
    if let Some(epoch) = signs.fence {
        all.push(fatal(
            format!(
                "A newer master, of epoch {epoch}, has taken over: this node takes no changes."
            ),
            "Send clients to the newer master, and have this node follow it: twinpi demote.",
        ));
    }
    if 0 < signs.lost {
        all.push(degraded(
            format!("This node has lost the bytes of {}.", files(signs.lost)),
            "Replicas that have them bring them back by themselves; else restore them from a backup, or upload them again.",
        ));
    }
    if let Some(upwards) = &signs.upwards {
        all.extend(of_state(upwards));
        all.extend(of_lag(upwards));
    }
    all.extend(signs.downwards.iter().filter_map(of_replica));
    if all.is_empty() {
        all.push(well(signs));
    }
    all.sort_by_key(|finding| std::cmp::Reverse(finding.level));
    Health(all)
}

fn well(signs: &Signs) -> Finding {
    let count = signs.downwards.len();
    let what = match (&signs.upwards, count) {
        (Some(up), _) if up.state == State::CatchingUp => "This replica takes over what is new.",
        (Some(_), _) => "This replica has all that its master has.",
        (None, 0) => "This master is well. No replica follows it.",
        (None, 1) => "This master is well, and so is the replica that follows it.",
        (None, _) => "This master is well, and so are all replicas that follow it.",
    };
    Finding { level: Level::Ok, what: what.to_owned(), advice: String::new() }
}

/// What a replica's state says by itself.
fn of_state(up: &Upwards) -> Option<Finding> {
    let reason = || up.trouble.as_ref().map_or(String::new(), |trouble| format!(": {trouble}"));
    let sentence = |what: &str| closed(format!("{what}{}", reason()));
    let rejoin = "Decide which history stays. To follow the master, run twinpi follow: what only this node has is put aside.";
    let finding = match up.state {
        State::Starting if up.is_empty => {
            degraded("Nothing is known of the master yet.".into(), "Wait some seconds.")
        }
        State::Starting | State::CatchingUp | State::Following if up.is_stale => degraded(
            "This replica follows another one that is behind its own master.".into(),
            "Look at the status of the node that it follows.",
        ),
        State::Starting | State::CatchingUp | State::Following => return None,
        State::WaitingForKey => degraded(
            "The key for the tokens of the master, a devpi-server, is being derived.".into(),
            "Wait some seconds.",
        ),
        State::Unreachable => {
            let what = match up.silent {
                Some(silent) => format!("The master has not answered for {}", span(silent)),
                None => "The master has not answered since this node was started".to_owned(),
            };
            let is_long = up.silent.is_some_and(|silent| AWAY <= silent);
            let level = if is_long { Level::Fatal } else { Level::Degraded };
            let advice = "Packages are served from here; changes have to wait. Look whether the master runs and is \
                          reached from here. If it is gone for good, promote a replica: twinpi promote --plan.";
            Finding { level, what: sentence(&what), advice: advice.to_owned() }
        }
        State::Refused => fatal(
            sentence("The master refuses this replica"),
            "Compare the secret files of both, and the role of the other node; look for a proxy in between.",
        ),
        State::Failing => fatal(
            sentence("What the master sends cannot be applied here"),
            "Look whether the disk is full or damaged: twinpi verify. Else report it.",
        ),
        State::Ahead => {
            fatal(sentence("This replica has changes that its master has lost"), rejoin)
        }
        State::Forked => {
            fatal(sentence("This replica and its master went on in different ways"), rejoin)
        }
        State::Gone => fatal(
            sentence("The master no longer has the changes that are due here"),
            "Make a new copy of the master.",
        ),
        State::Outdated => fatal(
            sentence("This replica follows a master that was replaced"),
            "Give it the address of the newer one: twinpi follow.",
        ),
        State::Foreign => fatal(
            sentence("Another server answers in place of the master"),
            "Give the address of the right one; if the master was replaced on purpose, make a new copy.",
        ),
    };
    Some(finding)
}

/// What a replica lacks, while it follows.
fn of_lag(up: &Upwards) -> Vec<Finding> {
    let mut all = Vec::new();
    if matches!(up.state, State::Starting | State::CatchingUp | State::Following) {
        all.extend(late(&up.lag.metadata, LOG_LATE).map(|(level, long)| Finding {
            level,
            what: format!("This replica is {long} behind its master{}.", serials(&up.lag.metadata)),
            advice: "It catches up by itself; if it comes no nearer, look at its log and its line to the master.".into(),
        }));
        let missing = up.lag.missing.unwrap_or(0);
        let is_late = late(&up.lag.files, FILES_LATE).filter(|_| 0 < missing);
        all.extend(is_late.map(|(level, long)| Finding {
            level,
            what: format!("The files of this replica are {long} behind: {} to come.", files(missing)),
            advice: "Clients get such files through this node from the master. Look at the line to the master and at the disk.".into(),
        }));
    }
    if 0 < up.failed {
        all.push(degraded(
            format!("{} could not be brought from the master.", files(up.failed)),
            "They are tried again by themselves; the reasons are below.",
        ));
    }
    if 0 < up.unavailable {
        all.push(degraded(
            format!("{} of mirrors cannot be had from anybody at present.", files(up.unavailable)),
            "They come once the master or the upstream has them again.",
        ));
    }
    all
}

/// What a master sees of one of its replicas.
fn of_replica(replica: &Downwards) -> Option<Finding> {
    let name = &replica.name;
    if let Some(why) = replica.refusal {
        let what = match why {
            "ahead" => {
                format!("Replica {name} has changes that this node has not: it is sent nothing.")
            }
            "forked" => format!("Replica {name} went on in a way of its own: it is sent nothing."),
            "gone" => format!("Replica {name} needs changes that are no longer kept here."),
            _ => format!("Replica {name} is refused ({why})."),
        };
        let advice = match why {
            "gone" => "Make a new copy for it.",
            _ => "Decide which history stays; the status of the replica says more.",
        };
        return Some(degraded(what, advice));
    }
    if replica.are_two {
        return Some(degraded(
            format!("Two nodes take turns as replica {name}: one is a copy of the other."),
            "Make one of them anew with twinpi init, so that it has a name of its own.",
        ));
    }
    if let Some(silent) = replica.silent.filter(|silent| SILENT <= *silent) {
        return Some(degraded(
            format!("Replica {name} has asked for nothing for {}.", span(silent)),
            "Look whether it runs and reaches this node; its own status says why it does not. One that is gone for good is \
             forgotten when this node is started again.",
        ));
    }
    let lag = replica.lag?;
    let (level, long) = late(&lag.metadata, LOG_LATE)?;
    Some(Finding {
        // The master itself is well.
        level: level.min(Level::Degraded),
        what: format!("Replica {name} is {long} behind{}.", serials(&lag.metadata)),
        advice: "It catches up by itself; if it comes no nearer, look at its log.".into(),
    })
}

/// How bad it is to be so far behind, and how far that is in words.
fn late(behind: &Behind, limits: (Duration, Duration)) -> Option<(Level, String)> {
    let seconds = behind.seconds.filter(|seconds| seconds.is_finite() && 0.0 < *seconds)?;
    let long = Duration::from_secs_f64(seconds.min(1e9));
    let level = match long {
        long if limits.1 <= long => Level::Fatal,
        long if limits.0 <= long => Level::Degraded,
        _ => return None,
    };
    Some((level, span(long)))
}

fn serials(behind: &Behind) -> String {
    behind.serials.map_or(String::new(), |serials| format!(", {serials} serials"))
}

fn files(count: u64) -> String {
    if count == 1 { "1 file".to_owned() } else { format!("{count} files") }
}

fn span(span: Duration) -> String {
    match span.as_secs() {
        seconds @ 0..120 => format!("{seconds} s"),
        seconds @ 120..7200 => format!("{} min", seconds / 60),
        seconds @ 7200..172_800 => format!("{} h", seconds / 3600),
        seconds => format!("{} days", seconds / 86_400),
    }
}

/// A sentence with a full stop at its end.
fn closed(mut text: String) -> String {
    if !text.ends_with('.') {
        text.push('.');
    }
    text
}

fn degraded(what: String, advice: &str) -> Finding {
    Finding { level: Level::Degraded, what, advice: advice.to_owned() }
}

fn fatal(what: String, advice: &str) -> Finding {
    Finding { level: Level::Fatal, what, advice: advice.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn behind(seconds: f64) -> Behind {
        Behind { serials: Some(3), seconds: Some(seconds) }
    }

    fn lag(log: f64, of_files: f64, missing: u64) -> Lag {
        Lag { metadata: behind(log), files: behind(of_files), missing: Some(missing) }
    }

    fn up(state: State, change: impl FnOnce(&mut Upwards)) -> Signs {
        let mut up = Upwards {
            master: "http://m".into(),
            state,
            trouble: None,
            silent: Some(Duration::ZERO),
            is_empty: false,
            is_stale: false,
            lag: lag(0.0, 0.0, 0),
            failed: 0,
            unavailable: 0,
        };
        change(&mut up);
        Signs { upwards: Some(up), ..Signs::default() }
    }

    fn down(change: impl FnOnce(&mut Downwards)) -> Signs {
        let lag = Some(lag(0.0, 0.0, 0));
        let mut down =
            Downwards { name: "berlin".into(), refusal: None, are_two: false, silent: None, lag };
        change(&mut down);
        Signs { downwards: vec![down], ..Signs::default() }
    }

    fn told(signs: &Signs) -> (Level, String) {
        let verdict = judge(signs).verdict();
        assert_eq!(verdict.advice.is_empty(), verdict.level == Level::Ok, "{}", verdict.what);
        assert!(verdict.what.ends_with('.') && !verdict.what.ends_with(".."), "{}", verdict.what);
        (verdict.level, verdict.what)
    }

    #[test]
    fn replicas_are_judged_by_how_they_stand_with_their_master() {
        use Level::{Degraded, Fatal, Ok};
        let silent =
            |seconds| move |up: &mut Upwards| up.silent = Some(Duration::from_secs(seconds));
        let late =
            |log, of_files, missing| move |up: &mut Upwards| up.lag = lag(log, of_files, missing);
        for (signs, level, words) in [
            (up(State::Following, |_| ()), Ok, "has all"),
            (up(State::CatchingUp, late(59.0, 0.0, 0)), Ok, "takes over"),
            (
                up(State::CatchingUp, late(61.0, 0.0, 0)),
                Degraded,
                "61 s behind its master, 3 serials",
            ),
            (up(State::CatchingUp, late(1801.0, 0.0, 0)), Fatal, "30 min behind"),
            (up(State::Following, late(0.0, 299.0, 5)), Ok, "has all"),
            (up(State::Following, late(0.0, 301.0, 5)), Degraded, "5 files to come"),
            (up(State::Following, late(0.0, 301.0, 0)), Ok, "has all"),
            (up(State::Following, late(0.0, 3601.0, 1)), Fatal, "1 file to come"),
            (up(State::Starting, |up| up.is_empty = true), Degraded, "Nothing is known"),
            (up(State::Starting, |_| ()), Ok, "has all"),
            (up(State::Following, |up| up.is_stale = true), Degraded, "behind its own master"),
            (up(State::WaitingForKey, |_| ()), Degraded, "being derived"),
            (up(State::Unreachable, silent(5)), Degraded, "not answered for 5 s"),
            (up(State::Unreachable, silent(1799)), Degraded, "not answered for 29 min"),
            (up(State::Unreachable, silent(1800)), Fatal, "not answered for 30 min"),
            (
                up(State::Unreachable, |up| up.silent = None),
                Degraded,
                "since this node was started",
            ),
            (up(State::Unreachable, late(9999.0, 0.0, 0)), Degraded, "not answered"),
            (
                up(State::Refused, |up| up.trouble = Some("no such secret".into())),
                Fatal,
                "refuses this replica: no such secret.",
            ),
            (up(State::Failing, |_| ()), Fatal, "cannot be applied"),
            (up(State::Ahead, |_| ()), Fatal, "its master has lost"),
            (up(State::Forked, |_| ()), Fatal, "different ways"),
            (up(State::Gone, |_| ()), Fatal, "no longer has"),
            (up(State::Outdated, |_| ()), Fatal, "was replaced"),
            (up(State::Foreign, |_| ()), Fatal, "Another server"),
            (up(State::Following, |up| up.failed = 1), Degraded, "1 file could not be brought"),
            (up(State::Following, |up| up.unavailable = 2), Degraded, "2 files of mirrors"),
        ] {
            let (found, what) = told(&signs);
            assert_eq!(found, level, "{what}");
            assert!(what.contains(words), "{what}");
        }
    }

    #[test]
    fn masters_are_judged_by_their_replicas_and_by_what_they_lost() {
        use Level::{Degraded, Fatal, Ok};
        let silent =
            |seconds| move |down: &mut Downwards| down.silent = Some(Duration::from_secs(seconds));
        let refused = |why| move |down: &mut Downwards| down.refusal = Some(why);
        for (signs, level, words) in [
            (Signs::default(), Ok, "No replica"),
            (down(|_| ()), Ok, "the replica that follows"),
            (down(silent(14)), Ok, "the replica that follows"),
            (down(silent(15)), Degraded, "berlin has asked for nothing for 15 s"),
            (down(silent(360_000)), Degraded, "nothing for 4 days"),
            (down(|down| down.lag = Some(lag(61.0, 0.0, 0))), Degraded, "berlin is 61 s behind"),
            (down(|down| down.lag = Some(lag(9000.0, 0.0, 0))), Degraded, "berlin is 2 h behind"),
            (down(|down| down.are_two = true), Degraded, "take turns as replica berlin"),
            (down(refused("forked")), Degraded, "a way of its own"),
            (down(refused("ahead")), Degraded, "has changes that this node has not"),
            (down(refused("gone")), Degraded, "no longer kept"),
            (down(refused("fenced")), Degraded, "refused (fenced)"),
            (Signs { lost: 2, ..Signs::default() }, Degraded, "lost the bytes of 2 files"),
            (Signs { fence: Some(3), lost: 1, ..Signs::default() }, Fatal, "of epoch 3"),
        ] {
            let (found, what) = told(&signs);
            assert_eq!(found, level, "{what}");
            assert!(what.contains(words), "{what}");
        }
    }

    #[test]
    fn the_worst_comes_first_and_nothing_is_left_out() {
        let signs = Signs { fence: Some(2), lost: 1, ..down(|down| down.refusal = Some("gone")) };
        let health = judge(&signs);
        let levels: Vec<_> = health.others().iter().map(|finding| finding.level).collect();
        assert_eq!((health.level(), levels), (Level::Fatal, vec![Level::Degraded; 2]));
        assert!(judge(&Signs::default()).others().is_empty());
    }
}

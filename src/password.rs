//! Passwords at rest, as devpi keeps them (argon2id in PHC form), and checking them without being worn down.
//!
//! An argon2 run takes 64 MiB and some 50 ms. So few run at once, equal checks that come together share one run, and a
//! password that was right is remembered for minutes: under a keyed hash over the user, the stored hash and the
//! password, so neither a changed password nor what lies in memory is of use. Unknown users cost the same run.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;
use std::time::{Duration, Instant};

use argon2::password_hash::phc::PasswordHash;
use argon2::{Algorithm, Argon2, Params, PasswordHasher, PasswordVerifier, Version};

use crate::deadline::Deadline;
use crate::error::{Error, Result};
use crate::secret::Key;
use crate::sync::{Condvar, Mutex, lock, wait_timeout};

/// devpi's parameters for new hashes.
const MEMORY_KIB: u32 = 64 << 10;
const TIME: u32 = 3;
const LANES: u32 = 4;
const HASH_BYTES: usize = 32;

/// What a stored hash may ask for: an imported one must not exhaust the machine.
const MEMORY_KIB_MAX: u32 = 256 << 10;
const LANES_MAX: u32 = 64;
/// Memory times passes: 20 times devpi's own.
const WORK_MAX: u64 = 20 * (MEMORY_KIB as u64) * (TIME as u64);

/// The most bytes of a password; longer ones are wrong.
const PASSWORD_BYTES_MAX: usize = 4096;

/// How many argon2 runs go on at once: each takes its memory and one core.
const RUNS_MAX: usize = 2;

/// How many may wait for a run. A flood of logins must not take all threads that answer.
const WAITING_MAX: usize = 64;

/// How many right passwords are remembered, and how long.
const REMEMBERED_MAX: usize = 1000;
const REMEMBERED_FOR: Duration = Duration::from_secs(300);

/// Checks and hashes passwords for a whole node.
pub struct Passwords {
    key: Key,
    decoy: String,
    state: Mutex<State>,
    changed: Condvar,
    runs_max: usize,
}

#[derive(Default)]
struct State {
    running: usize,
    waiting: usize,
    runs_total: u64,
    right: HashMap<Check, Instant>,
    flights: HashMap<Check, Arc<Mutex<Option<Landing>>>>,
}

/// The keyed hash of a user, a stored hash and a password.
type Check = [u8; 32];

/// How a shared run ended: with an answer, or without one.
#[derive(Clone, Copy)]
enum Landing {
    Answer(bool),
    Lost,
}

/// What to do about a check.
enum Turn {
    Known(bool),
    Mine(Arc<Mutex<Option<Landing>>>),
}

impl Passwords {
    /// Nothing is remembered yet.
    ///
    /// # Errors
    /// `Kind::Internal` if the system gives no random bytes or not enough memory for one run.
    pub fn new() -> Result<Self> {
        Ok(Self {
            key: Key::random()?,
            decoy: hash_password("nobody's password")?,
            state: Mutex::default(),
            changed: Condvar::new(),
            runs_max: RUNS_MAX,
        })
    }

    /// Whether the password is the one of the stored hash. `None` is for users that do not exist or have no hash: the
    /// answer is no, at the same cost.
    ///
    /// # Errors
    /// `Kind::Unavailable` if no run comes free before the deadline, too many wait, or memory is short.
    pub fn verify(
        &self,
        user: &str,
        stored: Option<&str>,
        password: &str,
        deadline: Deadline,
    ) -> Result<bool> {
        if password.len() > PASSWORD_BYTES_MAX {
            return Ok(false);
        }
        let hash = stored.unwrap_or_default();
        let check = self.key.mac(&[user.as_bytes(), hash.as_bytes(), password.as_bytes()]);
        let flight = match self.turn(check, deadline)? {
            Turn::Known(answer) => return Ok(answer),
            Turn::Mine(flight) => flight,
        };
        let mut run =
            Run { passwords: self, shared: Some((check, flight)), landing: Landing::Lost };
        let answer = match stored {
            Some(hash) => is_password(password, hash)?,
            None => {
                is_password(password, &self.decoy)?;
                false
            }
        };
        run.landing = Landing::Answer(answer);
        Ok(answer)
    }

    /// The hash to store for a new password.
    ///
    /// # Errors
    /// `Kind::Invalid` if it is too long; `Kind::Unavailable` as for `verify`.
    pub fn hash(&self, password: &str, deadline: Deadline) -> Result<String> {
        if password.len() > PASSWORD_BYTES_MAX {
            return Err(Error::invalid(format!(
                "the password has more than {PASSWORD_BYTES_MAX} bytes"
            )));
        }
        let mut state = lock(&self.state);
        while state.running >= self.runs_max {
            state = self.wait(state, deadline)?;
        }
        state.running += 1;
        state.runs_total += 1;
        drop(state);
        let _run = Run { passwords: self, shared: None, landing: Landing::Lost };
        hash_password(password)
    }

    /// How many argon2 runs there were.
    pub fn runs_total(&self) -> u64 {
        lock(&self.state).runs_total
    }

    /// Waits until the check is known, or a run for it may start.
    fn turn(&self, check: Check, deadline: Deadline) -> Result<Turn> {
        let mut state = lock(&self.state);
        let mut joined: Option<Arc<Mutex<Option<Landing>>>> = None;
        loop {
            match joined.as_ref().and_then(|flight| *lock(flight)) {
                Some(Landing::Answer(answer)) => return Ok(Turn::Known(answer)),
                Some(Landing::Lost) => joined = None,
                None => {}
            }
            if state.is_right(&check) {
                return Ok(Turn::Known(true));
            }
            if let Some(flight) = state.flights.get(&check) {
                joined = Some(flight.clone());
            } else if state.running < self.runs_max {
                let flight = Arc::default();
                state.flights.insert(check, Arc::clone(&flight));
                state.running += 1;
                state.runs_total += 1;
                return Ok(Turn::Mine(flight));
            }
            state = self.wait(state, deadline)?;
        }
    }

    fn wait<'a>(
        &'a self,
        mut state: crate::sync::MutexGuard<'a, State>,
        deadline: Deadline,
    ) -> Result<crate::sync::MutexGuard<'a, State>> {
        if deadline.is_past() || state.waiting >= WAITING_MAX {
            return Err(Error::unavailable("too many passwords are being checked, try again"));
        }
        state.waiting += 1;
        let mut state = wait_timeout(&self.changed, state, deadline.remaining());
        state.waiting -= 1;
        Ok(state)
    }
}

impl State {
    fn is_right(&mut self, check: &Check) -> bool {
        match self.right.entry(*check) {
            Entry::Occupied(entry) if *entry.get() > Instant::now() => true,
            Entry::Occupied(entry) => {
                entry.remove();
                false
            }
            Entry::Vacant(_) => false,
        }
    }

    fn remember(&mut self, check: Check) {
        let now = Instant::now();
        if self.right.len() >= REMEMBERED_MAX {
            self.right.retain(|_, until| *until > now);
        }
        if self.right.len() >= REMEMBERED_MAX {
            let first = self.right.iter().min_by_key(|(_, until)| **until).map(|(check, _)| *check);
            first.map(|check| self.right.remove(&check));
        }
        self.right.insert(check, now + REMEMBERED_FOR);
    }
}

/// A run that goes on. Its end makes room and tells those who share it, also when it ends by a failure.
struct Run<'a> {
    passwords: &'a Passwords,
    shared: Option<(Check, Arc<Mutex<Option<Landing>>>)>,
    landing: Landing,
}

impl Drop for Run<'_> {
    fn drop(&mut self) {
        let mut state = lock(&self.passwords.state);
        state.running -= 1;
        if let Some((check, flight)) = self.shared.take() {
            state.flights.remove(&check);
            *lock(&flight) = Some(self.landing);
            if matches!(self.landing, Landing::Answer(true)) {
                state.remember(check);
            }
        }
        drop(state);
        self.passwords.changed.notify_all();
    }
}

/// The hash of a password with devpi's parameters and a new salt.
///
/// # Errors
/// `Kind::Unavailable` if memory is short.
pub fn hash_password(password: &str) -> Result<String> {
    let params = Params::new(MEMORY_KIB, TIME, LANES, Some(HASH_BYTES))
        .map_err(|e| Error::internal(format!("argon2 refuses devpi's parameters: {e}")))?;
    Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
        .hash_password(password.as_bytes())
        .map(|hash| hash.to_string())
        .map_err(|e| Error::unavailable(format!("cannot hash a password: {e}")))
}

/// Whether `hash` is one that a password can be checked against.
pub fn is_usable_hash(hash: &str) -> bool {
    parse(hash).is_some()
}

/// A hash that asks for no more than the limits.
fn parse(hash: &str) -> Option<PasswordHash> {
    let hash = PasswordHash::new(hash).ok()?;
    let params = Params::try_from(&hash).ok()?;
    let work = u64::from(params.m_cost()) * u64::from(params.t_cost());
    let is_bounded =
        params.m_cost() <= MEMORY_KIB_MAX && params.p_cost() <= LANES_MAX && work <= WORK_MAX;
    is_bounded.then_some(hash)
}

fn is_password(password: &str, hash: &str) -> Result<bool> {
    let Some(hash) = parse(hash) else {
        log::warn!("a stored password hash is of no known form, or asks for too much");
        return Ok(false);
    };
    match Argon2::default().verify_password(password.as_bytes(), &hash) {
        Ok(()) => Ok(true),
        Err(argon2::password_hash::Error::PasswordInvalid) => Ok(false),
        Err(e) => Err(Error::unavailable(format!("cannot check a password: {e}"))),
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;
    use crate::error::Kind;

    /// The password of alice in the vectors of devpi, as devpi hashed it.
    const ALICE: &str = "$argon2id$v=19$m=65536,t=3,p=4$DcG4dy7FWIsxphSCsJZS6g$NWezKaOkSFu8FnXrQRtvvdWW86kVP1vr+mz+jCoajj0";

    fn soon() -> Deadline {
        Deadline::after(Duration::from_secs(60))
    }

    fn cheap(password: &str) -> String {
        let params = Params::new(8, 1, 1, None).expect("valid");
        let argon2 = Argon2::new(Algorithm::Argon2id, Version::V0x13, params);
        argon2.hash_password(password.as_bytes()).expect("small").to_string()
    }

    #[test]
    fn hashes_of_devpi_are_understood_and_ours_look_alike() {
        assert!(is_password("alicepw", ALICE).expect("memory"));
        assert!(!is_password("alicepw2", ALICE).expect("memory"));
        let own = hash_password("alicepw").expect("memory");
        assert!(own.starts_with("$argon2id$v=19$m=65536,t=3,p=4$"), "{own}");
        assert_eq!(own.len(), ALICE.len());
        assert!(is_password("alicepw", &own).expect("memory"));
        assert_ne!(own, hash_password("alicepw").expect("memory"));
    }

    #[test]
    fn a_right_password_is_remembered_until_the_hash_changes() {
        let passwords = Passwords::new().expect("random");
        let verify =
            |user, hash, password| passwords.verify(user, hash, password, soon()).expect("a run");
        let (old, new) = (cheap("old"), cheap("new"));
        for _ in 0..3 {
            assert!(verify("ann", Some(&old), "old"));
        }
        assert_eq!(passwords.runs_total(), 1);
        assert!(!verify("ann", Some(&new), "old"));
        assert!(verify("bob", Some(&old), "old"));
        assert_eq!(passwords.runs_total(), 3);
        lock(&passwords.state).right.values_mut().for_each(|until| *until = Instant::now());
        assert!(verify("ann", Some(&old), "old"));
        assert_eq!(passwords.runs_total(), 4);
    }

    #[test]
    fn a_wrong_password_and_an_unknown_user_cost_a_run_each_time() {
        let passwords = Passwords::new().expect("random");
        let hash = cheap("right");
        for _ in 0..2 {
            assert!(!passwords.verify("ann", Some(&hash), "wrong", soon()).expect("a run"));
            assert!(!passwords.verify("nobody", None, "nobody's password", soon()).expect("a run"));
        }
        assert_eq!(passwords.runs_total(), 4);
    }

    #[test]
    fn checks_that_come_together_share_a_run() {
        let passwords = Arc::new(Passwords::new().expect("random"));
        for (password, runs) in [("alicepw", 1..=1), ("wrong", 1..=4)] {
            let before = passwords.runs_total();
            lock(&passwords.state).running = RUNS_MAX;
            let threads: Vec<_> = (0..8)
                .map(|_| {
                    let passwords = passwords.clone();
                    thread::spawn(move || passwords.verify("alice", Some(ALICE), password, soon()))
                })
                .collect();
            while lock(&passwords.state).waiting < 8 {
                thread::yield_now();
            }
            lock(&passwords.state).running = 0;
            passwords.changed.notify_all();
            for thread in threads {
                let answer = thread.join().expect("no panic").expect("a run");
                assert_eq!(answer, password == "alicepw");
            }
            assert!(runs.contains(&(passwords.runs_total() - before)));
        }
        let state = lock(&passwords.state);
        assert_eq!((state.running, state.waiting, state.flights.len()), (0, 0, 0));
    }

    #[test]
    fn who_finds_no_room_in_time_is_told_so() {
        let passwords = Passwords::new().expect("random");
        lock(&passwords.state).running = RUNS_MAX;
        let late = Deadline::after(Duration::from_millis(20));
        let error = passwords.verify("ann", None, "x", late).expect_err("no room");
        assert_eq!(error.kind, Kind::Unavailable);
        assert_eq!(passwords.hash("x", late).expect_err("no room").kind, Kind::Unavailable);
        lock(&passwords.state).waiting = WAITING_MAX;
        let error = passwords.verify("ann", None, "x", soon()).expect_err("too many");
        assert_eq!(error.kind, Kind::Unavailable);
    }

    #[test]
    fn a_run_that_is_lost_makes_room_and_is_made_up_for() {
        let passwords = Passwords::new().expect("random");
        let check = [1; 32];
        let Ok(Turn::Mine(flight)) = passwords.turn(check, soon()) else { panic!("free") };
        drop(Run { passwords: &passwords, shared: Some((check, flight)), landing: Landing::Lost });
        assert_eq!(lock(&passwords.state).running, 0);
        assert!(matches!(passwords.turn(check, soon()), Ok(Turn::Mine(_))));
    }

    #[test]
    fn hashes_that_ask_for_too_much_are_refused_unrun() {
        let tail = "c29tZXNhbHRzb21lc2FsdA$NWezKaOkSFu8FnXrQRtvvdWW86kVP1vr+mz+jCoajj0";
        for params in [
            "m=4194304,t=3,p=4",
            "m=65536,t=4000000,p=4",
            "m=262144,t=200,p=4",
            "m=65536,t=3,p=4096",
        ] {
            assert!(!is_usable_hash(&format!("$argon2id$v=19${params}${tail}")), "{params}");
        }
        assert!(is_usable_hash(&format!("$argon2id$v=19$m=65536,t=3,p=4${tail}")));
        for other in [
            "",
            "plain",
            "$2b$12$abcdefghijklmnopqrstuv",
            "d1b2a59fbea7e20077af9f91b27e95e865061b270be03ff539ab3b73587882e8",
        ] {
            assert!(!is_usable_hash(other) && !is_password("x", other).expect("no run"), "{other}");
        }
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let mut state = State::default();
        for n in 0..REMEMBERED_MAX + 10 {
            let mut check = [0; 32];
            check[..8].copy_from_slice(&n.to_be_bytes());
            state.remember(check);
        }
        assert_eq!(state.right.len(), REMEMBERED_MAX);
        assert!(!state.is_right(&[0; 32]), "the oldest left first");
    }
}

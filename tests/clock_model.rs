//! The serial clock under every order of its threads' steps.
//!
//! With `RUSTFLAGS="--cfg shuttle" cargo test --test clock_model` (and a target folder of its own) the locks are those
//! of a model checker that goes through schedules; a wait there never ends by time, so a wake-up that gets lost is a
//! deadlock, which it reports. Without the flag the same scenes run on plain threads, many times.

use std::sync::Arc;
use std::time::Duration;

use twinpi::deadline::Deadline;
use twinpi::serial::{Serial, SerialClock};
use twinpi::stop::Stop;

#[cfg(not(shuttle))]
use std::thread;

#[cfg(shuttle)]
use shuttle::thread;

/// Runs a scene of few steps under all its schedules.
#[cfg(shuttle)]
fn explore_all(scene: impl Fn() + Send + Sync + 'static) {
    shuttle::check_dfs(scene, None);
}

/// Runs a scene under many schedules.
#[cfg(shuttle)]
fn explore(scene: impl Fn() + Send + Sync + Copy + 'static) {
    shuttle::check_random(scene, 5_000);
    shuttle::check_pct(scene, 5_000, 3);
}

#[cfg(not(shuttle))]
fn explore_all(scene: impl Fn() + Send + Sync + 'static) {
    (0..500).for_each(|_| scene());
}

#[cfg(not(shuttle))]
fn explore(scene: impl Fn() + Send + Sync + Copy + 'static) {
    explore_all(scene);
}

/// Far enough never to come, near enough for a plain run to fail by.
fn far() -> Deadline {
    Deadline::after(Duration::from_secs(60))
}

fn serial(number: u64) -> Serial {
    Serial::new(number).expect("small")
}

fn waiter(clock: &Arc<SerialClock>, wanted: u64) -> thread::JoinHandle<bool> {
    let clock = clock.clone();
    thread::spawn(move || {
        let is_there = clock.wait_for(serial(wanted), far());
        assert!(!is_there || clock.now() >= Some(serial(wanted)));
        is_there
    })
}

#[test]
fn a_commit_is_never_missed() {
    explore_all(|| {
        let clock = Arc::new(SerialClock::new(None));
        let waiter = waiter(&clock, 1);
        clock.advance(serial(0));
        clock.advance(serial(1));
        assert!(waiter.join().expect("no panic"));
    });
}

#[test]
fn all_who_wait_see_their_serial() {
    explore(|| {
        let clock = Arc::new(SerialClock::new(None));
        let waiters: Vec<_> = [0, 2, 1, 2].map(|wanted| waiter(&clock, wanted)).into();
        let writers = [vec![0, 2], vec![1]].map(|serials| {
            let clock = clock.clone();
            thread::spawn(move || serials.into_iter().for_each(|n| clock.advance(serial(n))))
        });
        for waiter in waiters {
            assert!(waiter.join().expect("no panic"));
        }
        for writer in writers {
            writer.join().expect("no panic");
        }
        assert_eq!(clock.now(), Some(serial(2)), "going back is ignored");
    });
}

#[test]
fn a_stop_ends_all_waits() {
    explore(|| {
        let clock = Arc::new(SerialClock::new(None));
        let early = waiter(&clock, 0);
        let waiters: Vec<_> = [1, 1, 7].map(|wanted| waiter(&clock, wanted)).into();
        let writer = {
            let clock = clock.clone();
            thread::spawn(move || clock.advance(serial(0)))
        };
        clock.stop();
        for waiter in waiters {
            assert!(!waiter.join().expect("no panic"), "was never committed");
        }
        // depends on what came first; that it ends is what counts
        early.join().expect("no panic");
        writer.join().expect("no panic");
        assert!(clock.wait_for(serial(0), far()), "what is committed is there after the stop too");
        assert!(!clock.wait_for(serial(1), far()));
    });
}

#[test]
fn a_stop_and_a_commit_race_without_a_deadlock() {
    explore_all(|| {
        let clock = Arc::new(SerialClock::new(None));
        let waiter = waiter(&clock, 0);
        let stopper = {
            let clock = clock.clone();
            thread::spawn(move || clock.stop())
        };
        waiter.join().expect("no panic");
        stopper.join().expect("no panic");
    });
}

#[test]
fn who_watches_and_then_looks_misses_nothing() {
    explore(|| {
        let clock = Arc::new(SerialClock::new(None));
        let watcher = {
            let clock = clock.clone();
            thread::spawn(move || {
                let told = clock.watch();
                (told, clock.now())
            })
        };
        clock.advance(serial(0));
        clock.advance(serial(1));
        let (told, seen) = watcher.join().expect("no panic");
        assert!(
            seen == Some(serial(1)) || told.try_recv().is_ok(),
            "saw {seen:?} and was not told"
        );
    });
}

#[test]
fn a_stop_wakes_those_who_sleep() {
    explore_all(|| {
        let stop = Stop::new();
        let sleeper = {
            let stop = stop.clone();
            thread::spawn(move || stop.sleep(Duration::from_secs(60)))
        };
        stop.set();
        assert!(sleeper.join().expect("no panic"));
        assert!(stop.sleep(Duration::from_secs(60)));
    });
}

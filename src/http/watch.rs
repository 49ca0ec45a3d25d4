//! What the guard makes of one connection, from one look to the next: pure, so that its times are tested without waiting.

use std::time::{Duration, Instant};

use super::connections::{Connection, Phase};
use super::framing::HEAD_BYTES_MAX;
use super::listen::ServerOptions;
use super::os::{ESTABLISHED, TcpInfo};

/// Bytes that wait longer than this, and no request is under way: the connection is stuck.
const KICK_AFTER: Duration = Duration::from_millis(12);
/// And again after this.
const KICK_AGAIN: Duration = Duration::from_millis(250);
/// A slow client must move so many bytes within the time for stalls.
const PROGRESS_BYTES: u64 = 16 * 1024;

/// What the guard remembers of a connection.
pub(super) struct Watch {
    /// Since when it has no request under way.
    idle_since: Instant,
    requests: u32,
    /// Whether a request was under way at the last look: what came of it since then is nothing of the next.
    was_busy: bool,
    /// Bytes that had come when the last request was done.
    pub quiet_bytes: u64,
    head_since: Option<Instant>,
    /// Since when bytes wait that nobody reads.
    pub pending_since: Option<Instant>,
    kicked_at: Option<Instant>,
    phase: Phase,
    mark: (u64, Instant),
    /// Since when it is closed.
    pub closed_since: Option<Instant>,
}

/// What the guard sees of a connection now.
#[derive(Clone, Copy)]
pub(super) struct Seen {
    pub info: TcpInfo,
    requests: u32,
    pub is_busy: bool,
    phase: Phase,
    body_bytes: u64,
    pub has_pending: bool,
    /// Bytes that have come and were not read yet, where that was asked for.
    pub unread_bytes: u64,
}

/// What to do about a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Keep,
    /// It is idle since then; may go if there are too many.
    Idle(Instant),
    /// It was idle for too long.
    End,
    /// With what it did.
    Cut(&'static str),
    Kick,
    /// Give up what is parked.
    Abandon,
}

impl Seen {
    /// What can be seen without asking for bytes that wait.
    pub(super) fn new(info: TcpInfo, connection: Option<&Connection>) -> Self {
        Self {
            info,
            requests: connection.map_or(0, Connection::requests),
            is_busy: connection.is_some_and(Connection::is_busy),
            phase: connection.map_or(Phase::Ours, Connection::phase),
            body_bytes: connection.map_or(0, Connection::body_bytes),
            has_pending: false,
            unread_bytes: 0,
        }
    }
}

impl Watch {
    /// A connection seen for the first time.
    pub(super) fn new(now: Instant) -> Self {
        Self {
            idle_since: now,
            requests: 0,
            was_busy: false,
            quiet_bytes: 0,
            head_since: None,
            pending_since: None,
            kicked_at: None,
            phase: Phase::Ours,
            mark: (0, now),
            closed_since: None,
        }
    }

    /// Settles what to do about the connection.
    pub(super) fn judge(&mut self, seen: &Seen, limits: &ServerOptions, now: Instant) -> Verdict {
        if seen.is_busy {
            self.requests = seen.requests;
            self.was_busy = true;
            self.rest(seen, now);
            return self.judge_busy(seen, limits, now);
        }
        self.phase = Phase::Ours;
        if seen.has_pending && self.is_to_be_kicked(now) {
            return Verdict::Kick;
        }
        if !seen.has_pending {
            self.pending_since = None;
        }
        if std::mem::take(&mut self.was_busy) || seen.requests != self.requests {
            self.requests = seen.requests;
            self.rest(seen, now);
        } else if seen.info.bytes_received > self.quiet_bytes {
            let since = *self.head_since.get_or_insert(now);
            // Half of the limit again for what framing counts differently, and for a request of the next. What nobody
            // has read yet may be a body, whose request is about to be taken.
            if self.is_long(seen) {
                return Verdict::Cut("its head is too long");
            }
            if now - since > limits.head_timeout {
                return Verdict::Cut("its head takes too long");
            }
        } else if now - self.idle_since > limits.idle_timeout {
            return Verdict::End;
        }
        Verdict::Idle(self.idle_since)
    }

    /// Whether more has come and was read since the last request than a head may have.
    pub(super) fn is_long(&self, seen: &Seen) -> bool {
        let read = seen.info.bytes_received.saturating_sub(seen.unread_bytes);
        read.saturating_sub(self.quiet_bytes) > 2 * HEAD_BYTES_MAX as u64
    }

    /// Between two requests.
    fn rest(&mut self, seen: &Seen, now: Instant) {
        self.idle_since = now;
        self.quiet_bytes = seen.info.bytes_received;
        self.head_since = None;
        self.pending_since = None;
    }

    fn judge_busy(&mut self, seen: &Seen, limits: &ServerOptions, now: Instant) -> Verdict {
        let (progress, span, why) = match seen.phase {
            Phase::Parked if seen.info.state != ESTABLISHED => return Verdict::Abandon,
            Phase::Parked | Phase::Ours => {
                self.phase = seen.phase;
                return Verdict::Keep;
            }
            Phase::Reading => (seen.body_bytes, limits.body_stall, "its body stalls"),
            Phase::WritingSmall => {
                (seen.info.bytes_acked, limits.small_write_stall, "it takes its answer too slowly")
            }
            Phase::WritingBulk => {
                (seen.info.bytes_acked, limits.write_stall, "it takes its answer too slowly")
            }
        };
        let (mark, at) = self.mark;
        if self.phase != seen.phase || progress < mark || progress - mark >= PROGRESS_BYTES {
            self.phase = seen.phase;
            self.mark = (progress, now);
        } else if now - at > span {
            self.mark = (progress, now);
            return Verdict::Cut(why);
        }
        Verdict::Keep
    }

    /// Whether tiny_http should be reminded of bytes that wait; asked only while some do.
    pub(super) fn is_to_be_kicked(&mut self, now: Instant) -> bool {
        let since = *self.pending_since.get_or_insert(now);
        let is_due = now - since >= KICK_AFTER
            && self.kicked_at.is_none_or(|kicked| now - kicked >= KICK_AGAIN);
        if is_due {
            self.kicked_at = Some(now);
        }
        is_due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS_MS: (u64, u64, u64) = (100, 1000, 200); // head, idle, stalls

    fn limits() -> ServerOptions {
        ServerOptions {
            head_timeout: Duration::from_millis(LIMITS_MS.0),
            idle_timeout: Duration::from_millis(LIMITS_MS.1),
            body_stall: Duration::from_millis(LIMITS_MS.2),
            write_stall: Duration::from_millis(LIMITS_MS.2),
            small_write_stall: Duration::from_millis(LIMITS_MS.2 / 2),
            ..ServerOptions::default()
        }
    }

    /// A connection that is looked at again and again.
    struct Scene {
        start: Instant,
        watch: Watch,
        seen: Seen,
    }

    impl Scene {
        fn new() -> Self {
            let start = Instant::now();
            let info =
                TcpInfo { state: ESTABLISHED, bytes_received: 0, bytes_acked: 0, backlog: 0 };
            Self { start, watch: Watch::new(start), seen: Seen::new(info, None) }
        }

        fn at(&mut self, ms: u64) -> Verdict {
            let now = self.start + Duration::from_millis(ms);
            match self.watch.judge(&self.seen, &limits(), now) {
                Verdict::Idle(_) => Verdict::Keep,
                verdict => verdict,
            }
        }
    }

    #[test]
    fn a_head_has_its_time_however_it_drips() {
        let mut scene = Scene::new();
        for ms in (0..=100).step_by(10) {
            scene.seen.info.bytes_received += 1;
            assert_eq!(scene.at(ms), Verdict::Keep, "{ms}");
        }
        assert!(matches!(scene.at(101), Verdict::Cut(_)));
    }

    #[test]
    fn a_long_head_is_cut_at_once() {
        let mut scene = Scene::new();
        scene.seen.info.bytes_received = 2 * HEAD_BYTES_MAX as u64;
        assert_eq!(scene.at(1), Verdict::Keep);
        scene.seen.info.bytes_received += 1;
        assert!(matches!(scene.at(2), Verdict::Cut(_)));
    }

    #[test]
    fn a_body_that_is_there_before_its_request_is_taken_is_no_head() {
        let mut scene = Scene::new();
        scene.seen.info.bytes_received = 3_000_000;
        scene.seen.unread_bytes = 3_000_000 - 400;
        assert_eq!(scene.at(1), Verdict::Keep);
        scene.seen.unread_bytes = 0;
        assert!(matches!(scene.at(2), Verdict::Cut(_)));
    }

    #[test]
    fn the_rest_of_a_body_is_no_head_of_the_next_request() {
        let mut scene = Scene::new();
        (scene.seen.requests, scene.seen.is_busy) = (1, true);
        scene.seen.info.bytes_received = 100_000;
        assert_eq!(scene.at(1), Verdict::Keep);
        scene.seen.is_busy = false;
        scene.seen.info.bytes_received = 3_000_000;
        assert_eq!(scene.at(2), Verdict::Keep);
        assert_eq!(scene.at(50), Verdict::Keep);
        scene.seen.info.bytes_received += 2 * HEAD_BYTES_MAX as u64 + 1;
        assert!(matches!(scene.at(60), Verdict::Cut(_)));
    }

    #[test]
    fn each_request_starts_the_time_for_idleness_anew() {
        let mut scene = Scene::new();
        assert_eq!(scene.at(900), Verdict::Keep);
        (scene.seen.requests, scene.seen.info.bytes_received) = (1, 300);
        assert_eq!(scene.at(950), Verdict::Keep);
        assert_eq!(scene.at(1940), Verdict::Keep);
        assert_eq!(scene.at(1951), Verdict::End);
    }

    #[test]
    fn slow_bodies_and_slow_readers_are_cut_unless_they_get_on() {
        for phase in [Phase::Reading, Phase::WritingBulk] {
            let mut scene = Scene::new();
            (scene.seen.is_busy, scene.seen.phase) = (true, phase);
            for step in 0..10_u64 {
                let bytes = step * PROGRESS_BYTES;
                (scene.seen.body_bytes, scene.seen.info.bytes_acked) = (bytes, bytes);
                assert_eq!(scene.at(step * 190), Verdict::Keep, "{phase:?} {step}");
            }
            scene.seen.body_bytes += 1;
            scene.seen.info.bytes_acked += 1;
            assert_eq!(scene.at(9 * 190 + 200), Verdict::Keep);
            assert!(matches!(scene.at(9 * 190 + 201), Verdict::Cut(_)), "{phase:?}");
        }
        let mut small = Scene::new();
        (small.seen.is_busy, small.seen.phase) = (true, Phase::WritingSmall);
        assert_eq!(small.at(0), Verdict::Keep);
        assert!(matches!(small.at(101), Verdict::Cut(_)));
    }

    #[test]
    fn what_we_do_ourselves_is_not_held_against_a_client() {
        let mut scene = Scene::new();
        (scene.seen.is_busy, scene.seen.phase) = (true, Phase::Reading);
        assert_eq!(scene.at(0), Verdict::Keep);
        scene.seen.phase = Phase::Ours;
        assert_eq!(scene.at(5000), Verdict::Keep);
        scene.seen.phase = Phase::Reading;
        assert_eq!(scene.at(6000), Verdict::Keep);
        assert_eq!(scene.at(6100), Verdict::Keep);
    }

    #[test]
    fn parked_clients_may_wait_but_not_leave() {
        let mut scene = Scene::new();
        (scene.seen.is_busy, scene.seen.phase) = (true, Phase::Parked);
        assert_eq!(scene.at(100_000), Verdict::Keep);
        scene.seen.info.state = 8;
        assert_eq!(scene.at(100_001), Verdict::Abandon);
    }

    #[test]
    fn bytes_that_nobody_reads_bring_a_kick_now_and_then() {
        let mut scene = Scene::new();
        (scene.seen.info.bytes_received, scene.seen.has_pending) = (50, true);
        assert_eq!(scene.at(0), Verdict::Keep);
        assert_eq!(scene.at(15), Verdict::Kick);
        assert_eq!(scene.at(30), Verdict::Keep);
        scene.seen.has_pending = false;
        assert_eq!(scene.at(45), Verdict::Keep);
        scene.seen.has_pending = true;
        assert_eq!(scene.at(60), Verdict::Keep);
    }
}

//! How this node stands with the others, gathered for whoever tells it: pages, badge, the routes for machines, and the
//! plots of the last hour.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::error::Result;
use crate::replication::ReplicaStatus;
use crate::replication::history::{History, Point, STEP};
use crate::replication::lag::Lag;
use crate::replication::replicas::Replica;
use crate::replication::verdict::{self, Downwards, Finding, Health, Level, Signs, Upwards};
use crate::sync::{Mutex, lock};

use super::{App, Node};

/// For so long a verdict is told again without another look: each page has it in its head.
const FRESH: Duration = Duration::from_secs(1);
/// The name of this node's own series; no replica has it.
pub(super) const OWN: &str = "";

/// What is remembered of how this node stood.
#[derive(Default)]
pub struct Keeper {
    history: Mutex<History>,
    verdict: Mutex<Option<(Instant, Finding)>>,
}

impl Keeper {
    /// How far a node was behind in the last hour; `OWN` is this one.
    pub fn history(&self, name: &str) -> Vec<Option<Point>> {
        lock(&self.history).of(name)
    }
}

/// How this node stands now.
pub(super) struct Standing {
    /// What it is, as a verdict.
    pub health: Health,
    /// On a replica, what it knows of itself.
    pub own: Option<ReplicaStatus>,
    /// Its replicas, those that need a look first.
    pub replicas: Vec<(String, Replica, Option<Lag>)>,
}

/// Gathers it.
///
/// # Errors
/// `Kind::Internal` if the database fails.
pub(super) fn gather(app: &App) -> Result<Standing> {
    let own = match &app.node {
        Node::Master { .. } => None,
        Node::Replica(replica) => Some(replica.status()?),
    };
    let mut replicas = app.serves().map(|master| master.replicas_with_lag()).unwrap_or_default();
    replicas.sort_by_cached_key(|(uuid, replica, _)| {
        (silent_for(replica).is_none(), replica.refusal.is_none(), name_of(uuid, replica))
    });
    let downwards = |(uuid, replica, lag): &(String, Replica, Option<Lag>)| Downwards {
        name: name_of(uuid, replica),
        refusal: replica.refusal,
        are_two: replica.are_two(),
        silent: silent_for(replica),
        lag: *lag,
    };
    let signs = Signs {
        upwards: own.as_ref().map(|status| upwards(app, status)),
        downwards: replicas.iter().map(downwards).collect(),
        fence: app.store.fence().map(|fence| fence.epoch),
        lost: match &app.node {
            Node::Master { .. } => app.store.lost_count(),
            Node::Replica(_) => 0,
        },
    };
    Ok(Standing { health: verdict::judge(&signs), own, replicas })
}

fn upwards(app: &App, status: &ReplicaStatus) -> Upwards {
    let known = &status.known;
    Upwards {
        master: status.master_url.clone(),
        state: known.state,
        trouble: known.trouble.clone(),
        silent: known.answered_at.map(|at| at.elapsed().unwrap_or_default()),
        is_empty: app.store.clock().now().is_none(),
        is_stale: known.is_stale,
        lag: status.lag,
        failed: status.files.failed,
        unavailable: status.files.unavailable,
    }
}

/// How long a replica has had no request open; none while it has one.
pub(super) fn silent_for(replica: &Replica) -> Option<Duration> {
    (replica.requests == 0).then(|| replica.silent_for())
}

/// What people call a replica: the host of the address that it gives, or the beginning of its uuid.
pub(super) fn name_of(uuid: &str, replica: &Replica) -> String {
    let url = replica.outside_url.as_deref().unwrap_or_default();
    let host = url.split_once("://").map_or("", |(_, rest)| rest).trim_end_matches('/');
    match host {
        "" => uuid.chars().take(8).collect(),
        host => host.to_owned(),
    }
}

/// The worst that is to be said of this node, at most a moment old.
pub(super) fn verdict(app: &App) -> Finding {
    let kept = lock(&app.standing.verdict).clone();
    if let Some((_, finding)) = kept.filter(|(at, _)| at.elapsed() < FRESH) {
        return finding;
    }
    let finding = match gather(app) {
        Ok(standing) => standing.health.verdict(),
        Err(error) => {
            log::error!("how this node stands cannot be told: {error}");
            Finding {
                level: Level::Fatal,
                what: "The database of this node cannot be read.".to_owned(),
                advice: "Its log says why; look at the disk.".to_owned(),
            }
        }
    };
    *lock(&app.standing.verdict) = Some((Instant::now(), finding.clone()));
    finding
}

/// Notes how far nodes are behind.
pub fn sample(app: &App) {
    let Ok(standing) = gather(app) else { return };
    let own = standing.own.map(|status| (OWN.to_owned(), Some(Point::from(status.lag))));
    let others = standing.replicas.into_iter().map(|(uuid, replica, lag)| {
        // What a silent one lacks is only guessed.
        let known = lag.filter(|_| silent_for(&replica).is_none_or(|span| span < verdict::SILENT));
        (uuid, known.map(Point::from))
    });
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let step = now.as_secs() / STEP.as_secs();
    lock(&app.standing.history).sample(step, own.into_iter().chain(others).collect());
}

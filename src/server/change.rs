//! Changes of a node's role: planned, promoted, demoted, led elsewhere; in a folder that is not in use, or by the node
//! that runs there.

use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use serde_json::{Value as Json, json};

use crate::config::Config;
use crate::error::{Error, Kind, Result};
use crate::http::client::ClientOptions;
use crate::nodeinfo::{NodeInfo, Role};
use crate::replication::auth::Signer;
use crate::replication::filter::Filter;
use crate::replication::plan::Plan;
use crate::replication::seen::Seen;
use crate::replication::{Replica, plan, rejoin};
use crate::secret::{ReplicaUuid, Secret};
use crate::serial::Serial;
use crate::store::doubt::HAD_REPLICAS;
use crate::store::wanted::Counts;
use crate::store::{self, Store, Writer};

use super::control;

/// A command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Tell what a promotion would cost.
    Plan,
    /// Make this replica the master.
    Promote {
        /// Also if changes are lost by it.
        is_loss_accepted: bool,
    },
    /// Make this node, whatever it is, follow the one at this address, and put aside what it alone has.
    Demote(String),
    /// Make this replica follow the one at this address.
    Follow(String),
}

impl Change {
    fn to_json(&self) -> Json {
        match self {
            Self::Plan => json!({"do": "plan"}),
            Self::Promote { is_loss_accepted } => {
                json!({"do": "promote", "accept-loss": is_loss_accepted})
            }
            Self::Demote(url) => json!({"do": "demote", "url": url}),
            Self::Follow(url) => json!({"do": "follow", "url": url}),
        }
    }

    /// Reads what `to_json` made.
    pub(super) fn of_json(json: &Json) -> Option<Self> {
        let url = || json["url"].as_str().map(str::to_owned);
        match json["do"].as_str()? {
            "plan" => Some(Self::Plan),
            "promote" => Some(Self::Promote {
                is_loss_accepted: json["accept-loss"].as_bool() == Some(true),
            }),
            "demote" => Some(Self::Demote(url()?)),
            "follow" => Some(Self::Follow(url()?)),
            _ => None,
        }
    }
}

/// A command that the node takes itself apart for.
pub struct Ordered {
    /// What is to be done.
    pub change: Change,
    /// Who waits for the answer.
    pub client: UnixStream,
}

/// What a command came to.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// For programs.
    pub json: Json,
    /// For people.
    pub text: String,
}

impl Outcome {
    fn new(json: Json, text: impl Into<String>) -> Self {
        Self { json, text: text.into() }
    }

    fn of_json(mut json: Json) -> Self {
        let text = json["said"].as_str().unwrap_or_default().to_owned();
        json.as_object_mut().map(|json| json.remove("said"));
        Self { json, text }
    }

    fn into_json(self) -> Json {
        let Self { mut json, text } = self;
        json["said"] = text.into();
        json
    }
}

/// Runs a command in a folder: by the node that runs there, or else directly.
///
/// # Errors
/// `Kind::Conflict` if it is refused; whatever keeps it from being done.
pub fn run(config: &Config, change: &Change) -> Result<Outcome> {
    let dir = &config.serverdir;
    if !store::exists(dir) {
        return Err(Error::invalid(format!("'{}' holds no server data", dir.display())));
    }
    let lock = super::lock_folder(dir);
    if lock.is_err() {
        let Some(answer) = control::ask(dir, &change.to_json())? else {
            return Err(lock.err().unwrap_or_else(|| Error::internal("the folder is in use")));
        };
        let mut outcome = Outcome::of_json(answer);
        if *change != Change::Plan {
            outcome.json["node"] = control::wait_for_return(dir)?;
        }
        return Ok(outcome);
    }
    let (store, writer) = store::open(dir, 1)?;
    let info = NodeInfo::load(dir)?
        .ok_or_else(|| Error::invalid(format!("'{}' is no node's folder", dir.display())))?;
    if *change == Change::Plan {
        require_replica(&info)?;
        return planned(&Plan::make(&store, Seen::load(&store)?, true)?);
    }
    let secret = config.secretfile.as_deref().map(Secret::load).transpose()?;
    let hands = Hands { config, secret: secret.as_ref() };
    hands.carry_out(&writer, info, change)
}

fn planned(plan: &Plan) -> Result<Outcome> {
    let json = plan.to_json();
    let text = plan::shown(&json);
    Ok(Outcome::new(json, text))
}

fn require_replica(info: &NodeInfo) -> Result<()> {
    match info.role {
        Role::Replica => Ok(()),
        _ => Err(Error::conflict("this node is no replica: it takes changes itself already")),
    }
}

/// A replica, or a former master that no other one took the place of for good.
fn require_promotable(info: &NodeInfo, store: &Store) -> Result<()> {
    match store.fence() {
        Some(_) => Ok(()),
        None => require_replica(info),
    }
}

fn now() -> String {
    httpdate::fmt_http_date(SystemTime::now())
}

/// Whoever carries out changes, with what is needed to speak to another node.
pub(super) struct Hands<'a> {
    pub config: &'a Config,
    pub secret: Option<&'a Secret>,
}

impl Hands<'_> {
    /// Changes the role, of a folder that nobody serves. What is done of it, if not all, is such that the same can be
    /// done again.
    pub fn carry_out(&self, writer: &Writer, info: NodeInfo, change: &Change) -> Result<Outcome> {
        match change {
            Change::Plan => Err(Error::internal("a plan changes nothing")),
            Change::Promote { is_loss_accepted } => self.promote(writer, info, *is_loss_accepted),
            Change::Demote(url) => self.demote(writer, info, url),
            Change::Follow(url) => self.follow(info, url),
        }
    }

    /// The moment of truth is the file that says who this node is; the timeline follows from it (`begin_promised`).
    fn promote(
        &self,
        writer: &Writer,
        mut info: NodeInfo,
        is_loss_accepted: bool,
    ) -> Result<Outcome> {
        require_promotable(&info, writer.store())?;
        let plan = Plan::make(writer.store(), Seen::load(writer.store())?, false)?;
        plan.check(is_loss_accepted)?;
        if let Some(fence) = writer.store().fence() {
            info.master_url = info.master_url.take().or(fence.url);
        }
        // Whoever was promoted just now is not in doubt at its start.
        writer.set_local_value(HAD_REPLICAS, None)?;
        info.promote(plan.epoch, &now());
        info.save(&self.config.serverdir)?;
        begin_promised(&info, writer)?;
        let text = format!(
            "this node is the master now: epoch {}, after serial {}",
            plan.epoch,
            Serial::wire(plan.at.map(|at| at.serial))
        );
        log::info!("{text}");
        Ok(Outcome::new(json!({"promoted": plan.to_json()}), text))
    }

    fn demote(&self, writer: &Writer, mut info: NodeInfo, url: &str) -> Result<Outcome> {
        let dir = &self.config.serverdir;
        let met = self.meet(writer.store(), &info, url)?;
        let is_writer = info.role != Role::Replica;
        let rejoined = rejoin::rejoin(writer, &met, &info.uuid, dir, is_writer)?;
        info.demote(url, &now());
        info.save(dir)?;
        let text = format!("{}. This node follows {url} now", rejoined.shown());
        log::warn!("{text}");
        Ok(Outcome::new(json!({"demoted": rejoined.to_json()}), text))
    }

    fn follow(&self, mut info: NodeInfo, url: &str) -> Result<Outcome> {
        check_follow(&info, url)?;
        info.follow(url);
        info.save(&self.config.serverdir)?;
        let text = format!("this node follows {url} now");
        log::info!("{text}");
        Ok(Outcome::new(json!({"follows": url}), text))
    }

    fn meet(&self, store: &Store, info: &NodeInfo, url: &str) -> Result<rejoin::Met> {
        check_url(url)?;
        let secret = self.secret.ok_or_else(|| {
            Error::invalid("the secret that the nodes share is needed: give --secretfile")
        })?;
        let uuid = ReplicaUuid::parse(&info.uuid)
            .ok_or_else(|| Error::invalid(format!("'{}' is no uuid of a node", info.uuid)))?;
        let client = ClientOptions {
            replica_cert: self.config.replica_cert.clone(),
            user_agent: format!("twinpi/{}", env!("CARGO_PKG_VERSION")),
            ..ClientOptions::default()
        };
        let keys = super::devpi_keys(self.config, secret);
        rejoin::meet(store, url, client, Signer::new(secret, uuid, keys))
    }

    /// Whether a change can be begun; asked while the node still serves.
    pub fn check(
        &self,
        store: &Store,
        info: &NodeInfo,
        seen: Option<Seen>,
        change: &Change,
    ) -> Result<()> {
        match change {
            Change::Plan => Ok(()),
            Change::Promote { is_loss_accepted } => {
                require_promotable(info, store)?;
                Plan::make(store, seen, false)?.check(*is_loss_accepted)
            }
            Change::Demote(url) => self.meet(store, info, url).map(drop),
            Change::Follow(url) => check_follow(info, url),
        }
    }
}

fn check_url(url: &str) -> Result<()> {
    match url::Url::parse(url) {
        Ok(parsed) if matches!(parsed.scheme(), "http" | "https") => Ok(()),
        _ => Err(Error::invalid(format!("'{url}' is no address of a master: http://HOST:PORT"))),
    }
}

fn check_follow(info: &NodeInfo, url: &str) -> Result<()> {
    check_url(url)?;
    match info.role {
        Role::Replica => Ok(()),
        _ => Err(Error::conflict(format!(
            "this node is no replica; to make it one, run `twinpi demote --primary-url {url}`"
        ))),
    }
}

/// Begins the timeline that a promotion promised, or the first one. A node that ends in between does it at its start.
pub(super) fn begin_promised(info: &NodeInfo, writer: &Writer) -> Result<()> {
    let store = writer.store();
    let promised = info.changes.promoted.as_ref().map_or(0, |promoted| promoted.epoch);
    if info.role != Role::Replica && (store.timelines().is_empty() || store.epoch() < promised) {
        let timeline = writer.begin_timeline()?;
        log::info!("this node writes the log from now on: epoch {}", timeline.epoch);
    }
    match info.role {
        Role::Replica if store.fence().is_some() => writer.lift_fence()?,
        Role::Replica => {}
        _ if store.wanted_counts()? == Counts::default() => {}
        _ => writer.lose_wanted()?,
    }
    if info.role == Role::Replica && 0 < store.lost_count() {
        writer.want_lost()?;
    }
    Ok(())
}

/// Who this node is at this start: what the folder says, what the options ask, and the timeline that goes with it.
pub(super) fn settle(config: &Config, writer: &Writer) -> Result<NodeInfo> {
    let dir = &config.serverdir;
    let found = NodeInfo::load(dir)?;
    let replica = found.clone().filter(|found| found.role == Role::Replica);
    let mut info = NodeInfo::settle(found, config.role, config.master_url.as_deref())?;
    settle_filter(config, writer, replica.is_some(), &info)?;
    if let Some(mut replica) = replica.filter(|_| info.role != Role::Replica) {
        log::warn!("this node was a replica; its options make it one that takes changes itself");
        replica.promote(writer.store().epoch() + 1, &now());
        info.changes = replica.changes;
    }
    info.save(dir)?;
    begin_promised(&info, writer)?;
    Ok(info)
}

/// What this node takes over of its master's indexes. Who has a part of them does not become a master by an option.
fn settle_filter(
    config: &Config,
    writer: &Writer,
    was_replica: bool,
    info: &NodeInfo,
) -> Result<()> {
    let asked = Some(&config.replicate).filter(|names| !names.is_empty());
    let asked = asked.map(|names| Filter::of_names(names)).transpose()?;
    if info.role == Role::Replica {
        return Filter::settle(writer, asked).map(drop);
    }
    match (Filter::recorded(writer.store())?, asked) {
        (Some(held), _) if was_replica => Err(Error::conflict(format!(
            "this folder replicates {held} only, so it starts as a replica. To make it the master all the same, without \
             all other indexes, run `twinpi promote --accept-loss`"
        ))),
        (Some(held), Some(asked)) if held == asked => {
            log::warn!("--replicate {asked} is out of date and not heeded: this node was promoted");
            Ok(())
        }
        (_, Some(_)) => Err(Error::invalid("--replicate is for replicas, and this node is none")),
        (_, None) => Ok(()),
    }
}

/// What a running node says of itself to commands.
pub(super) fn role(info: &NodeInfo, store: &Arc<Store>) -> Json {
    json!({
        "role": info.role.as_str(),
        "uuid": info.uuid,
        "master-url": info.master_url,
        "epoch": store.epoch(),
        "serial": Serial::wire(store.clock().now()),
        "is-fenced": store.fence().is_some(),
    })
}

/// Answers a command to a running node; gives what it must be taken apart for.
pub(super) fn answer(
    hands: &Hands<'_>,
    (info, store): (&NodeInfo, &Arc<Store>),
    replica: Option<&Replica>,
    request: &Json,
    client: UnixStream,
) -> Option<Ordered> {
    let seen = || replica.and_then(Replica::seen);
    let ready = |change: &Change| {
        if let (Change::Promote { is_loss_accepted }, Some(replica)) = (change, replica) {
            // What the master is ahead is no objection if it yields, and gives it.
            let plan = Plan::make(store, None, false)?;
            plan.check(*is_loss_accepted)?;
            let taken = replica.take_over(plan.epoch, hands.config.outside_url.as_deref());
            taken.or_else(|error| if *is_loss_accepted { Ok(()) } else { Err(error) })?;
        }
        hands.check(store, info, seen(), change)
    };
    let result = match Change::of_json(request) {
        Some(Change::Plan) => require_replica(info)
            .and_then(|()| planned(&Plan::make(store, seen(), true)?))
            .map(Outcome::into_json),
        Some(change) => match ready(&change) {
            Ok(()) => return Some(Ordered { change, client }),
            Err(error) => Err(error),
        },
        None if request["do"] == "role" => Ok(role(info, store)),
        None => Err(Error::invalid("this version does not know that command")),
    };
    control::reply(&client, &result);
    None
}

/// Does what was ordered, after the node was taken apart.
pub(super) fn obey(hands: &Hands<'_>, dir: &Path, ordered: &Ordered) {
    let done = || {
        let (_store, writer) = store::open(dir, 1)?;
        let info =
            NodeInfo::load(dir)?.ok_or_else(|| Error::new(Kind::Internal, "no node's folder"))?;
        hands.carry_out(&writer, info, &ordered.change)
    };
    let result = done().map(Outcome::into_json);
    if let Err(error) = &result {
        log::error!("{:?} was not done: {error:?}", ordered.change);
    }
    control::reply(&ordered.client, &result);
}

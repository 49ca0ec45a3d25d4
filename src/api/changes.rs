//! `GET /+changes` and `GET /U/I/+changes`: the last transactions in words, for programs that follow along, and which
//! replicas have each of them. The work for one answer does not grow with the log.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use serde_json::{Map, Value as Json, json};

use crate::deadline::Deadline;
use crate::error::{Error, Result};
use crate::http::request::Request;
use crate::http::response::{Park, Reply, Response};
use crate::model::acl::{Identity, Permission};
use crate::model::changes::{self, Part, Sight};
use crate::model::index::{self, Index};
use crate::model::time;
use crate::names::IndexName;
use crate::replication::filter::Filter;
use crate::replication::replicas::Replica;
use crate::serial::Serial;
use crate::store::changelog::Written;
use crate::store::codec::RawEntry;

use super::receipts::Call;
use super::{App, Node, access, ask, at, wait};

/// How many changes are shown if the request does not say, and at most.
const SHOWN: (u64, u64) = (50, 200);
/// How many entries are looked at for one answer, whether they are shown or not.
const SCANNED_MAX: usize = 1000;
/// How many bytes of entries are read for one answer, with those that are compared; one entry more at most.
const READ_BYTES_MAX: usize = 8 << 20;
/// How many bytes of entries are held at once, one entry more at most.
const PIECE_BYTES: usize = 1 << 20;
/// The longest wait for the next change.
const WAIT_MAX: Duration = Duration::from_secs(300);
/// How many replicas are shown.
const REPLICAS_MAX: usize = 100;

/// What is asked for.
struct Wish {
    request: Request,
    since: Option<Serial>,
    index: Option<IndexName>,
    limit: usize,
    deadline: Deadline,
}

/// A change as far as somebody may see it.
#[derive(Clone, Debug)]
pub(super) struct Shown {
    /// Its serial.
    pub serial: Serial,
    /// When it was made, and how that is known.
    pub time: Option<(SystemTime, &'static str)>,
    /// Who made it, if the record says so.
    pub who: Option<String>,
    /// The indexes that it is about.
    pub indexes: Vec<IndexName>,
    /// The sentences.
    pub what: Vec<String>,
    /// How many changes got no sentence.
    pub more: usize,
}

/// `GET /+changes[?since=N][&index=U/I][&limit=L][&timeout=S]`: what followed serial N, the oldest first; without
/// `since` the last ones. With `timeout` the answer waits until there is something to show.
///
/// # Errors
/// `Kind::Invalid` for a parameter that is none; `Kind::NotFound` if there is no such index, and those of reading it.
pub fn show(app: &Call, request: &Request, index: Option<IndexName>) -> Result<Reply> {
    let limit = ask::number(request, "limit")?.unwrap_or(SHOWN.0).clamp(1, SHOWN.1);
    let asked = || ask::parameter(request, "index").map(|name| IndexName::parse(&name)).transpose();
    let index = match index {
        Some(index) => Some(index),
        None => asked()?,
    };
    if let Some(name) = &index {
        drop(app.read_index(request, name)?);
    }
    let since = match ask::parameter(request, "since") {
        None => app.store.clock().now().and_then(|now| Serial::new(now.get().checked_sub(limit)?)),
        Some(text) => text
            .parse()
            .ok()
            .and_then(Serial::from_wire)
            .ok_or_else(|| Error::invalid(format!("'since' is no serial: '{text}'")))?,
    };
    let span = wait::timeout(request, Duration::ZERO, WAIT_MAX)?;
    let limit = usize::try_from(limit).unwrap_or(1);
    let (request, deadline) = (request.without_body(), Deadline::after(span));
    Ok(go(app, Wish { request, since, index, limit, deadline }))
}

/// Answers with what there is, or waits on if that is nothing.
fn go(app: &Arc<App>, mut wish: Wish) -> Reply {
    let page = match Page::collect(app, &wish) {
        Ok(page) => page,
        Err(error) => return Reply::Now(ask::failure(&error, true)),
    };
    let is_at_end = page.next == app.store.clock().now();
    if !page.shown.is_empty() || !is_at_end || wish.deadline.is_past() {
        return Reply::Now(page.answer(app));
    }
    wish.since = page.next;
    let (app, deadline) = (app.clone(), wish.deadline);
    let wanted = Serial::following(page.next);
    let resume = move || match app.store.clock().now() < Some(wanted) && !deadline.is_past() {
        // The client asks something else on this connection, or the node stops.
        true => Reply::Now(page.answer(&app)),
        false => go(&app, wish),
    };
    Reply::Park(Park { wanted: Some(wanted), bell: None, deadline, resume: Box::new(resume) })
}

/// One answer.
struct Page {
    since: Option<Serial>,
    /// What the next request gives as `since`.
    next: Option<Serial>,
    shown: Vec<Shown>,
    replicas: Vec<(String, Replica)>,
    files_here: FilesUpTo,
}

impl Page {
    fn collect(app: &App, wish: &Wish) -> Result<Self> {
        let (replicas, files_here) = (replicas(app), files_here(app)?);
        let (since, shown) = (wish.since, Vec::new());
        let mut page = Self { since, next: since, shown, replicas, files_here };
        let Some(end) = app.store.clock().now() else { return Ok(page) };
        let mut eyes = Eyes::new(app, &wish.request, wish.index.as_ref());
        let mut scanned = 0;
        while page.next < Some(end) {
            let from = Serial::following(page.next);
            for (serial, entry) in app.store.entries(from, end, PIECE_BYTES)? {
                scanned += 1;
                page.shown.extend(eyes.show(serial, &entry)?);
                page.next = Some(serial);
                let is_full = wish.limit <= page.shown.len();
                if is_full || SCANNED_MAX <= scanned || READ_BYTES_MAX <= eyes.read {
                    return Ok(page);
                }
            }
        }
        Ok(page)
    }

    fn answer(&self, app: &App) -> Response {
        let now = app.store.clock().now();
        let replicas = self.replicas.iter().map(|(uuid, replica)| {
            let mut shown = json!({
                "serial": Serial::wire(replica.held),
                "files-serial": replica.files.map(|files| Serial::wire(files.serial)),
                "files-missing": replica.files.map(|files| files.missing),
                "outside-url": replica.outside_url,
                "replicate": replica.replicate.as_ref().map(Filter::to_json),
            });
            shown["is-following"] = replica.is_live().into();
            (uuid.clone(), shown)
        });
        let result = json!({
            "since": Serial::wire(self.since),
            "next": Serial::wire(self.next),
            "serial": Serial::wire(now),
            "changes": self.shown.iter().map(|shown| self.change(shown)).collect::<Vec<_>>(),
            "replicas": replicas.collect::<Map<_, _>>(),
        });
        at(now, ask::result(200, "changes", result)).with_header("Cache-Control", "no-store")
    }

    fn change(&self, shown: &Shown) -> Json {
        let (at, source) = shown.time.unzip();
        let has = |replica: &Replica| {
            let (has, files) = arrived(replica, shown.serial);
            json!({"has": has, "files": files})
        };
        json!({
            "serial": shown.serial.get(),
            "time": at.map(time::stamp),
            "time-is": source,
            "who": shown.who,
            "indexes": shown.indexes.iter().map(ToString::to_string).collect::<Vec<_>>(),
            "what": shown.what,
            "more": shown.more,
            "here": {"has": true, "files": files_are_here(self.files_here, shown.serial)},
            "replicas": self.replicas.iter().map(|(uuid, r)| (uuid.clone(), has(r))).collect::<Map<_, _>>(),
        })
    }
}

/// Up to which serial all files are on this node; the outer one is none if that is not for this node to have.
pub(super) type FilesUpTo = Option<Option<Serial>>;

/// How far the files of this node have come.
pub(super) fn files_here(app: &App) -> Result<FilesUpTo> {
    Ok(match &app.node {
        Node::Master { .. } => Some(app.store.clock().now()),
        Node::Replica(replica) => replica.files_up_to()?.map(|files| files.serial),
    })
}

/// Whether all files up to a serial are on this node; none where that is not for it to have.
pub(super) fn files_are_here(here: FilesUpTo, serial: Serial) -> Option<bool> {
    here.map(|here| Some(serial) <= here)
}

/// The replicas that are shown: those that follow first.
pub(super) fn replicas(app: &App) -> Vec<(String, Replica)> {
    let mut replicas = app.serves().map(|master| master.replicas().all()).unwrap_or_default();
    replicas.sort_by_key(|(_, replica)| !replica.is_live());
    replicas.truncate(REPLICAS_MAX);
    replicas
}

/// Whether a replica has a change, and the files up to it; none where it does not tell.
pub(super) fn arrived(replica: &Replica, serial: Serial) -> (bool, Option<bool>) {
    let has = replica.has(serial);
    (has, replica.files.map(|files| has && Some(serial) <= files.serial))
}

/// At most `limit` changes before a serial that the asker may see, the newest first, and the oldest serial that was
/// looked at.
pub(super) fn before(
    eyes: &mut Eyes<'_>,
    mut at: Option<Serial>,
    limit: usize,
) -> Result<(Vec<Shown>, Option<Serial>)> {
    let (mut shown, mut oldest) = (Vec::new(), None);
    for _ in 0..SCANNED_MAX {
        let Some(serial) = at else { break };
        for (_, entry) in eyes.app.store.entries(serial, serial, 0)? {
            shown.extend(eyes.show(serial, &entry)?);
        }
        oldest = Some(serial);
        at = serial.get().checked_sub(1).and_then(Serial::new);
        if limit <= shown.len() || READ_BYTES_MAX <= eyes.read {
            break;
        }
    }
    Ok((shown, oldest))
}

/// At most `limit` changes after a serial that the asker may see, the oldest first.
pub(super) fn after(
    eyes: &mut Eyes<'_>,
    mut at: Option<Serial>,
    limit: usize,
) -> Result<Vec<Shown>> {
    let mut shown = Vec::new();
    let end = eyes.app.store.clock().now();
    for _ in 0..SCANNED_MAX {
        if end <= at || limit <= shown.len() || READ_BYTES_MAX <= eyes.read {
            break;
        }
        let serial = Serial::following(at);
        for (_, entry) in eyes.app.store.entries(serial, serial, 0)? {
            shown.extend(eyes.show(serial, &entry)?);
        }
        at = Some(serial);
    }
    Ok(shown)
}

/// The value that a path had at a serial, out of the log.
fn value_at(app: &App, path: &str, serial: Serial, read: &mut usize) -> Result<Option<Vec<u8>>> {
    let Some((_, entry)) = app.store.entries(serial, serial, 0)?.pop() else { return Ok(None) };
    *read += entry.len();
    let entry = RawEntry::parse(&entry)?;
    let change = entry.changes().find(|change| change.path == path);
    Ok(change.and_then(|change| change.value).map(<[u8]>::to_vec))
}

/// What the asker may see.
pub(super) struct Eyes<'a> {
    app: &'a App,
    request: &'a Request,
    /// The one index that was asked for.
    index: Option<&'a IndexName>,
    /// Indexes as they are now; none for those that are no more.
    indexes: BTreeMap<IndexName, Option<Index>>,
    /// Who asks, once that makes a difference.
    who: Option<Identity>,
    /// How many bytes of entries were read.
    read: usize,
}

impl<'a> Eyes<'a> {
    /// Those of who sent the request.
    pub fn new(app: &'a App, request: &'a Request, index: Option<&'a IndexName>) -> Self {
        Self { app, request, index, indexes: BTreeMap::new(), who: None, read: 0 }
    }

    /// A change as it is shown; `None` if the asker may see nothing of it or asked for something else.
    fn show(&mut self, serial: Serial, entry: &[u8]) -> Result<Option<Shown>> {
        let (app, mut read) = (self.app, self.read + entry.len());
        let mut before = |path: &str, serial: Serial| value_at(app, path, serial, &mut read);
        let account = changes::tell(entry, &mut before)?;
        self.read = read;
        let mut parts = Vec::new();
        for part in account.parts {
            if self.is_asked_for(&part) && self.may_see(&part.sight)? {
                parts.push(part);
            }
        }
        if parts.is_empty() {
            return Ok(None);
        }
        let mut indexes: Vec<_> =
            parts.iter().filter_map(|part| name_of(&part.sight).cloned()).collect();
        indexes.sort();
        indexes.dedup();
        let logged = parts.iter().find_map(|part| part.at);
        Ok(Some(Shown {
            serial,
            time: self.time(serial, logged)?,
            who: parts.iter().find_map(|part| part.who.clone()),
            indexes,
            what: parts.into_iter().map(|part| part.text).collect(),
            more: account.more,
        }))
    }

    fn is_asked_for(&self, part: &Part) -> bool {
        self.index.is_none_or(|name| name_of(&part.sight) == Some(name))
    }

    fn may_see(&mut self, sight: &Sight) -> Result<bool> {
        let name = match sight {
            Sight::All => return Ok(true),
            Sight::Root => {
                let who = self.who()?;
                return Ok(who.user().is_some_and(|user| user.is_root()));
            }
            Sight::Index(name) => name,
        };
        if !self.indexes.contains_key(name) {
            let found = index::find(&self.app.store.read()?, name)?;
            self.indexes.insert(name.clone(), found);
        }
        match self.indexes.get(name).cloned().flatten() {
            Some(index) if index.is_open() => Ok(true),
            Some(index) => {
                let who = self.who()?;
                Ok(self.app.may_read(&who, &index))
            }
            // Who could read it is not known any more.
            None => {
                let who = self.who()?;
                Ok(self.app.policy.allows(&who, Permission::IndexModify(name)))
            }
        }
    }

    fn who(&mut self) -> Result<Identity> {
        if self.who.is_none() {
            self.who = Some(access::asker(self.app, self.request)?);
        }
        Ok(self.who.clone().unwrap_or(Identity::Anonymous))
    }

    /// When a change was made, and how that is known: it was noted at the commit, the record names it, or a replica
    /// noted when it applied the change.
    fn time(
        &self,
        serial: Serial,
        logged: Option<SystemTime>,
    ) -> Result<Option<(SystemTime, &'static str)>> {
        Ok(match (self.app.store.written(serial)?, logged) {
            (Some(Written::Committed(at)), _) => Some((at, "committed")),
            (_, Some(at)) => Some((at, "logged")),
            (Some(Written::Applied(at)), None) => Some((at, "applied")),
            (None, None) => None,
        })
    }
}

fn name_of(sight: &Sight) -> Option<&IndexName> {
    match sight {
        Sight::Index(name) => Some(name),
        Sight::All | Sight::Root => None,
    }
}

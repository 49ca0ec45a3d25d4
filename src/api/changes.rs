//! `GET /+changes`: the last transactions in words, for people and for programs that follow along, and which replicas
//! have each of them. The work for one answer does not grow with the log.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use serde_json::{Map, Value as Json, json};

use crate::deadline::Deadline;
use crate::error::{Error, Result};
use crate::http::request::Request;
use crate::http::response::{Park, Reply, Response};
use crate::model::acl::{Identity, Permission};
use crate::model::changes::{self, Account, Part, Sight};
use crate::model::index::{self, Index};
use crate::model::time;
use crate::names::IndexName;
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

/// `GET /+changes[?since=N][&index=U/I][&limit=L][&timeout=S]`: what followed serial N, the oldest first; without
/// `since` the last ones. With `timeout` the answer waits until there is something to show.
///
/// # Errors
/// `Kind::Invalid` for a parameter that is none; `Kind::NotFound` if there is no such index, and those of reading it.
pub fn show(app: &Call, request: &Request) -> Result<Reply> {
    let limit = ask::number(request, "limit")?.unwrap_or(SHOWN.0).clamp(1, SHOWN.1);
    let index = ask::parameter(request, "index").map(|name| IndexName::parse(&name)).transpose()?;
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
    Reply::Park(Park { wanted, bell: None, deadline, resume: Box::new(resume) })
}

/// One answer.
struct Page {
    since: Option<Serial>,
    /// What the next request gives as `since`.
    next: Option<Serial>,
    shown: Vec<Json>,
    replicas: Vec<(String, Replica)>,
}

impl Page {
    fn collect(app: &App, wish: &Wish) -> Result<Self> {
        let replicas = app.serves().map(|master| master.replicas().all()).unwrap_or_default();
        let mut page = Self { since: wish.since, next: wish.since, shown: Vec::new(), replicas };
        page.replicas.sort_by_key(|(_, replica)| !replica.is_live());
        page.replicas.truncate(REPLICAS_MAX);
        let Some(end) = app.store.clock().now() else { return Ok(page) };
        let files_here = match &app.node {
            Node::Master { .. } => Some(Some(end)),
            Node::Replica(replica) => replica.files_up_to()?.map(|files| files.serial),
        };
        let mut eyes = Eyes { app, wish, files_here, indexes: BTreeMap::new(), who: None };
        let (mut scanned, mut read) = (0, 0);
        while page.next < Some(end) {
            let from = Serial::following(page.next);
            for (serial, entry) in app.store.entries(from, end, PIECE_BYTES)? {
                read += entry.len();
                scanned += 1;
                let mut before =
                    |path: &str, serial: Serial| value_at(app, path, serial, &mut read);
                let account = changes::tell(&entry, &mut before)?;
                page.shown.extend(eyes.show(serial, account, &page.replicas)?);
                page.next = Some(serial);
                let is_full = wish.limit <= page.shown.len();
                if is_full || SCANNED_MAX <= scanned || READ_BYTES_MAX <= read {
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
            });
            shown["is-following"] = replica.is_live().into();
            (uuid.clone(), shown)
        });
        let result = json!({
            "since": Serial::wire(self.since),
            "next": Serial::wire(self.next),
            "serial": Serial::wire(now),
            "changes": self.shown,
            "replicas": replicas.collect::<Map<_, _>>(),
        });
        at(now, ask::result(200, "changes", result)).with_header("Cache-Control", "no-store")
    }
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
struct Eyes<'a> {
    app: &'a App,
    wish: &'a Wish,
    /// Up to which serial all files are here; the outer one is none if that is not for this node to have.
    files_here: Option<Option<Serial>>,
    /// Indexes as they are now; none for those that are no more.
    indexes: BTreeMap<IndexName, Option<Index>>,
    /// Who asks, once that makes a difference.
    who: Option<Identity>,
}

impl Eyes<'_> {
    /// A change as it is shown; `None` if the asker may see nothing of it or asked for something else.
    fn show(
        &mut self,
        serial: Serial,
        account: Account,
        replicas: &[(String, Replica)],
    ) -> Result<Option<Json>> {
        let mut parts = Vec::new();
        for part in account.parts {
            if self.is_asked_for(&part) && self.may_see(&part.sight)? {
                parts.push(part);
            }
        }
        if parts.is_empty() {
            return Ok(None);
        }
        let mut indexes: Vec<_> = parts.iter().filter_map(|part| name_of(&part.sight)).collect();
        indexes.sort();
        indexes.dedup();
        let logged = parts.iter().find_map(|part| part.at);
        let (time, source) = self.time(serial, logged)?;
        Ok(Some(json!({
            "serial": serial.get(),
            "time": time,
            "time-is": source,
            "who": parts.iter().find_map(|part| part.who.as_deref()),
            "indexes": indexes.iter().map(ToString::to_string).collect::<Vec<_>>(),
            "what": parts.iter().map(|part| part.text.as_str()).collect::<Vec<_>>(),
            "more": account.more,
            "here": {"has": true, "files": self.files_here.map(|here| Some(serial) <= here)},
            "replicas": replicas.iter().map(|(uuid, r)| (uuid.clone(), has(r, serial))).collect::<Map<_, _>>(),
        })))
    }

    fn is_asked_for(&self, part: &Part) -> bool {
        self.wish.index.as_ref().is_none_or(|name| name_of(&part.sight) == Some(name))
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
            self.who = Some(access::asker(self.app, &self.wish.request)?);
        }
        Ok(self.who.clone().unwrap_or(Identity::Anonymous))
    }

    /// When a change was made, and how that is known: it was noted at the commit, the record names it, or a replica
    /// noted when it applied the change.
    fn time(
        &self,
        serial: Serial,
        logged: Option<SystemTime>,
    ) -> Result<(Option<String>, Option<&'static str>)> {
        let found = match (self.app.store.written(serial)?, logged) {
            (Some(Written::Committed(at)), _) => Some((at, "committed")),
            (_, Some(at)) => Some((at, "logged")),
            (Some(Written::Applied(at)), None) => Some((at, "applied")),
            (None, None) => None,
        };
        Ok(found.map_or((None, None), |(at, source)| (Some(time::stamp(at)), Some(source))))
    }
}

fn name_of(sight: &Sight) -> Option<&IndexName> {
    match sight {
        Sight::Index(name) => Some(name),
        Sight::All | Sight::Root => None,
    }
}

/// Whether a replica has a change, and the files up to it; null where it does not tell.
fn has(replica: &Replica, serial: Serial) -> Json {
    let files = replica.files.map(|files| replica.has(serial) && Some(serial) <= files.serial);
    json!({"has": replica.has(serial), "files": files})
}

//! Answers that mirrors may have a part in: at once if all that is needed is known, else on a thread that may wait for
//! another server.

use std::sync::Arc;
use std::time::Instant;

use crate::error::{Error, Kind, Result};
use crate::http::request::Request;
use crate::http::response::{Reply, Response};
use crate::mirror::pages::{Look, STALE, Standing};
use crate::model::index::Index;
use crate::model::walk::{self, Walk};
use crate::names::{IndexName, ProjectName};
use crate::store::txn::{Read, ReadTxn};

use super::access::Reading;
use super::cache::Life;
use super::{App, Node, ask};

/// How the mirrors of an answer stand.
#[derive(Default)]
pub struct Mirrored(Vec<(IndexName, Standing)>);

impl Mirrored {
    /// How long what is made now may be used.
    pub fn life(&self) -> Life {
        let fresh = self.0.iter().filter_map(|(_, standing)| match standing {
            Standing::Fresh { at, until } => Some((*at, *until)),
            _ => None,
        });
        let earliest = |one: Option<Instant>, other: Option<Instant>| match (one, other) {
            (Some(one), Some(other)) => Some(one.min(other)),
            (one, other) => one.or(other),
        };
        fresh.fold(Life::default(), |life, (at, until)| Life {
            looked_at: earliest(life.looked_at, at),
            until: earliest(life.until, until),
        })
    }
    /// Why the answer may not be what the upstreams have now; `None` if it is.
    pub fn doubt(&self) -> Option<String> {
        self.0.iter().find_map(|(name, standing)| match standing {
            Standing::Stale(why) | Standing::Failed(_, why) => Some(format!("{name}: {why}")),
            _ => None,
        })
    }
    /// Whether a mirror said that it does not have the project, which is not remembered with the page.
    pub fn is_complete(&self) -> bool {
        self.0.iter().all(|(_, standing)| matches!(standing, Standing::Fresh { .. }))
    }
    /// What is to be said of one mirror, for people who ask why.
    pub fn note(&self, index: &IndexName) -> Option<String> {
        let (_, standing) = self.0.iter().find(|(name, _)| name == index)?;
        match standing {
            Standing::Stale(why) => Some(format!("shown as it was last seen: {why}")),
            Standing::Failed(_, why) => Some(why.clone()),
            Standing::Absent => Some("the upstream does not have the project".to_owned()),
            Standing::Fresh { .. } => None,
        }
    }
    /// The error for a project that nobody is known to hold: not found only if all mirrors could be asked, since a
    /// client takes that for leave to look elsewhere.
    pub fn absence(&self, absent: Error) -> Error {
        let failed = self.0.iter().find_map(|(name, standing)| match standing {
            Standing::Failed(kind, why) => Some((name, *kind, why)),
            _ => None,
        });
        match failed {
            Some((name, Kind::Unavailable, why)) => Error::unavailable(format!("{name}: {why}")),
            Some((name, _, why)) => Error::new(Kind::BadGateway, format!("{name}: {why}")),
            None => absent,
        }
    }
}

/// The walk of a project's indexes as the one who asks may see it, and the transaction that it was made in. Not to be
/// called within another: a password may have to be checked first.
///
/// # Errors
/// Those of `App::read_index`.
pub fn walk(
    app: &App,
    request: &Request,
    name: &IndexName,
    project: &ProjectName,
) -> Result<(ReadTxn, Walk)> {
    let Reading { txn, index, who } = app.read_index(request, name)?;
    let walk = walk::walk(&txn, index, project, |index| Ok(app.may_read(&who, index)))?;
    Ok((txn, walk))
}

/// Answers by `make` once the mirrors that have a part in a project were looked at.
///
/// # Errors
/// Those of `walk` and `make`.
pub fn answer(
    app: &Arc<App>,
    request: Request,
    name: &IndexName,
    project: ProjectName,
    make: impl FnOnce(&App, &Request, &Mirrored) -> Result<Response> + Send + 'static,
) -> Result<Reply> {
    let (mirrors, known) = {
        let (txn, walk) = walk(app, &request, name, &project)?;
        let mirrors = walk.mirrors();
        let known = look(app, &txn, &mirrors, &project)?;
        (mirrors, known)
    };
    if let Some(mirrored) = known {
        return make(app, &request, &mirrored).map(Reply::Now);
    }
    let (app, is_json) = (app.clone(), ask::is_json(&request));
    Ok(Reply::Remote(Box::new(move || {
        let made =
            ensure(&app, &mirrors, &project).and_then(|mirrored| make(&app, &request, &mirrored));
        match made {
            // See `dispatch`: a replica lets its master say so.
            Err(error) if error.kind == Kind::NotFound => match &app.node {
                Node::Replica(replica) => replica.relay(request.without_body()),
                _ => Reply::Now(ask::failure(&error, is_json)),
            },
            Err(error) => Reply::Now(ask::failure(&error, is_json)),
            Ok(response) => Reply::Now(response),
        }
    })))
}

/// How mirrors stand, if none of them has to be asked.
fn look(
    app: &App,
    txn: &impl Read,
    mirrors: &[Index],
    project: &ProjectName,
) -> Result<Option<Mirrored>> {
    let mut known = Vec::new();
    for index in mirrors {
        match app.mirrors.look(txn, index, project)? {
            Look::Ready(standing) => known.push((index.name.clone(), standing)),
            Look::Ask => return Ok(None),
        }
    }
    Ok(Some(Mirrored(known)))
}

/// Has mirrors looked at, and waits for it.
///
/// # Errors
/// `Kind::Internal` if the database fails.
pub fn ensure(app: &App, mirrors: &[Index], project: &ProjectName) -> Result<Mirrored> {
    let standings = app.mirrors.ensure_all(mirrors, project)?;
    let names = mirrors.iter().map(|index| index.name.clone());
    Ok(Mirrored(names.zip(standings).collect()))
}

/// Marks an answer that shows what was seen last: nobody in between may keep it.
pub fn mark_stale(mut response: Response, why: &str) -> Response {
    response.headers.retain(|(name, _)| !name.eq_ignore_ascii_case("cache-control"));
    let why: String = why.chars().filter(|c| (' '..='~').contains(c)).take(200).collect();
    response
        .with_header("Cache-Control", "max-age=0, must-revalidate, no-cache, no-store")
        .with_header("Expires", "Thu, 01 Jan 1970 00:00:00 GMT")
        .with_header(STALE, why)
}

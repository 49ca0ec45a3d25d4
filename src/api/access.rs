//! Who may read what, asked of each index that an answer is made from.
//!
//! An index says in `acl_pkg_read` who may read it. The index that a request addresses is checked before its handler
//! runs (`check`), so no handler can forget it. Bases are checked one by one where they are walked: what the asker may
//! not read contributes nothing.

use std::borrow::Cow;
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::http::request::Request;
use crate::http::response::{Reply, Response};
use crate::mirror::upstream::without_credentials;
use crate::model::acl::{Identity, Permission};
use crate::model::index::{self, Index};
use crate::model::tokens::Grant;
use crate::model::{mirrored, stage};
use crate::names::{IndexName, ProjectName};
use crate::replication::wire;
use crate::store::key::{self, FilePath};
use crate::store::txn::{Read, ReadTxn};

use super::route::{DocPage, FileVerb, Route, Verb};
use super::{App, auth};

/// Whether what is made from these indexes is the same for everybody, so that it may be kept under an address alone.
pub fn is_open(order: &[Index]) -> bool {
    order.iter().all(Index::is_open)
}

const MIRROR_URL: &str = "mirror_url";

/// Whether its configuration has something that is not for everybody who may read it.
fn has_credentials(index: &Index) -> bool {
    let url = index.config.text(MIRROR_URL).and_then(|url| url.split_once("://"));
    url.is_some_and(|(_, rest)| rest.split(['/', '?', '#']).next().unwrap_or(rest).contains('@'))
}

/// An index that is being read.
pub struct Reading {
    /// The state that is shown.
    pub txn: ReadTxn,
    /// The index.
    pub index: Index,
    /// Who reads, for `App::may_read`; anonymous where it makes no difference.
    pub who: Identity,
}

/// What a request does with the index that it addresses.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Use {
    /// Reads what it is or holds.
    Read,
    /// Deletes something that it holds.
    Delete,
}

/// The index that a request addresses, and what for. None where no index is read: discovery tells no more than the
/// address does, whoever makes, changes and deletes indexes is told no more than the right to do so, and the handler of
/// uploads tells upload clients in their way; what it reads for a push it asks for itself.
fn addressed(route: &Route) -> Option<(Cow<'_, IndexName>, Use)> {
    let content = |verb: &Verb| if *verb == Verb::Delete { Use::Delete } else { Use::Read };
    let of_file =
        |path: &FilePath, what| Some((Cow::Owned(IndexName::parse(path.index()).ok()?), what));
    match route {
        Route::Index(Verb::Show, index)
        | Route::Rpc(index)
        | Route::SimpleList(index)
        | Route::Simple(index, _)
        | Route::Refresh(index, _)
        | Route::Legacy(index, ..)
        | Route::Changes(Some(index))
        | Route::Results(index, _)
        | Route::Docs(index, _) => Some((Cow::Borrowed(index), Use::Read)),
        Route::Project(verb, index, _) | Route::Version(verb, index, ..) => {
            Some((Cow::Borrowed(index), content(verb)))
        }
        Route::File(FileVerb::Get | FileVerb::Result, path) | Route::Metadata(path) => {
            of_file(path, Use::Read)
        }
        Route::File(FileVerb::Delete, path) => of_file(path, Use::Delete),
        Route::Root
        | Route::Api(_)
        | Route::Login
        | Route::Search
        | Route::Suggest
        | Route::SearchHelp
        | Route::Static(_)
        | Route::SignIn
        | Route::Status
        | Route::Wait
        | Route::Changes(None)
        | Route::Live
        | Route::Alive
        | Route::Ready
        | Route::Badge
        | Route::Metrics
        | Route::Submit(_)
        | Route::AuthCheck
        | Route::Receipt(_)
        | Route::Changelog { .. }
        | Route::Position(_)
        | Route::Timelines
        | Route::Snapshot
        | Route::SnapshotPiece(..)
        | Route::Fence
        | Route::Lost
        | Route::Mend(_)
        | Route::User(..)
        | Route::Tokens(_)
        | Route::TokenCreate(_)
        | Route::TokenRevoke(..)
        | Route::Index(..) => None,
    }
}

/// The index that a request addresses, if it reads one.
pub fn addressed_index(route: &Route) -> Option<Cow<'_, IndexName>> {
    addressed(route).map(|(name, _)| name)
}

/// Refuses who may not read the index that a request addresses. Gives whether the answer is for its asker alone.
///
/// # Errors
/// `Kind::Unauthorized` for those who gave no valid credentials, `Kind::Forbidden` for others; `Kind::Unavailable` if too
/// many passwords are being checked.
pub fn check(app: &App, request: &Request, route: &Route) -> Result<bool> {
    let Some((name, what)) = addressed(route) else { return Ok(false) };
    // What is not there is the handler's to tell.
    let Some(index) = index::find(&app.store.read()?, &name)? else { return Ok(false) };
    if index.is_open() {
        return Ok(false);
    }
    let who = narrow(app, route, identify(app, request)?)?;
    let may_delete =
        || what == Use::Delete && app.policy.allows(&who, Permission::DeleteEntries(&index));
    match app.may_read(&who, &index) || may_delete() {
        true => Ok(true),
        false => Err(refusal(app, request, &who)),
    }
}

fn refusal(app: &App, request: &Request, who: &Identity) -> Error {
    match who {
        Identity::Anonymous => Error::unauthorized(
            auth::complaint(app, request)
                .unwrap_or_else(|| "authentication is required to read this index".to_owned()),
        ),
        // "Not found" would be leave to look elsewhere, where anybody may have put that name.
        _ => Error::forbidden("package read forbidden"),
    }
}

/// Who asks for what a request addresses. A token that is not for the project there comes without its rights.
///
/// # Errors
/// `Kind::Unavailable` if too many passwords are being checked.
pub fn asker(app: &App, request: &Request) -> Result<Identity> {
    let who = identify(app, request)?;
    match (&who, Route::parse(request.method, request.path())) {
        (Identity::Token(_), Ok(route)) => narrow(app, &route, who),
        _ => Ok(who),
    }
}

/// Takes the rights from a token that is for some projects, where something else is addressed.
fn narrow(app: &App, route: &Route, who: Identity) -> Result<Identity> {
    let Identity::Token(grant) = &who else { return Ok(who) };
    // Whoever uploads names the project in the form, and the handler looks there.
    if grant.is_for_all() || matches!(route, Route::Submit(_)) {
        return Ok(who);
    }
    Ok(match project_of(app, route)? {
        Some(project) if grant.is_for(&project) => who,
        _ => Identity::Token(Arc::new(Grant { rights: Vec::new(), ..Grant::clone(grant) })),
    })
}

/// The one project that a request is about.
fn project_of(app: &App, route: &Route) -> Result<Option<ProjectName>> {
    match route {
        Route::Simple(_, project)
        | Route::Refresh(_, project)
        | Route::Project(_, _, project)
        | Route::Version(_, _, project, _)
        | Route::Legacy(_, project, _)
        | Route::Docs(_, DocPage { project, .. }) => Ok(Some(ProjectName::new(project))),
        Route::File(_, path) | Route::Metadata(path) => {
            let record = app.store.read()?.get(&key::File(path))?;
            Ok(match record.as_ref().and_then(|record| record.text("project")) {
                Some(project) => Some(ProjectName::new(project)),
                None => mirrored::project_of(path.name()),
            })
        }
        _ => Ok(None),
    }
}

/// Who sent a request; a replica if it proves to be one.
fn identify(app: &App, request: &Request) -> Result<Identity> {
    if request.headers.has(wire::REPLICA_UUID)
        && let Some(master) = app.serves()
        && let Ok(Some(_)) = master.replica_of(request)
    {
        return Ok(Identity::Replica);
    }
    auth::identify(app, request)
}

impl App {
    /// Whether `who` may read an index.
    pub fn may_read(&self, who: &Identity, index: &Index) -> bool {
        self.policy.allows(who, Permission::Read(index))
    }

    /// Begins to read an index, for one who may. Where it and all its bases are open nobody is asked who they are: a
    /// wrong password costs nothing there. No transaction is held while a password is checked.
    ///
    /// # Errors
    /// `Kind::NotFound` if there is no such index; those of `check`.
    pub fn read_index(&self, request: &Request, name: &IndexName) -> Result<Reading> {
        let txn = self.store.read()?;
        let index = index::require(&txn, name)?;
        if is_open(&stage::resolution_order(&txn, index.clone())?) {
            return Ok(Reading { txn, index, who: Identity::Anonymous });
        }
        drop(txn);
        let who = asker(self, request)?;
        let txn = self.store.read()?;
        let index = index::require(&txn, name)?;
        match self.may_read(&who, &index) {
            true => Ok(Reading { txn, index, who }),
            false => Err(refusal(self, request, &who)),
        }
    }

    /// An index as it is shown: with the credentials for its upstream only to those who may change it.
    ///
    /// # Errors
    /// `Kind::NotFound` if there is no such index; `Kind::Unavailable` if too many passwords are being checked.
    pub fn shown_index(&self, request: &Request, name: &IndexName) -> Result<Index> {
        let index = index::require(&self.store.read()?, name)?;
        match has_credentials(&index) {
            true => Ok(self.veil(&asker(self, request)?, index)),
            false => Ok(index),
        }
    }

    /// Takes the credentials for its upstream out of an index that `who` may not change.
    pub fn veil(&self, who: &Identity, mut index: Index) -> Index {
        if has_credentials(&index)
            && !self.policy.allows(who, Permission::IndexModify(&index.name))
            && let Some(url) = index.config.text(MIRROR_URL).map(without_credentials)
        {
            index.config.set(MIRROR_URL, url);
        }
        index
    }

    /// Who asks for something made from several indexes that all address none; anonymous where it makes no difference.
    ///
    /// # Errors
    /// `Kind::Unavailable` if too many passwords are being checked.
    pub fn reader_of(&self, request: &Request, indexes: &[Index]) -> Result<Identity> {
        if is_open(indexes) && !indexes.iter().any(has_credentials) {
            Ok(Identity::Anonymous)
        } else {
            asker(self, request)
        }
    }
}

/// Keeps an answer that not everybody may see out of caches that others share.
pub fn keep_private(reply: Reply) -> Reply {
    match reply {
        Reply::Now(response) => Reply::Now(mark_private(response)),
        Reply::Park(mut park) => {
            let resume = park.resume;
            park.resume = Box::new(move || keep_private(resume()));
            Reply::Park(park)
        }
        Reply::Remote(job) => Reply::Remote(Box::new(move || keep_private(job()))),
    }
}

fn mark_private(mut response: Response) -> Response {
    const NAME: &str = "Cache-Control";
    let given = response.header(NAME).unwrap_or_default().to_owned();
    response.headers.retain(|(name, _)| !name.eq_ignore_ascii_case(NAME));
    let others = given.split(',').map(str::trim);
    let others = others.filter(|word| !matches!(*word, "" | "public" | "private"));
    let value = std::iter::once("private").chain(others).collect::<Vec<_>>().join(", ");
    response.with_header(NAME, value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::request::Method;

    #[test]
    fn answers_for_one_asker_are_for_no_shared_cache() {
        for (given, kept) in [
            (None, "private"),
            (Some("max-age=5, immutable, public"), "private, max-age=5, immutable"),
            (Some("private"), "private"),
        ] {
            let mut response = Response::new(200);
            if let Some(given) = given {
                response = response.with_header("cache-control", given);
            }
            let Reply::Now(response) = keep_private(Reply::Now(response)) else { panic!("now") };
            assert_eq!(response.header("Cache-Control"), Some(kept));
            assert_eq!(response.headers.len(), 1);
        }
    }

    #[test]
    fn all_that_lies_below_an_index_addresses_it() {
        let index = IndexName::new("ann", "dev").expect("valid");
        for (method, path) in [
            (Method::Get, ""),
            (Method::Head, "/"),
            (Method::Get, "/+simple/"),
            (Method::Get, "/+simple/p/"),
            (Method::Post, "/+simple/p/refresh"),
            (Method::Get, "/p"),
            (Method::Get, "/p/1"),
            (Method::Get, "/p/1/+doc/index.html"),
            (Method::Get, "/p/1/+d/"),
            (Method::Get, "/pypi/p/json"),
            (Method::Get, "/pypi/p/1/json"),
            (Method::Delete, "/p/1"),
            (Method::Get, "/+f/012/3456789012345/p-1.whl"),
            (Method::Get, "/+f/012/3456789012345/p-1.whl.metadata"),
            (Method::Post, "/+f/012/3456789012345/p-1.whl"),
            (Method::Get, "/+e/a/p-1.whl"),
        ] {
            let route = Route::parse(method, &format!("/ann/dev{path}")).expect("a route");
            let name = addressed(&route).map(|(name, _)| name.into_owned());
            assert_eq!(name.as_ref(), Some(&index), "{path}: {route:?}");
        }
    }
}

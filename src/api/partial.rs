//! A replica that takes over some indexes: what is asked of the others is asked of its master, as the client.
//!
//! Users and the configurations of all indexes are here. So it is known which indexes an answer is made from, and an
//! answer that lacks one of them is never given: neither "not found" nor a page without a base's releases.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::http::request::Request;
use crate::http::response::Reply;
use crate::model::{index, stage};
use crate::names::IndexName;
use crate::replication::Replica;
use crate::replication::filter::Filter;
use crate::store::Store;
use crate::store::txn::{Read, ReadTxn};
use crate::sync::{Mutex, lock};

use super::route::{Access, FileVerb, Route, Verb};
use super::{App, access, ask, web};

/// Passes a request on that needs an index which is not here; gives it back if it does not.
///
/// # Errors
/// `Kind::Internal` if the database fails.
pub fn pass_on(
    app: &Arc<App>,
    replica: &Arc<Replica>,
    request: Request,
    route: &Route,
) -> Result<std::result::Result<Reply, Request>> {
    let Some(filter) = replica.filter().filter(|_| route.access() == Access::Read) else {
        return Ok(Err(request));
    };
    if let Route::File(FileVerb::Get, path) = route
        && !filter.has(path.index())
        && !ask::is_json(&request)
    {
        let error = Error::not_found("no such file");
        return Ok(Ok(replica.ask_master(&request, path, None, error)));
    }
    let why = match route {
        Route::Search | Route::Suggest => {
            format!("what is asked of all indexes is not found here: this node has {filter} only")
        }
        _ => match needed(app, &filter, &request, route)? {
            Some(name) => format!("{name} is not replicated here: this node has {filter}"),
            None => return Ok(Err(request)),
        },
    };
    if matches!(route, Route::Rpc(_)) {
        return Ok(Ok(replica.relay(request)));
    }
    let (app, replica) = (app.clone(), replica.clone());
    Ok(Ok(Reply::Remote(Box::new(move || {
        let answer = replica.read_there(request.without_body(), &why);
        Reply::Now(answer.unwrap_or_else(|error| match web::is_wanted(&request) {
            true => web::failure(&app, &request, &error),
            false => ask::failure(&error, ask::is_json(&request)),
        }))
    }))))
}

/// An index that the answer to a request is made from and that is not here.
fn needed(app: &App, filter: &Filter, request: &Request, route: &Route) -> Result<Option<String>> {
    // The configuration is here.
    let is_config = matches!(route, Route::Index(Verb::Show, _))
        && request.has_parameter("no_projects")
        && ask::is_json(request);
    if is_config {
        return Ok(None);
    }
    let single = match route {
        Route::File(FileVerb::Get, path) | Route::Metadata(path) => Some(path.index().to_owned()),
        Route::Changes(Some(index)) => Some(index.to_string()),
        Route::Changes(None) => ask::parameter(request, "index"),
        _ => None,
    };
    if let Some(name) = single {
        return Ok(Some(name).filter(|name| !filter.has(name)));
    }
    let Some(name) = access::addressed_index(route) else { return Ok(None) };
    Ok(lacking(&app.store.read()?, filter, &name)?.first().map(ToString::to_string))
}

/// Which of an index and its bases are not here.
fn lacking(txn: &impl Read, filter: &Filter, name: &IndexName) -> Result<Vec<IndexName>> {
    let Some(index) = index::find(txn, name)? else { return Ok(Vec::new()) };
    let order = stage::resolution_order(txn, index)?.into_iter().map(|index| index.name);
    Ok(order.filter(|name| !filter.has(&name.to_string())).collect())
}

/// Tells whoever runs a node what its filter cannot do: once what is wrong, and again what is wrong anew.
pub struct Warnings {
    store: Arc<Store>,
    filter: Filter,
    told: Mutex<BTreeSet<String>>,
}

impl Warnings {
    /// Nothing told yet.
    pub fn new(store: Arc<Store>, filter: Filter) -> Self {
        Self { store, filter, told: Mutex::default() }
    }

    /// Looks at the indexes as they are now.
    pub fn look(&self) {
        match self.store.read().and_then(|txn| self.all(&txn)) {
            Ok(all) => {
                let mut told = lock(&self.told);
                for warning in all.difference(&told) {
                    log::warn!("{warning}");
                }
                *told = all;
            }
            Err(error) => log::warn!("the indexes cannot be compared with --replicate: {error}"),
        }
    }

    fn all(&self, txn: &ReadTxn) -> Result<BTreeSet<String>> {
        let mut all = BTreeSet::new();
        for name in self.filter.names() {
            let parsed = IndexName::parse(name)?;
            if index::find(txn, &parsed)?.is_none() {
                all.insert(format!("--replicate names {name}, and there is no such index (yet)"));
            }
            for base in lacking(txn, &self.filter, &parsed)? {
                all.insert(format!(
                    "{name} is based on {base}, which --replicate does not name: requests for projects of {name} go to \
                     the master, and fail while it is away"
                ));
            }
        }
        Ok(all)
    }
}

//! Who may read what, asked of each index that an answer is made from.
//!
//! An index says in `acl_pkg_read` who may read it. The index that a request addresses is checked before its handler
//! runs. Bases are checked one by one where they are walked: what the asker may not read contributes nothing.

use crate::error::{Error, Result};
use crate::http::request::Request;
use crate::model::acl::{Identity, Permission};
use crate::model::index::Index;
use crate::model::stage;
use crate::replication::wire;

use super::{App, Node, auth};

/// Whether what is made from these indexes is the same for everybody, so that it may be kept under an address alone.
pub fn is_open(order: &[Index]) -> bool {
    order.iter().all(Index::is_open)
}

impl App {
    /// Whether `who` may read an index.
    pub fn may_read(&self, who: &Identity, index: &Index) -> bool {
        self.policy.allows(who, Permission::Read(index))
    }

    /// Who reads from an index, for `may_read`; refuses those who may not. Where it and all its bases are open nobody is
    /// asked who they are: a wrong password costs nothing there.
    ///
    /// # Errors
    /// `Kind::Unauthorized` for those who gave no valid credentials, `Kind::NotFound` for others, so that they are not
    /// told that there is such an index; `Kind::Unavailable` if too many passwords are being checked.
    pub fn require_read(&self, request: &Request, index: &Index) -> Result<Identity> {
        let who = self.reader(request, index)?;
        if self.may_read(&who, index) {
            return Ok(who);
        }
        Err(match who {
            Identity::Anonymous => Error::unauthorized("authentication is required to read"),
            _ => Error::not_found(format!("The stage {} could not be found.", index.name)),
        })
    }

    fn reader(&self, request: &Request, index: &Index) -> Result<Identity> {
        let order = stage::resolution_order(&self.store.read()?, index.clone())?;
        if is_open(&order) {
            return Ok(Identity::Anonymous);
        }
        if request.headers.has(wire::REPLICA_UUID)
            && let Node::Master { changelog: Some(master), .. } = &self.node
            && let Ok(Some(_)) = master.replica_of(request)
        {
            return Ok(Identity::Replica);
        }
        auth::identify(self, request)
    }
}

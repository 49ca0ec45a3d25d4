//! Who answers for a project: the indexes of the resolution order, each with its part (spec/http-api.md section 7).
//!
//! The one rule against confused dependencies: a stage that holds a project hides it on mirrors, unless a whitelist
//! lets it through. A stage that the asker may not read shows nothing, and hides all the same.

use std::collections::BTreeSet;

use crate::error::Result;
use crate::names::{IndexName, ProjectName};
use crate::store::txn::Read;

use super::index::Index;
use super::stage;

/// What an index has to do with the answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Share {
    /// A stage that holds the project.
    Holds,
    /// A stage that does not.
    Lacks,
    /// A mirror that is to be asked.
    Mirror,
    /// A mirror that is not even asked, since this stage holds the project.
    Blocked {
        /// The stage.
        by: IndexName,
    },
    /// The asker may not read it.
    Closed,
}

/// One index of the order.
#[derive(Clone, Debug, PartialEq)]
pub struct Part {
    /// Which.
    pub index: Index,
    /// Its part.
    pub share: Share,
}

/// The whole order, for one project.
#[derive(Clone, Debug, PartialEq)]
pub struct Walk {
    /// The indexes, the one that was asked first; mirrors last.
    pub parts: Vec<Part>,
}

impl Walk {
    /// The mirrors that are to be asked.
    pub fn mirrors(&self) -> Vec<Index> {
        let asked = |part: &&Part| part.share == Share::Mirror;
        self.parts.iter().filter(asked).map(|part| part.index.clone()).collect()
    }
    /// Mirrors that are hidden, each with the stage that hides it.
    pub fn blocked(&self) -> Vec<(IndexName, IndexName)> {
        let blocked = |part: &Part| match &part.share {
            Share::Blocked { by } => Some((part.index.name.clone(), by.clone())),
            _ => None,
        };
        self.parts.iter().filter_map(blocked).collect()
    }
    /// Whether everybody would be given the same.
    pub fn is_open(&self) -> bool {
        self.parts.iter().all(|part| part.index.is_open())
    }
}

/// Walks the order of `start` for a project. `may_read` says which indexes the asker may read.
///
/// # Errors
/// Those of `may_read`; `Kind::Internal` if the database fails.
pub fn walk(
    txn: &impl Read,
    start: Index,
    project: &ProjectName,
    may_read: impl Fn(&Index) -> Result<bool>,
) -> Result<Walk> {
    let is_union = start.config.text("mirror_whitelist_inheritance") != Some("intersection");
    let (mut listed, mut is_allowed, mut owner) = (None, false, None);
    let mut parts = Vec::new();
    for index in stage::resolution_order(txn, start)? {
        let is_open = may_read(&index)?;
        let share = if index.is_mirror() {
            match &owner {
                Some(by) if !is_allowed => Share::Blocked { by: IndexName::clone(by) },
                _ => Share::Mirror,
            }
        } else {
            let list = merge(listed.take(), &index, is_union);
            is_allowed |= list.contains("*") || list.contains(project.as_str());
            listed = Some(list);
            match stage::holds(txn, &index.name, project)? {
                true => {
                    if !is_allowed && owner.is_none() {
                        owner = Some(index.name.clone());
                    }
                    Share::Holds
                }
                false => Share::Lacks,
            }
        };
        let share = if is_open { share } else { Share::Closed };
        parts.push(Part { index, share });
    }
    Ok(Walk { parts })
}

/// The whitelist after one more stage. `*` is an element like any other here.
fn merge(so_far: Option<BTreeSet<String>>, index: &Index, is_union: bool) -> BTreeSet<String> {
    let own = index.config.texts("mirror_whitelist");
    let own: BTreeSet<String> = own.into_iter().map(str::to_owned).collect();
    match so_far {
        None => own,
        Some(list) if is_union => list.union(&own).cloned().collect(),
        Some(list) => list.intersection(&own).cloned().collect(),
    }
}

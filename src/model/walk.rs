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

#[cfg(test)]
mod tests {
    use serde_json::{Map, json};

    use super::*;
    use crate::model::metadata::Submission;
    use crate::model::{index, setup, upload};
    use crate::store::{self, txn::WriteTxn};

    const WALKED: &str = "pkg";

    /// The shares on `root/top`, which inherits from `root/middle`, which inherits from the mirror `root/mir`; `owner`
    /// holds the project.
    fn shares(
        (inheritance, top, middle): (&str, &str, &str),
        owner: &str,
        may_read: impl Fn(&Index) -> bool,
    ) -> Vec<(String, Share)> {
        let dir = tempfile::tempdir().expect("a folder");
        let (store, writer) = store::open(dir.path(), 2).expect("opens");
        let name = |text: &str| IndexName::parse(text).expect("valid");
        let make = |txn: &mut WriteTxn<'_>, index: &str, fields: serde_json::Value| {
            let fields = fields.as_object().cloned().unwrap_or_else(Map::new);
            index::create(txn, &name(index), &fields).map(drop)
        };
        let list = |word: &str| if word.is_empty() { json!([]) } else { json!([word]) };
        let build = |txn: &mut WriteTxn<'_>| {
            setup::first(txn, "hash", None)?;
            make(txn, "root/mir", json!({"type": "mirror", "mirror_url": "http://h/"}))?;
            make(
                txn,
                "root/middle",
                json!({"bases": ["root/mir"], "mirror_whitelist": list(middle)}),
            )?;
            let bases = ["root/mir", "root/middle"];
            let fields = json!({"bases": bases, "mirror_whitelist": list(top),
                "mirror_whitelist_inheritance": inheritance});
            make(txn, "root/top", fields)?;
            let form = [("name", WALKED), ("version", "1")].map(|(k, v)| (k.into(), v.into()));
            upload::register(txn, &index::require(txn, &name(owner))?, &Submission::parse(&form)?)
        };
        writer.write(build).expect("builds");
        let txn = store.read().expect("reads");
        let start = index::require(&txn, &name("root/top")).expect("there");
        let walked = walk(&txn, start, &ProjectName::new(WALKED), |index| Ok(may_read(index)));
        let part = |part: Part| (part.index.name.to_string(), part.share);
        walked.expect("walks").parts.into_iter().map(part).collect()
    }

    #[test]
    fn what_a_stage_holds_is_hidden_on_mirrors_unless_a_list_lets_it_through() {
        // inheritance, list of the top, list of the middle, who holds the project, whether the mirror is asked
        for (inheritance, top, middle, owner, is_asked) in [
            ("intersection", "", "", "root/middle", false),
            ("intersection", "", "pkg", "root/middle", false),
            ("intersection", "pkg", "", "root/middle", true),
            ("intersection", "*", "pkg", "root/middle", true),
            ("union", "", "pkg", "root/middle", true),
            ("union", "other", "", "root/middle", false),
            ("intersection", "", "pkg", "root/top", false),
            ("intersection", "*", "", "root/top", true),
        ] {
            let shares = shares((inheritance, top, middle), owner, |_| true);
            let (last, share) = shares.last().expect("three");
            assert_eq!(last, "root/mir", "a mirror comes last wherever it is named");
            assert_eq!(*share == Share::Mirror, is_asked, "{inheritance} {top} {middle} {owner}");
        }
    }

    #[test]
    fn a_stage_that_may_not_be_read_shows_nothing_and_hides_all_the_same() {
        let closed = |index: &Index| index.name.to_string() != "root/middle";
        let shares = shares(("intersection", "", ""), "root/middle", closed);
        assert_eq!(shares[1].1, Share::Closed);
        let by = IndexName::parse("root/middle").expect("valid");
        assert_eq!(shares[2].1, Share::Blocked { by });
    }
}

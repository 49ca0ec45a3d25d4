//! What a promotion would cost: told before it is done, and the reason to refuse it unless the loss is accepted.

use serde_json::{Value as Json, json};

use crate::digest::hex;
use crate::error::{Error, Kind, Result};
use crate::serial::Serial;
use crate::store::Store;
use crate::store::changelog::Position;
use crate::store::missing::Missing;
use crate::store::wanted::Counts;

use super::filter::Filter;
use super::seen::Seen;

/// How many missing files are named.
const NAMES_MAX: usize = 20;

/// What a replica would be as the master.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The end of its log.
    pub at: Option<Position>,
    /// The epoch that would begin.
    pub epoch: u64,
    /// The master as it was heard of last.
    pub seen: Option<Seen>,
    /// Files that are to be fetched, by state.
    pub queue: Counts,
    /// Files that are not here; `None` if nobody looked.
    pub missing: Option<Missing>,
    /// The epoch of another master that this node knows it was replaced by.
    pub replaced_by: Option<u64>,
    /// Which part of the master's indexes it takes over; `None` if all.
    pub filter: Option<String>,
}

impl Plan {
    /// Looks at the store. Only with `looks` each file is looked for, which takes a while where there are many.
    ///
    /// # Errors
    /// `Kind::Internal` if the database fails.
    pub fn make(store: &Store, seen: Option<Seen>, looks: bool) -> Result<Self> {
        let replaced_by = store.fence().map(|fence| fence.epoch);
        Ok(Self {
            at: store.position()?,
            epoch: store.epoch().max(replaced_by.unwrap_or(0)) + 1,
            seen,
            queue: store.wanted_counts()?,
            missing: looks.then(|| store.missing_files(NAMES_MAX)).transpose()?,
            replaced_by,
            filter: Filter::recorded(store)?.map(|filter| filter.to_string()),
        })
    }

    fn serial(&self) -> i64 {
        Serial::wire(self.at.map(|at| at.serial))
    }

    /// How many serials of the master are known not to be here.
    pub fn lost(&self) -> u64 {
        let head = self.seen.as_ref().map_or(-1, |seen| seen.serial);
        u64::try_from(head - self.serial()).unwrap_or(0)
    }

    /// Why this node should not become the master.
    pub fn objections(&self) -> Vec<String> {
        let mut all = Vec::new();
        if self.at.is_none() {
            all.push("its log is empty: it never followed a master".to_owned());
        }
        if let (Some(seen), 1..) = (&self.seen, self.lost()) {
            all.push(format!(
                "it has serials up to {}, and the master was at {} when it was heard of last: {} would be lost",
                self.serial(),
                seen.serial,
                self.lost()
            ));
        }
        if let Some(epoch) = self.replaced_by {
            all.push(format!(
                "another master took its place (epoch {epoch}): its changes would be lost"
            ));
        }
        if let Some(filter) = &self.filter {
            all.push(format!(
                "it holds only a part of the indexes ({filter}): the rest would be lost"
            ));
        }
        all
    }

    /// Whether it may be done.
    ///
    /// # Errors
    /// `Kind::Conflict` with the objections, unless the loss is accepted.
    pub fn check(&self, is_loss_accepted: bool) -> Result<()> {
        let objections = self.objections();
        if objections.is_empty() || is_loss_accepted {
            return Ok(());
        }
        let message = format!(
            "this node is not promoted: {}. If that is to be, run it again with --accept-loss",
            objections.join("; ")
        );
        Err(Error::new(Kind::Conflict, message))
    }

    /// For programs.
    pub fn to_json(&self) -> Json {
        let seen = self.seen.as_ref().map(|seen| {
            json!({
                "url": seen.url,
                "uuid": seen.uuid,
                "serial": seen.serial,
                "heard-at": seen.at,
                "heard-seconds-ago": seen.seconds_ago(),
            })
        });
        let lost = (0 < self.lost()).then(|| {
            let head = self.seen.as_ref().map_or(-1, |seen| seen.serial);
            json!({"from": self.serial() + 1, "to": head, "count": self.lost()})
        });
        let missing = self.missing.as_ref().map(|missing| {
            json!({
                "count": missing.files,
                "bytes": missing.bytes,
                "names": missing.names,
                "mirrored": missing.mirrored,
            })
        });
        json!({
            "serial": self.serial(),
            "chain": self.at.map(|at| hex(&at.chain)),
            "epoch": self.epoch,
            "master": seen,
            "serials-lost": lost,
            "files-wanted": self.queue.wanted,
            "files-failed": self.queue.failed,
            "files-gone": self.queue.gone,
            "files-missing": missing,
            "filter": self.filter,
            "objections": self.objections(),
        })
    }
}

/// A plan for people.
pub fn shown(plan: &Json) -> String {
    let mut lines = vec![format!(
        "this node has serials up to {}; as the master it would begin epoch {}",
        plan["serial"], plan["epoch"]
    )];
    let master = &plan["master"];
    lines.push(match master.as_object() {
        None => "nothing is known of its master: it was not heard of".to_owned(),
        Some(_) => format!(
            "its master {} was at serial {} when it was heard of last, {} s ago",
            master["url"].as_str().unwrap_or_default(),
            master["serial"],
            master["heard-seconds-ago"]
        ),
    });
    let lost = &plan["serials-lost"];
    lines.push(match lost.as_object() {
        None => {
            "no serial is known to be lost; what the master committed since then and told nobody would be".to_owned()
        }
        Some(_) => {
            format!("serials {} to {} would be lost ({})", lost["from"], lost["to"], lost["count"])
        }
    });
    lines.push(format!(
        "files: {} to be fetched, {} failed, {} gone at the master",
        plan["files-wanted"], plan["files-failed"], plan["files-gone"]
    ));
    let missing = &plan["files-missing"];
    if missing.is_object() {
        let besides = match missing["mirrored"].as_u64() {
            None | Some(0) => String::new(),
            Some(count) => format!("; {count} of mirrors besides, which can be brought again"),
        };
        lines.push(format!(
            "files not here: {} ({} bytes){besides}",
            missing["count"], missing["bytes"]
        ));
        let names = missing["names"].as_array().into_iter().flatten();
        lines.extend(
            names.filter_map(Json::as_str).map(|name| format!("  {}", name.escape_debug())),
        );
    }
    let objections = plan["objections"].as_array().into_iter().flatten();
    let objections: Vec<&str> = objections.filter_map(Json::as_str).collect();
    match objections.is_empty() {
        true => lines.push("nothing speaks against it".to_owned()),
        false => lines.push(format!("it needs --accept-loss: {}", objections.join("; "))),
    }
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(serial: u64, head: Option<i64>) -> Plan {
        let serial = Serial::new(serial).expect("small");
        let seen = |serial| Seen { url: "http://m".into(), uuid: None, serial, at: 0.0 };
        Plan {
            at: Some(Position { serial, chain: [7; 32] }),
            epoch: 2,
            seen: head.map(seen),
            queue: Counts::default(),
            missing: None,
            replaced_by: None,
            filter: None,
        }
    }

    #[test]
    fn who_lags_or_has_a_part_only_is_refused_without_the_flag() {
        assert!(plan(7, Some(7)).check(false).is_ok());
        assert!(plan(7, Some(3)).check(false).is_ok(), "it went on since the last word");
        assert!(plan(7, None).check(false).is_ok());
        let lagging = plan(7, Some(9));
        let refused = lagging.check(false).expect_err("lags");
        assert!(refused.message.contains("2 would be lost"), "{refused}");
        assert!(lagging.check(true).is_ok());
        assert_eq!(lagging.to_json()["serials-lost"], json!({"from": 8, "to": 9, "count": 2}));
        let part = Plan { filter: Some("ann/dev".into()), ..plan(7, Some(7)) };
        assert!(part.check(false).is_err() && part.check(true).is_ok());
        assert!(Plan { at: None, ..plan(7, None) }.check(false).is_err());
    }

    #[test]
    fn people_are_told_what_programs_are() {
        let shown = shown(&plan(7, Some(9)).to_json());
        assert!(shown.contains("serials 8 to 9 would be lost (2)"), "{shown}");
        assert!(shown.contains("--accept-loss"), "{shown}");
    }
}

//! Changes of role by command, and options that were written for the role before.
//!
//! A node's unit file goes on saying what it said before a failover. So the file `.nodeinfo` remembers which masters
//! were left: an option that names one of them is out of date, and does not undo what a command did.

use serde_json::{Map, Value as Json, json};

use crate::config::RoleOption;
use crate::error::{Error, Result};

use super::{NodeInfo, Role};

/// How many masters that were left are remembered.
const FORMER_MAX: usize = 16;

/// How a replica became a master.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Promotion {
    /// Where the master was that it followed.
    pub url: Option<String>,
    /// That master's uuid.
    pub uuid: Option<String>,
    /// The epoch that begins with the promotion, at least.
    pub epoch: u64,
    /// When, in RFC 1123 form.
    pub at: String,
}

/// What commands did to a node's role.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// The promotion that made it a master, if one did.
    pub promoted: Option<Promotion>,
    /// When it was made a replica by command; `None` if it was one from the start.
    pub demoted_at: Option<String>,
    /// The masters that it followed before, oldest first.
    pub former: Vec<String>,
}

impl Changes {
    pub(super) fn take(rest: &mut Map<String, Json>) -> Result<Self> {
        let text = |json: &Json, key: &str| json.get(key).and_then(Json::as_str).map(str::to_owned);
        let promoted = rest.remove("promoted-from").filter(|json| !json.is_null());
        let promoted = promoted.map(|json| Promotion {
            url: text(&json, "url"),
            uuid: text(&json, "uuid"),
            epoch: json.get("epoch").and_then(Json::as_u64).unwrap_or(0),
            at: text(&json, "at").unwrap_or_default(),
        });
        let demoted_at = rest.remove("demoted-at").and_then(|at| at.as_str().map(str::to_owned));
        let former = match rest.remove("former-masters") {
            None | Some(Json::Null) => Vec::new(),
            Some(Json::Array(urls)) => {
                urls.iter().filter_map(|url| url.as_str().map(str::to_owned)).collect()
            }
            Some(_) => return Err(Error::invalid("`former-masters` is no list")),
        };
        Ok(Self { promoted, demoted_at, former })
    }

    pub(super) fn put(&self, json: &mut Map<String, Json>) {
        if let Some(Promotion { url, uuid, epoch, at }) = &self.promoted {
            let promoted = json!({"url": url, "uuid": uuid, "epoch": epoch, "at": at});
            json.insert("promoted-from".to_owned(), promoted);
        }
        if let Some(at) = &self.demoted_at {
            json.insert("demoted-at".to_owned(), at.as_str().into());
        }
        if !self.former.is_empty() {
            json.insert("former-masters".to_owned(), self.former.clone().into());
        }
    }

    fn leave(&mut self, url: &str) {
        self.former.retain(|former| !is_same(former, url));
        self.former.push(url.to_owned());
        let surplus = self.former.len().saturating_sub(FORMER_MAX);
        self.former.drain(..surplus);
    }

    fn has_left(&self, url: &str) -> bool {
        self.former.iter().any(|former| is_same(former, url))
    }
}

fn is_same(one: &str, other: &str) -> bool {
    one.trim_end_matches('/') == other.trim_end_matches('/')
}

/// What the options of this start come to, once those are left out that a command overruled.
pub(super) struct Asked<'a> {
    pub role: RoleOption,
    pub master_url: Option<&'a str>,
}

impl NodeInfo {
    /// Makes a replica the master, from this epoch on.
    pub fn promote(&mut self, epoch: u64, at: &str) {
        let url = self.master_url.take();
        if let Some(url) = &url {
            self.changes.leave(url);
        }
        let (uuid, at) = (self.master_uuid.take(), at.to_owned());
        self.changes.promoted = Some(Promotion { url, uuid, epoch, at });
        self.changes.demoted_at = None;
        self.role = Role::Master;
    }

    /// Makes a node follow the master at `url`, whatever it was before.
    pub fn demote(&mut self, url: &str, at: &str) {
        if self.role != Role::Replica {
            self.changes.demoted_at = Some(at.to_owned());
            self.changes.promoted = None;
            self.role = Role::Replica;
        }
        self.master_uuid = None;
        self.follow(url);
    }

    /// Makes a replica follow the master at `url` from now on.
    pub fn follow(&mut self, url: &str) {
        if let Some(old) = self.master_url.take().filter(|old| !is_same(old, url)) {
            self.changes.leave(&old);
        }
        self.changes.former.retain(|former| !is_same(former, url));
        self.master_url = Some(url.trim_end_matches('/').to_owned());
    }

    /// Leaves out what options say that a command has overruled since they were written, with a warning.
    pub(super) fn without_stale<'a>(
        &self,
        mut role: RoleOption,
        mut master_url: Option<&'a str>,
    ) -> Result<Asked<'a>> {
        let given = master_url;
        if let Some(url) = given.filter(|url| self.changes.has_left(url)) {
            master_url = None;
            let now = match (&self.role, &self.master_url) {
                (Role::Replica, Some(now)) => format!("follows {now} since"),
                _ => "is a master since it was promoted".to_owned(),
            };
            log::warn!(
                "--primary-url {url} is out of date and not heeded: this node {now}. Change its options to fit; to \
                 follow {url} again, run `twinpi {}`",
                if self.role == Role::Replica { "follow URL" } else { "demote --primary-url URL" }
            );
        }
        if self.changes.promoted.is_some() && self.role == Role::Master {
            if let Some(url) = master_url {
                return Err(Error::invalid(format!(
                    "this node was promoted to master; to make it follow {url}, run `twinpi demote --primary-url {url}`"
                )));
            }
            if role == RoleOption::Replica {
                log::warn!(
                    "--role replica is out of date and not heeded: this node was promoted to master"
                );
            }
            if matches!(role, RoleOption::Auto | RoleOption::Replica) {
                role = RoleOption::Master;
            }
        }
        let is_writer = matches!(role, RoleOption::Master | RoleOption::Standalone);
        if self.changes.demoted_at.is_some() && self.role == Role::Replica && is_writer {
            log::warn!(
                "the role that is asked for is out of date and not heeded: this node was made a replica. Change its \
                 options to fit; to make it the master again, run `twinpi promote`"
            );
            role = RoleOption::Replica;
        }
        Ok(Asked { role, master_url })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OLD: &str = "http://old";
    const NEW: &str = "http://new";

    fn replica() -> NodeInfo {
        NodeInfo::settle(None, RoleOption::Auto, Some(OLD)).expect("settles")
    }

    fn again(info: &NodeInfo, asked: RoleOption, url: Option<&str>) -> Option<NodeInfo> {
        let read = NodeInfo::from_json(info.to_json()).expect("reads");
        assert_eq!(read, *info);
        NodeInfo::settle(Some(read), asked, url).ok()
    }

    #[test]
    fn a_promoted_node_stays_the_master_whatever_its_old_options_say() {
        let mut info = replica();
        info.master_uuid = Some("m".to_owned());
        info.promote(2, "now");
        for (asked, url) in [
            (RoleOption::Auto, None),
            (RoleOption::Auto, Some(OLD)),
            (RoleOption::Replica, Some("http://old/")),
            (RoleOption::Replica, None),
            (RoleOption::Master, None),
        ] {
            let started = again(&info, asked, url).expect("starts");
            assert_eq!(started, info, "{asked:?} {url:?}");
        }
        assert!(again(&info, RoleOption::Replica, Some(NEW)).is_none());
        let promoted = info.changes.promoted.expect("promoted");
        assert_eq!((promoted.url.as_deref(), promoted.epoch), (Some(OLD), 2));
    }

    #[test]
    fn a_demoted_node_stays_a_replica_whatever_its_old_options_say() {
        let mut info = NodeInfo::settle(None, RoleOption::Master, None).expect("settles");
        info.demote("http://new/", "now");
        for asked in [RoleOption::Master, RoleOption::Standalone, RoleOption::Auto] {
            let started = again(&info, asked, None).expect("starts");
            assert_eq!((started.role, started.master_url.as_deref()), (Role::Replica, Some(NEW)));
        }
        info.promote(3, "later");
        let started = again(&info, RoleOption::Master, None).expect("starts");
        assert_eq!((started.role, started.changes.demoted_at), (Role::Master, None));
    }

    #[test]
    fn a_replica_that_was_led_elsewhere_does_not_go_back_by_its_old_options() {
        let mut info = replica();
        info.follow(NEW);
        for url in [None, Some(OLD), Some(NEW)] {
            let started = again(&info, RoleOption::Replica, url).expect("starts");
            assert_eq!(started.master_url.as_deref(), Some(NEW), "{url:?}");
        }
        let third = again(&info, RoleOption::Replica, Some("http://third")).expect("starts");
        assert_eq!(third.master_url.as_deref(), Some("http://third"));
        info.follow(OLD);
        assert_eq!(info.changes.former, [NEW]);
        let back = again(&info, RoleOption::Replica, Some(OLD)).expect("starts");
        assert_eq!(back.master_url.as_deref(), Some(OLD));
    }

    #[test]
    fn a_bounded_number_of_masters_is_remembered() {
        let mut info = replica();
        for n in 0..2 * FORMER_MAX {
            info.follow(&format!("http://{n}"));
        }
        assert_eq!(info.changes.former.len(), FORMER_MAX);
        assert!(!info.changes.has_left(OLD) && info.changes.has_left("http://30"));
    }
}

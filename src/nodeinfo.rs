//! Who this node is: the file `.nodeinfo` in its folder, and which role it takes at a start.
//!
//! The file is devpi's own (JSON, one object), so that a folder keeps its identity whichever server wrote it; keys
//! that are not known here are kept.

mod change;

use std::fs;
use std::io::{ErrorKind, Write as _};
use std::path::{Path, PathBuf};

use serde_json::{Map, Value as Json};

use crate::config::RoleOption;
use crate::error::{Context as _, Error, Result};

pub use change::{Changes, Promotion};

const FILE: &str = ".nodeinfo";

/// What a node does with changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Takes changes, serves no replica.
    Standalone,
    /// Takes changes and serves replicas.
    Master,
    /// Follows a master.
    Replica,
}

impl Role {
    /// Its name in the file.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Standalone => "standalone",
            Self::Master => "primary",
            Self::Replica => "replica",
        }
    }
    fn parse(text: &str) -> Result<Self> {
        match text {
            "standalone" => Ok(Self::Standalone),
            "primary" | "master" => Ok(Self::Master),
            "replica" => Ok(Self::Replica),
            other => Err(Error::invalid(format!("{FILE} names an unknown role `{other}`"))),
        }
    }
}

/// The identity of a node.
#[derive(Clone, Debug, PartialEq)]
pub struct NodeInfo {
    /// What it does.
    pub role: Role,
    /// 32 lower-case hexadecimal digits, made at the first start.
    pub uuid: String,
    /// The master that a replica follows.
    pub master_url: Option<String>,
    /// The master's uuid, once a replica has met it.
    pub master_uuid: Option<String>,
    /// What commands did to its role.
    pub changes: Changes,
    /// Everything else in the file.
    rest: Map<String, Json>,
}

impl NodeInfo {
    /// Reads the file in `serverdir`; `None` if the folder was never set up.
    ///
    /// # Errors
    /// `Kind::Invalid` if it is not a node's file.
    pub fn load(serverdir: &Path) -> Result<Option<Self>> {
        let path = serverdir.join(FILE);
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(Error::from(e).while_doing(path.display())),
        };
        let json = serde_json::from_slice(&text)
            .map_err(|e| Error::invalid(format!("{}: not JSON", path.display())).caused_by(e))?;
        Self::from_json(json).context(|| path.display().to_string()).map(Some)
    }

    fn from_json(json: Json) -> Result<Self> {
        let Json::Object(mut rest) = json else { return Err(Error::invalid("not a JSON object")) };
        let mut take = |key: &str| match rest.remove(key) {
            None | Some(Json::Null) => Ok(None),
            Some(Json::String(text)) => Ok(Some(text).filter(|text| !text.is_empty())),
            Some(_) => Err(Error::invalid(format!("`{key}` is not a text"))),
        };
        let role = take("role")?.ok_or_else(|| Error::invalid("no `role`"))?;
        let uuid = take("uuid")?.map_or_else(new_uuid, Ok)?;
        let master_url = take("masterurl")?;
        // Old files have the one, newer ones the other; the old one comes first as in devpi.
        let (old, new) = (take("master-uuid")?, take("primary-uuid")?);
        let changes = Changes::take(&mut rest)?;
        let (role, master_uuid) = (Role::parse(&role)?, old.or(new));
        Ok(Self { role, uuid, master_url, master_uuid, changes, rest })
    }

    /// Settles the role of this start from what the folder says and what was asked for; a folder that says nothing
    /// gets a new uuid.
    ///
    /// # Errors
    /// `Kind::Invalid` if both do not go together.
    pub fn settle(
        found: Option<Self>,
        asked: RoleOption,
        master_url: Option<&str>,
    ) -> Result<Self> {
        let old = found.as_ref().map(|info| info.role);
        let (asked, master_url) = match &found {
            Some(info) => {
                let heeded = info.without_stale(asked, master_url)?;
                (heeded.role, heeded.master_url)
            }
            None => (asked, master_url),
        };
        let role = match (asked, old) {
            (RoleOption::Auto, None) if master_url.is_some() => Role::Replica,
            (RoleOption::Auto, Some(Role::Replica)) => Role::Replica,
            (RoleOption::Auto, Some(_)) if master_url.is_some() => {
                return Err(Error::invalid(
                    "a master's URL is given, but this node is not a replica",
                ));
            }
            // Serving replicas must be asked for at each start.
            (RoleOption::Auto | RoleOption::Standalone, _) => Role::Standalone,
            (RoleOption::Master, _) => Role::Master,
            (RoleOption::Replica, None | Some(Role::Replica)) => Role::Replica,
            (RoleOption::Replica, Some(other)) => {
                let was = other.as_str();
                return Err(Error::invalid(format!(
                    "cannot run as a replica what was run as {was} before"
                )));
            }
        };
        if role != Role::Replica && asked != RoleOption::Auto && master_url.is_some() {
            return Err(Error::invalid(
                "a master's URL is given, but the role asked for is not replica",
            ));
        }
        let mut info = match found {
            Some(info) => info,
            None => Self {
                role,
                uuid: new_uuid()?,
                master_url: None,
                master_uuid: None,
                changes: Changes::default(),
                rest: Map::new(),
            },
        };
        info.role = role;
        info.master_url = match role {
            Role::Replica => master_url.map(str::to_owned).or(info.master_url),
            _ => None,
        };
        if role == Role::Replica && info.master_url.is_none() {
            return Err(Error::invalid("a replica needs the master's URL: give --master-url"));
        }
        Ok(info)
    }

    /// Writes the file anew, whole or not at all, readable for its owner only.
    ///
    /// # Errors
    /// `Kind::Internal` if the disk refuses.
    pub fn save(&self, serverdir: &Path) -> Result<()> {
        let path = serverdir.join(FILE);
        self.write(serverdir, &path).context(|| format!("cannot write {}", path.display()))
    }

    fn write(&self, serverdir: &Path, path: &PathBuf) -> Result<()> {
        fs::create_dir_all(serverdir)?;
        // Made with mode 0600.
        let mut file = tempfile::Builder::new().prefix(FILE).tempfile_in(serverdir)?;
        let text = serde_json::to_string_pretty(&self.to_json())
            .map_err(|e| Error::internal("JSON").caused_by(e))?;
        file.write_all(text.as_bytes())?;
        file.as_file().sync_all()?;
        file.persist(path).map_err(|e| e.error)?;
        fs::File::open(serverdir)?.sync_all()?;
        Ok(())
    }

    fn to_json(&self) -> Json {
        let mut json = Map::new();
        json.insert("role".to_owned(), self.role.as_str().into());
        json.insert("uuid".to_owned(), self.uuid.as_str().into());
        for (key, value) in [("masterurl", &self.master_url), ("primary-uuid", &self.master_uuid)] {
            if let Some(value) = value {
                json.insert(key.to_owned(), value.as_str().into());
            }
        }
        self.changes.put(&mut json);
        json.extend(self.rest.clone());
        Json::Object(json)
    }
}

/// A random uuid (version 4) without dashes.
fn new_uuid() -> Result<String> {
    let mut bytes = [0u8; 16];
    getrandom::fill(&mut bytes).map_err(|e| Error::internal("no random numbers").caused_by(e))?;
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use serde_json::json;

    use super::*;

    fn node(role: &str, url: Option<&str>) -> Option<NodeInfo> {
        let json = json!({"role": role, "uuid": "ab".repeat(16), "masterurl": url});
        Some(NodeInfo::from_json(json).unwrap())
    }
    fn settled(
        found: Option<NodeInfo>,
        asked: RoleOption,
        url: Option<&str>,
    ) -> Option<(Role, Option<String>)> {
        NodeInfo::settle(found, asked, url).ok().map(|info| (info.role, info.master_url))
    }

    #[test]
    fn a_new_folder_takes_the_role_asked_for() {
        let url = Some("http://m");
        let replica = Some((Role::Replica, url.map(str::to_owned)));
        assert_eq!(settled(None, RoleOption::Auto, None), Some((Role::Standalone, None)));
        assert_eq!(settled(None, RoleOption::Auto, url), replica);
        assert_eq!(settled(None, RoleOption::Replica, url), replica);
        assert_eq!(settled(None, RoleOption::Replica, None), None);
        assert_eq!(settled(None, RoleOption::Master, None), Some((Role::Master, None)));
        assert_eq!(settled(None, RoleOption::Master, url), None);
        assert_eq!(settled(None, RoleOption::Standalone, url), None);
    }

    #[test]
    fn auto_keeps_a_replica_and_forgets_the_master() {
        let (old, new) = (Some("http://old"), Some("http://new"));
        let replica = |url: Option<&str>| Some((Role::Replica, url.map(str::to_owned)));
        assert_eq!(settled(node("replica", old), RoleOption::Auto, None), replica(old));
        assert_eq!(settled(node("replica", old), RoleOption::Auto, new), replica(new));
        assert_eq!(settled(node("replica", None), RoleOption::Auto, None), None);
        for role in ["primary", "master", "standalone"] {
            assert_eq!(
                settled(node(role, None), RoleOption::Auto, None),
                Some((Role::Standalone, None))
            );
            assert_eq!(settled(node(role, None), RoleOption::Auto, new), None);
        }
    }

    #[test]
    fn a_replica_can_be_promoted_and_nothing_else_becomes_one() {
        let old = Some("http://old");
        assert_eq!(
            settled(node("replica", old), RoleOption::Master, None),
            Some((Role::Master, None))
        );
        assert_eq!(
            settled(node("replica", old), RoleOption::Standalone, None),
            Some((Role::Standalone, None))
        );
        assert_eq!(
            settled(node("standalone", None), RoleOption::Master, None),
            Some((Role::Master, None))
        );
        for role in ["primary", "master", "standalone"] {
            assert_eq!(settled(node(role, None), RoleOption::Replica, old), None);
        }
    }

    #[test]
    fn promotion_keeps_the_uuid_and_unknown_keys() {
        let json = json!({"role": "replica", "uuid": "u", "masterurl": "http://m", "primary-uuid": "p", "more": [1]});
        let found = NodeInfo::from_json(json).unwrap();
        let info = NodeInfo::settle(Some(found), RoleOption::Master, None).unwrap();
        let wanted = json!({"role": "primary", "uuid": "u", "primary-uuid": "p", "more": [1]});
        assert_eq!(info.to_json(), wanted);
    }

    #[test]
    fn the_older_name_of_the_masters_uuid_has_precedence() {
        let json =
            json!({"role": "replica", "uuid": "u", "primary-uuid": "new", "master-uuid": "old"});
        assert_eq!(NodeInfo::from_json(json).unwrap().master_uuid.as_deref(), Some("old"));
    }

    #[test]
    fn file_survives_a_round_trip_and_is_private() {
        let dir = tempfile::tempdir().unwrap();
        let serverdir = dir.path().join("new");
        assert_eq!(NodeInfo::load(&serverdir).unwrap(), None);
        let mut info = NodeInfo::settle(None, RoleOption::Auto, Some("http://m")).unwrap();
        info.master_uuid = Some("m".to_owned());
        info.save(&serverdir).unwrap();
        info.save(&serverdir).unwrap();
        assert_eq!(NodeInfo::load(&serverdir).unwrap(), Some(info));
        let mode = fs::metadata(serverdir.join(FILE)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(fs::read_dir(&serverdir).unwrap().count(), 1);
    }

    #[test]
    fn uuids_are_random_version_4() {
        let (one, other) = (new_uuid().unwrap(), new_uuid().unwrap());
        assert_ne!(one, other);
        assert_eq!(one.len(), 32);
        assert!(one.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b)));
        assert_eq!(&one[12..13], "4");
        assert!(matches!(&one[16..17], "8" | "9" | "a" | "b"));
    }

    #[test]
    fn broken_files_are_refused() {
        for json in
            [json!([]), json!({}), json!({"role": "king"}), json!({"role": "replica", "uuid": 1})]
        {
            assert!(NodeInfo::from_json(json).is_err());
        }
    }
}

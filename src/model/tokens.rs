//! Access tokens: what a user lets a program do in the user's name, for a while.
//!
//! They lie in the user's record under a field of ours, so they are replicated, and end with the user. A token never
//! grants more than its owner has at that moment, and never anything but reading and uploading.

use std::time::{Duration, SystemTime};

use serde_json::{Map, Value as Json, json};

use crate::error::{Error, Result};
use crate::names::{IndexName, ProjectName, UserName};
use crate::store::codec::Value;
use crate::store::key;
use crate::store::record::Dict;
use crate::store::txn::{Read, WriteTxn};

use super::{time, user};

/// The field of a user's record.
pub const FIELD: &str = "twinpi_tokens";

/// Every index, or every project.
const ALL: &str = "*";

/// Tokens that a user can have; the record is read on each request.
const TOKENS_MAX: usize = 100;
/// Indexes, and projects, that a token can name.
const NAMES_MAX: usize = 100;
/// Characters of a note.
const NOTE_CHARS_MAX: usize = 200;

/// Seconds of a day.
const DAY: u64 = 86_400;
/// How long a token is good if its maker does not say.
const LIFE_SECS: u64 = 90 * DAY;
/// The longest life that is counted in seconds or given as a date.
const LIFE_SECS_MAX: u64 = 366 * DAY;
/// How long a token that has ended is still listed.
const SHOWN_AFTER_END: Duration = Duration::from_secs(30 * DAY);

/// What a token lets do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Right {
    /// Read pages and files.
    Read,
    /// Upload files, documentation and test results, and push.
    Upload,
}

impl Right {
    const EACH: [Self; 2] = [Self::Read, Self::Upload];

    /// Its word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Upload => "upload",
        }
    }
    fn parse(word: &str) -> Option<Self> {
        Self::EACH.into_iter().find(|right| right.as_str() == word)
    }
}

/// A token as it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    /// Whose it is.
    pub owner: UserName,
    /// Its name among the owner's tokens.
    pub id: String,
    /// The hash of its secret.
    pub hash: String,
    /// What it lets do.
    pub rights: Vec<Right>,
    /// `user/index`, or `*`.
    pub indexes: Vec<String>,
    /// Normal names of projects, or `*`.
    pub projects: Vec<String>,
    /// When it ends, `2026-11-22T23:59:01Z`; never if `None`.
    pub expires: Option<String>,
    /// When it was made.
    pub created: String,
    /// What it is for.
    pub note: String,
}

impl Grant {
    /// Whether it lets do this on an index.
    pub fn has(&self, right: Right, index: &IndexName) -> bool {
        let is_named = |name: &String| name == ALL || *name == index.to_string();
        self.rights.contains(&right) && self.indexes.iter().any(is_named)
    }
    /// Whether it is for a project.
    pub fn is_for(&self, project: &ProjectName) -> bool {
        self.projects.iter().any(|name| name == ALL || name == project.as_str())
    }
    /// Whether it is for all projects.
    pub fn is_for_all(&self) -> bool {
        self.projects.iter().any(|name| name == ALL)
    }
    /// Whether it has ended.
    pub fn is_over(&self, now: SystemTime) -> bool {
        // Stamps of one form sort as the moments do.
        self.expires.as_ref().is_some_and(|end| *end <= time::stamp(now))
    }
    /// What its owner may see of it.
    pub fn shown(&self, now: SystemTime) -> Json {
        json!({
            "id": self.id,
            "user": self.owner.as_str(),
            "permissions": self.rights.iter().map(|right| right.as_str()).collect::<Vec<_>>(),
            "indexes": self.indexes,
            "projects": self.projects,
            "created": self.created,
            "expires": self.expires,
            "expired": self.is_over(now),
            "note": self.note,
        })
    }

    fn from_dict(owner: &UserName, id: &str, held: &Dict) -> Option<Self> {
        let names = |key| held.texts(key).into_iter().map(str::to_owned).collect();
        Some(Self {
            owner: owner.clone(),
            id: id.to_owned(),
            hash: held.text("hash")?.to_owned(),
            rights: held.texts("permissions").into_iter().filter_map(Right::parse).collect(),
            indexes: names("indexes"),
            projects: names("projects"),
            expires: match held.get("expires") {
                Some(Value::None) => None,
                // What cannot be read has ended.
                other => Some(other.and_then(Value::as_str).unwrap_or_default().to_owned()),
            },
            created: held.text("created").unwrap_or_default().to_owned(),
            note: held.text("note").unwrap_or_default().to_owned(),
        })
    }

    fn to_dict(&self) -> Dict {
        let mut held = Dict::new();
        let rights: Vec<_> = self.rights.iter().map(|right| right.as_str().to_owned()).collect();
        held.set("hash", self.hash.as_str());
        held.set("permissions", rights);
        held.set("indexes", self.indexes.clone());
        held.set("projects", self.projects.clone());
        held.set("created", self.created.as_str());
        held.set("expires", self.expires.clone().map_or(Value::None, Value::Str));
        held.set("note", self.note.as_str());
        held
    }
}

/// The tokens of a user's record, in the order of their making.
pub fn of_user(owner: &UserName, record: &Dict) -> Vec<Grant> {
    let held = record.dict(FIELD).unwrap_or_default();
    let grant = |(id, value): &(String, Value)| {
        Grant::from_dict(owner, id, &Dict::from_value(value.clone())?)
    };
    held.0.iter().filter_map(grant).collect()
}

/// One token of a user.
///
/// # Errors
/// `Kind::Internal` if the database fails.
pub fn find(txn: &impl Read, owner: &UserName, id: &str) -> Result<Option<Grant>> {
    let Some(record) = txn.get(&key::User(owner))? else { return Ok(None) };
    Ok(of_user(owner, &record).into_iter().find(|grant| grant.id == id))
}

/// Whether a token still is what it was when its holder was let in.
///
/// # Errors
/// `Kind::Internal` if the database fails.
pub fn stands(txn: &impl Read, grant: &Grant) -> Result<bool> {
    let held = find(txn, &grant.owner, &grant.id)?;
    Ok(held.is_some_and(|held| held == *grant && !held.is_over(SystemTime::now())))
}

/// Stores a token. Those that ended long ago go.
///
/// # Errors
/// `Kind::NotFound` if its owner does not exist; `Kind::Invalid` if the owner has too many.
pub fn store(txn: &mut WriteTxn<'_>, grant: &Grant) -> Result<()> {
    let mut record = user::require(txn, &grant.owner)?;
    let mut held = record.dict(FIELD).unwrap_or_default();
    let long_ago = SystemTime::now() - SHOWN_AFTER_END;
    for old in of_user(&grant.owner, &record).iter().filter(|old| old.is_over(long_ago)) {
        held.remove(&old.id);
    }
    if TOKENS_MAX <= held.0.len() || held.get(&grant.id).is_some() {
        let owner = &grant.owner;
        return Err(Error::invalid(format!(
            "{owner} has {TOKENS_MAX} tokens, which is the most: revoke one"
        )));
    }
    held.set(&grant.id, grant.to_dict().into_value());
    record.set(FIELD, held);
    txn.set(&key::User(&grant.owner), &record);
    Ok(())
}

/// Ends a token at once.
///
/// # Errors
/// `Kind::NotFound` if the user has none of this id.
pub fn revoke(txn: &mut WriteTxn<'_>, owner: &UserName, id: &str) -> Result<()> {
    let mut record = user::require(txn, owner)?;
    let mut held = record.dict(FIELD).unwrap_or_default();
    if held.remove(id).is_none() {
        return Err(Error::not_found(format!("{owner} has no token '{id}'")));
    }
    if held.0.is_empty() {
        record.remove(FIELD);
    } else {
        record.set(FIELD, held);
    }
    txn.set(&key::User(owner), &record);
    Ok(())
}

/// What a request for a token wants.
#[derive(Debug, PartialEq)]
pub struct Wish {
    rights: Vec<Right>,
    indexes: Vec<String>,
    projects: Vec<String>,
    expires: Option<String>,
    note: String,
}

impl Wish {
    /// Reads `permissions`, `indexes`, `projects`, `expires_in` or `expires`, and `note`.
    ///
    /// # Errors
    /// `Kind::Invalid` with what is wrong.
    pub fn parse(fields: &Map<String, Json>, now: SystemTime) -> Result<Self> {
        const KNOWN: [&str; 6] =
            ["permissions", "indexes", "projects", "expires_in", "expires", "note"];
        if let Some(unknown) = fields.keys().find(|key| !KNOWN.contains(&key.as_str())) {
            return Err(Error::invalid(format!("a token has no '{unknown}'")));
        }
        let rights = names(fields, "permissions")?
            .iter()
            .map(|word| {
                let told = || Error::invalid(format!("'{word}' is no permission: read or upload"));
                Right::parse(word).ok_or_else(told)
            })
            .collect::<Result<Vec<_>>>()?;
        let indexes = names(fields, "indexes")?
            .into_iter()
            .map(
                |name| {
                    if name == ALL { Ok(name) } else { Ok(IndexName::parse(&name)?.to_string()) }
                },
            )
            .collect::<Result<Vec<_>>>()?;
        let projects = match fields.get("projects") {
            None => vec![ALL.to_owned()],
            Some(_) => names(fields, "projects")?
                .into_iter()
                .map(|name| if name == ALL { name } else { ProjectName::new(&name).to_string() })
                .collect(),
        };
        let note = match fields.get("note") {
            None | Some(Json::Null) => String::new(),
            Some(Json::String(note)) if note.chars().count() <= NOTE_CHARS_MAX => note.clone(),
            Some(_) => {
                let most = format!("'note' must be text of at most {NOTE_CHARS_MAX} characters");
                return Err(Error::invalid(most));
            }
        };
        Ok(Self { rights, indexes, projects, expires: expires(fields, now)?, note })
    }

    /// The indexes that it names.
    pub fn indexes(&self) -> impl Iterator<Item = IndexName> + '_ {
        self.indexes.iter().filter_map(|name| IndexName::parse(name).ok())
    }

    /// The token that grants it.
    pub fn into_grant(self, owner: &UserName, id: String, hash: String, now: SystemTime) -> Grant {
        let Self { rights, indexes, projects, expires, note } = self;
        let (owner, created) = (owner.clone(), time::stamp(now));
        Grant { owner, id, hash, rights, indexes, projects, expires, created, note }
    }
}

/// A list that must have something in it.
fn names(fields: &Map<String, Json>, key: &str) -> Result<Vec<String>> {
    let wrong = || {
        Error::invalid(format!("'{key}' must be a list of 1 to {NAMES_MAX} texts, such as [\"*\"]"))
    };
    let list = fields.get(key).and_then(Json::as_array).ok_or_else(wrong)?;
    if list.is_empty() || NAMES_MAX < list.len() {
        return Err(wrong());
    }
    let mut names: Vec<String> = Vec::new();
    for name in list {
        let name =
            name.as_str().map(str::trim).filter(|name| !name.is_empty()).ok_or_else(wrong)?;
        if !names.iter().any(|known| known == name) {
            names.push(name.to_owned());
        }
    }
    if names.iter().any(|name| name == ALL) && key != "permissions" {
        names = vec![ALL.to_owned()];
    }
    Ok(names)
}

fn expires(fields: &Map<String, Json>, now: SystemTime) -> Result<Option<String>> {
    let latest = now + Duration::from_secs(LIFE_SECS_MAX);
    let too_late = || {
        let days = LIFE_SECS_MAX / DAY;
        Error::invalid(format!(
            "a token lasts {days} days at most; say \"never\" for one without an end"
        ))
    };
    match (fields.get("expires_in"), fields.get("expires")) {
        (None, None) => Ok(Some(time::stamp(now + Duration::from_secs(LIFE_SECS)))),
        (Some(_), Some(_)) => Err(Error::invalid("give 'expires_in' or 'expires', not both")),
        (Some(secs), None) => match secs.as_u64() {
            Some(secs @ 1..=LIFE_SECS_MAX) => {
                Ok(Some(time::stamp(now + Duration::from_secs(secs))))
            }
            Some(0) | None => Err(Error::invalid("'expires_in' is a number of seconds above 0")),
            Some(_) => Err(too_late()),
        },
        (None, Some(Json::String(word))) if word == "never" => Ok(None),
        (None, Some(date)) => {
            let at = date.as_str().and_then(time::parse).ok_or_else(|| {
                Error::invalid("'expires' is 2026-12-31, 2026-12-31T23:59:00Z or never")
            })?;
            match at {
                at if at <= now => Err(Error::invalid("'expires' is in the past")),
                at if latest < at => Err(too_late()),
                at => Ok(Some(time::stamp(at))),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wish(fields: Json) -> Result<Grant> {
        let Json::Object(fields) = fields else { panic!("an object") };
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
        let ann = UserName::parse("ann").expect("valid");
        Ok(Wish::parse(&fields, now)?.into_grant(&ann, "id".into(), "hash".into(), now))
    }

    #[test]
    fn a_wish_is_read_and_stored_and_read_again() {
        let grant = wish(json!({"permissions": ["upload"], "indexes": ["ann/dev"],
            "projects": ["My.Pkg", "my_pkg"], "expires_in": 60, "note": "CI"}))
        .expect("good");
        assert_eq!(grant.expires.as_deref(), Some("2023-11-14T22:14:20Z"));
        assert_eq!(Grant::from_dict(&grant.owner, "id", &grant.to_dict()), Some(grant.clone()));
        let [dev, other] = ["ann/dev", "ann/other"].map(|n| IndexName::parse(n).expect("valid"));
        assert!(grant.has(Right::Upload, &dev) && !grant.has(Right::Upload, &other));
        assert!(!grant.has(Right::Read, &dev));
        assert!(grant.is_for(&ProjectName::new("my-pkg")) && !grant.is_for(&ProjectName::new("x")));
        let at = |secs: u64| SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000 + secs);
        assert!(!grant.is_over(at(59)) && grant.is_over(at(60)));
    }

    #[test]
    fn lives_are_bounded_unless_said_otherwise() {
        let of = |more: Json| {
            let mut fields = json!({"permissions": ["read"], "indexes": ["*"]});
            for (key, value) in more.as_object().expect("an object") {
                fields[key] = value.clone();
            }
            wish(fields).map(|grant| grant.expires)
        };
        assert_eq!(of(json!({})).expect("good").as_deref(), Some("2024-02-12T22:13:20Z"));
        assert_eq!(of(json!({"expires": "never"})).expect("good"), None);
        let day = of(json!({"expires": "2024-01-31"})).expect("good");
        assert_eq!(day.as_deref(), Some("2024-01-31T00:00:00Z"));
        for wrong in [
            json!({"expires_in": 0}),
            json!({"expires_in": -5}),
            json!({"expires_in": "60"}),
            json!({"expires_in": LIFE_SECS_MAX + 1}),
            json!({"expires": "2020-01-01"}),
            json!({"expires": "2030-01-01"}),
            json!({"expires": "soon"}),
            json!({"expires": null}),
            json!({"expires": "never", "expires_in": 5}),
        ] {
            assert!(of(wrong.clone()).is_err(), "{wrong}");
        }
    }

    #[test]
    fn what_a_token_may_do_must_be_said() {
        for wrong in [
            json!({}),
            json!({"permissions": ["read"]}),
            json!({"permissions": [], "indexes": ["*"]}),
            json!({"permissions": ["delete"], "indexes": ["*"]}),
            json!({"permissions": ["*"], "indexes": ["*"]}),
            json!({"permissions": "read", "indexes": ["*"]}),
            json!({"permissions": ["read"], "indexes": ["dev"]}),
            json!({"permissions": ["read"], "indexes": ["*"], "projects": []}),
            json!({"permissions": ["read"], "indexes": ["*"], "expiry": 5}),
        ] {
            assert!(wish(wrong.clone()).is_err(), "{wrong}");
        }
    }

    #[test]
    fn what_cannot_be_read_grants_nothing() {
        let ann = UserName::parse("ann").expect("valid");
        let mut held = Dict::new();
        held.set("hash", "x");
        let grant = Grant::from_dict(&ann, "id", &held).expect("a hash is all it needs");
        assert!(grant.is_over(SystemTime::UNIX_EPOCH));
        let dev = IndexName::parse("ann/dev").expect("valid");
        assert!(!grant.has(Right::Read, &dev) && !grant.is_for(&ProjectName::new("x")));
    }
}

//! Names of users, indexes, projects, versions and files: parsed once, at the edge, and safe as path parts after that.

use std::fmt;

use crate::error::{Error, Result};

/// Longest name in bytes; file systems stop at 255.
pub const NAME_BYTES_MAX: usize = 200;

/// ASCII symbols that devpi forbids in names of users and indexes (spec/http-api.md 1.1).
const FORBIDDEN: &str = " !\"#$%&'()*+,/:;<=>?[\\]^`{|}~";

/// True if devpi accepts `name` for a new user or index. The names `.` and `..` are refused here on top of that.
fn is_valid_name(name: &str) -> bool {
    let is_bad = |c: char| c.is_control() || FORBIDDEN.contains(c);
    !name.is_empty()
        && name.len() <= NAME_BYTES_MAX
        && name != "."
        && name != ".."
        && !name.contains(is_bad)
}

/// A user's name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UserName(String);

impl UserName {
    /// Checks the rules for names.
    ///
    /// # Errors
    /// `Kind::Invalid` for the empty name, forbidden characters, and names over the limit.
    pub fn parse(name: &str) -> Result<Self> {
        if is_valid_name(name) {
            Ok(Self(name.to_owned()))
        } else {
            Err(Error::invalid(format!(
                "username '{name}' contains characters that aren't allowed. Any ascii symbol besides -.@_ is blocked."
            )))
        }
    }
    /// The superuser.
    pub fn root() -> Self {
        Self("root".to_owned())
    }
    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
    /// Whether this is the superuser.
    pub fn is_root(&self) -> bool {
        self.0 == "root"
    }
}

impl fmt::Display for UserName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// An index: a user's name and the name of one of the user's indexes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct IndexName {
    user: UserName,
    index: String,
}

impl IndexName {
    /// Checks both names.
    ///
    /// # Errors
    /// `Kind::Invalid` if one of them breaks the rules.
    pub fn new(user: &str, index: &str) -> Result<Self> {
        let user = UserName::parse(user)?;
        if is_valid_name(index) {
            Ok(Self { user, index: index.to_owned() })
        } else {
            Err(Error::invalid(format!(
                "indexname '{index}' contains characters that aren't allowed. Any ascii symbol besides -.@_ is blocked."
            )))
        }
    }
    /// Reads `user/index`.
    ///
    /// # Errors
    /// `Kind::Invalid` if it is anything else.
    pub fn parse(text: &str) -> Result<Self> {
        match text.split_once('/') {
            Some((user, index)) => Self::new(user, index),
            None => Err(Error::invalid(format!(
                "invalid index name '{text}': not in the form user/index"
            ))),
        }
    }
    /// The owner.
    pub fn user(&self) -> &UserName {
        &self.user
    }
    /// The second part.
    pub fn index(&self) -> &str {
        &self.index
    }
}

impl fmt::Display for IndexName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.user, self.index)
    }
}

/// A project's name in devpi's normal form: runs of characters outside `A-Za-z0-9` become one `-`, then lower case.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ProjectName(String);

impl ProjectName {
    /// The normal form of any spelling.
    pub fn new(spelling: &str) -> Self {
        let mut normal = String::with_capacity(spelling.len());
        let mut in_run = false;
        for c in spelling.chars() {
            if c.is_ascii_alphanumeric() {
                normal.push(c.to_ascii_lowercase());
                in_run = false;
            } else if !in_run {
                normal.push('-');
                in_run = true;
            }
        }
        Self(normal)
    }
    /// Whether the spelling is its own normal form.
    pub fn is_normal(spelling: &str) -> bool {
        Self::new(spelling).0 == spelling
    }
    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ProjectName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A version as it was given; never empty, never with a `/`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version(String);

impl Version {
    /// Checks that it can be one part of a path.
    ///
    /// # Errors
    /// `Kind::Invalid` if it is empty, too long, holds a `/` or a control character, or is `.` or `..`.
    pub fn parse(text: &str) -> Result<Self> {
        let is_bad = |c: char| c == '/' || c.is_control();
        if text.is_empty()
            || text.len() > NAME_BYTES_MAX
            || text.contains(is_bad)
            || text == "."
            || text == ".."
        {
            return Err(Error::invalid(format!("invalid version '{text}'")));
        }
        Ok(Self(text.to_owned()))
    }
    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
    /// Whether PEP 440 takes it for a final release.
    pub fn is_stable(&self) -> bool {
        self.0.parse::<pep440_rs::Version>().is_ok_and(|version| !version.any_prerelease())
    }
    /// A key that sorts versions as PEP 440 does; what PEP 440 does not understand comes before all others, by text.
    pub fn sort_key(&self) -> (Option<pep440_rs::Version>, String) {
        (self.0.parse().ok(), self.0.clone())
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

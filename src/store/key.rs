//! Every key of the changelog: its name on the wire, its path, and the type of its value.
//!
//! The schema is devpi's (spec/replication-wire.md section 2). A key under another name, from a plugin of another
//! server, has no type here; its rows are kept and passed on as bytes.

use std::fmt;

use crate::error::{Error, Result};
use crate::names::{IndexName, ProjectName, UserName, Version};

use super::record::{Dict, Links, NameSet, Number, Record};

/// A key with the type of its value.
pub trait Key {
    /// The key's name in changelog entries.
    const NAME: &'static str;
    /// What is stored under it.
    type Value: Record;
    /// Its path in changelog entries.
    fn path(&self) -> String;
}

/// A user and all index configurations of that user.
pub struct User<'a>(pub &'a UserName);

impl Key for User<'_> {
    const NAME: &'static str = "USER";
    type Value = Dict;
    fn path(&self) -> String {
        format!("{}/.config", self.0)
    }
}

/// The names of all users.
pub struct UserList;

impl Key for UserList {
    const NAME: &'static str = "USERLIST";
    type Value = NameSet;
    fn path(&self) -> String {
        ".config".to_owned()
    }
}

/// The projects of one index, in normal form.
pub struct Projects<'a>(pub &'a IndexName);

impl Key for Projects<'_> {
    const NAME: &'static str = "PROJNAMES";
    type Value = NameSet;
    fn path(&self) -> String {
        format!("{}/.projects", self.0)
    }
}

/// Whether the list of a mirror's projects was ever loaded: 2 if it was.
pub struct MirrorListLoaded<'a>(pub &'a IndexName);

impl Key for MirrorListLoaded<'_> {
    const NAME: &'static str = "MIRRORNAMESINIT";
    type Value = Number;
    fn path(&self) -> String {
        format!("{}/.mirrornameschange", self.0)
    }
}

/// The versions of a project that one stage holds.
pub struct Versions<'a>(pub &'a IndexName, pub &'a ProjectName);

impl Key for Versions<'_> {
    const NAME: &'static str = "PROJVERSIONS";
    type Value = NameSet;
    fn path(&self) -> String {
        format!("{}/{}/.versions", self.0, self.1)
    }
}

/// Metadata and links of one version.
pub struct Release<'a>(pub &'a IndexName, pub &'a ProjectName, pub &'a Version);

impl Key for Release<'_> {
    const NAME: &'static str = "PROJVERSION";
    type Value = Dict;
    fn path(&self) -> String {
        format!("{}/{}/{}/.config", self.0, self.1, self.2)
    }
}

/// The links of a project's simple page.
pub struct SimpleLinks<'a>(pub &'a IndexName, pub &'a ProjectName);

impl Key for SimpleLinks<'_> {
    const NAME: &'static str = "PROJSIMPLELINKS";
    type Value = Links;
    fn path(&self) -> String {
        format!("{}/{}/.simple", self.0, self.1)
    }
}

/// What is known of a file.
pub struct File<'a>(pub &'a FilePath);

impl Key for File<'_> {
    const NAME: &'static str = "STAGEFILE";
    type Value = Dict;
    fn path(&self) -> String {
        self.0.to_string()
    }
}

/// What is known of a mirror's file whose link had no hash.
pub struct UnhashedFile<'a>(pub &'a FilePath);

impl Key for UnhashedFile<'_> {
    const NAME: &'static str = "PYPIFILE_NOMD5";
    type Value = Dict;
    fn path(&self) -> String {
        self.0.to_string()
    }
}

/// Names of the keys whose values name a file with bytes of its own.
pub const FILE_KEYS: [&str; 2] = [File::NAME, UnhashedFile::NAME];

/// The path of a file, `user/index/+f/abc/0123456789abc/name`, safe to use below a folder: no part is empty,
/// `.` or `..`, and none holds a NUL.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FilePath(String);

impl FilePath {
    /// The place of a file with this digest: three hex digits, the next thirteen, the name.
    ///
    /// # Errors
    /// `Kind::Invalid` if the name cannot be one part of a path.
    pub fn of_digest(index: &IndexName, hex_digest: &str, name: &str) -> Result<Self> {
        let (Some(a), Some(b)) = (hex_digest.get(..3), hex_digest.get(3..16)) else {
            return Err(Error::invalid(format!("'{hex_digest}' is no digest")));
        };
        Self::parse(&format!("{index}/+f/{a}/{b}/{name}"))
            .filter(|_| !name.contains('/'))
            .ok_or_else(|| Error::invalid(format!("'{name}' cannot be the name of a file")))
    }
    /// Reads the path of a file key; `None` if it is unsafe or of another shape.
    pub fn parse(path: &str) -> Option<Self> {
        let parts: Vec<&str> = path.split('/').collect();
        let shape = match parts.get(2) {
            Some(&"+f") => parts.len() == 6,
            Some(&"+e") => parts.len() == 5,
            _ => false,
        };
        (shape && parts.iter().all(|part| Self::is_part(part))).then(|| Self(path.to_owned()))
    }
    /// Whether a text without `/` can be one part of a path.
    pub fn is_part(part: &str) -> bool {
        let is_name = !part.is_empty() && part != "." && part != "..";
        is_name && !part.contains(['\0', '\\']) && part.len() < 256
    }
    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
    /// The last part.
    pub fn name(&self) -> &str {
        self.0.rsplit('/').next().unwrap_or_default()
    }
    /// `user/index`.
    pub fn index(&self) -> &str {
        let end = self.0.match_indices('/').nth(1).map_or(self.0.len(), |(at, _)| at);
        &self.0[..end]
    }
    /// Whether it stands under its hash (`+f`), not under where it lies at an upstream (`+e`).
    pub fn is_by_hash(&self) -> bool {
        self.0.split('/').nth(2) == Some("+f")
    }
    /// The file beside a wheel that holds its METADATA (PEP 658).
    ///
    /// # Errors
    /// `Kind::Invalid` if the name gets too long.
    pub fn sidecar(&self) -> Result<Self> {
        self.sibling(&format!("{}.metadata", self.name()))
    }
    /// Another file in the same folder.
    ///
    /// # Errors
    /// `Kind::Invalid` if the name cannot be one part of a path.
    pub fn sibling(&self, name: &str) -> Result<Self> {
        let folder = &self.0[..self.0.len() - self.name().len()];
        Self::parse(&format!("{folder}{name}"))
            .ok_or_else(|| Error::invalid(format!("'{name}' cannot be the name of a file")))
    }
}

impl fmt::Display for FilePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_paths_cannot_escape() {
        assert!(FilePath::parse("a/b/+f/123/4567890123456/x.whl").is_some());
        assert!(FilePath::parse("a/b/+e/http_host/x.whl").is_some());
        for bad in [
            "a/b/+f/../4567890123456/x.whl",
            "a/b/+f/123/4567890123456/..",
            "../b/+f/123/4567890123456/x",
            "a/b/+f/123//x",
            "a/b/c/123/456/x",
            "a/b/+f/123/456/x\0",
            "a/b/+e/x/y/z",
        ] {
            assert!(FilePath::parse(bad).is_none(), "{bad}");
        }
    }

    #[test]
    fn a_file_stands_under_its_digest() {
        let index = IndexName::new("ann", "dev").expect("valid");
        let path =
            FilePath::of_digest(&index, &"0123456789abcdef".repeat(4), "x.whl").expect("valid");
        assert_eq!(path.as_str(), "ann/dev/+f/012/3456789abcdef/x.whl");
        assert_eq!((path.index(), path.name()), ("ann/dev", "x.whl"));
        assert!(FilePath::of_digest(&index, &"0".repeat(64), "../x").is_err());
    }
}

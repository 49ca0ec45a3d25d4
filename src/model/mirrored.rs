//! What mirrors mean: their settings, and where the files of an upstream stand here.

use std::time::Duration;

use percent_encoding::percent_decode_str;

use crate::error::{Error, Result};
use crate::names::{IndexName, ProjectName};
use crate::store::codec::Value;
use crate::store::key::FilePath;

use super::index::Index;

/// The settings of a mirror (spec/http-api.md 6.1).
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// The simple index of the upstream; may hold user and password, so it is for requests only.
    pub url: Option<String>,
    /// How long a page counts as fresh; the server's own setting if `None`.
    pub expiry: Option<Duration>,
    /// Whether the upstream has no list of its projects.
    pub has_no_list: bool,
    /// Whether files stay at the upstream.
    pub uses_external_urls: bool,
    /// Whether a serial lower than before is no reason for doubt.
    pub ignores_serial: bool,
    /// Whether METADATA is offered for all wheels.
    pub provides_metadata: bool,
}

impl Settings {
    /// Those of a mirror.
    pub fn of(index: &Index) -> Self {
        let config = &index.config;
        let flag = |key| config.flag(key).unwrap_or(false);
        let expiry = match config.get("mirror_cache_expiry") {
            Some(Value::Int(seconds)) => Some(u64::try_from(*seconds).unwrap_or(0)),
            _ => None,
        };
        Self {
            url: config.text("mirror_url").filter(|url| !url.is_empty()).map(str::to_owned),
            expiry: expiry.map(Duration::from_secs),
            has_no_list: flag("mirror_no_project_list"),
            uses_external_urls: flag("mirror_use_external_urls"),
            ignores_serial: flag("mirror_ignore_serial_header"),
            provides_metadata: flag("mirror_provides_core_metadata"),
        }
    }
}

/// Where a file of an upstream stands here: by its hash, else by where it lies there (spec/replication-wire.md 2).
///
/// # Errors
/// `Kind::Invalid` if its name or hash cannot be part of a path.
pub fn path_of(index: &IndexName, url: &str, hash: Option<&str>, name: &str) -> Result<FilePath> {
    match hash {
        Some(hex) => FilePath::of_digest(index, hex, name),
        None => FilePath::parse(&format!("{index}/+e/{}/{name}", folder_of(url)))
            .ok_or_else(|| Error::invalid(format!("'{name}' cannot be the name of a file"))),
    }
}

/// `http://host:80/a/b/name` as `http_host_80_a_b`.
fn folder_of(url: &str) -> String {
    let text = url.replacen("://", "/", 1);
    let text = text.split(['?', '#']).next().unwrap_or_default();
    let folder = text.rsplit_once('/').map_or(text, |(folder, _)| folder);
    let plain: String = folder
        .replace('/', "_")
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() || "_.-".contains(c) { c } else { '_' })
        .collect();
    percent_decode_str(&plain).decode_utf8_lossy().into_owned()
}

/// Ends of the names of files that are releases, longest first where one ends like another.
const SUFFIXES: [&str; 14] = [
    ".doc.zip", ".tar.bz2", ".tar.gz", ".tar.xz", ".whl", ".zip", ".tgz", ".tar", ".egg", ".exe",
    ".msi", ".deb", ".dmg", ".rpm",
];

/// The version that a file's name shows; `None` if it shows none.
pub fn version_of(name: &str, project: &ProjectName) -> Option<String> {
    let lower = name.to_ascii_lowercase();
    let suffix = SUFFIXES.iter().find(|suffix| lower.ends_with(**suffix))?;
    let stem = &name[..name.len() - suffix.len()];
    let rest = after_project(stem, project)?;
    let version = match *suffix {
        ".whl" => rest.split('-').next()?,
        ".egg" => rest.find("-py").map_or(rest, |at| &rest[..at]),
        ".exe" | ".msi" | ".dmg" | ".rpm" | ".deb" => [".win", ".linux", ".macosx", "-py"]
            .iter()
            .filter_map(|mark| rest.find(mark))
            .min()
            .map_or(rest, |at| &rest[..at]),
        _ => rest,
    };
    (!version.is_empty()).then(|| version.to_owned())
}

/// What follows the project's name and a dash in a file's stem.
fn after_project<'a>(stem: &'a str, project: &ProjectName) -> Option<&'a str> {
    stem.match_indices('-')
        .map(|(at, _)| (&stem[..at], &stem[at + 1..]))
        .find(|(head, _)| ProjectName::new(head) == *project)
        .map(|(_, rest)| rest)
}

/// The project that a file's name speaks of, as far as the name alone shows it: what stands before the first part
/// that begins with a digit.
pub fn project_of(name: &str) -> Option<ProjectName> {
    let at = match name.to_ascii_lowercase().ends_with(".whl") {
        true => name.find('-')?,
        false => {
            let bytes = name.as_bytes();
            let digit = |at: &usize| bytes.get(at + 1).is_some_and(u8::is_ascii_digit);
            name.match_indices('-').map(|(at, _)| at).find(digit)?
        }
    };
    (0 < at).then(|| ProjectName::new(&name[..at]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_from_names() {
        for (name, project, version) in [
            ("Pkg-1.0-py3-none-any.whl", "pkg", Some("1.0")),
            ("a-b-1.0.tar.gz", "a-b", Some("1.0")),
            ("a_b-1.0.post1.zip", "a-b", Some("1.0.post1")),
            ("zope.interface-3.8.0.win-amd64-py2.7.exe", "zope-interface", Some("3.8.0")),
            ("pkg-1.0-py2.7.egg", "pkg", Some("1.0")),
            ("pkg-1.0.doc.zip", "pkg", Some("1.0")),
            ("other-1.0.zip", "pkg", None),
            ("pkg.zip", "pkg", None),
        ] {
            let found = version_of(name, &ProjectName::new(project));
            assert_eq!(found.as_deref(), version, "{name}");
        }
    }

    #[test]
    fn projects_are_read_from_names() {
        for (name, project) in [
            ("Pkg_a-1.0-py3-none-any.whl", Some("pkg-a")),
            ("a-b-1.0.tar.gz", Some("a-b")),
            ("nothing.zip", None),
            ("-1.zip", None),
        ] {
            assert_eq!(project_of(name).map(|p| p.to_string()).as_deref(), project, "{name}");
        }
    }

    #[test]
    fn a_file_without_hash_stands_under_where_it_lies() {
        let index = IndexName::new("a", "mir").expect("valid");
        let url = "http://127.0.0.1:14143/files/nohash-0.1.tar.gz";
        let path = path_of(&index, url, None, "nohash-0.1.tar.gz").expect("valid");
        assert_eq!(path.as_str(), "a/mir/+e/http_127.0.0.1_14143_files/nohash-0.1.tar.gz");
    }
}

//! What an upload form says of a release, and the METADATA inside a wheel.

use std::fs::File;
use std::io::Read as _;

use crate::digest::{Digest, Hasher};
use crate::error::{Error, Result};
use crate::names::{ProjectName, Version};
use crate::store::blobs::Blobs;
use crate::store::codec::Value;
use crate::store::key::FilePath;
use crate::store::record::Dict;

/// The metadata fields that are kept, in stored order; true where all repetitions are kept as a list
/// (spec/http-api.md section 8).
const FIELDS: [(&str, bool); 31] = [
    ("name", false),
    ("version", false),
    ("metadata_version", false),
    ("summary", false),
    ("home_page", false),
    ("author", false),
    ("author_email", false),
    ("maintainer", false),
    ("maintainer_email", false),
    ("license", false),
    ("description", false),
    ("keywords", false),
    ("platform", true),
    ("classifiers", true),
    ("download_url", false),
    ("supported_platform", true),
    ("comment", false),
    ("provides", true),
    ("requires", true),
    ("obsoletes", true),
    ("project_urls", true),
    ("provides_dist", true),
    ("obsoletes_dist", true),
    ("requires_dist", true),
    ("requires_external", true),
    ("requires_python", false),
    ("description_content_type", false),
    ("provides_extras", true),
    ("dynamic", true),
    ("license_expression", false),
    ("license_file", true),
];

/// The largest METADATA that is taken out of a wheel, in bytes; real ones stay below 1 MiB.
const METADATA_BYTES_MAX: u64 = 8 << 20;

/// The metadata of one release as a form gives it.
#[derive(Clone, Debug)]
pub struct Submission {
    /// The project in normal form.
    pub project: ProjectName,
    /// The version.
    pub version: Version,
    /// The fields that the form has.
    given: Vec<(&'static str, Value)>,
}

impl Submission {
    /// Reads the text fields of a form.
    ///
    /// # Errors
    /// `Kind::Invalid` if name or version are missing or cannot be such.
    pub fn parse(fields: &[(String, String)]) -> Result<Self> {
        let mut given = Vec::new();
        for (key, is_list) in FIELDS {
            let mut values = fields
                .iter()
                .filter(|(name, _)| name == key)
                .map(|(_, value)| if value == "UNKNOWN" { String::new() } else { value.clone() });
            if is_list {
                let kept: Vec<String> = values.filter(|value| !value.is_empty()).collect();
                if fields.iter().any(|(name, _)| name == key) {
                    given.push((key, Value::from(kept)));
                }
            } else if let Some(value) = values.next() {
                given.push((key, Value::Str(value)));
            }
        }
        let text = |key: &str| {
            let value = given.iter().find(|(name, _)| *name == key).map(|(_, value)| value);
            match value {
                Some(Value::Str(text)) if !text.is_empty() => Ok(text.clone()),
                _ => Err(Error::invalid(format!(
                    "invalid metadata: Missing required field \"{key}\""
                ))),
            }
        };
        let (name, version) = (text("name")?, text("version")?);
        check_name(&name)?;
        check_plain("version", &version)?;
        let version = Version::parse(&version).map_err(|e| e.while_doing("invalid metadata"))?;
        Ok(Self { project: ProjectName::new(&name), version, given })
    }

    /// The complete metadata: what is not given is empty.
    pub fn full(&self) -> Dict {
        let mut full = Dict::new();
        for (key, is_list) in FIELDS {
            let given = self.given.iter().find(|(name, _)| *name == key);
            let empty = if is_list { Value::List(Vec::new()) } else { Value::Str(String::new()) };
            full.set(key, given.map_or(empty, |(_, value)| value.clone()));
        }
        full
    }

    /// The fields that the form has.
    pub fn given(&self) -> &[(&'static str, Value)] {
        &self.given
    }

    /// Writes the given fields over those of a record.
    pub fn write_over(&self, record: &mut Dict) {
        for (key, value) in &self.given {
            record.set(key, value.clone());
        }
    }
}

/// The rule for names of the core metadata specification.
fn check_name(name: &str) -> Result<()> {
    let bytes = name.as_bytes();
    let is_inner = |b: &u8| b.is_ascii_alphanumeric() || b"._-".contains(b);
    let ends_well =
        [bytes.first(), bytes.last()].iter().all(|b| b.is_some_and(u8::is_ascii_alphanumeric));
    if ends_well && bytes.iter().all(is_inner) && name.len() <= crate::names::NAME_BYTES_MAX {
        Ok(())
    } else {
        Err(Error::invalid(format!("invalid metadata: '{name}' is no valid project name")))
    }
}

fn check_plain(what: &str, text: &str) -> Result<()> {
    if text.contains(['<', '>', '%', '#', '"']) {
        return Err(Error::invalid(format!(
            "invalid metadata: the {what} '{text}' has one of < > % # \""
        )));
    }
    Ok(())
}

/// Endings of file names that can be uploaded.
const ARCHIVES: [&str; 11] =
    [".exe", ".tar.gz", ".bz2", ".rpm", ".deb", ".zip", ".tgz", ".egg", ".dmg", ".msi", ".whl"];

/// Checks a file's name against the release that it is for.
///
/// # Errors
/// `Kind::Invalid` with the sentence that clients show.
pub fn check_file_name(name: &str, submission: &Submission) -> Result<()> {
    let version = submission.version.as_str();
    if !name.contains(version) && !name.contains(&escaped(version)) {
        return Err(Error::invalid(format!(
            "filename '{name}' does not contain version '{version}'"
        )));
    }
    let lower = name.to_lowercase();
    let is_archive = ARCHIVES.iter().any(|end| lower.len() > end.len() && lower.ends_with(end));
    if !is_archive || name.contains(['/', '\\']) || name.starts_with('.') {
        return Err(Error::invalid(format!("'{name}' is not a valid archive name")));
    }
    let project = &submission.project;
    if !ProjectName::new(name).as_str().starts_with(project.as_str()) {
        return Err(Error::invalid(format!(
            "filename '{name}' does not match project name '{project}'"
        )));
    }
    Ok(())
}

/// A version as file names of wheels write it: runs of other than word characters become `_`.
fn escaped(version: &str) -> String {
    let mut escaped = String::new();
    for c in version.chars() {
        if c.is_alphanumeric() || c == '_' || c == '.' {
            escaped.push(c);
        } else if !escaped.ends_with('_') {
            escaped.push('_');
        }
    }
    escaped
}

/// The METADATA of a wheel (PEP 658); `None` if the file is no wheel or has none.
pub fn of_wheel(name: &str, file: File) -> Option<Vec<u8>> {
    let distribution = name.strip_suffix(".whl")?;
    let mut archive = zip::ZipArchive::new(std::io::BufReader::new(file)).ok()?;
    let release: Vec<&str> = distribution.split('-').take(2).collect();
    let [project, version] = release.as_slice() else { return None };
    let expected = format!("{project}-{version}.dist-info/METADATA");
    let at = archive.index_for_name(&expected).or_else(|| {
        (0..archive.len()).find(|at| {
            let name =
                archive.by_index_raw(*at).ok().and_then(|f| f.name().ok().map(|n| n.to_string()));
            name.is_some_and(|n| n.ends_with(".dist-info/METADATA") && n.matches('/').count() == 1)
        })
    })?;
    let entry = archive.by_index(at).ok()?;
    let mut bytes = Vec::new();
    entry.take(METADATA_BYTES_MAX + 1).read_to_end(&mut bytes).ok()?;
    (bytes.len() as u64 <= METADATA_BYTES_MAX).then_some(bytes)
}

/// Puts the METADATA of a wheel beside it again. False if the wheel is not here, or has another one than this.
///
/// # Errors
/// `Kind::Internal` if the disk fails.
pub fn put_beside(blobs: &Blobs, wheel: &FilePath, sha256: &str) -> Result<bool> {
    let Some((file, _)) = blobs.get(wheel)? else { return Ok(false) };
    let Some(bytes) = of_wheel(wheel.name(), file) else { return Ok(false) };
    if !Digest::of(&bytes).hex().eq_ignore_ascii_case(sha256) {
        return Ok(false);
    }
    let staged = blobs.stage(&mut bytes.as_slice(), Hasher::new(), METADATA_BYTES_MAX)?;
    blobs.place(staged, &wheel.sidecar()?)?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn form(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    #[test]
    fn a_form_fills_every_field_and_drops_unknown_and_empty() {
        let fields = form(&[
            ("name", "Some.Pkg"),
            ("version", "1.0"),
            ("license", "UNKNOWN"),
            ("classifiers", "a"),
            ("classifiers", ""),
            ("classifiers", "b"),
            ("shoe_size", "9"),
        ]);
        let submission = Submission::parse(&fields).expect("valid");
        assert_eq!(submission.project.as_str(), "some-pkg");
        let full = submission.full();
        assert_eq!(full.0.len(), FIELDS.len());
        assert_eq!(full.text("license"), Some(""));
        assert_eq!(full.texts("classifiers"), ["a", "b"]);
        assert!(full.get("shoe_size").is_none());
    }

    #[test]
    fn names_and_versions_are_checked() {
        for (name, version) in [
            ("", "1"),
            ("a", ""),
            ("-a", "1"),
            ("a_", "1"),
            ("a b", "1"),
            ("a", "1<"),
            ("a", "1/2"),
        ] {
            let fields = form(&[("name", name), ("version", version)]);
            assert!(Submission::parse(&fields).is_err(), "{name} {version}");
        }
    }

    #[test]
    fn file_names_are_checked_against_the_release() {
        let fields = form(&[("name", "pkg"), ("version", "1.0-2")]);
        let submission = Submission::parse(&fields).expect("valid");
        assert!(check_file_name("pkg-1.0_2-py3-none-any.whl", &submission).is_ok());
        for bad in ["pkg-1.1.zip", "pkg-1.0-2.txt", "other-1.0-2.zip", "pkg-1.0-2/../x.zip"] {
            assert!(check_file_name(bad, &submission).is_err(), "{bad}");
        }
    }
}

//! What the bytes of a file must come to, by its record.

use crate::digest::{self, Digest, Hasher, Sums};
use crate::error::{Error, Kind, Result};

use super::codec::Value;
use super::record::Dict;

/// The kinds of digest whose beginning may be in a path.
const PREFIX_KINDS: [&str; 5] = ["md5", "sha1", "sha224", "sha384", "sha512"];

/// The digests and the size that a record names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Expected {
    digests: Vec<(String, String)>,
    /// How the SHA-256 or the MD5 in hex begins, when no more is known.
    prefix: Option<String>,
    /// The size in bytes, when the record has it.
    pub size_bytes: Option<u64>,
    /// The SHA-256 of the METADATA beside a wheel, in hex.
    pub metadata_sha256: Option<String>,
}

impl Expected {
    /// By devpi's rule: the record's `hashes`, unless its `hash_spec` has a digest that they have not or have
    /// differently; then that one alone.
    pub fn of(record: &Dict) -> Self {
        let spec = record.text("hash_spec").and_then(|spec| spec.split_once('='));
        let spec = spec.map(|(kind, hex)| (kind.to_owned(), hex.to_lowercase()));
        let text = |(kind, value): (String, Value)| match value {
            Value::Str(hex) => Some((kind, hex.to_lowercase())),
            _ => None,
        };
        let hashes: Vec<_> =
            record.dict("hashes").unwrap_or_default().0.into_iter().filter_map(text).collect();
        let digests = match spec {
            Some(spec) if !hashes.contains(&spec) => vec![spec],
            _ => hashes,
        };
        let size_bytes = match record.get("size") {
            Some(Value::Int(size)) => u64::try_from(*size).ok(),
            Some(Value::BigInt(size)) => size.parse().ok(),
            _ => None,
        };
        let metadata_sha256 = record.text("metadata_sha256").map(str::to_lowercase);
        Self { digests, prefix: None, size_bytes, metadata_sha256 }
    }

    /// Bytes with this SHA-256 in hex.
    pub fn of_sha256(hex: &str) -> Self {
        let digests = vec![("sha256".to_owned(), hex.to_lowercase())];
        Self { digests, prefix: None, size_bytes: None, metadata_sha256: None }
    }

    /// By the path alone: below `+f` it has the first 16 digits of the digest: SHA-256 on stages, and
    /// what the upstream gave on mirrors.
    pub fn of_path(path: &str) -> Self {
        let parts: Vec<&str> = path.split('/').collect();
        let prefix = match parts.as_slice() {
            [_, _, "+f", a, b, _] => Some(format!("{a}{b}").to_lowercase()),
            _ => None,
        };
        Self { digests: Vec::new(), prefix, size_bytes: None, metadata_sha256: None }
    }

    /// The same for the same digests, and other for others, in sixteen letters and digits.
    pub fn key(&self) -> String {
        let digests = self.digests.iter().map(|(kind, hex)| format!("{kind}={hex}\n"));
        let text = digests.collect::<String>() + self.prefix.as_deref().unwrap_or_default();
        Digest::of(text.as_bytes()).hex()[..16].to_owned()
    }

    /// What computes the sums that `check` needs. Where there is a SHA-256 it suffices.
    pub fn hasher(&self) -> Hasher {
        match &self.prefix {
            Some(_) => Hasher::with(PREFIX_KINDS),
            None if self.digests.iter().any(|(kind, _)| kind == "sha256") => Hasher::new(),
            None => Hasher::with(self.digests.iter().map(|(kind, _)| kind.as_str())),
        }
    }

    /// Whether there is anything to tell right bytes from wrong ones by.
    pub fn is_known(&self) -> bool {
        let is_known = |(kind, _): &(String, String)| digest::is_known(kind);
        self.prefix.is_some() || self.digests.iter().any(is_known)
    }

    /// Whether bytes with these sums are the file's. Digests of kinds that are not known here are passed over.
    ///
    /// # Errors
    /// `Kind::BadGateway` if size or a digest differ.
    pub fn check(&self, sums: &Sums) -> Result<()> {
        if let Some(size) = self.size_bytes.filter(|size| *size != sums.size_bytes) {
            return Err(wrong(format!("{} bytes came where {size} were due", sums.size_bytes)));
        }
        if let Some(prefix) = &self.prefix
            && !sums.all().iter().any(|hex| hex.starts_with(prefix))
        {
            return Err(wrong(format!("no digest begins with {prefix}")));
        }
        let mut is_checked = self.digests.is_empty();
        for (kind, expected) in &self.digests {
            let Some(found) = sums.hex_of(kind) else { continue };
            if found != *expected {
                return Err(wrong(format!(
                    "the {kind} digest is {found} where {expected} was due"
                )));
            }
            is_checked = true;
        }
        if !is_checked {
            let kinds: Vec<_> = self.digests.iter().map(|(kind, _)| kind.as_str()).collect();
            log::warn!("a file is taken unchecked: it has only digests of kind {kinds:?}");
        }
        Ok(())
    }
}

fn wrong(message: String) -> Error {
    Error::new(Kind::BadGateway, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHA256: &str = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
    const MD5: &str = "900150983cd24fb0d6963f7d28e17f72";

    fn record(spec: &str, hashes: &[(&str, &str)], size: Option<i32>) -> Dict {
        let mut record = Dict::new();
        record.set("hash_spec", spec);
        let hashes = hashes.iter().map(|(k, v)| ((*k).to_owned(), (*v).into())).collect();
        record.set("hashes", Dict(hashes));
        if let Some(size) = size {
            record.set("size", Value::Int(size));
        }
        record
    }

    fn is_right(record: &Dict) -> bool {
        let expected = Expected::of(record);
        let mut hasher = expected.hasher();
        hasher.update(b"abc");
        expected.check(&hasher.finish()).is_ok()
    }

    #[test]
    fn all_known_digests_count() {
        let spec = format!("sha256={SHA256}");
        assert!(is_right(&record(&spec, &[("sha256", SHA256)], Some(3))));
        assert!(is_right(&record(&spec.to_uppercase().replace("SHA256", "sha256"), &[], None)));
        assert!(!is_right(&record(&spec, &[("sha256", SHA256)], Some(4))));
        assert!(!is_right(&record(&spec.replace("ba78", "ba79"), &[("sha256", SHA256)], None)));
        assert!(is_right(&record(&format!("md5={MD5}"), &[("md5", MD5)], None)));
        assert!(!is_right(&record(&format!("md5={SHA256}"), &[("md5", SHA256)], None)));
        assert!(is_right(&record("", &[], None)), "a file without digests is taken as it is");
    }

    #[test]
    fn the_spec_alone_counts_where_the_hashes_differ_from_it() {
        let spec = format!("sha256={SHA256}");
        assert!(is_right(&record(&spec, &[("sha256", "00"), ("md5", "00")], None)));
        let both = [("sha256", SHA256), ("md5", "00")];
        assert!(is_right(&record(&spec, &both, None)), "the best digest suffices");
        assert!(is_right(&record("sha3_256=00", &[], None)), "nothing to compare");
        assert!(!is_right(&record("sha512=00", &[], None)));
        for (spec, is_known) in [("sha3_256=00", false), ("sha512=00", true), ("", false)] {
            assert_eq!(Expected::of(&record(spec, &[], None)).is_known(), is_known, "{spec}");
        }
    }
}

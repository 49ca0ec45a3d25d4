//! Digests of files: a streaming hasher and devpi's `type=hex` notation.

use std::io::{self, Read};

use std::fmt;

use sha2::{Digest as _, Sha256};

/// Bytes that are read at once.
const CHUNK_BYTES: usize = 256 << 10;

/// A SHA-256 digest.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest(pub [u8; 32]);

impl Digest {
    /// Of these bytes.
    pub fn of(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }
    /// Reads sixty-four hex digits; `None` if it is anything else.
    pub fn parse(hex: &str) -> Option<Self> {
        unhex(hex)?.try_into().ok().map(Self)
    }
    /// Sixty-four lower-case hex digits.
    pub fn hex(&self) -> String {
        hex(&self.0)
    }
    /// As devpi writes it: `sha256=<hex>`.
    pub fn hash_spec(&self) -> String {
        format!("sha256={}", self.hex())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.hex())
    }
}

/// Lower-case hex digits of the bytes.
pub fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    bytes
        .iter()
        .flat_map(|b| [DIGITS[usize::from(b >> 4)], DIGITS[usize::from(b & 15)]])
        .map(char::from)
        .collect()
}

/// Reads hex digits of either case; `None` if it is anything else.
pub fn unhex(text: &str) -> Option<Vec<u8>> {
    if !text.len().is_multiple_of(2) {
        return None;
    }
    let nibble = |c: u8| (c as char).to_digit(16).map(|d| d as u8);
    text.as_bytes().chunks(2).map(|p| Some(nibble(p[0])? << 4 | nibble(p[1])?)).collect()
}

/// What a file's bytes came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sums {
    /// Number of bytes.
    pub size_bytes: u64,
    /// SHA-256.
    pub sha256: Digest,
    /// MD5 in hex, when it was asked for.
    pub md5: Option<String>,
    /// BLAKE2b-256 in hex, when it was asked for.
    pub blake2_256: Option<String>,
    /// Other kinds that were asked for, in hex.
    others: Vec<(&'static str, String)>,
}

impl Sums {
    /// Of bytes whose length and SHA-256 are known already.
    pub fn known(size_bytes: u64, sha256: Digest) -> Self {
        Self { size_bytes, sha256, md5: None, blake2_256: None, others: Vec::new() }
    }
    /// The digest of a kind in hex; `None` if it was not asked for or is not known here.
    pub fn hex_of(&self, kind: &str) -> Option<String> {
        match kind {
            "sha256" => Some(self.sha256.hex()),
            "md5" => self.md5.clone(),
            "blake2b_256" | "blake2_256" => self.blake2_256.clone(),
            _ => self.others.iter().find(|(held, _)| *held == kind).map(|(_, hex)| hex.clone()),
        }
    }
    /// All digests in hex.
    pub fn all(&self) -> Vec<String> {
        let named = [Some(self.sha256.hex()), self.md5.clone(), self.blake2_256.clone()];
        named.into_iter().flatten().chain(self.others.iter().map(|(_, hex)| hex.clone())).collect()
    }
}

/// A digest of another kind under way.
type Other = (&'static str, Box<dyn sha2::digest::DynDigest + Send>);

/// Hashes a file while it streams. SHA-256 always; the others cost time and are computed on request only.
pub struct Hasher {
    size_bytes: u64,
    sha256: Sha256,
    md5: Option<md5::Md5>,
    blake2_256: Option<blake2::Blake2b<blake2::digest::consts::U32>>,
    others: Vec<Other>,
}

impl Hasher {
    /// SHA-256 only.
    pub fn new() -> Self {
        let others = Vec::new();
        Self { size_bytes: 0, sha256: Sha256::new(), md5: None, blake2_256: None, others }
    }
    /// SHA-256, MD5 and BLAKE2b-256: the three that upload forms name.
    pub fn with_all() -> Self {
        Self::with(["md5", "blake2_256"])
    }
    /// SHA-256 and those of the named kinds that are known here.
    pub fn with<'k>(kinds: impl IntoIterator<Item = &'k str>) -> Self {
        let mut hasher = Self::new();
        for kind in kinds {
            match kind {
                "md5" => hasher.md5 = Some(md5::Md5::new()),
                "blake2b_256" | "blake2_256" => hasher.blake2_256 = Some(Default::default()),
                _ => hasher.others.extend(other(kind)),
            }
        }
        hasher
    }
    /// Takes the next bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        self.size_bytes += bytes.len() as u64;
        self.sha256.update(bytes);
        if let Some(md5) = &mut self.md5 {
            md5.update(bytes);
        }
        if let Some(blake2) = &mut self.blake2_256 {
            blake2.update(bytes);
        }
        for (_, other) in &mut self.others {
            other.update(bytes);
        }
    }
    /// Takes all that a reader gives.
    ///
    /// # Errors
    /// Those of the reader.
    pub fn take_all(&mut self, reader: &mut impl Read) -> io::Result<()> {
        let mut chunk = vec![0; CHUNK_BYTES];
        loop {
            match reader.read(&mut chunk) {
                Ok(0) => return Ok(()),
                Ok(n) => self.update(&chunk[..n]),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
    }
    /// The sums of all that was taken.
    pub fn finish(self) -> Sums {
        let others = self.others.into_iter().map(|(kind, other)| (kind, hex(&other.finalize())));
        Sums {
            size_bytes: self.size_bytes,
            sha256: Digest(self.sha256.finalize().into()),
            md5: self.md5.map(|m| hex(&m.finalize())),
            blake2_256: self.blake2_256.map(|b| hex(&b.finalize())),
            others: others.collect(),
        }
    }
}

/// Whether digests of this kind can be computed here.
pub fn is_known(kind: &str) -> bool {
    matches!(kind, "sha256" | "md5" | "blake2b_256" | "blake2_256") || other(kind).is_some()
}

/// The kinds that only indexes elsewhere still use.
fn other(kind: &str) -> Option<Other> {
    Some(match kind {
        "sha1" => ("sha1", Box::new(sha1::Sha1::new())),
        "sha224" => ("sha224", Box::new(sha2::Sha224::new())),
        "sha384" => ("sha384", Box::new(sha2::Sha384::new())),
        "sha512" => ("sha512", Box::new(sha2::Sha512::new())),
        _ => return None,
    })
}

impl Default for Hasher {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_computed_when_asked_for() {
        let mut hasher = Hasher::with(["sha1", "sha512", "md5", "sha3_256"]);
        hasher.update(b"ab");
        hasher.update(b"c");
        let sums = hasher.finish();
        let sha1 = "a9993e364706816aba3e25717850c26c9cd0d89d";
        assert_eq!(sums.hex_of("sha1").as_deref(), Some(sha1));
        assert_eq!(sums.hex_of("sha512").map(|hex| hex.len()), Some(128));
        assert_eq!(sums.hex_of("md5").as_deref(), Some("900150983cd24fb0d6963f7d28e17f72"));
        assert_eq!(sums.hex_of("sha256"), Some(Digest::of(b"abc").hex()));
        assert_eq!((sums.hex_of("sha224"), sums.hex_of("sha3_256")), (None, None));
    }
}

//! Digests of files: a streaming hasher and devpi's `type=hex` notation.

use std::fmt;

use sha2::{Digest as _, Sha256};

/// A SHA-256 digest.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest(pub [u8; 32]);

impl Digest {
    /// Of these bytes.
    pub fn of(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
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
}

/// Hashes a file while it streams. SHA-256 always; the others cost time and are computed on request only.
pub struct Hasher {
    size_bytes: u64,
    sha256: Sha256,
    md5: Option<md5::Md5>,
    blake2_256: Option<blake2::Blake2b<blake2::digest::consts::U32>>,
}

impl Hasher {
    /// SHA-256 only.
    pub fn new() -> Self {
        Self { size_bytes: 0, sha256: Sha256::new(), md5: None, blake2_256: None }
    }
    /// SHA-256, MD5 and BLAKE2b-256: the three that upload forms name.
    pub fn with_all() -> Self {
        Self { md5: Some(md5::Md5::new()), blake2_256: Some(Default::default()), ..Self::new() }
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
    }
    /// The sums of all that was taken.
    pub fn finish(self) -> Sums {
        Sums {
            size_bytes: self.size_bytes,
            sha256: Digest(self.sha256.finalize().into()),
            md5: self.md5.map(|m| hex(&m.finalize())),
            blake2_256: self.blake2_256.map(|b| hex(&b.finalize())),
        }
    }
}

impl Default for Hasher {
    fn default() -> Self {
        Self::new()
    }
}

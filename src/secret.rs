//! The secret that a master and its replicas share, and what is made from it: keys, tokens, proofs between nodes.
//!
//! Nothing here prints a secret, a key or a token. Keys of our own come from the secret by HKDF-SHA256, one for each
//! purpose; devpi's keys take its slow derivation and are needed only where a Python server or its tokens are met.

mod access;
mod challenge;
mod devpi;
mod login;
mod tokens;

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hkdf::Hkdf;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use subtle::ConstantTimeEq;

use crate::error::{Context, Error, Kind, Result};

pub use access::AccessToken;
pub use challenge::{AuthFailure, Nonces, ReplicaAuth, ReplicaUuid, SCHEME};
pub use devpi::{Argon2Cost, DevpiKey, DevpiKeys, Salt};
pub use login::{LOGIN_SECS, LoginCheck, LoginTokens};
pub use tokens::{
    LoginClaim, TokenFault, login_token, read_login_token, read_replica_token, replica_token,
};

/// The fewest bytes of a secret.
const SECRET_BYTES_MIN: usize = 32;

/// The fewest different bytes in a secret: fewer are a slip of the hand, not a secret.
const DIFFERENT_MIN: usize = 6;

/// The most bytes that are read from a secret file; more is some other file.
const SECRET_BYTES_MAX: u64 = 64 << 10;

/// The content of the secret file, every byte of it.
#[derive(Clone)]
pub struct Secret(Arc<[u8]>);

impl Secret {
    /// Takes bytes as the secret.
    ///
    /// # Errors
    /// `Kind::Invalid` if they are too few or too much alike.
    pub fn new(bytes: &[u8]) -> Result<Self> {
        if bytes.len() < SECRET_BYTES_MIN {
            return Err(Error::invalid(format!(
                "the secret has {} bytes, {SECRET_BYTES_MIN} are the least",
                bytes.len()
            )));
        }
        let mut seen = [false; 256];
        bytes.iter().for_each(|byte| seen[usize::from(*byte)] = true);
        if seen.iter().filter(|is_seen| **is_seen).count() < DIFFERENT_MIN {
            return Err(Error::invalid(format!(
                "the secret is too simple: it needs {DIFFERENT_MIN} different characters"
            )));
        }
        Ok(Self(bytes.into()))
    }

    /// Reads a secret file. Nobody but its owner may have any access to the file, or write to its folder.
    ///
    /// # Errors
    /// `Kind::Invalid` if that is not so, or the content is no good secret; `Kind::NotFound` if there is no file.
    pub fn load(path: &Path) -> Result<Self> {
        let shown = path.display();
        let file = File::open(path).map_err(|e| {
            let kind =
                if e.kind() == ErrorKind::NotFound { Kind::NotFound } else { Kind::Internal };
            Error::new(kind, format!("cannot open the secret file {shown}")).caused_by(e)
        })?;
        let about = file.metadata()?;
        if !about.is_file() {
            return Err(Error::invalid(format!("the secret file {shown} is no file")));
        }
        if about.mode() & 0o077 != 0 {
            return Err(Error::invalid(format!(
                "the secret file {shown} can be accessed by others than its owner: set its mode to 600"
            )));
        }
        let folder = match path.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => folder,
            _ => Path::new("."),
        };
        if folder.metadata()?.mode() & 0o022 != 0 {
            return Err(Error::invalid(format!(
                "the folder {} of the secret file can be written by others than its owner",
                folder.display()
            )));
        }
        let mut bytes = Vec::new();
        file.take(SECRET_BYTES_MAX + 1).read_to_end(&mut bytes)?;
        if bytes.len() as u64 > SECRET_BYTES_MAX {
            return Err(Error::invalid(format!("the secret file {shown} is too large")));
        }
        Self::new(&bytes).context(|| format!("reading the secret file {shown}"))
    }

    /// Makes a new secret: 32 random bytes as 44 characters.
    ///
    /// # Errors
    /// `Kind::Internal` if the system gives no random bytes.
    pub fn generate() -> Result<Self> {
        Self::new(STANDARD.encode(random::<32>()?).as_bytes())
    }

    /// Writes the secret to a new file that only its owner may read.
    ///
    /// # Errors
    /// `Kind::Conflict` if there is such a file; `Kind::Internal` if the disk fails.
    pub fn save(&self, path: &Path) -> Result<()> {
        let mut file =
            OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map_err(
                |e| {
                    let kind = if e.kind() == ErrorKind::AlreadyExists {
                        Kind::Conflict
                    } else {
                        Kind::Internal
                    };
                    Error::new(kind, format!("cannot create the secret file {}", path.display()))
                        .caused_by(e)
                },
            )?;
        file.write_all(&self.0)?;
        file.sync_all()?;
        Ok(())
    }

    /// The key for one purpose. Nodes that share the secret have the same.
    pub fn key(&self, purpose: Purpose) -> Key {
        self.derive(purpose.label(), b"")
    }

    fn derive(&self, label: &str, detail: &[u8]) -> Key {
        let mut key = [0; 32];
        Hkdf::<Sha256>::new(Some(b"twinpi"), &self.0)
            .expand_multi_info(&[label.as_bytes(), b"\0", detail], &mut key)
            .expect("32 bytes are not too many for HKDF");
        Key(key)
    }

    fn bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(***)")
    }
}

/// What a key is for; the label goes into its derivation, so one key tells nothing of another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Login tokens.
    LoginToken,
    /// Proofs of a replica to its master.
    ReplicaAuth,
    /// The cache of devpi's keys on disk.
    KeyCache,
}

impl Purpose {
    fn label(self) -> &'static str {
        match self {
            Self::LoginToken => "login token",
            Self::ReplicaAuth => "replica authentication",
            Self::KeyCache => "key cache",
        }
    }
}

/// A key for HMAC-SHA256.
#[derive(Clone)]
pub struct Key([u8; 32]);

impl Key {
    /// A key that only this process knows.
    ///
    /// # Errors
    /// `Kind::Internal` if the system gives no random bytes.
    pub fn random() -> Result<Self> {
        random().map(Self)
    }

    /// The code for some parts. Each part goes in with its length, so nothing can move from one to the next.
    pub fn mac(&self, parts: &[&[u8]]) -> [u8; 32] {
        let mut mac =
            Hmac::<Sha256>::new_from_slice(&self.0).expect("HMAC takes keys of any length");
        for part in parts {
            mac.update(&(part.len() as u64).to_be_bytes());
            mac.update(part);
        }
        mac.finalize().into_bytes().into()
    }

    /// Whether `code` is the code for these parts, in constant time.
    pub fn is_mac(&self, parts: &[&[u8]], code: &[u8]) -> bool {
        self.mac(parts).ct_eq(code).into()
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key(***)")
    }
}

fn random<const N: usize>() -> Result<[u8; N]> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes)
        .map_err(|e| Error::internal(format!("the system gives no random bytes: {e}")))?;
    Ok(bytes)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        for digit in [byte >> 4, byte & 15] {
            text.push(char::from_digit(u32::from(digit), 16).expect("four bits are a digit"));
        }
        text
    })
}

#[cfg(test)]
mod tests {
    use std::fs::{Permissions, set_permissions};
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn kind(result: Result<Secret>) -> Option<Kind> {
        result.err().map(|e| e.kind)
    }

    #[test]
    fn a_made_secret_is_saved_once_and_loads() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("secret");
        let secret = Secret::generate().expect("random");
        secret.save(&path).expect("a new file");
        assert_eq!(path.metadata().expect("there").mode() & 0o777, 0o600);
        assert_eq!(Secret::load(&path).expect("good").bytes(), secret.bytes());
        assert_eq!(secret.bytes().len(), 44);
        assert_eq!(secret.save(&path).expect_err("there").kind, Kind::Conflict);
        assert_ne!(Secret::generate().expect("random").bytes(), secret.bytes());
    }

    #[test]
    fn access_by_others_is_refused() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("secret");
        assert_eq!(kind(Secret::load(&path)), Some(Kind::NotFound));
        assert_eq!(kind(Secret::load(folder.path())), Some(Kind::Invalid));
        Secret::generate().expect("random").save(&path).expect("a new file");
        for (mode, folder_mode, is_good) in [
            (0o600, 0o755, true),
            (0o640, 0o755, false),
            (0o604, 0o755, false),
            (0o600, 0o775, false),
            (0o400, 0o757, false),
        ] {
            set_permissions(&path, Permissions::from_mode(mode)).expect("ours");
            set_permissions(folder.path(), Permissions::from_mode(folder_mode)).expect("ours");
            let expected = (!is_good).then_some(Kind::Invalid);
            assert_eq!(kind(Secret::load(&path)), expected, "{mode:o} in {folder_mode:o}");
        }
    }

    #[test]
    fn weak_secrets_are_refused() {
        assert!(Secret::new(b"0123456789012345678901234567890").is_err());
        assert!(Secret::new(&b"01234".repeat(20)).is_err());
        assert!(Secret::new(b"01234501234501234501234501234501").is_ok());
    }

    #[test]
    fn each_purpose_has_its_key_and_nothing_shows_it() {
        let secret = Secret::new(&b"0123456789".repeat(4)).expect("good");
        let [login, replica] = [Purpose::LoginToken, Purpose::ReplicaAuth].map(|p| secret.key(p));
        assert_ne!(login.0, replica.0);
        assert_eq!(login.0, secret.key(Purpose::LoginToken).0);
        assert_eq!(format!("{secret:?} {login:?}"), "Secret(***) Key(***)");
        assert_ne!(login.mac(&[b"ab", b"c"]), login.mac(&[b"a", b"bc"]));
        assert!(login.is_mac(&[b"a"], &login.mac(&[b"a"])));
        assert!(!login.is_mac(&[b"a"], &login.mac(&[b"a"])[..31]));
    }
}

//! The keys that devpi derives from the secret: slow on purpose, so they are made once, in a thread of their own, and
//! kept in the server's folder.

use std::fmt;
use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use argon2::{Algorithm, Argon2, Params, Version};
use subtle::ConstantTimeEq;

use super::{Purpose, Secret, hex};
use crate::deadline::Deadline;
use crate::error::{Error, Result};
use crate::stop::spawn;
use crate::sync::{Condvar, Mutex, lock, wait_timeout};

const KEY_BYTES: usize = 16;

/// How long a failed derivation is left alone: what fails is memory, and it may come back.
const RETRY_AFTER: Duration = Duration::from_secs(60);

/// The parameters of the derivation; all nodes must agree on them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Argon2Cost {
    /// Memory in KiB.
    pub memory_kib: u32,
    /// Passes.
    pub time: u32,
    /// Lanes.
    pub parallelism: u32,
}

impl Default for Argon2Cost {
    /// devpi's: half a gibibyte.
    fn default() -> Self {
        Self { memory_kib: 512 << 10, time: 16, parallelism: 8 }
    }
}

/// Which of devpi's keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Salt {
    /// Signs the tokens of replicas.
    Replica,
    /// Signs the tokens of logins.
    Login,
}

impl Salt {
    fn text(self) -> &'static str {
        match self {
            Self::Replica => "devpi-server-replica",
            Self::Login => "devpi-server-auth",
        }
    }
}

/// One of devpi's keys.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct DevpiKey(pub(super) [u8; KEY_BYTES]);

impl DevpiKey {
    /// Takes the bytes of a key that is known already.
    pub fn new(bytes: [u8; KEY_BYTES]) -> Self {
        Self(bytes)
    }

    /// Derives the key. With devpi's parameters this takes seconds and half a gibibyte.
    ///
    /// # Errors
    /// `Kind::Invalid` if the parameters are out of range; `Kind::Unavailable` if there is not enough memory.
    pub fn derive(secret: &Secret, salt: Salt, cost: Argon2Cost) -> Result<Self> {
        let params = Params::new(cost.memory_kib, cost.time, cost.parallelism, Some(KEY_BYTES))
            .map_err(|e| Error::invalid(format!("the argon2 parameters are out of range: {e}")))?;
        let mut key = [0; KEY_BYTES];
        Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
            .hash_password_into(secret.bytes(), salt.text().as_bytes(), &mut key)
            .map_err(|e| Error::unavailable(format!("cannot derive the key for devpi: {e}")))?;
        Ok(Self(key))
    }
}

impl fmt::Debug for DevpiKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("DevpiKey(***)")
    }
}

impl fmt::Debug for DevpiKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("DevpiKeys(***)")
    }
}

/// devpi's keys as far as they are known. The first who asks for one starts its derivation; nobody waits who does not
/// want to.
#[derive(Clone)]
pub struct DevpiKeys(Arc<Inner>);

struct Inner {
    secret: Secret,
    cost: Argon2Cost,
    folder: Option<PathBuf>,
    slots: Mutex<Slots>,
    settled: Condvar,
    /// Whether a devpi-server follows this node, which must understand the tokens that are given out here.
    has_follower: AtomicBool,
}

struct Slots {
    replica: Slot,
    login: Slot,
    is_running: bool,
}

#[derive(Clone, Copy)]
enum Slot {
    Unknown,
    Wanted,
    Ready(DevpiKey),
    Failed(Instant),
}

impl DevpiKeys {
    /// Nothing is derived yet. Keys are kept in `folder`, if one is given.
    pub fn new(secret: &Secret, cost: Argon2Cost, folder: Option<&Path>) -> Self {
        let slots = Slots { replica: Slot::Unknown, login: Slot::Unknown, is_running: false };
        Self(Arc::new(Inner {
            secret: secret.clone(),
            cost,
            folder: folder.map(Path::to_owned),
            slots: Mutex::new(slots),
            settled: Condvar::new(),
            has_follower: AtomicBool::new(false),
        }))
    }

    /// The key; `None` while it is not ready. Asking for it has it made.
    pub fn get(&self, salt: Salt) -> Option<DevpiKey> {
        self.request(salt);
        match lock(&self.0.slots).slot(salt) {
            Slot::Ready(key) => Some(*key),
            _ => None,
        }
    }

    /// Has a key made in the background, unless it is there or being made.
    pub fn request(&self, salt: Salt) {
        let mut slots = lock(&self.0.slots);
        match slots.slot(salt) {
            Slot::Ready(_) | Slot::Wanted => return,
            Slot::Failed(since) if since.elapsed() < RETRY_AFTER => return,
            Slot::Unknown | Slot::Failed(_) => {}
        }
        if let Some(key) = self.0.read_kept(salt) {
            *slots.slot(salt) = Slot::Ready(key);
            return;
        }
        *slots.slot(salt) = Slot::Wanted;
        if slots.is_running {
            return;
        }
        let inner = self.0.clone();
        match spawn("devpi keys", move || inner.run()) {
            Ok(_) => slots.is_running = true,
            Err(e) => {
                log::error!("devpi's keys cannot be derived: {e}");
                *slots.slot(salt) = Slot::Failed(Instant::now());
            }
        }
    }

    /// Notes that a devpi-server follows this node: logins are to be in its manner from now on.
    pub fn note_follower(&self) {
        if !self.0.has_follower.swap(true, Ordering::Relaxed) {
            self.request(Salt::Login);
        }
    }

    /// The key for logins, if a devpi-server follows this node and the key is there.
    pub fn login_if_followed(&self) -> Option<DevpiKey> {
        let has_follower = self.0.has_follower.load(Ordering::Relaxed);
        has_follower.then(|| self.get(Salt::Login)).flatten()
    }

    /// Whether a key was asked for and is not settled yet.
    pub fn is_pending(&self, salt: Salt) -> bool {
        matches!(lock(&self.0.slots).slot(salt), Slot::Wanted)
    }

    /// The key, waiting for it at most until the deadline.
    ///
    /// # Errors
    /// `Kind::Unavailable` if it is not ready by then or cannot be made.
    pub fn wait(&self, salt: Salt, deadline: Deadline) -> Result<DevpiKey> {
        self.request(salt);
        let mut slots = lock(&self.0.slots);
        loop {
            match slots.slot(salt) {
                Slot::Ready(key) => return Ok(*key),
                Slot::Wanted if !deadline.is_past() => {
                    slots = wait_timeout(&self.0.settled, slots, deadline.remaining());
                }
                Slot::Wanted => {
                    return Err(Error::unavailable(
                        "the key for devpi's tokens is still being derived",
                    ));
                }
                Slot::Unknown | Slot::Failed(_) => {
                    return Err(Error::unavailable(
                        "the key for devpi's tokens could not be derived",
                    ));
                }
            }
        }
    }
}

impl Slots {
    fn slot(&mut self, salt: Salt) -> &mut Slot {
        match salt {
            Salt::Replica => &mut self.replica,
            Salt::Login => &mut self.login,
        }
    }

    /// What is to be made next; none ends the thread.
    fn next(&mut self) -> Option<Salt> {
        let wanted = [Salt::Replica, Salt::Login]
            .into_iter()
            .find(|s| matches!(self.slot(*s), Slot::Wanted));
        self.is_running = wanted.is_some();
        wanted
    }
}

impl Inner {
    /// The thread: makes one key after the other, so that the memory is taken once.
    fn run(&self) {
        loop {
            let Some(salt) = lock(&self.slots).next() else { return };
            let start = Instant::now();
            let made = DevpiKey::derive(&self.secret, salt, self.cost);
            let slot = match &made {
                Ok(key) => {
                    log::info!("derived the key for {} in {:.1?}", salt.text(), start.elapsed());
                    self.keep(salt, key);
                    Slot::Ready(*key)
                }
                Err(e) => {
                    log::error!("{e}");
                    Slot::Failed(Instant::now())
                }
            };
            *lock(&self.slots).slot(salt) = slot;
            self.settled.notify_all();
        }
    }

    /// The file for a key. Its name says nothing but whether secret and parameters are the same.
    fn file(&self, salt: Salt) -> Option<PathBuf> {
        let name = self.secret.key(Purpose::KeyCache).mac(&[b"name", &self.about(salt)]);
        Some(self.folder.as_ref()?.join(format!(".devpi-key-{}", hex(&name[..16]))))
    }

    fn about(&self, salt: Salt) -> Vec<u8> {
        let Argon2Cost { memory_kib, time, parallelism } = self.cost;
        format!("{} {memory_kib} {time} {parallelism}", salt.text()).into_bytes()
    }

    /// What is written for a key: the key, and a code that tells a damaged file.
    fn line(&self, salt: Salt, key: &DevpiKey) -> String {
        let code = self.secret.key(Purpose::KeyCache).mac(&[b"content", &self.about(salt), &key.0]);
        format!("{} {}\n", hex(&key.0), hex(&code))
    }

    fn read_kept(&self, salt: Salt) -> Option<DevpiKey> {
        let file = File::open(self.file(salt)?).ok()?;
        if file.metadata().ok()?.mode() & 0o077 != 0 {
            return None;
        }
        let mut text = String::new();
        file.take(1024).read_to_string(&mut text).ok()?;
        let digits = text.get(..2 * KEY_BYTES)?;
        let mut key = [0; KEY_BYTES];
        for (i, byte) in key.iter_mut().enumerate() {
            *byte = u8::from_str_radix(digits.get(2 * i..2 * i + 2)?, 16).ok()?;
        }
        let key = DevpiKey(key);
        bool::from(self.line(salt, &key).as_bytes().ct_eq(text.as_bytes())).then_some(key)
    }

    fn keep(&self, salt: Salt, key: &DevpiKey) {
        let (Some(folder), Some(path)) = (&self.folder, self.file(salt)) else { return };
        let write = || -> Result<()> {
            // a temporary file is made with mode 0600
            let mut file = tempfile::NamedTempFile::new_in(folder)?;
            file.write_all(self.line(salt, key).as_bytes())?;
            file.as_file().sync_all()?;
            file.persist(&path).map_err(|e| e.error)?;
            Ok(())
        };
        if let Err(e) = write() {
            log::warn!("the key for {} is not kept in {}: {e}", salt.text(), folder.display());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    const CHEAP: Argon2Cost = Argon2Cost { memory_kib: 8, time: 1, parallelism: 1 };

    fn secret() -> Secret {
        Secret::new(b"test-vector-secret-0123456789-abcdefghijklmnop").expect("good")
    }

    fn soon() -> Deadline {
        Deadline::after(Duration::from_secs(30))
    }

    fn files(folder: &Path) -> Vec<PathBuf> {
        fs::read_dir(folder).expect("a folder").map(|f| f.expect("a file").path()).collect()
    }

    #[test]
    fn a_key_is_made_in_the_background_once_and_kept() {
        let folder = tempfile::tempdir().expect("a folder");
        let keys = DevpiKeys::new(&secret(), CHEAP, Some(folder.path()));
        let key = keys.wait(Salt::Replica, soon()).expect("made");
        assert_eq!(hex(&key.0), "c999ae0aaac624f049a9d046caa907fb");
        assert_eq!(keys.get(Salt::Replica), Some(key));
        assert_ne!(keys.wait(Salt::Login, soon()).expect("made"), key);
        let kept = files(folder.path());
        assert_eq!(kept.len(), 2);
        assert!(kept.iter().all(|f| f.metadata().expect("there").mode() & 0o777 == 0o600));
        let again = DevpiKeys::new(&secret(), CHEAP, Some(folder.path()));
        assert_eq!(again.get(Salt::Replica), Some(key), "read from the folder at once");
    }

    #[test]
    fn kept_keys_that_are_damaged_open_or_of_others_are_not_used() {
        let folder = tempfile::tempdir().expect("a folder");
        let keys = || DevpiKeys::new(&secret(), CHEAP, Some(folder.path()));
        let key = keys().wait(Salt::Login, soon()).expect("made");
        let path = &files(folder.path())[0];
        let read = || keys().0.read_kept(Salt::Login);
        assert_eq!(read(), Some(key));
        let good = fs::read_to_string(path).expect("there");
        for bad in ["", "zz", &good[1..], &good.replacen(&good[..1], "x", 1), &good[..40]] {
            fs::write(path, bad).expect("ours");
            assert_eq!(read(), None, "{bad:?}");
        }
        fs::write(path, &good).expect("ours");
        fs::set_permissions(path, fs::Permissions::from_mode(0o640)).expect("ours");
        assert_eq!(read(), None);
        fs::set_permissions(path, fs::Permissions::from_mode(0o600)).expect("ours");
        let dearer = Argon2Cost { time: 2, ..CHEAP };
        assert_eq!(
            DevpiKeys::new(&secret(), dearer, Some(folder.path())).0.read_kept(Salt::Login),
            None
        );
        assert_eq!(keys().0.read_kept(Salt::Replica), None);
    }

    #[test]
    fn what_cannot_be_made_is_said_to_those_who_wait() {
        let keys = DevpiKeys::new(&secret(), Argon2Cost { memory_kib: 1, ..CHEAP }, None);
        assert!(keys.wait(Salt::Login, soon()).is_err());
        assert_eq!(keys.get(Salt::Login), None);
    }
}

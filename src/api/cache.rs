//! What was made for answers, kept while what it was made from stands.
//!
//! An item remembers which rows it was made from and the serial that last touched each of them. As long as the clock
//! has not moved since the last check, a hit costs a look into a map; after it moved, one indexed read per row.

use std::fs::File;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Instant;

use quick_cache::Weighter;
use quick_cache::sync::Cache;

use crate::digest::Digest;
use crate::error::Result;
use crate::serial::Serial;
use crate::store::Store;
use crate::store::txn::Read;
use crate::sync::{Mutex, MutexGuard, lock};

/// Bytes of all pages together; some ten thousand pages of usual size.
const PAGES_BYTES_MAX: u64 = 32 << 20;

/// Files that are kept open.
const FILES_MAX: u64 = 128;

/// Locks under which items are made.
const STRIPES: usize = 64;

/// Items that a cache makes room for at the start.
const ITEMS_EXPECTED: usize = 256;

/// The rows that something was made from, and the serial that last touched each.
pub type Sources = Vec<(String, Option<Serial>)>;

/// What a cache can hold.
pub trait Weigh {
    /// Its share of the cache's room.
    fn weight(&self) -> u64;
}

/// How long something may be used without another look at where it came from.
#[derive(Clone, Copy, Debug, Default)]
pub struct Life {
    /// When its oldest part was looked at, if it has parts from elsewhere.
    pub looked_at: Option<Instant>,
    /// Until when that will do; for ever if `None`.
    pub until: Option<Instant>,
}

/// A rendered page, ready to send.
pub struct Page {
    /// The bytes.
    pub body: Arc<[u8]>,
    /// Its entity tag, quotes included.
    pub etag: String,
    /// Its media type.
    pub content_type: &'static str,
    /// Whether the bytes are gzip.
    pub is_gzip: bool,
    /// The last serial of the upstream that it is a page of.
    pub upstream_serial: Option<i64>,
    life: Mutex<Life>,
}

impl Page {
    /// A page with these bytes.
    pub fn new(body: Vec<u8>, content_type: &'static str, is_gzip: bool) -> Self {
        let digest = Digest::of(&body).hex();
        let etag = format!("\"{}\"", &digest[..32]);
        let (body, life) = (body.into(), Mutex::default());
        Self { etag, body, content_type, is_gzip, upstream_serial: None, life }
    }
    /// How long it may be used.
    pub fn life(&self) -> Life {
        *lock(&self.life)
    }
    /// Whether it may be used now.
    pub fn is_alive(&self) -> bool {
        self.life().until.is_none_or(|until| Instant::now() < until)
    }
    /// Sets how long it may be used, after a look that found nothing new.
    pub fn renew(&self, life: Life) {
        *lock(&self.life) = life;
    }
}

impl Weigh for Page {
    fn weight(&self) -> u64 {
        self.body.len() as u64
    }
}

/// A file that is open, with what its answers say of it.
pub struct OpenFile {
    /// Open for reading; its offset means nothing, since answers share it.
    pub file: File,
    /// Its length.
    pub size_bytes: u64,
    /// Its entity tag, quotes included.
    pub etag: Option<String>,
    /// When it was last modified, as an HTTP date.
    pub modified: Option<String>,
}

impl Weigh for OpenFile {
    fn weight(&self) -> u64 {
        1
    }
}

/// An item of a cache with what it was made from.
pub struct Kept<T> {
    /// The item.
    pub value: T,
    sources: Sources,
    /// The serial at which the sources were last seen unchanged.
    checked: AtomicI64,
}

impl<T> Kept<T> {
    /// Something made from `sources` as they were at `serial`.
    pub fn new(value: T, sources: Sources, serial: Option<Serial>) -> Arc<Self> {
        Arc::new(Self { value, sources, checked: AtomicI64::new(Serial::wire(serial)) })
    }
    /// The serial at which it is known to be right.
    pub fn serial(&self) -> i64 {
        self.checked.load(Ordering::Acquire)
    }
}

/// Weighs an item with its key and its sources, whose bytes count with those of the item where it is counted by bytes.
#[derive(Clone)]
struct Scale {
    counts_bytes: bool,
}

impl<T: Weigh> Weighter<String, Arc<Kept<T>>> for Scale {
    fn weight(&self, key: &String, kept: &Arc<Kept<T>>) -> u64 {
        const OVERHEAD_BYTES: usize = 200;
        if !self.counts_bytes {
            return kept.value.weight();
        }
        let sources: usize = kept.sources.iter().map(|(path, _)| path.len() + 32).sum();
        kept.value.weight() + (key.len() + sources + OVERHEAD_BYTES) as u64
    }
}

/// A bounded cache of items that are right at the current serial.
pub struct Fresh<T: Weigh> {
    items: Cache<String, Arc<Kept<T>>, Scale>,
    /// Held while an item is made: whoever wants the same meanwhile waits and finds it.
    making: [Mutex<()>; STRIPES],
}

/// Rendered pages.
pub type PageCache = Fresh<Page>;

/// Open files.
pub type FileCache = Fresh<OpenFile>;

impl PageCache {
    /// Room for pages.
    pub fn for_pages() -> Self {
        Self::with_room(ITEMS_EXPECTED, PAGES_BYTES_MAX, Scale { counts_bytes: true })
    }
}

impl FileCache {
    /// Room for open files.
    pub fn for_files() -> Self {
        Self::with_room(FILES_MAX as usize, FILES_MAX, Scale { counts_bytes: false })
    }
}

impl<T: Weigh> Fresh<T> {
    fn with_room(items: usize, weight: u64, scale: Scale) -> Self {
        let making = std::array::from_fn(|_| Mutex::new(()));
        Self { items: Cache::with_weighter(items, weight, scale), making }
    }
    /// The right to make the item under a key; others that ask for it, and a few that ask for other keys, wait.
    pub fn make(&self, key: &str) -> MutexGuard<'_, ()> {
        let mut hasher = DefaultHasher::new();
        key.hash(&mut hasher);
        lock(&self.making[hasher.finish() as usize % STRIPES])
    }
    /// An item that still is what it would be if it were made now.
    ///
    /// # Errors
    /// `Kind::Internal` if the database fails.
    pub fn get(&self, store: &Store, key: &str) -> Result<Option<Arc<Kept<T>>>> {
        let Some(kept) = self.items.get(key) else { return Ok(None) };
        if kept.serial() == Serial::wire(store.clock().now()) {
            return Ok(Some(kept));
        }
        let txn = store.read()?;
        for (path, serial) in &kept.sources {
            if txn.touched(path)? != *serial {
                self.items.remove(key);
                return Ok(None);
            }
        }
        kept.checked.fetch_max(Serial::wire(txn.serial()), Ordering::AcqRel);
        Ok(Some(kept))
    }
    /// Keeps an item.
    pub fn put(&self, key: String, kept: Arc<Kept<T>>) {
        self.items.insert(key, kept);
    }
}

/// The row under a path as a source of what is being made.
///
/// # Errors
/// `Kind::Internal` if the database fails.
pub fn source(txn: &impl Read, path: String) -> Result<(String, Option<Serial>)> {
    let serial = txn.touched(&path)?;
    Ok((path, serial))
}

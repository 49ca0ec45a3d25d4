//! Rendered pages, ready to send, kept while what they were made from stands.
//!
//! A page remembers which rows it was made from and the serial that last touched each of them. As long as the clock
//! has not moved since the last check, a hit costs a look into a map; after it moved, one indexed read per row.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use quick_cache::Weighter;
use quick_cache::sync::Cache;

use crate::error::Result;
use crate::serial::Serial;
use crate::store::Store;
use crate::store::txn::Read;

/// Bytes of all pages together; some ten thousand pages of usual size.
const PAGES_BYTES_MAX: u64 = 32 << 20;

/// Pages that the cache makes room for at the start.
const PAGES_EXPECTED: usize = 1000;

/// A rendered page.
pub struct Page {
    /// The bytes.
    pub body: Arc<[u8]>,
    /// Its entity tag, quotes included.
    pub etag: String,
    /// Its media type.
    pub content_type: &'static str,
    /// Whether the bytes are gzip.
    pub is_gzip: bool,
    /// What it was made from.
    pub sources: Vec<(String, Option<Serial>)>,
    /// The serial at which the sources were last seen unchanged.
    checked: AtomicI64,
}

impl Page {
    /// A page made at `serial`.
    pub fn new(
        body: Vec<u8>,
        content_type: &'static str,
        is_gzip: bool,
        sources: Vec<(String, Option<Serial>)>,
        serial: Option<Serial>,
    ) -> Self {
        let digest = crate::digest::Digest::of(&body).hex();
        Self {
            etag: format!("\"{}\"", &digest[..32]),
            body: body.into(),
            content_type,
            is_gzip,
            sources,
            checked: AtomicI64::new(Serial::wire(serial)),
        }
    }
    /// The serial at which it is known to be right.
    pub fn serial(&self) -> i64 {
        self.checked.load(Ordering::Acquire)
    }
}

#[derive(Clone)]
struct ByBytes;

impl Weighter<String, Arc<Page>> for ByBytes {
    fn weight(&self, key: &String, page: &Arc<Page>) -> u64 {
        let sources: usize = page.sources.iter().map(|(path, _)| path.len() + 32).sum();
        (key.len() + page.body.len() + sources + 200) as u64
    }
}

/// The pages.
pub struct PageCache(Cache<String, Arc<Page>, ByBytes>);

impl PageCache {
    /// An empty cache.
    pub fn new() -> Self {
        Self(Cache::with_weighter(PAGES_EXPECTED, PAGES_BYTES_MAX, ByBytes))
    }
    /// A page that still is what it would be if it were made now.
    ///
    /// # Errors
    /// `Kind::Internal` if the database fails.
    pub fn get(&self, store: &Store, key: &str) -> Result<Option<Arc<Page>>> {
        let Some(page) = self.0.get(key) else { return Ok(None) };
        if page.serial() == Serial::wire(store.clock().now()) {
            return Ok(Some(page));
        }
        let txn = store.read()?;
        for (path, serial) in &page.sources {
            if txn.touched(path)? != *serial {
                self.0.remove(key);
                return Ok(None);
            }
        }
        page.checked.fetch_max(Serial::wire(txn.serial()), Ordering::AcqRel);
        Ok(Some(page))
    }
    /// Keeps a page.
    pub fn put(&self, key: String, page: Arc<Page>) {
        self.0.insert(key, page);
    }
}

impl Default for PageCache {
    fn default() -> Self {
        Self::new()
    }
}

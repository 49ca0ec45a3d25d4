//! Documentation zips: what is in them, and one page at a time out of them, in place.
//!
//! A zip is what somebody uploaded. Its directory is read with a budget and held to limits, so that neither a large nor a
//! lying one costs more than it should; names that could mean a place outside are not pages; what is unpacked ends where
//! the directory says that it ends, or fails.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufReader, ErrorKind, Read, Seek, SeekFrom};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use flate2::Crc;
use flate2::read::DeflateDecoder;
use zip::CompressionMethod;
use zip::read::Config;
use zip::unstable::read::ZipIterable;

use crate::error::{Error, Result};

/// Entries of one zip; the documentation of the largest projects has some twenty thousand.
pub const ENTRIES_MAX: usize = 100_000;
/// Bytes that are read to learn what is in a zip.
pub const DIRECTORY_BYTES_MAX: u64 = 32 << 20;
/// One page, unpacked, in bytes.
pub const PAGE_BYTES_MAX: u64 = 1 << 30;
/// All pages, unpacked, in bytes.
pub const TOTAL_BYTES_MAX: u64 = 16 << 30;
/// What packing may make of a page, as a divisor; text packs to a fifth, the emptiest of pages to a hundredth.
pub const RATIO_MAX: u64 = 250;
/// Pages up to this size may pack as well as they like.
const RATIO_BYTES_MIN: u64 = 1 << 20;
/// The head of an entry before its name, and what it begins with.
const HEAD_BYTES: usize = 30;
const HEAD_MARK: [u8; 4] = *b"PK\x03\x04";
/// What a page takes in memory besides its name.
const PAGE_OVERHEAD_BYTES: u64 = 80;

/// One page of a zip.
#[derive(Clone, Copy, Debug)]
pub struct Page {
    /// Where its head begins.
    at: u64,
    packed_bytes: u64,
    /// How long it is, unpacked.
    pub size_bytes: u64,
    crc32: u32,
    is_deflated: bool,
}

/// A zip that is open, with what is in it.
#[derive(Debug)]
pub struct Zip {
    file: Arc<File>,
    pages: HashMap<Box<str>, Page>,
    /// The first entry that is not a page and no folder, and why.
    objection: Option<String>,
    weight: u64,
}

impl Zip {
    /// Reads what is in a zip.
    ///
    /// # Errors
    /// `Kind::Invalid` if it is no zip or over a limit, with the reason.
    pub fn open(file: File) -> Result<Self> {
        let length = file.metadata()?.len();
        let file = Arc::new(file);
        let mut entries = ZipIterable::try_new(Frugal::new(&file)?, Config::default())
            .map_err(|_| Error::invalid("it is not a zip"))?;
        if entries.len() > ENTRIES_MAX {
            return Err(Error::invalid(format!("it has more than {ENTRIES_MAX} entries")));
        }
        let broken = |_| Error::invalid("its directory is damaged or too large");
        let mut zip = Self { file, pages: HashMap::new(), objection: None, weight: 0 };
        let mut total_bytes = 0_u64;
        for entry in entries.files().map_err(broken)? {
            let entry = entry.map_err(broken)?;
            if entry.is_dir() {
                continue;
            }
            let name = entry.name().map_err(broken)?;
            let page = Page {
                at: entry.header_start(),
                packed_bytes: entry.compressed_size(),
                size_bytes: entry.size(),
                crc32: entry.crc32(),
                is_deflated: entry.compression() == CompressionMethod::Deflated,
            };
            page.check(&name)?;
            total_bytes = total_bytes.saturating_add(page.size_bytes);
            let is_packed_well =
                page.is_deflated || entry.compression() == CompressionMethod::Stored;
            let objection = match () {
                () if !is_safe(&name) => Some("has a name that leads elsewhere"),
                () if entry.is_symlink() => Some("is a link"),
                () if entry.encrypted() => Some("is encrypted"),
                () if !is_packed_well => Some("is packed in another way than zips usually are"),
                () => None,
            };
            match objection {
                Some(why) => {
                    zip.objection.get_or_insert_with(|| format!("its entry '{name}' {why}"));
                }
                None => {
                    zip.weight += name.len() as u64 + PAGE_OVERHEAD_BYTES;
                    zip.pages.insert(name.into(), page);
                }
            }
        }
        if total_bytes > TOTAL_BYTES_MAX || is_bomb(total_bytes, length) {
            return Err(Error::invalid(format!("it would unpack to {total_bytes} bytes")));
        }
        Ok(zip)
    }

    /// Why it is not to be taken as it is: something in it could not be shown.
    pub fn objection(&self) -> Option<&str> {
        self.objection.as_deref()
    }
    /// The names of all pages, in no order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.pages.keys().map(AsRef::as_ref)
    }
    /// The page of this name, with `/` between its parts.
    pub fn page(&self, name: &str) -> Option<Page> {
        self.pages.get(name).copied()
    }
    /// What it takes in memory, in bytes.
    pub fn weight(&self) -> u64 {
        self.weight
    }

    /// Unpacks a page as it is read. Reading fails, before the last bytes are given, where they are not what the
    /// directory promised.
    ///
    /// # Errors
    /// `Kind::Invalid` if nothing like it stands in the zip.
    pub fn read(&self, page: Page) -> Result<impl Read + Send + use<>> {
        let damaged = || Error::invalid("the zip is damaged");
        let mut head = [0; HEAD_BYTES];
        self.file.read_exact_at(&mut head, page.at).map_err(|_| damaged())?;
        if head[..4] != HEAD_MARK {
            return Err(damaged());
        }
        let two = |at: usize| u64::from(u16::from_le_bytes([head[at], head[at + 1]]));
        let at = page.at + HEAD_BYTES as u64 + two(26) + two(28);
        let part = Part { file: self.file.clone(), at, left: page.packed_bytes };
        let source = match page.is_deflated {
            true => Source::Deflated(Box::new(DeflateDecoder::new(part))),
            false => Source::Stored(part),
        };
        Ok(Unpacked { source, left: page.size_bytes, crc: Crc::new(), crc32: page.crc32 })
    }
}

impl Page {
    /// Refuses what would unpack to too much.
    fn check(&self, name: &str) -> Result<()> {
        if self.size_bytes > PAGE_BYTES_MAX || is_bomb(self.size_bytes, self.packed_bytes) {
            return Err(Error::invalid(format!(
                "its entry '{name}' would unpack from {} to {} bytes",
                self.packed_bytes, self.size_bytes
            )));
        }
        Ok(())
    }
}

fn is_bomb(size_bytes: u64, packed_bytes: u64) -> bool {
    RATIO_BYTES_MIN < size_bytes && packed_bytes.saturating_mul(RATIO_MAX) < size_bytes
}

/// Whether a name can only mean a place inside.
fn is_safe(name: &str) -> bool {
    !name.contains(|c: char| c == '\\' || c.is_control())
        && name.split('/').all(|part| !matches!(part, "" | "." | ".."))
}

/// Reads a directory with a budget: what claims to be larger fails instead of taking memory and time.
struct Frugal {
    inner: BufReader<File>,
    at: u64,
    left: u64,
}

impl Frugal {
    fn new(file: &File) -> io::Result<Self> {
        let mut file = file.try_clone()?;
        file.seek(SeekFrom::Start(0))?;
        Ok(Self { inner: BufReader::new(file), at: 0, left: DIRECTORY_BYTES_MAX })
    }
}

impl Read for Frugal {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buf)?;
        let Some(left) = self.left.checked_sub(n as u64) else {
            return Err(io::Error::other("the directory is too large"));
        };
        (self.at, self.left) = (self.at + n as u64, left);
        Ok(n)
    }
}

impl Seek for Frugal {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.at = match to {
            // From one entry to the next it stays within the buffer.
            SeekFrom::Start(at) => {
                let by = i64::try_from(i128::from(at) - i128::from(self.at));
                self.inner.seek_relative(by.map_err(io::Error::other)?)?;
                at
            }
            to => self.inner.seek(to)?,
        };
        Ok(self.at)
    }
}

/// A part of a file that others read at the same time.
struct Part {
    file: Arc<File>,
    at: u64,
    left: u64,
}

impl Read for Part {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let room = usize::try_from(self.left).unwrap_or(usize::MAX).min(buf.len());
        let n = self.file.read_at(&mut buf[..room], self.at)?;
        (self.at, self.left) = (self.at + n as u64, self.left - n as u64);
        Ok(n)
    }
}

enum Source {
    Stored(Part),
    Deflated(Box<DeflateDecoder<Part>>),
}

impl Read for Source {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Stored(part) => part.read(buf),
            Self::Deflated(decoder) => decoder.read(buf),
        }
    }
}

struct Unpacked {
    source: Source,
    left: u64,
    crc: Crc,
    crc32: u32,
}

impl Read for Unpacked {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let room = usize::try_from(self.left).unwrap_or(usize::MAX).min(buf.len());
        if room == 0 {
            return Ok(0);
        }
        let n = self.source.read(&mut buf[..room])?;
        if n == 0 {
            return Err(io::Error::new(ErrorKind::UnexpectedEof, "a page of the zip ends early"));
        }
        self.crc.update(&buf[..n]);
        self.left -= n as u64;
        if self.left == 0 {
            let has_more = self.source.read(&mut [0])? > 0;
            if has_more || self.crc.sum() != self.crc32 {
                let message = "a page of the zip is not what its directory says";
                return Err(io::Error::new(ErrorKind::InvalidData, message));
            }
        }
        Ok(n)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use zip::ZipWriter;
    use zip::write::SimpleFileOptions;

    use super::*;

    fn packed(entries: &[(&str, &[u8])], method: CompressionMethod) -> Vec<u8> {
        let mut writer = ZipWriter::new(io::Cursor::new(Vec::new()));
        let options = SimpleFileOptions::default().compression_method(method);
        for (name, content) in entries {
            writer.start_file(*name, options).expect("starts");
            writer.write_all(content).expect("packs");
        }
        writer.finish().expect("ends").into_inner()
    }

    fn open(bytes: &[u8]) -> Result<Zip> {
        let mut file = tempfile::tempfile().expect("a file");
        file.write_all(bytes).expect("written");
        Zip::open(file)
    }

    fn read(zip: &Zip, name: &str) -> io::Result<Vec<u8>> {
        let page = zip.page(name).expect("there");
        let mut bytes = Vec::new();
        zip.read(page).map_err(io::Error::other)?.read_to_end(&mut bytes).map(|_| bytes)
    }

    fn place_of(bytes: &[u8], what: &[u8]) -> usize {
        memchr::memmem::rfind(bytes, what).expect("there")
    }

    #[test]
    fn pages_are_read_in_any_order_as_they_were_packed() {
        let long: Vec<u8> = (0..200_000_u32).flat_map(|n| (n % 251).to_le_bytes()).collect();
        for method in [CompressionMethod::Deflated, CompressionMethod::Stored] {
            let entries: &[(&str, &[u8])] =
                &[("index.html", b"front"), ("a/long.js", &long), ("empty", b"")];
            let zip = open(&packed(entries, method)).expect("a zip");
            assert_eq!(zip.objection(), None);
            for (name, content) in [entries[1], entries[0], entries[2], entries[1]] {
                assert_eq!(read(&zip, name).expect("whole"), content, "{name}");
            }
            assert!(zip.page("a").is_none() && zip.page("/index.html").is_none());
        }
    }

    #[test]
    fn names_that_lead_elsewhere_are_no_pages() {
        for name in ["../x", "/x", "a/../../x", "a\\..\\x", "a//x", "./x", "a\nb"] {
            let bytes = packed(&[("index.html", b"1"), (name, b"2")], CompressionMethod::Stored);
            let zip = open(&bytes).expect("a zip");
            assert!(zip.page(name).is_none(), "{name}");
            assert!(zip.objection().is_some_and(|why| why.contains("leads elsewhere")), "{name}");
            assert_eq!(read(&zip, "index.html").expect("whole"), b"1");
        }
    }

    #[test]
    fn links_are_no_pages() {
        let mut writer = ZipWriter::new(io::Cursor::new(Vec::new()));
        let options = SimpleFileOptions::default();
        writer.add_symlink("passwd", "/etc/passwd", options).expect("packs");
        let zip = open(&writer.finish().expect("ends").into_inner()).expect("a zip");
        assert!(zip.page("passwd").is_none());
        assert!(zip.objection().is_some_and(|why| why.contains("is a link")));
    }

    #[test]
    fn what_is_no_zip_or_unpacks_to_too_much_is_refused() {
        for bytes in [&b""[..], b"not a zip", &[0; 70_000]] {
            assert!(open(bytes).is_err());
        }
        let zeros = vec![0; 3 << 20];
        let bytes = packed(&[("index.html", &zeros)], CompressionMethod::Deflated);
        let error = open(&bytes).expect_err("a bomb");
        assert!(error.message.contains("would unpack"), "{error}");
        let names: Vec<String> = (0..=ENTRIES_MAX).map(|n| n.to_string()).collect();
        let entries: Vec<(&str, &[u8])> = names.iter().map(|n| (n.as_str(), &b""[..])).collect();
        let error = open(&packed(&entries, CompressionMethod::Stored)).expect_err("too many");
        assert!(error.message.contains("entries"), "{error}");
    }

    #[test]
    fn a_page_that_is_not_what_the_directory_says_never_ends_well() {
        let content = b"0123456789".repeat(100);
        let bytes = packed(&[("index.html", &content)], CompressionMethod::Deflated);
        // The sizes and the checksum of the central directory stand before the name there.
        let at = place_of(&bytes, b"index.html") - 46;
        for (field, change) in [(16, 1), (20, 255), (24, 1), (24, 255)] {
            let mut bytes = bytes.clone();
            bytes[at + field] = bytes[at + field].wrapping_add(change);
            let zip = open(&bytes).expect("a zip");
            assert!(read(&zip, "index.html").is_err(), "{field} {change}");
        }
        let zip = open(&bytes).expect("a zip");
        assert_eq!(read(&zip, "index.html").expect("whole"), content);
    }
}

//! What a node alone had, put aside before it follows another one: nothing that was answered for goes without a trace.
//!
//! A folder below the server's own gets `report.json`, `entries.jsonl` with each entry decoded, `entries.bin` with the
//! same as a changelog stream has it, and `files/` with the files that they named. Entries hold password hashes, so
//! the folder is for its owner only.

use std::collections::BTreeSet;
use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{BufWriter, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use serde_json::{Value as Json, json};

use crate::digest::hex;
use crate::error::{Context as _, Error, Result};
use crate::serial::Serial;
use crate::store::Store;
use crate::store::codec::{self, RawEntry, encode_serial};
use crate::store::key::{FILE_KEYS, FilePath};

/// How many bytes of entries are held at once, one entry more at most.
const PIECE_BYTES: usize = 4 << 20;
/// How many files the report names.
const NAMES_MAX: usize = 200;

/// Where lost entries were put.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lost {
    /// The folder; `None` if there was nothing to save.
    pub folder: Option<PathBuf>,
    /// How many entries there were.
    pub entries: u64,
    /// How many files they named that were here.
    pub files: u64,
}

/// Saves all entries after `common`, with the files that they name, in a new folder below `dir`. `about` is put into
/// the report. The folder is there whole or not at all.
///
/// # Errors
/// `Kind::Internal` if the disk or the database fails, or an entry is damaged.
pub fn save(store: &Store, common: Option<Serial>, dir: &Path, about: &Json) -> Result<Lost> {
    let from = Serial::following(common);
    let Some(end) = store.position()?.filter(|end| from <= end.serial) else {
        return Ok(Lost { folder: None, entries: 0, files: 0 });
    };
    let private = Permissions::from_mode(0o700);
    let made = tempfile::Builder::new().prefix(".lost-").permissions(private).tempdir_in(dir)?;
    let mut report = Report::new(made.path())?;
    let mut next = from;
    while next <= end.serial {
        for (serial, entry) in store.entries(next, end.serial, PIECE_BYTES)? {
            report.entry(store, serial, &entry)?;
            next = serial.next();
        }
    }
    let at = humantime(SystemTime::now());
    let summary = json!({
        "at": at,
        "serials": {"from": from.get(), "to": end.serial.get()},
        "last-common-serial": Serial::wire(common),
        "chain": hex(&end.chain),
        "node": about,
        "files": report.files.iter().take(NAMES_MAX).collect::<Vec<_>>(),
        "files-count": report.files.len(),
        "files-not-here": report.absent,
    });
    let (entries, files) = (report.count, report.files.len() as u64);
    report.finish(made.path(), &summary)?;
    let folder = dir.join(format!("lost-{from}-to-{}-{at}", end.serial));
    fs::rename(made.keep(), &folder).context(|| format!("naming {}", folder.display()))?;
    File::open(dir)?.sync_all()?;
    Ok(Lost { folder: Some(folder), entries, files })
}

/// A moment as a part of a file's name.
fn humantime(at: SystemTime) -> String {
    jiff::Timestamp::try_from(at)
        .map_or_else(|_| "unknown".to_owned(), |at| at.strftime("%Y%m%dT%H%M%SZ").to_string())
}

struct Report {
    lines: BufWriter<File>,
    raw: BufWriter<File>,
    dir: PathBuf,
    files: BTreeSet<String>,
    absent: u64,
    count: u64,
}

fn create(path: &Path) -> Result<File> {
    let file = OpenOptions::new().create_new(true).write(true).mode(0o600).open(path);
    file.context(|| format!("making {}", path.display()))
}

impl Report {
    fn new(dir: &Path) -> Result<Self> {
        Ok(Self {
            lines: BufWriter::new(create(&dir.join("entries.jsonl"))?),
            raw: BufWriter::new(create(&dir.join("entries.bin"))?),
            dir: dir.join("files"),
            files: BTreeSet::new(),
            absent: 0,
            count: 0,
        })
    }

    fn entry(&mut self, store: &Store, serial: Serial, entry: &[u8]) -> Result<()> {
        self.raw.write_all(&encode_serial(serial))?;
        self.raw.write_all(entry)?;
        let raw = RawEntry::parse(entry)?;
        let mut changes = Vec::new();
        for change in raw.changes() {
            let value = change.value.map(codec::decode).transpose()?;
            changes.push(json!({
                "key": change.path,
                "type": change.keyname,
                "before": change.back_serial,
                "is-deleted": value.is_none(),
                "value": value.as_ref().map(codec::Value::to_json),
            }));
            if value.is_some() && FILE_KEYS.contains(&change.keyname) {
                self.keep_file(store, change.path)?;
            }
        }
        let line = json!({"serial": serial.get(), "changes": changes});
        serde_json::to_writer(&mut self.lines, &line)
            .map_err(|e| Error::internal("a line of lost entries").caused_by(e))?;
        self.lines.write_all(b"\n")?;
        self.count += 1;
        Ok(())
    }

    fn keep_file(&mut self, store: &Store, path: &str) -> Result<()> {
        let Some(path) = FilePath::parse(path).filter(|path| !self.files.contains(path.as_str()))
        else {
            return Ok(());
        };
        let place = self.dir.join(path.as_str());
        let folder = place.parent().expect("a file's path has several parts");
        DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
        if store.blobs().copy_to(&path, &place)? {
            self.files.insert(path.to_string());
        } else {
            self.absent += 1;
        }
        Ok(())
    }

    fn finish(mut self, dir: &Path, summary: &Json) -> Result<()> {
        for file in [&mut self.lines, &mut self.raw] {
            file.flush()?;
            file.get_ref().sync_all()?;
        }
        let mut file = create(&dir.join("report.json"))?;
        file.write_all(format!("{summary:#}\n").as_bytes())?;
        file.sync_all()?;
        File::open(dir)?.sync_all()?;
        Ok(())
    }
}

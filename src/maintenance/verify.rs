//! Checks a folder: the log with its chain, the values against the log, the files against their records, and the history
//! against the master's. A node may run there meanwhile; what looks wrong is looked at again before it is told.

use std::fmt;
use std::io::{ErrorKind, Read as _};

use serde_json::{Value as Json, json};

use crate::digest::{Hasher, hex};
use crate::error::Result;
use crate::model::metadata;
use crate::replication::link::{Link, Program};
use crate::replication::{LeftOut, handshake};
use crate::serial::Serial;
use crate::store::check::LogCheck;
use crate::store::expected::Expected;
use crate::store::key::FilePath;
use crate::store::record::{Dict, Record as _};
use crate::store::txn::Read as _;
use crate::store::{Store, Writer};

use super::progress::Progress;

/// Problems that a report lists; the others are counted.
const LISTED_MAX: usize = 1000;
/// Paths that are looked up at a time.
const PATHS_AT_ONCE: usize = 500;
/// Bytes that are hashed at a time.
const CHUNK_BYTES: usize = 256 << 10;

/// What to check.
#[derive(Clone, Copy, Debug)]
pub struct VerifyOptions {
    /// The database.
    pub checks_log: bool,
    /// The files.
    pub checks_files: bool,
    /// The digests of the files, not only whether they are there.
    pub checks_digests: bool,
    /// The master's history.
    pub asks_master: bool,
    /// Whether broken files are to be fetched again.
    pub repairs: bool,
}

/// A check with what it needs.
pub struct Verify<'a> {
    /// What to read.
    pub store: &'a Store,
    /// What to check.
    pub options: VerifyOptions,
    /// Whether the node follows another one.
    pub is_replica: bool,
    /// The way to the master.
    pub link: Option<&'a Link>,
    /// What repairs are written with.
    pub writer: Option<&'a Writer>,
}

/// Problems of one kind.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Problems {
    /// The first ones.
    pub listed: Vec<String>,
    /// How many there are.
    pub count: u64,
}

impl Problems {
    fn add(&mut self, problem: String) {
        self.count += 1;
        if self.listed.len() < LISTED_MAX {
            self.listed.push(problem);
        }
    }

    fn to_json(&self) -> Json {
        json!({"count": self.count, "first": self.listed})
    }
}

/// What a check found.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// The last serial; -1 while the log is empty.
    pub serial: i64,
    /// The chain at it, in hex.
    pub chain: Option<String>,
    /// How many entries were checked.
    pub entries: u64,
    /// What is wrong in the database.
    pub database: Problems,
    /// How many files were checked.
    pub files: u64,
    /// How many files a replica has still to fetch.
    pub wanted: u64,
    /// How many files a replica was told to leave where they are.
    pub left_out: u64,
    /// Files that should be here and are not.
    pub missing: Problems,
    /// Files that are not what their records say.
    pub broken: Problems,
    /// Files that will be fetched again.
    pub requeued: u64,
    /// METADATA files that were made again from their wheels.
    pub remade: u64,
    /// What is wrong against the master.
    pub master: Problems,
    /// The master that was asked.
    pub master_url: Option<String>,
    /// What could not be compared, and why.
    pub notes: Vec<String>,
}

impl Report {
    /// Whether nothing is wrong.
    pub fn is_in_order(&self) -> bool {
        [&self.database, &self.missing, &self.broken, &self.master].iter().all(|p| p.count == 0)
    }

    /// As JSON.
    pub fn to_json(&self) -> Json {
        json!({
            "ok": self.is_in_order(),
            "serial": self.serial,
            "chain": self.chain,
            "entries": self.entries,
            "database": self.database.to_json(),
            "files": self.files,
            "wanted": self.wanted,
            "left-out": self.left_out,
            "missing": self.missing.to_json(),
            "broken": self.broken.to_json(),
            "requeued": self.requeued,
            "remade": self.remade,
            "master-url": self.master_url,
            "master": self.master.to_json(),
            "notes": self.notes,
        })
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kinds = [
            ("database", &self.database),
            ("missing file", &self.missing),
            ("broken file", &self.broken),
            ("master", &self.master),
        ];
        for (kind, problems) in kinds {
            for problem in &problems.listed {
                writeln!(f, "{kind}: {problem}")?;
            }
            let more = problems.count - problems.listed.len() as u64;
            if 0 < more {
                writeln!(f, "{kind}: {more} more")?;
            }
        }
        for note in &self.notes {
            writeln!(f, "note: {note}")?;
        }
        if 0 < self.requeued {
            writeln!(f, "{} files will be fetched again", self.requeued)?;
        }
        if 0 < self.remade {
            writeln!(f, "{} METADATA files were made again", self.remade)?;
        }
        if 0 < self.left_out {
            writeln!(f, "{} files are left where they are, as the node was told", self.left_out)?;
        }
        write!(
            f,
            "serial {}: {} entries and {} files checked, {} files still to fetch; {}",
            self.serial,
            self.entries,
            self.files,
            self.wanted,
            if self.is_in_order() { "all in order" } else { "something is wrong" }
        )
    }
}

/// Checks.
///
/// # Errors
/// `Kind::Internal` if the database cannot be read at all; what is wrong in it is in the report.
pub fn run(verify: &Verify<'_>) -> Result<Report> {
    let end = verify.store.position()?;
    let mut report = Report {
        serial: Serial::wire(end.map(|end| end.serial)),
        chain: end.map(|end| hex(&end.chain)),
        ..Report::default()
    };
    if verify.options.checks_log {
        verify.log(&mut report)?;
    }
    if let Some(link) = verify.link {
        verify.master(link, &mut report);
    }
    if verify.options.checks_files {
        verify.files(&mut report)?;
    }
    Ok(report)
}

/// What is wrong with a file.
enum Fault {
    Missing,
    Broken(String),
    /// The METADATA beside a wheel that is in order; its digest, and why.
    Beside(String, &'static str),
}

impl Verify<'_> {
    fn log(&self, report: &mut Report) -> Result<()> {
        self.store.quick_check()?.into_iter().for_each(|said| report.database.add(said));
        let connection = self.store.pool().get()?;
        let Some(mut check) = LogCheck::begin(&connection)? else { return Ok(()) };
        let total = u64::try_from(report.serial + 1).ok();
        let mut progress = Progress::new("entries checked", total);
        loop {
            let before = check.entries;
            let goes_on = check.step(&connection, &mut |problem| report.database.add(problem))?;
            progress.add(check.entries - before);
            if !goes_on {
                break;
            }
        }
        report.entries = check.entries;
        if 0 < check.elided {
            report.notes.push(format!(
                "of {} serials this folder has a part or nothing, since it replicates some indexes only: their chain is \
                 kept as the master gave it and cannot be made again here",
                check.elided
            ));
        }
        Ok(())
    }

    /// Compares the history with the master's.
    fn master(&self, link: &Link, report: &mut Report) {
        report.master_url = Some(link.url().to_owned());
        let own = self.store.clock().now();
        match handshake::last_common(link, self.store, own) {
            Err(e) => report.master.add(format!("{} could not be asked: {e}", link.url())),
            Ok(common) if common == own => {}
            Ok(_) if link.known().program == Some(Program::Devpi) => {
                report.notes.push("a devpi-server keeps no chain to compare with".to_owned());
            }
            Ok(common) => report.master.add(format!(
                "the histories are the same up to serial {} only; the own log ends with {}",
                Serial::wire(common),
                report.serial
            )),
        }
    }

    fn files(&self, report: &mut Report) -> Result<()> {
        let left_out = self.is_replica.then(|| LeftOut::of(self.store)).transpose()?;
        let mut progress = Progress::new("files checked", None);
        let mut after = String::new();
        loop {
            let paths = self.store.file_paths(&after, PATHS_AT_ONCE)?;
            let Some(last) = paths.last() else { break };
            after.clone_from(last);
            for path in paths.iter().filter_map(|path| FilePath::parse(path)) {
                self.file(&path, left_out.as_ref(), report)?;
                progress.add(1);
            }
        }
        Ok(())
    }

    fn file(&self, path: &FilePath, left_out: Option<&LeftOut>, report: &mut Report) -> Result<()> {
        report.files += 1;
        // A node that runs may have been about to change it.
        let Some(_) = self.look(path)? else { return Ok(()) };
        let Some(fault) = self.look(path)? else { return Ok(()) };
        let is_left_out = match left_out {
            Some(left_out) => left_out.has(self.store, path)?,
            None => false,
        };
        match &fault {
            Fault::Missing if is_left_out => {
                report.left_out += 1;
                return Ok(());
            }
            Fault::Missing if self.is_replica && self.store.is_wanted(path)? => {
                report.wanted += 1;
                return Ok(());
            }
            Fault::Missing => report.missing.add(path.to_string()),
            Fault::Broken(why) => report.broken.add(format!("{path}: {why}")),
            Fault::Beside(_, why) => report.broken.add(format!("{}: {why}", path.sidecar()?)),
        }
        let Some(writer) = self.writer else { return Ok(()) };
        let blobs = self.store.blobs();
        match fault {
            Fault::Beside(sha256, _) => {
                blobs.remove(&path.sidecar()?)?;
                report.remade += u64::from(metadata::put_beside(blobs, path, &sha256)?);
                return Ok(());
            }
            Fault::Broken(_) => blobs.remove(path)?,
            Fault::Missing => {}
        }
        let is_new = match self.is_replica {
            true => !is_left_out && writer.requeue(path)?,
            false => writer.note_lost(path)?,
        };
        report.requeued += u64::from(is_new);
        Ok(())
    }

    /// What is wrong with a file at present.
    fn look(&self, path: &FilePath) -> Result<Option<Fault>> {
        // No transaction stays open while a file is read.
        let row = self.store.read()?.row(path.as_str())?;
        let Some(value) = row.and_then(|row| row.value) else { return Ok(None) };
        let record = match Dict::decode(&value) {
            Ok(record) => record,
            Err(e) => return Ok(Some(Fault::Broken(format!("its record is damaged: {e}")))),
        };
        // The file of a mirror that nobody has asked for.
        if record.text("last_modified").is_none() {
            return Ok(None);
        }
        let mut file = match self.store.blobs().get(path) {
            Ok(Some((file, _))) => file,
            Ok(None) => return Ok(Some(Fault::Missing)),
            Err(e) => return Ok(Some(Fault::Broken(e.to_string()))),
        };
        let expected = Expected::of(&record);
        if !self.options.checks_digests {
            return self.beside(path, &record, &expected);
        }
        let mut hasher = expected.hasher();
        let mut chunk = vec![0; CHUNK_BYTES];
        loop {
            match file.read(&mut chunk) {
                Ok(0) => break,
                Ok(n) => hasher.update(&chunk[..n]),
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) => return Ok(Some(Fault::Broken(format!("it cannot be read: {e}")))),
            }
        }
        match expected.check(&hasher.finish()) {
            Ok(()) => self.beside(path, &record, &expected),
            Err(e) => Ok(Some(Fault::Broken(e.message))),
        }
    }

    /// What is wrong with the METADATA beside a wheel. That of a mirror's file is brought when somebody asks for it.
    fn beside(&self, path: &FilePath, record: &Dict, expected: &Expected) -> Result<Option<Fault>> {
        let Some(due) = &expected.metadata_sha256 else { return Ok(None) };
        let fault = |why| Ok(Some(Fault::Beside(due.clone(), why)));
        let Some((mut file, _)) = self.store.blobs().get(&path.sidecar()?)? else {
            let is_mirrored = record.text("url").is_some();
            return if is_mirrored { Ok(None) } else { fault("it is missing") };
        };
        if !self.options.checks_digests {
            return Ok(None);
        }
        let mut hasher = Hasher::new();
        match hasher.take_all(&mut file) {
            Ok(()) if hasher.finish().sha256.hex() == *due => Ok(None),
            Ok(()) => fault("its digest is another one"),
            Err(_) => fault("it cannot be read"),
        }
    }
}

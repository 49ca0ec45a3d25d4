//! Snapshots at the master: made when a replica asks, kept for the next one, handed out in pieces
//! (docs/decisions/0010-snapshots.md).

use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use serde_json::{Value as Json, json};

use crate::digest::{Digest, Hasher, hex, unhex};
use crate::error::{Context as _, Error, Kind, Result};
use crate::http::response::{Body, Response};
use crate::serial::Serial;
use crate::store::Store;
use crate::store::changelog::Position;
use crate::sync::{Mutex, lock};

/// The folder of snapshots in the server's folder.
pub const FOLDER: &str = ".snapshot";
/// Bytes of the database in one piece.
pub const PIECE_BYTES: usize = 4 << 20;
/// The longest that a packed piece may be, in bytes: what cannot be packed grows a little by it.
const PACKED_BYTES_MAX: u64 = PIECE_BYTES as u64 + (64 << 10);
/// The largest database that is handed out as a snapshot, in bytes.
pub const BYTES_MAX: u64 = 256 << 30;
/// A snapshot that is further behind than this is made anew for the next one who asks.
const BEHIND_MAX: u64 = 20_000;
/// How well pieces are packed.
const LEVEL: i32 = 3;

/// One piece of a snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Where it begins in the file of packed pieces.
    pub offset: u64,
    /// Its packed length in bytes.
    pub packed_bytes: u64,
    /// The hash of the packed bytes.
    pub sha256: Digest,
}

/// What a snapshot is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manifest {
    /// Names it: 32 hex digits.
    pub id: String,
    /// Where its log ends.
    pub end: Position,
    /// The length of the database in bytes.
    pub size_bytes: u64,
    /// The hash of the database.
    pub sha256: Digest,
    /// Its pieces; each but the last is `PIECE_BYTES` long when unpacked.
    pub pieces: Vec<Piece>,
}

impl Manifest {
    /// As it is sent and kept.
    pub fn to_json(&self) -> Json {
        let pieces = self.pieces.iter().map(|p| json!([p.packed_bytes, p.sha256.hex()]));
        json!({
            "id": self.id,
            "serial": self.end.serial.get(),
            "chain": hex(&self.end.chain),
            "size": self.size_bytes,
            "sha256": self.sha256.hex(),
            "piece": PIECE_BYTES,
            "pieces": pieces.collect::<Vec<_>>(),
        })
    }

    /// Reads what `to_json` made; `None` if it cannot be one.
    pub fn of_json(json: &Json) -> Option<Self> {
        let id = json["id"].as_str().filter(|id| is_id(id))?.to_owned();
        let size_bytes = json["size"].as_u64().filter(|size| (1..=BYTES_MAX).contains(size))?;
        if json["piece"].as_u64() != Some(PIECE_BYTES as u64) {
            return None;
        }
        let (mut pieces, mut offset) = (Vec::new(), 0_u64);
        for piece in json["pieces"].as_array()? {
            let packed_bytes = piece[0].as_u64().filter(|bytes| *bytes <= PACKED_BYTES_MAX)?;
            let sha256 = Digest::parse(piece[1].as_str()?)?;
            pieces.push(Piece { offset, packed_bytes, sha256 });
            offset = offset.checked_add(packed_bytes)?;
        }
        (pieces.len() as u64 == size_bytes.div_ceil(PIECE_BYTES as u64)).then_some(())?;
        let chain: [u8; 32] = unhex(json["chain"].as_str()?)?.try_into().ok()?;
        let end = Position { serial: Serial::new(json["serial"].as_u64()?)?, chain };
        let sha256 = Digest::parse(json["sha256"].as_str()?)?;
        Some(Self { id, end, size_bytes, sha256, pieces })
    }
}

/// Whether a text is the name of a snapshot.
pub fn is_id(text: &str) -> bool {
    text.len() == 32 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

/// The snapshots of a node that others follow: the latest one, if any.
pub struct Snapshots {
    folder: PathBuf,
    store: Arc<Store>,
    /// Held while one is made, so that those who ask meanwhile get the same.
    latest: Mutex<Option<Arc<Manifest>>>,
}

impl Snapshots {
    /// Those of a server's folder. What a former process left there goes: it cannot be told whether it is whole.
    ///
    /// # Errors
    /// `Kind::Internal` if the disk refuses.
    pub fn new(dir: &Path, store: Arc<Store>) -> Result<Self> {
        let folder = dir.join(FOLDER);
        match fs::remove_dir_all(&folder) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(e.into()),
            _ => Ok(Self { folder, store, latest: Mutex::default() }),
        }
    }

    /// Answers `GET /+snapshot?minimum=N`: the latest snapshot, made now if there is none that is recent. 404 where
    /// the log has less than `minimum` entries, which are sent sooner than a snapshot is made. May take a while.
    ///
    /// # Errors
    /// `Kind::NotFound`; `Kind::Internal` if the disk is full, or the database fails.
    pub fn answer(&self, minimum: u64) -> Result<Response> {
        let now = self.store.clock().now();
        let entries = now.map_or(0, |now| now.get() + 1);
        if entries < minimum.max(1) || self.store.last_elided()?.is_some() {
            return Err(Error::not_found(
                "this node offers no snapshot: its log is short, or not all there",
            ));
        }
        let manifest = self.latest()?;
        let body = manifest.to_json().to_string().into_bytes();
        Ok(Response::bytes(200, "application/json", body))
    }

    fn latest(&self) -> Result<Arc<Manifest>> {
        let mut latest = lock(&self.latest);
        if let Some(manifest) = latest.as_ref() {
            let now = self.store.clock().now().map_or(0, Serial::get);
            let is_recent = now.saturating_sub(manifest.end.serial.get()) <= BEHIND_MAX;
            if is_recent && self.store.chain_at(manifest.end.serial)? == Some(manifest.end.chain) {
                return Ok(manifest.clone());
            }
        }
        let began = Instant::now();
        let made = self.make().context(|| "making a snapshot")?;
        let packed: u64 = made.pieces.iter().map(|piece| piece.packed_bytes).sum();
        log::info!(
            "made a snapshot at serial {} in {:.1} s: {} bytes, {packed} packed",
            made.end.serial,
            began.elapsed().as_secs_f64(),
            made.size_bytes
        );
        if let Some(former) = latest.take() {
            drop(fs::remove_file(self.place(&former.id)));
        }
        let made = Arc::new(made);
        *latest = Some(made.clone());
        Ok(made)
    }

    fn place(&self, id: &str) -> PathBuf {
        self.folder.join(format!("{id}.zst"))
    }

    fn make(&self) -> Result<Manifest> {
        fs::create_dir_all(&self.folder)?;
        let whole = tempfile::Builder::new().prefix("database").tempdir_in(&self.folder)?;
        let database = whole.path().join("copy");
        let end = self.store.copy_to(&database)?;
        let mut id = [0; 16];
        getrandom::fill(&mut id).map_err(|e| Error::internal(format!("no randomness: {e}")))?;
        let id = hex(&id);
        let from = File::open(&database)?;
        let mut to = tempfile::NamedTempFile::new_in(&self.folder)?;
        let (mut hasher, mut size_bytes, mut offset) = (Hasher::new(), 0, 0);
        let (mut pieces, mut piece) = (Vec::new(), Vec::with_capacity(PIECE_BYTES));
        loop {
            piece.clear();
            (&from).take(PIECE_BYTES as u64).read_to_end(&mut piece)?;
            if piece.is_empty() {
                break;
            }
            hasher.update(&piece);
            size_bytes += piece.len() as u64;
            let packed = zstd::bulk::compress(&piece, LEVEL)?;
            to.write_all(&packed)?;
            let packed_bytes = packed.len() as u64;
            pieces.push(Piece { offset, packed_bytes, sha256: Digest::of(&packed) });
            offset += packed_bytes;
        }
        to.persist(self.place(&id)).map_err(|e| Error::from(e.error))?;
        Ok(Manifest { id, end, size_bytes, sha256: hasher.finish().sha256, pieces })
    }

    /// Answers `GET /+snapshot/ID/N`; 404 if that snapshot is not the latest one any more.
    ///
    /// # Errors
    /// `Kind::NotFound`; `Kind::Internal` if the disk fails.
    pub fn piece(&self, id: &str, number: usize) -> Result<Response> {
        let absent = || Error::not_found("there is no such piece of a snapshot here any more");
        let manifest = lock(&self.latest).clone().filter(|latest| latest.id == id);
        let manifest = manifest.ok_or_else(absent)?;
        let piece = manifest.pieces.get(number).ok_or_else(absent)?;
        let file = File::open(self.place(id)).map_err(|e| absent().caused_by(e))?;
        let body = Body::File { file, offset: piece.offset, length: piece.packed_bytes };
        Ok(Response::new(200).with_header("Content-Type", "application/zstd").with_body(body))
    }
}

/// Unpacks a piece that has the right hash; it must come to this many bytes.
///
/// # Errors
/// `Kind::BadGateway` if it is another one.
pub fn unpack(piece: &Piece, packed: &[u8], size_bytes: usize) -> Result<Vec<u8>> {
    let wrong = |why: &str| Error::new(Kind::BadGateway, format!("a piece of the snapshot {why}"));
    if Digest::of(packed) != piece.sha256 {
        return Err(wrong("has not the hash that the master said"));
    }
    let bytes = zstd::bulk::decompress(packed, PIECE_BYTES)
        .map_err(|e| wrong("cannot be unpacked").caused_by(e))?;
    if bytes.len() == size_bytes { Ok(bytes) } else { Err(wrong("has another length")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manifest_with_a_piece_that_is_too_long_is_refused() {
        let end = Position { serial: Serial::new(7).expect("valid"), chain: [1; 32] };
        let manifest = |packed_bytes| Manifest {
            id: "0a".repeat(16),
            end,
            size_bytes: 5,
            sha256: Digest::of(b"whole"),
            pieces: vec![Piece { offset: 0, packed_bytes, sha256: Digest::of(b"packed") }],
        };
        let good = manifest(PACKED_BYTES_MAX);
        assert_eq!(Manifest::of_json(&good.to_json()), Some(good));
        assert_eq!(Manifest::of_json(&manifest(PACKED_BYTES_MAX + 1).to_json()), None);
        assert_eq!(Manifest::of_json(&manifest(u64::MAX).to_json()), None);
        let noise: Vec<u8> = (0..PIECE_BYTES as u64)
            .map(|n| (n.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 29) as u8)
            .collect();
        let packed = zstd::bulk::compress(&noise, LEVEL).expect("packs").len() as u64;
        assert!(packed <= PACKED_BYTES_MAX, "{packed}");
    }
}

//! Work on a whole folder from the command line: export, import, and checks.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::config::{Config, RoleOption};
use crate::deadline::Deadline;
use crate::error::{Context, Error, Result};
use crate::http::client::{Client, ClientOptions};
use crate::maintenance::export::{self, ExportOptions};
use crate::maintenance::import::{Import, ImportOptions};
use crate::maintenance::progress::Progress;
use crate::maintenance::verify::{self, Report, Verify, VerifyOptions};
use crate::nodeinfo::{NodeInfo, Role};
use crate::password::{Passwords, is_usable_hash};
use crate::replication::auth::Signer;
use crate::replication::filter::Filter;
use crate::replication::link::Link;
use crate::search;
use crate::secret::{ReplicaUuid, Secret};
use crate::store::{self, Store};

use super::{HASH_WAIT, InitOptions, devpi_keys, lock_folder};

/// There while an import runs: if it is there later, that one did not end.
const IMPORTING: &str = ".importing";
/// Readers of a command.
const READERS: u32 = 4;

/// Refuses a folder whose import did not end.
///
/// # Errors
/// `Kind::Conflict` if it is one.
pub(super) fn refuse_half_imported(dir: &Path) -> Result<()> {
    if dir.join(IMPORTING).exists() {
        return Err(Error::conflict(format!(
            "the import into {} did not end: remove that folder and import again",
            dir.display()
        )));
    }
    Ok(())
}

/// Opens a folder for reading; a node may run there.
fn look(dir: &Path) -> Result<Arc<Store>> {
    if !store::exists(dir) {
        let text = format!("The path '{}' contains no devpi-server data.", dir.display());
        return Err(Error::invalid(text));
    }
    refuse_half_imported(dir)?;
    store::look(dir, READERS)
}

/// Writes an export.
///
/// # Errors
/// Those of `export::export`.
pub fn export(config: &Config, options: &ExportOptions) -> Result<()> {
    let store = look(&config.serverdir)?;
    if let Some(filter) = Filter::recorded(&store)? {
        return Err(Error::conflict(format!(
            "this folder replicates {filter} only, and an export is of all: make it from the master's folder"
        )));
    }
    let done = export::export(&store, options)?;
    log::info!(
        "exported {} users, {} indexes and {} files to {}",
        done.users,
        done.indexes,
        done.files,
        options.target.display()
    );
    Ok(())
}

/// What to import, and how.
#[derive(Clone, Debug)]
pub struct ImportFrom {
    /// The folder with the export.
    pub source: PathBuf,
    /// Whether there shall be no `root/pypi` whatever the export says.
    pub no_root_pypi: bool,
    /// Types of indexes that are left out.
    pub skip_types: Vec<String>,
    /// Whether files are linked instead of copied.
    pub hard_links: bool,
}

/// Makes a new folder out of an export.
///
/// # Errors
/// `Kind::Conflict` if the folder is in use; those of `Import`.
pub fn import(config: &Config, init: &InitOptions, from: ImportFrom) -> Result<()> {
    let dir = &config.serverdir;
    refuse_half_imported(dir)?;
    if store::exists(dir) || NodeInfo::load(dir)?.is_some() {
        let text = format!("The path '{}' already contains devpi-server data.", dir.display());
        return Err(Error::conflict(text));
    }
    let pwhash = match &init.root_password_hash {
        Some(pwhash) if !is_usable_hash(pwhash) => {
            return Err(Error::invalid("--root-passwd-hash is no argon2 hash that can be checked"));
        }
        Some(pwhash) => pwhash.clone(),
        None => Passwords::new()?.hash(&init.root_password, Deadline::after(HASH_WAIT))?,
    };
    let import = Import::read(ImportOptions {
        source: from.source,
        pwhash,
        root_pypi: init.root_pypi.clone(),
        no_root_pypi: from.no_root_pypi,
        skip_types: from.skip_types,
        hard_links: from.hard_links,
    })?;
    fs::create_dir_all(dir).context(|| format!("making {}", dir.display()))?;
    let _lock = lock_folder(dir)?;
    let marker = dir.join(IMPORTING);
    File::create_new(&marker).context(|| format!("making {}", marker.display()))?.sync_all()?;
    File::open(dir)?.sync_all()?;
    let (store, writer) = store::open(dir, READERS)?;
    let done = import.run(&store, &writer).map_err(|e| {
        let dir = dir.display();
        Error::new(e.kind, format!("{e}; the import did not end: remove {dir} before the next one"))
    })?;
    NodeInfo::settle(None, RoleOption::Auto, None)?.save(dir)?;
    fs::remove_file(&marker)?;
    File::open(dir)?.sync_all()?;
    log::info!(
        "imported {} users, {} indexes, {} projects and {} files into {}",
        done.users,
        done.indexes,
        done.projects,
        done.files,
        dir.display()
    );
    Ok(())
}

/// Checks a folder.
///
/// # Errors
/// `Kind::Invalid` if there is nothing to check; `Kind::Conflict` if it is to be repaired while a node runs there;
/// `Kind::Internal` if it cannot be read at all.
pub fn verify(config: &Config, options: VerifyOptions) -> Result<Report> {
    let dir = &config.serverdir;
    let store = look(dir)?;
    let info = NodeInfo::load(dir)?;
    let is_replica = info.as_ref().is_some_and(|info| info.role == Role::Replica);
    let link = match &info {
        Some(info) if options.asks_master => link(config, info)?,
        _ => None,
    };
    let _lock = options.repairs.then(|| lock_folder(dir)).transpose()?;
    let writer =
        options.repairs.then(|| store::open(dir, 1)).transpose()?.map(|(_, writer)| writer);
    verify::run(&Verify {
        store: &store,
        options,
        is_replica,
        link: link.as_ref(),
        writer: writer.as_ref(),
    })
}

/// Makes the search index of a folder anew.
///
/// # Errors
/// `Kind::Conflict` if a node runs there; `Kind::Internal` if a database fails.
pub fn reindex(config: &Config) -> Result<()> {
    let dir = &config.serverdir;
    let store = look(dir)?;
    let _lock = lock_folder(dir)?;
    let (mut progress, mut count) = (Progress::new("projects", None), 0);
    search::make_anew(dir, store, &mut |more| {
        count += more;
        progress.add(more);
    })?;
    drop(progress);
    log::info!("{count} projects of stages can be found; names of mirrors need no index");
    Ok(())
}

/// A way to the master of a folder's node; `None` if it has none.
pub(super) fn link(config: &Config, info: &NodeInfo) -> Result<Option<Link>> {
    let Some(url) = config.master_url.clone().or_else(|| info.master_url.clone()) else {
        return Ok(None);
    };
    let Some(secretfile) = &config.secretfile else {
        return Err(Error::invalid("give --secretfile to ask the master, or --offline"));
    };
    let secret = Secret::load(secretfile)?;
    let uuid = ReplicaUuid::parse(&info.uuid)
        .ok_or_else(|| Error::invalid(format!("'{}' is no uuid of a node", info.uuid)))?;
    let signer = Signer::new(&secret, uuid, devpi_keys(config, &secret));
    let options =
        ClientOptions { replica_cert: config.replica_cert.clone(), ..ClientOptions::default() };
    Ok(Some(Link::new(Client::new(options)?, &url, signer, None, info.master_uuid.clone())))
}

//! The commands that work on a whole folder.

use std::path::PathBuf;

use crate::config::options::Program;
use crate::config::settings::Settings;
use crate::config::{Config, Refused};
use crate::maintenance::export::ExportOptions;
use crate::maintenance::verify::VerifyOptions;
use crate::server::{self, InitOptions, upkeep};

use super::{Outcome, upstream};

/// Exports or imports.
pub(super) fn transfer(
    program: Program,
    settings: &Settings,
    config: Config,
    directory: Option<String>,
) -> Result<(), Outcome> {
    let folder = PathBuf::from(directory.ok_or_else(|| {
        Refused::Usage("say which folder the export is, as the last argument".to_owned())
    })?);
    if program == Program::Export {
        let options = ExportOptions {
            target: folder,
            mirrored_files: settings.flag("include-mirrored-files")?,
            hard_links: settings.flag("hard-links")?,
        };
        return Ok(upkeep::export(&config, &options)?);
    }
    let no_root_pypi = settings.flag("no-root-pypi")?;
    let root_pypi = match settings.text("root-pypi-url") {
        _ if no_root_pypi => None,
        Some(url) => Some(url),
        None => upstream::of_this_machine()
            .inspect_err(|e| log::warn!("there will be no root/pypi but the export's own: {e}"))
            .ok(),
    };
    let init = InitOptions {
        root_password: settings.text_or_empty("root-passwd").unwrap_or_default(),
        root_password_hash: settings.text("root-passwd-hash"),
        root_pypi,
    };
    let import = upkeep::ImportFrom {
        source: folder,
        no_root_pypi,
        skip_types: settings.all("skip-import-type"),
        hard_links: settings.flag("hard-links")?,
    };
    Ok(server::upkeep::import(&config, &init, import)?)
}

/// Checks a folder; what is wrong is the outcome.
pub(super) fn check(program: Program, settings: &Settings, config: &Config) -> Result<(), Outcome> {
    let is_fsck = program == Program::Fsck;
    let options = VerifyOptions {
        checks_log: !is_fsck,
        checks_files: is_fsck || !settings.flag("no-files")?,
        checks_digests: !is_fsck || !settings.flag("no-checksum")?,
        asks_master: !is_fsck && !settings.flag("offline")?,
        repairs: !is_fsck && settings.flag("repair")?,
    };
    let report = upkeep::verify(config, options)?;
    if !is_fsck && settings.flag("json")? {
        println!("{:#}", report.to_json());
    } else {
        println!("{report}");
    }
    match report.is_in_order() {
        true => Ok(()),
        false => Err(Outcome::Failed(1, "fatal: something is wrong, see above".to_owned())),
    }
}

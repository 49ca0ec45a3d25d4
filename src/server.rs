//! Composition: opens a node's parts, runs them, stops them in reverse order.

use crate::config::Config;
use crate::error::{Error, Kind, Result};

/// What a new node starts with.
#[derive(Debug, Default)]
pub struct InitOptions {
    /// The password of root.
    pub root_password: String,
    /// The password of root as a hash, instead.
    pub root_password_hash: Option<String>,
    /// The index that `root/pypi` mirrors; none of that name if `None`.
    pub root_pypi: Option<String>,
}

/// Runs a node until a signal ends it.
///
/// # Errors
/// Not there yet.
pub fn serve(_config: Config) -> Result<()> {
    Err(Error::new(Kind::Unsupported, "serve is not supported yet"))
}

/// Makes the folder of a new node.
///
/// # Errors
/// Not there yet.
pub fn init(_config: Config, _options: InitOptions) -> Result<()> {
    Err(Error::new(Kind::Unsupported, "init is not supported yet"))
}

/// Sets a user's password.
///
/// # Errors
/// Not there yet.
pub fn passwd(_config: Config, _user: &str, _password: &str) -> Result<()> {
    Err(Error::new(Kind::Unsupported, "passwd is not supported yet"))
}

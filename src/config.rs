//! What a node works with, validated once.
//!
//! `Settings` lays command line, environment and file over each other; `Config` is what comes out, with no text left
//! that could still be wrong.

pub mod file;
pub mod listen;
pub mod options;
pub mod settings;

use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use settings::Settings;

/// The largest request body in bytes; devpi's default.
const BODY_BYTES_MAX: u64 = 1 << 30;
/// Requests that wait for another machine at a time; devpi's default for all its threads.
const THREADS: usize = 50;
/// Connections at a time. More than devpi's 100, since parked polls and kept-alive clients count too.
const CONNECTIONS_MAX: usize = 1024;
/// How long a change may take through a replica; devpi's default.
const PROXY_TIMEOUT_SECS: u64 = 30;
/// How long an upstream index may stay silent; devpi's default.
const REQUEST_TIMEOUT_SECS: u64 = 5;
/// How long a mirrored page counts as fresh; devpi's default.
const MIRROR_CACHE_EXPIRY_SECS: u64 = 1800;
/// Each one that has not got a file costs a request.
const FILE_SOURCES_MAX: usize = 8;
/// Downloads from the master at a time; devpi's default.
const FILE_REPLICATION_THREADS: usize = 5;

/// Why options were refused; each kind has its own exit code.
#[derive(Clone, PartialEq, Eq)]
pub enum Refused {
    /// They were typed wrongly (2).
    Usage(String),
    /// They make no sense, or ask for what this version cannot do (1).
    Fatal(String),
    /// The configuration file is broken (4).
    File(String),
}

impl fmt::Debug for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Self::Usage(text) | Self::Fatal(text) | Self::File(text)) = self;
        f.write_str(text)
    }
}

/// The role that was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RoleOption {
    /// What the folder says, else a replica if a master is named, else standalone.
    Auto,
    /// Takes changes, serves no replica.
    Standalone,
    /// Takes changes and serves replicas.
    Master,
    /// Follows a master.
    Replica,
}

/// What key derivation costs; nodes that share a secret must agree.
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
    fn default() -> Self {
        Self { memory_kib: 524_288, time: 16, parallelism: 8 }
    }
}

/// What the server works with.
#[derive(Clone, Debug)]
pub struct Config {
    /// The folder with all data.
    pub serverdir: PathBuf,
    /// The role that was asked for; the folder has a say too (`nodeinfo`).
    pub role: RoleOption,
    /// The master to follow, without a slash at the end.
    pub master_url: Option<String>,
    /// Where to listen.
    pub listen: Vec<SocketAddr>,
    /// A unix socket to listen on.
    pub unix_socket: Option<PathBuf>,
    /// The permission bits of the unix socket.
    pub unix_socket_mode: u32,
    /// Requests that wait for another machine at a time.
    pub threads: usize,
    /// Connections at a time.
    pub connection_limit: usize,
    /// The largest request body in bytes.
    pub body_bytes_max: u64,
    /// The address under which clients know this node, without a slash at the end.
    pub outside_url: Option<String>,
    /// Whether simple pages carry absolute links.
    pub absolute_urls: bool,
    /// Whether simple pages offer metadata files.
    pub enable_core_metadata: bool,
    /// How long an upstream index may stay silent.
    pub request_timeout: Duration,
    /// How long a change may take through a replica.
    pub proxy_timeout: Duration,
    /// Downloads from the master at a time.
    pub file_replication_threads: usize,
    /// Indexes or types of index whose files are not fetched ahead; `all` for every one.
    pub file_replication_skip_indexes: Vec<String>,
    /// The indexes that a replica takes over; all if none is named.
    pub replicate: Vec<String>,
    /// What a fresh replica begins with.
    pub bootstrap: BootstrapOption,
    /// What of all files a replica is to have.
    pub files: FilesOption,
    /// A folder in which a replica looks for files before it asks its master.
    pub replica_file_search_path: Option<PathBuf>,
    /// Other replicas that are asked for files which the master does not give, without slashes at the end.
    pub replica_file_sources: Vec<String>,
    /// Whether files found there get a second name instead of a copy.
    pub hard_links: bool,
    /// The certificate and key that a replica shows to its master.
    pub replica_cert: Option<PathBuf>,
    /// The file with the shared secret.
    pub secretfile: Option<PathBuf>,
    /// Who may change users and indexes; `None` if everybody may create.
    pub restrict_modify: Option<Vec<String>>,
    /// How long a mirrored page counts as fresh.
    pub mirror_cache_expiry: Duration,
    /// Whether upstreams are never asked.
    pub offline_mode: bool,
    /// What key derivation costs.
    pub argon2: Argon2Cost,
    /// Whether the log tells details.
    pub debug: bool,
}

/// `--bootstrap`: what a fresh replica begins with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum BootstrapOption {
    /// A snapshot, if its master has a long log and offers one.
    #[default]
    Auto,
    /// The log from its first entry.
    Log,
    /// A snapshot, if its master offers one.
    Snapshot,
}

/// What of all files a replica is to have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FilesOption {
    /// All, ahead of need.
    #[default]
    All,
    /// Those that a client asks for; they stay.
    OnDemand,
    /// None: what a client asks for is passed through.
    None,
}

impl Config {
    /// Reads and checks all options.
    ///
    /// # Errors
    /// `Refused` with the first one that is wrong.
    pub fn new(settings: &Settings) -> Result<Self, Refused> {
        check_storage(settings)?;
        let serverdir =
            folder(&settings.text("serverdir").unwrap_or_else(|| "~/.devpi/server".to_owned()))?;
        let secretfile = match settings.text("secretfile") {
            Some(path) => Some(folder(&path)?),
            None => Some(serverdir.join(".secret")).filter(|path| path.is_file()),
        };
        Ok(Self {
            role: role(settings)?,
            master_url: master_url(settings)?,
            listen: listen::addresses(settings)?,
            unix_socket: settings.text("unix-socket").map(|path| folder(&path)).transpose()?,
            unix_socket_mode: mode(settings)?,
            threads: settings.number("threads", THREADS, 1)?,
            connection_limit: settings.number("connection-limit", CONNECTIONS_MAX, 1)?,
            body_bytes_max: settings.number("max-request-body-size", BODY_BYTES_MAX, 1)?,
            outside_url: settings
                .text("outside-url")
                .map(|url| address("outside-url", &url))
                .transpose()?,
            absolute_urls: settings.flag("absolute-urls")?,
            enable_core_metadata: settings.flag("enable-core-metadata")?,
            request_timeout: seconds(settings, "request-timeout", REQUEST_TIMEOUT_SECS)?,
            proxy_timeout: seconds(settings, "proxy-timeout", PROXY_TIMEOUT_SECS)?,
            file_replication_threads: settings.number(
                "file-replication-threads",
                FILE_REPLICATION_THREADS,
                1,
            )?,
            file_replication_skip_indexes: skipped(settings)?,
            replicate: settings.list("replicate"),
            bootstrap: bootstrap(settings)?,
            files: files(settings)?,
            replica_file_search_path: settings
                .text("replica-file-search-path")
                .map(|path| folder(&path))
                .transpose()?,
            replica_file_sources: file_sources(settings)?,
            hard_links: settings.flag("hard-links")?,
            replica_cert: settings.text("replica-cert").map(|path| folder(&path)).transpose()?,
            secretfile,
            restrict_modify: settings
                .text_or_empty("restrict-modify")
                .map(|_| settings.list("restrict-modify")),
            mirror_cache_expiry: Duration::from_secs(settings.number(
                "mirror-cache-expiry",
                MIRROR_CACHE_EXPIRY_SECS,
                0,
            )?),
            offline_mode: settings.flag("offline-mode")?,
            argon2: argon2(settings)?,
            debug: settings.flag("debug")?,
            serverdir,
        })
    }
}

fn check_storage(settings: &Settings) -> Result<(), Refused> {
    match settings.text("storage").as_deref() {
        None | Some("sqlite") => Ok(()),
        Some(other) => Err(Refused::Fatal(format!(
            "--storage `{other}` is not supported: the only one is `sqlite`, without settings"
        ))),
    }
}

fn role(settings: &Settings) -> Result<RoleOption, Refused> {
    match settings.text("role").as_deref() {
        None | Some("auto") => Ok(RoleOption::Auto),
        Some("standalone") => Ok(RoleOption::Standalone),
        Some("master" | "primary") => Ok(RoleOption::Master),
        Some("replica") => Ok(RoleOption::Replica),
        Some(other) => Err(Refused::Usage(format!(
            "--role: `{other}` is not one of auto, standalone, master (or primary), replica"
        ))),
    }
}

/// The master's address, which has three names.
fn master_url(settings: &Settings) -> Result<Option<String>, Refused> {
    let given: Vec<_> = ["primary-url", "master-url", "master"]
        .into_iter()
        .filter_map(|name| settings.text(name).map(|url| (name, url)))
        .collect();
    match given.as_slice() {
        [] => Ok(None),
        [(name, url)] => address(name, url).map(Some),
        [(one, _), (other, _), ..] => {
            Err(Refused::Fatal(format!("--{one} and --{other} are the same: give one of them")))
        }
    }
}

/// An HTTP address without credentials, query or slash at the end.
fn address(name: &str, text: &str) -> Result<String, Refused> {
    let refuse = |why: &str| Refused::Fatal(format!("--{name}: {why}"));
    let url = url::Url::parse(text).map_err(|e| refuse(&format!("`{text}` is not a URL: {e}")))?;
    if !url.username().is_empty() || url.password().is_some() {
        return Err(refuse("a user name or password in the URL is not supported"));
    }
    if !matches!(url.scheme(), "http" | "https") || url.host().is_none() {
        return Err(refuse(&format!("`{text}` is not an http or https URL")));
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err(refuse(&format!("`{text}` has more than a path")));
    }
    Ok(text.trim_end_matches('/').to_owned())
}

fn seconds(settings: &Settings, name: &str, default: u64) -> Result<Duration, Refused> {
    settings.number(name, default, 1).map(Duration::from_secs)
}

fn mode(settings: &Settings) -> Result<u32, Refused> {
    let text = settings.text("unix-socket-perms").unwrap_or_else(|| "600".to_owned());
    u32::from_str_radix(&text, 8).ok().filter(|mode| *mode <= 0o777).ok_or_else(|| {
        Refused::Usage(format!("--unix-socket-perms: `{text}` is not an octal mode like 660"))
    })
}

fn skipped(settings: &Settings) -> Result<Vec<String>, Refused> {
    let items = settings.list("file-replication-skip-indexes");
    if 1 < items.len() && items.iter().any(|item| item == "all") {
        return Err(Refused::Fatal(
            "--file-replication-skip-indexes is either `all` or a list of indexes and types"
                .to_owned(),
        ));
    }
    Ok(items)
}

fn bootstrap(settings: &Settings) -> Result<BootstrapOption, Refused> {
    match settings.text("bootstrap").as_deref() {
        None | Some("auto") => Ok(BootstrapOption::Auto),
        Some("log") => Ok(BootstrapOption::Log),
        Some("snapshot") => Ok(BootstrapOption::Snapshot),
        Some(other) => Err(Refused::Fatal(format!(
            "--bootstrap is `auto`, `log` or `snapshot`, not `{other}`"
        ))),
    }
}

fn file_sources(settings: &Settings) -> Result<Vec<String>, Refused> {
    const NAME: &str = "replica-file-source";
    let urls = settings.list(NAME);
    if FILE_SOURCES_MAX < urls.len() {
        return Err(Refused::Fatal(format!("--{NAME} takes up to {FILE_SOURCES_MAX} URLs")));
    }
    urls.iter().map(|url| address(NAME, url)).collect()
}

fn files(settings: &Settings) -> Result<FilesOption, Refused> {
    match settings.text("files").as_deref() {
        None | Some("all") => Ok(FilesOption::All),
        Some("on-demand") => Ok(FilesOption::OnDemand),
        Some("none") => Ok(FilesOption::None),
        Some(other) => {
            Err(Refused::Fatal(format!("--files is `all`, `on-demand` or `none`, not `{other}`")))
        }
    }
}

fn argon2(settings: &Settings) -> Result<Argon2Cost, Refused> {
    let usual = Argon2Cost::default();
    Ok(Argon2Cost {
        memory_kib: settings.number("argon2-memory-cost", usual.memory_kib, 8)?,
        time: settings.number("argon2-time-cost", usual.time, 1)?,
        parallelism: settings.number("argon2-parallelism", usual.parallelism, 1)?,
    })
}

/// A path, absolute, with `~` for the home folder.
fn folder(text: &str) -> Result<PathBuf, Refused> {
    let path = match text.strip_prefix('~') {
        Some(rest) if rest.is_empty() || rest.starts_with('/') => {
            let home = std::env::var_os("HOME").filter(|home| !home.is_empty());
            let home =
                home.ok_or_else(|| Refused::Fatal(format!("`{text}` needs HOME to be set")))?;
            Path::new(&home).join(rest.trim_start_matches('/'))
        }
        _ => PathBuf::from(text),
    };
    std::path::absolute(&path).map_err(|e| Refused::Fatal(format!("`{text}`: {e}")))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::file::Section;
    use super::options::Program;
    use super::*;

    fn config(options: &[(&str, &str)]) -> Result<Config, Refused> {
        let given = options.iter().map(|(name, value)| (name.to_string(), vec![value.to_string()]));
        Config::new(&Settings::new(
            Program::Serve,
            given.collect(),
            BTreeMap::new(),
            Section::default(),
        )?)
    }

    #[test]
    fn defaults_are_those_of_the_table_in_operations() {
        let config = config(&[("serverdir", "/data")]).unwrap();
        assert_eq!(config.serverdir, Path::new("/data"));
        assert_eq!(config.role, RoleOption::Auto);
        assert_eq!((config.threads, config.connection_limit), (50, 1024));
        assert_eq!(config.body_bytes_max, 1_073_741_824);
        assert_eq!(config.proxy_timeout, Duration::from_secs(30));
        assert_eq!((config.file_replication_threads, config.unix_socket_mode), (5, 0o600));
        assert_eq!((config.restrict_modify, config.secretfile), (None, None));
        assert_eq!(config.argon2, Argon2Cost { memory_kib: 524_288, time: 16, parallelism: 8 });
    }

    #[test]
    fn a_secret_in_the_folder_is_used_unless_another_is_named() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join(".secret"), "x").unwrap();
        let serverdir = ("serverdir", dir.path().to_str().unwrap());
        assert_eq!(config(&[serverdir]).unwrap().secretfile, Some(dir.path().join(".secret")));
        let named = config(&[serverdir, ("secretfile", "/other")]).unwrap();
        assert_eq!(named.secretfile.as_deref(), Some(Path::new("/other")));
    }

    #[test]
    fn master_has_three_names_of_which_one_may_be_given() {
        for name in ["master", "master-url", "primary-url"] {
            let config = config(&[(name, "http://master:3141/")]).unwrap();
            assert_eq!(config.master_url.as_deref(), Some("http://master:3141"));
        }
        let both = config(&[("master", "http://a"), ("primary-url", "http://a")]);
        assert!(matches!(both, Err(Refused::Fatal(_))));
    }

    #[test]
    fn addresses_with_credentials_or_of_other_kinds_are_refused() {
        for url in [
            "http://root:x@master",
            "http://root@master",
            "ftp://master",
            "master:3141",
            "http://m/?a",
        ] {
            let Err(Refused::Fatal(text)) = config(&[("master-url", url)]) else { panic!("{url}") };
            assert!(!text.contains("root:x"), "{text}");
        }
    }

    #[test]
    fn lists_are_split_at_commas() {
        let config = config(&[
            ("restrict-modify", "root, :admins ,"),
            ("file-replication-skip-indexes", "ann/dev,mirror"),
        ]);
        let config = config.unwrap();
        assert_eq!(config.restrict_modify, Some(vec!["root".to_owned(), ":admins".to_owned()]));
        assert_eq!(config.file_replication_skip_indexes, ["ann/dev", "mirror"]);
    }

    #[test]
    fn empty_restriction_leaves_only_root() {
        assert_eq!(config(&[("restrict-modify", "")]).unwrap().restrict_modify, Some(vec![]));
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        let usage: &[(&str, &str)] = &[
            ("role", "king"),
            ("threads", "0"),
            ("proxy-timeout", "soon"),
            ("unix-socket-perms", "888"),
        ];
        for option in usage {
            assert!(matches!(config(&[*option]), Err(Refused::Usage(_))), "{option:?}");
        }
        let fatal: &[(&str, &str)] =
            &[("storage", "pg8000:host=x"), ("file-replication-skip-indexes", "all,ann/dev")];
        for option in fatal {
            assert!(matches!(config(&[*option]), Err(Refused::Fatal(_))), "{option:?}");
        }
    }
}

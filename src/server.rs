//! Puts a node together: opens the store, builds the parts in order, waits for a signal, and takes them apart in
//! reverse order. The one module that knows all others.

mod bootstrap;
pub mod change;
mod control;
pub mod upkeep;

use std::fs::{self, File, OpenOptions, TryLockError};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, OnceLock};

use change::{Hands, Ordered};
use control::Control;
use crossbeam_channel::{Receiver, Sender, bounded};
use signal_hook::consts::{SIGINT, SIGTERM};

use crate::api::cache::{FileCache, PageCache};
use crate::api::docs::ZipCache;
use crate::api::partial::Warnings;
use crate::api::standing::{self, Keeper};
use crate::api::{Api, App, Node};
use crate::config::{Config, FilesOption};
use crate::deadline::Deadline;
use crate::digest::Hasher;
use crate::error::{Context, Error, Kind, Result};
use crate::http::client::{Client, ClientOptions};
use crate::http::listen::{Server, ServerOptions};
use crate::mirror::{Mirrors, Source};
use crate::model::acl::Policy;
use crate::model::{index, metadata, setup, user};
use crate::names::{IndexName, UserName};
use crate::nodeinfo::{NodeInfo, Role};
use crate::pages::description::Descriptions;
use crate::password::{Passwords, is_usable_hash};
use crate::replication::auth::{Gate, Signer};
use crate::replication::filter::Filter;
use crate::replication::herald::Herald;
use crate::replication::history::STEP;
use crate::replication::link::Link;
use crate::replication::master::Met;
use crate::replication::{Elsewhere, FilesWanted, Master, Replica, ReplicaOptions, SearchPath};
use crate::search::Search;
use crate::secret::{Argon2Cost, DevpiKeys, LoginTokens, ReplicaUuid, Secret};
use crate::stop::Stop;
use crate::store::blobs::Staged;
use crate::store::doubt::{HAD_REPLICAS, PULSE};
use crate::store::key::FilePath;
use crate::store::{self, Store, Writer};
use crate::transfer::Transfer;

/// Held while a process works in the folder.
const LOCK: &str = ".lock";
/// There from start to orderly stop: if it is there at a start, the last stop was none.
const RUNNING: &str = ".running";
/// Connections that serve things other than a worker's request: status, fetchers, the puller.
const READERS_EXTRA: usize = 8;
/// How long requests under way may take, and threads, when a replica changes its role: nothing is written here by them.
const CHANGE_DRAIN: std::time::Duration = std::time::Duration::from_millis(100);
/// How long a password change on the command line may wait for its one hash.
const HASH_WAIT: std::time::Duration = std::time::Duration::from_secs(60);
/// The exit status when the master is another one than before, as devpi-server has it.
pub const EXIT_FOREIGN_MASTER: i32 = 3;

/// Why a node ends.
enum End {
    Signal,
    Fatal(String),
    Change(Ordered),
}

/// What proves who somebody is.
struct Keys {
    secret: Secret,
    devpi: DevpiKeys,
}

/// Locks the folder for this process.
fn lock_folder(dir: &Path) -> Result<File> {
    let path = dir.join(LOCK);
    let file = OpenOptions::new().create(true).truncate(false).write(true).open(&path);
    let file = file.context(|| format!("opening {}", path.display()))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(Error::conflict(format!(
            "another process works in {}: stop it first",
            dir.display()
        ))),
        Err(TryLockError::Error(e)) => Err(e.into()),
    }
}

/// Removes what an unclean stop left behind.
fn recover(dir: &Path, store: &Store) -> Result<()> {
    let marker = dir.join(RUNNING);
    if marker.exists() {
        let swept = store.sweep().context(|| "sweeping orphans")?;
        log::info!("the last stop was not orderly; swept {swept} leftover files");
    }
    store.sweep_partials().context(|| "sweeping parts of files")?;
    fs::write(&marker, b"")?;
    Ok(())
}

fn app(
    config: &Config,
    info: &NodeInfo,
    store: &Arc<Store>,
    (node, below): (Node, Option<Master>),
    keys: &Keys,
) -> Result<App> {
    let source = match &node {
        Node::Master { writer, .. } => Source::Upstream(writer.clone()),
        Node::Replica(replica) => Source::Master(replica.clone()),
    };
    Ok(App {
        mirrors: Mirrors::new(config, store.clone(), source)?,
        transfer: Transfer::new(config)?,
        search: Search::start(&config.serverdir, store.clone())
            .inspect_err(|error| log::error!("there will be no search: {error:?}"))
            .ok(),
        store: store.clone(),
        node,
        below,
        uuid: info.uuid.clone(),
        passwords: Passwords::new()?,
        tokens: LoginTokens::new(&keys.secret, keys.devpi.clone()),
        policy: Policy { restrict_modify: config.restrict_modify.clone() },
        pages: PageCache::for_pages(),
        files: FileCache::for_files(),
        zips: ZipCache::new(),
        descriptions: Descriptions::default(),
        receipts: Arc::default(),
        standing: Keeper::default(),
        http: OnceLock::new(),
        config: config.clone(),
    })
}

/// Runs a node until it is told to end.
///
/// # Errors
/// `Kind::Invalid` if the folder was never initialised, `Kind::Conflict` if another process works in it, and whatever
/// keeps a part from starting.
pub fn serve(config: Config) -> Result<()> {
    let dir = &config.serverdir;
    if !store::exists(dir) {
        return Err(Error::invalid(format!(
            "The path '{}' contains no devpi-server data, use devpi-init to initialize.",
            dir.display()
        )));
    }
    upkeep::refuse_half_imported(dir)?;
    let lock = lock_folder(dir)?;
    let secret = match &config.secretfile {
        Some(path) => Secret::load(path)?,
        None => Secret::generate()?,
    };
    let (ends, ended) = bounded(4);
    watch_signals(ends.clone())?;
    let (store, writer, info) = bootstrap::open(&config, &ended)?;
    recover(dir, &store)?;
    let keys = Keys { devpi: devpi_keys(&config, &secret), secret };
    let writer = Arc::new(writer);
    let herald = herald(&config, &info, &writer, &keys)?;
    let node = node(&config, &info, &store, writer, &keys, ends.clone())?;
    let below = below(&config, &node, &store, &keys)?;
    let app = Arc::new(app(&config, &info, &store, (node, below), &keys)?);
    if let Node::Replica(replica) = &app.node {
        replica.set_elsewhere(elsewhere(&app));
    }
    let server =
        Server::start(http_options(&config), Arc::new(Api(app.clone())), store.clock().clone())?;
    app.http.get_or_init(|| server.watcher());
    let control = control(&app, &info, &keys.secret, ends)?;
    let timers = [pulse(&app)?, sampler(&app)?];
    announce(&config, &info, &server);
    let end = wait(&ended);
    control.stop();
    // What waits to learn whether this node was replaced must not be answered for when nobody can tell it any more.
    if let (Node::Master { .. }, true) =
        (&app.node, matches!(end, End::Change(_)) || store.doubt().is_open())
    {
        store.doubt().retire();
    }
    match (&end, &app.node) {
        // Whatever waits for the former master waits for nothing.
        (End::Change(_), Node::Replica(replica)) => {
            replica.halt();
            server.stop_within(CHANGE_DRAIN, CHANGE_DRAIN);
        }
        _ => stop(&app, &server),
    }
    herald.iter().for_each(Herald::stop);
    timers.iter().for_each(Stop::set);
    fs::remove_file(dir.join(RUNNING))?;
    match end {
        End::Signal => Ok(()),
        End::Fatal(why) => {
            log::error!("{why}");
            std::process::exit(EXIT_FOREIGN_MASTER)
        }
        End::Change(ordered) => {
            let hands = Hands { config: &config, secret: Some(&keys.secret) };
            change::obey(&hands, dir, &ordered);
            drop((ordered, lock));
            let failed = begin_again();
            drop((app, server, store));
            Err(failed)
        }
    }
}

/// Begins this program anew in the same process, with the same arguments: all that the old role left behind is gone.
fn begin_again() -> Error {
    let mut args = std::env::args_os();
    let mut command = Command::new("/proc/self/exe");
    command.arg0(args.next().unwrap_or_default()).args(args);
    Error::internal("the program cannot be started again").caused_by(command.exec())
}

/// The thread that tells former masters that they are replaced.
fn herald(
    config: &Config,
    info: &NodeInfo,
    writer: &Arc<Writer>,
    keys: &Keys,
) -> Result<Option<Herald>> {
    let uuid = ReplicaUuid::parse(&info.uuid);
    let (Role::Master, Some(uuid), Some(_)) = (info.role, uuid, &config.secretfile) else {
        return Ok(None);
    };
    let client = ClientOptions {
        replica_cert: config.replica_cert.clone(),
        user_agent: format!("twinpi/{}", env!("CARGO_PKG_VERSION")),
        ..ClientOptions::default()
    };
    let signer = || Signer::new(&keys.secret, uuid.clone(), keys.devpi.clone());
    let (former, url) = (&info.changes.former, config.outside_url.as_deref());
    Herald::start(writer, former, url, &client, signer)
}

/// On a master with replicas, looks whether everything stood still, since one of them may have been promoted then.
fn pulse(app: &Arc<App>) -> Result<Stop> {
    let (stop, app) = (Stop::new(), app.clone());
    let (told, store) = (stop.clone(), app.store.clone());
    let Node::Master { writer, changelog: Some(master) } = &app.node else { return Ok(stop) };
    let (writer, master) = (writer.clone(), master.clone());
    let mut is_armed = store.local_value(HAD_REPLICAS)?.is_some();
    if is_armed {
        store.doubt().arm(true);
    }
    crate::stop::spawn("pulse", move || {
        while !told.sleep(PULSE) {
            if !is_armed && !master.replicas().all().is_empty() {
                is_armed = true;
                store.doubt().arm(false);
                if let Err(error) = writer.note_local_value(HAD_REPLICAS, b"yes") {
                    log::warn!("that this node has replicas cannot be noted: {error}");
                }
            }
            store.doubt().pulse();
        }
        store.doubt().end();
    })?;
    Ok(stop)
}

/// Notes how far nodes are behind, for the plots of the status page.
fn sampler(app: &Arc<App>) -> Result<Stop> {
    let (stop, app) = (Stop::new(), app.clone());
    let told = stop.clone();
    crate::stop::spawn("lag", move || {
        loop {
            standing::sample(&app);
            if told.sleep(STEP) {
                return;
            }
        }
    })?;
    Ok(stop)
}

/// Takes commands from whoever may write to the folder.
fn control(app: &Arc<App>, info: &NodeInfo, secret: &Secret, ends: Sender<End>) -> Result<Control> {
    let (app, info, secret) = (Arc::downgrade(app), info.clone(), secret.clone());
    let dir = app.upgrade().map(|app| app.config.serverdir.clone()).unwrap_or_default();
    let answer = move |request: &_, client| {
        let Some(app) = app.upgrade() else { return };
        let hands = Hands { config: &app.config, secret: Some(&secret) };
        let replica = match &app.node {
            Node::Replica(replica) => Some(&**replica),
            Node::Master { .. } => None,
        };
        let ordered = change::answer(&hands, (&info, &app.store), replica, request, client);
        if let Some(ordered) = ordered {
            drop(ends.try_send(End::Change(ordered)));
        }
    };
    Control::start(&dir, Box::new(answer))
}

fn node(
    config: &Config,
    info: &NodeInfo,
    store: &Arc<Store>,
    writer: Arc<Writer>,
    keys: &Keys,
    ends: Sender<End>,
) -> Result<Node> {
    let Role::Replica = info.role else {
        let is_master = info.role == Role::Master;
        let gate = is_master.then(|| Gate::new(&keys.secret, keys.devpi.clone())).transpose()?;
        let changelog =
            gate.map(|gate| Master::new(store.clone(), gate, &info.uuid, fenced_by(&writer)));
        if let Some(master) = &changelog {
            master.offer_snapshots(&config.serverdir)?;
        }
        return Ok(Node::Master { writer, changelog });
    };
    if config.secretfile.is_none() {
        log::warn!("a replica needs the master's secret: give --secretfile");
    }
    let master_url = info.master_url.clone().unwrap_or_default();
    let uuid = ReplicaUuid::parse(&info.uuid)
        .ok_or_else(|| Error::invalid(format!("'{}' is no uuid of a node", info.uuid)))?;
    let filter = Filter::recorded(store)?;
    let options = ReplicaOptions {
        writer,
        client: ClientOptions {
            replica_cert: config.replica_cert.clone(),
            ..ClientOptions::default()
        },
        signer: Signer::new(&keys.secret, uuid, keys.devpi.clone()),
        master_url: master_url.clone(),
        master_uuid: info.master_uuid.clone(),
        outside_url: config.outside_url.clone(),
        proxy_timeout: config.proxy_timeout,
        request_timeout: config.request_timeout,
        fetchers: config.file_replication_threads,
        skip_indexes: config.file_replication_skip_indexes.clone(),
        files: match config.files {
            FilesOption::All => FilesWanted::All,
            FilesOption::OnDemand => FilesWanted::OnDemand,
            FilesOption::None => FilesWanted::None,
        },
        search_path: config
            .replica_file_search_path
            .clone()
            .map(|folder| SearchPath { folder, links: config.hard_links }),
        siblings: siblings(config, &info.uuid, keys)?,
        record_master: Box::new(record_master(config, info)),
        foreign_master: Box::new(move |uuid| {
            let why = format!("{master_url} is another master ({uuid}) than the one recorded here");
            drop(ends.try_send(End::Fatal(why)));
        }),
        learned: warnings(store, filter.as_ref()),
        filter,
        sidecar: Arc::new(sidecar(store.clone())),
    };
    Ok(Node::Replica(Replica::start(options)?))
}

/// The ways to other replicas, for files.
fn siblings(config: &Config, uuid: &str, keys: &Keys) -> Result<Vec<Arc<Link>>> {
    let mut links = Vec::new();
    for url in &config.replica_file_sources {
        let client = Client::new(ClientOptions {
            replica_cert: config.replica_cert.clone(),
            user_agent: format!("twinpi-replica/{}", env!("CARGO_PKG_VERSION")),
            ..ClientOptions::default()
        })?;
        let uuid = ReplicaUuid::parse(uuid)
            .ok_or_else(|| Error::invalid(format!("'{uuid}' is no uuid of a node")))?;
        let signer = Signer::new(&keys.secret, uuid, keys.devpi.clone());
        links.push(Arc::new(Link::new(client, url, signer, None, None)));
    }
    Ok(links)
}

/// Tells what the filter of a replica cannot do, at the start and whenever something new was learned.
fn warnings(store: &Arc<Store>, filter: Option<&Filter>) -> Box<dyn Fn() + Send + Sync> {
    let Some(filter) = filter.cloned() else { return Box::new(|| {}) };
    log::info!("this replica takes over {filter} and nothing else");
    let warnings = Warnings::new(store.clone(), filter);
    if store.clock().now().is_some() {
        warnings.look();
    }
    Box::new(move || warnings.look())
}

/// What answers the replicas of a replica.
fn below(config: &Config, node: &Node, store: &Arc<Store>, keys: &Keys) -> Result<Option<Master>> {
    let Node::Replica(replica) = node else { return Ok(None) };
    if config.secretfile.is_none() {
        return Ok(None);
    }
    let gate = Gate::new(&keys.secret, keys.devpi.clone())?;
    let replica = Arc::downgrade(replica);
    let uuid = move || replica.upgrade().and_then(|r| r.master_uuid()).unwrap_or_default();
    Ok(Some(Master::below(store.clone(), gate, uuid, Filter::recorded(store)?)))
}

/// Ends this node's right to write when it meets a newer master.
fn fenced_by(writer: &Arc<Writer>) -> Met {
    let writer = writer.clone();
    Box::new(move |fence| match writer.set_fence(fence) {
        Ok(()) => log::error!("{}", fence.refusal().message),
        Err(error) => log::error!("the fence cannot be written down: {error:?}"),
    })
}

/// The keys for devpi's own tokens, kept in the server folder once they were derived.
fn devpi_keys(config: &Config, secret: &Secret) -> DevpiKeys {
    let cost = Argon2Cost {
        memory_kib: config.argon2.memory_kib,
        time: config.argon2.time,
        parallelism: config.argon2.parallelism,
    };
    // A secret that lives only as long as the process leaves no key behind.
    let folder = config.secretfile.is_some().then_some(config.serverdir.as_path());
    DevpiKeys::new(secret, cost, folder)
}

/// Writes the master's uuid down at the first contact.
fn record_master(
    config: &Config,
    info: &NodeInfo,
) -> impl Fn(&str) -> Result<()> + Send + Sync + use<> {
    let (dir, info) = (config.serverdir.clone(), info.clone());
    move |uuid| {
        let mut info = info.clone();
        info.master_uuid = Some(uuid.to_owned());
        info.save(&dir)
    }
}

/// Makes the METADATA beside a wheel that a replica fetched.
fn sidecar(store: Arc<Store>) -> impl Fn(&FilePath, &Staged) -> Option<Staged> + Send + Sync {
    move |path, wheel| {
        let bytes = metadata::of_wheel(path.name(), wheel.open().ok()?)?;
        store.blobs().stage(&mut bytes.as_slice(), Hasher::new(), u64::MAX).ok()
    }
}

/// Asks for files of mirrors at their upstreams. The node holds the replica, so the replica must not hold the node.
fn elsewhere(app: &Arc<App>) -> Elsewhere {
    let app = Arc::downgrade(app);
    Box::new(move |path, record| {
        let app = app.upgrade()?;
        let txn = app.store.read().ok()?;
        let index = index::find(&txn, &IndexName::parse(path.index()).ok()?).ok()??;
        drop(txn);
        app.mirrors.elsewhere(&index, record).filter(|_| index.is_mirror())
    })
}

fn http_options(config: &Config) -> ServerOptions {
    ServerOptions {
        listen: config.listen.clone(),
        unix_socket: config.unix_socket.clone(),
        unix_socket_mode: config.unix_socket_mode,
        workers_remote: config.threads,
        connections_max: config.connection_limit,
        body_bytes_max: config.body_bytes_max,
        ..ServerOptions::default()
    }
}

fn announce(config: &Config, info: &NodeInfo, server: &Server) {
    let addresses: Vec<String> = server.addresses().iter().map(|a| format!("http://{a}")).collect();
    let role = match (&info.role, &info.master_url) {
        (Role::Replica, Some(url)) => format!("replica of {url}"),
        (Role::Master, _) => "master".to_owned(),
        _ => "standalone".to_owned(),
    };
    let dir = config.serverdir.display();
    log::info!("serving {dir} as {role} at {} (uuid {})", addresses.join(" "), info.uuid);
}

fn watch_signals(ends: Sender<End>) -> Result<()> {
    let mut signals = signal_hook::iterator::Signals::new([SIGTERM, SIGINT])?;
    crate::stop::spawn("signals", move || {
        for _ in signals.forever() {
            if ends.try_send(End::Signal).is_err() {
                // Told several times and still here: whoever asks means it.
                std::process::exit(1);
            }
        }
    })?;
    Ok(())
}

fn wait(ended: &Receiver<End>) -> End {
    ended.recv().unwrap_or(End::Signal)
}

/// The reverse order of the start. The server drains first, so that relays under way still see their serial come.
fn stop(app: &Arc<App>, server: &Server) {
    log::info!("stopping");
    server.stop();
    app.store.clock().stop();
    app.mirrors.stop();
    app.search.iter().for_each(Search::stop);
    app.transfer.shutdown();
    if let Node::Replica(replica) = &app.node {
        replica.stop();
    }
}

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

/// Makes a new server folder.
///
/// # Errors
/// `Kind::Conflict` if the folder is in use.
pub fn init(config: Config, options: InitOptions) -> Result<()> {
    let dir = &config.serverdir;
    if store::exists(dir) {
        return Err(Error::conflict(format!(
            "The path '{}' already contains devpi-server data.",
            dir.display()
        )));
    }
    fs::create_dir_all(dir).context(|| format!("making {}", dir.display()))?;
    let _lock = lock_folder(dir)?;
    let info = NodeInfo::settle(NodeInfo::load(dir)?, config.role, config.master_url.as_deref())?;
    let pwhash = match (info.role, options.root_password_hash) {
        (Role::Replica, _) => None,
        (_, Some(pwhash)) if !is_usable_hash(&pwhash) => {
            return Err(Error::invalid("--root-passwd-hash is no argon2 hash that can be checked"));
        }
        (_, Some(pwhash)) => Some(pwhash),
        (_, None) => {
            let deadline = Deadline::after(HASH_WAIT);
            Some(Passwords::new()?.hash(&options.root_password, deadline)?)
        }
    };
    let (_store, writer) = store::open(dir, 1)?;
    if let Some(pwhash) = pwhash {
        writer.write(|txn| setup::first(txn, &pwhash, options.root_pypi.as_deref()))?;
    }
    info.save(dir)
}

/// Sets a user's password in a folder whose server does not run.
///
/// # Errors
/// `Kind::NotFound` for an unknown user; `Kind::Conflict` if a server runs; `Kind::Forbidden` on a replica.
pub fn passwd(config: Config, name: &str, password: &str) -> Result<()> {
    let dir = &config.serverdir;
    if !store::exists(dir) {
        return Err(Error::invalid(format!("'{}' holds no server data", dir.display())));
    }
    let _lock = lock_folder(dir)?;
    if NodeInfo::load(dir)?.is_some_and(|info| info.role == Role::Replica) {
        return Err(Error::new(Kind::Forbidden, "a replica's users are changed on its master"));
    }
    let name = UserName::parse(name)?;
    let (store, writer) = store::open(dir, 1)?;
    user::require(&store.read()?, &name)?;
    let pwhash = Passwords::new()?.hash(password, Deadline::after(HASH_WAIT))?;
    writer.write(|txn| user::modify(txn, &name, Some(&pwhash), Vec::new()))?;
    Ok(())
}

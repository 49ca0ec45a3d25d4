//! Keeping nodes equal: a master hands out its log, a replica follows it, fetches the files, and relays changes.
//!
//! A replica promises: it applies each serial once, in order, as the master committed it; what it answers to a
//! relayed change is visible here; bytes that do not match their record are never served; a master with another
//! uuid than the first one is never followed. Its threads are `puller`, `fetch-queue` and `fetch-0`, `fetch-1`, ..., and `files-report`.

pub mod auth;
pub mod bootstrap;
mod fetcher;
mod files;
pub mod filter;
pub mod handshake;
pub mod herald;
pub mod history;
mod import;
pub mod lag;
pub mod link;
pub mod lost;
pub mod master;
mod mender;
mod outgoing;
mod parts;
mod pieces;
pub mod plan;
mod puller;
pub mod receipts;
pub mod rejoin;
mod relay;
pub mod replicas;
mod report;
pub mod seen;
pub mod snapshot;
mod sources;
mod status;
mod through;
mod twins;
pub mod verdict;
pub mod wire;

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime};

use serde_json::Value as Json;

use crate::error::{Error, Kind, Result};
use crate::http::client::{Answer, Client, ClientOptions, Timeouts};
use crate::http::range::Wanted;
use crate::http::request::Request;
use crate::http::response::{self, Reply, Response};
use crate::http::resume::Ask;
use crate::stop::{Stop, spawn};
use crate::store::Writer;
use crate::store::key::FilePath;
use crate::store::wanted::FilesHere;
use crate::sync::{Mutex, lock};

use auth::Signer;
use fetcher::Fetcher;
use files::{Files, Skip};
use filter::Filter;
use link::Link;
use mender::Mender;
use puller::{Hooks, Puller};
use receipts::{Fate, Key};
use relay::Relay;
use seen::Seen;
use through::Unknown;

pub use files::{LeftOut, Sidecar};
pub use link::{Known, State};
pub use master::Master;
pub use puller::RecordMaster;
pub use sources::{Elsewhere, FilesWanted, SearchPath};
pub use status::ReplicaStatus;
pub use through::Wish;

/// How long after an answer the master still counts as heard: a poll takes 30 s.
const HEARD: Duration = Duration::from_secs(40);

/// What a replica needs.
pub struct ReplicaOptions {
    /// The right to write the log, which nobody else has.
    pub writer: Arc<Writer>,
    /// The master's URL.
    pub master_url: String,
    /// The master's uuid, when it was met before.
    pub master_uuid: Option<String>,
    /// How clients present themselves to the master.
    pub client: ClientOptions,
    /// Signs requests as this node.
    pub signer: Signer,
    /// The URL under which clients know this node, when that is not what they send as `Host`.
    pub outside_url: Option<String>,
    /// `--proxy-timeout`.
    pub proxy_timeout: Duration,
    /// `--request-timeout`.
    pub request_timeout: Duration,
    /// `--file-replication-threads`.
    pub fetchers: usize,
    /// `--file-replication-skip-indexes`: names, types, or `all`.
    pub skip_indexes: Vec<String>,
    /// `--files`.
    pub files: FilesWanted,
    /// `--replica-file-search-path`.
    pub search_path: Option<SearchPath>,
    /// `--replica-file-source`: other replicas that may have files which the master does not give.
    pub siblings: Vec<Arc<Link>>,
    /// `--replicate`: which indexes are taken over, if not all.
    pub filter: Option<Filter>,
    /// Is told when something new was learned from the master.
    pub learned: Box<dyn Fn() + Send + Sync>,
    /// Records the uuid of the master at the first contact.
    pub record_master: RecordMaster,
    /// Is told the uuid of a master that answers in place of the recorded one; the process must end with status 3.
    pub foreign_master: Box<dyn Fn(&str) + Send + Sync>,
    /// Makes the METADATA that lies beside a wheel.
    pub sidecar: Sidecar,
}

/// A node that follows a master.
pub struct Replica {
    link: Arc<Link>,
    files: Arc<Files>,
    fetcher: Fetcher,
    relay: Arc<Relay>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    stop: Stop,
    started_at: SystemTime,
}

impl Replica {
    /// Begins to follow the master.
    ///
    /// # Errors
    /// `Kind::Invalid` if certificates cannot be read; `Kind::Internal` if the system gives no thread.
    pub fn start(options: ReplicaOptions) -> Result<Arc<Self>> {
        let mut client = options.client;
        if client.user_agent.is_empty() {
            client.user_agent = format!("twinpi-replica/{}", wire::THIS_VERSION);
        }
        let client = Client::new(client)?;
        let outside_url = options.outside_url;
        let link = Arc::new(Link::new(
            client,
            &options.master_url,
            options.signer,
            outside_url.clone(),
            options.master_uuid,
        ));
        let (writer, stop, skip) = (options.writer, Stop::new(), Skip(options.skip_indexes));
        let twin = writer.store().local_value(link::TWIN_MASTER)?;
        let twin = twin.and_then(|uuid| String::from_utf8(uuid).ok());
        let filter = options.filter;
        link.note(|known| (known.twin, known.filter) = (twin, filter));
        let is_all = options.files == FilesWanted::All;
        let brings_files = is_all && 0 < options.fetchers;
        link.note(|known| known.brings_files = brings_files);
        let wants = {
            let skip = skip.clone();
            move |path: &FilePath| is_all && !skip.has_index(path.index())
        };
        let (record_master, foreign_master) = (options.record_master, options.foreign_master);
        let mut files = Files::new(
            link.clone(),
            writer.clone(),
            options.sidecar,
            skip,
            (options.files, options.search_path),
            options.request_timeout,
        );
        files.sources.siblings = options.siblings;
        let files = Arc::new(files);
        if !is_all {
            files.review()?;
        }
        let fetchers = if is_all { options.fetchers } else { 0 };
        let fetcher = Fetcher::start(&files, fetchers, &stop)?;
        let (mender, mend) = Mender::new(files.clone());
        let (wants, learned) = (Box::new(wants), options.learned);
        let hooks = Hooks { record_master, foreign_master, mend, wants, learned };
        let mender = spawn("mender", move || mender.run())?;
        let reports = {
            let (link, store, stop) = (link.clone(), writer.store().clone(), stop.clone());
            spawn("files-report", move || report::run(&link, &store, &stop))?
        };
        let puller = Puller::new(link.clone(), writer, hooks, stop.clone());
        let puller = spawn("puller", move || puller.run())?;
        let threads = Mutex::new(vec![puller, reports, mender]);
        let store = files.store().clone();
        let relay = Arc::new(Relay::new(link.clone(), store, options.proxy_timeout, outside_url));
        let started_at = SystemTime::now();
        Ok(Arc::new(Self { link, files, fetcher, relay, threads, stop, started_at }))
    }

    /// The uuid of the master, once it is known.
    pub fn master_uuid(&self) -> Option<String> {
        self.link.known().uuid
    }

    /// Sends a request to the master, and answers when what it changed is visible here.
    pub fn relay(&self, request: Request) -> Reply {
        let relay = self.relay.clone();
        Reply::Remote(Box::new(move || Reply::Now(relay.run(request))))
    }

    /// Sends a request that only reads to the master, as its client does, and waits for the answer. `why` says why this
    /// node does not answer itself.
    ///
    /// # Errors
    /// `Kind::BadGateway` or `Kind::Timeout` with `why`, if the master does not answer.
    pub fn read_there(&self, request: Request, why: &str) -> Result<Response> {
        self.relay.read(request, why)
    }

    /// Which indexes are taken over, if not all.
    pub fn filter(&self) -> Option<Filter> {
        self.link.filter()
    }

    /// Asks the master what became of a request; `None` if it does not tell.
    pub fn ask_fate(&self, key: &Key) -> Option<Fate> {
        receipts::ask(&self.link, key)
    }

    /// What is known here of a request that was relayed.
    pub fn known_fate(&self, key: &Key) -> Fate {
        self.relay.known_fate(key)
    }

    /// Answers with a file whose record is here and whose bytes are not, from the master, and keeps it. It comes once
    /// for all who ask for it meanwhile.
    pub fn stream_file(&self, wish: Wish) -> Reply {
        let files = self.files.clone();
        remote(move || through::file(&files, wish))
    }

    /// Answers with a file that no record here names, or with METADATA, if the master has it, or `elsewhere` if the
    /// master is away; else with `error`.
    pub fn ask_master(
        &self,
        request: &Request,
        path: &FilePath,
        elsewhere: Option<Ask>,
        error: Error,
    ) -> Reply {
        let (path, client, wanted) = (path.clone(), request.headers.clone(), Wanted::of(request));
        let wish = Unknown { path, client, wanted, elsewhere, error };
        let files = self.files.clone();
        remote(move || through::unknown(&files, wish).map(Reply::Now))
    }

    /// Asks the master as this replica; `timeout` for the answer's head and each wait for more of it.
    ///
    /// # Errors
    /// `Kind::BadGateway` if the master does not answer.
    pub fn get(&self, target: &str, headers: &[(&str, &str)], timeout: Duration) -> Result<Answer> {
        let timeouts =
            Timeouts { connect: link::CONNECT, response_head: timeout, per_read: timeout };
        self.link.get(target, headers, timeouts).map_err(|error| self.link.away(target, &error))
    }

    /// Why the master cannot be followed at present; `None` if it can.
    pub fn trouble(&self) -> Option<String> {
        self.link.known().trouble
    }

    /// Whether this node holds all that the master had when it was heard of last, a short while ago.
    pub fn is_current(&self) -> bool {
        let known = self.link.known();
        let is_heard =
            known.updated_at.and_then(|at| at.elapsed().ok()).is_some_and(|ago| ago < HEARD);
        is_heard
            && known.trouble.is_none()
            && !known.is_stale
            && known.serial == Some(self.files.store().clock().now())
    }

    /// Marks an answer to another node, which may follow this one: over whom the log comes to it.
    pub fn mark(&self, response: Response) -> Response {
        let mut path = self.link.known().path;
        path.push(self.link.uuid().to_owned());
        let response = response.with_header(wire::PATH, path.join(", "));
        match self.is_current() {
            true => response,
            false => response.with_header(wire::STALE, wire::YES),
        }
    }

    /// Has the master yield to this node, which takes its place with `epoch`, and waits for the last of what it has; does
    /// nothing if it cannot be reached.
    ///
    /// # Errors
    /// `Kind::Conflict` if it does not yield, or the rest does not come.
    pub fn take_over(&self, epoch: u64, outside_url: Option<&str>) -> Result<()> {
        herald::take_over(&self.link, self.files.store().clock(), epoch, outside_url)
    }

    /// The master as it was heard of last, in this run or before.
    pub fn seen(&self) -> Option<Seen> {
        let now = Seen::of(self.link.url(), &self.link.known());
        now.or_else(|| Seen::load(self.files.store()).ok().flatten())
    }

    /// Says how the upstreams of mirrors are asked; once, when the node stands.
    pub fn set_elsewhere(&self, elsewhere: Elsewhere) {
        self.files.sources.set_elsewhere(elsewhere);
    }

    /// Has a file fetched again that should be here and is not, or is damaged.
    ///
    /// # Errors
    /// `Kind::Internal` if disk or database fail.
    pub fn refetch(&self, path: &FilePath) -> Result<()> {
        log::error!("{path} is damaged here; it is fetched again");
        self.files.store().blobs().remove(path)?;
        if self.files.choice == FilesWanted::All {
            self.files.writer().requeue(path)?;
        }
        Ok(())
    }

    /// Up to which serial all files are here that are to be; `None` if they are not brought ahead of those who ask.
    ///
    /// # Errors
    /// `Kind::Internal` if the database fails.
    pub fn files_up_to(&self) -> Result<Option<FilesHere>> {
        match self.link.known().brings_files {
            true => self.files.store().files_up_to().map(Some),
            false => Ok(None),
        }
    }

    /// What is known of the master, the log and the files.
    ///
    /// # Errors
    /// `Kind::Internal` if the database fails.
    pub fn status(&self) -> Result<ReplicaStatus> {
        ReplicaStatus::collect(&self.link, &self.files, self.fetcher.times(), self.started_at)
    }

    /// The fields of a replica in `/+status`.
    ///
    /// # Errors
    /// `Kind::Internal` if the database fails.
    pub fn status_json(&self) -> Result<Json> {
        Ok(self.status()?.to_json())
    }

    /// Ends all requests to the master, and whoever follows it. Threads that fetch files are left to themselves, for a
    /// process that ends at once.
    pub fn halt(&self) {
        self.stop.set();
        self.link.shutdown();
        self.files.sources.siblings.iter().for_each(|link| link.shutdown());
        self.link.poke();
        self.link.files_moved();
        for thread in std::mem::take(&mut *lock(&self.threads)) {
            if thread.join().is_err() {
                log::error!("a thread that follows the master panicked");
            }
        }
    }

    /// Ends the threads, and all requests to the master. The same again does nothing.
    pub fn stop(&self) {
        self.halt();
        self.fetcher.join();
        self.files.stop();
    }
}

impl Drop for Replica {
    fn drop(&mut self) {
        self.stop();
    }
}

/// The answer that another machine is asked for.
fn remote(ask: impl FnOnce() -> Result<Reply> + Send + 'static) -> Reply {
    Reply::Remote(Box::new(move || {
        ask().unwrap_or_else(|error| {
            log::info!("asking the master for a file: {error:?}");
            let refusal = wire::failure(response::status(error.kind), &error.message);
            Reply::Now(match error.kind {
                Kind::Unauthorized => refusal.with_header("WWW-Authenticate", response::CHALLENGE),
                _ => refusal,
            })
        })
    }))
}

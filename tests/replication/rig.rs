//! A master and a replica without the interface above them.

use std::io::{self, Read, Seek};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use twinpi::deadline::Deadline;
use twinpi::digest::{Digest, Hasher};
use twinpi::http::client::ClientOptions;
use twinpi::http::range::{Validators, Wanted};
use twinpi::http::request::{Headers, Method, Request};
use twinpi::http::response::{Body, Reply, Response};
use twinpi::names::{IndexName, UserName};
use twinpi::replication::auth::{Gate, Manner, Signer};
use twinpi::replication::master::Met;
use twinpi::replication::{FilesWanted, Master, Replica, ReplicaOptions, wire};
use twinpi::secret::{Argon2Cost, DevpiKeys, ReplicaUuid, Salt, Secret};
use twinpi::serial::Serial;
use twinpi::store::key::{self, FilePath};
use twinpi::store::record::Dict;
use twinpi::store::txn::Read as _;
use twinpi::store::{self, Store, Writer};

pub use super::mini::{Fault, Handler, Mini};

pub const MASTER: &str = "c57fb9fd00524a659acc50ba36e5b4dc";
pub const REPLICA: &str = "66db0e02caac439997539025de1ed5f1";

pub fn secret() -> Secret {
    Secret::new(b"test-vector-secret-0123456789-abcdefghijklmnop").expect("good")
}

pub fn serial(number: u64) -> Serial {
    Serial::new(number).expect("small")
}

/// A store in a folder of its own.
pub struct Home {
    pub store: Arc<Store>,
    pub writer: Arc<Writer>,
    pub dir: Arc<tempfile::TempDir>,
}

impl Home {
    pub fn new() -> Self {
        Self::open(Arc::new(tempfile::tempdir().expect("a folder")))
    }
    pub fn open(dir: Arc<tempfile::TempDir>) -> Self {
        let (store, writer) = store::open(dir.path(), 4).expect("opens");
        Self { store, writer: Arc::new(writer), dir }
    }
    /// Commits a change of a user's record that nobody made before.
    pub fn commit(&self, user: &str) -> Serial {
        commit(&self.writer, user)
    }
    pub fn now(&self) -> Option<Serial> {
        self.store.clock().now()
    }
    pub fn chain(&self) -> [u8; 32] {
        self.store.position().expect("readable").expect("not empty").chain
    }
    /// Stores a file as an upload does; gives its path.
    pub fn upload(&self, name: &str, bytes: &[u8]) -> FilePath {
        let index = IndexName::new("ann", "dev").expect("valid");
        let path = FilePath::of_digest(&index, &Digest::of(bytes).hex(), name).expect("valid");
        let staged =
            self.store.blobs().stage(&mut &bytes[..], Hasher::new(), u64::MAX).expect("staged");
        let record = file_record(bytes);
        self.writer
            .write(|txn| {
                txn.set(&key::File(&path), &record);
                txn.add_file(path.clone(), staged);
                Ok(())
            })
            .expect("committed");
        path
    }
    pub fn delete(&self, path: &FilePath) {
        let delete = |txn: &mut store::txn::WriteTxn<'_>| {
            txn.delete(&key::File(path));
            txn.remove_file(path.clone());
            Ok(())
        };
        self.writer.write(delete).expect("committed");
    }
    pub fn bytes(&self, path: &FilePath) -> Option<Vec<u8>> {
        let (mut file, _) = self.store.blobs().get(path).expect("readable")?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).expect("readable");
        Some(bytes)
    }
}

pub fn commit(writer: &Writer, user: &str) -> Serial {
    static COUNT: AtomicUsize = AtomicUsize::new(0);
    let user = UserName::parse(user).expect("valid");
    let mut record = Dict::new();
    record.set("title", format!("change {}", COUNT.fetch_add(1, Ordering::Relaxed)));
    record.set("indexes", Dict::new());
    let ((), serial) = writer
        .write(|txn| {
            txn.set(&key::User(&user), &record);
            Ok(())
        })
        .expect("committed");
    serial.expect("something changed")
}

pub fn file_record(bytes: &[u8]) -> Dict {
    let digest = Digest::of(bytes);
    let mut record = Dict::new();
    record.set("last_modified", "Sun, 22 Nov 2026 23:59:04 GMT");
    record.set("hash_spec", digest.hash_spec());
    record.set("hashes", Dict(vec![("sha256".to_owned(), digest.hex().into())]));
    record.set("size", twinpi::store::codec::Value::Int(bytes.len() as i32));
    record
}

/// A master behind the small server.
pub struct MasterNode {
    pub home: Home,
    pub master: Master,
    pub server: Mini,
}

impl MasterNode {
    pub fn start() -> Self {
        Self::of(Home::new(), MASTER)
    }
    pub fn of(home: Home, uuid: &'static str) -> Self {
        let (master, handler) = serve_master(&home, uuid);
        let server = Mini::start(home.store.clock().clone(), handler);
        Self { home, master, server }
    }
    pub fn url(&self) -> String {
        self.server.url()
    }
}

/// A master's interface as far as replicas need it: the changelog, files, and `PUT /{user}` as a change.
pub fn serve_master(home: &Home, uuid: &'static str) -> (Master, Handler) {
    serve_master_that(home, uuid, Box::new(|_| {}))
}

/// The same, with what is done when a newer master is met.
pub fn serve_master_that(home: &Home, uuid: &'static str, met: Met) -> (Master, Handler) {
    let gate = Gate::new(&secret(), keys()).expect("random bytes");
    let master = Master::new(home.store.clone(), gate, uuid, met);
    let (store, writer, answering) = (home.store.clone(), home.writer.clone(), master.clone());
    let handler = move |request: Request| {
        let path = request.path().to_owned();
        if let Some(number) = path.strip_prefix(wire::CHANGELOG) {
            let (number, is_range) =
                number.strip_suffix('-').map_or((number, false), |n| (n, true));
            return identify(
                answering.changelog(&request, number.parse().expect("a number"), is_range),
                uuid,
            );
        }
        let mut response = match request.method {
            Method::Get if path == wire::TIMELINES => answering.timelines(&request),
            Method::Get if path.starts_with(wire::POSITIONS) => {
                let serial = path[wire::POSITIONS.len()..].parse().expect("a number");
                let mut answer = answering.position(&request, serial);
                answering.lend_nonce(&request, &mut answer);
                answer
            }
            Method::Get => file_answer(&store, &answering, &request, &path[1..]),
            Method::Put => change(&writer, request, &path[1..]),
            _ => wire::failure(404, "nothing here"),
        };
        wire::identify(&mut response, &identity(uuid), store.clock().now());
        Reply::Now(response)
    };
    (master, Arc::new(handler))
}

/// devpi's keys; the one for replicas is there already.
pub fn keys() -> DevpiKeys {
    let cost = Argon2Cost { memory_kib: 8, time: 1, parallelism: 1 };
    let keys = DevpiKeys::new(&secret(), cost, None);
    keys.wait(Salt::Replica, Deadline::after(Duration::from_secs(20))).expect("derived");
    keys
}

fn identity(uuid: &str) -> wire::Identity {
    wire::Identity { uuid: uuid.to_owned(), master_uuid: uuid.to_owned() }
}

/// Puts the identity on an answer, also on one that comes later.
fn identify(reply: Reply, uuid: &'static str) -> Reply {
    match reply {
        Reply::Now(mut response) => {
            wire::identify(&mut response, &identity(uuid), None);
            Reply::Now(response)
        }
        Reply::Park(mut park) => {
            let resume = park.resume;
            park.resume = Box::new(move || identify(resume(), uuid));
            Reply::Park(park)
        }
        Reply::Remote(_) => unreachable!("a master asks nobody"),
    }
}

fn file_answer(store: &Store, master: &Master, request: &Request, path: &str) -> Response {
    if let Err(refusal) = master.replica_of(request) {
        return *refusal;
    }
    let path = percent_encoding::percent_decode_str(path).decode_utf8().expect("UTF-8");
    let Some(path) = FilePath::parse(&path) else { return wire::failure(404, "no such page") };
    let row = store.read().expect("readable").row(path.as_str()).expect("readable");
    let mut response = match (row, store.blobs().get(&path).expect("readable")) {
        (_, Some((file, length))) => {
            let response = Response::new(200)
                .with_header("Content-Type", "application/octet-stream")
                .with_header("X-Private", "the master's own");
            let etag = format!("\"{}\"", path.as_str());
            let validators = Validators { etag: Some(&etag), modified: None };
            let body =
                |offset, length| twinpi::error::Result::Ok(Body::File { file, offset, length });
            Wanted::of(request)
                .answer(response.with_header("ETag", etag.clone()), validators, length, body)
                .expect("a part")
        }
        (Some(row), None) if row.value.is_none() => {
            wire::failure(410, "file existed, deleted in later serial")
        }
        _ => wire::failure(404, "no such file"),
    };
    master.lend_nonce(request, &mut response);
    response
}

/// `PUT /{user}` commits; `PUT /{user}/nothing` does not; `PUT /{user}/refuse` is refused with a reason.
fn change(writer: &Writer, mut request: Request, path: &str) -> Response {
    let mut body = Vec::new();
    request.take_body().read_to_end(&mut body).expect("a body");
    let (user, what) = path.split_once('/').unwrap_or((path, "commit"));
    let relayed_by = request.headers.get(wire::RELAY).unwrap_or_default().to_owned();
    let text = format!("{} bytes for {user}, relayed by {relayed_by}", body.len());
    let response = Response::text(200, text).with_header("X-Custom", "kept");
    match what {
        "commit" => {
            let serial = commit(writer, user);
            let mut response = response;
            wire::set_serial(&mut response, Some(serial));
            response
        }
        "nothing" => response,
        "moved" => {
            let url = format!("http://{}/elsewhere", request.headers.get("host").expect("a host"));
            Response::new(302).with_header("Location", url)
        }
        _ => {
            Response::text(409, "no").with_reason("x-1.0.whl already exists in non-volatile index")
        }
    }
}

/// A replica with its store.
pub struct ReplicaNode {
    pub home: Home,
    pub replica: Arc<Replica>,
    /// What `record_master` and `foreign_master` were told.
    pub recorded: Arc<Mutex<Vec<String>>>,
    pub foreign: Arc<Mutex<Vec<String>>>,
}

impl ReplicaNode {
    pub fn start(url: &str) -> Self {
        Self::with(Home::new(), url, |_| {})
    }
    pub fn with(home: Home, url: &str, change: impl FnOnce(&mut ReplicaOptions)) -> Self {
        let recorded: Arc<Mutex<Vec<String>>> = Arc::default();
        let foreign: Arc<Mutex<Vec<String>>> = Arc::default();
        let (record, tell) = (recorded.clone(), foreign.clone());
        let mut options = ReplicaOptions {
            writer: home.writer.clone(),
            master_url: url.to_owned(),
            master_uuid: None,
            client: ClientOptions { user_agent: "test/1".into(), ..ClientOptions::default() },
            signer: signer(REPLICA),
            outside_url: None,
            proxy_timeout: Duration::from_secs(5),
            request_timeout: Duration::from_secs(2),
            fetchers: 3,
            skip_indexes: Vec::new(),
            record_master: Box::new(move |uuid| {
                record.lock().expect("whole").push(uuid.to_owned());
                Ok(())
            }),
            foreign_master: Box::new(move |message| {
                tell.lock().expect("whole").push(message.to_owned())
            }),
            files: FilesWanted::All,
            search_path: None,
            siblings: Vec::new(),
            filter: None,
            learned: Box::new(|| {}),
            sidecar: Arc::new(|_, _| None),
        };
        change(&mut options);
        let replica = Replica::start(options).expect("starts");
        Self { home, replica, recorded, foreign }
    }
    /// Waits until a serial is here.
    pub fn reaches(&self, wanted: Serial) {
        let is_there =
            self.home.store.clock().wait_for(wanted, Deadline::after(Duration::from_secs(20)));
        assert!(is_there, "{wanted} did not come; {:?}", self.replica.status());
    }
    pub fn has_file(&self, path: &FilePath) -> Vec<u8> {
        eventually(|| self.home.bytes(path), &format!("{path}"))
    }
    /// Runs what a handler came to.
    pub fn run(&self, reply: Reply) -> Response {
        match reply {
            Reply::Now(response) => response,
            Reply::Remote(job) => self.run(job()),
            Reply::Park(_) => panic!("nothing is parked here"),
        }
    }
}

/// Signs as the replica with this uuid.
pub fn signer(uuid: &str) -> Signer {
    Signer::new(&secret(), ReplicaUuid::parse(uuid).expect("a uuid"), keys())
}

/// A proof for a GET, made with the last nonce.
pub fn proof(signer: &Signer, target: &str) -> (String, String) {
    signer.authorize(Manner::Ours, "GET", target).expect("no key is needed").expect("a nonce")
}

/// Asks until there is something; for what no clock tells.
pub fn eventually<T>(mut ask: impl FnMut() -> Option<T>, what: &str) -> T {
    let end = Instant::now() + Duration::from_secs(20);
    while Instant::now() < end {
        if let Some(found) = ask() {
            return found;
        }
        thread::sleep(Duration::from_millis(5));
    }
    panic!("{what} did not come");
}

pub fn request(method: Method, target: &str, headers: &[(&str, &str)], body: &[u8]) -> Request {
    let has_body = !body.is_empty() || matches!(method, Method::Put | Method::Post);
    Request {
        method,
        target: target.into(),
        headers: Headers(headers.iter().map(|(n, v)| ((*n).into(), (*v).into())).collect()),
        peer: Some(SocketAddr::from(([127, 0, 0, 1], 9))),
        deadline: Deadline::after(Duration::from_secs(30)),
        body_length: has_body.then_some(body.len() as u64),
        body: Box::new(io::Cursor::new(body.to_vec())),
    }
}

pub fn body_of(response: Response) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    match response.body {
        Body::Empty => {}
        Body::Owned(owned) => bytes = owned,
        Body::Shared(shared) => bytes = shared.to_vec(),
        Body::File { mut file, offset, length } => {
            file.seek(io::SeekFrom::Start(offset))?;
            file.take(length).read_to_end(&mut bytes)?;
        }
        Body::Stream { mut reader, .. } => {
            reader.read_to_end(&mut bytes)?;
        }
    }
    Ok(bytes)
}

pub fn text_of(response: Response) -> String {
    String::from_utf8(body_of(response).expect("whole")).expect("text")
}

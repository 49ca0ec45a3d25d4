//! Requests to answers: parse the route, relay what only the master may do, else hand it to its handler.

pub mod access;
pub mod ask;
pub mod auth;
pub mod cache;
pub mod changes;
pub mod discovery;
pub mod docs;
pub mod files;
pub mod health;
pub mod indexes;
pub mod legacy;
pub mod lists;
pub mod live;
pub mod login;
pub mod mend;
pub mod mirrored;
pub mod partial;
pub mod projects;
pub mod push;
pub mod receipts;
pub mod route;
pub mod rpc;
pub mod search;
pub mod simple;
pub mod standing;
pub mod status;
pub mod tokens;
pub mod upload;
pub mod users;
pub mod wait;
pub mod web;

use std::borrow::Cow;
use std::io::Read as _;
use std::sync::{Arc, OnceLock};

use serde_json::Value as Json;

use crate::config::Config;
use crate::error::{Error, Kind, Result};
use crate::http::Handler;
use crate::http::listen::Watcher;
use crate::http::request::{Method, Request};
use crate::http::response::{Reply, Response};
use crate::mirror::Mirrors;
use crate::model::acl::{Identity, Permission, Policy};
use crate::pages::description::Descriptions;
use crate::password::Passwords;
use crate::replication::{Master, Replica, wire};
use crate::search::Search;
use crate::secret::LoginTokens;
use crate::serial::Serial;
use crate::store::{Store, Writer};
use crate::transfer::Transfer;

use cache::{FileCache, PageCache};
use docs::ZipCache;
use receipts::{Call, UnderWay};
use route::{Access, FileVerb, Route, Verb};
use standing::Keeper;

/// The longest JSON body in bytes; the largest real ones are user lists sent back by old clients.
const JSON_BYTES_MAX: u64 = 16 << 20;

/// What this node is.
pub enum Node {
    /// It commits changes; with the changelog when replicas may follow it.
    Master {
        /// The right to write.
        writer: Arc<Writer>,
        /// Answers to replicas; `None` when the role was not asked for.
        changelog: Option<Master>,
    },
    /// It follows a master.
    Replica(Arc<Replica>),
}

/// All that handlers work with.
pub struct App {
    /// The options.
    pub config: Config,
    /// Reading.
    pub store: Arc<Store>,
    /// Writing or following.
    pub node: Node,
    /// On a replica, answers to replicas of its own.
    pub below: Option<Master>,
    /// What can be found; `None` if its index could not be opened.
    pub search: Option<Search>,
    /// What other servers have.
    pub mirrors: Arc<Mirrors>,
    /// Uploads to other servers.
    pub transfer: Transfer,
    /// This node's uuid.
    pub uuid: String,
    /// Checks passwords.
    pub passwords: Passwords,
    /// Makes and checks login tokens.
    pub tokens: LoginTokens,
    /// Who may change users and indexes.
    pub policy: Policy,
    /// How this node stood lately.
    pub standing: Keeper,
    /// Rendered pages.
    pub pages: PageCache,
    /// Files that are asked for often.
    pub files: FileCache,
    /// Documentation that is open.
    pub zips: ZipCache,
    /// Descriptions of releases that are shown often.
    pub descriptions: Descriptions,
    /// Requests that carry a receipt key and are under way.
    pub receipts: Arc<UnderWay>,
    /// Numbers of the HTTP server, once it runs.
    pub http: OnceLock<Watcher>,
}

impl App {
    /// Who this node is, as its answers tell.
    pub fn identity(&self) -> wire::Identity {
        let master_uuid = match &self.node {
            Node::Master { .. } => self.uuid.clone(),
            Node::Replica(replica) => replica.master_uuid().unwrap_or_default(),
        };
        wire::Identity { uuid: self.uuid.clone(), master_uuid }
    }
    /// What answers replicas, if this node may have any.
    pub fn serves(&self) -> Option<&Master> {
        match &self.node {
            Node::Master { changelog, .. } => changelog.as_ref(),
            Node::Replica(_) => self.below.as_ref(),
        }
    }
    /// Refuses `who` unless `what` is allowed.
    ///
    /// # Errors
    /// `Kind::Forbidden`.
    pub fn require(&self, who: &Identity, what: Permission<'_>) -> Result<()> {
        if self.policy.allows(who, what) {
            return Ok(());
        }
        let asks = match what {
            Permission::IndexCreate(index) => format!("no permission to create index {index}"),
            _ => "Access was denied to this resource: no permission.".to_owned(),
        };
        Err(Error::forbidden(asks))
    }
}

/// A handler for the whole interface.
pub struct Api(pub Arc<App>);

impl Handler for Api {
    fn handle(&self, request: Request) -> Reply {
        answer(&self.0, request)
    }
}

/// Answers one request.
fn answer(app: &Arc<App>, mut request: Request) -> Reply {
    strip_prefix(app, &mut request);
    if is_devpi_replica(&request) {
        request.headers.remove("if-none-match");
    }
    if let Some(response) = simple::cached(app, &request).or_else(|| files::cached(app, &request)) {
        return finish(app, &request_facts(app, &request), Reply::Now(response));
    }
    let facts = request_facts(app, &request);
    let page = web::is_wanted(&request).then(|| request.without_body());
    let reply = receipts::dispatch_once(app, request).unwrap_or_else(|error| {
        Reply::Now(match &page {
            Some(request) => web::failure(app, request, &error),
            None => ask::failure(&error, facts.is_json),
        })
    });
    finish(app, &facts, reply)
}

/// What is needed of a request after it was handed on.
#[derive(Clone)]
struct Facts {
    is_json: bool,
    is_relay: bool,
    /// Whether a node of ours asks.
    is_twin: bool,
    /// Headers for the next request of a replica.
    lent: Vec<(Cow<'static, str>, Cow<'static, str>)>,
}

fn request_facts(app: &App, request: &Request) -> Facts {
    let mut lent = Response::new(200);
    if let Some(master) = app.serves() {
        master.lend_nonce(request, &mut lent);
    }
    let headers = &request.headers;
    let (is_relay, is_twin) = (headers.has(wire::RELAY), headers.has(wire::TWINPI_VERSION));
    Facts { is_json: ask::is_json(request), is_relay, is_twin, lent: lent.headers }
}

/// Whether a devpi-server asks that follows a master. It takes 304 for the list of a mirror's projects for leave to
/// forget those that it has no page of, so it gets the list.
fn is_devpi_replica(request: &Request) -> bool {
    request.headers.has(wire::REPLICA_UUID) && !request.headers.has(wire::TWINPI_VERSION)
}

fn strip_prefix(app: &App, request: &mut Request) {
    if let Some(prefix) = ask::prefix(request, app.config.outside_url.as_deref())
        && let Some(rest) = request.target.strip_prefix(&prefix)
        && (rest.is_empty() || rest.starts_with(['/', '?']))
    {
        request.target = if rest.starts_with('/') { rest.to_owned() } else { format!("/{rest}") };
    }
}

fn dispatch(app: &Call, request: Request) -> Result<Reply> {
    web::check_site(&request)?;
    let route = match Route::parse(request.method, request.path()) {
        Ok(Route::Submit(index)) if rpc::is_meant(&request) => Route::Rpc(index),
        Ok(route) => route,
        // A master may know addresses that this version does not.
        Err(error) => match &app.node {
            Node::Replica(replica) if !request.method.is_read() && error.kind == Kind::NotFound => {
                return Ok(replica.relay(request));
            }
            _ => return Err(error),
        },
    };
    if let (Route::Lost | Route::Mend(_), Node::Master { writer, changelog: Some(master) }) =
        (&route, &app.node)
    {
        return give_back(app, (writer, master), request, &route);
    }
    if route.access() == Access::Replicate
        && !matches!(route, Route::Lost | Route::Mend(_))
        && let Some(master) = app.serves()
    {
        return Ok(replicate(app, master, &request, &route));
    }
    if route.access() == Access::Write {
        check_epoch(app, &request)?;
    }
    let request = match &app.node {
        Node::Replica(replica) => match partial::pass_on(app, replica, request, &route)? {
            Ok(reply) => return Ok(reply),
            Err(request) => request,
        },
        Node::Master { .. } => request,
    };
    match (&app.node, &route) {
        (Node::Replica(replica), route) if route.access() == Access::Write => {
            Ok(replica.relay(request))
        }
        // An installer takes "not found" for leave to look elsewhere, where anybody may have put that name. So a
        // replica says it of a project only if the master agrees: that it heard of nothing new does not mean that
        // there is nothing.
        (Node::Replica(replica), Route::Simple(..) | Route::Legacy(..)) => {
            let again = request.without_body();
            match handle(app, request, route) {
                Err(error) if error.kind == Kind::NotFound => Ok(replica.relay(again)),
                done => done,
            }
        }
        _ => handle(app, request, route),
    }
}

/// Answers another node.
fn replicate(app: &App, master: &Master, request: &Request, route: &Route) -> Reply {
    Reply::Now(match route {
        Route::Changelog { serial, onwards } => {
            return master.changelog(request, *serial, *onwards);
        }
        Route::Snapshot => return master.snapshot(request),
        Route::SnapshotPiece(id, number) => master.snapshot_piece(request, id, *number),
        Route::Position(serial) => master.position(request, *serial),
        // A replica has nothing that could be fenced.
        Route::Fence if matches!(app.node, Node::Master { .. }) => master.fence(request),
        Route::Fence => wire::failure(200, "this node is a replica"),
        _ => master.timelines(request),
    })
}

/// Answers a replica that gives back what this node lost.
fn give_back(
    app: &App,
    (writer, master): (&Writer, &Master),
    mut request: Request,
    route: &Route,
) -> Result<Reply> {
    if let Err(refusal) = master.require(&request) {
        return Ok(Reply::Now(*refusal));
    }
    match route {
        Route::Mend(path) => mend::take(app, writer, &mut request, path),
        _ => mend::lost(app),
    }
    .map(Reply::Now)
}

/// Refuses what a node relayed that knows a newer master: this one must not carry it out.
fn check_epoch(app: &App, request: &Request) -> Result<()> {
    let Some(epoch) = request.headers.get(wire::EPOCH) else { return Ok(()) };
    let own = app.store.epoch();
    match epoch.trim().parse::<u64>() {
        Ok(epoch) if epoch <= own || matches!(app.node, Node::Replica(_)) => Ok(()),
        Ok(epoch) => Err(Error::conflict(format!(
            "nothing was changed: the node that relayed this knows of a master with epoch {epoch}, and this one is at \
             epoch {own}"
        ))),
        Err(_) => Err(Error::invalid("the epoch is no number")),
    }
}

/// Hands a request to its handler, if its asker may see what it addresses.
fn handle(app: &Call, request: Request, route: Route) -> Result<Reply> {
    match access::check(app, &request, &route)? {
        false => run(app, request, route),
        true => run(app, request, route).map(access::keep_private),
    }
}

fn run(app: &Call, request: Request, route: Route) -> Result<Reply> {
    let (mut request, route) = match web::show(app, request, route)? {
        Ok(page) => return Ok(page),
        Err(other) => other,
    };
    if let Some(response) = about_node(app, &request, &route) {
        return response.map(Reply::Now);
    }
    let now = |response: Result<Response>| response.map(Reply::Now);
    match route {
        Route::Rpc(index) => now(rpc::answer(app, request, &index)),
        Route::Login => now(login::login(app, request)),
        Route::Receipt(key) => receipts::show(app, &key),
        Route::Wait => wait::wait(app, &request),
        Route::Changes(index) => changes::show(app, &request, index),
        Route::Live => live::wait(app, &request),
        Route::User(verb, user) => now(match verb {
            Verb::Show => users::show(app, &request, &user),
            Verb::Create => users::create(app, request, &user),
            Verb::Modify => users::modify(app, request, &user),
            Verb::Delete => users::delete(app, &request, &user),
        }),
        Route::Tokens(user) => now(tokens::list(app, &request, &user)),
        Route::TokenCreate(user) => now(tokens::create(app, request, &user)),
        Route::TokenRevoke(user, id) => now(tokens::revoke(app, &request, &user, &id)),
        Route::Index(verb, index) => match verb {
            Verb::Show => indexes::show(app, request, &index),
            Verb::Create => now(indexes::create(app, request, &index)),
            Verb::Modify => now(indexes::modify(app, request, &index)),
            Verb::Delete => now(indexes::delete(app, &request, &index)),
        },
        Route::Submit(index) => match push::is_meant(&mut request)? {
            true => push::push(app, request, &index),
            false => now(upload::submit(app, request, &index)),
        },
        Route::SimpleList(index) => lists::simple(app, request, &index),
        Route::Simple(index, project) => simple::project(app, request, &index, &project),
        Route::Refresh(index, project) => simple::refresh(app, request, &index, &project),
        Route::File(FileVerb::Get, path) => files::get(app, request, &path),
        Route::File(FileVerb::Delete, path) => now(files::delete(app, &request, &path)),
        Route::File(FileVerb::Result, path) => now(upload::result(app, &mut request, &path)),
        Route::Legacy(index, project, version) => {
            legacy::show(app, request, &index, &project, version)
        }
        Route::Docs(index, page) => docs::show(app, request, &index, page),
        Route::Results(..) => Err(Error::not_found("test results are shown as pages only")),
        Route::Metadata(wheel) => files::metadata(app, request, &wheel),
        Route::Project(verb, index, project) => match verb {
            Verb::Delete => now(projects::delete(app, &request, &index, &project)),
            _ => projects::show(app, request, &index, &project),
        },
        Route::Version(verb, index, project, version) => match verb {
            Verb::Delete => {
                now(projects::delete_version(app, &request, &index, &project, &version))
            }
            _ => projects::show_version(app, request, &index, &project, version),
        },
        // What is about the node itself was answered before.
        _ => Err(Error::forbidden("Replication protocol disabled")),
    }
}

/// Answers what concerns the node itself, or all that it holds.
fn about_node(app: &Call, request: &Request, route: &Route) -> Option<Result<Response>> {
    Some(match route {
        Route::Root => users::list(app, request),
        Route::Search | Route::SearchHelp => search::show(app, request),
        Route::Suggest => search::suggest(app, request),
        Route::Static(name) => web::asset(name),
        Route::SignIn => web::sign_in(app, request),
        Route::Api(scope) => discovery::api(app, request, scope.as_ref()),
        Route::AuthCheck => discovery::authcheck(app, request),
        Route::Status => status::status(app, request),
        Route::Alive => Ok(health::alive(app)),
        Route::Ready => health::ready(app, request),
        Route::Metrics => health::metrics(app),
        Route::Badge => Ok(health::badge(app)),
        _ => return None,
    })
}

/// Adds the headers that every answer carries, also to one that comes later.
fn finish(app: &Arc<App>, facts: &Facts, reply: Reply) -> Reply {
    match reply {
        Reply::Now(response) => Reply::Now(sign(app, facts, response)),
        Reply::Park(mut park) => {
            let (app, facts, resume) = (app.clone(), facts.clone(), park.resume);
            park.resume = Box::new(move || finish(&app, &facts, resume()));
            Reply::Park(park)
        }
        Reply::Remote(job) => {
            let (app, facts) = (app.clone(), facts.clone());
            Reply::Remote(Box::new(move || finish(&app, &facts, job())))
        }
    }
}

fn sign(app: &App, facts: &Facts, mut response: Response) -> Response {
    if facts.is_relay
        && let Some(reason) = response.reason.clone()
    {
        response = response.with_header(wire::REASON, reason);
    }
    for (name, value) in &facts.lent {
        if response.header(name).is_none() {
            response.headers.push((name.clone(), value.clone()));
        }
    }
    if let (true, Node::Replica(replica)) = (facts.is_twin, &app.node) {
        response = replica.mark(response);
    }
    wire::identify(&mut response, &app.identity(), app.store.clock().now());
    response.with_header(wire::TWINPI_VERSION, wire::THIS_VERSION)
}

/// Names the serial that an answer was read at or committed as.
fn at(serial: Option<Serial>, response: Response) -> Response {
    response.with_header(wire::SERIAL, Serial::wire(serial).to_string())
}

/// Reads a body that is worked on as a whole.
fn body_bytes(request: &mut Request) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let broken = |e| Error::invalid("the body broke off").caused_by(e);
    request.take_body().take(JSON_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(broken)?;
    if bytes.len() as u64 > JSON_BYTES_MAX {
        return Err(Error::new(Kind::TooLarge, "the JSON body is too large"));
    }
    Ok(bytes)
}

/// Reads a JSON body; an empty one is an empty object.
fn json_body(request: &mut Request) -> Result<Json> {
    let bytes = body_bytes(request)?;
    if bytes.is_empty() {
        return Ok(Json::Object(Default::default()));
    }
    serde_json::from_slice(&bytes).map_err(|_| Error::invalid("Bad request: could not decode json"))
}

/// Reads a JSON body that must be an object.
fn json_object(request: &mut Request) -> Result<serde_json::Map<String, Json>> {
    match json_body(request)? {
        Json::Object(fields) => Ok(fields),
        _ => Err(Error::invalid("Bad request: the body must be a JSON object")),
    }
}

/// Whether a request reads.
fn is_get(request: &Request) -> bool {
    matches!(request.method, Method::Get | Method::Head)
}

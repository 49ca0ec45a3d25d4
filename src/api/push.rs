//! Push: `PUSH` or `POST /U/I` with a JSON object. To another index of this server, or by upload to another server
//! (spec/http-api.md section 13).

use std::io::{self, Read as _};

use serde_json::{Map, Value as Json, json};

use crate::error::{Error, Kind, Result};
use crate::http::multipart;
use crate::http::range::Wanted;
use crate::http::request::Request;
use crate::http::response::{Reply, Response};
use crate::mirror::files::Wish;
use crate::model::acl::Identity;
use crate::model::index::{self, Index};
use crate::model::push::{self, Ready, Release, Selection, Stored};
use crate::model::release::{self, Rel, ReleaseLink};
use crate::names::{IndexName, ProjectName, Version};
use crate::store::codec::Value;
use crate::store::record::Dict;
use crate::store::txn::Read;
use crate::transfer::{self, Answered, Fields, Outside};

use super::receipts::Call;
use super::{App, ask, at, auth, files, json_object, mirrored};

/// How often a push begins again because its release changed while it was prepared.
const TRIES: usize = 3;

/// The longest url-encoded body that is looked into.
const URLENCODED_BYTES_MAX: u64 = 32 << 20;

/// Whether a request to the address for uploads is a push: its body is no form. Tools that say nothing of it send JSON as
/// if it were url-encoded.
///
/// # Errors
/// `Kind::TooLarge` for such a body over the limit.
pub fn is_meant(request: &mut Request) -> Result<bool> {
    let kind = request.headers.get("content-type").unwrap_or_default();
    if multipart::is_multipart(kind) {
        return Ok(false);
    }
    if !multipart::is_urlencoded(kind) {
        return Ok(true);
    }
    let mut bytes = Vec::new();
    let broken = |e| Error::invalid("the body broke off").caused_by(e);
    request.take_body().take(URLENCODED_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(broken)?;
    if bytes.len() as u64 > URLENCODED_BYTES_MAX {
        return Err(Error::new(Kind::TooLarge, "the form is too large"));
    }
    let is_json = bytes.trim_ascii_start().starts_with(b"{");
    request.body = Box::new(io::Cursor::new(bytes));
    Ok(is_json)
}

/// What a request asks for.
struct Order {
    /// The project as it was spelled.
    name: String,
    /// The version as it was spelled.
    version: String,
    no_docs: bool,
    only_docs: bool,
    /// Another index of this server.
    target: Option<String>,
    /// What else was given.
    rest: Map<String, Json>,
}

impl Order {
    fn parse(mut fields: Map<String, Json>) -> Result<Self> {
        Ok(Self {
            name: required(&mut fields, "name")?,
            version: required(&mut fields, "version")?,
            no_docs: flag(&mut fields, "no_docs")?,
            only_docs: flag(&mut fields, "only_docs")?,
            target: text(&mut fields, "targetindex")?,
            rest: fields,
        })
    }
    fn selection(&self) -> Result<Selection> {
        match (self.no_docs, self.only_docs) {
            (true, true) => Err(Error::invalid("can't use 'no_docs' and 'only_docs' together")),
            (true, false) => Ok(Selection::NoDocs),
            (false, true) => Ok(Selection::OnlyDocs),
            (false, false) => Ok(Selection::All),
        }
    }
}

fn text(fields: &mut Map<String, Json>, key: &str) -> Result<Option<String>> {
    match fields.remove(key) {
        None | Some(Json::Null) => Ok(None),
        Some(Json::String(text)) => Ok(Some(text)),
        Some(_) => Err(Error::invalid(format!("'{key}' must be a text"))),
    }
}

fn required(fields: &mut Map<String, Json>, key: &str) -> Result<String> {
    let given = text(fields, key)?.filter(|text| !text.is_empty());
    given.ok_or_else(|| Error::invalid(format!("a push needs '{key}'")))
}

fn flag(fields: &mut Map<String, Json>, key: &str) -> Result<bool> {
    match fields.remove(key) {
        None | Some(Json::Null) => Ok(false),
        Some(Json::Bool(flag)) => Ok(flag),
        Some(_) => Err(Error::invalid(format!("'{key}' must be true or false"))),
    }
}

/// Pushes a release of this index.
///
/// # Errors
/// `Kind::Invalid` for a release that is not there and for what makes no sense; `Kind::NotFound` for an unknown index and
/// a release without files; those of `App::read_index`; `Kind::Unauthorized` if it is not allowed at the target.
pub fn push(app: &Call, mut request: Request, name: &IndexName) -> Result<Reply> {
    let source = app.read_index(&request, name)?.index;
    let who = auth::identify(app, &request)?;
    let order = Order::parse(json_object(&mut request)?)?;
    auth::require_project(&who, &ProjectName::new(&order.name))?;
    if !source.is_mirror() && order.target.is_some() {
        return perform(app, &order, &source, &who).map(Reply::Now);
    }
    let app = app.clone();
    Ok(Reply::Remote(Box::new(move || {
        let done = perform(&app, &order, &source, &who);
        Reply::Now(done.unwrap_or_else(|error| ask::failure(&error, true)))
    })))
}

fn perform(app: &Call, order: &Order, source: &Index, who: &Identity) -> Result<Response> {
    let release = find(app, order, source)?;
    match &order.target {
        Some(target) => {
            let target = find_target(app, order, target, who)?;
            fetch_first(app, &release)?;
            inside(app, order, release, &target, who)
        }
        None => {
            let to = outside_of(order)?;
            fetch_first(app, &release)?;
            app.keep_answer();
            outside(app, order, &release, &to)
        }
    }
}

/// The release with what is selected of it.
fn find(app: &App, order: &Order, source: &Index) -> Result<Release> {
    let Order { name, version, .. } = order;
    let project = ProjectName::new(name);
    let absent = || {
        Error::invalid(format!("there are no files for {name} {version} on stage {}", source.name))
    };
    let mirrors = match source.is_mirror() {
        true => {
            let mirrors = mirrored::ensure(app, std::slice::from_ref(source), &project)?;
            files::refuse_quarantined(&app.store.read()?, source, &project)?;
            mirrors
        }
        false => mirrored::Mirrored::default(),
    };
    let found = match Version::parse(version) {
        Ok(version) => push::find(&app.store.read()?, source, &project, &version)?,
        Err(_) => None,
    };
    let mut release = found.ok_or_else(|| mirrors.absence(absent()))?;
    release.select(order.selection()?);
    if release.links.is_empty() {
        return Err(Error::not_found(format!("no release/files found for {name} {version}")));
    }
    Ok(release)
}

/// Has the files of a mirror's release brought here that nobody asked for yet.
fn fetch_first(app: &App, release: &Release) -> Result<()> {
    if !release.source.is_mirror() {
        return Ok(());
    }
    for link in &release.links {
        let path = release::file_path(link.path())?;
        if app.store.blobs().size(&path).is_some() {
            continue;
        }
        let record = push::file_record(&app.store.read()?, link)?;
        let (index, wanted) = (&release.source, &Wanted::default());
        let content_type = "application/octet-stream";
        let wish = Wish { index, path: &path, record: &record, wanted, content_type };
        let failed = |e: Error| Error::new(Kind::BadGateway, format!("{path}: {e}"));
        app.mirrors.have(&wish).map_err(failed)?;
    }
    Ok(())
}

fn find_target(app: &App, order: &Order, target: &str, who: &Identity) -> Result<Index> {
    if target.matches('/').count() != 1 {
        return Err(Error::invalid("targetindex not in format user/index"));
    }
    let absent = || Error::not_found(format!("The stage {target} could not be found."));
    let name = IndexName::parse(target).map_err(|_| absent())?;
    let index = index::find(&app.store.read()?, &name)?.ok_or_else(absent)?;
    require_upload(app, &app.store.read()?, who, &index)?;
    if !order.rest.is_empty() {
        let mut keys: Vec<&str> = order.rest.keys().map(String::as_str).collect();
        keys.sort_unstable();
        return Err(Error::invalid(format!("unknown additional options: {}", keys.join(", "))));
    }
    Ok(index)
}

fn require_upload(app: &App, txn: &impl Read, who: &Identity, target: &Index) -> Result<()> {
    if !target.is_mirror() && auth::require_upload(app, txn, who, target).is_ok() {
        return Ok(());
    }
    let who = who.user().map_or("None".to_owned(), |user| format!("'{user}'"));
    Err(Error::unauthorized(format!("user {who} cannot upload to '{}'", target.name)))
}

/// Pushes to another index of this server.
fn inside(
    app: &Call,
    order: &Order,
    mut release: Release,
    target: &Index,
    who: &Identity,
) -> Result<Response> {
    let selection = order.selection()?;
    for _ in 0..TRIES {
        let source = release.source.clone();
        let ready = Ready::stage(&app.store, release, selection, target)?;
        let (stored, serial) = app.writer()?.write(|txn| {
            let target = index::require(txn, &target.name)?;
            require_upload(app, txn, who, &target)?;
            push::write(txn, &target, ready, who.user())
        })?;
        if let Some(stored) = stored {
            let log = inside_log(order, target, &stored);
            return Ok(at(serial, ask::result(200, "actionlog", log)));
        }
        release = find(app, order, &source)?;
    }
    Err(Error::unavailable("the release changed while it was pushed"))
}

fn inside_log(order: &Order, target: &Index, stored: &[Stored]) -> Json {
    let (name, version, target) = (&order.name, &order.version, target.name.to_string());
    let mut log = vec![json!([200, "register", name, version, "->", target])];
    log.extend(stored.iter().map(|stored| match stored {
        Stored::File(path) => json!([200, "store_releasefile", path.as_str()]),
        Stored::Result(path) => json!([200, "store_toxresult", path.as_str()]),
        Stored::Docs => json!([200, "store_doczip", name, version, "->", target]),
    }));
    Json::Array(log)
}

fn outside_of(order: &Order) -> Result<Outside> {
    let mut fields = order.rest.clone();
    let url = required(&mut fields, "posturl")?;
    let mut credential = |key| text(&mut fields, key).map(Option::unwrap_or_default);
    Outside::new(&url, &credential("username")?, &credential("password")?)
}

/// Pushes to another server.
fn outside(app: &App, order: &Order, release: &Release, to: &Outside) -> Result<Response> {
    let registers = flag(&mut order.rest.clone(), "register_project")?;
    let mut log = Vec::new();
    if !registers || register(app, order, release, to, &mut log) {
        for link in release.of(Rel::ReleaseFile) {
            if !upload(app, release, link, to, &mut log)? {
                break;
            }
        }
        let is_cut = log.last().is_some_and(|entry| entry[0] == -1);
        if !is_cut && let Some(link) = release.of(Rel::DocZip).next() {
            upload_docs(app, release, link, to, &mut log)?;
        }
    }
    let is_taken = log.last().is_some_and(|entry| entry[0] == 200 || entry[0] == 201);
    Ok(ask::result(if is_taken { 200 } else { 502 }, "actionlog", Json::Array(log)))
}

/// Tells the other server of the release; whether it goes on.
fn register(
    app: &App,
    order: &Order,
    release: &Release,
    to: &Outside,
    log: &mut Vec<Json>,
) -> bool {
    match app.transfer.register(to, &fields_of(&release.metadata, "submit")) {
        Ok(answered) => {
            log.push(json!([answered.status, "register", order.name, order.version]));
            // 410: it registers by itself with the first file.
            answered.is_taken() || answered.status == 410
        }
        Err(error) => {
            log.push(unreached("register", &error));
            false
        }
    }
}

fn unreached(doing: &str, error: &Error) -> Json {
    log::info!("push to another server: {doing}: {error}");
    json!([-1, format!("exception on {doing}:"), error.to_string()])
}

/// Sends a release file; whether the other server was reached.
fn upload(
    app: &App,
    release: &Release,
    link: &ReleaseLink,
    to: &Outside,
    log: &mut Vec<Json>,
) -> Result<bool> {
    let mut fields = fields_of(&release.metadata, "file_upload");
    let (filetype, python) = transfer::kind_of(link.name());
    fields.push(("filetype".to_owned(), filetype.to_owned()));
    fields.push(("pyversion".to_owned(), python));
    let record = push::file_record(&app.store.read()?, link)?;
    match push::sha256_of(&record) {
        Some(digest) => fields.push(("sha256_digest".to_owned(), digest.hex())),
        None => fields.extend(
            record
                .text("hash_spec")
                .and_then(|spec| spec.split_once('='))
                .map(|(kind, hex)| (format!("{kind}_digest"), hex.to_owned())),
        ),
    }
    let sent = send(app, link, to, &fields, link.name())?;
    Ok(match sent {
        Ok(Answered { status, text }) => {
            log.push(json!([status, "upload", link.path(), text]));
            true
        }
        Err(error) => {
            log.push(unreached("release upload", &error));
            false
        }
    })
}

fn upload_docs(
    app: &App,
    release: &Release,
    link: &ReleaseLink,
    to: &Outside,
    log: &mut Vec<Json>,
) -> Result<()> {
    let name = release.metadata.text("name").unwrap_or(release.project.as_str());
    let fields = fields_of(&release.metadata, "doc_upload");
    log.push(match send(app, link, to, &fields, &format!("{name}.zip"))? {
        Ok(answered) => json!([answered.status, "docfile", name]),
        Err(error) => unreached("documentation upload", &error),
    });
    Ok(())
}

/// Sends the file of a link. The inner result is that of the way to the other server.
fn send(
    app: &App,
    link: &ReleaseLink,
    to: &Outside,
    fields: &Fields,
    name: &str,
) -> Result<Result<Answered>> {
    let path = release::file_path(link.path())?;
    let absent = || Error::unavailable(format!("the bytes of {path} are not here"));
    let (file, size_bytes) = app.store.blobs().get(&path)?.ok_or_else(absent)?;
    Ok(app.transfer.upload(to, fields, (name, file, size_bytes)))
}

/// The metadata of a release as a form has them; what is empty is left out.
fn fields_of(metadata: &Dict, action: &str) -> Fields {
    let mut fields = vec![
        (":action".to_owned(), action.to_owned()),
        ("protocol_version".to_owned(), "1".to_owned()),
    ];
    for (key, value) in &metadata.0 {
        let texts = match value {
            Value::Str(text) => vec![text.as_str()],
            _ => metadata.texts(key),
        };
        let texts = texts.into_iter().filter(|text| !text.is_empty());
        fields.extend(texts.map(|text| (key.clone(), text.to_owned())));
    }
    if !fields.iter().any(|(key, _)| key == "metadata_version") {
        fields.push(("metadata_version".to_owned(), "2.1".to_owned()));
    }
    fields
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order(fields: Json) -> Result<Order> {
        match fields {
            Json::Object(fields) => Order::parse(fields),
            _ => panic!("not an object"),
        }
    }

    #[test]
    fn an_order_is_checked_field_by_field() {
        let given = json!({"name": "P", "version": "1", "only_docs": true, "posturl": "x"});
        let parsed = order(given).expect("valid");
        assert_eq!(parsed.selection().expect("one of them"), Selection::OnlyDocs);
        assert_eq!(parsed.rest.keys().collect::<Vec<_>>(), ["posturl"]);
        for bad in [
            json!({"version": "1"}),
            json!({"name": "P"}),
            json!({"name": ["P"], "version": "1"}),
            json!({"name": "P", "version": "1", "no_docs": "yes"}),
            json!({"name": "P", "version": "1", "targetindex": 3}),
        ] {
            assert!(order(bad.clone()).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_form_has_what_is_known_and_not_empty() {
        let mut metadata = Dict::new();
        metadata.set("name", "P");
        metadata.set("summary", "");
        metadata.set("classifiers", vec!["a".to_owned(), "b".to_owned()]);
        let fields = fields_of(&metadata, "submit");
        let of = |key: &str| -> Vec<&str> {
            fields.iter().filter(|(k, _)| k == key).map(|(_, v)| v.as_str()).collect()
        };
        assert_eq!((of(":action"), of("name")), (vec!["submit"], vec!["P"]));
        assert_eq!(of("classifiers"), ["a", "b"]);
        assert!(of("summary").is_empty());
        assert_eq!(of("metadata_version"), ["2.1"]);
    }
}

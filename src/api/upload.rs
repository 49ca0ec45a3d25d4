//! Upload forms: `POST /U/I/` with `:action`.
//!
//! The reason for a refusal stands in the status line too: devpi-client shows nothing else, and twine shows it first
//! (spec/http-api.md 1.5).

use std::io::Read as _;

use crate::digest::Hasher;
use crate::error::{Error, Kind, Result};
use crate::http::multipart::{self, Form};
use crate::http::request::Request;
use crate::http::response::{Response, status};
use crate::model::acl::{Identity, Permission};
use crate::model::attach;
use crate::model::docs::Zip;
use crate::model::index::{self, Index};
use crate::model::metadata::{self, Submission};
use crate::model::upload::{self as model, NewFile, Upload};
use crate::names::{IndexName, NAME_BYTES_MAX, ProjectName, Version};
use crate::serial::Serial;
use crate::store::blobs::Staged;
use crate::store::key::FilePath;
use crate::store::txn::WriteTxn;

use super::receipts::Call;
use super::{App, access, ask, at, auth};

/// The longest form that is not multipart.
const URLENCODED_BYTES_MAX: u64 = 32 << 20;

/// A form as it was read: text fields, and the file on disk.
#[derive(Default)]
struct ReadForm {
    fields: Vec<(String, String)>,
    file: Option<(String, Staged)>,
}

/// `POST /U/I/`: registers, or stores a file.
///
/// # Errors
/// `Kind::NotFound` if there is no such stage; otherwise refusals are answers with the reason in the status line.
pub fn submit(app: &Call, mut request: Request, name: &IndexName) -> Result<Response> {
    let index = index::require(&app.store.read()?, name)?;
    if index.is_mirror() {
        return Err(Error::not_found("cannot submit to mirror index"));
    }
    let is_json = ask::is_json(&request);
    let done =
        permit(app, &request, &index).and_then(|who| perform(app, &mut request, &index, &who));
    let (reason, serial) = match done {
        Ok(done) => done,
        Err(error) if error.kind == Kind::Internal => return Err(error),
        Err(error) => return Ok(refusal(&error, is_json)),
    };
    let response = at(serial, Response::bytes(200, "text/html; charset=utf-8", Vec::new()));
    Ok(match reason {
        Some(reason) => response.with_reason(reason),
        None => response,
    })
}

fn refusal(error: &Error, is_json: bool) -> Response {
    let mut response = ask::failure(error, is_json);
    response.reason = Some(error.message.clone());
    debug_assert_eq!(response.status, status(error.kind));
    response
}

fn permit(app: &App, request: &Request, index: &Index) -> Result<Identity> {
    let who = auth::identify(app, request)?;
    match auth::require_upload(app, &app.store.read()?, &who, index) {
        Ok(()) => Ok(who),
        Err(error) if error.kind == Kind::Unauthorized => match auth::complaint(app, request) {
            Some(complaint) => Err(Error::unauthorized(complaint)),
            None => Err(error),
        },
        Err(error) => Err(error),
    }
}

/// The index as it is within the transaction that stores the upload; much time may have passed since it was permitted.
fn target(app: &App, txn: &WriteTxn<'_>, who: &Identity, index: &Index) -> Result<Index> {
    let index = index::require(txn, &index.name)?;
    auth::require_upload(app, txn, who, &index)?;
    Ok(index)
}

/// What an upload came to: a reason phrase other than the usual one, and the serial.
type Done = (Option<&'static str>, Option<Serial>);

fn perform(app: &Call, request: &mut Request, index: &Index, who: &Identity) -> Result<Done> {
    let form = read_form(app, request)?;
    if let Some((_, name)) = form.fields.iter().find(|(name, _)| name == "name") {
        auth::require_project(who, &ProjectName::new(name))?;
    }
    let action =
        form.fields.iter().find(|(name, _)| name == ":action").map(|(_, value)| value.as_str());
    match action {
        Some("submit") => {
            let submission = Submission::parse(&form.fields)?;
            let ((), serial) = app.writer()?.write(|txn| {
                let index = target(app, txn, who, index)?;
                model::register(txn, &index, &submission)
            })?;
            Ok((None, serial))
        }
        Some("file_upload") => store_file(app, form, index, who),
        Some("doc_upload") => store_doc(app, form, index, who),
        None | Some("") => Err(Error::invalid("Bad request: could not decode json")),
        Some(other) => Err(Error::invalid(format!("action '{other}' not supported"))),
    }
}

fn read_form(app: &App, request: &mut Request) -> Result<ReadForm> {
    let content_type = request.headers.get("content-type").unwrap_or_default().to_owned();
    let mut body = request.take_body();
    let mut read = ReadForm::default();
    if !multipart::is_multipart(&content_type) {
        if multipart::is_urlencoded(&content_type) {
            let mut bytes = Vec::new();
            body.take(URLENCODED_BYTES_MAX + 1)
                .read_to_end(&mut bytes)
                .map_err(|e| Error::invalid("the body broke off").caused_by(e))?;
            if bytes.len() as u64 > URLENCODED_BYTES_MAX {
                return Err(Error::new(Kind::TooLarge, "the form is too large"));
            }
            read.fields = multipart::urlencoded(&bytes);
        }
        return Ok(read);
    }
    let mut form = Form::new(&content_type, &mut *body)?;
    while let Some(mut part) = form.next()? {
        match part.filename().map(str::to_owned) {
            None => {
                let name = part.name().to_owned();
                read.fields.push((name, part.text()?));
            }
            Some(file_name) if part.name() == "content" && read.file.is_none() => {
                let hasher = hasher_for(&read.fields);
                let staged =
                    app.store.blobs().stage(&mut part, hasher, app.config.body_bytes_max)?;
                read.file = Some((file_name, staged));
            }
            // A signature or an attestation may come as a file too; it is not kept.
            Some(_) => (),
        }
    }
    Ok(read)
}

/// The sums that the form names so far; all if it names none, since they may come after the file.
fn hasher_for(fields: &[(String, String)]) -> Hasher {
    let names = |name: &str| fields.iter().any(|(n, v)| n == name && !v.is_empty());
    if names("sha256_digest") && !names("md5_digest") && !names("blake2_256_digest") {
        return Hasher::new();
    }
    Hasher::with_all()
}

fn store_file(app: &Call, form: ReadForm, index: &Index, who: &Identity) -> Result<Done> {
    let (name, staged) = form.file.ok_or_else(|| Error::invalid("content file field not found"))?;
    let submission = Submission::parse(&form.fields)?;
    metadata::check_file_name(&name, &submission)?;
    check_digests(&form.fields, &staged)?;
    let blobs = app.store.blobs();
    let metadata = match metadata::of_wheel(&name, staged.open()?) {
        Some(bytes) => Some(blobs.stage(&mut bytes.as_slice(), Hasher::new(), u64::MAX)?),
        None => None,
    };
    let path = FilePath::of_digest(&index.name, &staged.sums.sha256.hex(), &name)?;
    blobs.prepare(&path)?;
    let file = NewFile { name, staged, metadata };
    let (outcome, serial) = app.writer()?.write(|txn| {
        let index = target(app, txn, who, index)?;
        model::store_file(txn, &index, &submission, file, who.user())
    })?;
    Ok((reason(outcome), serial))
}

fn store_doc(app: &Call, form: ReadForm, index: &Index, who: &Identity) -> Result<Done> {
    let text =
        |key: &str| form.fields.iter().find(|(name, value)| name == key && !value.is_empty());
    let (_, name) = text("name").ok_or_else(|| Error::invalid("doczip has no project name"))?;
    check_project(name)?;
    let version = text("version").map(|(_, version)| Version::parse(version)).transpose()?;
    let (_, zip) = form.file.ok_or_else(|| Error::invalid("content file field not found"))?;
    check_zip(&zip)?;
    let (outcome, serial) = app.writer()?.write(|txn| {
        let index = target(app, txn, who, index)?;
        let version = match version {
            Some(version) => version,
            None => attach::newest_version(txn, &index, &ProjectName::new(name))?,
        };
        attach::store_doc(txn, &index, (name, &version), zip, who.user())
    })?;
    Ok((reason(outcome), serial))
}

/// Refuses documentation that could not be shown.
fn check_zip(zip: &Staged) -> Result<()> {
    let refused =
        |why: &str| Error::invalid(format!("the documentation zip cannot be taken: {why}"));
    let opened = Zip::open(zip.open()?).map_err(|error| match error.kind {
        Kind::Invalid => refused(&error.message),
        _ => error,
    })?;
    opened.objection().map_or(Ok(()), |why| Err(refused(why)))
}

fn check_project(name: &str) -> Result<()> {
    if ProjectName::new(name).as_str().len() <= NAME_BYTES_MAX {
        return Ok(());
    }
    Err(Error::invalid("the project's name is too long"))
}

fn reason(outcome: Upload) -> Option<&'static str> {
    match outcome {
        Upload::Stored => None,
        Upload::AlreadyThere => Some("Upload of identical file to non volatile index."),
    }
}

/// `POST` of a test result to the address of a release file.
///
/// # Errors
/// `Kind::Forbidden`; `Kind::Invalid` if it is no JSON; `Kind::NotFound` if there is no such file.
pub fn result(app: &Call, request: &mut Request, file: &FilePath) -> Result<Response> {
    let who = access::asker(app, request)?;
    let index = index::require(&app.store.read()?, &IndexName::parse(file.index())?)?;
    if !app.policy.allows(&who, Permission::UploadResult(&index)) {
        return Err(Error::forbidden(
            "No permission to upload tox results. You can use the devpi test --no-upload option to skip the upload.",
        ));
    }
    let bytes = super::body_bytes(request)?;
    serde_json::from_slice::<serde::de::IgnoredAny>(&bytes)
        .map_err(|_| Error::invalid("the test result is no JSON"))?;
    let staged = app.store.blobs().stage(&mut bytes.as_slice(), Hasher::new(), u64::MAX)?;
    let spec = staged.sums.sha256.hash_spec();
    let (path, serial) = app.writer()?.write(|txn| {
        let index = index::require(txn, &index.name)?;
        attach::store_result(txn, &index, file, staged, who.user())
    })?;
    Ok(at(serial, ask::result(200, "toxresultpath", format!("{path}#{spec}").into())))
}

fn check_digests(fields: &[(String, String)], staged: &Staged) -> Result<()> {
    let sums = &staged.sums;
    let sha256 = sums.sha256.hex();
    let known = [
        ("sha256_digest", Some(sha256.as_str())),
        ("md5_digest", sums.md5.as_deref()),
        ("blake2_256_digest", sums.blake2_256.as_deref()),
    ];
    for (field, computed) in known {
        let claimed = fields.iter().find(|(name, value)| name == field && !value.is_empty());
        if let (Some((_, claimed)), Some(computed)) = (claimed, computed)
            && !claimed.trim().eq_ignore_ascii_case(computed)
        {
            return Err(Error::invalid(format!(
                "the file's {field} is {computed}, the form says {claimed}"
            )));
        }
    }
    Ok(())
}

//! `GET /+search`: for people, for programs, and for the field that suggests names.

use std::cell::RefCell;
use std::collections::HashMap;

use serde_json::{Value as Json, json};

use crate::error::{Error, Result};
use crate::http::request::Request;
use crate::http::response::Response;
use crate::mirror::lists::NameList;
use crate::model::acl::Identity;
use crate::model::index::{self, Index};
use crate::model::{stage, user};
use crate::names::{IndexName, ProjectName};
use crate::search::query::{PART_CHARS_MIN, Query};
use crate::search::text::Piece;
use crate::search::{Found, Search};
use crate::serial::Serial;
use crate::store::key;
use crate::store::txn::{Read, ReadTxn};

use super::web::place;
use super::{App, access, ask, at};

/// Projects on one page, as devpi-web has it.
pub const PAGE: usize = 10;
/// Names of one mirror that are counted among what was found.
const MIRRORED_MAX: usize = 200;
/// Of these, names that have what was typed inside.
const MIRRORED_PARTS_MAX: usize = 50;
/// Names that are suggested.
const SUGGESTIONS: usize = 8;
/// The longest text that names are suggested for, in bytes.
const SUGGEST_BYTES_MAX: usize = 100;

/// What one search came to, for one reader.
pub struct Results {
    /// The text as it was typed.
    pub query: String,
    /// The page, from 1.
    pub page: usize,
    /// Projects of own indexes.
    pub own: Found,
    /// Names at mirrors on this page, each with its index.
    pub mirrored: Vec<(IndexName, String)>,
    /// How many names there are at mirrors.
    pub mirrored_total: usize,
    /// How many serials the index is behind; `None` while it is made.
    pub behind: Option<u64>,
    /// The serial that the answer was made at.
    pub serial: Option<Serial>,
}

impl Results {
    /// How many projects were found.
    pub fn total(&self) -> usize {
        self.own.total + self.mirrored_total
    }
}

fn engine(app: &App) -> Result<&Search> {
    let away = || Error::unavailable("there is no search: its index could not be opened");
    app.search.as_ref().ok_or_else(away)
}

/// Whether the reader may read an index, each looked up once.
pub(super) struct Sight<'a> {
    app: &'a App,
    txn: ReadTxn,
    who: &'a Identity,
    known: RefCell<HashMap<IndexName, bool>>,
}

impl<'a> Sight<'a> {
    pub(super) fn new(app: &'a App, who: &'a Identity) -> Result<Self> {
        Ok(Self { app, txn: app.store.read()?, who, known: RefCell::default() })
    }
    pub(super) fn may_read(&self, name: &IndexName) -> Result<bool> {
        if let Some(known) = self.known.borrow().get(name) {
            return Ok(*known);
        }
        let index = index::find(&self.txn, name)?;
        let may = index.is_some_and(|index| self.app.may_read(self.who, &index));
        self.known.borrow_mut().insert(name.clone(), may);
        Ok(may)
    }
}

/// Searches for what a request asks for.
///
/// # Errors
/// `Kind::Invalid` if the page is no number; `Kind::Unavailable` if there is no search.
pub fn results(app: &App, request: &Request, who: &Identity) -> Result<Results> {
    let text = ask::parameter(request, "query").unwrap_or_default();
    let page = usize::try_from(ask::number(request, "page")?.unwrap_or(1)).unwrap_or(usize::MAX);
    let page = page.clamp(1, usize::MAX / PAGE);
    let query = Query::parse(&text);
    let engine = engine(app)?;
    let sight = Sight::new(app, who)?;
    let start = (page - 1) * PAGE;
    let own = engine.find(&query, start..start + PAGE, &|name| sight.may_read(name))?;
    let mut mirrored = match query.name() {
        Some(name) => mirrored(app, &sight, &ProjectName::new(name), MIRRORED_MAX)?,
        None => Vec::new(),
    };
    let mirrored_total = mirrored.len();
    let before = start.saturating_sub(own.total).min(mirrored_total);
    mirrored.drain(..before);
    mirrored.truncate(PAGE - own.hits.len().min(PAGE));
    let now = sight.txn.serial();
    let behind = match (engine.serial(), now) {
        (Some(at), Some(now)) => Some(now.get().saturating_sub(at.get())),
        (None, Some(_)) => None,
        (_, None) => Some(0),
    };
    Ok(Results { query: text, page, own, mirrored, mirrored_total, behind, serial: now })
}

/// Names at mirrors that the reader may read: the very name, those that begin so, those that have it inside.
fn mirrored(
    app: &App,
    sight: &Sight<'_>,
    name: &ProjectName,
    limit: usize,
) -> Result<Vec<(IndexName, String)>> {
    let (mut starting, mut inside) = (Vec::new(), Vec::new());
    for index in mirrors(app, sight)? {
        // A list that has to be waited for is not waited for here; it comes for the next one who searches.
        let NameList { names, .. } = app.mirrors.list_at_once(&index).unwrap_or_default();
        if names.is_empty() {
            let held = stage::projects(&sight.txn, &index.name)?;
            let found = held.into_iter().filter(|held| held.starts_with(name.as_str()));
            starting.extend(found.take(limit).map(|held| (index.name.clone(), held)));
            continue;
        }
        let found = |at| names.get(at).map(|found| (index.name.clone(), found.to_owned()));
        starting.extend(names.with_prefix(name.as_str()).take(limit).filter_map(found));
        if PART_CHARS_MIN <= name.as_str().len() {
            let parts = names.with_part(name.as_str(), MIRRORED_PARTS_MAX);
            inside.extend(parts.into_iter().filter_map(found));
        }
    }
    starting.sort_by(|(_, one), (_, other)| (one.len(), one).cmp(&(other.len(), other)));
    starting.append(&mut inside);
    starting.truncate(limit);
    Ok(starting)
}

fn mirrors(app: &App, sight: &Sight<'_>) -> Result<Vec<Index>> {
    let mut mirrors = Vec::new();
    for name in user::names(&sight.txn)? {
        if let Some(record) = sight.txn.get(&key::User(&name))? {
            let indexes = index::of_user(&name, &record).into_iter();
            mirrors.extend(indexes.filter(|i| i.is_mirror() && app.may_read(sight.who, i)));
        }
    }
    Ok(mirrors)
}

/// `GET /+search` for programs.
///
/// # Errors
/// Those of `results`.
pub fn show(app: &App, request: &Request) -> Result<Response> {
    let who = access::asker(app, request)?;
    let found = results(app, request, &who)?;
    let text = |pieces: &[Piece]| pieces.iter().map(|p| p.text.as_str()).collect::<String>();
    let own = found.own.hits.iter().map(|hit| {
        let pages = hit.pages.iter().map(|page| {
            json!({"version": page.version, "path": page.path, "title": page.title,
                "excerpt": text(&page.excerpt)})
        });
        json!({
            "index": hit.index.to_string(),
            "name": hit.project,
            "version": hit.version,
            "summary": text(&hit.summary),
            "pages": pages.collect::<Vec<_>>(),
        })
    });
    let mirrored = found.mirrored.iter().map(|(index, name)| {
        json!({"index": index.to_string(), "name": name, "version": "", "summary": "", "pages": []})
    });
    let shown = json!({
        "total": found.total(),
        "has_more": found.own.has_more,
        "page": found.page,
        "behind": found.behind,
        "items": own.chain(mirrored).collect::<Vec<_>>(),
    });
    Ok(at(found.serial, ask::result(200, "search", shown)))
}

/// `GET /+search/suggest?query=TEXT`: names that begin like the text, own ones before those of mirrors.
///
/// # Errors
/// `Kind::Unavailable` if there is no search.
pub fn suggest(app: &App, request: &Request) -> Result<Response> {
    let who = access::asker(app, request)?;
    let text = ask::parameter(request, "query").unwrap_or_default();
    let name = ProjectName::new(text.trim());
    let mut names = Vec::new();
    let sight = Sight::new(app, &who)?;
    if !name.as_str().is_empty() && name.as_str().len() <= SUGGEST_BYTES_MAX {
        names = engine(app)?.suggest(name.as_str(), SUGGESTIONS, &|index| sight.may_read(index))?;
        let room = SUGGESTIONS - names.len().min(SUGGESTIONS);
        if 0 < room {
            let more = mirrored(app, &sight, &name, SUGGESTIONS)?;
            let is_new = |(_, name): &(IndexName, String)| names.iter().all(|(_, own)| own != name);
            let more: Vec<_> = more.into_iter().filter(is_new).take(room).collect();
            names.extend(more);
        }
    }
    let serial = sight.txn.serial();
    drop(sight);
    let place = place(app, request, &who);
    let shown = names.into_iter().map(|(index, name)| {
        let link = place.link(&[index.user().as_str(), index.index(), &name]);
        json!({"index": index.to_string(), "name": name, "link": link})
    });
    let response = ask::result(200, "suggestions", Json::Array(shown.collect()));
    Ok(at(serial, response.with_header("Cache-Control", "private, no-cache")))
}

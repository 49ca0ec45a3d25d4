//! Lists of projects: those of an index and its bases, with the hundreds of thousands that a mirror may have.
//!
//! Where a mirror has a part, nobody makes the list: it is merged and drawn while it is sent, straight from the sorted
//! lists that all requests share.

use std::io::{self, Read};
use std::sync::Arc;

use flate2::Compression;
use flate2::read::GzEncoder;
use serde_json::Value as Json;

use crate::digest::Hasher;
use crate::error::Result;
use crate::http::request::Request;
use crate::http::response::{Body, Reply, Response};
use crate::mirror::lists::NameList;
use crate::mirror::names::Names;
use crate::model::index::{self, Index};
use crate::model::stage;
use crate::names::IndexName;
use crate::pages::simple::ListLook;
use crate::serial::Serial;
use crate::store::key::{Key as _, Projects, User};
use crate::store::txn::Read as _;

use super::access::{self, Reading};
use super::ask::{self, Form};
use super::cache::{Kept, source};
use super::{App, at, mirrored, simple};

/// Up to so many names a list is drawn whole.
const WHOLE_MAX: usize = 2_000;
/// What is drawn at once of longer ones.
const PIECE_BYTES: usize = 64 << 10;
/// Names come to a quarter with the least effort, which is three times as fast as the usual one.
const EFFORT: Compression = Compression::new(1);

/// `GET /U/I/+simple/`: the projects of an index and its bases.
///
/// # Errors
/// `Kind::NotFound` if there is no such index.
pub fn simple(app: &Arc<App>, request: Request, name: &IndexName) -> Result<Reply> {
    let Reading { txn, index, who } = app.read_index(&request, name)?;
    let is_simple = request.path().contains("/+simple");
    if is_simple && let Some(redirect) = simple::to_slash(app, &request, &format!("{name}/+simple"))
    {
        return Ok(Reply::Now(at(txn.serial(), redirect)));
    }
    let mut sources = vec![source(&txn, User(name.user()).path())?];
    let mut order = stage::resolution_order(&txn, index)?;
    let is_open = access::is_open(&order);
    order.retain(|index| app.may_read(&who, index));
    if order.iter().any(Index::is_mirror) {
        drop(txn);
        let shape = (look(app, &request, name), Form::of(&request).content_type());
        return with_mirrors(app, request, order, shape);
    }
    for index in &order {
        sources.push(source(&txn, User(index.name.user()).path())?);
        sources.push(source(&txn, Projects(&index.name).path())?);
    }
    let names = stage::all_projects(&txn, &order)?;
    let serial = txn.serial();
    drop(txn);
    let text = look(app, &request, name).whole(names.iter().map(String::as_str));
    let page = simple::finished(&request, text)?;
    Ok(Reply::Now(match is_open {
        true => simple::keep(app, &request, page, sources, serial),
        false => simple::respond(&request, &Kept::new(page, sources, serial)),
    }))
}

/// How a list is drawn for a request.
fn look(app: &App, request: &Request, name: &IndexName) -> ListLook {
    if Form::of(request) == Form::Json {
        return ListLook::json();
    }
    ListLook::html(&match simple::absolute_base(app, request) {
        Some(base) => format!("{base}/{name}/+simple/"),
        None => format!("{}{name}/+simple/", simple::to_root(request.path())),
    })
}

/// `GET /U/M`: the configuration of a mirror, as it is shown, with all its projects.
///
/// # Errors
/// `Kind::NotFound` if there is no such index.
pub fn config(
    app: &Arc<App>,
    request: Request,
    name: &IndexName,
    mut shown: Json,
) -> Result<Reply> {
    const NONE: &str = "\"projects\": []";
    let index = index::require(&app.store.read()?, name)?;
    shown["projects"] = Json::Array(Vec::new());
    let text = ask::result_text("indexconfig", shown);
    // The last setting, after which only the type of the answer follows.
    let (head, tail) = text.rsplit_once(NONE).unwrap_or((&text, ""));
    let look = ListLook::texts(&format!("{head}\"projects\": "), tail);
    with_mirrors(app, request, vec![index], (look, ask::JSON))
}

/// How a list is drawn, and its content type.
type Shape = (ListLook, &'static str);

/// Answers with a list that mirrors have a part in: at once if their lists are here, else where one may wait.
fn with_mirrors(
    app: &Arc<App>,
    request: Request,
    order: Vec<Index>,
    shape: Shape,
) -> Result<Reply> {
    let mirrors: Vec<Index> = order.iter().filter(|index| index.is_mirror()).cloned().collect();
    let known: Option<Vec<NameList>> =
        mirrors.iter().map(|index| app.mirrors.list_at_once(index)).collect();
    if let Some(known) = known {
        return answer(app, &request, &order, known, shape).map(Reply::Now);
    }
    let (app, is_json) = (app.clone(), ask::is_json(&request));
    Ok(Reply::Remote(Box::new(move || {
        let known = app.mirrors.lists(&mirrors);
        let answered = answer(&app, &request, &order, known, shape);
        Reply::Now(answered.unwrap_or_else(|error| ask::failure(&error, is_json)))
    })))
}

fn answer(
    app: &App,
    request: &Request,
    order: &[Index],
    known: Vec<NameList>,
    shape: Shape,
) -> Result<Response> {
    let (own, serial) = {
        let txn = app.store.read()?;
        // The index may have been deleted during the wait.
        index::require(&txn, &order[0].name)?;
        (Names::of_normal(stage::all_projects(&txn, order)?)?, txn.serial())
    };
    let doubts = order.iter().filter(|index| index.is_mirror()).zip(&known);
    let doubt = doubts
        .into_iter()
        .find_map(|(index, list)| list.doubt.as_ref().map(|why| format!("{}: {why}", index.name)));
    let lists = known.into_iter().map(|list| list.names).chain([Arc::new(own)]);
    let response = send(request, Merged::new(lists.collect()), shape, serial)?;
    Ok(match doubt {
        Some(why) => mirrored::mark_stale(response, &why),
        None => response,
    })
}

fn send(
    request: &Request,
    names: Merged,
    (look, content_type): Shape,
    serial: Option<Serial>,
) -> Result<Response> {
    let is_gzip = simple::takes_gzip(request);
    let etag = names.etag(&look, is_gzip);
    let (response, is_known) = simple::begin(request, &etag, Serial::wire(serial));
    if is_known {
        return Ok(response);
    }
    let response = response.with_header("Content-Type", content_type);
    let is_short = names.len_max() <= WHOLE_MAX;
    let mut reader: Box<dyn Read + Send> = Box::new(Drawing::new(names, look));
    let response = match is_gzip {
        true => {
            reader = Box::new(GzEncoder::new(reader, EFFORT));
            response.with_header("Content-Encoding", "gzip")
        }
        false => response,
    };
    if is_short {
        let mut bytes = Vec::new();
        reader.read_to_end(&mut bytes)?;
        return Ok(response.with_body(Body::Owned(bytes)));
    }
    Ok(response.with_body(Body::Stream { reader, length: None }))
}

/// Several sorted lists as one, each name once.
struct Merged(Vec<(Arc<Names>, usize)>);

impl Merged {
    fn new(lists: Vec<Arc<Names>>) -> Self {
        Self(lists.into_iter().map(|names| (names, 0)).collect())
    }

    /// How many names there are, those that stand in several lists counted several times.
    fn len_max(&self) -> usize {
        self.0.iter().map(|(names, _)| names.len()).sum()
    }

    /// An entity tag for the names, drawn like this.
    fn etag(&self, look: &ListLook, is_gzip: bool) -> String {
        let mut hasher = Hasher::new();
        for (names, _) in &self.0 {
            hasher.update(&names.digest().0);
        }
        hasher.update(look.head.as_bytes());
        hasher.update(format!("{look:?}{is_gzip}").as_bytes());
        format!("\"{}\"", &hasher.finish().sha256.hex()[..32])
    }

    /// Gives the next name to `take`; false at the end.
    fn next(&mut self, take: impl FnOnce(&str)) -> bool {
        let heads = self.0.iter().enumerate();
        let first = heads.filter_map(|(list, (names, at))| Some((names.get(*at)?, list))).min();
        let Some((name, list)) = first else { return false };
        take(name);
        let (chosen, at) = (self.0[list].0.clone(), self.0[list].1);
        let name = chosen.get(at);
        for (names, at) in &mut self.0 {
            if names.get(*at) == name {
                *at += 1;
            }
        }
        true
    }
}

/// A list that is drawn while it is read.
struct Drawing {
    names: Merged,
    look: ListLook,
    piece: String,
    read_at: usize,
    is_first: bool,
    is_done: bool,
}

impl Drawing {
    fn new(names: Merged, look: ListLook) -> Self {
        let piece = look.head.clone();
        Self { names, look, piece, read_at: 0, is_first: true, is_done: false }
    }

    fn draw(&mut self) {
        self.piece.clear();
        self.read_at = 0;
        while self.piece.len() < PIECE_BYTES && !self.is_done {
            let (look, piece, is_first) = (&self.look, &mut self.piece, self.is_first);
            self.is_done = !self.names.next(|name| look.item(piece, name, is_first));
            self.is_first = false;
            if self.is_done {
                self.piece.push_str(&self.look.tail);
            }
        }
    }
}

impl Read for Drawing {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.read_at == self.piece.len() && !self.is_done {
            self.draw();
        }
        let rest = &self.piece.as_bytes()[self.read_at..];
        let count = rest.len().min(buffer.len());
        buffer[..count].copy_from_slice(&rest[..count]);
        self.read_at += count;
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn merged(lists: &[Vec<String>]) -> Merged {
        let names = lists.iter().map(|list| Arc::new(Names::of(list).expect("few")));
        Merged::new(names.collect())
    }

    fn drawn(lists: &[Vec<String>], look: &ListLook, step: usize) -> String {
        let mut drawing = Drawing::new(merged(lists), look.clone());
        let (mut text, mut buffer) = (Vec::new(), vec![0; step]);
        loop {
            match drawing.read(&mut buffer).expect("cannot fail") {
                0 => return String::from_utf8(text).expect("text"),
                count => text.extend_from_slice(&buffer[..count]),
            }
        }
    }

    proptest! {
        #[test]
        fn lists_become_one(
            lists in prop::collection::vec(prop::collection::vec("[a-d]{1,3}", 0..20), 0..4),
            step in 1usize..90,
        ) {
            let all: BTreeSet<&str> = lists.iter().flatten().map(String::as_str).collect();
            for look in [ListLook::json(), ListLook::html("../"), ListLook::texts("", "")] {
                prop_assert_eq!(drawn(&lists, &look, step), look.whole(all.iter().copied()));
            }
        }
    }

    #[test]
    fn long_lists_come_in_pieces() {
        let list: Vec<String> = (0..20_000).map(|i| format!("name-{i:06}")).collect();
        let text = drawn(std::slice::from_ref(&list), &ListLook::json(), 1000);
        let shown: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        assert_eq!(shown["projects"].as_array().map(Vec::len), Some(20_000));
        let mut drawing = Drawing::new(merged(&[list]), ListLook::json());
        drawing.draw();
        assert!(drawing.piece.len() < PIECE_BYTES + 300, "{}", drawing.piece.len());
    }

    #[test]
    fn entity_tags_tell_lists_and_forms_apart() {
        let (one, two) = (merged(&[vec!["a".into()]]), merged(&[vec!["b".into()]]));
        let (html, json) = (ListLook::html("../"), ListLook::json());
        let tags = [
            one.etag(&html, false),
            one.etag(&json, false),
            one.etag(&html, true),
            two.etag(&html, false),
        ];
        assert_eq!(tags.iter().collect::<BTreeSet<_>>().len(), tags.len());
        assert_eq!(merged(&[vec!["A".into()]]).etag(&html, false), tags[0]);
    }
}

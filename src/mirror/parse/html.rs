//! HTML as simple indexes write it: a walk over its anchors, and the page made of them.
//!
//! The walk has no tree: it sees start tags with the attributes that matter here, the text inside anchors, and
//! whether the document ends in the middle of something.

use std::borrow::Cow;

use html5gum::emitters::callback::{CallbackEmitter, CallbackEvent};
use html5gum::{Error as HtmlError, IoReader, Span, Tokenizer};
use url::Url;

use crate::error::{Error, Result};
use crate::names::ProjectName;
use crate::store::codec::Value;

use super::limited::{self, Limited};
use super::{
    Candidate, Gathering, UpstreamPage, nonsense, reason_text, require_version, sha256_of,
};

/// Attributes that mean something.
const ATTRIBUTES: [&str; 10] = [
    "href",
    "type",
    "data-requires-python",
    "data-yanked",
    "data-core-metadata",
    "data-dist-info-metadata",
    "data-provenance",
    "name",
    "content",
    "http-equiv",
];

/// Text inside an anchor that is kept.
const ANCHOR_BYTES_MAX: usize = 512;

/// What the walk sees.
pub enum Seen<'a> {
    /// A start tag.
    Start(&'a Tag),
    /// The end of an anchor, with the text inside it.
    AnchorEnd(Cow<'a, str>),
}

/// A start tag.
#[derive(Default)]
pub struct Tag {
    name: Vec<u8>,
    values: [Option<Vec<u8>>; ATTRIBUTES.len()],
    /// The attribute whose value comes next.
    current: Option<usize>,
}

impl Tag {
    /// Whether it has this name, in lower case.
    pub fn is(&self, name: &str) -> bool {
        self.name == name.as_bytes()
    }
    /// An attribute; one without a value is the empty text.
    pub fn get(&self, attribute: &str) -> Option<Cow<'_, str>> {
        let at = ATTRIBUTES.iter().position(|known| *known == attribute)?;
        self.values[at].as_deref().map(String::from_utf8_lossy)
    }
    fn text(&self, attribute: &str) -> Cow<'_, str> {
        self.get(attribute).unwrap_or_default()
    }
    fn begin(&mut self, name: &[u8]) {
        self.name.clear();
        self.name.extend_from_slice(name);
        self.values.fill(None);
        self.current = None;
    }
    /// Of two attributes with one name the first counts.
    fn attribute(&mut self, name: &[u8]) {
        let at = ATTRIBUTES.iter().position(|known| known.as_bytes() == name);
        self.current = at.filter(|at| self.values[*at].is_none());
        if let Some(at) = self.current {
            self.values[at] = Some(Vec::new());
        }
    }
    fn value(&mut self, value: &[u8]) {
        if let Some(at) = self.current.take() {
            self.values[at] = Some(value.to_vec());
        }
    }
}

/// Shows `on` all of a document.
///
/// # Errors
/// What `on` fails with; `Kind::BadGateway` if the document ends inside a tag, a comment or its only open anchor; the
/// body's failure.
pub fn walk(body: Limited<'_>, mut on: impl FnMut(Seen<'_>) -> Result<()>) -> Result<()> {
    let mut tag = Tag::default();
    let (mut is_start, mut text) = (false, Vec::new());
    let (mut opened, mut closed, mut is_cut) = (0_usize, 0_usize, false);
    let callback = |event: CallbackEvent<'_>, _: Span<()>| -> Option<Error> {
        match event {
            CallbackEvent::OpenStartTag { name } => {
                is_start = true;
                tag.begin(name);
            }
            CallbackEvent::AttributeName { name } if is_start => tag.attribute(name),
            CallbackEvent::AttributeValue { value } if is_start => tag.value(value),
            CallbackEvent::CloseStartTag { .. } => {
                is_start = false;
                if tag.is("a") {
                    opened += 1;
                    text.clear();
                }
                return on(Seen::Start(&tag)).err();
            }
            CallbackEvent::EndTag { name: b"a" } => {
                closed += 1;
                return on(Seen::AnchorEnd(String::from_utf8_lossy(&text))).err();
            }
            CallbackEvent::String { value } => {
                let room = ANCHOR_BYTES_MAX - text.len();
                text.extend_from_slice(&value[..value.len().min(room)]);
            }
            CallbackEvent::Error(e) => is_cut |= is_end_inside(e),
            _ => (),
        }
        None
    };
    let mut emitter = CallbackEmitter::new(callback);
    emitter.naively_switch_states(true);
    let mut failures = Tokenizer::new_with_emitter(IoReader::new(body), emitter);
    if let Some(failed) = failures.next() {
        return Err(failed.unwrap_or_else(limited::failure));
    }
    drop(failures);
    if is_cut || opened == closed + 1 {
        return Err(nonsense("it ends in the middle"));
    }
    Ok(())
}

fn is_end_inside(e: HtmlError) -> bool {
    matches!(
        e,
        HtmlError::EofInTag
            | HtmlError::EofBeforeTagName
            | HtmlError::EofInComment
            | HtmlError::EofInDoctype
            | HtmlError::EofInCdata
            | HtmlError::EofInScriptHtmlCommentLikeText
    )
}

/// What a document says besides its links.
#[derive(Default)]
pub struct Facts {
    /// It calls itself a page of a simple index.
    is_declared: bool,
    /// It has what only pages for people have: a form, a script, a redirect.
    is_for_people: bool,
    asks_for_password: bool,
    status: String,
    reason: String,
}

impl Facts {
    /// Takes a tag.
    ///
    /// # Errors
    /// `Kind::BadGateway` if it names another version of the interface than 1.x.
    pub fn see(&mut self, tag: &Tag) -> Result<()> {
        match tag.name.as_slice() {
            b"meta" => return self.see_meta(tag),
            b"input" => {
                self.is_for_people = true;
                self.asks_for_password |= tag.text("type").eq_ignore_ascii_case("password");
            }
            b"form" | b"script" | b"iframe" | b"frameset" => self.is_for_people = true,
            _ => (),
        }
        Ok(())
    }

    fn see_meta(&mut self, tag: &Tag) -> Result<()> {
        let content = tag.text("content");
        self.is_for_people |= tag.text("http-equiv").eq_ignore_ascii_case("refresh");
        match &*tag.text("name") {
            "pypi:repository-version" => {
                self.is_declared = true;
                return require_version(content.trim());
            }
            "pypi:project-status" => self.status = content.trim().to_owned(),
            "pypi:project-status-reason" => self.reason = content.into_owned(),
            _ => (),
        }
        Ok(())
    }

    /// Refuses a page for logging in and the like. One that is empty is an index without anything in it only if
    /// nothing speaks against that.
    ///
    /// # Errors
    /// `Kind::BadGateway`.
    pub fn require_index(&self, is_empty: bool) -> Result<()> {
        let is_index =
            self.is_declared || !(self.asks_for_password || is_empty && self.is_for_people);
        is_index.then_some(()).ok_or_else(|| nonsense("it is a page for people"))
    }
}

/// Reads a project's page.
///
/// # Errors
/// As `parse::page`.
pub fn page(body: Limited<'_>, url: &Url, project: &ProjectName) -> Result<UpstreamPage> {
    let (mut files, mut facts) = (Gathering::new(url, project), Facts::default());
    let mut has_base = false;
    walk(body, |seen| {
        let Seen::Start(tag) = seen else { return Ok(()) };
        match tag.name.as_slice() {
            b"a" => anchor(&mut files, tag),
            b"base" => {
                let base = tag.get("href").and_then(|href| files.base.join(&href).ok());
                if let Some(base) = base.filter(|_| !has_base) {
                    (has_base, files.base) = (true, base);
                }
                Ok(())
            }
            _ => facts.see(tag),
        }
    })?;
    facts.require_index(files.page.files.is_empty())?;
    Ok(files.finish(&facts.status, &facts.reason))
}

fn anchor(files: &mut Gathering<'_>, tag: &Tag) -> Result<()> {
    let Some(href) = tag.get("href") else { return Ok(()) };
    let metadata = tag.get("data-core-metadata").or_else(|| tag.get("data-dist-info-metadata"));
    files.add(Candidate {
        href: href.trim(),
        requires_python: &tag.text("data-requires-python"),
        yanked: tag.get("data-yanked").map(|reason| Value::Str(reason_text(&reason))),
        metadata: metadata.filter(|spec| spec != "false").map(|spec| sha256_of(&spec)),
        provenance: &tag.text("data-provenance"),
        ..Candidate::default()
    })
}

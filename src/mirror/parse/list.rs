//! The list of all projects of an upstream, in either form, read as it comes.

use std::fmt;
use std::io::{BufReader, Read};

use serde::Deserialize;
use serde::de::{
    DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor,
};
use url::Url;

use crate::deadline::Deadline;
use crate::error::{Error, Result};

use super::super::names::{Builder, Names};
use super::html::{self, Facts, Seen, Tag};
use super::json::{Meta, unreadable};
use super::limited::{self, Limited};
use super::{Media, nonsense, require_version};

/// Largest list; the largest known has some 40 MB.
const LIST_BYTES_MAX: u64 = 512 << 20;

/// What is read from the network at once.
const BUFFER_BYTES: usize = 64 << 10;

/// Reads a list, whose last address is `url`.
///
/// # Errors
/// As `parse::page`.
pub fn names(
    content_type: &str,
    body: &mut dyn Read,
    url: &Url,
    deadline: Deadline,
) -> Result<Names> {
    let body = Limited::new(body, LIST_BYTES_MAX, deadline);
    match Media::of(content_type)? {
        Media::Json => of_json(body),
        Media::Html => of_html(body, url),
    }
}

fn of_html(body: Limited<'_>, url: &Url) -> Result<Names> {
    let (mut names, mut facts) = (Builder::default(), Facts::default());
    let mut is_named_by_text = false;
    html::walk(body, |seen| {
        match seen {
            Seen::Start(tag) if tag.is("a") => {
                is_named_by_text = match project_of(tag, url) {
                    Some(name) => !names.add(&name)?,
                    None => false,
                };
            }
            Seen::Start(tag) => facts.see(tag)?,
            Seen::AnchorEnd(text) if is_named_by_text => {
                is_named_by_text = false;
                names.add(text.trim())?;
            }
            Seen::AnchorEnd(_) => (),
        }
        Ok(())
    })?;
    facts.require_index(names.is_empty())?;
    Ok(names.finish())
}

/// The project that an anchor leads to, as its address has it; `None` for one that leads elsewhere.
fn project_of(tag: &Tag, url: &Url) -> Option<String> {
    let href = tag.get("href")?;
    let href = href.trim().split(['?', '#']).next()?;
    let path = match href.contains("://") || href.starts_with("//") {
        false => href.to_owned(),
        true => {
            let target = url.join(href).ok()?;
            let folder = url.path().rsplit_once('/').map_or("", |(folder, _)| folder);
            let is_below = target.origin() == url.origin() && target.path().starts_with(folder);
            is_below.then(|| target.path().to_owned())?
        }
    };
    let last = path.trim_end_matches('/').rsplit('/').next()?;
    Some(percent_encoding::percent_decode_str(last).decode_utf8().ok()?.into_owned())
}

fn of_json(body: Limited<'_>) -> Result<Names> {
    let mut source =
        serde_json::Deserializer::from_reader(BufReader::with_capacity(BUFFER_BYTES, body));
    let mut list = List::default();
    let read = ListSeed(&mut list).deserialize(&mut source).and_then(|()| source.end());
    if let Some(refusal) = list.refusal {
        return Err(refusal);
    }
    read.map_err(|e| if e.is_io() { limited::failure(e.into()) } else { unreadable(&e) })?;
    require_version(&list.version.ok_or_else(|| nonsense("it tells no version"))?)?;
    if !list.has_projects {
        return Err(nonsense("it has no list of projects"));
    }
    Ok(list.names.finish())
}

#[derive(Default)]
struct List {
    names: Builder,
    has_projects: bool,
    version: Option<String>,
    /// Why a name ended the reading.
    refusal: Option<Error>,
}

struct ListSeed<'l>(&'l mut List);

impl<'de> DeserializeSeed<'de> for ListSeed<'_> {
    type Value = ();
    fn deserialize<D: Deserializer<'de>>(self, source: D) -> std::result::Result<(), D::Error> {
        source.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for ListSeed<'_> {
    type Value = ();
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of projects")
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<(), A::Error> {
        while let Some(key) = map.next_key::<String>()? {
            match key.as_str() {
                "meta" => self.0.version = Some(map.next_value::<Meta>()?.api_version),
                "projects" => {
                    self.0.has_projects = true;
                    map.next_value_seed(ProjectsSeed(self.0))?;
                }
                _ => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        Ok(())
    }
}

struct ProjectsSeed<'l>(&'l mut List);

impl<'de> DeserializeSeed<'de> for ProjectsSeed<'_> {
    type Value = ();
    fn deserialize<D: Deserializer<'de>>(self, source: D) -> std::result::Result<(), D::Error> {
        source.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for ProjectsSeed<'_> {
    type Value = ();
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("projects")
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> std::result::Result<(), A::Error> {
        while seq.next_element_seed(ProjectSeed(&mut *self.0))?.is_some() {}
        Ok(())
    }
}

/// One project, of which the name is taken straight from where it stands.
struct ProjectSeed<'l>(&'l mut List);

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum Key {
    Name,
    #[serde(other)]
    Other,
}

impl<'de> DeserializeSeed<'de> for ProjectSeed<'_> {
    type Value = ();
    fn deserialize<D: Deserializer<'de>>(self, source: D) -> std::result::Result<(), D::Error> {
        source.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for ProjectSeed<'_> {
    type Value = ();
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a project")
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<(), A::Error> {
        let mut has_name = false;
        while let Some(key) = map.next_key::<Key>()? {
            match key {
                Key::Name => {
                    has_name = true;
                    map.next_value_seed(NameSeed(&mut *self.0))?;
                }
                Key::Other => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        if has_name { Ok(()) } else { Err(A::Error::missing_field("name")) }
    }
}

struct NameSeed<'l>(&'l mut List);

impl<'de> DeserializeSeed<'de> for NameSeed<'_> {
    type Value = ();
    fn deserialize<D: Deserializer<'de>>(self, source: D) -> std::result::Result<(), D::Error> {
        source.deserialize_str(self)
    }
}

impl Visitor<'_> for NameSeed<'_> {
    type Value = ();
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a name")
    }
    fn visit_str<E: serde::de::Error>(self, text: &str) -> std::result::Result<(), E> {
        match self.0.names.add(text) {
            Ok(_) => Ok(()),
            Err(refusal) => {
                self.0.refusal = Some(refusal);
                Err(E::custom("refused"))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::error::Kind;

    const JSON: &str = "application/vnd.pypi.simple.v1+json";

    fn read(content_type: &str, body: &str) -> Result<Vec<String>> {
        let url = Url::parse("http://host/root/simple/").expect("valid");
        let deadline = Deadline::after(Duration::from_secs(60));
        let names = names(content_type, &mut body.as_bytes(), &url, deadline)?;
        Ok(names.iter().map(str::to_owned).collect())
    }

    #[test]
    fn html_names_projects_by_address_or_else_by_text() {
        let names = read(
            "text/html",
            "<html><body><a href=\"/simple/other-thing/\">Other.Thing</a><a href='name/'>x</a>\
             <a href=Two.Two>y</a><a href='http://host/root/simple/full/?a'>z</a>\
             <a href='http://elsewhere/root/simple/no/'>z</a><a href='http://host/other/no/'>z</a>\
             <a href='../'>Up.Here</a><a href='//host/root/simple/slash/#x'>z</a><a>none</a>\
             <a href='%6dore/'>q</a></body></html>",
        );
        let wanted = ["full", "more", "name", "other-thing", "slash", "two-two", "up-here"];
        assert_eq!(names.expect("a list"), wanted);
    }

    #[test]
    fn json_names_projects() {
        let body = r#"{"projects": [{"name": "One", "_last-serial": 5}, {"x": [{}], "name": "two.\u0074wo"},
                       {"name": "bad name"}], "meta": {"api-version": "1.4", "_x": 1}}"#;
        assert_eq!(read(JSON, body).expect("a list"), ["one", "two-two"]);
        let empty = r#"{"meta": {"api-version": "1.0"}, "projects": []}"#;
        assert_eq!(read(JSON, empty).expect("a list"), [""; 0]);
    }

    #[test]
    fn what_is_no_list_is_refused() {
        let table = [
            ("text/plain", "<a href=x>x</a>"),
            ("text/html", "<form><input type=password></form><a href=/reset>forgotten?</a>"),
            ("text/html", "<meta http-equiv=refresh content=0>"),
            ("text/html", "<meta name=pypi:repository-version content=2.1><a href=x>x</a>"),
            ("text/html", "<a href=x>x</a><a href=y"),
            (JSON, r#"{"meta": {"api-version": "1.0"}}"#),
            (JSON, r#"{"meta": {"api-version": "3.0"}, "projects": []}"#),
            (JSON, r#"{"projects": []}"#),
            (JSON, r#"{"meta": {}, "projects": [{}]}"#),
            (JSON, r#"{"meta": {}, "projects": [{"name": 5}]}"#),
            (JSON, r#"{"meta": {}, "projects": ["name"]}"#),
            (JSON, r#"{"meta": {}, "projects": [{"name": "x"}"#),
            (JSON, ""),
        ];
        for (content_type, body) in table {
            assert_eq!(read(content_type, body).expect_err(body).kind, Kind::BadGateway, "{body}");
        }
    }

    #[test]
    fn what_takes_too_long_is_given_up() {
        let url = Url::parse("http://host/").expect("valid");
        let body = &mut "<a href=x>x</a>".as_bytes();
        let late = names("text/html", body, &url, Deadline::after(Duration::ZERO));
        assert_eq!(late.expect_err("too late").kind, Kind::Timeout);
    }
}

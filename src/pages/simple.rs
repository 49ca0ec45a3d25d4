//! The simple pages of PEP 503 and PEP 691.

use serde::{Serialize, Serializer};
use serde_json::{Value as Json, json};

use crate::model::links::{Metadata, Page, PageFile};
use crate::names::{IndexName, ProjectName};
use crate::store::codec::Value;

use super::escape;

/// The version of the interface that the pages follow (PEP 629, 700, 792).
const API_VERSION: &str = "1.4";
/// The version of a page that does not tell the size of each file, as PEP 700 asks.
const API_VERSION_WITHOUT_SIZES: &str = "1.0";

/// How a page is to be drawn.
pub struct Look<'a> {
    /// What stands before a file's path to make its address.
    pub prefix: &'a str,
    /// Whether people look at it: sorted, with a heading.
    pub for_people: bool,
    /// Whether METADATA is offered.
    pub with_metadata: bool,
}

/// A project's page in HTML.
pub fn project_html(
    (index, project): (&IndexName, &ProjectName),
    page: &Page,
    look: &Look<'_>,
) -> String {
    let mut html = head(&format!("Links for {project}"), page.status.as_ref());
    if look.for_people {
        html.push_str(&format!("<h1>Links for {project}</h1>\n"));
        notes(&mut html, index, project, page, look);
    }
    let mut files: Vec<&PageFile> = page.files.iter().collect();
    if look.for_people {
        files.sort_by_cached_key(|file| std::cmp::Reverse(newest_first(&file.link.name)));
    }
    for file in files {
        anchor(&mut html, file, look);
    }
    html.push_str("</body></html>\n");
    html
}

fn head(title: &str, status: Option<&(String, Option<String>)>) -> String {
    let mut html = format!(
        "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"pypi:repository-version\" content=\"{API_VERSION}\">"
    );
    let mut meta = |name: &str, content: &str| {
        html.push_str(&format!("<meta name=\"{name}\" content=\"{}\">", escape(content)));
    };
    if let Some((status, reason)) = status {
        meta("pypi:project-status", status);
        if let Some(reason) = reason {
            meta("pypi:project-status-reason", reason);
        }
    }
    html.push_str(&format!("<title>{title}</title></head>\n<body>\n"));
    html
}

/// What people are told of the mirrors: how to look again, and why one is not shown.
fn notes(
    html: &mut String,
    index: &IndexName,
    project: &ProjectName,
    page: &Page,
    look: &Look<'_>,
) {
    let index = escape(&index.to_string());
    if !page.mirrors.is_empty() {
        html.push_str(&format!(
            "<form action=\"{}{index}/+simple/{project}/refresh\" method=\"post\">\
             <input type=\"submit\" value=\"Refresh\"></form>\n",
            escape(look.prefix)
        ));
    }
    for (mirror, by) in &page.blocked {
        html.push_str(&format!(
            "<p>Files of the mirror {} are not shown, since {} holds this project. To include them, add the \
             project to the mirror_whitelist of {index}.</p>\n",
            escape(&mirror.to_string()),
            escape(&by.to_string())
        ));
    }
}

/// A key that sorts file names by version as far as the name shows it, then by name.
fn newest_first(name: &str) -> (Option<pep440_rs::Version>, String) {
    let stem = name
        .strip_suffix(".tar.gz")
        .or_else(|| name.rsplit_once('.').map(|(stem, _)| stem))
        .unwrap_or(name);
    let version = stem.split('-').skip(1).find_map(|part| part.parse().ok());
    (version, name.to_owned())
}

fn anchor(html: &mut String, file: &PageFile, look: &Look<'_>) {
    let link = &file.link;
    html.push_str(&format!(
        "{} <a href=\"{}{}\"",
        file.owner,
        look.prefix,
        escape(&url_path(&link.href))
    ));
    if let Some(python) = link.requires_python.as_deref().filter(|python| !python.is_empty()) {
        html.push_str(&format!(" data-requires-python=\"{}\"", escape(python)));
    }
    match &link.yanked {
        Value::Str(reason) => html.push_str(&format!(" data-yanked=\"{}\"", escape(reason))),
        Value::Bool(true) => html.push_str(" data-yanked=\"\""),
        _ => (),
    }
    let offered = match &file.metadata {
        Metadata::Hashed(sha256) => Some(format!("sha256={}", escape(sha256))),
        Metadata::Offered => Some("true".to_owned()),
        Metadata::None => None,
    };
    if let Some(offered) = offered.filter(|_| look.with_metadata) {
        for name in ["data-core-metadata", "data-dist-info-metadata"] {
            html.push_str(&format!(" {name}=\"{offered}\""));
        }
    }
    if let Some(url) = &file.provenance {
        html.push_str(&format!(" data-provenance=\"{}\"", escape(url)));
    }
    html.push_str(&format!(">{}</a><br>\n", escape(&link.name)));
}

/// A project's page in JSON.
pub fn project_json(project: &str, page: &Page, look: &Look<'_>) -> String {
    let has_sizes = page.files.iter().all(|file| file.size_bytes.is_some());
    let api_version = if has_sizes { API_VERSION } else { API_VERSION_WITHOUT_SIZES };
    let status = |(status, reason): &(String, Option<String>)| {
        let mut shown = json!({"status": status});
        if let Some(reason) = reason {
            shown["reason"] = reason.as_str().into();
        }
        shown
    };
    let shown = PageJson {
        meta: json!({"api-version": api_version}),
        name: project,
        versions: &page.versions,
        files: page.files.iter().map(|file| FileJson::of(file, look)).collect(),
        status: page.status.as_ref().map(status),
    };
    serde_json::to_string(&shown).expect("texts and numbers always have a form in JSON")
}

/// A page as JSON. Typed, since there are pages of ten thousand files.
#[derive(Serialize)]
struct PageJson<'a> {
    meta: Json,
    name: &'a str,
    versions: &'a [String],
    files: Vec<FileJson<'a>>,
    #[serde(rename = "project-status", skip_serializing_if = "Option::is_none")]
    status: Option<Json>,
}

#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct FileJson<'a> {
    filename: &'a str,
    url: String,
    hashes: Hashes<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    requires_python: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    size: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    upload_time: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    yanked: Option<Either<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    core_metadata: Option<Either<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    dist_info_metadata: Option<Either<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    provenance: Option<&'a str>,
}

/// No hash, or one under its kind.
struct Hashes<'a>(Option<(&'a str, &'a str)>);

impl Serialize for Hashes<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0)
    }
}

/// True, or what is known beyond that.
#[derive(Clone, Copy, Serialize)]
#[serde(untagged)]
enum Either<'a> {
    Is(bool),
    Because(&'a str),
    Hashed { sha256: &'a str },
}

impl<'a> FileJson<'a> {
    fn of(file: &'a PageFile, look: &Look<'_>) -> Self {
        let link = &file.link;
        let yanked = match &link.yanked {
            Value::Str(reason) if !reason.is_empty() => Some(Either::Because(reason)),
            Value::Str(_) | Value::Bool(true) => Some(Either::Is(true)),
            _ => None,
        };
        let metadata = match &file.metadata {
            _ if !look.with_metadata => None,
            Metadata::Hashed(sha256) => Some(Either::Hashed { sha256 }),
            Metadata::Offered => Some(Either::Is(true)),
            Metadata::None => None,
        };
        Self {
            filename: &link.name,
            url: format!("{}{}", look.prefix, url_path(link.path())),
            hashes: Hashes(link.hash()),
            requires_python: link.requires_python.as_deref().filter(|python| !python.is_empty()),
            size: file.size_bytes,
            upload_time: file.upload_time.as_deref(),
            yanked,
            core_metadata: metadata,
            dist_info_metadata: metadata,
            provenance: file.provenance.as_deref(),
        }
    }
}

/// How a list of projects is drawn, piece by piece: there may be hundreds of thousands.
#[derive(Clone, Debug)]
pub struct ListLook {
    /// What stands before the first name.
    pub head: String,
    /// What stands before each name, between the two that an address needs, and after each.
    around: [String; 3],
    between: &'static str,
    /// What stands after the last name.
    pub tail: String,
}

impl ListLook {
    /// In HTML; `prefix` makes an address of a name.
    pub fn html(prefix: &str) -> Self {
        let around = [format!("<a href=\"{prefix}"), "/\">".into(), "</a><br>\n".into()];
        let tail = "</body></html>\n".to_owned();
        Self { head: head("Simple index", None), around, between: "", tail }
    }
    /// In JSON (PEP 691).
    pub fn json() -> Self {
        let head = format!("{{\"meta\":{{\"api-version\":\"{API_VERSION}\"}},\"projects\":[");
        let around = ["{\"name\":\"".into(), String::new(), "\"}".into()];
        Self { head, around, between: ",", tail: "]}".to_owned() }
    }
    /// A list of texts in JSON between two pieces of other JSON.
    pub fn texts(head: &str, tail: &str) -> Self {
        let around = ["\"".into(), String::new(), "\"".into()];
        Self { head: format!("{head}["), around, between: ",\n", tail: format!("]{tail}") }
    }
    /// Adds a name in normal form, which needs no escapes in either form.
    pub fn item(&self, out: &mut String, name: &str, is_first: bool) {
        let [before, within, after] = &self.around;
        if !is_first {
            out.push_str(self.between);
        }
        out.push_str(before);
        out.push_str(name);
        if !within.is_empty() {
            out.push_str(within);
            out.push_str(name);
        }
        out.push_str(after);
    }
    /// Draws all at once.
    pub fn whole<'a>(&self, names: impl Iterator<Item = &'a str>) -> String {
        let mut out = self.head.clone();
        for (at, name) in names.enumerate() {
            self.item(&mut out, name, at == 0);
        }
        out.push_str(&self.tail);
        out
    }
}

/// A stored path as part of an address; `+` stays, since clients compare addresses literally.
fn url_path(path: &str) -> String {
    const KEPT: percent_encoding::AsciiSet = percent_encoding::CONTROLS
        .add(b' ')
        .add(b'"')
        .add(b'<')
        .add(b'>')
        .add(b'?')
        .add(b'%')
        .add(b'`')
        .add(b'{')
        .add(b'}');
    percent_encoding::utf8_percent_encode(path, &KEPT).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::names::IndexName;
    use crate::store::record::Link;

    fn page(names: &[&str]) -> Page {
        let owner = IndexName::new("ann", "dev").expect("valid");
        let file = |name: &&str| PageFile {
            owner: owner.clone(),
            link: Link {
                name: (*name).to_owned(),
                href: format!("ann/dev/+f/123/4567890123456/{name}#sha256=ab"),
                requires_python: Some(">=3.8,<4".into()),
                yanked: Value::None,
            },
            size_bytes: Some(7),
            upload_time: None,
            metadata: Metadata::Hashed("cd".into()),
            provenance: None,
        };
        Page {
            files: names.iter().map(file).collect(),
            versions: vec!["1".into()],
            ..Page::default()
        }
    }

    #[test]
    fn people_see_the_newest_version_first() {
        let look = Look { prefix: "", for_people: true, with_metadata: false };
        let names = (&IndexName::new("ann", "dev").expect("valid"), &ProjectName::new("p"));
        let html = project_html(names, &page(&["p-1.9.zip", "p-1.10.zip", "p-1.0.zip"]), &look);
        let at = |name: &str| html.find(name).expect("shown");
        assert!(at("p-1.10.zip") < at("p-1.9.zip") && at("p-1.9.zip") < at("p-1.0.zip"));
        assert!(html.contains("&gt;=3.8,&lt;4") && !html.contains("core-metadata"));
    }

    #[test]
    fn lists_are_drawn_in_pieces() {
        let names = ["a", "b-c"];
        let html = ListLook::html("../").whole(names.into_iter());
        assert!(
            html.contains("<a href=\"../a/\">a</a><br>\n<a href=\"../b-c/\">b-c</a><br>\n</body>")
        );
        let json: Json =
            serde_json::from_str(&ListLook::json().whole(names.into_iter())).expect("JSON");
        assert_eq!(json["projects"], json!([{"name": "a"}, {"name": "b-c"}]));
        let texts = ListLook::texts("{\"x\": ", "}");
        let read = |text: String| serde_json::from_str::<Json>(&text).expect("JSON");
        assert_eq!(read(texts.whole(names.into_iter())), json!({"x": ["a", "b-c"]}));
        assert_eq!(read(texts.whole([].into_iter())), json!({"x": []}));
    }

    #[test]
    fn installers_get_what_is_known() {
        let look = Look { prefix: "../", for_people: false, with_metadata: true };
        let shown: Json =
            serde_json::from_str(&project_json("p", &page(&["p-1.whl"]), &look)).expect("JSON");
        let file = &shown["files"][0];
        assert_eq!(file["url"], "../ann/dev/+f/123/4567890123456/p-1.whl");
        assert_eq!(file["size"], 7);
        assert_eq!(file["core-metadata"]["sha256"], "cd");
        assert_eq!(file["hashes"]["sha256"], "ab");
    }
}

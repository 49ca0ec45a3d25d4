//! The JSON that public indexes show of a project, for tools that know no other: `GET /U/I/pypi/P/json`,
//! `/U/I/pypi/P/V/json`, and `/U/I/P/json` where no version is called so. Made of what the simple page shows, and of
//! the metadata of one version.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Map, Value as Json, json};

use crate::error::{Error, Result};
use crate::http::request::Request;
use crate::http::response::{Reply, Response};
use crate::model::links::{self, PageFile};
use crate::model::walk::{Share, Walk};
use crate::model::{mirrored as names, release};
use crate::names::{IndexName, ProjectName, Version};
use crate::serial::Serial;
use crate::store::codec::Value;
use crate::store::key;
use crate::store::record::{Dict, Record as _};
use crate::store::txn::{Read, ReadTxn};
use crate::transfer;

use super::mirrored::{self, Mirrored};
use super::{App, ask, at};

/// The last part of the addresses.
pub const LAST: &str = "json";

/// `GET` of a project, or of one of its versions.
///
/// # Errors
/// `Kind::NotFound` if neither the index nor a base holds it; `Kind::BadGateway` if an upstream is away.
pub fn show(
    app: &Arc<App>,
    request: Request,
    name: &IndexName,
    spelling: &str,
    version: Option<String>,
) -> Result<Reply> {
    let (name, project) = (name.clone(), ProjectName::new(spelling));
    mirrored::answer(app, request, &name.clone(), project.clone(), move |app, request, mirrors| {
        make(app, request, mirrors, &name, &project, version.as_deref())
    })
}

/// Answers once the mirrors that have a part in the project were looked at.
///
/// # Errors
/// As `show`.
pub fn make(
    app: &App,
    request: &Request,
    mirrors: &Mirrored,
    name: &IndexName,
    project: &ProjectName,
    version: Option<&str>,
) -> Result<Response> {
    let (txn, walk) = mirrored::walk(app, request, name, project)?;
    let absent = |what: String| mirrors.absence(Error::not_found(what));
    let page = links::page(&txn, &walk, project)?;
    let page = page.ok_or_else(|| absent(format!("The project {project} does not exist.")))?;
    let base = ask::base_url(request, app.config.outside_url.as_deref());
    let files = files_by_version(&txn, &base, project, &page.files)?;
    let wanted = match version {
        Some(version) => page.versions.iter().find(|held| *held == version),
        None => newest(&page.versions, &files),
    };
    let wanted = wanted.ok_or_else(|| {
        let version = version.unwrap_or_default();
        absent(format!("The version {version} of project {project} does not exist."))
    })?;
    let metadata = metadata_of(&txn, &walk, project, wanted)?;
    let urls = files.get(wanted).cloned().unwrap_or_default();
    let mut shown = Map::new();
    shown.insert("info".into(), info(&metadata, &format!("{base}/{name}"), project, wanted, &urls));
    let serial = page.upstream_serial.unwrap_or_else(|| Serial::wire(txn.serial()));
    shown.insert("last_serial".into(), serial.into());
    if version.is_none() {
        let of = |version: &String| files.get(version).cloned().unwrap_or_default().into();
        let releases = page.versions.iter().map(|version| (version.clone(), of(version)));
        shown.insert("releases".into(), Json::Object(releases.collect()));
    }
    shown.insert("urls".into(), urls.into());
    shown.insert("vulnerabilities".into(), json!([]));
    let bytes = serde_json::to_vec(&shown).expect("JSON values always have a text");
    let response = at(txn.serial(), Response::bytes(200, ask::JSON, bytes));
    Ok(match mirrors.doubt() {
        Some(why) => mirrored::mark_stale(response, &why),
        None => response,
    })
}

/// The newest version that is final and not withdrawn; else the newest of those that come closest to it.
fn newest<'a>(versions: &'a [String], files: &BTreeMap<String, Vec<Json>>) -> Option<&'a String> {
    let is_yanked = |version: &String| {
        files.get(version).is_some_and(|files| files.iter().all(|file| file["yanked"] == true))
    };
    let is_final = |version: &String| Version::parse(version).is_ok_and(|v| v.is_stable());
    // Sorted: the last of the best ones is the newest.
    versions.iter().max_by_key(|version| (!is_yanked(version), is_final(version)))
}

/// What is shown of each file, by version.
fn files_by_version(
    txn: &ReadTxn,
    base: &str,
    project: &ProjectName,
    files: &[PageFile],
) -> Result<BTreeMap<String, Vec<Json>>> {
    let mut shown: BTreeMap<String, Vec<Json>> = BTreeMap::new();
    for file in files {
        let value = txn.row(file.link.path())?.and_then(|row| row.value);
        let record = value.map_or_else(|| Ok(Dict::new()), |value| Dict::decode(&value))?;
        let version = record.text("version").map(str::to_owned);
        let version = version.or_else(|| names::version_of(&file.link.name, project));
        if let Some(version) = version {
            shown.entry(version).or_default().push(shown_file(base, file, &record));
        }
    }
    Ok(shown)
}

fn shown_file(base: &str, file: &PageFile, record: &Dict) -> Json {
    let link = &file.link;
    let mut digests: Map<String, Json> = Map::new();
    let hashes = record.dict("hashes").unwrap_or_default().0;
    let hash = link.hash().map(|(kind, hex)| (kind.to_owned(), Value::from(hex)));
    for (kind, hex) in hash.into_iter().chain(hashes) {
        digests.entry(kind).or_insert_with(|| hex.to_json());
    }
    let (kind, python) = transfer::kind_of(&link.name);
    let tag = match kind {
        "bdist_wheel" => link.name.trim_end_matches(".whl").rsplit('-').nth(2).unwrap_or("any"),
        _ => python.as_str(),
    };
    let requires_python = link.requires_python.as_deref().filter(|python| !python.is_empty());
    let reason = link.yanked.as_str().filter(|reason| !reason.is_empty());
    // The older field has neither fractions of a second nor a zone.
    let time = file.upload_time.as_deref();
    let plain = time.and_then(|time| time.split(['.', 'Z', '+']).next());
    json!({
        "comment_text": "",
        "md5_digest": digests.get("md5"),
        "digests": digests,
        "downloads": -1,
        "filename": link.name,
        "has_sig": false,
        "packagetype": kind,
        "python_version": tag,
        "requires_python": requires_python,
        "size": file.size_bytes,
        "upload_time": plain,
        "upload_time_iso_8601": time,
        "url": format!("{base}/{}", link.path()),
        "yanked": !link.yanked.is_none(),
        "yanked_reason": reason,
    })
}

/// What is known of a version, from the first index of the order that has it.
fn metadata_of(txn: &ReadTxn, walk: &Walk, project: &ProjectName, version: &str) -> Result<Dict> {
    for part in &walk.parts {
        match part.share {
            Share::Holds => {
                let Ok(version) = Version::parse(version) else { continue };
                let key = key::Release(&part.index.name, project, &version);
                if let Some(record) = txn.get(&key)? {
                    return Ok(release::metadata(&record));
                }
            }
            Share::Mirror => {
                let versions = links::mirrored_versions(txn, &part.index, project)?;
                let mut found = versions.into_iter().filter(|v| v.version.as_str() == version);
                if let Some(found) = found.next() {
                    let data = Value::from_json(&Json::Object(found.data))?;
                    return Ok(Dict::from_value(data).unwrap_or_default());
                }
            }
            _ => (),
        }
    }
    Ok(Dict::new())
}

fn info(
    metadata: &Dict,
    index: &str,
    project: &ProjectName,
    version: &str,
    files: &[Json],
) -> Json {
    let text = |key: &str| metadata.text(key).unwrap_or_default();
    let some = |key: &str| metadata.text(key).filter(|text| !text.is_empty());
    let list = |key: &str| metadata.texts(key);
    let some_list = |key: &str| Some(list(key)).filter(|list| !list.is_empty());
    let urls: Map<String, Json> = list("project_urls")
        .iter()
        .filter_map(|line| line.split_once(','))
        .map(|(label, url)| (label.trim().to_owned(), url.trim().into()))
        .collect();
    let reason = files.iter().find_map(|file| file["yanked_reason"].as_str());
    json!({
        "author": text("author"),
        "author_email": text("author_email"),
        "bugtrack_url": null,
        "classifiers": list("classifiers"),
        "description": text("description"),
        "description_content_type": some("description_content_type"),
        "docs_url": null,
        "download_url": text("download_url"),
        "downloads": {"last_day": -1, "last_month": -1, "last_week": -1},
        "dynamic": some_list("dynamic"),
        "home_page": text("home_page"),
        "keywords": text("keywords"),
        "license": text("license"),
        "license_expression": some("license_expression"),
        "license_files": some_list("license_file"),
        "maintainer": text("maintainer"),
        "maintainer_email": text("maintainer_email"),
        "name": some("name").unwrap_or(project.as_str()),
        "package_url": format!("{index}/{project}"),
        "platform": some_list("platform").map(|list| list.join(",")),
        "project_url": format!("{index}/{project}"),
        "project_urls": Some(urls).filter(|urls| !urls.is_empty()),
        "provides_extra": some_list("provides_extras"),
        "release_url": format!("{index}/{project}/{version}"),
        "requires_dist": some_list("requires_dist"),
        "requires_python": some("requires_python"),
        "summary": text("summary"),
        "version": version,
        "yanked": !files.is_empty() && files.iter().all(|file| file["yanked"] == true),
        "yanked_reason": reason,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::links::Metadata;
    use crate::store::record::Link;

    fn file(name: &str, yanked: Value) -> PageFile {
        PageFile {
            owner: IndexName::new("ann", "dev").expect("valid"),
            link: Link {
                name: name.to_owned(),
                href: format!("ann/dev/+f/012/3456789012345/{name}#sha256=ab"),
                requires_python: Some(String::new()),
                yanked,
            },
            size_bytes: Some(3),
            upload_time: Some("2026-11-22T23:59:04.123Z".to_owned()),
            metadata: Metadata::None,
            provenance: None,
        }
    }

    #[test]
    fn a_file_is_shown_with_what_is_known_of_it() {
        let mut record = Dict::new();
        record.set("hashes", Dict(vec![("md5".to_owned(), "cd".into())]));
        let file = file("pkg-1.0-py3-none-any.whl", "broken".into());
        let shown = shown_file("http://h", &file, &record);
        let url = "http://h/ann/dev/+f/012/3456789012345/pkg-1.0-py3-none-any.whl";
        assert_eq!(shown["url"], url);
        assert_eq!(shown["digests"], json!({"sha256": "ab", "md5": "cd"}));
        assert_eq!(shown["packagetype"], "bdist_wheel");
        assert_eq!((&shown["python_version"], &shown["md5_digest"]), (&json!("py3"), &json!("cd")));
        assert_eq!(shown["upload_time"], "2026-11-22T23:59:04");
        assert_eq!(shown["upload_time_iso_8601"], "2026-11-22T23:59:04.123Z");
        assert_eq!((&shown["yanked"], &shown["yanked_reason"]), (&json!(true), &json!("broken")));
        assert_eq!(shown["requires_python"], Json::Null);
    }

    #[test]
    fn the_newest_is_final_and_not_withdrawn_if_there_is_one() {
        let versions = |names: &[&str]| names.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>();
        let all = versions(&["1.0", "1.1", "1.2", "2.0a1"]);
        let files = BTreeMap::from([
            ("1.1".to_owned(), vec![json!({"yanked": false})]),
            ("1.2".to_owned(), vec![json!({"yanked": true}), json!({"yanked": true})]),
        ]);
        assert_eq!(newest(&all, &files).map(String::as_str), Some("1.1"));
        let rest = versions(&["1.2", "2.0a1", "2.0a2"]);
        assert_eq!(newest(&rest, &files).map(String::as_str), Some("2.0a2"));
        assert_eq!(newest(&[], &files), None);
    }

    #[test]
    fn metadata_keep_their_kinds() {
        let mut metadata = Dict::new();
        metadata.set("name", "Some.Pkg");
        metadata.set("summary", "short");
        metadata.set("requires_dist", vec!["a>1".to_owned()]);
        metadata.set("project_urls", vec!["Home, http://x/?a,b".to_owned(), "odd".to_owned()]);
        let project = ProjectName::new("some-pkg");
        let info = info(&metadata, "http://h/ann/dev", &project, "1.0", &[]);
        assert_eq!((&info["name"], &info["version"]), (&json!("Some.Pkg"), &json!("1.0")));
        assert_eq!(info["requires_dist"], json!(["a>1"]));
        assert_eq!(info["project_urls"], json!({"Home": "http://x/?a,b"}));
        assert_eq!((&info["requires_python"], &info["yanked"]), (&Json::Null, &json!(false)));
        assert_eq!(info["release_url"], "http://h/ann/dev/some-pkg/1.0");
    }
}

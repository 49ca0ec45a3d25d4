//! Writing the index: projects put in, replaced and taken out.

use rusqlite::{Connection, OptionalExtension as _, params};

use crate::error::Result;
use crate::names::{IndexName, ProjectName};
use crate::store::Store;
use crate::store::txn::Read;

use super::gather::{self, Docs, Found};
use super::query::{EVERYTHING, PART_CHARS_MIN, exact_mark, mark};
use super::schema::{PLACES_MAX, Row};
use super::text::PageText;

/// How well pages are packed; they are unpacked only to show a few.
const PAGE_LEVEL: i32 = 3;

/// What is known of a project in the index.
struct Known {
    row: Row,
    docs: Option<String>,
    is_waiting: bool,
}

/// Brings what the index has of a project to what the store has of it now.
///
/// # Errors
/// `Kind::Internal` if a database fails.
pub fn project(
    index: &Connection,
    store: &Store,
    txn: &impl Read,
    (name, project): (&IndexName, &ProjectName),
) -> Result<()> {
    let known = known(index, name, project)?;
    let Some(found) = gather::project(txn, name, project)? else {
        return match known {
            Some(known) => remove(index, known.row),
            None => Ok(()),
        };
    };
    let wanted = found.docs.as_ref().map(|docs| docs.identity.as_str());
    let row = match &known {
        Some(known) => known.row,
        None => match add(index, name, project)? {
            Some(row) => row,
            None => return Ok(()),
        },
    };
    let has_docs = known.as_ref().is_some_and(|k| k.docs.as_deref() == wanted && !k.is_waiting);
    let is_waiting = match (&found.docs, has_docs) {
        (_, true) => false,
        (docs, false) => {
            if known.is_some() {
                remove_pages(index, row)?;
            }
            !write_pages(index, store, (name, project), row, docs.as_ref())?
        }
    };
    index
        .prepare_cached(
            "UPDATE project SET version = ?2, summary = ?3, docs = ?4, docs_version = ?5, is_waiting = ?6
             WHERE id = ?1",
        )?
        .execute(params![
            row.project,
            found.version,
            found.summary,
            wanted,
            found.docs.as_ref().map(|docs| docs.version.as_str()),
            is_waiting
        ])?;
    if known.is_some() {
        take(index, row)?;
    }
    put(index, row, &Document::of_project(name, project, &found))
}

/// The row of an index's name, made if there is none; `None` if there are too many.
fn place(index: &Connection, name: &IndexName) -> Result<Option<i64>> {
    let name = name.to_string();
    let mut find = index.prepare_cached("SELECT id FROM place WHERE name = ?1")?;
    let known: Option<i64> = find.query_row([&name], |row| row.get(0)).optional()?;
    let id = match known {
        Some(id) => id,
        None => {
            index.prepare_cached("INSERT INTO place (name) VALUES (?1)")?.execute([&name])?;
            index.last_insert_rowid()
        }
    };
    if id <= PLACES_MAX {
        return Ok(Some(id));
    }
    log::warn!("{name} is not searched: there are too many indexes");
    Ok(None)
}

fn known(index: &Connection, name: &IndexName, project: &ProjectName) -> Result<Option<Known>> {
    let mut find = index.prepare_cached(
        "SELECT project.id, place, docs, is_waiting FROM project JOIN place ON place.id = place
         WHERE place.name = ?1 AND project.name = ?2",
    )?;
    let known = find.query_row(params![name.to_string(), project.as_str()], |row| {
        let place = Row { project: row.get(0)?, place: row.get(1)?, page: 0 };
        Ok(Known { row: place, docs: row.get(2)?, is_waiting: row.get(3)? })
    });
    Ok(known.optional()?)
}

fn add(index: &Connection, name: &IndexName, project: &ProjectName) -> Result<Option<Row>> {
    let Some(place) = place(index, name)? else { return Ok(None) };
    index
        .prepare_cached(
            "INSERT INTO project (place, name, version, summary) VALUES (?1, ?2, '', '')",
        )?
        .execute(params![place, project.as_str()])?;
    Ok(Some(Row { project: index.last_insert_rowid(), place, page: 0 }))
}

/// Takes a project out with its pages.
fn remove(index: &Connection, row: Row) -> Result<()> {
    remove_pages(index, row)?;
    take(index, row)?;
    index.prepare_cached("DELETE FROM project WHERE id = ?1")?.execute([row.project])?;
    index
        .prepare_cached(
            "DELETE FROM place WHERE id = ?1 AND NOT EXISTS (SELECT 1 FROM project WHERE place = ?1)",
        )?
        .execute([row.place])?;
    Ok(())
}

fn remove_pages(index: &Connection, row: Row) -> Result<()> {
    let (first, last) = pages_of(row);
    index
        .prepare_cached(
            "DELETE FROM text WHERE rowid IN (SELECT id FROM page WHERE id BETWEEN ?1 AND ?2)",
        )?
        .execute([first, last])?;
    index.prepare_cached("DELETE FROM page WHERE id BETWEEN ?1 AND ?2")?.execute([first, last])?;
    Ok(())
}

/// The numbers that pages of a project may have.
fn pages_of(row: Row) -> (i64, i64) {
    let first = Row { page: 1, ..row }.id();
    (first, Row { page: super::schema::PAGES_MAX, ..row }.id())
}

/// Replaces the pages of a project's documentation; false if the zip is not here yet.
fn write_pages(
    index: &Connection,
    store: &Store,
    (name, project): (&IndexName, &ProjectName),
    row: Row,
    docs: Option<&Docs>,
) -> Result<bool> {
    let Some(docs) = docs else { return Ok(true) };
    let Some(pages) = gather::pages(store.blobs(), docs)? else { return Ok(false) };
    for (number, (path, text)) in (1..).zip(pages) {
        let row = Row { page: number, ..row };
        let body = zstd::bulk::compress(text.body.as_bytes(), PAGE_LEVEL)?;
        index
            .prepare_cached("INSERT INTO page (id, path, title, body) VALUES (?1, ?2, ?3, ?4)")?
            .execute(params![row.id(), path, text.title, body])?;
        put(index, row, &Document::of_page(name, project, &text))?;
    }
    Ok(true)
}

/// What stands in the table of texts for one row.
#[derive(Default)]
struct Document<'a> {
    name: &'a str,
    parts: String,
    title: &'a str,
    summary: &'a str,
    keywords: String,
    author: &'a str,
    body: &'a str,
    marks: String,
}

impl<'a> Document<'a> {
    fn of_project(index: &IndexName, project: &'a ProjectName, found: &'a Found) -> Self {
        let mut marks = marks(index, project, "project");
        for (kind, is_there) in [
            ("summary", !found.summary.is_empty()),
            ("author", !found.author.is_empty()),
            ("author_email", found.author.contains('@')),
            ("description", !found.description.is_empty()),
            ("keywords", !found.keywords.is_empty()),
        ] {
            if is_there {
                marks.push(' ');
                marks.push_str(&mark('t', kind));
            }
        }
        for keyword in &found.keywords {
            marks.push(' ');
            marks.push_str(&mark('k', keyword));
        }
        for classifier in &found.classifiers {
            marks.push(' ');
            marks.push_str(&mark('c', classifier));
        }
        Self {
            name: project.as_str(),
            parts: parts(project),
            summary: &found.summary,
            keywords: found.keywords.join(" "),
            author: &found.author,
            body: &found.description,
            marks,
            ..Self::default()
        }
    }

    fn of_page(index: &IndexName, project: &ProjectName, page: &'a PageText) -> Self {
        let mut marks = marks(index, project, "page");
        if !page.title.is_empty() {
            marks.push(' ');
            marks.push_str(&mark('t', "title"));
        }
        Self { title: &page.title, body: &page.body, marks, ..Self::default() }
    }
}

/// The marks that say what a document is and where it lies.
fn marks(index: &IndexName, project: &ProjectName, kind: &str) -> String {
    let marks = [
        EVERYTHING.to_owned(),
        mark('n', project.as_str()),
        mark('u', index.user().as_str()),
        mark('i', index.index()),
        mark('p', &format!("/{index}/{project}")),
        mark('t', kind),
        place_mark(&index.to_string()),
    ];
    marks.join(" ")
}

/// The mark of all documents of an index.
pub fn place_mark(index: &str) -> String {
    exact_mark('w', index)
}

/// The ends of a name's words, so that what begins inside a word is found too.
fn parts(project: &ProjectName) -> String {
    let mut parts = Vec::new();
    for word in project.as_str().split('-') {
        for (at, _) in word.char_indices().skip(1) {
            if PART_CHARS_MIN <= word[at..].len() {
                parts.push(&word[at..]);
            }
        }
    }
    parts.join(" ")
}

/// Writes a row that is not there.
fn put(index: &Connection, row: Row, document: &Document<'_>) -> Result<()> {
    index
        .prepare_cached(
            "INSERT INTO text (rowid, name, parts, title, summary, keywords, author, body, marks)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
        )?
        .execute(params![
            row.id(),
            document.name,
            document.parts,
            document.title,
            document.summary,
            document.keywords,
            document.author,
            document.body,
            document.marks
        ])?;
    Ok(())
}

fn take(index: &Connection, row: Row) -> Result<()> {
    index.prepare_cached("DELETE FROM text WHERE rowid = ?1")?.execute([row.id()])?;
    Ok(())
}

/// Projects whose documentation is not here yet.
///
/// # Errors
/// `Kind::Internal` if the database fails.
pub fn waiting(index: &Connection, limit: usize) -> Result<Vec<(String, String, String)>> {
    let mut find = index.prepare_cached(
        "SELECT place.name, project.name, docs FROM project JOIN place ON place.id = place
         WHERE is_waiting ORDER BY project.id DESC LIMIT ?1",
    )?;
    let rows = find.query_map([limit as i64], |row| {
        Ok((row.get(0)?, row.get(1)?, row.get::<_, Option<String>>(2)?.unwrap_or_default()))
    })?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}

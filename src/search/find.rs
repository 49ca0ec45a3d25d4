//! Answers to searches: exact names first, then names that begin so, then what FTS5 ranks.
//!
//! The work is bounded: of a word that stands nearly everywhere only the newest matches are ranked, and the answer says
//! that there are more.

use std::collections::{HashMap, HashSet};
use std::ops::Range;

use rusqlite::{Connection, OptionalExtension as _, params};

use crate::error::{Error, Result};
use crate::names::IndexName;

use super::Search;
use super::fill::place_mark;
use super::query::Query;
use super::schema::{COLUMNS, Row, SHORT_COLUMNS, WEIGHTS};
use super::text::{Piece, excerpt};

/// Matches that are ranked; of more, the newest ones.
const MATCHES_MAX: usize = 2_000;
/// Names that are shown before all else since they begin with what was typed.
const NAMES_MAX: usize = 100;
/// Names that are looked at for that; some may be closed to the one who asks.
const NAMES_LOOKED_AT_MAX: usize = 20_000;
/// Indexes that the database itself is told to leave out, or to keep to; with more of either, matches in closed ones
/// take room among those that are ranked.
const NAMED_MAX: usize = 500;
/// Pages of documentation that are shown of one project.
const PAGES_SHOWN: usize = 3;
/// The longest page of documentation, unpacked.
const PAGE_BYTES_MAX: usize = 1 << 20;

/// What was found.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Found {
    /// How many projects.
    pub total: usize,
    /// Whether there are more, which were not counted.
    pub has_more: bool,
    /// Those that were asked for.
    pub hits: Vec<Hit>,
}

/// A project that was found, itself or by its documentation.
#[derive(Clone, Debug, PartialEq)]
pub struct Hit {
    /// The index that holds it.
    pub index: IndexName,
    /// Its name.
    pub project: String,
    /// The version that installers would take.
    pub version: String,
    /// Its summary, with the words marked.
    pub summary: Vec<Piece>,
    /// Pages of its documentation.
    pub pages: Vec<PageHit>,
    /// How many more pages there are.
    pub pages_more: usize,
}

/// A page of documentation that was found.
#[derive(Clone, Debug, PartialEq)]
pub struct PageHit {
    /// The version that it is of.
    pub version: String,
    /// Its name in the documentation.
    pub path: String,
    /// Its title.
    pub title: String,
    /// The part of its text that has the words.
    pub excerpt: Vec<Piece>,
}

/// Whether the one who asks may read an index.
pub type MayRead<'a> = dyn Fn(&IndexName) -> Result<bool> + 'a;

/// The indexes that searches know, as far as the one who asks may read them.
struct Places {
    open: HashMap<i64, IndexName>,
    closed: Vec<String>,
}

impl Places {
    fn load(connection: &Connection, may_read: &MayRead<'_>) -> Result<Self> {
        let mut query = connection.prepare_cached("SELECT id, name FROM place")?;
        let rows = query.query_map([], |row| Ok((row.get(0)?, row.get::<_, String>(1)?)))?;
        let mut places = Self { open: HashMap::new(), closed: Vec::new() };
        for row in rows {
            let (id, name): (i64, String) = row?;
            match IndexName::parse(&name) {
                Ok(index) if may_read(&index)? => {
                    places.open.insert(id, index);
                }
                _ => places.closed.push(name),
            }
        }
        Ok(places)
    }

    /// What is looked for, without what lies in closed indexes.
    fn narrow(&self, expression: String) -> String {
        let marks = |names: &mut dyn Iterator<Item = String>| {
            let marks = names.map(|name| format!("\"{}\"", place_mark(&name)));
            marks.collect::<Vec<_>>().join(" OR ")
        };
        if self.closed.is_empty() || NAMED_MAX < self.closed.len().min(self.open.len()) {
            return expression;
        }
        if self.open.len() <= self.closed.len() {
            let open = marks(&mut self.open.values().map(ToString::to_string));
            return format!("({expression} AND marks:({open}))");
        }
        format!("({expression} NOT marks:({}))", marks(&mut self.closed.iter().cloned()))
    }
}

/// Projects in the order in which they are shown, each with the pages that were found.
#[derive(Default)]
struct Ranked {
    order: Vec<i64>,
    known: HashSet<i64>,
    pages: HashMap<i64, Vec<i64>>,
}

impl Ranked {
    fn add(&mut self, row: Row) {
        if self.known.insert(row.project) {
            self.order.push(row.project);
        }
        if row.page != 0 {
            let pages = self.pages.entry(row.project).or_default();
            if !pages.contains(&row.id()) {
                pages.push(row.id());
            }
        }
    }
}

impl Search {
    /// Projects that a query means, those in `range` of the whole order.
    ///
    /// # Errors
    /// Those of `may_read`; `Kind::Unavailable` if no connection gets free; `Kind::Internal` if the database fails.
    pub fn find(
        &self,
        query: &Query,
        range: Range<usize>,
        may_read: &MayRead<'_>,
    ) -> Result<Found> {
        self.with(|connection| find(connection, query, range, may_read))
    }

    /// Names of projects that begin like this, each with its index, at most `limit`.
    ///
    /// # Errors
    /// As `find`.
    pub fn suggest(
        &self,
        name: &str,
        limit: usize,
        may_read: &MayRead<'_>,
    ) -> Result<Vec<(IndexName, String)>> {
        self.with(|connection| {
            let places = Places::load(connection, may_read)?;
            let mut names = Vec::new();
            by_name(connection, name, &places, limit, &mut |row, name| {
                let index = places.open.get(&row.place);
                names.extend(index.map(|index| (index.clone(), name.to_owned())));
            })?;
            Ok(names)
        })
    }
}

fn find(
    connection: &Connection,
    query: &Query,
    range: Range<usize>,
    may_read: &MayRead<'_>,
) -> Result<Found> {
    let places = Places::load(connection, may_read)?;
    let mut ranked = Ranked::default();
    if places.open.is_empty() {
        return Ok(Found::default());
    }
    if let Some(name) = query.name() {
        by_name(connection, name, &places, NAMES_MAX, &mut |row, _| ranked.add(row))?;
    }
    let has_more = by_text(connection, query, &places, &mut ranked)?;
    let end = range.end.min(ranked.order.len());
    let mut hits = Vec::new();
    for project in ranked.order.get(range.start.min(end)..end).unwrap_or_default() {
        let pages = ranked.pages.get(project).map(Vec::as_slice).unwrap_or_default();
        hits.extend(hit(connection, *project, pages, &places, query.words())?);
    }
    Ok(Found { total: ranked.order.len(), has_more, hits })
}

/// Projects whose names begin with a text in normal form, the shortest first, so that the very name leads.
fn by_name(
    connection: &Connection,
    name: &str,
    places: &Places,
    limit: usize,
    take: &mut dyn FnMut(Row, &str),
) -> Result<()> {
    let mut query = connection.prepare_cached(
        "SELECT id, place, name FROM project WHERE name >= ?1 AND name < ?1 || char(1114111)
         ORDER BY name, place LIMIT ?2",
    )?;
    let mut rows = query.query(params![name, NAMES_LOOKED_AT_MAX as i64])?;
    let mut found: Vec<(Row, String)> = Vec::new();
    while let Some(row) = rows.next()? {
        let at = Row { project: row.get(0)?, place: row.get(1)?, page: 0 };
        if places.open.contains_key(&at.place) {
            found.push((at, row.get(2)?));
        }
    }
    found.sort_by(|(_, one), (_, other)| (one.len(), one).cmp(&(other.len(), other)));
    found.truncate(limit);
    found.iter().for_each(|(row, name)| take(*row, name));
    Ok(())
}

/// What the texts have; gives whether there is more than was looked at.
fn by_text(
    connection: &Connection,
    query: &Query,
    places: &Places,
    ranked: &mut Ranked,
) -> Result<bool> {
    let Some(expression) = query.expression(COLUMNS) else { return Ok(false) };
    // Of what stands nearly everywhere enough is found by whole words, which costs far less than beginnings.
    let by_whole = places.narrow(query.whole_expression(COLUMNS).unwrap_or_default());
    let whole = newest(connection, &by_whole)?;
    let (is_frequent, has_whole) = (MATCHES_MAX < whole.len(), !whole.is_empty());
    let expression = places.narrow(expression);
    let newest = if is_frequent { whole } else { self::newest(connection, &expression)? };
    let has_more = MATCHES_MAX < newest.len();
    let found = match has_more {
        false if newest.is_empty() => newest,
        false if has_whole => {
            let mut found = best(connection, &by_whole)?;
            found.extend(newest);
            found
        }
        false => best(connection, &expression)?,
        true => {
            let short = match is_frequent {
                true => query.whole_expression(SHORT_COLUMNS),
                false => query.expression(SHORT_COLUMNS),
            };
            let mut found = match short.map(|short| places.narrow(short)) {
                Some(short) => self::newest(connection, &short)?,
                None => Vec::new(),
            };
            found.extend(newest);
            found
        }
    };
    for row in found.into_iter().map(Row::of).filter(|row| places.open.contains_key(&row.place)) {
        ranked.add(row);
    }
    Ok(has_more)
}

/// The newest matches, one more than are ranked if there are that many.
fn newest(connection: &Connection, expression: &str) -> Result<Vec<i64>> {
    let mut query = connection.prepare_cached(
        "SELECT rowid FROM text WHERE text MATCH ?1 ORDER BY rowid DESC LIMIT ?2",
    )?;
    rows(&mut query, expression)
}

/// The best matches, best first; of equals the newest.
fn best(connection: &Connection, expression: &str) -> Result<Vec<i64>> {
    let weights: Vec<String> = WEIGHTS.iter().map(|(_, weight)| weight.to_string()).collect();
    let sql = format!(
        "SELECT rowid FROM text WHERE text MATCH ?1 ORDER BY bm25(text, {}, 0), rowid DESC LIMIT ?2",
        weights.join(", ")
    );
    rows(&mut connection.prepare_cached(&sql)?, expression)
}

fn rows(query: &mut rusqlite::CachedStatement<'_>, expression: &str) -> Result<Vec<i64>> {
    let rows = query.query_map(params![expression, MATCHES_MAX as i64 + 1], |row| row.get(0))?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}

/// What is shown of a project that was found; `None` if it went meanwhile.
fn hit(
    connection: &Connection,
    project: i64,
    pages: &[i64],
    places: &Places,
    words: &[String],
) -> Result<Option<Hit>> {
    let mut query = connection.prepare_cached(
        "SELECT place, name, version, summary, docs_version FROM project WHERE id = ?1",
    )?;
    let found = query.query_row([project], |row| {
        let (place, docs): (i64, Option<String>) = (row.get(0)?, row.get(4)?);
        let texts: (String, String, String) = (row.get(1)?, row.get(2)?, row.get(3)?);
        Ok((place, texts, docs.unwrap_or_default()))
    });
    let Some((place, (name, version, summary), docs_version)) = found.optional()? else {
        return Ok(None);
    };
    let Some(index) = places.open.get(&place).cloned() else { return Ok(None) };
    let mut shown = Vec::new();
    for page in pages.iter().take(PAGES_SHOWN) {
        shown.extend(page_hit(connection, *page, &docs_version, words)?);
    }
    Ok(Some(Hit {
        index,
        project: name,
        version,
        summary: excerpt(&summary, words),
        pages: shown,
        pages_more: pages.len().saturating_sub(PAGES_SHOWN),
    }))
}

fn page_hit(
    connection: &Connection,
    id: i64,
    version: &str,
    words: &[String],
) -> Result<Option<PageHit>> {
    let mut query =
        connection.prepare_cached("SELECT path, title, body FROM page WHERE id = ?1")?;
    let found = query.query_row([id], |row| {
        Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?, row.get::<_, Vec<u8>>(2)?))
    });
    let Some((path, title, body)) = found.optional()? else { return Ok(None) };
    let body = zstd::bulk::decompress(&body, PAGE_BYTES_MAX)?;
    let body = String::from_utf8(body)
        .map_err(|e| Error::internal("a page of the search index is damaged").caused_by(e))?;
    let excerpt = excerpt(&body, words);
    Ok(Some(PageHit { version: version.to_owned(), path, title, excerpt }))
}

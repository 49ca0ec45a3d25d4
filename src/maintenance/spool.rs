//! The index of an export, `dataindex.json`, taken apart while it is read.
//!
//! The file holds the metadata of all releases and may be larger than memory. What is small (users, settings of
//! indexes) stays in memory; the rest goes into a temporary database on disk, from which it is taken by project.

use std::fmt;
use std::fs::File;
use std::io::BufReader;
use std::path::Path;

use rusqlite::{Connection, params};
use serde::de::{DeserializeSeed, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value as Json};

use crate::error::{Context, Error, Result};
use crate::names::ProjectName;

/// The name of the index of an export.
pub const INDEX_FILE: &str = "dataindex.json";

/// The versions of the format that can be read; the newer one is what is written.
const DUMP_VERSIONS: [&str; 2] = ["1", "2"];

const TABLES: &str = "
    CREATE TABLE version (
        stage INTEGER NOT NULL,
        project TEXT NOT NULL,
        version TEXT NOT NULL,
        json TEXT NOT NULL,
        PRIMARY KEY (stage, project, version)
    ) WITHOUT ROWID;
    CREATE TABLE project (
        stage INTEGER NOT NULL,
        project TEXT NOT NULL,
        PRIMARY KEY (stage, project)
    ) WITHOUT ROWID;
    CREATE TABLE file (
        stage INTEGER NOT NULL,
        project TEXT NOT NULL,
        rank INTEGER NOT NULL,
        id INTEGER NOT NULL,
        json TEXT NOT NULL,
        PRIMARY KEY (stage, project, rank, id)
    ) WITHOUT ROWID;
    BEGIN;
";

/// A stage or a mirror of an export.
#[derive(Debug)]
pub struct StageDump {
    /// `user/index`.
    pub name: String,
    /// Its settings.
    pub config: Map<String, Json>,
}

/// An export's index.
pub struct Spool {
    sql: Connection,
    /// The users by name.
    pub users: Map<String, Json>,
    /// The indexes, in order.
    pub stages: Vec<StageDump>,
    /// How many files it names.
    pub files: u64,
    dump_version: Option<String>,
}

impl Spool {
    /// Reads the index of the export in `folder`.
    ///
    /// # Errors
    /// `Kind::Invalid` if there is none or it cannot be read; `Kind::Internal` if the disk refuses.
    pub fn read(folder: &Path) -> Result<Self> {
        let path = folder.join(INDEX_FILE);
        let file = File::open(&path).map_err(|e| {
            let text = format!("{} is no export: {INDEX_FILE} cannot be read", folder.display());
            Error::invalid(text).caused_by(e)
        })?;
        // An empty name is a database on disk that vanishes with the connection.
        let sql = Connection::open("").context(|| "making a temporary database")?;
        sql.execute_batch(TABLES)?;
        let (users, stages) = Default::default();
        let mut spool = Self { sql, users, stages, files: 0, dump_version: None };
        let mut json = serde_json::Deserializer::from_reader(BufReader::new(file));
        Level { spool: &mut spool, at: At::Top }
            .deserialize(&mut json)
            .and_then(|()| json.end())
            .map_err(|e| Error::invalid(format!("{}: {e}", path.display())))?;
        match &spool.dump_version {
            Some(known) if DUMP_VERSIONS.contains(&known.as_str()) => Ok(spool),
            Some(other) => Err(Error::invalid(format!(
                "{}: an export of version {other} cannot be read, only versions {}",
                path.display(),
                DUMP_VERSIONS.join(" and ")
            ))),
            None => Err(Error::invalid(format!("{}: it names no dumpversion", path.display()))),
        }
    }

    /// The projects of an index after `after`, in order, at most `limit`.
    ///
    /// # Errors
    /// `Kind::Internal` if the database fails.
    pub fn projects(&self, stage: usize, after: &str, limit: usize) -> Result<Vec<String>> {
        let mut query = self.sql.prepare_cached(
            "SELECT project FROM project WHERE stage = ?1 AND project > ?2 ORDER BY project LIMIT ?3",
        )?;
        let rows = query.query_map(params![stage as i64, after, limit as i64], |row| row.get(0))?;
        Ok(rows.collect::<rusqlite::Result<_>>()?)
    }

    /// Names and metadata of a project's versions after `after`, in order, at most `limit`.
    ///
    /// # Errors
    /// `Kind::Internal` if the database fails.
    pub fn versions(
        &self,
        (stage, project): (usize, &str),
        after: &str,
        limit: usize,
    ) -> Result<Vec<(String, Json)>> {
        let mut query = self.sql.prepare_cached(
            "SELECT version, json FROM version WHERE stage = ?1 AND project = ?2 AND version > ?3
             ORDER BY version LIMIT ?4",
        )?;
        let mut rows = query.query(params![stage as i64, project, after, limit as i64])?;
        let mut found = Vec::new();
        while let Some(row) = rows.next()? {
            found.push((row.get(0)?, parse(&row.get::<_, String>(1)?)?));
        }
        Ok(found)
    }

    /// The metadata of one version.
    ///
    /// # Errors
    /// `Kind::Internal` if the database fails.
    pub fn version(&self, (stage, project): (usize, &str), version: &str) -> Result<Option<Json>> {
        let mut query = self.sql.prepare_cached(
            "SELECT json FROM version WHERE stage = ?1 AND project = ?2 AND version = ?3",
        )?;
        let mut rows = query.query(params![stage as i64, project, version])?;
        let Some(row) = rows.next()? else { return Ok(None) };
        parse(&row.get::<_, String>(0)?).map(Some)
    }

    /// The files of a project after the place `after`, releases before what hangs on them, at most `limit`, each with
    /// its place.
    ///
    /// # Errors
    /// `Kind::Internal` if the database fails.
    pub fn files(
        &self,
        (stage, project): (usize, &str),
        after: (i64, i64),
        limit: usize,
    ) -> Result<Vec<((i64, i64), Json)>> {
        let mut query = self.sql.prepare_cached(
            "SELECT rank, id, json FROM file WHERE stage = ?1 AND project = ?2 AND (rank, id) > (?3, ?4)
             ORDER BY rank, id LIMIT ?5",
        )?;
        let key = params![stage as i64, project, after.0, after.1, limit as i64];
        let mut rows = query.query(key)?;
        let mut found = Vec::new();
        while let Some(row) = rows.next()? {
            found.push(((row.get(0)?, row.get(1)?), parse(&row.get::<_, String>(2)?)?));
        }
        Ok(found)
    }

    /// A project that files of an index belong to and that the index does not name.
    ///
    /// # Errors
    /// `Kind::Internal` if the database fails.
    pub fn stray(&self, stage: usize) -> Result<Option<String>> {
        let mut query = self.sql.prepare_cached(
            "SELECT f.project FROM file f LEFT JOIN project p ON p.stage = f.stage AND p.project = f.project
             WHERE f.stage = ?1 AND p.project IS NULL LIMIT 1",
        )?;
        let mut rows = query.query([stage as i64])?;
        Ok(rows.next()?.map(|row| row.get(0)).transpose()?)
    }

    fn add_project(&self, stage: usize, project: &str) -> Result<()> {
        let mut put = self.sql.prepare_cached("INSERT OR IGNORE INTO project VALUES (?1, ?2)")?;
        put.execute(params![stage as i64, project])?;
        Ok(())
    }

    fn add_version(&self, stage: usize, project: &str, name: &str, json: &Json) -> Result<()> {
        let mut put =
            self.sql.prepare_cached("INSERT OR REPLACE INTO version VALUES (?1, ?2, ?3, ?4)")?;
        put.execute(params![stage as i64, project, name, json.to_string()])?;
        Ok(())
    }

    fn add_file(&mut self, stage: usize, json: &Json) -> Result<()> {
        let project = json["projectname"].as_str();
        let project = project.ok_or_else(|| Error::invalid("a file names no project"))?;
        let rank = match json["type"].as_str() {
            Some("releasefile") => 0,
            Some("doczip") => 1,
            _ => 2,
        };
        self.files += 1;
        let project = ProjectName::new(project);
        let mut put = self.sql.prepare_cached("INSERT INTO file VALUES (?1, ?2, ?3, ?4, ?5)")?;
        let place =
            params![stage as i64, project.as_str(), rank, self.files as i64, json.to_string()];
        put.execute(place)?;
        Ok(())
    }

    fn stage_named(&mut self, name: String) -> usize {
        self.stages.push(StageDump { name, config: Map::new() });
        self.stages.len() - 1
    }
}

fn parse(text: &str) -> Result<Json> {
    serde_json::from_str(text)
        .map_err(|e| Error::internal("the temporary database is damaged").caused_by(e))
}

/// Where in the file the reader is.
enum At {
    Top,
    Indexes,
    Stage(usize),
    Projects(usize),
    Versions(usize, String),
    Files(usize),
}

/// Reads one level of the file into the spool.
struct Level<'s> {
    spool: &'s mut Spool,
    at: At,
}

impl Level<'_> {
    fn below(&mut self, at: At) -> Level<'_> {
        Level { spool: self.spool, at }
    }

    fn top<'de, A: MapAccess<'de>>(
        &mut self,
        key: &str,
        map: &mut A,
    ) -> std::result::Result<(), A::Error> {
        match key {
            "users" => self.spool.users = map.next_value()?,
            "indexes" => map.next_value_seed(self.below(At::Indexes))?,
            "dumpversion" => {
                let json: Json = map.next_value()?;
                let text = json.as_str().map_or_else(|| json.to_string(), str::to_owned);
                self.spool.dump_version = Some(text);
            }
            _ => drop(map.next_value::<IgnoredAny>()?),
        }
        Ok(())
    }

    fn stage<'de, A: MapAccess<'de>>(
        &mut self,
        stage: usize,
        key: &str,
        map: &mut A,
    ) -> std::result::Result<(), A::Error> {
        match key {
            "indexconfig" => self.spool.stages[stage].config = map.next_value()?,
            "projects" => map.next_value_seed(self.below(At::Projects(stage)))?,
            "files" => map.next_value_seed(self.below(At::Files(stage)))?,
            _ => drop(map.next_value::<IgnoredAny>()?),
        }
        Ok(())
    }
}

impl<'de> DeserializeSeed<'de> for Level<'_> {
    type Value = ();

    fn deserialize<D: serde::Deserializer<'de>>(
        self,
        from: D,
    ) -> std::result::Result<(), D::Error> {
        match self.at {
            At::Files(_) => from.deserialize_seq(self),
            _ => from.deserialize_map(self),
        }
    }
}

impl<'de> Visitor<'de> for Level<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.at {
            At::Files(_) => "a list of files",
            _ => "an object",
        })
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> std::result::Result<(), A::Error> {
        while let Some(key) = map.next_key::<String>()? {
            match &self.at {
                At::Top => self.top(&key, &mut map)?,
                At::Indexes => {
                    let stage = self.spool.stage_named(key);
                    map.next_value_seed(self.below(At::Stage(stage)))?;
                }
                At::Stage(stage) => self.stage(*stage, &key, &mut map)?,
                At::Projects(stage) => {
                    let (stage, project) = (*stage, ProjectName::new(&key).to_string());
                    self.spool.add_project(stage, &project).map_err(A::Error::custom)?;
                    map.next_value_seed(self.below(At::Versions(stage, project)))?;
                }
                At::Versions(stage, project) => {
                    let json: Json = map.next_value()?;
                    let added = self.spool.add_version(*stage, project, &key, &json);
                    added.map_err(A::Error::custom)?;
                }
                At::Files(_) => return Err(A::Error::custom("an object where a list is due")),
            }
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> std::result::Result<(), A::Error> {
        let At::Files(stage) = self.at else {
            return Err(A::Error::custom("a list where an object is due"));
        };
        while let Some(json) = list.next_element::<Json>()? {
            self.spool.add_file(stage, &json).map_err(A::Error::custom)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Spool> {
        let dir = tempfile::tempdir().expect("a folder");
        std::fs::write(dir.path().join(INDEX_FILE), text).expect("written");
        Spool::read(dir.path())
    }

    #[test]
    fn an_index_is_taken_apart_by_project() {
        let spool = read(
            r#"{"users": {"a": {"email": "x"}}, "more": [1], "dumpversion": 2, "indexes": {
                "a/dev": {"indexconfig": {"type": "stage"},
                    "projects": {"P_1": {"1.0": {"name": "P_1"}}, "p-1": {"2.0": {}}, "q": {}},
                    "files": [{"projectname": "P.1", "type": "doczip", "n": 1},
                              {"projectname": "p-1", "type": "releasefile", "n": 2},
                              {"projectname": "stray", "type": "releasefile"}]},
                "a/mir": {"indexconfig": {"type": "mirror"}}}}"#,
        )
        .expect("reads");
        assert_eq!((spool.users.len(), spool.stages.len(), spool.files), (1, 2, 3));
        assert_eq!(spool.stages[1].config["type"], "mirror");
        assert_eq!(spool.projects(0, "", 9).expect("reads"), ["p-1", "q"]);
        assert_eq!(spool.projects(0, "p-1", 9).expect("reads"), ["q"]);
        let versions = spool.versions((0, "p-1"), "", 9).expect("reads");
        assert_eq!(versions.iter().map(|(name, _)| name).collect::<Vec<_>>(), ["1.0", "2.0"]);
        let files = spool.files((0, "p-1"), (-1, 0), 9).expect("reads");
        assert_eq!(files.iter().map(|(_, file)| &file["n"]).collect::<Vec<_>>(), [2, 1]);
        assert_eq!(spool.stray(0).expect("reads").as_deref(), Some("stray"));
        assert_eq!(spool.stray(1).expect("reads"), None);
    }

    #[test]
    fn what_is_no_index_is_refused_with_its_place() {
        for (text, part) in [
            (r#"{"users": {}, "dumpversion": "3"}"#, "version 3"),
            (r#"{"users": {}}"#, "dumpversion"),
            (r#"{"dumpversion": "2", "indexes": {"a/b": {"files": {}}}}"#, "line 1"),
            (r#"{"dumpversion": "2", "indexes": {"a/b": {"files": [{}]}}}"#, "no project"),
            (r#"{"dumpversion": "2""#, "EOF"),
            ("", "EOF"),
        ] {
            let error = read(text).err().expect("is refused");
            assert!(error.message.contains(part), "{}", error.message);
        }
    }
}

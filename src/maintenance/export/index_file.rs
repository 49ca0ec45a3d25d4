//! The index of an export, written piece by piece: JSON with two spaces per level, all of it ASCII, since devpi reads it
//! in whatever encoding its machine has.

use std::fmt::Write as _;
use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::path::Path;

use serde_json::Value as Json;

use crate::error::{Context, Error, Result};

/// A file of JSON that is being written.
pub struct IndexFile {
    file: BufWriter<File>,
    /// What closes each open level, and whether the level holds something.
    levels: Vec<(char, bool)>,
}

impl IndexFile {
    /// Begins the file.
    ///
    /// # Errors
    /// `Kind::Internal` if the disk refuses.
    pub fn create(path: &Path) -> Result<Self> {
        let file = File::create(path).context(|| format!("making {}", path.display()))?;
        Ok(Self { file: BufWriter::new(file), levels: Vec::new() })
    }

    /// Begins an object.
    ///
    /// # Errors
    /// `Kind::Internal` if the disk refuses.
    pub fn open(&mut self, key: Option<&str>) -> Result<()> {
        self.begin(key)?;
        self.levels.push(('}', false));
        self.put("{")
    }

    /// Begins a list.
    ///
    /// # Errors
    /// `Kind::Internal` if the disk refuses.
    pub fn open_list(&mut self, key: &str) -> Result<()> {
        self.begin(Some(key))?;
        self.levels.push((']', false));
        self.put("[")
    }

    /// Ends the innermost object or list.
    ///
    /// # Errors
    /// `Kind::Internal` if the disk refuses.
    pub fn close(&mut self) -> Result<()> {
        let Some((end, is_filled)) = self.levels.pop() else {
            return Err(Error::internal("there is no level to close"));
        };
        if is_filled {
            let indent = self.indent();
            self.put(&indent)?;
        }
        self.put(&end.to_string())
    }

    /// Writes a value.
    ///
    /// # Errors
    /// `Kind::Internal` if the disk refuses.
    pub fn value(&mut self, key: Option<&str>, value: &Json) -> Result<()> {
        self.begin(key)?;
        let text = serde_json::to_string_pretty(value)
            .map_err(|e| Error::internal("a value cannot be written").caused_by(e))?;
        // A line break inside a text is written as \n, so each one that is there ends a line.
        let text = text.replace('\n', &self.indent());
        self.put(&ascii(&text))
    }

    /// Ends the file and has it on disk.
    ///
    /// # Errors
    /// `Kind::Internal` if the disk refuses.
    pub fn finish(mut self) -> Result<()> {
        self.put("\n")?;
        let file = self.file.into_inner().map_err(|e| Error::from(e.into_error()))?;
        file.sync_all().context(|| "syncing the index of the export")
    }

    fn begin(&mut self, key: Option<&str>) -> Result<()> {
        let indent = self.indent();
        if let Some((_, is_filled)) = self.levels.last_mut() {
            let comma = if std::mem::replace(is_filled, true) { "," } else { "" };
            self.put(&format!("{comma}{indent}"))?;
        }
        let Some(key) = key else { return Ok(()) };
        self.put(&format!("{}: ", ascii(&Json::from(key).to_string())))
    }

    fn indent(&self) -> String {
        format!("\n{}", "  ".repeat(self.levels.len()))
    }

    fn put(&mut self, text: &str) -> Result<()> {
        self.file.write_all(text.as_bytes()).context(|| "writing the index of the export")
    }
}

/// JSON with what is not ASCII escaped; it can only stand in texts.
fn ascii(json: &str) -> String {
    let mut out = String::with_capacity(json.len());
    let mut units = [0; 2];
    for c in json.chars() {
        if c.is_ascii() {
            out.push(c);
            continue;
        }
        for unit in c.encode_utf16(&mut units) {
            write!(out, "\\u{unit:04x}").expect("a String takes all");
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn pieces_come_out_as_the_whole_would() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("x.json");
        let mut out = IndexFile::create(&path).expect("makes");
        out.open(None).expect("opens");
        out.open(Some("empty")).expect("opens");
        out.close().expect("closes");
        out.open_list("list").expect("opens");
        out.value(None, &json!({"a": ["x\ny", {}]})).expect("writes");
        out.value(None, &json!(2)).expect("writes");
        out.close().expect("closes");
        out.value(Some("u\u{e9}\u{1f600}"), &json!("\u{e9}")).expect("writes");
        out.close().expect("closes");
        out.finish().expect("ends");
        let text = std::fs::read_to_string(&path).expect("reads");
        assert!(text.is_ascii(), "{text}");
        let whole =
            json!({"empty": {}, "list": [{"a": ["x\ny", {}]}, 2], "u\u{e9}\u{1f600}": "\u{e9}"});
        assert_eq!(serde_json::from_str::<Json>(&text).expect("is JSON"), whole);
        assert_eq!(text.trim_end(), ascii(&serde_json::to_string_pretty(&whole).expect("writes")));
    }
}

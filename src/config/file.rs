//! The YAML file: the section `devpi-server`, read strictly - a value is the text that stands there, never a guess.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use serde::de::{Deserialize, Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::Refused;

/// The section that all programs read.
const SECTION: &str = "devpi-server";

/// The longest file in bytes; a real one has a few lines.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// What stands behind a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Entry {
    /// A text.
    One(String),
    /// A list of texts.
    Many(Vec<String>),
    /// A mapping from text to text.
    Fields(BTreeMap<String, String>),
}

/// The section's keys in order.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Section(pub BTreeMap<String, Entry>);

impl Section {
    /// Reads the section of the file at `path`.
    ///
    /// # Errors
    /// `Refused::File` if it cannot be read, is no YAML, or has a list where a mapping belongs.
    pub fn load(path: &Path) -> Result<Self, Refused> {
        let refuse = |why: &dyn fmt::Display| Refused::File(format!("{}: {why}", path.display()));
        let size = std::fs::metadata(path).map_err(|e| refuse(&e))?.len();
        if FILE_BYTES_MAX < size {
            return Err(refuse(&"the file is too large for a configuration"));
        }
        let text = std::fs::read_to_string(path).map_err(|e| refuse(&e))?;
        Self::parse(&text).map_err(|why| refuse(&why))
    }

    fn parse(text: &str) -> Result<Self, String> {
        if text.lines().all(|line| line.trim().is_empty() || line.trim_start().starts_with('#')) {
            return Ok(Self::default());
        }
        serde_saphyr::from_str::<Document>(text)
            .map(|document| document.0)
            .map_err(|e| e.to_string())
    }
}

/// The file that is read when none is named: the user's, else the site's. All that exist are returned, the one that
/// counts last.
pub fn found(variable: &dyn Fn(&str) -> Option<String>) -> Vec<PathBuf> {
    let set = |name: &str| variable(name).filter(|value| !value.is_empty());
    let site = set("XDG_CONFIG_DIRS").unwrap_or_else(|| "/etc/xdg".to_owned());
    let mut folders: Vec<PathBuf> = site.split(':').map(PathBuf::from).collect();
    let user = set("XDG_CONFIG_HOME")
        .map(PathBuf::from)
        .or_else(|| set("HOME").map(|home| Path::new(&home).join(".config")));
    folders.extend(user);
    folders
        .into_iter()
        .filter(|folder| folder.is_absolute())
        .map(|folder| folder.join("devpi-server/devpi-server.yml"))
        .filter(|file| file.is_file())
        .collect()
}

/// The whole file; other sections belong to others.
struct Document(Section);

impl<'de> Deserialize<'de> for Document {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Top;
        impl<'de> Visitor<'de> for Top {
            type Value = Document;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a mapping")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Document, A::Error> {
                let mut section = Section::default();
                while let Some(name) = map.next_key::<String>()? {
                    if name == SECTION {
                        section = map.next_value()?;
                    } else {
                        map.next_value::<IgnoredAny>()?;
                    }
                }
                Ok(Document(section))
            }
            fn visit_seq<A: SeqAccess<'de>>(self, _: A) -> Result<Document, A::Error> {
                Err(A::Error::custom("the file must be a mapping, not a list"))
            }
        }
        deserializer.deserialize_any(Top)
    }
}

impl<'de> Deserialize<'de> for Section {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Keys;
        impl<'de> Visitor<'de> for Keys {
            type Value = Section;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a mapping")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Section, A::Error> {
                let mut section = Section::default();
                while let Some(key) = map.next_key::<String>()? {
                    // Asked for text, the parser gives what stands there: 0600 stays 0600.
                    let entry = match key.as_str() {
                        "listen" | "skip-import-type" | "storage" | "indexer-backend" => {
                            map.next_value()?
                        }
                        _ => Entry::One(map.next_value()?),
                    };
                    section.0.insert(key, entry);
                }
                Ok(section)
            }
            fn visit_seq<A: SeqAccess<'de>>(self, _: A) -> Result<Section, A::Error> {
                Err(A::Error::custom(format!("{SECTION} must be a mapping, not a list")))
            }
            fn visit_unit<E>(self) -> Result<Section, E> {
                Ok(Section::default())
            }
        }
        deserializer.deserialize_any(Keys)
    }
}

impl<'de> Deserialize<'de> for Entry {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Any;
        impl<'de> Visitor<'de> for Any {
            type Value = Entry;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a text, a list of texts or a mapping of texts")
            }
            fn visit_str<E>(self, text: &str) -> Result<Entry, E> {
                Ok(Entry::One(text.to_owned()))
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Entry, A::Error> {
                let mut texts = Vec::new();
                while let Some(text) = items.next_element()? {
                    texts.push(text);
                }
                Ok(Entry::Many(texts))
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Entry, A::Error> {
                let mut fields = BTreeMap::new();
                while let Some((key, value)) = map.next_entry()? {
                    fields.insert(key, value);
                }
                Ok(Entry::Fields(fields))
            }
        }
        deserializer.deserialize_any(Any)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(section: &Section, key: &str) -> String {
        match &section.0[key] {
            Entry::One(text) => text.clone(),
            other => panic!("{key}: {other:?}"),
        }
    }

    #[test]
    fn values_are_the_text_that_stands_there() {
        let section = Section::parse(
            "other:\n  - 1\ndevpi-server:\n  port: 4040\n  unix-socket-perms: 0660\n  offline-mode: yes\n  \
             outside-url: https://packages.example.org\n  root-passwd: 1e3\n  theme: '~'\n",
        )
        .unwrap();
        assert_eq!(one(&section, "port"), "4040");
        assert_eq!(one(&section, "unix-socket-perms"), "0660");
        assert_eq!(one(&section, "offline-mode"), "yes");
        assert_eq!(one(&section, "outside-url"), "https://packages.example.org");
        assert_eq!(one(&section, "root-passwd"), "1e3");
        assert_eq!(one(&section, "theme"), "~");
    }

    #[test]
    fn listen_takes_a_list_and_storage_a_mapping() {
        let section = Section::parse(
            "devpi-server:\n  listen:\n    - localhost:4040\n    - '[::1]:4041'\n  storage:\n    name: sqlite\n",
        )
        .unwrap();
        let both = vec!["localhost:4040".to_owned(), "[::1]:4041".to_owned()];
        assert_eq!(section.0["listen"], Entry::Many(both));
        let fields = [("name".to_owned(), "sqlite".to_owned())].into();
        assert_eq!(section.0["storage"], Entry::Fields(fields));
        let section = Section::parse("devpi-server:\n  listen: localhost:4040\n").unwrap();
        assert_eq!(one(&section, "listen"), "localhost:4040");
    }

    #[test]
    fn lists_where_a_mapping_belongs_are_refused() {
        for text in [
            "- a\n- b\n",
            "devpi-server:\n  - port\n",
            "devpi-server:\n  port: [1, 2]\n",
            "devpi-server: {port: 1",
            "devpi-server:\n  port: 1\n  port: 2\n",
        ] {
            assert!(Section::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn nothing_to_read_is_an_empty_section() {
        for text in ["", "# only words\n", "other:\n  a: b\n", "devpi-server:\n"] {
            assert_eq!(Section::parse(text), Ok(Section::default()), "{text:?}");
        }
    }

    #[test]
    fn the_users_file_counts_before_the_sites() {
        let dir = tempfile::tempdir().unwrap();
        let folder = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
        let variable = |name: &str| match name {
            "XDG_CONFIG_DIRS" => Some(format!("{}:{}", folder("site-a"), folder("site-b"))),
            "HOME" => Some(folder("home")),
            _ => None,
        };
        assert!(found(&variable).is_empty());
        for place in ["site-b", "home/.config"] {
            let place = dir.path().join(place).join("devpi-server");
            std::fs::create_dir_all(&place).unwrap();
            std::fs::write(place.join("devpi-server.yml"), "").unwrap();
        }
        let files = found(&variable);
        assert_eq!(files.len(), 2);
        assert!(files[0].starts_with(folder("site-b")) && files[1].starts_with(folder("home")));
    }
}

//! The settings of indexes: which there are for each type, how a request's values are read, and the list form of a
//! change (spec/http-api.md section 6).

use serde_json::{Map, Value as Json};

use crate::error::{Error, Result};
use crate::names::{IndexName, ProjectName};
use crate::store::codec::Value;
use crate::store::record::Dict;

use super::acl::{ANONYMOUS, AUTHENTICATED};

/// How the value of a setting is read.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    Bool,
    Int,
    Text,
    Any,
    Url,
    /// Users, groups, and the two special principals.
    Principals,
    /// Normal project names and `*`.
    Projects,
    /// Other indexes.
    Bases,
    /// `union` or `intersection`.
    Inheritance,
}

impl Form {
    fn is_list(self) -> bool {
        matches!(self, Self::Principals | Self::Projects | Self::Bases)
    }
}

const COMMON: [(&str, Form); 5] = [
    ("volatile", Form::Bool),
    ("title", Form::Any),
    ("description", Form::Any),
    ("custom_data", Form::Any),
    ("acl_pkg_read", Form::Principals),
];

const OF_STAGE: [(&str, Form); 5] = [
    ("acl_upload", Form::Principals),
    ("acl_toxresult_upload", Form::Principals),
    ("bases", Form::Bases),
    ("mirror_whitelist", Form::Projects),
    ("mirror_whitelist_inheritance", Form::Inheritance),
];

const OF_MIRROR: [(&str, Form); 7] = [
    ("mirror_url", Form::Url),
    ("mirror_cache_expiry", Form::Int),
    ("mirror_no_project_list", Form::Bool),
    ("mirror_use_external_urls", Form::Bool),
    ("mirror_ignore_serial_header", Form::Bool),
    ("mirror_provides_core_metadata", Form::Bool),
    ("mirror_web_url_fmt", Form::Text),
];

/// The two types of index that this server knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Type {
    /// Takes uploads.
    Stage,
    /// Caches another server.
    Mirror,
}

impl Type {
    /// Reads the word of a configuration.
    ///
    /// # Errors
    /// `Kind::Invalid` for any other word.
    pub fn parse(word: &str) -> Result<Self> {
        match word {
            "stage" => Ok(Self::Stage),
            "mirror" => Ok(Self::Mirror),
            _ => Err(Error::invalid(format!("unknown index type '{word}'"))),
        }
    }
    /// The word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Stage => "stage",
            Self::Mirror => "mirror",
        }
    }
    fn form(self, key: &str) -> Option<Form> {
        let own: &[(&str, Form)] = match self {
            Self::Stage => &OF_STAGE,
            Self::Mirror => &OF_MIRROR,
        };
        COMMON.iter().chain(own).find(|(name, _)| *name == key).map(|(_, form)| *form)
    }
    /// Settings of the other type that clients send to this one all the same.
    fn passes_over(self, key: &str) -> bool {
        self == Self::Mirror && OF_STAGE.iter().any(|(name, _)| *name == key)
    }
    fn has_default(self, key: &str) -> bool {
        key == "volatile" || self == Self::Stage && OF_STAGE.iter().any(|(name, _)| *name == key)
    }
}

/// The configuration of a new index before any setting is applied.
pub fn defaults(of: Type, owner: &str) -> Dict {
    let mut config = Dict::new();
    config.set("type", of.as_str());
    config.set("volatile", true);
    if of == Type::Stage {
        config.set("acl_upload", vec![owner.to_owned()]);
        config.set("acl_toxresult_upload", vec![ANONYMOUS.to_owned()]);
        config.set("bases", Value::Tuple(Vec::new()));
        config.set("mirror_whitelist", Value::List(Vec::new()));
        config.set("mirror_whitelist_inheritance", "intersection");
    }
    config
}

/// Applies the settings of a request to a configuration. All problems are told at once.
///
/// # Errors
/// `Kind::Invalid` with what is wrong.
pub fn apply(of: Type, config: &mut Dict, fields: &Map<String, Json>) -> Result<()> {
    let (mut unknown, mut wrong) = (Vec::new(), Vec::new());
    for (key, value) in fields {
        match of.form(key) {
            _ if matches!(key.as_str(), "type" | "projects" | "name") || of.passes_over(key) => (),
            None => unknown.push(format!("{key}={}", plain(value))),
            Some(form) => match read(form, key, value) {
                Ok(value) => config.set(key, value),
                Err(e) => wrong.push(e.message),
            },
        }
    }
    if !unknown.is_empty() {
        let unknown = unknown.join(", ");
        wrong.insert(0, format!("indexconfig got unexpected keyword arguments: {unknown}"));
    }
    if wrong.is_empty() { Ok(()) } else { Err(Error::invalid(wrong.join(", "))) }
}

fn plain(value: &Json) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

fn read(form: Form, key: &str, value: &Json) -> Result<Value> {
    match form {
        Form::Any => Value::from_json(value),
        Form::Bool => flag(value).map(Value::Bool),
        Form::Int => {
            whole(value).ok_or_else(|| Error::invalid(format!("'{key}' option must be an integer")))
        }
        Form::Text => text(key, value).map(Value::Str),
        Form::Url => match text(key, value)? {
            url if url.starts_with("http://") || url.starts_with("https://") => Ok(Value::Str(url)),
            _ => Err(Error::invalid(format!("'{key}' option must be a URL."))),
        },
        Form::Inheritance => match text(key, value)?.to_lowercase() {
            word if word == "union" || word == "intersection" => Ok(Value::Str(word)),
            word => Err(Error::invalid(format!(
                "unknown value '{word}' for {key}, must be one of intersection, union"
            ))),
        },
        Form::Principals => {
            Ok(list(key, value)?.into_iter().map(principal).collect::<Vec<_>>().into())
        }
        Form::Projects => Ok(list(key, value)?.into_iter().map(project).collect::<Vec<_>>().into()),
        Form::Bases => {
            let bases = list(key, value)?.into_iter().map(base).collect::<Result<Vec<_>>>()?;
            Ok(Value::Tuple(bases.into_iter().map(Value::Str).collect()))
        }
    }
}

fn flag(value: &Json) -> Result<bool> {
    let word = plain(value).to_lowercase();
    match word.as_str() {
        "true" | "yes" => Ok(true),
        "false" | "no" => Ok(false),
        _ => Err(Error::invalid(format!("Unknown boolean value '{}'.", plain(value)))),
    }
}

fn whole(value: &Json) -> Option<Value> {
    let number = match value {
        Json::Number(number) => number.as_i64(),
        Json::String(text) => text.trim().parse().ok(),
        _ => None,
    }?;
    i32::try_from(number).ok().map(Value::Int)
}

fn text(key: &str, value: &Json) -> Result<String> {
    match value {
        Json::String(text) => Ok(text.clone()),
        _ => Err(Error::invalid(format!("'{key}' option must be text, not {value}"))),
    }
}

/// A list, or its parts separated by commas; blanks around parts and empty parts go.
fn list(key: &str, value: &Json) -> Result<Vec<String>> {
    let parts = match value {
        Json::String(text) => text.split(',').map(str::to_owned).collect(),
        Json::Array(items) => {
            items.iter().map(|item| text(key, item)).collect::<Result<Vec<_>>>()?
        }
        _ => return Err(Error::invalid(format!("'{key}' option must be a list, not {value}"))),
    };
    let trimmed = parts.iter().map(|part| part.trim().to_owned());
    Ok(trimmed.filter(|part| !part.is_empty()).collect())
}

fn principal(name: String) -> String {
    match name.to_uppercase() {
        upper if upper == ANONYMOUS || upper == AUTHENTICATED => upper,
        _ => name,
    }
}

fn project(name: String) -> String {
    if name == "*" { name } else { ProjectName::new(&name).to_string() }
}

fn base(name: String) -> Result<String> {
    let name = name.trim_matches('/');
    match IndexName::parse(name) {
        Ok(index) => Ok(index.to_string()),
        Err(_) => Err(Error::invalid(format!("invalid base index spec: '{name}'"))),
    }
}

/// One change of the list form.
struct Operation<'a> {
    key: &'a str,
    verb: Verb,
    value: &'a str,
}

#[derive(PartialEq)]
enum Verb {
    Set,
    Add,
    Remove,
    Drop,
}

impl<'a> Operation<'a> {
    fn parse(text: &'a str) -> Result<Self> {
        let (key, value) = text
            .split_once('=')
            .ok_or_else(|| Error::invalid(format!("'{text}' is not of the form key=value")))?;
        let (key, verb) = match (key.strip_suffix('+'), key.strip_suffix('-')) {
            (Some(key), _) => (key, Verb::Add),
            (None, Some(key)) if value.is_empty() => (key, Verb::Drop),
            (None, Some(key)) => (key, Verb::Remove),
            (None, None) => (key, Verb::Set),
        };
        Ok(Self { key, verb, value })
    }
}

/// Applies a list of `key=value`, `key+=value`, `key-=value` and `key-=` in order.
///
/// # Errors
/// `Kind::Invalid` with what is wrong.
pub fn apply_operations(of: Type, config: &mut Dict, operations: &[Json]) -> Result<()> {
    for operation in operations {
        let text = operation.as_str().ok_or_else(|| {
            Error::invalid(format!("a list of changes holds texts, not {operation}"))
        })?;
        apply_operation(of, config, &Operation::parse(text)?)?;
    }
    Ok(())
}

fn apply_operation(of: Type, config: &mut Dict, operation: &Operation<'_>) -> Result<()> {
    let Operation { key, verb, value } = operation;
    let Some(form) = of.form(key).filter(|_| *key != "type") else {
        let fields = Map::from_iter([((*key).to_owned(), Json::from(*value))]);
        return match *key {
            "type" if config.text("type") == Some(value) => Ok(()),
            "type" => Err(Error::invalid("the 'type' of an index can't be changed")),
            _ => apply(of, config, &fields),
        };
    };
    match verb {
        Verb::Set => config.set(key, read(form, key, &Json::from(*value))?),
        Verb::Drop if of.has_default(key) => {
            return Err(Error::invalid("Default values can't be removed."));
        }
        Verb::Drop => {
            config.remove(key);
        }
        Verb::Add | Verb::Remove if !form.is_list() => {
            return Err(Error::invalid(format!("The '{key}' setting isn't a list.")));
        }
        Verb::Add | Verb::Remove => {
            let named = read(form, key, &Json::from(*value))?;
            let (Value::List(named) | Value::Tuple(named)) = named else { return Ok(()) };
            let mut items = config.items(key).to_vec();
            for name in named {
                change_list(&mut items, name, verb, key)?;
            }
            let is_tuple = form == Form::Bases;
            config.set(key, if is_tuple { Value::Tuple(items) } else { Value::List(items) });
        }
    }
    Ok(())
}

fn change_list(items: &mut Vec<Value>, name: Value, verb: &Verb, key: &str) -> Result<()> {
    let held = items.iter().position(|item| *item == name);
    match (verb, held) {
        (Verb::Remove, Some(at)) => {
            items.remove(at);
        }
        (Verb::Remove, None) => {
            let name = name.as_str().unwrap_or_default();
            return Err(Error::invalid(format!("The '{key}' setting doesn't have value '{name}'")));
        }
        (_, Some(_)) => (),
        (_, None) => items.push(name),
    }
    Ok(())
}

//! What a transaction did, in words: an entry of the log next to the values that stood before it.
//!
//! Nothing secret becomes words: of a user's record the names of fields alone, of an upstream's address all but the
//! credentials. Each sentence names whose it is to read.

#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::time::SystemTime;

use crate::error::Result;
use crate::names::{IndexName, UserName};
use crate::serial::Serial;
use crate::store::codec::{RawChange, RawEntry, Value};
use crate::store::key::{
    FILE_KEYS, Key, MirrorListLoaded, Projects, Release, SimpleLinks, User, UserList, Versions,
};
use crate::store::record::{Dict, Links, Record as _};

use super::release::{self, Rel, ReleaseLink};
use super::{time, tokens};

/// So many sentences are made of one entry, and at most so many former values are looked up; the rest is counted.
pub const PARTS_MAX: usize = 50;
/// The longest value that is shown, in characters.
const SHOWN_CHARS_MAX: usize = 200;
/// So many files are named; more are counted.
const NAMED_MAX: usize = 3;

/// Who may read a sentence.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Sight {
    /// Everybody.
    All,
    /// Whoever may read the index.
    Index(IndexName),
    /// Root alone: nobody knows what the key is about.
    Root,
}

/// A sentence about a change.
#[derive(Clone, Debug, PartialEq)]
pub struct Part {
    /// Who may read it.
    pub sight: Sight,
    /// The sentence, without a full stop.
    pub text: String,
    /// Who did it, where the record says so.
    pub who: Option<String>,
    /// When, where the record says so.
    pub at: Option<SystemTime>,
}

/// What is said of one entry.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Account {
    /// The sentences.
    pub parts: Vec<Part>,
    /// How many changes got none for their number.
    pub more: usize,
}

/// Gives the value that a path had at a serial.
pub type Before<'a> = dyn FnMut(&str, Serial) -> Result<Option<Vec<u8>>> + 'a;

/// Tells what an entry did. What cannot be read is named by its key.
///
/// # Errors
/// `Kind::Invalid` if the bytes are no entry; those of `before`.
pub fn tell(entry: &[u8], before: &mut Before<'_>) -> Result<Account> {
    let entry = RawEntry::parse(entry)?;
    let changes: Vec<RawChange<'_>> = entry.changes().copied().collect();
    let mut teller =
        Teller { before, looked_up: 0, account: Account::default(), told: Told::default() };
    teller.each(&changes, &[User::NAME], Teller::user)?;
    teller.each(&changes, &[Versions::NAME], Teller::versions)?;
    teller.each(&changes, &[SimpleLinks::NAME], Teller::links)?;
    teller.each(&changes, &[Release::NAME], Teller::release)?;
    teller.each(&changes, &FILE_KEYS, Teller::file)?;
    teller.each(&changes, &[MirrorListLoaded::NAME], Teller::list_loaded)?;
    teller.rest(&changes);
    Ok(teller.account)
}

/// What has been said, so that what follows from it is not said again.
#[derive(Default)]
struct Told {
    users: BTreeSet<String>,
    indexes: BTreeSet<String>,
    projects: BTreeSet<(String, String)>,
    /// Indexes of which whole projects went.
    thinned: BTreeSet<String>,
    mirrors: BTreeSet<String>,
    files: BTreeSet<String>,
}

impl Told {
    fn has(&self, index: &str) -> bool {
        let user = index.split('/').next().unwrap_or_default();
        self.indexes.contains(index) || self.users.contains(user)
    }
}

struct Teller<'t, 'b> {
    before: &'t mut Before<'b>,
    looked_up: usize,
    account: Account,
    told: Told,
}

/// The index that a path lies below, and what follows it.
fn split(path: &str) -> Option<(&str, &str)> {
    let at = path.match_indices('/').nth(1)?.0;
    Some((&path[..at], &path[at + 1..]))
}

fn sight(index: &str) -> Sight {
    IndexName::parse(index).map_or(Sight::Root, Sight::Index)
}

impl Teller<'_, '_> {
    fn each(
        &mut self,
        changes: &[RawChange<'_>],
        names: &[&str],
        tell: fn(&mut Self, &RawChange<'_>) -> Result<()>,
    ) -> Result<()> {
        for change in changes.iter().filter(|change| names.contains(&change.keyname)) {
            if PARTS_MAX <= self.account.parts.len().max(self.looked_up) {
                self.account.more += 1;
                continue;
            }
            tell(self, change)?;
        }
        Ok(())
    }

    fn say(&mut self, sight: Sight, text: String) {
        self.account.parts.push(Part { sight, text, who: None, at: None });
    }

    /// What stood there before; none also if that cannot be read.
    fn former(&mut self, change: &RawChange<'_>) -> Result<Option<Vec<u8>>> {
        let back = Serial::from_wire(change.back_serial).flatten();
        let Some(back) = back else { return Ok(None) };
        self.looked_up += 1;
        (self.before)(change.path, back)
    }

    fn former_dict(&mut self, change: &RawChange<'_>) -> Result<Option<Dict>> {
        Ok(self.former(change)?.and_then(|bytes| Dict::decode(&bytes).ok()))
    }

    fn user(&mut self, change: &RawChange<'_>) -> Result<()> {
        let Some(user) = change.path.strip_suffix("/.config") else { return Ok(()) };
        let Some(value) = change.value else {
            self.told.users.insert(user.to_owned());
            self.say(Sight::All, format!("{user} was deleted"));
            return Ok(());
        };
        let now = Dict::decode(value).unwrap_or_default();
        let was = self.former_dict(change)?;
        if was.is_none() {
            self.say(Sight::All, format!("{user} was created"));
        }
        let is_new = was.is_none();
        let was = was.unwrap_or_default();
        if !is_new {
            self.user_fields(user, &was, &now);
        }
        self.indexes(user, &was, &now);
        Ok(())
    }

    fn user_fields(&mut self, user: &str, was: &Dict, now: &Dict) {
        let mut fields = Vec::new();
        for key in changed(was, now) {
            match key.as_str() {
                "indexes" | "modified" => (),
                tokens::FIELD => {
                    self.say(Sight::All, format!("the access tokens of {user} were changed"));
                }
                "pwhash" | "pwsalt" => {
                    let text = format!("the password of {user} was changed");
                    if self.account.parts.last().is_none_or(|part| part.text != text) {
                        self.say(Sight::All, text);
                    }
                }
                _ => fields.push(key),
            }
        }
        if !fields.is_empty() {
            self.say(Sight::All, format!("{user}: {} changed", fields.join(", ")));
        }
    }

    fn indexes(&mut self, user: &str, was: &Dict, now: &Dict) {
        let was = was.dict("indexes").unwrap_or_default();
        let now = now.dict("indexes").unwrap_or_default();
        for name in changed(&was, &now) {
            let index = format!("{user}/{name}");
            match (was.dict(&name), now.dict(&name)) {
                (_, None) => {
                    self.say(sight(&index), format!("{index} was deleted"));
                    self.told.indexes.insert(index);
                }
                (None, Some(config)) => {
                    let kind = config.text("type").unwrap_or("stage").to_owned();
                    let bases = config.texts("bases").join(",");
                    let over = if bases.is_empty() { bases } else { format!(" over {bases}") };
                    self.say(sight(&index), format!("{index} was created, a {kind}{over}"));
                }
                (Some(was), Some(now)) => {
                    let fields = changed(&was, &now).into_iter();
                    let fields = fields.map(|key| setting(&key, was.get(&key), now.get(&key)));
                    let fields = fields.collect::<Vec<_>>().join("; ");
                    self.say(sight(&index), format!("{index}: {fields}"));
                }
            }
        }
    }

    /// Versions of a project: told only if all are gone.
    fn versions(&mut self, change: &RawChange<'_>) -> Result<()> {
        let Some((index, rest)) = split(change.path) else { return Ok(()) };
        let project = rest.trim_end_matches("/.versions");
        if change.value.is_none() && !self.told.has(index) {
            self.told.projects.insert((index.to_owned(), project.to_owned()));
            self.told.thinned.insert(index.to_owned());
            self.say(sight(index), format!("the project {project} was deleted from {index}"));
        }
        Ok(())
    }

    /// A simple page: that of a stage follows from its releases.
    fn links(&mut self, change: &RawChange<'_>) -> Result<()> {
        let Some((index, rest)) = split(change.path) else { return Ok(()) };
        let project = rest.trim_end_matches("/.simple");
        let Some(now) = change.value.and_then(|value| Links::decode(value).ok()) else {
            return Ok(());
        };
        if !now.is_of_mirror() {
            return Ok(());
        }
        self.told.mirrors.insert(index.to_owned());
        let was = self.former(change)?.and_then(|bytes| Links::decode(&bytes).ok());
        let hrefs = |links: &Links| -> BTreeSet<String> {
            links.links.iter().map(|link| link.href.clone()).collect()
        };
        let (was, now) = (was.as_ref().map(hrefs).unwrap_or_default(), hrefs(&now));
        let (learned, lost) = (now.difference(&was).count(), was.difference(&now).count());
        let text = match (learned, lost) {
            (0, 0) => format!("mirror {index} saw another page of {project}"),
            (0, lost) => format!("mirror {index} lost {} of {project}", files(lost)),
            (learned, 0) => format!("mirror {index} learned {} of {project}", files(learned)),
            (learned, lost) => {
                format!("mirror {index} learned {} of {project} and lost {lost}", files(learned))
            }
        };
        self.say(sight(index), text);
        Ok(())
    }

    fn release(&mut self, change: &RawChange<'_>) -> Result<()> {
        let Some((index, rest)) = split(change.path) else { return Ok(()) };
        let parts: Vec<&str> = rest.split('/').collect();
        let [project, version, ".config"] = parts[..] else { return Ok(()) };
        if self.told.has(index)
            || self.told.projects.contains(&(index.to_owned(), project.to_owned()))
        {
            return Ok(());
        }
        let Some(value) = change.value else {
            // Its files go with it.
            self.told.thinned.insert(index.to_owned());
            self.say(sight(index), format!("{project} {version} was deleted from {index}"));
            return Ok(());
        };
        let now = Dict::decode(value).unwrap_or_default();
        let was = self.former_dict(change)?;
        let (before, after) =
            (was.as_ref().map(release::links).unwrap_or_default(), release::links(&now));
        let is_in = |link: &ReleaseLink, links: &[ReleaseLink]| links.iter().any(|l| l == link);
        let fresh: Vec<_> = after.iter().filter(|link| !is_in(link, &before)).collect();
        let lost: Vec<_> =
            before.iter().filter(|link| !after.iter().any(|l| l.path() == link.path())).collect();
        let place = Place { index, project, version };
        self.came(&place, &fresh, &lost);
        let is_replaced = |link: &ReleaseLink| {
            fresh
                .iter()
                .any(|l| l.name() == link.name() || l.is(Rel::DocZip) && link.is(Rel::DocZip))
        };
        for link in &lost {
            self.told.files.insert(link.path().to_owned());
            if !is_replaced(link) && !link.is(Rel::ToxResult) {
                self.say(sight(index), format!("{} was deleted from {index}", link.name()));
            }
        }
        if fresh.is_empty() && lost.is_empty() {
            let text = match was.is_some() {
                true => format!("what is known of {project} {version} was changed on {index}"),
                false => format!("{project} {version} was registered on {index}"),
            };
            self.say(sight(index), text);
        }
        Ok(())
    }

    /// Links that are new in a release: those that came alike share a sentence.
    fn came(&mut self, place: &Place<'_>, fresh: &[&ReleaseLink], lost: &[&ReleaseLink]) {
        let mut groups: Vec<(Deed, Vec<&ReleaseLink>)> = Vec::new();
        for link in fresh {
            self.told.files.insert(link.path().to_owned());
            let deed = Deed::of(link);
            match groups.iter_mut().find(|(known, _)| known.is_like(&deed)) {
                Some((_, links)) => links.push(link),
                None => groups.push((deed, vec![link])),
            }
        }
        for (deed, links) in groups {
            let is_over = |link: &&&ReleaseLink| lost.iter().any(|l| l.name() == link.name());
            let over = if links.iter().any(|link| is_over(&link)) { ", over another" } else { "" };
            let text = format!("{}{over}", deed.sentence(place, &links));
            let Deed { who, at, .. } = deed;
            self.account.parts.push(Part { sight: sight(place.index), text, who, at });
        }
    }

    /// A file that no release told of: one that a mirror brought, or that went by itself.
    fn file(&mut self, change: &RawChange<'_>) -> Result<()> {
        let Some((index, _)) = split(change.path) else { return Ok(()) };
        let is_told = self.told.has(index)
            || self.told.files.contains(change.path)
            || self.told.mirrors.contains(index)
            || change.value.is_none() && self.told.thinned.contains(index);
        if is_told {
            return Ok(());
        }
        let name = change.path.rsplit('/').next().unwrap_or_default();
        let is_here =
            |value| Dict::decode(value).is_ok_and(|record| record.text("last_modified").is_some());
        let text = match change.value {
            None => format!("{name} was deleted from {index}"),
            Some(value) if is_here(value) => format!("{name} was stored on {index}"),
            Some(_) => format!("what is known of {name} was changed on {index}"),
        };
        self.say(sight(index), text);
        Ok(())
    }

    fn list_loaded(&mut self, change: &RawChange<'_>) -> Result<()> {
        if let Some((index, _)) = split(change.path)
            && !self.told.has(index)
        {
            self.say(sight(index), format!("the list of projects of {index} was loaded"));
        }
        Ok(())
    }

    /// Keys of others, and what remains of an entry that nothing was said of.
    fn rest(&mut self, changes: &[RawChange<'_>]) {
        const FOLLOWS: [&str; 4] =
            [Projects::NAME, UserList::NAME, Versions::NAME, SimpleLinks::NAME];
        const TOLD: [&str; 3] = [User::NAME, Release::NAME, MirrorListLoaded::NAME];
        let is_silent = self.account.parts.is_empty();
        for change in changes {
            let name = change.keyname;
            let is_known =
                FOLLOWS.contains(&name) || TOLD.contains(&name) || FILE_KEYS.contains(&name);
            if is_known && !(is_silent && FOLLOWS.contains(&name)) {
                continue;
            }
            if PARTS_MAX <= self.account.parts.len() {
                self.account.more += 1;
                continue;
            }
            let sight = match (is_known, split(change.path)) {
                (true, Some((index, _))) => sight(index),
                (true, None) => Sight::All,
                _ => Sight::Root,
            };
            let what = if change.value.is_some() { "changed" } else { "deleted" };
            self.say(sight, format!("{} ({name}) was {what}", change.path));
        }
    }
}

/// Where a release is.
struct Place<'a> {
    index: &'a str,
    project: &'a str,
    version: &'a str,
}

/// How a link came to be, by the end of its log.
struct Deed {
    is_push: bool,
    rel: String,
    src: Option<String>,
    who: Option<String>,
    at: Option<SystemTime>,
}

impl Deed {
    fn of(link: &ReleaseLink) -> Self {
        let items = link.0.items("_log").iter().rev().cloned().filter_map(Dict::from_value);
        let item = items
            .into_iter()
            .find(|item| matches!(item.text("what"), Some("upload" | "push")))
            .unwrap_or_default();
        let text = |key: &str| item.text(key).map(str::to_owned);
        Self {
            is_push: item.text("what") == Some("push"),
            rel: link.0.text("rel").unwrap_or_default().to_owned(),
            src: text("src"),
            who: text("who").filter(|who| UserName::parse(who).is_ok()),
            at: item.get("when").and_then(time::of_six_tuple),
        }
    }

    fn is_like(&self, other: &Self) -> bool {
        let both_push = self.is_push && other.is_push;
        (self.is_push, &self.src, &self.who) == (other.is_push, &other.src, &other.who)
            && (both_push || self.rel == other.rel)
    }

    fn sentence(&self, place: &Place<'_>, links: &[&ReleaseLink]) -> String {
        let Place { index, project, version } = place;
        let (what, goes) = match (self.is_push, self.rel.as_str()) {
            (true, _) => {
                let from =
                    self.src.as_deref().map(|src| format!(" from {src}")).unwrap_or_default();
                (
                    format!("{project} {version} ({})", files(links.len())),
                    format!("{from} to {index}"),
                )
            }
            (_, "doczip") => {
                (format!("documentation of {project} {version}"), format!(" to {index}"))
            }
            (_, "toxresult") => {
                let of = links[0].for_path().and_then(|path| path.rsplit('/').next());
                (format!("a test result of {}", of.unwrap_or(project)), format!(" to {index}"))
            }
            _ if links.len() <= NAMED_MAX => {
                let names: Vec<_> = links.iter().map(|link| link.name()).collect();
                (names.join(", "), format!(" to {index}"))
            }
            _ => (format!("{} of {project} {version}", files(links.len())), format!(" to {index}")),
        };
        let verb = if self.is_push { "pushed" } else { "uploaded" };
        match &self.who {
            Some(who) => format!("{who} {verb} {what}{goes}"),
            None if links.len() == 1 => format!("{what} was {verb}{goes}"),
            None => format!("{what} were {verb}{goes}"),
        }
    }
}

fn files(count: usize) -> String {
    if count == 1 { "1 file".to_owned() } else { format!("{count} files") }
}

/// The keys whose values differ.
fn changed(was: &Dict, now: &Dict) -> Vec<String> {
    let keys: BTreeSet<&str> = was.keys().chain(now.keys()).collect();
    keys.into_iter().filter(|key| was.get(key) != now.get(key)).map(str::to_owned).collect()
}

/// A setting with its former and its present value, unless they are nobody's business.
fn setting(key: &str, was: Option<&Value>, now: Option<&Value>) -> String {
    const SECRETS: [&str; 4] = ["password", "secret", "token", "auth"];
    if SECRETS.iter().any(|word| key.contains(word)) {
        return format!("{key} changed");
    }
    format!("{key} {} -> {}", shown(was), shown(now))
}

fn shown(value: Option<&Value>) -> String {
    let text = match value {
        None => "unset".to_owned(),
        Some(Value::None) => "None".to_owned(),
        Some(Value::Bool(true)) => "True".to_owned(),
        Some(Value::Bool(false)) => "False".to_owned(),
        Some(Value::Str(text)) if text.is_empty() => "''".to_owned(),
        Some(Value::Str(text)) => without_credentials(text),
        Some(Value::List(items) | Value::Tuple(items)) if items.is_empty() => "()".to_owned(),
        Some(Value::List(items) | Value::Tuple(items)) => {
            items.iter().map(|item| shown(Some(item))).collect::<Vec<_>>().join(",")
        }
        Some(other) => other.to_json().to_string(),
    };
    match text.char_indices().nth(SHOWN_CHARS_MAX) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text,
    }
}

/// An address without user and password.
fn without_credentials(text: &str) -> String {
    let Some((scheme, rest)) = text.split_once("://") else { return text.to_owned() };
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let host = rest[..end].rsplit('@').next().unwrap_or_default();
    format!("{scheme}://{host}{}", &rest[end..])
}

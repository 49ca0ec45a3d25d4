//! Lists of all projects of mirrors: when to ask for them again, and what is shown meanwhile.
//!
//! A list that is older than the expiry time of its index is still shown for as long again, and asked for behind the
//! back of the request. One that is older still is waited for a short while, and one that was never seen for longer.
//! What cannot be had is *in doubt*: the answer shows what is known, and says so.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use url::Url;

use crate::config::Config;
use crate::deadline::Deadline;
use crate::error::{Error, Kind, Result};
use crate::model::index::{self, Index};
use crate::model::mirrored::Settings;
use crate::names::IndexName;
use crate::replication::Replica;
use crate::store::Writer;
use crate::store::key;
use crate::store::record::Number;
use crate::store::txn::Read;
use crate::sync::{Mutex, lock};

use super::flights::{Flight, Flights, Waited};
use super::names::{self, Names};
use super::pages::{STALE, identity};
use super::upstream::{self, Fetched};
use super::{Mirrors, Source, parse};

/// Bytes of all lists in memory; one that makes room is read from its file again.
const LISTS_BYTES_MAX: usize = 96 << 20;
/// Lists in memory, however short.
const LISTS_MAX: usize = 1_000;
/// How long a list that is not known at all is waited for.
const FIRST_WAIT: Duration = Duration::from_secs(30);
/// How long a list is waited for if an old one can be shown.
const STALE_WAIT: Duration = Duration::from_secs(2);
/// The longest silence of an upstream that is asked for its list: some make it anew each time.
const SILENCE_MAX: Duration = Duration::from_secs(30);
/// How long a list may take to arrive.
const TIME_MAX: Duration = Duration::from_secs(300);
/// After a failure nobody asks for so long.
const TROUBLE_PAUSE: Duration = Duration::from_secs(30);
/// What `MIRRORNAMESINIT` holds once a list was loaded (spec/replication-wire.md 2.5).
const LOADED: Number = Number(2);

/// What is known of the projects of a mirror.
#[derive(Clone, Debug, Default)]
pub struct NameList {
    /// Those of the upstream; what is only held here is not among them.
    pub names: Arc<Names>,
    /// Why the upstream may have others now.
    pub doubt: Option<String>,
}

/// The state of all lists.
pub(super) struct Lists {
    /// What is known, and when that was last wanted.
    known: Mutex<HashMap<String, (Arc<Known>, Instant)>>,
    asking: Flights<Arc<Known>>,
    folder: PathBuf,
    /// Whoever reads a list from its file has it, so that nobody else does the same.
    reading: Mutex<()>,
}

impl Lists {
    pub(super) fn new(config: &Config) -> Self {
        Self::within(config.serverdir.join("mirror"))
    }

    fn within(folder: PathBuf) -> Self {
        let (known, asking) = (Mutex::default(), Flights::default());
        Self { known, asking, folder, reading: Mutex::new(()) }
    }

    fn path(&self, index: &IndexName) -> PathBuf {
        self.folder.join(index.user().as_str()).join(format!("{}.names", index.index()))
    }

    /// What is in memory about this upstream.
    fn get(&self, index: &IndexName, upstream: &str) -> Option<Arc<Known>> {
        let mut known = lock(&self.known);
        let (found, wanted_at) = known.get_mut(&index.to_string())?;
        *wanted_at = Instant::now();
        (found.upstream == upstream).then(|| found.clone())
    }

    fn put(&self, index: &IndexName, fresh: Known) -> Arc<Known> {
        let fresh = Arc::new(fresh);
        let mut known = lock(&self.known);
        known.insert(index.to_string(), (fresh.clone(), Instant::now()));
        let size = |known: &HashMap<String, (Arc<Known>, Instant)>| -> usize {
            known.values().map(|(known, _)| known.size_bytes()).sum()
        };
        // The one that was put last is the last to go, and stays if it is alone.
        while 1 < known.len() && (LISTS_MAX < known.len() || LISTS_BYTES_MAX < size(&known)) {
            let oldest = known.iter().min_by_key(|(_, (_, wanted_at))| *wanted_at);
            let Some(oldest) = oldest.map(|(name, _)| name.clone()) else { break };
            known.remove(&oldest);
        }
        fresh
    }

    /// What is known, from the file if nothing is in memory.
    fn recall(&self, index: &IndexName, upstream: &str) -> Arc<Known> {
        let _reading = lock(&self.reading);
        if let Some(known) = self.get(index, upstream) {
            return known;
        }
        let path = self.path(index);
        let kept = names::load(&path).unwrap_or_else(|error| {
            log::warn!("{index}: the list of projects in {} is lost: {error}", path.display());
            None
        });
        let mut known = Known { upstream: upstream.to_owned(), ..Known::default() };
        if let Some(kept) = kept.filter(|kept| kept.upstream == upstream) {
            let age = SystemTime::now().duration_since(kept.seen_at).unwrap_or_default();
            known.names = Some(Arc::new(kept.names));
            known.etag = kept.etag;
            known.at = Instant::now().checked_sub(age);
        }
        self.put(index, known)
    }

    /// Keeps a list in its file. Without it the list is lost at the next start, and that is all.
    fn save(&self, index: &IndexName, known: &Known, is_same: bool) {
        let Some(names) = &known.names else { return };
        let path = self.path(index);
        let saved = match is_same {
            true => names::touch(&path),
            false => names::save(&path, &known.upstream, known.etag.as_deref(), names),
        };
        if let Err(error) = saved {
            log::warn!("{index}: cannot keep the list of projects: {error}");
        }
    }
}

/// What this node knows of a list.
#[derive(Clone, Debug, Default)]
struct Known {
    /// The address it came from, without credentials.
    upstream: String,
    names: Option<Arc<Names>>,
    etag: Option<String>,
    /// When the upstream was seen to have it; `None` if that is long ago.
    at: Option<Instant>,
    /// When asking failed last, and why; of a master's list, why it is in doubt there.
    trouble: Option<(Instant, String)>,
}

/// A question for a list that is under way.
type Asking = Arc<Flight<Arc<Known>>>;

/// What to do for a request that wants a list.
#[derive(Debug, PartialEq, Eq)]
enum Step {
    /// Show it.
    Show,
    /// Show it, and ask.
    Renew,
    /// Ask, and wait so long.
    Await(Duration),
}

impl Known {
    fn size_bytes(&self) -> usize {
        self.names.as_ref().map_or(0, |names| names.size_bytes())
    }

    fn step(&self, expiry: Duration) -> Step {
        let is_calm = |(at, _): &(Instant, String)| at.elapsed() < expiry.min(TROUBLE_PAUSE);
        let is_troubled = self.trouble.as_ref().is_some_and(is_calm);
        let age = self.at.map(|at| at.elapsed());
        match age {
            Some(age) if age < expiry && self.names.is_some() => Step::Show,
            _ if is_troubled => Step::Show,
            Some(age) if age < expiry.saturating_mul(2) && self.names.is_some() => Step::Renew,
            _ if self.names.is_some() => Step::Await(STALE_WAIT),
            _ => Step::Await(FIRST_WAIT),
        }
    }

    fn shown(&self) -> NameList {
        let doubt = match (&self.trouble, &self.names) {
            (Some((_, why)), _) => Some(why.clone()),
            (None, None) => Some("the upstream's list of projects is not here yet".to_owned()),
            (None, Some(_)) => None,
        };
        NameList { names: self.names.clone().unwrap_or_default(), doubt }
    }
}

impl Mirrors {
    /// The projects of a mirror as far as that takes no wait; `None` if it does.
    pub fn list_at_once(self: &Arc<Self>, index: &Index) -> Option<NameList> {
        let settings = Settings::of(index);
        if self.is_offline() || settings.has_no_list {
            return Some(NameList::default());
        }
        let known = self.lists.get(&index.name, &identity(&settings))?;
        match known.step(self.expiry_of(&settings)) {
            Step::Await(_) => return None,
            Step::Renew => drop(self.ask_list(index)),
            Step::Show => (),
        }
        Some(known.shown())
    }

    /// The projects of mirrors, asked for at the same time and waited for if need be.
    pub fn lists(self: &Arc<Self>, mirrors: &[Index]) -> Vec<NameList> {
        let asked: Vec<_> = mirrors.iter().map(|index| (index, self.begin_list(index))).collect();
        asked
            .into_iter()
            .map(|(index, wait)| match wait {
                Err(list) => list,
                Ok((flight, deadline)) => self.settle_list(index, &flight, deadline),
            })
            .collect()
    }

    fn begin_list(
        self: &Arc<Self>,
        index: &Index,
    ) -> std::result::Result<(Asking, Deadline), NameList> {
        let settings = Settings::of(index);
        if self.is_offline() || settings.has_no_list {
            return Err(NameList::default());
        }
        let known = self.lists.recall(&index.name, &identity(&settings));
        match known.step(self.expiry_of(&settings)) {
            Step::Await(span) => return Ok((self.ask_list(index), Deadline::after(span))),
            Step::Renew => drop(self.ask_list(index)),
            Step::Show => (),
        }
        Err(known.shown())
    }

    fn settle_list(&self, index: &Index, flight: &Asking, deadline: Deadline) -> NameList {
        if let Waited::Landed(known) = flight.wait(deadline) {
            return known.shown();
        }
        let known = self.lists.recall(&index.name, &identity(&Settings::of(index)));
        let late = || Some("the upstream did not send its list in time".to_owned());
        let NameList { names, doubt } = known.shown();
        NameList { names, doubt: doubt.or_else(late) }
    }

    /// The question for a list that is under way, or a new one.
    fn ask_list(self: &Arc<Self>, index: &Index) -> Asking {
        self.lists.asking.join(&index.name.to_string(), |landing| {
            let (mirrors, index) = (self.clone(), index.clone());
            let upstream = identity(&Settings::of(&index));
            let work = move || landing.land(mirrors.load_list(&index));
            // Work that finds no room is dropped, and ends the flight.
            drop(self.list_lanes.submit(&upstream, Box::new(work)));
        })
    }

    fn load_list(&self, index: &Index) -> Arc<Known> {
        let settings = Settings::of(index);
        let before = self.lists.recall(&index.name, &identity(&settings));
        let mut known = Known::clone(&before);
        let begun = Instant::now();
        let done = self.fetch_list(index, &settings, &mut known);
        match done {
            Ok(()) => {
                // A master whose own list is in doubt is asked again soon.
                known.at = if known.trouble.is_none() { Some(begun) } else { before.at };
                let is_same = match (&before.names, &known.names) {
                    (Some(before), Some(now)) => Arc::ptr_eq(before, now),
                    _ => false,
                };
                self.lists.save(&index.name, &known, is_same);
            }
            Err(error) => {
                log::warn!("{}: asking for the list of projects: {error}", index.name);
                known.trouble = Some((Instant::now(), error.message));
            }
        }
        self.lists.put(&index.name, known)
    }

    fn fetch_list(&self, index: &Index, settings: &Settings, known: &mut Known) -> Result<()> {
        let etag = known.etag.clone().filter(|_| known.names.is_some());
        let mut fetched = match self.source() {
            Source::Upstream(_) => {
                let base = settings
                    .url
                    .as_deref()
                    .ok_or_else(|| Error::new(Kind::BadGateway, "the mirror has no mirror_url"))?;
                let address = upstream::address(base, None);
                self.upstream().page(&address, etag.as_deref(), SILENCE_MAX)?
            }
            Source::Master(replica) => ask_master(replica, &index.name, etag.as_deref())?,
        };
        match fetched.status {
            200 => {
                let list = read(&mut fetched)?;
                let is_same =
                    known.names.as_ref().is_some_and(|held| held.digest() == list.digest());
                // What is the same stays, so that it need not be written again.
                if !is_same || known.etag.as_deref() != fetched.etag() {
                    known.names = Some(Arc::new(list));
                }
                known.etag = fetched.etag().map(str::to_owned);
            }
            304 if etag.is_some() => (),
            status => {
                let message = format!("the upstream answered {status} for its list of projects");
                return Err(Error::new(Kind::BadGateway, message));
            }
        }
        let doubt =
            fetched.headers.get(STALE).filter(|_| matches!(self.source(), Source::Master(_)));
        known.trouble = doubt.map(|why| (Instant::now(), why.to_owned()));
        if let Source::Upstream(writer) = self.source() {
            self.note_loaded(writer, &index.name)?;
        }
        Ok(())
    }

    /// Tells replicas, those of devpi too, that there is a list now.
    fn note_loaded(&self, writer: &Writer, name: &IndexName) -> Result<()> {
        let key = key::MirrorListLoaded(name);
        if self.store().read()?.get(&key)? == Some(LOADED) {
            return Ok(());
        }
        writer.write(|txn| {
            index::require(txn, name)?;
            txn.set(&key, &LOADED);
            Ok(())
        })?;
        Ok(())
    }
}

fn ask_master(replica: &Replica, index: &IndexName, etag: Option<&str>) -> Result<Fetched> {
    let mut headers = vec![("Accept", upstream::ACCEPT), ("Accept-Encoding", "gzip")];
    headers.extend(etag.map(|etag| ("If-None-Match", etag)));
    let answer = replica.get(&format!("/{index}/+simple/"), &headers, SILENCE_MAX * 2)?;
    Ok(Fetched::from(answer))
}

fn read(fetched: &mut Fetched) -> Result<Names> {
    let url = Url::parse(&fetched.url)
        .map_err(|_| Error::new(Kind::BadGateway, "the upstream's address is no URL"))?;
    let media_type = fetched.media_type();
    parse::names(&media_type, &mut fetched.body, &url, Deadline::after(TIME_MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known(names: bool, age_secs: u64, trouble_secs: Option<u64>) -> Known {
        let ago =
            |secs| Instant::now().checked_sub(Duration::from_secs(secs)).expect("since the start");
        Known {
            names: names.then(Arc::default),
            at: names.then(|| ago(age_secs)),
            trouble: trouble_secs.map(|secs| (ago(secs), "why".to_owned())),
            ..Known::default()
        }
    }

    #[test]
    fn an_old_list_is_shown_while_a_new_one_is_asked_for() {
        let expiry = Duration::from_secs(20);
        for (names, age, trouble, step) in [
            (true, 0, None, Step::Show),
            (true, 19, Some(0), Step::Show),
            (true, 21, None, Step::Renew),
            (true, 21, Some(5), Step::Show),
            (true, 21, Some(25), Step::Renew),
            (true, 41, None, Step::Await(STALE_WAIT)),
            (true, 41, Some(5), Step::Show),
            (false, 0, None, Step::Await(FIRST_WAIT)),
            (false, 0, Some(5), Step::Show),
            (false, 0, Some(25), Step::Await(FIRST_WAIT)),
        ] {
            assert_eq!(known(names, age, trouble).step(expiry), step, "{names} {age} {trouble:?}");
        }
        // An index that does not want anything kept is asked for each request.
        assert_eq!(known(true, 0, Some(0)).step(Duration::ZERO), Step::Await(STALE_WAIT));
    }

    #[test]
    fn lists_make_room_for_others_and_come_back_from_their_files() {
        let folder = tempfile::tempdir().expect("a folder");
        let lists = Lists::within(folder.path().to_owned());
        let name = |number: usize| IndexName::new("ann", &format!("m{number}")).expect("valid");
        for number in 0..=LISTS_MAX {
            let names = Names::of([format!("project-{number}")]).expect("few");
            let mut known = known(false, 0, None);
            known.names = Some(Arc::new(names));
            known.upstream = "http://host/".to_owned();
            if number == 0 {
                lists.save(&name(number), &known, false);
            }
            lists.put(&name(number), known);
        }
        assert_eq!(lock(&lists.known).len(), LISTS_MAX);
        assert!(lists.get(&name(0), "http://host/").is_none());
        let known = lists.recall(&name(0), "http://host/");
        assert!(known.names.as_ref().is_some_and(|names| names.contains("project-0")));
        assert!(known.at.is_some_and(|at| at.elapsed() < Duration::from_secs(60)));
        assert!(lists.recall(&name(0), "http://other/").names.is_none());
    }

    #[test]
    fn what_is_not_sure_says_why() {
        assert_eq!(known(true, 99, None).shown().doubt, None);
        assert_eq!(known(true, 0, Some(1)).shown().doubt.as_deref(), Some("why"));
        assert!(known(false, 0, None).shown().doubt.is_some());
    }
}

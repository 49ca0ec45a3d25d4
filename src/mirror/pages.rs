//! Pages of mirrored projects: when to ask for them again, and what came of asking.
//!
//! A page is fresh for its index's expiry time after it was looked at. In the last quarter of that time a request has it
//! looked at again behind its back. Once it is over, a request waits for a new look, and takes the page as it is if the
//! look takes long or fails: it is *stale* then, and says so.

use std::io::Read as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use quick_cache::sync::Cache;
use url::Url;

use crate::deadline::Deadline;
use crate::error::{Error, Kind, Result};
use crate::http::client::is_unsent;
use crate::model::index::{self, Index};
use crate::model::links;
use crate::model::mirrored::Settings;
use crate::names::{IndexName, ProjectName};
use crate::replication::{Replica, wire};
use crate::store::Writer;
use crate::store::key;
use crate::store::record::Links;
use crate::store::txn::Read;

use super::flights::{Flight, Waited};
use super::record::{self, Seen};
use super::upstream::{self, Fetched};
use super::{Mirrors, Source, parse};

/// Pages whose times are remembered; one that is forgotten is looked at once more.
const TIMES_MAX: usize = 50_000;
/// Upstreams of which it is remembered that they are away.
const UPSTREAMS_MAX: usize = 1_000;
/// A page that is held is not waited for longer than this before it is shown as it is.
const STALE_WAIT: Duration = Duration::from_secs(2);
/// After a look that failed, a page that is held is shown as it is for so long before the next look.
const TROUBLE_PAUSE: Duration = Duration::from_secs(30);
/// How much longer than a client waits a look may take: it fills the cache for the next client.
const PATIENCE: u32 = 4;
/// What is said if nobody waited to the end of a look.
const TOO_LATE: &str = "the upstream did not answer in time";
/// The pauses between attempts of one look.
const PAUSES: [Duration; 2] = [Duration::from_millis(100), Duration::from_millis(400)];
/// The header in which a node says that its page is stale.
pub const STALE: &str = "X-TWINPI-STALE";
/// What is read of a page on a replica, so that its connection can be used again.
const DRAIN_BYTES_MAX: u64 = 8 << 20;

/// When each page was looked at last.
pub(super) struct Times {
    pages: Cache<String, Arc<Known>>,
    /// Upstreams that could not be reached, when that was, and why.
    away: Cache<String, (Instant, String)>,
}

impl Default for Times {
    fn default() -> Self {
        Self { pages: Cache::new(TIMES_MAX), away: Cache::new(UPSTREAMS_MAX) }
    }
}

/// What this node alone knows of a page.
#[derive(Clone, Debug)]
struct Known {
    /// The upstream it was looked at, without credentials.
    upstream: String,
    /// When that was; `None` if it never succeeded.
    at: Option<Instant>,
    is_absent: bool,
    etag: Option<String>,
    serial: Option<i64>,
    /// The last look failed then, for this reason.
    trouble: Option<(Instant, String)>,
}

/// What came of asking.
#[derive(Clone, Debug)]
pub(super) enum Asked {
    Seen,
    Absent,
    Failed(Kind, String),
}

/// How a project of a mirror stands.
#[derive(Clone, Debug)]
pub enum Standing {
    /// As the upstream had it a short while ago.
    Fresh {
        /// When it was looked at; `None` in offline mode.
        at: Option<Instant>,
        /// Until when nothing has to be done for it.
        until: Option<Instant>,
    },
    /// It is held, and the upstream could not be asked; the text says why.
    Stale(String),
    /// The upstream does not have it.
    Absent,
    /// It is not held and could not be got.
    Failed(Kind, String),
}

/// What is known without asking.
pub enum Look {
    /// All that is needed.
    Ready(Standing),
    /// The upstream has to be asked.
    Ask,
}

impl Mirrors {
    pub(super) fn expiry_of(&self, settings: &Settings) -> Duration {
        settings.expiry.unwrap_or(self.expiry)
    }

    /// How a project stands as far as it is known here. If it is time for a look behind the back of the request, that is
    /// begun.
    ///
    /// # Errors
    /// `Kind::Internal` if the database fails.
    pub fn look(
        self: &Arc<Self>,
        txn: &impl Read,
        index: &Index,
        project: &ProjectName,
    ) -> Result<Look> {
        let held = is_held(txn, &index.name, project)?;
        if self.is_offline() {
            let offline = Standing::Fresh { at: None, until: None };
            return Ok(Look::Ready(if held { offline } else { Standing::Absent }));
        }
        let settings = Settings::of(index);
        let known = self.known(index, &settings, project);
        let expiry = self.expiry_of(&settings);
        let at = known.as_ref().and_then(|known| known.at);
        let age = at.map(|at| at.elapsed()).filter(|age| *age < expiry);
        if let Some(age) = age {
            if held {
                if ahead_of(expiry) <= age {
                    self.ask(index, project);
                }
                let until = at.map(|at| at + ahead_of(expiry));
                return Ok(Look::Ready(Standing::Fresh { at, until }));
            }
            if known.as_ref().is_some_and(|known| known.is_absent) {
                return Ok(Look::Ready(Standing::Absent));
            }
        }
        if !held {
            return Ok(Look::Ask);
        }
        // Nobody waits for a server that is known to be away, as it is for a laptop on the road.
        let trouble = known.and_then(|known| known.trouble.clone());
        let trouble = trouble.filter(|(at, _)| at.elapsed() < expiry.min(TROUBLE_PAUSE));
        let why = trouble.map(|(_, why)| why).or_else(|| self.away(&settings));
        Ok(why.map_or(Look::Ask, |why| Look::Ready(Standing::Stale(why))))
    }

    /// Why the other server cannot be reached at present, as far as that is known from asking for something else.
    fn away(&self, settings: &Settings) -> Option<String> {
        if let Source::Master(replica) = self.source() {
            return replica.trouble().map(|why| format!("the master is away: {why}"));
        }
        let pause = self.expiry_of(settings).min(TROUBLE_PAUSE);
        let (at, why) = self.times.away.get(&identity(settings))?;
        (at.elapsed() < pause).then_some(why)
    }

    /// How a project stands, asking the upstream where that is needed. Blocks: not for threads of the local crew.
    ///
    /// # Errors
    /// `Kind::Internal` if the database fails.
    pub fn ensure(self: &Arc<Self>, index: &Index, project: &ProjectName) -> Result<Standing> {
        Ok(self.ensure_all(std::slice::from_ref(index), project)?.remove(0))
    }

    /// How a project stands on each of several mirrors, asked at the same time.
    ///
    /// # Errors
    /// `Kind::Internal` if the database fails.
    pub fn ensure_all(
        self: &Arc<Self>,
        mirrors: &[Index],
        project: &ProjectName,
    ) -> Result<Vec<Standing>> {
        let mut waits = Vec::new();
        {
            let txn = self.store().read()?;
            for index in mirrors {
                waits.push(match self.look(&txn, index, project)? {
                    Look::Ready(standing) => Err(standing),
                    Look::Ask => {
                        Ok((self.ask(index, project), is_held(&txn, &index.name, project)?))
                    }
                });
            }
        }
        let (begun, timeout) = (Instant::now(), self.upstream().timeout());
        let mut standings = Vec::new();
        for (index, wait) in mirrors.iter().zip(waits) {
            standings.push(match wait {
                Err(standing) => standing,
                Ok((flight, is_held)) => {
                    let span = if is_held { timeout.min(STALE_WAIT) } else { timeout };
                    let left = span.saturating_sub(begun.elapsed());
                    self.settle(index, project, flight.wait(Deadline::after(left)))?
                }
            });
        }
        Ok(standings)
    }

    /// How a project stands after it was asked for.
    fn settle(
        self: &Arc<Self>,
        index: &Index,
        project: &ProjectName,
        waited: Waited<Asked>,
    ) -> Result<Standing> {
        let held = is_held(&self.store().read()?, &index.name, project)?;
        let (kind, why) = match waited {
            Waited::Landed(Asked::Seen) => {
                let settings = Settings::of(index);
                let at = self.known(index, &settings, project).and_then(|known| known.at);
                let until = at.map(|at| at + ahead_of(self.expiry_of(&settings)));
                return Ok(Standing::Fresh { at, until });
            }
            Waited::Landed(Asked::Absent) => return Ok(Standing::Absent),
            Waited::Landed(Asked::Failed(kind, why)) => (kind, why),
            Waited::Lost => (Kind::Unavailable, "too many requests wait for upstreams".to_owned()),
            Waited::TooLate => (Kind::BadGateway, TOO_LATE.to_owned()),
        };
        Ok(if held { Standing::Stale(why) } else { Standing::Failed(kind, why) })
    }

    /// Looks at a project again whatever is known of it, and waits for that.
    ///
    /// # Errors
    /// `Kind::Internal` if the database fails.
    pub fn refresh(self: &Arc<Self>, index: &Index, project: &ProjectName) -> Result<Standing> {
        // A look that is under way may have begun before what the client wants to see.
        let earlier = self.asking.find(&key_of(&index.name, project));
        let deadline = Deadline::after(self.upstream().timeout());
        if let Some(flight) = earlier {
            flight.wait(deadline);
        }
        self.forget(&index.name, project);
        if self.is_offline() {
            return self.ensure(index, project);
        }
        let waited = self.ask(index, project).wait(deadline);
        self.settle(index, project, waited)
    }

    /// Forgets when a project was looked at.
    pub fn forget(&self, index: &IndexName, project: &ProjectName) {
        self.times.pages.remove(&key_of(index, project));
    }

    fn known(
        &self,
        index: &Index,
        settings: &Settings,
        project: &ProjectName,
    ) -> Option<Arc<Known>> {
        let known = self.times.pages.get(&key_of(&index.name, project))?;
        (known.upstream == identity(settings)).then_some(known)
    }

    /// The look at a project that is under way, or a new one.
    fn ask(self: &Arc<Self>, index: &Index, project: &ProjectName) -> Arc<Flight<Asked>> {
        let key = key_of(&index.name, project);
        self.asking.join(&key, |landing| {
            let (mirrors, index, project) = (self.clone(), index.clone(), project.clone());
            let (upstream, begun) = (identity(&Settings::of(&index)), Instant::now());
            let work = move || {
                // Whoever wanted it has given up long ago, and it is not the last that waits here.
                let is_late = mirrors.upstream().timeout() * PATIENCE < begun.elapsed();
                landing.land(match is_late {
                    true => Asked::Failed(Kind::BadGateway, TOO_LATE.to_owned()),
                    false => mirrors.perform(&index, &project),
                });
            };
            // Work that finds no room is dropped, and ends the flight.
            drop(self.page_lanes.submit(&upstream, Box::new(work)));
        })
    }

    fn perform(&self, index: &Index, project: &ProjectName) -> Asked {
        let settings = Settings::of(index);
        let before = self.known(index, &settings, project);
        let mut known = before.as_deref().cloned().unwrap_or_else(|| Known {
            upstream: identity(&settings),
            at: None,
            is_absent: false,
            etag: None,
            serial: None,
            trouble: None,
        });
        let result = match self.source() {
            Source::Upstream(writer) => {
                self.ask_upstream(writer, (index, &settings), project, &mut known)
            }
            Source::Master(replica) => {
                self.ask_master(replica, (index, &settings), project, &mut known)
            }
        };
        let asked = match result {
            Ok(is_there) => {
                self.times.away.remove(&identity(&settings));
                known.is_absent = !is_there;
                known.trouble = None;
                if is_there { Asked::Seen } else { Asked::Absent }
            }
            Err(error) => {
                log::warn!("{}: looking for {project}: {error}", index.name);
                if error.kind == Kind::Timeout || is_unsent(&error) {
                    let why = (Instant::now(), error.message.clone());
                    self.times.away.insert(identity(&settings), why);
                }
                known.trouble = Some((Instant::now(), error.message.clone()));
                Asked::Failed(error.kind, error.message)
            }
        };
        self.times.pages.insert(key_of(&index.name, project), Arc::new(known));
        asked
    }

    /// Asks the upstream, several times if it stumbles; false if it does not have the project.
    fn ask_upstream(
        &self,
        writer: &Writer,
        (index, settings): (&Index, &Settings),
        project: &ProjectName,
        known: &mut Known,
    ) -> Result<bool> {
        let base = settings.url.as_deref().ok_or_else(|| {
            Error::new(Kind::BadGateway, format!("the mirror {} has no mirror_url", index.name))
        })?;
        let mut pauses = PAUSES.iter();
        loop {
            let done = self.ask_upstream_once(writer, (index, base), project, known);
            match (&done, pauses.next()) {
                (Err(error), Some(pause)) if is_transient(error) => std::thread::sleep(*pause),
                _ => return done,
            }
        }
    }

    fn ask_upstream_once(
        &self,
        writer: &Writer,
        (index, base): (&Index, &str),
        project: &ProjectName,
        known: &mut Known,
    ) -> Result<bool> {
        let held = self.store().read()?.get(&key::SimpleLinks(&index.name, project))?;
        let held = held.filter(|held| held.is_of_mirror() && is_from(held, &known.upstream));
        // A page that was only just heard of again is not asked for conditionally: its tag is not known here.
        let etag = known.etag.clone().or_else(|| {
            known.at.is_none().then(|| held.as_ref()?.rest.text("etag").map(str::to_owned))?
        });
        let etag = etag.filter(|_| held.is_some());
        let started = Instant::now();
        let address = upstream::address(base, Some(project.as_str()));
        let mut fetched = self.upstream().page(
            &address,
            etag.as_deref(),
            self.upstream().timeout() * PATIENCE,
        )?;
        match fetched.status {
            200 => (),
            304 if held.is_some() => {
                known.at = Some(started);
                known.etag = etag;
                return Ok(true);
            }
            404 | 410 if held.is_none() => {
                known.at = Some(started);
                return Ok(false);
            }
            status => {
                let message = format!("the upstream answered {status} for {project}");
                return Err(Error::new(Kind::BadGateway, message));
            }
        }
        let serial = fetched.last_serial();
        check_serial(&Settings::of(index), held.as_ref(), known.serial, serial)?;
        let answered = started.elapsed();
        let page = read_page(&mut fetched, project)?;
        let read = started.elapsed();
        let etag = fetched.etag().map(str::to_owned);
        let seen = Seen { etag: etag.clone(), serial, upstream: known.upstream.clone() };
        writer.write(|txn| {
            let index = index::require(txn, &index.name)?;
            if identity(&Settings::of(&index)) != seen.upstream {
                return Err(Error::conflict("the mirror was changed while its upstream was asked"));
            }
            record::store(txn, &index, project, &page, &seen)
        })?;
        (known.at, known.etag, known.serial) = (Some(started), etag, serial.or(known.serial));
        let stored = started.elapsed();
        log::debug!(
            "{}: {project}: answered after {answered:?}, read after {read:?}, stored after {stored:?}",
            index.name
        );
        Ok(true)
    }

    /// Asks the master for its page, which makes it look if it has to, and waits for what it learnt to arrive here.
    fn ask_master(
        &self,
        replica: &Replica,
        (index, _): (&Index, &Settings),
        project: &ProjectName,
        known: &mut Known,
    ) -> Result<bool> {
        let started = Instant::now();
        let timeout = self.upstream().timeout();
        let target = format!("/{}/+simple/{project}/", index.name);
        let answer = replica.get(&target, &[("Accept", upstream::ACCEPT)], timeout * PATIENCE)?;
        let serial = wire::serial_of(&answer.headers).flatten();
        let age = answer.headers.get("age").and_then(|age| age.trim().parse().ok());
        let stale = answer.headers.get(STALE).map(str::to_owned);
        let status = answer.status;
        // Read to its end, so that the connection can be used again.
        let _ = std::io::copy(&mut answer.body.take(DRAIN_BYTES_MAX), &mut std::io::sink());
        match status {
            200 => (),
            404 => {
                known.at = Some(started);
                return Ok(false);
            }
            _ => {
                let message = format!("the master answered {status} for {project}");
                return Err(Error::new(Kind::BadGateway, message));
            }
        }
        let deadline = Deadline::after(timeout);
        if serial.is_some_and(|serial| !self.store().clock().wait_for(serial, deadline)) {
            return Err(Error::new(
                Kind::BadGateway,
                "what the master learnt has not arrived here yet",
            ));
        }
        if !is_held(&self.store().read()?, &index.name, project)? {
            let message = format!("no cache links from primary for {project}");
            return Err(Error::new(Kind::BadGateway, message));
        }
        if let Some(why) = stale {
            return Err(Error::new(Kind::BadGateway, why));
        }
        let age = Duration::from_secs(age.unwrap_or(0));
        known.at = Some(started.checked_sub(age).unwrap_or(started));
        Ok(true)
    }
}

/// Reads a page to its end.
fn read_page(fetched: &mut Fetched, project: &ProjectName) -> Result<parse::UpstreamPage> {
    let url = Url::parse(&fetched.url)
        .map_err(|_| Error::new(Kind::BadGateway, "the upstream's address is no URL"))?;
    let media_type = fetched.media_type();
    parse::page(&media_type, &mut fetched.body, &url, project)
}

/// Whether the same may go better at once.
fn is_transient(error: &Error) -> bool {
    matches!(error.kind, Kind::BadGateway) && !parse::is_nonsense(error)
}

/// An upstream whose serial went back shows an older state, as a cache in between may do.
fn check_serial(
    settings: &Settings,
    held: Option<&Links>,
    seen: Option<i64>,
    serial: Option<i64>,
) -> Result<()> {
    let stored = held.and_then(|held| held.rest.integer("serial"));
    let known = seen.max(stored).unwrap_or(-1);
    match serial {
        Some(serial) if serial < known && !settings.ignores_serial => {
            let message = format!("the upstream went back from serial {known} to {serial}");
            Err(Error::new(Kind::BadGateway, message))
        }
        _ => Ok(()),
    }
}

/// The age from which a page is looked at again behind the backs of those who ask for it.
fn ahead_of(expiry: Duration) -> Duration {
    expiry - expiry / 4
}

/// Whether stored links came from this upstream. Those of another server do not say.
fn is_from(held: &Links, upstream: &str) -> bool {
    held.rest.text("upstream").is_none_or(|from| from == upstream)
}

fn is_held(txn: &impl Read, index: &IndexName, project: &ProjectName) -> Result<bool> {
    links::is_cached(txn, index, project)
}

fn key_of(index: &IndexName, project: &ProjectName) -> String {
    format!("{index}/{project}")
}

/// What tells one upstream from another; no secret is in it.
pub(super) fn identity(settings: &Settings) -> String {
    settings.url.as_deref().map(upstream::without_credentials).unwrap_or_default()
}

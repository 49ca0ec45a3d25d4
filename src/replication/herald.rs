//! Telling former masters that they are replaced: one thread of a promoted master, until each was told.
//!
//! An old master that comes back takes writes until it learns of the new one. So the new one does not wait to be met:
//! it knocks until the old one opens. What is told is a part of the address, which the proof covers.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::deadline::Deadline;
use crate::error::{Error, Result};
use crate::http::client::{Client, ClientOptions, Timeouts};
use crate::http::request::Request;
use crate::http::response::Response;
use crate::serial::{Serial, SerialClock};
use crate::stop::{Stop, spawn};
use crate::store::timeline::Fence;
use crate::store::{Store, Writer};
use crate::sync::{Mutex, lock};

use super::auth::Signer;
use super::handshake::is_id;
use super::link::{self, Link, State};
use super::wire;

/// How long a former master may take.
const ASK: Duration = Duration::from_secs(2);
/// How long the present master may take to yield, when it can be reached: one that is stuck is not waited for.
const HANDOVER_ASK: Duration = Duration::from_secs(1);
/// How long the last of what it has may take to come.
const HANDOVER_WAIT: Duration = Duration::from_secs(10);
/// Stands for a timeline that is not begun.
const NO_TIMELINE: &str = "00000000000000000000000000000000";
/// The first pause between two rounds, and the longest: as long an old master may go on when it comes back.
const PAUSES: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(1));
/// The pause when an address leads to this node itself, as one does that moves with the role.
const SELF_PAUSE: Duration = Duration::from_secs(30);
/// The local value that says who was told: the epoch and the address, one a line.
const TOLD: &str = "fence-told";

/// The thread that tells.
pub struct Herald {
    stop: Stop,
    links: Vec<Arc<Link>>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

/// How it went with one former master.
#[derive(Debug, PartialEq, Eq)]
enum Told {
    /// It knows now.
    Yes,
    /// The address leads to this node.
    Itself,
    /// It is no node of this program, and does not understand.
    Never,
    /// It could not be told.
    No(String),
}

impl Herald {
    /// Begins to tell those at `urls` of this node's newest timeline; `outside_url` is where it can be reached. Those
    /// that were told before are left out. `None` if nobody is to be told.
    ///
    /// # Errors
    /// `Kind::Internal` if the system gives no thread.
    pub fn start(
        writer: &Arc<Writer>,
        urls: &[String],
        outside_url: Option<&str>,
        client: &ClientOptions,
        signer: impl Fn() -> Signer,
    ) -> Result<Option<Self>> {
        let Some(timeline) = writer.store().timeline() else { return Ok(None) };
        let told = told_before(writer.store(), timeline.epoch)?;
        let mut links = Vec::new();
        for url in urls.iter().filter(|url| !told.contains(url)) {
            let client = Client::new(client.clone())?;
            links.push(Arc::new(Link::new(client, url, signer(), None, None)));
        }
        if links.is_empty() {
            return Ok(None);
        }
        let stop = Stop::new();
        let run = Run {
            writer: writer.clone(),
            target: target(timeline.epoch, &timeline.id, outside_url),
            epoch: timeline.epoch,
            told,
            left: links.clone(),
            stop: stop.clone(),
        };
        let thread = Mutex::new(Some(spawn("herald", move || run.run())?));
        Ok(Some(Self { stop, links, thread }))
    }

    /// Ends the thread.
    pub fn stop(&self) {
        self.stop.set();
        self.links.iter().for_each(|link| link.shutdown());
        if let Some(thread) = lock(&self.thread).take()
            && thread.join().is_err()
        {
            log::error!("the herald panicked");
        }
    }
}

impl Drop for Herald {
    fn drop(&mut self) {
        self.stop();
    }
}

fn target(epoch: u64, id: &str, outside_url: Option<&str>) -> String {
    let mut target = format!("{}?epoch={epoch}&timeline={id}", wire::FENCE);
    if let Some(url) = outside_url {
        let url = percent_encoding::utf8_percent_encode(url, percent_encoding::NON_ALPHANUMERIC);
        target.push_str(&format!("&url={url}"));
    }
    target
}

/// Tells the master, if it can be reached, that this node takes its place with `epoch`, and waits until all that it
/// committed before is here: nothing is lost by a promotion while both live.
///
/// # Errors
/// `Kind::Conflict` if the master yields to none of that epoch, or what it has does not come.
pub(super) fn take_over(
    link: &Link,
    clock: &SerialClock,
    epoch: u64,
    outside_url: Option<&str>,
) -> Result<()> {
    // One whose connection broke just now may be well. With one of another history there is nothing to share.
    let state = link.known().state;
    let may_yield = [State::Starting, State::Following, State::CatchingUp, State::Unreachable];
    if !may_yield.contains(&state) {
        return Ok(());
    }
    let timeouts = Timeouts { connect: HANDOVER_ASK, response_head: HANDOVER_ASK, per_read: ASK };
    let target = target(epoch, NO_TIMELINE, outside_url);
    let (ask, begun) = (|| link.ask("POST", &target, &[], timeouts), Instant::now());
    // The connection that was kept may be a broken one.
    let answer = ask().or_else(|error| match begun.elapsed() < HANDOVER_ASK / 2 {
        true => ask(),
        false => Err(error),
    });
    let answer = match answer {
        Ok(answer) if answer.headers.has(wire::TWINPI_VERSION) => answer,
        Ok(answer) => {
            log::info!("the master is another program, and is not told that it is replaced");
            link::drain(answer);
            return Ok(());
        }
        Err(error) => {
            log::info!("the master is not told before: {error}");
            return Ok(());
        }
    };
    let (status, serial) = (answer.status, wire::serial_of(&answer.headers).flatten());
    if status != 200 {
        let message = format!("the master does not yield ({status}): {}", link::excerpt(answer));
        return Err(Error::conflict(message));
    }
    link::drain(answer);
    match serial {
        Some(serial) if !clock.wait_for(serial, Deadline::after(HANDOVER_WAIT)) => {
            let here = Serial::wire(clock.now());
            Err(Error::conflict(format!(
                "the master takes no changes any more and is at serial {serial}; this node is at {here} and does not \
                 come to it. Run it again, with --accept-loss if the rest is to be lost, or promote the master again"
            )))
        }
        _ => Ok(()),
    }
}

fn told_before(store: &Store, epoch: u64) -> Result<Vec<String>> {
    let noted = store.local_value(TOLD)?.unwrap_or_default();
    let noted = String::from_utf8_lossy(&noted).into_owned();
    let mut lines = noted.lines().map(str::to_owned);
    let is_of_this = lines.next() == Some(epoch.to_string());
    Ok(if is_of_this { lines.collect() } else { Vec::new() })
}

struct Run {
    writer: Arc<Writer>,
    target: String,
    epoch: u64,
    told: Vec<String>,
    left: Vec<Arc<Link>>,
    stop: Stop,
}

impl Run {
    fn run(mut self) {
        let mut pause = PAUSES.0;
        let mut said = BTreeMap::new();
        while !self.left.is_empty() && !self.stop.is_set() {
            let mut is_self_only = true;
            for link in std::mem::take(&mut self.left) {
                let told = tell(&link, &self.target);
                if self.stop.is_set() {
                    return;
                }
                match told {
                    Told::Yes => self.note(link.url()),
                    Told::Itself => self.left.push(link),
                    Told::Never => log::warn!(
                        "the former master at {} cannot be told that it is replaced: it is another program. See to it \
                         that it takes no changes",
                        link.url()
                    ),
                    Told::No(why) => {
                        is_self_only = false;
                        if said.get(link.url()) != Some(&why) {
                            log::info!(
                                "the former master cannot be told that it is replaced: {why}"
                            );
                            said.insert(link.url().to_owned(), why);
                        }
                        self.left.push(link);
                    }
                }
            }
            self.stop.sleep(if is_self_only { SELF_PAUSE } else { pause });
            pause = (pause * 2).min(PAUSES.1);
        }
    }

    fn note(&mut self, url: &str) {
        log::info!("the former master at {url} knows that it is replaced");
        self.told.push(url.to_owned());
        let noted = format!("{}\n{}", self.epoch, self.told.join("\n"));
        if let Err(error) = self.writer.set_local_value(TOLD, Some(noted.as_bytes())) {
            log::warn!("who was told cannot be noted, and will be told again: {error}");
        }
    }
}

fn tell(link: &Link, target: &str) -> Told {
    let timeouts = Timeouts { connect: ASK, response_head: ASK, per_read: ASK };
    let answer = match link.ask("POST", target, &[], timeouts) {
        Ok(answer) => answer,
        Err(error) => return Told::No(link.away("it", &error).message),
    };
    let told = match answer.status {
        _ if answer.headers.get(wire::UUID) == Some(link.uuid()) => Told::Itself,
        200 if answer.headers.has(wire::TWINPI_VERSION) => Told::Yes,
        200..500 if !answer.headers.has(wire::TWINPI_VERSION) => Told::Never,
        status => {
            return Told::No(format!(
                "{} answered {status}: {}",
                link.url(),
                link::excerpt(answer)
            ));
        }
    };
    link::drain(answer);
    told
}

/// What `POST /+fence` tells; `uuid` is that of the node that was proven to send it.
///
/// # Errors
/// `Kind::Invalid` if it tells nothing.
pub fn fence_of(request: &Request, uuid: &str) -> Result<Fence> {
    let text = |name| request.parameter(name).unwrap_or_default();
    let decoded = |text: &str| {
        percent_encoding::percent_decode_str(text).decode_utf8().ok().map(|text| text.into_owned())
    };
    let epoch = text("epoch").parse().ok().filter(|epoch| i64::try_from(*epoch).is_ok());
    let timeline = Some(text("timeline")).filter(|id| is_id(id));
    let (Some(epoch), Some(timeline)) = (epoch, timeline) else {
        return Err(Error::invalid("a fence names an epoch and a timeline"));
    };
    let url = request.parameter("url").and_then(decoded).filter(|url| url::Url::parse(url).is_ok());
    Ok(Fence { epoch, timeline: timeline.to_owned(), uuid: uuid.to_owned(), url })
}

/// Whether another master goes before this node: it has a higher epoch, or, where two were promoted to the same, the
/// greater id. Both say the same of each other, so one of them stays.
pub fn is_behind(store: &Store, fence: &Fence) -> bool {
    let own = store.timeline();
    let own = own.map_or((0, String::new()), |timeline| (timeline.epoch, timeline.id));
    own < (fence.epoch, fence.timeline.clone())
}

/// Answers one who says to be the newer master.
pub fn answer(store: &Store, fence: &Fence, met: &(dyn Fn(&Fence) + Send + Sync)) -> Response {
    if !is_behind(store, fence) {
        let own = store.epoch();
        let message = format!(
            "this node is at epoch {own} itself, and yields to none of epoch {}",
            fence.epoch
        );
        return wire::failure(409, &message);
    }
    met(fence);
    match store.fence() {
        Some(_) => Response::bytes(200, "application/json", br#"{"state": "fenced"}"#.to_vec()),
        None => wire::failure(500, "the fence cannot be written down"),
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;
    use crate::http::request::{Headers, Method};
    use crate::store::timeline::Timeline;

    fn request(target: &str) -> Request {
        Request {
            method: Method::Post,
            target: target.into(),
            headers: Headers::default(),
            peer: None,
            deadline: Deadline::after(Duration::from_secs(9)),
            body_length: None,
            body: Box::new(io::empty()),
        }
    }

    #[test]
    fn what_is_told_is_what_is_heard() {
        let timeline = Timeline { epoch: 7, id: "ab".repeat(16), after: None, chain: [0; 32] };
        for url in [None, Some("https://packages.example.org/x?a=1&b=2")] {
            let heard = fence_of(&request(&target(7, &timeline.id, url)), "u").expect("reads");
            let told = Fence {
                epoch: 7,
                timeline: timeline.id.clone(),
                uuid: "u".into(),
                url: url.map(str::to_owned),
            };
            assert_eq!(heard, told);
        }
        for bad in ["/+fence", "/+fence?epoch=1", "/+fence?epoch=x&timeline=1"] {
            assert!(fence_of(&request(bad), "u").is_err(), "{bad}");
        }
    }

    #[test]
    fn of_two_masters_exactly_one_yields() {
        let open = || {
            let dir = tempfile::tempdir().expect("a folder");
            let (store, writer) = crate::store::open(dir.path(), 1).expect("opens");
            (dir, store, writer)
        };
        let ((_a, one, one_writer), (_b, two, two_writer)) = (open(), open());
        let fence = |timeline: Timeline| Fence {
            epoch: timeline.epoch,
            timeline: timeline.id,
            uuid: "u".into(),
            url: None,
        };
        let first = fence(one_writer.begin_timeline().expect("begins"));
        let second = fence(two_writer.begin_timeline().expect("begins"));
        assert_ne!(is_behind(&one, &second), is_behind(&two, &first));
        assert!(!is_behind(&one, &first));
        let newer = fence(two_writer.begin_timeline().expect("begins"));
        assert!(is_behind(&one, &newer) && !is_behind(&two, &first));
        let met = |fence: &Fence| one_writer.set_fence(fence).expect("writes");
        assert_eq!(answer(&one, &newer, &met).status, 200);
        assert_eq!(one.fence().map(|fence| fence.epoch), Some(2));
        assert_eq!(answer(&two, &first, &|_| panic!("it yields to none")).status, 409);
    }
}

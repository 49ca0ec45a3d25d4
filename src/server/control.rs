//! How a command reaches the node that runs in a folder: a unix socket in the folder itself. Who may write there may
//! change the node's files anyway, so the file system decides who may command it.
//!
//! One connection is one request and its answer, each a line of JSON.

use std::fs::{self, File, Permissions};
use std::io::{BufRead as _, BufReader, ErrorKind, Read as _, Write as _};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use serde_json::{Value as Json, json};

use crate::deadline::Deadline;
use crate::error::{Context as _, Error, Kind, Result};
use crate::stop;
use crate::sync::{Mutex, lock};

/// The socket's name in the folder.
const SOCKET: &str = ".control";
/// The longest request or answer.
const LINE_BYTES_MAX: u64 = 1 << 20;
/// How long the other side may take for a request, and to take an answer.
const LINE_WAIT: Duration = Duration::from_secs(5);
/// How long a node may take for an answer: it may have to look for all its files, or save entries.
const ANSWER_WAIT: Duration = Duration::from_secs(600);
/// How long a node may take to be there again in its new role.
const RETURN_WAIT: Duration = Duration::from_secs(60);
/// The pause between two looks whether it is.
const RETURN_LOOKS: Duration = Duration::from_millis(20);

/// Answers one request; the second value is the connection when it was not answered, and will be by someone else.
pub type Answer = Box<dyn Fn(&Json, UnixStream) + Send>;

/// The listening end.
pub struct Control {
    dir: PathBuf,
    is_stopped: Arc<AtomicBool>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

/// A path to the socket that is short enough for a socket's address, however long that of the folder is; it is good
/// while the folder stays open.
fn place(dir: &Path) -> Result<(File, PathBuf)> {
    let folder = File::open(dir).context(|| format!("opening {}", dir.display()))?;
    let place = PathBuf::from(format!("/proc/self/fd/{}/{SOCKET}", folder.as_raw_fd()));
    Ok((folder, place))
}

impl Control {
    /// Listens in the folder, whose lock this process holds.
    ///
    /// # Errors
    /// `Kind::Internal` if the system gives no socket or thread.
    pub fn start(dir: &Path, answer: Answer) -> Result<Self> {
        let (_folder, place) = place(dir)?;
        match fs::remove_file(&place) {
            Err(e) if e.kind() != ErrorKind::NotFound => return Err(e.into()),
            _ => {}
        }
        let listener = UnixListener::bind(&place).context(|| "making the control socket")?;
        fs::set_permissions(&place, Permissions::from_mode(0o600))?;
        let is_stopped = Arc::new(AtomicBool::new(false));
        let stopped = is_stopped.clone();
        let thread = stop::spawn("control", move || {
            for client in listener.incoming() {
                if stopped.load(Ordering::Acquire) {
                    return;
                }
                let read = client
                    .map_err(Error::from)
                    .and_then(|client| Ok((read_request(&client)?, client)));
                match read {
                    Ok((request, client)) => answer(&request, client),
                    Err(error) => log::warn!("a command did not arrive: {error}"),
                }
            }
        })?;
        Ok(Self { dir: dir.to_owned(), is_stopped, thread: Mutex::new(Some(thread)) })
    }

    /// Ends the thread and removes the socket.
    pub fn stop(&self) {
        if self.is_stopped.swap(true, Ordering::AcqRel) {
            return;
        }
        let Ok((_folder, place)) = place(&self.dir) else { return };
        if UnixStream::connect(&place).is_ok()
            && let Some(thread) = lock(&self.thread).take()
            && thread.join().is_err()
        {
            log::error!("the control thread panicked");
        }
        let _ = fs::remove_file(&place); // the next start removes it otherwise
    }
}

fn read_request(client: &UnixStream) -> Result<Json> {
    client.set_read_timeout(Some(LINE_WAIT))?;
    client.set_write_timeout(Some(LINE_WAIT))?;
    read_line(client)
}

fn read_line(stream: &UnixStream) -> Result<Json> {
    let mut line = String::new();
    BufReader::new(stream.take(LINE_BYTES_MAX)).read_line(&mut line)?;
    serde_json::from_str(&line).map_err(|e| Error::internal("no JSON came").caused_by(e))
}

fn write_line(mut stream: &UnixStream, json: &Json) -> Result<()> {
    stream.write_all(format!("{json}\n").as_bytes())?;
    Ok(())
}

/// Tells a client how its command ended.
pub fn reply(client: &UnixStream, result: &Result<Json>) {
    let json = match result {
        Ok(json) => json!({"ok": json}),
        Err(error) => json!({"error": error.message, "is-conflict": error.kind == Kind::Conflict}),
    };
    if let Err(error) = write_line(client, &json) {
        log::warn!("who gave a command did not wait for the answer: {error}");
    }
}

/// Asks the node that runs in a folder; `None` if none does, as far as can be seen.
///
/// # Errors
/// What the node says; `Kind::Internal` if it breaks off.
pub fn ask(dir: &Path, request: &Json) -> Result<Option<Json>> {
    let (_folder, place) = place(dir)?;
    let node = match UnixStream::connect(&place) {
        Ok(node) => node,
        Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::ConnectionRefused) => {
            return Ok(None);
        }
        Err(e) => return Err(Error::from(e).while_doing("asking the node that runs here")),
    };
    node.set_read_timeout(Some(ANSWER_WAIT))?;
    write_line(&node, request)?;
    let mut answer = read_line(&node).context(|| "the node that runs here")?;
    match answer.get_mut("ok") {
        Some(ok) => Ok(Some(ok.take())),
        None => {
            let message = answer["error"].as_str().unwrap_or("the node gave no answer").to_owned();
            let is_conflict = answer["is-conflict"].as_bool() == Some(true);
            Err(Error::new(if is_conflict { Kind::Conflict } else { Kind::Internal }, message))
        }
    }
}

/// Waits until the node that was told to change its role is there again, and gives what it says of itself.
///
/// # Errors
/// `Kind::Timeout` if it does not come.
pub fn wait_for_return(dir: &Path) -> Result<Json> {
    let end = Deadline::after(RETURN_WAIT);
    while !end.is_past() {
        if let Ok(Some(role)) = ask(dir, &json!({"do": "role"})) {
            return Ok(role);
        }
        std::thread::sleep(RETURN_LOOKS);
    }
    Err(Error::new(
        Kind::Timeout,
        "the node did what it was told, and is not there again: see its log",
    ))
}

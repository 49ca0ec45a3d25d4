//! Tells the master how far this replica's files have come. Polls tell it too, but a poll may be parked for long while
//! files arrive.

use std::sync::Arc;
use std::time::Duration;

use crate::http::client::Timeouts;
use crate::serial::Serial;
use crate::stop::Stop;
use crate::store::Store;

use super::link::{self, CONNECT, Link};
use super::{replicas, wire};

/// The least pause between two reports.
const PAUSE: Duration = Duration::from_millis(500);
/// How long the master may take for its answer.
const ANSWER: Duration = Duration::from_secs(10);

/// Reports after each word of `Link::files_moved` until the stop.
pub fn run(link: &Arc<Link>, store: &Arc<Store>, stop: &Stop) {
    let words = link.file_words();
    let mut told = None;
    while words.recv().is_ok() && !stop.is_set() {
        if link.is_twin()
            && link.known().brings_files
            && let Ok(files) = store.files_up_to()
            && told != Some(files)
            && send(link, store, &replicas::files_word(&files))
        {
            told = Some(files);
        }
        stop.sleep(PAUSE);
    }
}

/// Asks for something small, with the report on it; true if it was taken.
fn send(link: &Link, store: &Store, report: &str) -> bool {
    let Some(serial) = store.clock().now() else { return false };
    let timeouts = Timeouts { connect: CONNECT, response_head: ANSWER, per_read: ANSWER };
    let target = format!("{}{}", wire::POSITIONS, Serial::wire(Some(serial)));
    match link.get(&target, &[(wire::FILES, report)], timeouts) {
        Ok(answer) => {
            let is_taken = answer.status == 200;
            link::drain(answer);
            is_taken
        }
        Err(error) => {
            log::debug!("the master was not told about files: {error}");
            false
        }
    }
}

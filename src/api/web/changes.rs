//! What happened lately, as a page: of the whole node, or of one index.

use std::time::SystemTime;

use crate::error::{Error, Result};
use crate::http::request::Request;
use crate::http::response::Response;
use crate::names::IndexName;
use crate::pages::changes::{Arrival, ChangesPage, Line};
use crate::pages::live::Live;
use crate::replication::replicas::Replica;
use crate::serial::Serial;

use super::super::changes::{self, Eyes, FilesUpTo, Shown};
use super::super::live::Mark;
use super::super::standing::name_of;
use super::super::{App, ask};
use super::{place, reader, respond};

/// Changes on one page.
const SHOWN: usize = 50;
/// After so many seconds a page is drawn again though nothing moved: its times are relative.
const EVERY: u32 = 20;

/// `GET /+changes[?before=N|?since=N]` and `GET /U/I/+changes`, the newest first.
///
/// # Errors
/// `Kind::Invalid` for a parameter that is none; `Kind::NotFound` if there is no such index, and those of reading it.
pub fn page(app: &App, request: &Request, index: Option<&IndexName>) -> Result<Response> {
    if let Some(name) = index {
        drop(app.read_index(request, name)?);
    }
    let serial = |name: &str| -> Result<Option<Serial>> {
        let wrong = |number| Error::invalid(format!("there is never a serial {number}"));
        let number = ask::number(request, name)?;
        number.map(|number| Serial::new(number).ok_or_else(|| wrong(number))).transpose()
    };
    let (before, since) = (serial("before")?, serial("since")?);
    let (mark, end) = (Mark::of(app), app.store.clock().now());
    let mut eyes = Eyes::new(app, request, index);
    let mut shown = Vec::new();
    if let (Some(since), None) = (since, before) {
        shown = changes::after(&mut eyes, Some(since), SHOWN)?;
        shown.reverse();
    }
    let is_newest = before.is_none() && shown.len() < SHOWN;
    let mut oldest = shown.last().map(|line| line.serial);
    if since.is_none() || is_newest {
        let from = before.map_or(end, Serial::previous).min(end);
        (shown, oldest) = changes::before(&mut eyes, from, SHOWN)?;
    }
    let (replicas, files) = (changes::replicas(app), changes::files_here(app)?);
    let lines: Vec<_> = shown.into_iter().map(|shown| line(shown, files, &replicas)).collect();
    let who = reader(app, request)?;
    let index = index.map(ToString::to_string);
    let page = ChangesPage {
        index: index.as_deref(),
        newer: lines
            .first()
            .map(|line| line.serial)
            .or(before.map(Serial::get))
            .filter(|_| !is_newest),
        older: oldest.filter(|oldest| oldest.previous().is_some()).map(Serial::get),
        lines: &lines,
        now: SystemTime::now(),
        live: is_newest.then(|| Live { mark: mark.text(), every: EVERY }),
    };
    Ok(respond(200, end, crate::pages::changes::page(&place(app, request, &who), &page)))
}

fn line(shown: Shown, files: FilesUpTo, replicas: &[(String, Replica)]) -> Line {
    let arrival = |(uuid, replica): &(String, Replica)| {
        let (has, files) = changes::arrived(replica, shown.serial);
        Arrival { name: name_of(uuid, replica), is_live: replica.is_live(), has, files }
    };
    Line {
        serial: shown.serial.get(),
        at: shown.time.map(|(at, _)| at),
        is_late: shown.time.is_some_and(|(_, source)| source == "applied"),
        who: shown.who,
        indexes: shown.indexes.iter().map(ToString::to_string).collect(),
        what: shown.what,
        more: shown.more,
        has_files: changes::files_are_here(files, shown.serial),
        arrivals: replicas.iter().map(arrival).collect(),
    }
}

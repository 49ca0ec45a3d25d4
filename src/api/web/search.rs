//! What was found, as a page.

use crate::error::Result;
use crate::http::request::Request;
use crate::http::response::Response;
use crate::pages::layout::Paging;
use crate::pages::search::{self as draw, DocHit, Hit, Piece, SearchPage};
use crate::search::text;

use super::super::{App, search};
use super::{place, reader, respond};

/// `GET /+search`
///
/// # Errors
/// Those of `search::results`.
pub fn results(app: &App, request: &Request) -> Result<Response> {
    let who = reader(app, request)?;
    let found = search::results(app, request, &who)?;
    let mut hits = Vec::new();
    for hit in &found.own.hits {
        let pages = hit.pages.iter().map(|page| DocHit {
            version: page.version.clone(),
            path: page.path.clone(),
            title: page.title.clone(),
            excerpt: pieces(&page.excerpt),
        });
        hits.push(Hit {
            index: hit.index.to_string(),
            project: hit.project.clone(),
            version: hit.version.clone(),
            summary: pieces(&hit.summary),
            pages: pages.collect(),
            pages_more: hit.pages_more,
            is_mirrored: false,
        });
    }
    for (index, name) in &found.mirrored {
        let (index, project) = (index.to_string(), name.clone());
        hits.push(Hit { index, project, is_mirrored: true, ..Hit::default() });
    }
    let page = SearchPage {
        query: &found.query,
        hits: &hits,
        paging: Paging::new(found.page, found.total(), search::PAGE),
        has_more: found.own.has_more,
        behind: found.behind,
    };
    Ok(respond(200, found.serial, draw::results(&place(app, request, &who), &page)))
}

fn pieces(pieces: &[text::Piece]) -> Vec<Piece> {
    pieces.iter().map(|piece| (piece.text.clone(), piece.is_found)).collect()
}

/// `GET /+searchhelp`
///
/// # Errors
/// `Kind::Unavailable` if too many passwords are being checked.
pub fn help(app: &App, request: &Request) -> Result<Response> {
    let who = reader(app, request)?;
    Ok(respond(200, app.store.clock().now(), draw::help(&place(app, request, &who))))
}

//! Pages for people: whoever asks for HTML and is no installer gets them where programs get JSON.

mod browse;
mod changes;
mod facts;
mod search;
mod status;
mod version;

use std::sync::Arc;

use crate::error::{Error, Kind, Result};
use crate::http::accept;
use crate::http::request::Request;
use crate::http::response::{CHALLENGE, Reply, Response, status};
use crate::model::acl::Identity;
use crate::pages::assets::Asset;
use crate::pages::layout::{self, Place};
use crate::serial::Serial;

use super::receipts::Call;
use super::route::{Route, Verb};
use super::{App, Node, ask, at, auth, is_get};

/// How long browsers may keep an asset: its name changes with its bytes.
const FOREVER: &str = "public, max-age=31536000, immutable";

/// Whether a request wants a page: it reads, takes HTML before JSON, and comes from no installer.
pub fn is_wanted(request: &Request) -> bool {
    let takes_html = || {
        let best = accept::best(request.accept(), &[ask::HTML, ask::JSON, ask::SIMPLE_JSON]);
        best == Some(ask::HTML) && !ask::is_json(request)
    };
    is_get(request)
        && request.accept().contains(ask::HTML)
        && takes_html()
        && !ask::is_installer(request)
}

/// Answers with a page, where there is one; gives the request back where there is none.
///
/// # Errors
/// Those of the pages: `Kind::NotFound`, `Kind::Unavailable`.
pub fn show(
    app: &Call,
    request: Request,
    route: Route,
) -> Result<std::result::Result<Reply, (Request, Route)>> {
    if !is_wanted(&request) {
        return Ok(Err((request, route)));
    }
    match route {
        Route::Root => browse::all(app, &request).map(Reply::Now),
        Route::Search => search::results(app, &request).map(Reply::Now),
        Route::SearchHelp => search::help(app, &request).map(Reply::Now),
        Route::User(Verb::Show, user) => browse::user(app, &request, &user).map(Reply::Now),
        Route::Index(Verb::Show, index) => browse::index(app, request, &index),
        Route::Project(Verb::Show, index, project) => {
            browse::project(app, request, &index, &project)
        }
        Route::Status if ask::parameter(&request, "format").as_deref() != Some("json") => {
            status::page(app, &request).map(Reply::Now)
        }
        Route::Changes(index) => changes::page(app, &request, index.as_ref()).map(Reply::Now),
        Route::Version(Verb::Show, index, project, version) => {
            version::show(app, request, &index, &project, version)
        }
        Route::Results(index, of) => version::results(app, request, &index, of),
        route => return Ok(Err((request, route))),
    }
    .map(Ok)
}

/// Where a page is shown.
pub fn place(app: &App, request: &Request, who: &Identity) -> Place {
    let outside = app.config.outside_url.as_deref();
    let here = match request.query() {
        "" => request.path().to_owned(),
        query => format!("{}?{query}", request.path()),
    };
    Place {
        root: ask::prefix(request, outside).unwrap_or_default(),
        base: ask::base_url(request, outside),
        who: who.user().map(ToString::to_string),
        here,
        role: match app.node {
            Node::Master { .. } => "master",
            Node::Replica(_) => "replica",
        },
        serial: Serial::wire(app.store.clock().now()),
        health: super::standing::verdict(app),
    }
}

/// Who looks at a page. That changes what is listed, so pages ask whenever credentials come with a request.
///
/// # Errors
/// `Kind::Unavailable` if too many passwords are being checked.
pub fn reader(app: &App, request: &Request) -> Result<Identity> {
    super::access::asker(app, request)
}

/// A page as an answer: what browsers may do with it stands in its head.
pub fn respond(status: u16, serial: Option<Serial>, page: String) -> Response {
    let response = Response::bytes(status, "text/html; charset=utf-8", page)
        .with_header("Content-Security-Policy", layout::POLICY)
        .with_header("X-Content-Type-Options", "nosniff")
        .with_header("Referrer-Policy", "same-origin")
        .with_header("Vary", "Accept, Authorization, User-Agent")
        .with_header("Cache-Control", "private, no-cache");
    at(serial, response)
}

/// The page that says what went wrong.
pub fn failure(app: &App, request: &Request, error: &Error) -> Response {
    let who = reader(app, request).unwrap_or(Identity::Anonymous);
    let plain = ask::failure(error, false);
    let text = if error.kind == Kind::Internal { "internal error" } else { &error.message };
    let page = layout::failure(&place(app, request, &who), status(error.kind), text);
    let mut response = respond(plain.status, app.store.clock().now(), page);
    for name in ["WWW-Authenticate", "Retry-After"] {
        if let Some(value) = plain.header(name) {
            response = response.with_header(name, value.to_owned());
        }
    }
    response
}

/// `GET /+static/NAME`.
///
/// # Errors
/// `Kind::NotFound` if no asset of this program has the name.
pub fn asset(name: &str) -> Result<Response> {
    let asset = Asset::find(name).ok_or_else(|| Error::not_found("no such asset"))?;
    Ok(Response::bytes(200, asset.content_type(), asset.text())
        .with_header("Cache-Control", FOREVER)
        .with_header("X-Content-Type-Options", "nosniff"))
}

/// `GET /+signin?to=/...`: asks the browser for a name and a password, and leads back.
///
/// The question is asked at the root, so browsers send the answer with all that they ask for later.
///
/// # Errors
/// `Kind::Unavailable` if too many passwords are being checked.
pub fn sign_in(app: &App, request: &Request) -> Result<Response> {
    let who = auth::identify(app, request)?;
    let place = place(app, request, &who);
    if who == Identity::Anonymous {
        let text = "Reload this page and give the name and the password of a user of this server.";
        let page = layout::failure(&place, 401, text);
        return Ok(
            respond(401, app.store.clock().now(), page).with_header("WWW-Authenticate", CHALLENGE)
        );
    }
    let wanted = ask::parameter(request, "to").filter(|to| is_own_address(to));
    Ok(ask::redirect(format!("{}{}", place.root, wanted.as_deref().unwrap_or("/"))))
}

/// Whether an address is a path of this server, which no browser takes for another host.
fn is_own_address(to: &str) -> bool {
    to.starts_with('/')
        && !to.starts_with("//")
        && to.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'\\')
}

/// Refuses a change that a page of another site has a reader's browser send: browsers add the reader's password.
///
/// # Errors
/// `Kind::Forbidden`.
pub fn check_site(request: &Request) -> Result<()> {
    let site = request.headers.get("sec-fetch-site").unwrap_or("none");
    match request.method.is_read() || matches!(site, "none" | "same-origin") {
        true => Ok(()),
        false => Err(Error::forbidden("a page of another site may not change anything here")),
    }
}

/// Draws what may have to wait for another server, off the threads for local work.
fn remote(
    app: &Arc<App>,
    request: Request,
    draw: impl FnOnce(&App, &Request) -> Result<Response> + Send + 'static,
) -> Reply {
    let app = app.clone();
    Reply::Remote(Box::new(move || {
        let drawn = draw(&app, &request);
        Reply::Now(drawn.unwrap_or_else(|error| failure(&app, &request, &error)))
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_is_led_to_another_server() {
        for own in ["/", "/ann/dev?page=2", "/+search?query=a%2Fb"] {
            assert!(is_own_address(own), "{own}");
        }
        for other in ["", "ann", "//evil", "/\\evil", "https://evil/", "/a\r\nSet-Cookie: x", "/ a"]
        {
            assert!(!is_own_address(other), "{other}");
        }
    }
}

//! Routes: an address parsed once, into names. What may run where is a property of the route.

use percent_encoding::percent_decode_str;

use crate::error::{Error, Result};
use crate::http::request::Method;
use crate::names::{IndexName, UserName};
use crate::store::key::FilePath;

/// What an address asks for. Project and version stay as they were spelled: reads redirect to the normal form.
#[derive(Clone, Debug, PartialEq)]
pub enum Route {
    /// `GET /`: all users
    Root,
    /// `/+api`, `/U/+api`, `/U/I/+api`
    Api(Option<Scope>),
    /// `POST /+login`
    Login,
    /// `GET /+search`
    Search,
    /// `GET /+search/suggest`
    Suggest,
    /// `GET /+searchhelp`
    SearchHelp,
    /// `GET /+static/NAME`
    Static(String),
    /// `GET /+signin`
    SignIn,
    /// `GET /+status`
    Status,
    /// `GET /+wait`
    Wait,
    /// `GET /+changes` and `GET /U/I/+changes`
    Changes(Option<IndexName>),
    /// `GET /+live`
    Live,
    /// `GET /+alive` and `/+health/live`
    Alive,
    /// `GET /+ready` and `/+health/ready`
    Ready,
    /// `GET /+badge.svg`
    Badge,
    /// `GET /+metrics`
    Metrics,
    /// `GET /+authcheck`
    AuthCheck,
    /// `GET /+position/N`
    Position(u64),
    /// `GET /+timelines`
    Timelines,
    /// `GET /+snapshot`
    Snapshot,
    /// `GET /+snapshot/ID/N`
    SnapshotPiece(String, usize),
    /// `POST /+fence`
    Fence,
    /// `GET /+files/lost`
    Lost,
    /// `PUT /+files/PATH`
    Mend(FilePath),
    /// `GET /+changelog/N` and `/+changelog/N-`
    Changelog {
        /// The serial asked for.
        serial: u64,
        /// Whether all after it are asked for too.
        onwards: bool,
    },
    /// `GET /+receipt/KEY`
    Receipt(String),
    /// `/U`
    User(Verb, UserName),
    /// `GET /U/+tokens`
    Tokens(UserName),
    /// `POST /U/+tokens`
    TokenCreate(UserName),
    /// `DELETE /U/+tokens/ID`
    TokenRevoke(UserName, String),
    /// `/U/I`
    Index(Verb, IndexName),
    /// `POST` or `PUSH` to `/U/I`
    Submit(IndexName),
    /// `POST` of XML to `/U/I`: never parsed from an address alone
    Rpc(IndexName),
    /// `GET /U/I/+simple`
    SimpleList(IndexName),
    /// `GET /U/I/+simple/P`
    Simple(IndexName, String),
    /// `POST /U/I/+simple/P/refresh`
    Refresh(IndexName, String),
    /// `/U/I/+f/...` and `/U/I/+e/...`
    File(FileVerb, FilePath),
    /// `GET .../<wheel>.metadata`
    Metadata(FilePath),
    /// `/U/I/P`
    Project(Verb, IndexName, String),
    /// `/U/I/P/V`
    Version(Verb, IndexName, String, String),
    /// `GET /U/I/P/V/+doc/...` and `/U/I/P/V/+d/...`
    Docs(IndexName, DocPage),
    /// `GET /U/I/P/V/+toxresults/F` and `GET /U/I/P/V/+toxresults/F/RESULT`
    Results(IndexName, ResultsOf),
    /// `GET /U/I/pypi/P/json` and `/U/I/pypi/P/V/json`
    Legacy(IndexName, String, Option<String>),
}

/// A page of documentation.
#[derive(Clone, Debug, PartialEq)]
pub struct DocPage {
    /// The project.
    pub project: String,
    /// The version, or `latest` or `stable`.
    pub version: String,
    /// The page within the documentation; empty for the first one.
    pub page: String,
    /// Whether it is to be shown within a page of ours.
    pub is_framed: bool,
}

/// Test results of a release file.
#[derive(Clone, Debug, PartialEq)]
pub struct ResultsOf {
    /// The project.
    pub project: String,
    /// The version.
    pub version: String,
    /// The name of the release file.
    pub file: String,
    /// The name of one result; none for all of them.
    pub result: Option<String>,
}

/// What the discovery address is about.
#[derive(Clone, Debug, PartialEq)]
pub enum Scope {
    /// A user, who need not exist.
    User(String),
    /// An index, which must.
    Index(IndexName),
}

/// What is to be done with a user, an index, a project or a version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    /// GET
    Show,
    /// PUT
    Create,
    /// PATCH
    Modify,
    /// DELETE
    Delete,
}

/// What is to be done with a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileVerb {
    /// GET
    Get,
    /// POST: a test result for it
    Result,
    /// DELETE
    Delete,
}

/// Where a route may be served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// On any node, from local state.
    Read,
    /// On the master; a replica relays it.
    Write,
    /// On a master, to replicas.
    Replicate,
}

impl Route {
    /// Where it may be served.
    pub fn access(&self) -> Access {
        match self {
            Self::Changelog { .. }
            | Self::Position(_)
            | Self::Timelines
            | Self::Snapshot
            | Self::SnapshotPiece(..)
            | Self::Fence
            | Self::Lost
            | Self::Mend(_) => Access::Replicate,
            Self::TokenCreate(_) | Self::TokenRevoke(..) => Access::Write,
            Self::Login | Self::Submit(_) | Self::Refresh(..) => Access::Write,
            Self::User(verb, _)
            | Self::Index(verb, _)
            | Self::Project(verb, ..)
            | Self::Version(verb, ..) => match verb {
                Verb::Show => Access::Read,
                Verb::Create | Verb::Modify | Verb::Delete => Access::Write,
            },
            Self::File(verb, _) => match verb {
                FileVerb::Get => Access::Read,
                FileVerb::Result | FileVerb::Delete => Access::Write,
            },
            Self::Root
            | Self::Api(_)
            | Self::Search
            | Self::Suggest
            | Self::SearchHelp
            | Self::Rpc(_)
            | Self::Static(_)
            | Self::SignIn
            | Self::Status
            | Self::Wait
            | Self::Changes(_)
            | Self::Live
            | Self::Alive
            | Self::Ready
            | Self::Badge
            | Self::Metrics
            | Self::AuthCheck
            | Self::Receipt(_)
            | Self::Tokens(_)
            | Self::SimpleList(_)
            | Self::Simple(..)
            | Self::Metadata(_)
            | Self::Docs(..)
            | Self::Results(..)
            | Self::Legacy(..) => Access::Read,
        }
    }

    /// Parses a method and the path of an address, percent-encoded, without its query.
    ///
    /// # Errors
    /// `Kind::NotFound` if nothing lies there; `Kind::Invalid` if a name that is to be made breaks the rules.
    pub fn parse(method: Method, path: &str) -> Result<Self> {
        let parts: Vec<String> = path
            .trim_start_matches('/')
            .trim_end_matches('/')
            .split('/')
            .map(|part| percent_decode_str(part).decode_utf8().map(String::from))
            .collect::<std::result::Result<_, _>>()
            .map_err(|_| Error::invalid("the address is not UTF-8"))?;
        let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
        let method = if method == Method::Head { Method::Get } else { method };
        let absent = || Error::not_found(format!("no such page: {} {path}", method.as_str()));
        match parts.as_slice() {
            [""] if method == Method::Get => Ok(Self::Root),
            ["+api"] => Ok(Self::Api(None)),
            [user, "+api"] => Ok(Self::Api(Some(Scope::User((*user).to_owned())))),
            ["+login"] if method == Method::Post => Ok(Self::Login),
            ["+static", name] if method == Method::Get => Ok(Self::Static((*name).to_owned())),
            ["+signin"] if method == Method::Get => Ok(Self::SignIn),
            ["+status"] if method == Method::Get => Ok(Self::Status),
            ["+badge.svg"] if method == Method::Get => Ok(Self::Badge),
            ["+alive"] | ["+health", "live"] if method == Method::Get => Ok(Self::Alive),
            ["+ready"] | ["+health", "ready"] if method == Method::Get => Ok(Self::Ready),
            ["+metrics"] if method == Method::Get => Ok(Self::Metrics),
            ["+wait"] if method == Method::Get => Ok(Self::Wait),
            ["+changes"] if method == Method::Get => Ok(Self::Changes(None)),
            ["+live"] if method == Method::Get => Ok(Self::Live),
            ["+authcheck"] if method == Method::Get => Ok(Self::AuthCheck),
            ["+changelog", serial] if method == Method::Get => changelog(serial).ok_or_else(absent),
            ["+position", serial] if method == Method::Get => {
                number(serial).map(Self::Position).ok_or_else(absent)
            }
            ["+snapshot"] if method == Method::Get => Ok(Self::Snapshot),
            ["+snapshot", id, number] if method == Method::Get => {
                let number = number.parse().map_err(|_| absent())?;
                Ok(Self::SnapshotPiece((*id).to_owned(), number))
            }
            ["+timelines"] if method == Method::Get => Ok(Self::Timelines),
            ["+fence"] if method == Method::Post => Ok(Self::Fence),
            ["+files", "lost"] if method == Method::Get => Ok(Self::Lost),
            ["+files", rest @ ..] if method == Method::Put => {
                FilePath::parse(&rest.join("/")).map(Self::Mend).ok_or_else(absent)
            }
            ["+receipt", key] if method == Method::Get => Ok(Self::Receipt((*key).to_owned())),
            ["+search"] if method == Method::Get => Ok(Self::Search),
            ["+search", "suggest"] if method == Method::Get => Ok(Self::Suggest),
            ["+searchhelp"] if method == Method::Get => Ok(Self::SearchHelp),
            [user, "+tokens", rest @ ..] => tokens(method, user, rest).ok_or_else(absent),
            [user, ..] if user.is_empty() || user.contains('+') => Err(absent()),
            [user] => {
                let verb = verb(method).ok_or_else(absent)?;
                let user = UserName::parse(user).map_err(|e| match verb {
                    Verb::Create => e,
                    _ => Error::not_found(format!("no user '{user}'")),
                })?;
                Ok(Self::User(verb, user))
            }
            [user, index, rest @ ..] => {
                let name = IndexName::new(user, index).map_err(|e| match (method, rest) {
                    (Method::Put, []) => e,
                    _ => Error::not_found(format!("The stage {user}/{index} could not be found.")),
                })?;
                below_index(method, name, rest).ok_or_else(absent)
            }
            [] => Err(absent()),
        }
    }
}

fn changelog(text: &str) -> Option<Route> {
    let (digits, onwards) = text.strip_suffix('-').map_or((text, false), |digits| (digits, true));
    Some(Route::Changelog { serial: number(digits)?, onwards })
}

fn number(digits: &str) -> Option<u64> {
    digits.bytes().all(|b| b.is_ascii_digit()).then(|| digits.parse().ok()).flatten()
}

fn tokens(method: Method, user: &str, rest: &[&str]) -> Option<Route> {
    let user = UserName::parse(user).ok()?;
    match (method, rest) {
        (Method::Get, []) => Some(Route::Tokens(user)),
        (Method::Post, []) => Some(Route::TokenCreate(user)),
        (Method::Delete, [id]) => Some(Route::TokenRevoke(user, (*id).to_owned())),
        _ => None,
    }
}

fn verb(method: Method) -> Option<Verb> {
    match method {
        Method::Get => Some(Verb::Show),
        Method::Put => Some(Verb::Create),
        Method::Patch => Some(Verb::Modify),
        Method::Delete => Some(Verb::Delete),
        _ => None,
    }
}

/// Projects and versions are not made or changed under their own address.
fn verb_of_content(method: Method) -> Option<Verb> {
    verb(method).filter(|verb| matches!(verb, Verb::Show | Verb::Delete))
}

fn below_index(method: Method, index: IndexName, rest: &[&str]) -> Option<Route> {
    let is_get = method == Method::Get;
    match rest {
        [] => match method {
            Method::Post | Method::Push => Some(Route::Submit(index)),
            _ => verb(method).map(|verb| Route::Index(verb, index)),
        },
        ["+api"] => Some(Route::Api(Some(Scope::Index(index)))),
        ["+changes"] if is_get => Some(Route::Changes(Some(index))),
        ["+simple"] if is_get => Some(Route::SimpleList(index)),
        ["+simple", project] if is_get && is_project(project) => {
            Some(Route::Simple(index, (*project).to_owned()))
        }
        ["+simple", project, "refresh"] if method == Method::Post && is_project(project) => {
            Some(Route::Refresh(index, (*project).to_owned()))
        }
        ["+f" | "+e", ..] => file(method, &index, rest),
        [project, ..] if !is_project(project) => None,
        [project] => {
            verb_of_content(method).map(|verb| Route::Project(verb, index, (*project).to_owned()))
        }
        [_, "refresh"] if method == Method::Post => {
            Some(Route::Refresh(index, rest.first()?.to_string()))
        }
        [_, version] if version.starts_with('+') => None,
        [project, version] => verb_of_content(method)
            .map(|verb| Route::Version(verb, index, (*project).to_owned(), (*version).to_owned())),
        ["pypi", project, "json"] if is_get && is_project(project) => {
            Some(Route::Legacy(index, (*project).to_owned(), None))
        }
        ["pypi", project, version, "json"] if is_get && is_project(project) => {
            Some(Route::Legacy(index, (*project).to_owned(), Some((*version).to_owned())))
        }
        [project, version, kind @ ("+doc" | "+d"), page @ ..] if is_get => {
            let (project, version) = ((*project).to_owned(), (*version).to_owned());
            let (page, is_framed) = (page.join("/"), *kind == "+d");
            Some(Route::Docs(index, DocPage { project, version, page, is_framed }))
        }
        [project, version, "+toxresults", file, result @ ..] if is_get && result.len() < 2 => {
            let (project, version) = ((*project).to_owned(), (*version).to_owned());
            let (file, result) = ((*file).to_owned(), result.first().map(ToString::to_string));
            Some(Route::Results(index, ResultsOf { project, version, file, result }))
        }
        _ => None,
    }
}

fn is_project(spelling: &str) -> bool {
    !spelling.is_empty() && !spelling.contains('+')
}

fn file(method: Method, index: &IndexName, rest: &[&str]) -> Option<Route> {
    let path = FilePath::parse(&format!("{index}/{}", rest.join("/")))?;
    let verb = match method {
        Method::Get => FileVerb::Get,
        Method::Post => FileVerb::Result,
        Method::Delete => FileVerb::Delete,
        _ => return None,
    };
    match path.name().strip_suffix(".metadata") {
        Some(wheel) if verb == FileVerb::Get && wheel.ends_with(".whl") => {
            path.sibling(wheel).ok().map(Route::Metadata)
        }
        _ => Some(Route::File(verb, path)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(method: Method, path: &str) -> Option<Route> {
        Route::parse(method, path).ok()
    }

    #[test]
    fn addresses_become_names() {
        let index = IndexName::new("ann", "dev").expect("valid");
        let get = |path: &str| parse(Method::Get, path);
        assert_eq!(get("/"), Some(Route::Root));
        assert_eq!(get("/ann/dev/"), Some(Route::Index(Verb::Show, index.clone())));
        assert_eq!(get("/ann/dev/+simple/"), Some(Route::SimpleList(index.clone())));
        assert_eq!(get("/ann/dev/+simple/P.q/"), Some(Route::Simple(index.clone(), "P.q".into())));
        assert_eq!(
            get("/ann/dev/p/1.0+local.1"),
            Some(Route::Version(Verb::Show, index.clone(), "p".into(), "1.0+local.1".into()))
        );
        assert_eq!(parse(Method::Push, "/ann/dev"), Some(Route::Submit(index.clone())));
        let legacy = |version: Option<&str>| {
            let version = version.map(str::to_owned);
            Some(Route::Legacy(index.clone(), "p".into(), version))
        };
        assert_eq!(get("/ann/dev/pypi/p/json"), legacy(None));
        assert_eq!(get("/ann/dev/pypi/p/1+l/json/"), legacy(Some("1+l")));
        assert_eq!(
            get("/ann/dev/pypi/json"),
            Some(Route::Version(Verb::Show, index.clone(), "pypi".into(), "json".into()))
        );
        let page = |path: &str| match get(path) {
            Some(Route::Docs(_, page)) => Some((page.version, page.page, page.is_framed)),
            _ => None,
        };
        let page_of = |v: &str, p: &str, is_framed| Some((v.to_owned(), p.to_owned(), is_framed));
        assert_eq!(page("/ann/dev/p/1+l/+doc/a/b.html"), page_of("1+l", "a/b.html", false));
        assert_eq!(page("/ann/dev/p/latest/+d/"), page_of("latest", "", true));
        assert_eq!(page("/ann/dev/p/1/+doc/..%2f..%2fx"), page_of("1", "../../x", false));
        let path = "ann/dev/+f/012/3456789012345/p-1.whl";
        let file = FilePath::parse(path).expect("valid");
        assert_eq!(get(&format!("/{path}")), Some(Route::File(FileVerb::Get, file.clone())));
        assert_eq!(get(&format!("/{path}.metadata")), Some(Route::Metadata(file)));
        let onwards = Route::Changelog { serial: 0, onwards: true };
        assert_eq!(get("/+changelog/0-"), Some(onwards));
    }

    #[test]
    fn what_lies_nowhere_is_not_found() {
        for path in [
            "/+nothing",
            "/a+b",
            "/ann/dev/+f/..%2f..%2fx",
            "/ann/dev/+f/123/1234567890123/../x",
            "/ann/dev/p/1/x",
            "//",
            "/+changelog/-1",
            "/+changelog/99999999999999999999",
            "/ann/dev/+simple/a+b/",
        ] {
            let found = parse(Method::Get, path);
            assert!(matches!(found, None | Some(Route::Root)), "{path}: {found:?}");
        }
    }

    #[test]
    fn changes_need_the_master() {
        for (method, path) in [
            (Method::Put, "/ann"),
            (Method::Delete, "/ann/dev/p/1"),
            (Method::Post, "/+login"),
            (Method::Post, "/ann/dev/"),
            (Method::Post, "/ann/+tokens"),
            (Method::Delete, "/ann/+tokens/0123"),
        ] {
            let route = parse(method, path).expect("exists");
            assert_eq!(route.access(), Access::Write, "{path}");
        }
    }
}

//! The one error of the crate.
//!
//! A `Kind` says what a client should make of it; `http/response.rs` holds the one table from kind to status.

use std::fmt;

/// The result of everything that can fail here.
pub type Result<T> = std::result::Result<T, Error>;

/// What sort of failure this is, as seen by whoever asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The request cannot be understood or breaks a rule (400).
    Invalid,
    /// Credentials are needed (401, with a challenge).
    Unauthorized,
    /// Credentials were understood and do not suffice (403).
    Forbidden,
    /// There is no such thing, and never was as far as is known (404).
    NotFound,
    /// It existed and was deleted (410).
    Gone,
    /// It collides with what is there (409).
    Conflict,
    /// The body or a part of it is over a limit (413).
    TooLarge,
    /// Another machine answered wrongly or not at all (502).
    BadGateway,
    /// This node cannot do it at present; trying again makes sense (503).
    Unavailable,
    /// A wait ended before what was waited for (504).
    Timeout,
    /// A defect or a failing machine; logged in full, never shown (500).
    Internal,
}

/// A failure with its kind, a sentence for people, and what caused it.
pub struct Error {
    /// What sort of failure.
    pub kind: Kind,
    /// A sentence; shown to the client unless the kind is `Internal`.
    pub message: String,
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl Error {
    /// Makes an error of `kind`.
    pub fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), source: None }
    }
    /// The request breaks a rule.
    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(Kind::Invalid, message)
    }
    /// Credentials are needed.
    pub fn unauthorized(message: impl Into<String>) -> Self {
        Self::new(Kind::Unauthorized, message)
    }
    /// The identity may not do this.
    pub fn forbidden(message: impl Into<String>) -> Self {
        Self::new(Kind::Forbidden, message)
    }
    /// There is no such thing.
    pub fn not_found(message: impl Into<String>) -> Self {
        Self::new(Kind::NotFound, message)
    }
    /// It collides with what is there.
    pub fn conflict(message: impl Into<String>) -> Self {
        Self::new(Kind::Conflict, message)
    }
    /// This node cannot do it at present.
    pub fn unavailable(message: impl Into<String>) -> Self {
        Self::new(Kind::Unavailable, message)
    }
    /// A defect or a failing machine.
    pub fn internal(message: impl Into<String>) -> Self {
        Self::new(Kind::Internal, message)
    }
    /// Adds what caused it.
    #[must_use]
    pub fn caused_by(
        mut self,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        self.source = Some(source.into());
        self
    }
    /// Puts what was being done before the message: *doing: what went wrong*.
    #[must_use]
    pub fn while_doing(mut self, doing: impl fmt::Display) -> Self {
        self.message = format!("{doing}: {}", self.message);
        self
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        if let Some(source) = &self.source {
            write!(f, ": {source}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {self}", self.kind)
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_deref().map(|e| e as _)
    }
}

impl From<std::io::Error> for Error {
    fn from(e: std::io::Error) -> Self {
        Self::internal("input or output failed").caused_by(e)
    }
}

impl From<rusqlite::Error> for Error {
    fn from(e: rusqlite::Error) -> Self {
        Self::internal("the database failed").caused_by(e)
    }
}

impl From<r2d2::Error> for Error {
    fn from(e: r2d2::Error) -> Self {
        Self::unavailable("no database connection is free").caused_by(e)
    }
}

/// Adds context to a failure where the caller's knowledge ends.
pub trait Context<T> {
    /// Puts `doing` before the message.
    ///
    /// # Errors
    /// Passes the failure on with the context added.
    fn context<D: fmt::Display>(self, doing: impl FnOnce() -> D) -> Result<T>;
}

impl<T, E: Into<Error>> Context<T> for std::result::Result<T, E> {
    fn context<D: fmt::Display>(self, doing: impl FnOnce() -> D) -> Result<T> {
        self.map_err(|e| e.into().while_doing(doing()))
    }
}

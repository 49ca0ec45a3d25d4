//! HTTP in and out: tiny_http and ureq are known here and nowhere else.
//!
//! Promises: a request is answered once, whatever its handler does; one client cannot hold up others; each wait for a
//! client has an end, and each queue a bound (`listen::ServerOptions`).
//!
//! A request's way: tiny_http -> `crew` -> `dispatch` (one at a time per connection; bodies to their lane) -> `framing`,
//! then the handler -> `polls` or another lane if it says so -> `exchange` -> `writer`. Beside that, `guard` watches all
//! connections.

pub mod accept;
pub mod bell;
pub mod client;
pub mod forward;
pub mod listen;
pub mod multipart;
pub mod range;
pub mod request;
pub mod response;
pub mod resume;

mod body;
mod connections;
mod crew;
mod dispatch;
mod exchange;
mod framing;
mod guard;
pub mod lanes;
mod os;
mod parameters;
mod polls;
mod process;
mod proxy;
mod sockets;
mod transport;
mod trust;
mod watch;
mod writer;

pub use listen::{Server, ServerOptions, Stats, Watcher};
pub use process::prepare_process;
use request::Request;
use response::Reply;

/// What the server asks for each request; runs on a worker of the pool for local work.
pub trait Handler: Send + Sync + 'static {
    /// Answers, parks, or sends on to the pool for remote work. A panic in here is answered with 500.
    fn handle(&self, request: Request) -> Reply;
}

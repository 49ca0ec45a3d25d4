//! HTTP in and out: tiny_http and ureq are known here and nowhere else.

pub mod accept;
pub mod client;
pub mod forward;
pub mod multipart;
mod proxy;
pub mod range;
pub mod request;
pub mod response;
mod transport;
mod trust;

use request::Request;
use response::Reply;

/// What the server asks for each request; runs on a worker of the pool for local work.
pub trait Handler: Send + Sync + 'static {
    /// Answers, parks, or sends on to the pool for remote work. A panic in here is answered with 500.
    fn handle(&self, request: Request) -> Reply;
}

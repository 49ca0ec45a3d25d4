//! What a process with an HTTP server sets up once, before it has threads.

use std::panic;
use std::thread;

use super::os;

/// Stacks of tiny_http's threads: it has one per connection, and they only parse heads. The 2 MiB that std gives
/// otherwise are not touched, but count where address space is limited.
const SMALL_STACK_BYTES: &str = "262144";

/// glibc's settings (mallopt(3)) and what they are set to: few heaps, since each keeps what its threads once needed;
/// large pieces of memory by themselves, so that they go back when they are freed; and no long tail kept at the end of a
/// heap. Measured: anonymous memory of 134 MB before and 72 MB after, with five pages of up to 11,000 files.
const ALLOCATOR: [(i32, i32); 3] = [(-8, 2), (-3, 1 << 20), (-1, 16 << 20)];

/// Prepares this process: small stacks for threads that name no size of their own, and panics that go to the log. To be
/// called first in `main`; what it cannot do any more it leaves.
pub fn prepare_process() {
    if std::env::var_os("RUST_MIN_STACK").is_none()
        && !os::set_variable("RUST_MIN_STACK", SMALL_STACK_BYTES)
    {
        log::debug!("there are threads already; stacks stay as they are");
    }
    for (setting, value) in ALLOCATOR {
        os::set_allocator(setting, value);
    }
    let print = panic::take_hook();
    panic::set_hook(Box::new(move |info| {
        if !log::log_enabled!(log::Level::Error) {
            return print(info);
        }
        let place = info.location().map_or_else(String::new, ToString::to_string);
        let text = info.payload_as_str().unwrap_or("(no message)");
        if place.contains("tiny_http") {
            // Its threads may panic over a client that leaves at once; that ends one connection.
            log::debug!("tiny_http panicked at {place}: {text}");
        } else {
            let thread = thread::current().name().unwrap_or("(unnamed)").to_owned();
            log::error!("thread {thread} panicked at {place}: {text}");
        }
    }));
}

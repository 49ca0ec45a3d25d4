//! Puts answers on the wire: small ones in one write, large ones in large pieces.
//!
//! A failure after the first byte cannot be told to the client in words; the caller cuts the connection then, so that
//! the client sees an incomplete body.

use std::cell::{Cell, RefCell};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant, SystemTime};

use super::response::{Body, Response};

/// Up to here an answer is one write, made where it was computed; longer ones go to the lane for bulk.
pub(super) const SMALL_BYTES_MAX: usize = 64 * 1024;
/// One piece of a file. Measured: twice the throughput of 8 KiB pieces. A slow client holds one for as long as it takes.
const FILE_PIECE_BYTES: usize = 256 * 1024;
/// One piece for a client that took the last one at once. Measured: a fifth faster for a single stream.
const FAST_PIECE_BYTES: usize = 1024 * 1024;
/// What counts as at once.
const FAST: Duration = Duration::from_millis(2);
/// One piece of a stream.
const STREAM_PIECE_BYTES: usize = 64 * 1024;
/// A head with its fields, usually.
const HEAD_BYTES: usize = 512;
/// What a chunk needs around its data: its size in hexadecimal digits, and two line ends.
const CHUNK_HEAD_BYTES: usize = 10;
/// A buffer that grew beyond this is not kept for the next answer.
const KEPT_BUFFER_BYTES_MAX: usize = FILE_PIECE_BYTES + 4096;

/// How the request shapes its answer.
#[derive(Clone, Copy, Debug)]
pub(super) struct Manner {
    /// No body is sent, but its length is.
    pub is_head: bool,
    /// The client understands chunks.
    pub is_http_11: bool,
    /// The connection ends after this answer.
    pub closes: bool,
}

/// Whether a body is better written where slow clients hold up nobody.
pub(super) fn is_bulk(body: &Body) -> bool {
    match body {
        Body::Empty => false,
        Body::Owned(bytes) => bytes.len() > SMALL_BYTES_MAX,
        Body::Shared(bytes) => bytes.len() > SMALL_BYTES_MAX,
        Body::File { length, .. } => *length > SMALL_BYTES_MAX as u64,
        Body::Stream { .. } => true,
    }
}

/// Whether the end of this answer can only be shown by the end of the connection.
pub(super) fn needs_close(body: &Body, manner: Manner) -> bool {
    matches!(body, Body::Stream { length: None, .. }) && !manner.is_http_11 && !manner.is_head
}

/// Reads a small file whole, while its failure can still be told in an answer.
pub(super) fn load_small(body: Body) -> io::Result<Body> {
    match body {
        Body::File { file, offset, length } if length <= SMALL_BYTES_MAX as u64 => {
            let mut bytes = vec![0; length as usize];
            file.read_exact_at(&mut bytes, offset)?;
            Ok(Body::Owned(bytes))
        }
        body => Ok(body),
    }
}

/// Writes an answer and flushes it.
pub(super) fn write(out: &mut dyn Write, response: Response, manner: Manner) -> io::Result<()> {
    let mut buffer = BUFFER.take();
    buffer.clear();
    let has_body = write_head(&mut buffer, &response, manner);
    let result = if has_body {
        write_body(out, &mut buffer, response.body, manner)
    } else {
        out.write_all(&buffer)
    };
    if buffer.capacity() <= KEPT_BUFFER_BYTES_MAX {
        BUFFER.set(buffer);
    }
    result.and_then(|()| out.flush())
}

thread_local! {
    static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
    static DATE: Cell<(u64, [u8; 29])> = const { Cell::new((0, [0; 29])) };
}

/// Appends the status line and the fields; says whether a body follows, and is chunked if its length is not known.
fn write_head(buffer: &mut Vec<u8>, response: &Response, manner: Manner) -> bool {
    buffer.reserve(HEAD_BYTES);
    status_line(buffer, response);
    let (mut has_date, mut has_server, mut given_length) = (false, false, None);
    for (name, value) in &response.headers {
        if name.eq_ignore_ascii_case("content-length") {
            given_length = Some(value);
            continue;
        }
        if is_ours(name) || !is_token(name) {
            continue;
        }
        has_date |= name.eq_ignore_ascii_case("date");
        has_server |= name.eq_ignore_ascii_case("server");
        field(buffer, name, value);
    }
    if !has_server {
        buffer.extend_from_slice(b"Server: twinpi\r\n");
    }
    if !has_date {
        buffer.extend_from_slice(b"Date: ");
        buffer.extend_from_slice(&date());
        buffer.extend_from_slice(b"\r\n");
    }
    let may_have_body = !matches!(response.status, 100..=199 | 204 | 304);
    if may_have_body {
        match (length(&response.body), given_length) {
            // An answer to HEAD that comes from another server has no body to measure.
            (Some(0), Some(given)) if manner.is_head => field(buffer, "Content-Length", given),
            (Some(length), _) => number_field(buffer, length),
            (None, _) if manner.is_http_11 && !manner.is_head => {
                buffer.extend_from_slice(b"Transfer-Encoding: chunked\r\n");
            }
            (None, _) => {}
        }
    }
    if manner.closes {
        buffer.extend_from_slice(b"Connection: close\r\n");
    } else if !manner.is_http_11 {
        buffer.extend_from_slice(b"Connection: keep-alive\r\n");
    }
    buffer.extend_from_slice(b"\r\n");
    may_have_body && !manner.is_head
}

fn status_line(buffer: &mut Vec<u8>, response: &Response) {
    let _ = write!(buffer, "HTTP/1.1 {} ", response.status); // a vector takes all
    match &response.reason {
        Some(reason) => buffer.extend(reason.chars().map(|c| match c {
            c if c.is_control() => b' ',
            c if c.is_ascii() => c as u8,
            _ => b'?',
        })),
        None => {
            let phrase = tiny_http::StatusCode(response.status).default_reason_phrase();
            buffer.extend_from_slice(phrase.as_bytes());
        }
    }
    buffer.extend_from_slice(b"\r\n");
}

/// A value cannot end its line and begin another.
fn field(buffer: &mut Vec<u8>, name: &str, value: &str) {
    buffer.extend_from_slice(name.as_bytes());
    buffer.extend_from_slice(b": ");
    buffer.extend(value.bytes().map(|b| if b.is_ascii_control() && b != b'\t' { b' ' } else { b }));
    buffer.extend_from_slice(b"\r\n");
}

fn number_field(buffer: &mut Vec<u8>, length: u64) {
    let _ = write!(buffer, "Content-Length: {length}\r\n"); // a vector takes all
}

/// Fields that only the writer may set.
fn is_ours(name: &str) -> bool {
    ["connection", "transfer-encoding", "keep-alive"].iter().any(|n| name.eq_ignore_ascii_case(n))
}

fn is_token(name: &str) -> bool {
    !name.is_empty()
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b))
}

fn length(body: &Body) -> Option<u64> {
    match body {
        Body::Empty => Some(0),
        Body::Owned(bytes) => Some(bytes.len() as u64),
        Body::Shared(bytes) => Some(bytes.len() as u64),
        Body::File { length, .. } => Some(*length),
        Body::Stream { length, .. } => *length,
    }
}

/// The date as HTTP writes it, made once a second.
fn date() -> [u8; 29] {
    let now = SystemTime::now();
    let second = now.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |d| d.as_secs());
    let (made, text) = DATE.get();
    if made == second && second != 0 {
        return text;
    }
    let mut text = [b' '; 29];
    let made = httpdate::fmt_http_date(now);
    text[..made.len().min(29)].copy_from_slice(&made.as_bytes()[..made.len().min(29)]);
    DATE.set((second, text));
    text
}

fn write_body(
    out: &mut dyn Write,
    head: &mut Vec<u8>,
    body: Body,
    manner: Manner,
) -> io::Result<()> {
    match body {
        Body::Empty => out.write_all(head),
        Body::Owned(bytes) => write_bytes(out, head, &bytes),
        Body::Shared(bytes) => write_bytes(out, head, &bytes),
        Body::File { file, offset, length } => write_file(out, head, &file, offset, length),
        Body::Stream { reader, length: Some(length) } => write_sized(out, head, reader, length),
        Body::Stream { reader, length: None } => {
            write_unsized(out, head, reader, manner.is_http_11)
        }
    }
}

fn write_bytes(out: &mut dyn Write, buffer: &mut Vec<u8>, bytes: &[u8]) -> io::Result<()> {
    let (first, rest) = bytes.split_at(bytes.len().min(SMALL_BYTES_MAX));
    buffer.extend_from_slice(first);
    out.write_all(buffer)?;
    out.write_all(rest)
}

fn write_file(
    out: &mut dyn Write,
    buffer: &mut Vec<u8>,
    file: &File,
    mut offset: u64,
    length: u64,
) -> io::Result<()> {
    let end = offset.saturating_add(length);
    let (mut filled, mut piece) = (buffer.len(), FILE_PIECE_BYTES);
    loop {
        let room = piece.min(saturating(end - offset));
        buffer.resize(filled + room, 0);
        while filled < buffer.len() {
            match file.read_at(&mut buffer[filled..], offset) {
                Ok(0) => return Err(too_short()),
                Ok(n) => {
                    filled += n;
                    offset += n as u64;
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        let started = Instant::now();
        out.write_all(buffer)?;
        if offset == end {
            return Ok(());
        }
        filled = 0;
        piece = if started.elapsed() < FAST { FAST_PIECE_BYTES } else { FILE_PIECE_BYTES };
        if piece < buffer.len() {
            buffer.truncate(piece);
            buffer.shrink_to(piece);
        }
    }
}

fn write_sized(
    out: &mut dyn Write,
    buffer: &mut Vec<u8>,
    mut reader: Box<dyn Read + Send>,
    length: u64,
) -> io::Result<()> {
    let mut left = length;
    let mut filled = buffer.len();
    while left > 0 {
        let room = STREAM_PIECE_BYTES.min(saturating(left));
        buffer.resize(filled + room, 0);
        let n = read_some(&mut *reader, &mut buffer[filled..])?;
        if n == 0 {
            return Err(too_short());
        }
        out.write_all(&buffer[..filled + n])?;
        out.flush()?;
        left -= n as u64;
        filled = 0;
    }
    out.write_all(&buffer[..filled])
}

/// Writes chunks, or plain bytes whose end is the connection's end.
fn write_unsized(
    out: &mut dyn Write,
    buffer: &mut Vec<u8>,
    mut reader: Box<dyn Read + Send>,
    is_chunked: bool,
) -> io::Result<()> {
    let mut filled = buffer.len();
    loop {
        let data = filled + CHUNK_HEAD_BYTES;
        buffer.resize(data + STREAM_PIECE_BYTES + 2, 0);
        let n = read_some(&mut *reader, &mut buffer[data..data + STREAM_PIECE_BYTES])?;
        if !is_chunked {
            buffer.copy_within(data..data + n, filled);
            out.write_all(&buffer[..filled + n])?;
        } else {
            // The size is written with leading zeros so that it always fills its place.
            let size = format!("{n:08x}\r\n");
            buffer[filled..data].copy_from_slice(size.as_bytes());
            buffer[data + n..data + n + 2].copy_from_slice(b"\r\n");
            out.write_all(&buffer[..data + n + 2])?;
        }
        out.flush()?;
        if n == 0 {
            return Ok(());
        }
        filled = 0;
    }
}

fn read_some(reader: &mut dyn Read, buffer: &mut [u8]) -> io::Result<usize> {
    loop {
        match reader.read(buffer) {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}

fn too_short() -> io::Error {
    io::Error::new(io::ErrorKind::UnexpectedEof, "the body ended before its length")
}

fn saturating(n: u64) -> usize {
    usize::try_from(n).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    /// Counts writes.
    #[derive(Default)]
    struct Wire {
        bytes: Vec<u8>,
        writes: usize,
    }

    impl Write for Wire {
        fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
            self.writes += usize::from(!buf.is_empty());
            self.bytes.extend_from_slice(buf);
            Ok(buf.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    const PLAIN: Manner = Manner { is_head: false, is_http_11: true, closes: false };

    /// A client that takes nothing at once.
    struct Slow(Wire);

    impl Write for Slow {
        fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
            std::thread::sleep(2 * FAST);
            self.0.write(buf)
        }
        fn flush(&mut self) -> io::Result<()> {
            self.0.flush()
        }
    }

    fn sent(response: Response, manner: Manner) -> (String, String, usize) {
        let mut wire = Wire::default();
        write(&mut wire, response, manner).unwrap();
        let text = String::from_utf8(wire.bytes).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        (format!("{head}\r\n"), body.to_owned(), wire.writes)
    }

    #[test]
    fn a_small_answer_is_one_write() {
        let shared = Response::new(200).with_body(Body::Shared(Arc::from(&b"hello"[..])));
        let (head, body, writes) = sent(shared, PLAIN);
        assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
        assert!(head.contains("Content-Length: 5\r\n") && head.contains("Server: twinpi\r\n"));
        assert!(head.contains("\r\nDate: ") && head.contains(" GMT\r\n"), "{head}");
        assert_eq!((body.as_str(), writes), ("hello", 1));
    }

    #[test]
    fn head_tells_the_length_and_sends_nothing() {
        let manner = Manner { is_head: true, ..PLAIN };
        let (head, body, _) = sent(Response::text(200, "hello"), manner);
        assert!(head.contains("Content-Length: 5\r\n"));
        assert_eq!(body, "");
        let relayed = Response::new(200).with_header("content-length", "77");
        assert!(sent(relayed, manner).0.contains("Content-Length: 77\r\n"));
        let stream = Body::Stream { reader: Box::new(&b"x"[..]), length: None };
        let (head, body, _) = sent(Response::new(200).with_body(stream), manner);
        assert!(!head.contains("Transfer-Encoding") && body.is_empty());
    }

    #[test]
    fn some_statuses_have_no_body() {
        for status in [204, 304] {
            let (head, body, _) = sent(Response::text(status, "hello"), PLAIN);
            assert!(!head.contains("Content-Length") && body.is_empty(), "{head}");
        }
    }

    #[test]
    fn lines_cannot_be_smuggled_into_a_head() {
        let response = Response::new(400)
            .with_reason("bad\r\nX-Evil: 1 \u{e4}")
            .with_header("X-A", "b\r\nX-Evil: 2")
            .with_header("X-B\r\nX-Evil", "3")
            .with_header("Transfer-Encoding", "chunked")
            .with_header("Connection", "keep-alive")
            .with_header("Content-Length", "99");
        let (head, ..) = sent(response, Manner { closes: true, ..PLAIN });
        assert!(head.starts_with("HTTP/1.1 400 bad  X-Evil: 1 ?\r\n"), "{head}");
        assert!(head.contains("\r\nX-A: b  X-Evil: 2\r\n"), "{head}");
        assert!(!head.contains("\r\nX-Evil") && !head.contains("Transfer-Encoding"), "{head}");
        assert!(
            head.contains("\r\nConnection: close\r\n")
                && head.contains("\r\nContent-Length: 0\r\n")
        );
        assert!(!head.contains("keep-alive") && !head.contains("99"), "{head}");
    }

    #[test]
    fn own_date_and_server_of_a_relayed_answer_stay() {
        let relayed = Response::new(200).with_header("Date", "then").with_header("server", "other");
        let (head, ..) = sent(relayed, PLAIN);
        assert_eq!((head.matches("Date: ").count(), head.matches("erver: ").count()), (1, 1));
    }

    #[test]
    fn streams_are_chunked_for_1_1_and_plain_for_1_0() {
        let stream = || {
            let reader = Box::new((&b"hello "[..]).chain(&b"world"[..]));
            Response::new(200).with_body(Body::Stream { reader, length: None })
        };
        let (head, body, _) = sent(stream(), PLAIN);
        assert!(
            head.contains("Transfer-Encoding: chunked\r\n") && !head.contains("Content-Length")
        );
        assert_eq!(body, "00000006\r\nhello \r\n00000005\r\nworld\r\n00000000\r\n\r\n");
        let old = Manner { is_http_11: false, closes: true, ..PLAIN };
        assert!(needs_close(&stream().body, old));
        let (head, body, _) = sent(stream(), old);
        assert!(!head.contains("chunked") && head.contains("Connection: close"), "{head}");
        assert_eq!(body, "hello world");
    }

    #[test]
    fn a_stream_of_known_length_gives_exactly_that() {
        let sized = |length| {
            let stream = Body::Stream { reader: Box::new(&b"hello"[..]), length: Some(length) };
            let mut wire = Wire::default();
            let result = write(&mut wire, Response::new(200).with_body(stream), PLAIN);
            (result.is_ok(), String::from_utf8(wire.bytes).unwrap().ends_with("\r\n\r\nhello"))
        };
        assert_eq!(sized(5), (true, true));
        assert_eq!(sized(6), (false, true));
        assert!(sized(4).0);
    }

    #[test]
    fn files_go_out_in_large_pieces_from_their_offset() {
        let mut file = tempfile::tempfile().unwrap();
        let content: Vec<u8> = (0..600_000_u32).map(|n| b'a' + (n % 23) as u8).collect();
        file.write_all(&content).unwrap();
        let part = |offset, length| {
            let file = file.try_clone().unwrap();
            Response::new(206).with_body(Body::File { file, offset, length })
        };
        let (_, body, writes) = sent(part(7, 599_000), PLAIN);
        assert!(body.as_bytes() == &content[7..599_007]);
        assert!((2..=3).contains(&writes), "{writes}: two, or three if the first took its time");
        let mut slow = Slow(Wire::default());
        write(&mut slow, part(0, 600_000), PLAIN).unwrap();
        assert_eq!(slow.0.writes, 3);
        let mut wire = Wire::default();
        assert!(write(&mut wire, part(0, 600_001), PLAIN).is_err());
        assert!(is_bulk(&part(0, 65_537).body) && !is_bulk(&part(0, 65_536).body));
        assert!(load_small(part(599_990, 11).body).is_err());
        let loaded = load_small(part(599_990, 10).body).unwrap();
        assert!(matches!(loaded, Body::Owned(bytes) if bytes == content[599_990..]));
    }
}

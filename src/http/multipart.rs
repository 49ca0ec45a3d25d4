//! Forms: `multipart/form-data` read part by part as it arrives (RFC 7578), and url-encoded ones.
//!
//! Memory use does not grow with the body: a part is a reader, and only text fields are taken whole, within limits.

use std::borrow::Cow;
use std::io::{self, Read};

use memchr::memmem::{self, Finder};
use percent_encoding::percent_decode;

use super::parameters::{extended_value, parameters};
use crate::error::{Error, Kind, Result};

/// How much is read at once, and so how far a part's end can be looked for without copying.
const BUFFER_BYTES: usize = 64 * 1024;
/// The head of one part; clients send some 200 bytes.
const PART_HEAD_BYTES_MAX: usize = 16 * 1024;
/// One text field; the longest real one is a project's description.
pub const TEXT_BYTES_MAX: u64 = 8 * 1024 * 1024;
/// All text fields of one form.
pub const TEXTS_BYTES_MAX: u64 = 64 * 1024 * 1024;
/// Parts of one form; a release with a thousand classifiers and requirements has fewer.
pub const PARTS_MAX: usize = 5000;
/// What RFC 2046 allows as a boundary.
const BOUNDARY_BYTES_MAX: usize = 200;
/// Blanks that may stand between a boundary and its line's end.
const PADDING_BYTES_MAX: usize = 128;

/// Whether this content type is the one that `Form` reads.
pub fn is_multipart(content_type: &str) -> bool {
    media_type(content_type).eq_ignore_ascii_case("multipart/form-data")
}

/// Whether this content type is that of a url-encoded form.
pub fn is_urlencoded(content_type: &str) -> bool {
    media_type(content_type).eq_ignore_ascii_case("application/x-www-form-urlencoded")
}

/// The pairs of a url-encoded form or query; `+` is a blank, and what is no UTF-8 is replaced.
pub fn urlencoded(text: &[u8]) -> Vec<(String, String)> {
    let pairs = text.split(|b| *b == b'&').filter(|pair| !pair.is_empty());
    pairs
        .map(|pair| {
            let (name, value) = match pair.iter().position(|b| *b == b'=') {
                Some(at) => (&pair[..at], &pair[at + 1..]),
                None => (pair, &pair[..0]),
            };
            (url_text(name), url_text(value))
        })
        .collect()
}

/// A form that is being read.
pub struct Form<'a> {
    body: &'a mut dyn Read,
    /// A line's end, two hyphens and the boundary.
    delimiter: Finder<'static>,
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    is_eof: bool,
    /// So many bytes from `start` on are known to belong to the present part.
    ready: usize,
    /// The bytes at `start` look like a delimiter but are none.
    is_false_alarm: bool,
    state: State,
    parts: usize,
    text_bytes: u64,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    /// Before the first delimiter or within a part.
    Inside,
    /// After a delimiter that opens a part.
    BeforePart,
    /// After the last one.
    Done,
}

enum Piece {
    Data(usize),
    Delimiter,
}

impl<'a> Form<'a> {
    /// Starts to read a form.
    ///
    /// # Errors
    /// `Kind::Invalid` if the content type is not `multipart/form-data` with a boundary.
    pub fn new(content_type: &str, body: &'a mut dyn Read) -> Result<Self> {
        if !is_multipart(content_type) {
            return Err(Error::invalid("the body is no multipart/form-data"));
        }
        let boundary = parameters(content_type)
            .into_iter()
            .find_map(|(name, value)| (name == "boundary").then_some(value))
            .filter(|b| (1..=BOUNDARY_BYTES_MAX).contains(&b.len()))
            .ok_or_else(|| Error::invalid("the form names no usable boundary"))?;
        let delimiter = format!("\r\n--{boundary}");
        let mut buffer = vec![0; BUFFER_BYTES];
        buffer[..2].copy_from_slice(b"\r\n"); // the first delimiter has no line before it
        Ok(Self {
            body,
            delimiter: Finder::new(delimiter.as_bytes()).into_owned(),
            buffer,
            start: 0,
            end: 2,
            is_eof: false,
            ready: 0,
            is_false_alarm: false,
            state: State::Inside,
            parts: 0,
            text_bytes: 0,
        })
    }

    /// The next part, after what is left unread of the one before; `None` at the form's end.
    ///
    /// # Errors
    /// `Kind::Invalid` if the form is cut short or malformed, `Kind::TooLarge` if it has too many parts or the body
    /// is over its limit.
    // Not an iterator: a part borrows the form.
    #[expect(clippy::should_implement_trait, reason = "a part borrows the form, an item cannot")]
    pub fn next(&mut self) -> Result<Option<Part<'_, 'a>>> {
        while self.state == State::Inside {
            match self.piece().map_err(form_error)? {
                Piece::Data(n) => self.consume(n),
                Piece::Delimiter => {}
            }
        }
        if self.state == State::Done {
            return Ok(None);
        }
        self.parts += 1;
        if self.parts > PARTS_MAX {
            return Err(Error::new(Kind::TooLarge, format!("more than {PARTS_MAX} form fields")));
        }
        let head = self.read_head()?;
        Ok(Some(Part { head, form: self }))
    }

    /// What comes next, with at least one byte of data. Stands in the buffer from `start`.
    fn piece(&mut self) -> io::Result<Piece> {
        if self.state != State::Inside {
            return Ok(Piece::Delimiter);
        }
        loop {
            if self.ready > 0 {
                return Ok(Piece::Data(self.ready));
            }
            let length = self.delimiter.needle().len();
            let from = self.start + usize::from(self.is_false_alarm);
            let window = &self.buffer[from.min(self.end)..self.end];
            match self.delimiter.find(window) {
                Some(0) if !self.is_false_alarm => {
                    if self.take_delimiter()? {
                        return Ok(Piece::Delimiter);
                    }
                    self.is_false_alarm = true;
                }
                Some(at) => self.ready = from + at - self.start,
                None if self.end - self.start >= length => {
                    self.ready = self.end - self.start - (length - 1);
                }
                None => self.fill()?,
            }
        }
    }

    fn consume(&mut self, bytes: usize) {
        self.start += bytes;
        self.ready -= bytes;
        self.is_false_alarm &= bytes == 0;
    }

    /// Reads on past the delimiter at `start` if it is one; leaves all as it is if more follows on its line.
    fn take_delimiter(&mut self) -> io::Result<bool> {
        let mut at = self.delimiter.needle().len();
        let padding_end = at + PADDING_BYTES_MAX;
        loop {
            while self.end - self.start < at + 2 {
                if self.is_eof {
                    return Ok(false);
                }
                self.fill()?;
            }
            let after = self.start + at;
            match &self.buffer[after..after + 2] {
                b"--" if at == self.delimiter.needle().len() => self.state = State::Done,
                b"\r\n" => self.state = State::BeforePart,
                [b' ' | b'\t', _] if at < padding_end => {
                    at += 1;
                    continue;
                }
                _ => return Ok(false),
            }
            self.start = after + 2;
            return Ok(true);
        }
    }

    /// Gets more bytes behind those in the buffer; fails at the end of the body, since a form says itself where it
    /// ends.
    fn fill(&mut self) -> io::Result<()> {
        if self.start > 0 {
            self.buffer.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
        }
        loop {
            match self.body.read(&mut self.buffer[self.end..]) {
                Ok(0) => {
                    self.is_eof = true;
                    return Err(io::Error::new(
                        io::ErrorKind::UnexpectedEof,
                        "the form ends before its last boundary",
                    ));
                }
                Ok(n) => {
                    self.end += n;
                    return Ok(());
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
    }

    /// Reads the lines after a delimiter up to the empty one.
    fn read_head(&mut self) -> Result<Head> {
        let mut head = Head::default();
        let mut bytes_left = PART_HEAD_BYTES_MAX;
        loop {
            let line = self.read_line(&mut bytes_left)?;
            if line.is_empty() {
                break;
            }
            let line = String::from_utf8_lossy(&line).into_owned();
            match line.split_once(':') {
                Some((name, value)) => head.set(name.trim(), value.trim()),
                None => return Err(Error::invalid("a form field has a malformed head")),
            }
        }
        self.state = State::Inside;
        self.enter_body().map_err(form_error)?;
        Ok(head)
    }

    fn read_line(&mut self, bytes_left: &mut usize) -> Result<Vec<u8>> {
        loop {
            let window = &self.buffer[self.start..self.end];
            let found = memmem::find(window, b"\r\n");
            if found.unwrap_or(window.len()) >= *bytes_left {
                return Err(Error::invalid("the head of a form field is too long"));
            }
            if let Some(length) = found {
                let line = window[..length].to_vec();
                self.start += length + 2;
                *bytes_left = bytes_left.saturating_sub(length + 2);
                return Ok(line);
            }
            self.fill().map_err(form_error)?;
        }
    }

    /// Some clients write an empty part without a line's end of its own: the one of its head counts then.
    fn enter_body(&mut self) -> io::Result<()> {
        let length = self.delimiter.needle().len();
        self.start -= 2;
        while self.end - self.start < length && self.may_be_delimiter() {
            self.fill()?;
        }
        let is_empty = self.buffer[self.start..self.end].starts_with(self.delimiter.needle())
            && self.take_delimiter()?;
        if !is_empty {
            self.start += 2;
        }
        Ok(())
    }

    fn may_be_delimiter(&self) -> bool {
        self.delimiter.needle().starts_with(&self.buffer[self.start..self.end])
    }
}

/// What the head of a part says.
#[derive(Default)]
struct Head {
    name: String,
    filename: Option<String>,
    content_type: Option<String>,
}

impl Head {
    fn set(&mut self, field: &str, value: &str) {
        if field.eq_ignore_ascii_case("content-type") {
            self.content_type = Some(value.to_owned());
        } else if field.eq_ignore_ascii_case("content-disposition") {
            let mut extended = None;
            for (name, value) in parameters(value) {
                match name.as_str() {
                    "name" => self.name = value,
                    "filename" => self.filename = Some(value),
                    "filename*" => extended = extended_value(&value),
                    _ => {}
                }
            }
            self.filename = extended.or(self.filename.take());
        }
    }
}

/// One part of a form; reads its bytes.
pub struct Part<'f, 'a> {
    head: Head,
    form: &'f mut Form<'a>,
}

impl Part<'_, '_> {
    /// The field's name; empty if it has none.
    pub fn name(&self) -> &str {
        &self.head.name
    }
    /// The file name, for a part that is a file.
    pub fn filename(&self) -> Option<&str> {
        self.head.filename.as_deref()
    }
    /// The content type, if the part has one.
    pub fn content_type(&self) -> Option<&str> {
        self.head.content_type.as_deref()
    }

    /// The rest of the part as text; what is no UTF-8 is replaced.
    ///
    /// # Errors
    /// `Kind::TooLarge` if the field, or all fields of the form read so far together, are over their limits;
    /// `Kind::Invalid` if the form is cut short.
    pub fn text(&mut self) -> Result<String> {
        let left = TEXTS_BYTES_MAX - self.form.text_bytes;
        let limit = TEXT_BYTES_MAX.min(left);
        let bytes = self.whole(limit)?;
        self.form.text_bytes += bytes.len() as u64;
        Ok(match String::from_utf8(bytes) {
            Ok(text) => text,
            Err(e) => String::from_utf8_lossy(e.as_bytes()).into_owned(),
        })
    }

    /// The rest of the part, at most `limit` bytes.
    ///
    /// # Errors
    /// `Kind::TooLarge` if it is longer; `Kind::Invalid` if the form is cut short.
    pub fn whole(&mut self, limit: u64) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        self.by_ref().take(limit + 1).read_to_end(&mut bytes).map_err(form_error)?;
        if bytes.len() as u64 > limit {
            let name = self.name();
            return Err(Error::new(Kind::TooLarge, format!("form field {name:?} is too long")));
        }
        Ok(bytes)
    }
}

impl Read for Part<'_, '_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if out.is_empty() {
            return Ok(0);
        }
        match self.form.piece()? {
            Piece::Delimiter => Ok(0),
            Piece::Data(n) => {
                let n = n.min(out.len());
                let start = self.form.start;
                out[..n].copy_from_slice(&self.form.buffer[start..start + n]);
                self.form.consume(n);
                Ok(n)
            }
        }
    }
}

/// The error for a body that could not be read.
fn form_error(e: io::Error) -> Error {
    let kind = match e.kind() {
        io::ErrorKind::FileTooLarge => Kind::TooLarge,
        _ => Kind::Invalid,
    };
    Error::new(kind, format!("the form cannot be read: {e}"))
}

fn media_type(content_type: &str) -> &str {
    content_type.split(';').next().unwrap_or("").trim()
}

fn url_text(text: &[u8]) -> String {
    let text: Cow<'_, [u8]> = if text.contains(&b'+') {
        text.iter().map(|b| if *b == b'+' { b' ' } else { *b }).collect::<Vec<u8>>().into()
    } else {
        text.into()
    };
    percent_decode(&text).decode_utf8_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Gives at most so many bytes at once as the sizes say, over and over.
    struct Dribble<'a> {
        data: &'a [u8],
        sizes: &'a [usize],
        at: usize,
    }

    impl Read for Dribble<'_> {
        fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
            let size = self.sizes.get(self.at % self.sizes.len().max(1)).copied().unwrap_or(7);
            self.at += 1;
            let n = size.max(1).min(buf.len()).min(self.data.len());
            buf[..n].copy_from_slice(&self.data[..n]);
            self.data = &self.data[n..];
            Ok(n)
        }
    }

    type Fields = Vec<(String, Option<String>, Vec<u8>)>;

    fn read_with(data: &[u8], sizes: &[usize], boundary: &str) -> Result<Fields> {
        let mut body = Dribble { data, sizes, at: 0 };
        let content_type = format!("multipart/form-data; boundary={boundary}");
        let mut form = Form::new(&content_type, &mut body)?;
        let mut fields = Vec::new();
        while let Some(mut part) = form.next()? {
            let (name, filename) = (part.name().to_owned(), part.filename().map(str::to_owned));
            fields.push((name, filename, part.whole(1 << 30)?));
        }
        Ok(fields)
    }

    fn read(data: &[u8]) -> Result<Fields> {
        read_with(data, &[1 << 20], "b")
    }

    fn field(name: &str, filename: Option<&str>, data: &[u8]) -> (String, Option<String>, Vec<u8>) {
        (name.to_owned(), filename.map(str::to_owned), data.to_vec())
    }

    fn write(fields: &Fields, boundary: &str) -> Vec<u8> {
        let mut out = Vec::new();
        for (name, filename, data) in fields {
            let filename =
                filename.as_ref().map_or(String::new(), |f| format!("; filename=\"{f}\""));
            out.extend_from_slice(
                format!(
                    "--{boundary}\r\nContent-Disposition: form-data; name=\"{name}\"{filename}\r\n\r\n"
                )
                .as_bytes(),
            );
            out.extend_from_slice(data);
            out.extend_from_slice(b"\r\n");
        }
        out.extend_from_slice(format!("--{boundary}--\r\n").as_bytes());
        out
    }

    #[test]
    fn an_upload_form_is_read_field_by_field() {
        let body = b"preamble\r\n--b\r\nContent-Disposition: form-data; name=\":action\"\r\n\r\n\
            file_upload\r\n--b \t\r\ncontent-disposition: form-data; filename=\"x.whl\"; name=content\r\n\
            Content-Type: application/octet-stream\r\n\r\nab\r\n--bc\r\n--\r\n--b--\r\nepilogue";
        let fields = read(body).unwrap();
        assert_eq!(
            fields,
            [
                field(":action", None, b"file_upload"),
                field("content", Some("x.whl"), b"ab\r\n--bc\r\n--"),
            ]
        );
    }

    #[test]
    fn empty_parts_with_and_without_their_own_line_end() {
        let body = b"--b\r\nContent-Disposition: form-data; name=a\r\n\r\n\r\n--b\r\n\
            Content-Disposition: form-data; name=c\r\n\r\n--b\r\n\r\nplain\r\n--b--";
        let fields = read(body).unwrap();
        assert_eq!(
            fields,
            [field("a", None, b""), field("c", None, b""), field("", None, b"plain")]
        );
    }

    #[test]
    fn file_names_are_unquoted_as_python_does() {
        let names = |disposition: &str| {
            let body =
                format!("--b\r\nContent-Disposition: form-data; {disposition}\r\n\r\nx\r\n--b--");
            let (name, filename, _) = read(body.as_bytes()).unwrap().remove(0);
            (name, filename.unwrap())
        };
        assert_eq!(names(r#"name="a;b"; filename="a \"q\" \\ \n.txt""#).1, r#"a "q" \ \n.txt"#);
        assert_eq!(names(r#"name="a;b"; filename=x.txt"#), ("a;b".to_owned(), "x.txt".to_owned()));
        let extended = r#"name=n; filename*=UTF-8''na%C3%AFve.txt; filename="naive.txt""#;
        assert_eq!(names(extended).1, "na\u{ef}ve.txt");
        let unknown = r#"name=n; filename="naive.txt"; filename*=koi8-r''%C1"#;
        assert_eq!(names(unknown).1, "naive.txt");
    }

    #[test]
    fn unread_parts_are_skipped() {
        let fields = vec![field("a", None, &[7; 200_000]), field("b", None, b"1")];
        let body = write(&fields, "b");
        let mut reader = &body[..];
        let mut form = Form::new("multipart/form-data; boundary=\"b\"", &mut reader).unwrap();
        let mut part = form.next().unwrap().unwrap();
        let mut some = [0; 10];
        part.read_exact(&mut some).unwrap();
        let mut part = form.next().unwrap().unwrap();
        assert_eq!(
            (part.name().to_owned(), part.text().unwrap()),
            ("b".to_owned(), "1".to_owned())
        );
        assert!(form.next().unwrap().is_none());
        assert!(form.next().unwrap().is_none());
    }

    #[test]
    fn a_form_that_is_cut_short_is_invalid() {
        let body = write(&vec![field("a", None, b"data")], "b");
        for length in 0..body.len() - 3 {
            let error = read(&body[..length]).expect_err("cut short");
            assert_eq!(error.kind, Kind::Invalid, "{length}");
        }
    }

    #[test]
    fn limits_hold() {
        let long_head = format!("--b\r\nX: {}\r\n\r\n\r\n--b--", "x".repeat(PART_HEAD_BYTES_MAX));
        assert_eq!(read(long_head.as_bytes()).unwrap_err().kind, Kind::Invalid);
        let many = write(&vec![field("a", None, b""); PARTS_MAX + 1], "b");
        assert_eq!(read(&many).unwrap_err().kind, Kind::TooLarge);
        let big = write(&vec![field("a", None, &vec![b'x'; TEXT_BYTES_MAX as usize + 1])], "b");
        let mut reader = &big[..];
        let mut form = Form::new("multipart/form-data; boundary=b", &mut reader).unwrap();
        let error = form.next().unwrap().unwrap().text().unwrap_err();
        assert_eq!(error.kind, Kind::TooLarge);
        for bad in ["text/plain", "multipart/form-data", "multipart/form-data; boundary="] {
            assert!(Form::new(bad, &mut io::empty()).is_err(), "{bad}");
        }
    }

    #[test]
    fn urlencoded_pairs_are_decoded() {
        let pairs = urlencoded(b"a=1&b+c=%C3%A4+%2B&&flag&x=y=z");
        let expected = [("a", "1"), ("b c", "\u{e4} +"), ("flag", ""), ("x", "y=z")];
        assert_eq!(pairs, expected.map(|(n, v)| (n.to_owned(), v.to_owned())));
    }

    /// Bytes in which pieces of delimiters are likely.
    fn data() -> impl Strategy<Value = Vec<u8>> {
        let pieces = prop_oneof![
            Just(b"\r\n".to_vec()),
            Just(b"\r\n--".to_vec()),
            Just(b"--b0".to_vec()),
            Just(b"\r\n--b0".to_vec()),
            Just(b"-".to_vec()),
            prop::collection::vec(any::<u8>(), 0..20),
        ];
        prop::collection::vec(pieces, 0..8).prop_map(|p| p.concat())
    }

    proptest! {
        #[test]
        fn any_chunking_gives_the_same_parts(
            fields in prop::collection::vec(("[a-z]{1,5}", prop::option::of("[a-z.]{1,8}"), data()), 0..5),
            sizes in prop::collection::vec(1_usize..40, 1..6),
        ) {
            // The longer boundary makes "\r\n--b0" plain data that only looks like a delimiter.
            let boundary = "b0123";
            let body = write(&fields, boundary);
            prop_assert_eq!(read_with(&body, &sizes, boundary).unwrap(), fields);
        }

        #[test]
        fn hostile_bytes_read_the_same_in_any_chunking(
            body in data(),
            sizes in prop::collection::vec(1_usize..9, 1..4),
        ) {
            let whole = read_with(&body, &[1 << 20], "b0").map_err(|e| e.kind);
            let chunked = read_with(&body, &sizes, "b0").map_err(|e| e.kind);
            prop_assert_eq!(whole, chunked);
        }
    }
}

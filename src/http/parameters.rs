//! Parameters of a header's value, as `Content-Type` and `Content-Disposition` have them.

use percent_encoding::percent_decode;

/// The parameters behind a header's value, names in small letters. In quotes, a backslash takes quotes and itself
/// only, as Python's email package reads it: old browsers send Windows paths.
pub(super) fn parameters(header: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut rest = header.find(';').map_or("", |at| &header[at + 1..]);
    while !rest.is_empty() {
        let name_end = rest.find(['=', ';']).unwrap_or(rest.len());
        let name = rest[..name_end].trim().to_ascii_lowercase();
        if !rest[name_end..].starts_with('=') {
            rest = rest.get(name_end + 1..).unwrap_or("");
            continue;
        }
        let value = rest[name_end + 1..].trim_start();
        let (value, after) = match value.strip_prefix('"') {
            Some(quoted) => unquote(quoted),
            None => {
                let end = value.find(';').unwrap_or(value.len());
                (value[..end].trim().to_owned(), &value[end..])
            }
        };
        found.push((name, value));
        rest = after.find(';').map_or("", |at| &after[at + 1..]);
    }
    found
}

/// The text up to the closing quote, and what follows that.
fn unquote(quoted: &str) -> (String, &str) {
    let mut text = String::new();
    let mut chars = quoted.char_indices().peekable();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return (text, &quoted[at + 1..]),
            '\\' => match chars.next_if(|(_, next)| matches!(next, '"' | '\\')) {
                Some((_, escaped)) => text.push(escaped),
                None => text.push('\\'),
            },
            c => text.push(c),
        }
    }
    (text, "")
}

/// `utf-8''na%C3%AFve.txt` (RFC 8187); `None` for other charsets.
pub(super) fn extended_value(value: &str) -> Option<String> {
    let (charset, rest) = value.split_once('\'')?;
    let (_language, encoded) = rest.split_once('\'')?;
    let known = charset.eq_ignore_ascii_case("utf-8") || charset.eq_ignore_ascii_case("us-ascii");
    known.then(|| percent_decode(encoded.as_bytes()).decode_utf8_lossy().into_owned())
}

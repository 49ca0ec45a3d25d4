//! Text out of HTML, for documentation: what a reader sees, without markup, scripts and styles.

use html5gum::{IoReader, Token, Tokenizer};
use std::io::Read;

use crate::error::Result;

/// The title of a page in bytes.
const TITLE_BYTES_MAX: usize = 300;

/// A page as text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PageText {
    /// The content of its `title`, else of its first heading; empty if it has neither.
    pub title: String,
    /// What can be read, with single spaces.
    pub body: String,
}

/// Reads a page; ends once its text is `bytes_max` long.
///
/// # Errors
/// `Kind::Internal` if it cannot be read.
pub fn of_html(html: impl Read, bytes_max: usize) -> Result<PageText> {
    let (mut title, mut heading, mut body) = (String::new(), String::new(), String::new());
    let mut inside = Inside::default();
    for token in Tokenizer::new(IoReader::new(html)) {
        match token? {
            Token::StartTag(tag) => inside.begin(&tag.name, tag.self_closing),
            Token::EndTag(tag) => inside.end(&tag.name),
            Token::String(text) => {
                let text = String::from_utf8_lossy(&text);
                if inside.title {
                    add(&mut title, &text, TITLE_BYTES_MAX);
                } else if inside.unread.is_none() {
                    if inside.heading {
                        add(&mut heading, &text, TITLE_BYTES_MAX);
                    }
                    add(&mut body, &text, bytes_max);
                }
            }
            _ => (),
        }
        if bytes_max <= body.len() {
            break;
        }
    }
    let title = if title.is_empty() { heading } else { title };
    Ok(PageText { title, body })
}

/// Where in a page the walk is.
#[derive(Default)]
struct Inside {
    title: bool,
    heading: bool,
    had_heading: bool,
    /// The element whose content nobody reads.
    unread: Option<Vec<u8>>,
}

impl Inside {
    fn begin(&mut self, name: &[u8], is_closed: bool) {
        match name {
            _ if self.unread.is_some() || is_closed => (),
            b"script" | b"style" | b"svg" | b"template" | b"nav" | b"footer" => {
                self.unread = Some(name.to_vec());
            }
            b"title" => self.title = true,
            b"h1" if !self.had_heading => (self.heading, self.had_heading) = (true, true),
            _ => (),
        }
    }
    fn end(&mut self, name: &[u8]) {
        if self.unread.as_deref() == Some(name) {
            self.unread = None;
        }
        match name {
            b"title" => self.title = false,
            b"h1" => self.heading = false,
            _ => (),
        }
    }
}

/// Adds words to a text, up to a length.
fn add(text: &mut String, more: &str, bytes_max: usize) {
    for word in more.split_whitespace() {
        if bytes_max <= text.len() + word.len() {
            // A word that goes beyond the limit ends the text.
            let room = bytes_max.saturating_sub(text.len());
            text.extend(word.chars().take(room));
            return;
        }
        if !text.is_empty() {
            text.push(' ');
        }
        text.push_str(word);
    }
}

/// A piece of a text, and whether it is a word that was looked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    /// The text.
    pub text: String,
    /// Whether it was looked for.
    pub is_found: bool,
}

/// How much of a text is shown around the first word that was looked for, in characters.
const EXCERPT_CHARS: usize = 220;
/// How much of it stands before that word.
const BEFORE_CHARS: usize = 60;

/// The part of a text that has the words, with the words marked. A word counts where it begins a word of the text.
pub fn excerpt(text: &str, words: &[String]) -> Vec<Piece> {
    let starts: Vec<(usize, usize)> = found(text, words);
    let first = starts.first().map_or(0, |(start, _)| *start);
    let before: Vec<usize> = text[..first].char_indices().rev().map(|(at, _)| at).collect();
    let mut begin = before.get(BEFORE_CHARS).copied().unwrap_or(0);
    if 0 < begin {
        begin += text[begin..first].find(' ').map_or(0, |at| at + 1);
    }
    let end =
        text[begin..].char_indices().nth(EXCERPT_CHARS).map_or(text.len(), |(at, _)| begin + at);
    let mut pieces = Vec::new();
    let mut push = |text: &str, is_found: bool| {
        if !text.is_empty() {
            pieces.push(Piece { text: text.to_owned(), is_found });
        }
    };
    if 0 < begin {
        push("... ", false);
    }
    let mut at = begin;
    for (start, stop) in starts.into_iter().filter(|(start, stop)| begin <= *start && *stop <= end)
    {
        push(&text[at..start], false);
        push(&text[start..stop], true);
        at = stop;
    }
    push(&text[at..end], false);
    if end < text.len() {
        push(" ...", false);
    }
    pieces
}

/// Where words of a text begin with one of the words, each with the end of that beginning.
fn found(text: &str, words: &[String]) -> Vec<(usize, usize)> {
    let mut found = Vec::new();
    let mut at = 0;
    for token in text.split_inclusive(|c: char| !c.is_alphanumeric()) {
        let word = token.trim_end_matches(|c: char| !c.is_alphanumeric());
        let longest = words.iter().filter_map(|wanted| begins(word, wanted)).max();
        found.extend(longest.map(|length| (at, at + length)));
        at += token.len();
    }
    found
}

/// How many bytes of `word` are `wanted`, which is in lower case, if it begins with it.
fn begins(word: &str, wanted: &str) -> Option<usize> {
    let mut rest = wanted.chars();
    for (at, c) in word.char_indices() {
        let mut lower = c.to_lowercase();
        match rest.clone().next() {
            None => return (at != 0).then_some(at),
            Some(_) => {
                for c in &mut lower {
                    if rest.next() != Some(c) {
                        return None;
                    }
                }
            }
        }
    }
    (rest.next().is_none() && !wanted.is_empty()).then_some(word.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_what_can_be_read_of_it() {
        let html = "<html><head><title>The\n title</title><style>p{}</style></head><body><nav>menu</nav>\
                    <h1>Head</h1><p>One <b>two</b>&amp; three<script>var x = '<p>no</p>'</script></p>";
        let page = of_html(html.as_bytes(), 1000).expect("reads");
        assert_eq!(page.title, "The title");
        assert_eq!(page.body, "Head One two & three");
        let page = of_html(&b"<h1>Only a head</h1>"[..], 1000).expect("reads");
        assert_eq!(page.title, "Only a head");
        let endless = std::io::repeat(b'x');
        assert_eq!(of_html(endless.take(1 << 20), 500).expect("reads").body.len(), 500);
    }

    #[test]
    fn an_excerpt_shows_the_words() {
        let words = ["whale".to_owned(), "plot".to_owned()];
        let marked = |text: &str| {
            let pieces = excerpt(text, &words);
            pieces
                .iter()
                .map(|p| if p.is_found { format!("[{}]", p.text) } else { p.text.clone() })
                .collect::<String>()
        };
        assert_eq!(marked("Plotting whales, a subplot"), "[Plot]ting [whale]s, a subplot");
        let long = format!("{} whale {}", "before ".repeat(100), "after ".repeat(100));
        let shown = marked(&long);
        assert!(
            shown.starts_with("... before") && shown.contains("[whale]") && shown.ends_with(" ...")
        );
        assert!(shown.len() < 300, "{}", shown.len());
        assert_eq!(marked("nothing here"), "nothing here");
        assert_eq!(marked(""), "");
        excerpt("\u{130}\u{df}\u{1f600} whale", &words);
    }
}

//! HTML by others, made shallow and well-formed, with only what a description needs.
//!
//! A browser repairs bad HTML in ways that can take a page of a thousand times the size. So tags are balanced here
//! first, in one pass over tokens: whatever is kept is closed in order, where HTML would close it by itself too.

use std::collections::{HashMap, HashSet};

use html5gum::{DefaultEmitter, StartTag, Token, Tokenizer};

use super::attributes::{
    address, aligned, attribute, bare_address, block_attributes, classes, find,
};
use super::{HTML_BYTES_MAX, escape};

/// How deep elements may stand in each other. What is deeper loses its tag and keeps its text.
const DEPTH_MAX: usize = 80;
/// How many of them may be parts of a line, such as bold text.
const PHRASES_MAX: usize = 16;
/// After how many escapes a run of text is divided.
const ESCAPES_MAX: usize = 4096;
/// The longest title, alternative text and identifier, in characters.
const TEXT_CHARS_MAX: usize = 200;
/// The level above the first heading.
const LEVEL_ABOVE: u8 = 2;

/// Elements that vanish with all that is in them.
const HIDDEN: &[&str] = &[
    "script",
    "style",
    "template",
    "noscript",
    "iframe",
    "object",
    "applet",
    "svg",
    "math",
    "select",
    "textarea",
    "title",
    "head",
    "xmp",
    "noembed",
    "noframes",
    "plaintext",
    "frameset",
    "audio",
    "video",
    "canvas",
    "button",
    "datalist",
    "dialog",
    "portal",
];
/// Elements that end a paragraph.
const BLOCKS: &[&str] = &[
    "p",
    "div",
    "ul",
    "ol",
    "li",
    "dl",
    "dt",
    "dd",
    "table",
    "caption",
    "thead",
    "tbody",
    "tfoot",
    "tr",
    "td",
    "th",
    "pre",
    "blockquote",
    "details",
    "summary",
    "figure",
    "figcaption",
    "h1",
    "h2",
    "h3",
    "h4",
    "h5",
    "h6",
];
/// Parts of a line.
const PHRASES: &[&str] = &[
    "a", "abbr", "b", "cite", "code", "del", "em", "i", "ins", "kbd", "mark", "q", "s", "samp",
    "small", "span", "strike", "strong", "sub", "sup", "tt", "u", "var",
];
/// All elements there may be in what `tidy` writes.
pub(super) fn tags() -> impl Iterator<Item = &'static str> {
    BLOCKS
        .iter()
        .chain(PHRASES)
        .copied()
        .filter(|&tag| tag != "h1" && tag != "h2")
        .chain(["br", "hr", "wbr"])
}

/// The HTML with balanced tags; none if it would be too long. Headings get an identifier from their text, and addresses
/// become links, unless `is_done` says that whoever made the HTML saw to both.
pub(super) fn tidy(html: &str, is_done: bool) -> Option<String> {
    let mut tidy =
        Tidy { has_ids: is_done, has_autolinks: !is_done, level: LEVEL_ABOVE, ..Tidy::default() };
    let mut emitter = DefaultEmitter::default();
    emitter.naively_switch_states(true);
    for token in Tokenizer::new_with_emitter(html, emitter) {
        match token {
            Ok(Token::StartTag(tag)) => tidy.start(&tag),
            Ok(Token::EndTag(tag)) => tidy.end(&String::from_utf8_lossy(&tag.name)),
            Ok(Token::String(text)) => tidy.text(&String::from_utf8_lossy(&text)),
            Ok(_) => (),
            Err(never) => match never {},
        }
        if HTML_BYTES_MAX < tidy.out.len() {
            return None;
        }
    }
    tidy.close_to(0);
    Some(tidy.out)
}

/// An element that is open.
struct Open {
    /// As it was called.
    name: &'static str,
    /// As it is called in what is written.
    written: &'static str,
    /// Where its tag begins in what is written.
    at: usize,
    /// What had been visible before it.
    seen: usize,
}

#[derive(Default)]
struct Tidy {
    out: String,
    open: Vec<Open>,
    phrases: usize,
    /// The element that hides everything, and how often it is open.
    hidden: Option<(&'static str, usize)>,
    /// How many characters that can be seen were written.
    seen: usize,
    /// How many characters were escaped.
    escapes: usize,
    /// Whether headings have identifiers, and addresses are links, already.
    has_ids: bool,
    has_autolinks: bool,
    ids: HashSet<String>,
    suffixes: HashMap<String, usize>,
    /// The level of the last heading.
    level: u8,
    /// The text of the heading that is open, and the identifier it came with.
    heading: Option<(String, Option<String>)>,
}

/// A text in one line, cut.
fn short(text: &str) -> String {
    let words: Vec<&str> = text.split_whitespace().collect();
    words.join(" ").chars().take(TEXT_CHARS_MAX).collect()
}

impl Tidy {
    fn start(&mut self, tag: &StartTag<()>) {
        let name = &*String::from_utf8_lossy(&tag.name);
        if let Some((hider, times)) = &mut self.hidden {
            *times += usize::from(*hider == name && !tag.self_closing);
            return;
        }
        if let Some(hider) = find(HIDDEN, name) {
            self.hidden =
                (!tag.self_closing || !["svg", "math"].contains(&hider)).then_some((hider, 1));
            return;
        }
        match name {
            "img" => self.image(tag),
            "input" => self.task(tag),
            "br" | "wbr" => self.out.push_str(&format!("<{name}>")),
            "hr" => {
                self.end_paragraph();
                self.in_item();
                self.out.push_str("<hr>");
            }
            _ => {
                if let Some(block) = find(BLOCKS, name) {
                    self.block(block, tag);
                } else if let Some(phrase) = find(PHRASES, name) {
                    self.phrase(phrase, tag);
                }
            }
        }
    }

    fn end(&mut self, name: &str) {
        if let Some((hider, times)) = &mut self.hidden {
            if *hider == name {
                *times -= 1;
                if *times == 0 {
                    self.hidden = None;
                }
            }
            return;
        }
        let fences: &[&str] = match name {
            "table" => &[],
            "td" | "th" | "tr" | "thead" | "tbody" | "tfoot" | "caption" => &["table"],
            _ => &["td", "th", "caption", "table"],
        };
        if let Some(at) = self.last(&[name], fences) {
            self.close_to(at);
        }
    }

    fn text(&mut self, text: &str) {
        if self.hidden.is_some() {
            return;
        }
        let visible = text.chars().filter(|c| !c.is_whitespace()).count();
        if visible != 0 {
            self.in_item();
        }
        self.seen += visible;
        if let Some((words, _)) =
            self.heading.as_mut().filter(|(words, _)| words.len() < TEXT_CHARS_MAX)
        {
            words.push_str(text);
        }
        let mut rest = text;
        while self.has_autolinks
            && let Some((start, end)) = bare_address(rest)
        {
            if self.last(&["a", "code", "pre", "kbd", "samp", "tt"], &[]).is_some() {
                break;
            }
            let Some(href) = address(&rest[start..end]) else { break };
            self.escaped(&rest[..start]);
            self.out.push_str(&format!("<a href=\"{}\">", escape(&href)));
            self.escaped(&rest[start..end]);
            self.out.push_str("</a>");
            rest = &rest[end..];
        }
        self.escaped(rest);
    }

    /// Writes text. The sanitiser takes longer for each escape the more of them precede it in one run, so a run ends
    /// now and then at a place where a line may break.
    fn escaped(&mut self, text: &str) {
        for c in text.chars() {
            let escape = match c {
                '&' => "&amp;",
                '<' => "&lt;",
                '>' => "&gt;",
                _ => {
                    self.out.push(c);
                    continue;
                }
            };
            self.out.push_str(escape);
            self.escapes += 1;
            if self.escapes.is_multiple_of(ESCAPES_MAX) {
                self.out.push_str("<wbr>");
            }
        }
    }

    /// Text that is put in.
    fn word(&mut self, text: &str) {
        self.seen += text.len();
        self.out.push_str(&escape(text));
    }

    /// The innermost open element of these names, unless one of the fences stands between.
    fn last(&self, names: &[&str], fences: &[&str]) -> Option<usize> {
        for (at, open) in self.open.iter().enumerate().rev() {
            if names.contains(&open.name) {
                return Some(at);
            }
            if fences.contains(&open.name) {
                return None;
            }
        }
        None
    }

    /// Opens an element: `name` as it was called, `written` as it will be, with these attributes.
    fn push(&mut self, name: &'static str, written: &'static str, attributes: &str) {
        self.phrases += usize::from(PHRASES.contains(&name));
        self.open.push(Open { name, written, at: self.out.len(), seen: self.seen });
        self.out.push_str(&format!("<{written}{attributes}>"));
    }

    fn close_to(&mut self, len: usize) {
        while len < self.open.len() {
            let Some(open) = self.open.pop() else { return };
            self.phrases -= usize::from(PHRASES.contains(&open.name));
            let is_empty = open.seen == self.seen;
            let is_heading = matches!(open.name, "h1" | "h2" | "h3" | "h4" | "h5" | "h6");
            if is_empty && (is_heading || open.written == "a") {
                // Nothing to see and nothing to say for those who cannot.
                self.out.truncate(open.at);
                self.heading = self.heading.take().filter(|_| !is_heading);
                continue;
            }
            self.out.push_str(&format!("</{}>", open.written));
            if is_heading && let Some((words, id)) = self.heading.take() {
                let id = id.or_else(|| (!self.has_ids).then(|| self.id_of_words(&words)));
                if let Some(id) = id {
                    self.out
                        .insert_str(open.at + 3, &format!(" id=\"user-content-{}\"", escape(&id)));
                }
            }
        }
    }

    /// The identifier that a heading has on GitHub, whose tables of contents rely on it.
    fn id_of_words(&mut self, words: &str) -> String {
        let kept = words.trim().chars().filter(|c| c.is_alphanumeric() || " -_".contains(*c));
        let slug: String = kept.flat_map(char::to_lowercase).collect::<String>().replace(' ', "-");
        loop {
            let times = self.suffixes.entry(slug.clone()).or_default();
            let id = if *times == 0 { slug.clone() } else { format!("{slug}-{times}") };
            *times += 1;
            if self.ids.insert(id.clone()) {
                return id;
            }
        }
    }

    /// The identifier that the tag asks for, if it is free.
    fn id(&mut self, tag: &StartTag<()>) -> Option<String> {
        let id = attribute(tag, "id")
            .or_else(|| attribute(tag, "name").filter(|_| &**tag.name == b"a"))?;
        let id = id.strip_prefix("user-content-").map(str::to_owned).unwrap_or(id);
        let is_fine =
            !id.is_empty() && id.len() <= TEXT_CHARS_MAX && !id.contains(char::is_whitespace);
        (is_fine && self.ids.insert(id.clone())).then_some(id)
    }

    fn end_paragraph(&mut self) {
        if let Some(at) = self.last(&["p"], &["td", "th", "caption", "table"]) {
            self.close_to(at);
        }
    }

    /// What stands in a list without an item gets one.
    fn in_item(&mut self) {
        if self.open.last().is_some_and(|open| matches!(open.name, "ul" | "ol")) {
            self.push("li", "li", "");
        }
    }

    fn block(&mut self, name: &'static str, tag: &StartTag<()>) {
        const CELLS: &[&str] = &["td", "th", "caption", "table"];
        self.end_paragraph();
        let place: Option<usize> = match name {
            "li" => self.last(&["ul", "ol"], CELLS),
            "dt" | "dd" => self.last(&["dl"], CELLS),
            "summary" => self.last(&["details"], CELLS),
            "figcaption" => self.last(&["figure"], CELLS),
            "caption" | "thead" | "tbody" | "tfoot" => self.last(&["table"], &[]),
            "tr" => self.last(&["thead", "tbody", "tfoot", "table"], &[]),
            "td" | "th" => self.last(&["tr"], &["table"]),
            // A heading within another ends it, and so does anything like a paragraph.
            _ => {
                let heading = self.last(&["h1", "h2", "h3", "h4", "h5", "h6"], CELLS);
                if let Some(at) = heading {
                    self.close_to(at);
                }
                None
            }
        };
        if BLOCKS_WITH_PARENT.contains(&name) {
            let Some(place) = place else { return };
            self.close_to(place + 1);
        } else if self
            .open
            .last()
            .is_some_and(|open| matches!(open.name, "table" | "thead" | "tbody" | "tfoot" | "tr"))
        {
            // HTML would put it before the table.
            return;
        }
        if DEPTH_MAX <= self.open.len() {
            return;
        }
        if name != "li" {
            self.in_item();
        }
        let id = self.id(tag);
        if let Some(level) = name.strip_prefix('h').and_then(|level| level.parse::<u8>().ok()) {
            self.level = (level + LEVEL_ABOVE).min(self.level + 1).min(6);
            let written = ["h3", "h4", "h5", "h6"][usize::from(self.level.clamp(3, 6)) - 3];
            let attributes = aligned(tag);
            self.push(name, written, &attributes);
            self.heading = Some((String::new(), id));
            return;
        }
        let mut attributes = block_attributes(name, tag);
        if let Some(id) = id {
            attributes.push_str(&format!(" id=\"user-content-{}\"", escape(&id)));
        }
        self.push(name, name, &attributes);
    }

    fn phrase(&mut self, name: &'static str, tag: &StartTag<()>) {
        if name == "a"
            && let Some(at) = self.last(&["a"], &["td", "th", "caption", "table"])
        {
            self.close_to(at);
        }
        if PHRASES_MAX <= self.phrases || DEPTH_MAX <= self.open.len() {
            return;
        }
        self.in_item();
        let mut attributes = classes(tag);
        if let Some(id) = self.id(tag) {
            attributes.push_str(&format!(" id=\"user-content-{}\"", escape(&id)));
        }
        if let Some(title) = attribute(tag, "title").filter(|_| ["a", "abbr"].contains(&name)) {
            attributes.push_str(&format!(" title=\"{}\"", escape(&short(&title))));
        }
        let mut written = name;
        if name == "a" {
            match attribute(tag, "href").as_deref().and_then(address) {
                Some(href) => attributes.push_str(&format!(" href=\"{}\"", escape(&href))),
                None => {
                    written = "span";
                    attributes = attributes.split(" title=").next().unwrap_or_default().to_owned();
                }
            }
        }
        self.push(name, written, &attributes);
    }

    /// An image is somewhere else, and is not asked for from there: its words stand for it, and lead to it.
    fn image(&mut self, tag: &StartTag<()>) {
        self.in_item();
        let href = attribute(tag, "src")
            .as_deref()
            .and_then(address)
            .filter(|href| href.starts_with("http"));
        let alt = attribute(tag, "alt").map(|alt| short(&alt)).filter(|alt| !alt.is_empty());
        let words = alt.unwrap_or_else(|| {
            let path = href.as_deref().and_then(|href| href.split(['?', '#']).next());
            let file =
                path.and_then(|path| path.rsplit('/').next()).filter(|file| !file.is_empty());
            file.map_or_else(|| "image".to_owned(), short)
        });
        let is_linked = self.last(&["a"], &[]).is_some_and(|at| self.open[at].written == "a");
        if let Some((text, _)) = &mut self.heading {
            text.push_str(&words);
        }
        match href.filter(|_| !is_linked) {
            Some(href) => {
                self.out.push_str(&format!("<a class=\"image\" href=\"{}\">", escape(&href)));
                self.word(&words);
                self.out.push_str("</a>");
            }
            None => {
                self.out.push_str("<span class=\"image\">");
                self.word(&words);
                self.out.push_str("</span>");
            }
        }
    }

    /// A box of a list of tasks, as a character.
    fn task(&mut self, tag: &StartTag<()>) {
        if attribute(tag, "type").is_some_and(|kind| kind.eq_ignore_ascii_case("checkbox")) {
            let is_done = attribute(tag, "checked").is_some();
            self.in_item();
            self.out.push_str("<span class=\"task\">");
            self.word(if is_done { "\u{2611}" } else { "\u{2610}" });
            self.out.push_str("</span>");
        }
    }
}

/// Elements that stand in a certain other one or not at all.
const BLOCKS_WITH_PARENT: &[&str] = &[
    "li",
    "dt",
    "dd",
    "summary",
    "figcaption",
    "caption",
    "thead",
    "tbody",
    "tfoot",
    "tr",
    "td",
    "th",
];

//! Markup within lines.

use super::write::Writer;
use super::{Image, Substitute, Target, normal};

/// The longest name that a reference without quotes may have.
const NAME_BYTES_MAX: usize = 100;
/// How deep substitutions may stand in each other.
const SUBSTITUTIONS_DEEP: usize = 3;

/// Marks that begin and end a piece of text.
const MARKS: &[&str] = &["**", "``", "*", "`", "|"];

/// What was found at a place: how far it reaches. Text before it has been written.
type End = usize;

/// Where escapes were taken out of the text; the character after this one is meant as it is.
const ESCAPE: char = '\0';

/// Text with escapes marked, so that what follows one is not taken for markup.
fn marked(text: &str) -> String {
    let mut marked = String::with_capacity(text.len());
    let mut chars = text.chars().filter(|c| *c != ESCAPE);
    while let Some(c) = chars.next() {
        if c == '\\' {
            marked.push(ESCAPE);
            marked.extend(chars.next());
        } else {
            marked.push(c);
        }
    }
    marked
}

/// The text that is meant by one with marked escapes.
fn meant(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        if c != ESCAPE {
            out.push(c);
        } else if let Some(next) = chars.next().filter(|next| !next.is_whitespace()) {
            out.push(next);
        }
    }
    out
}

/// The text as it was before escapes were marked.
fn literally(text: &str) -> String {
    text.replace(ESCAPE, "\\")
}

fn may_start_after(before: Option<char>) -> bool {
    before.is_none_or(|c| {
        c.is_whitespace()
            || "'\"([{<-/:\u{2018}\u{201c}\u{ab}\u{2019}\u{2013}\u{2014}".contains(c)
            || c == ESCAPE
    })
}

fn may_end_before(rest: &str) -> bool {
    let next = rest.chars().next();
    next.is_none_or(|c| {
        c.is_whitespace()
            || c == ESCAPE
            || "'\")]}>-/:.,;!?\u{2019}\u{201d}\u{bb}\u{2013}\u{2014}\u{2026}".contains(c)
    })
}

/// A text that is being read. What is known to have no end is not looked for again.
struct Line<'t> {
    text: &'t str,
    dead: [bool; MARKS.len()],
}

impl Line<'_> {
    /// Where the mark that ends a piece begins, and how long it is with what belongs to it.
    fn end_of(&mut self, mark: usize, from: usize) -> Option<(usize, usize)> {
        if self.dead[mark] {
            return None;
        }
        let text = MARKS[mark];
        let first = self.text[from..].chars().next()?.len_utf8();
        let mut at = from + first;
        while let Some(found) =
            self.text.get(at..).and_then(|rest| rest.find(text)).map(|found| at + found)
        {
            let before = self.text[..found].chars().next_back();
            let is_escaped = before == Some(ESCAPE) && text != "``";
            let mut length = text.len();
            let rest = &self.text[found + length..];
            if matches!(text, "`" | "|") {
                length += rest.len()
                    - rest
                        .strip_prefix("__")
                        .or_else(|| rest.strip_prefix('_'))
                        .unwrap_or(rest)
                        .len();
            }
            if text == "`" && length == 1 {
                length += role(rest).map_or(0, |role| role.len() + 2);
            }
            if !is_escaped
                && before.is_some_and(|c| !c.is_whitespace())
                && may_end_before(&self.text[found + length..])
            {
                return Some((found, length));
            }
            at = found + 1;
        }
        self.dead[mark] = true;
        None
    }
}

/// The role of `:role:`, without its colons.
fn role(text: &str) -> Option<&str> {
    let inside = text.strip_prefix(':')?;
    let end = inside
        .bytes()
        .take(NAME_BYTES_MAX)
        .position(|b| !(b.is_ascii_alphanumeric() || b"-._+:".contains(&b)));
    let name = &inside[..end.unwrap_or(inside.len().min(NAME_BYTES_MAX))];
    let name = name.strip_suffix(':').or_else(|| name.rsplit_once(':').map(|(name, _)| name))?;
    (!name.is_empty()).then_some(name)
}

impl Writer {
    /// Writes text with its markup.
    pub(super) fn inline(&mut self, text: &str) {
        let text = marked(text);
        let mut line = Line { text: &text, dead: [false; MARKS.len()] };
        let mut written = 0;
        let mut at = 0;
        while let Some(found) =
            text[at..].find(['*', '`', '|', '_', '[', 'h', ':']).map(|found| at + found)
        {
            if self.is_full() {
                return;
            }
            let before = text[..found].chars().next_back();
            let end = match text.as_bytes()[found] {
                _ if before == Some(ESCAPE) => None,
                b'_' => self.reference(&mut line, written, found),
                b'[' if may_start_after(before) => self.footnote(&text, written, found),
                b'h' if may_start_after(before) => self.url(&text, written, found),
                b':' if may_start_after(before) => self.role_before(&mut line, written, found),
                b'*' | b'`' | b'|' if may_start_after(before) => {
                    self.marked(&mut line, written, found)
                }
                _ => None,
            };
            match end {
                Some(end) => {
                    written = end;
                    at = end;
                }
                // A run of the same mark is not looked at again from within.
                None => {
                    at = found
                        + 1
                        + text[found + 1..]
                            .bytes()
                            .take_while(|b| *b == b'*' && text.as_bytes()[found] == b'*')
                            .count()
                }
            }
        }
        self.plain(&text[written..]);
    }

    fn plain(&mut self, text: &str) {
        self.text(&meant(text));
    }

    fn tagged(&mut self, tag: &str, text: &str) {
        self.out.push_str(&format!("<{tag}>"));
        self.text(text);
        self.out.push_str(&format!("</{tag}>"));
    }

    fn link(&mut self, target: &Target, text: &str) {
        let href = match target {
            Target::Url(url) if is_mail(url) => format!("mailto:{url}"),
            Target::Url(url) => url.clone(),
            Target::Place(id) => format!("#{id}"),
            Target::Name(_) => String::new(),
        };
        self.start_link(&href);
        self.text(text);
        self.out.push_str("</a>");
    }

    /// A piece between two marks.
    fn marked(&mut self, line: &mut Line<'_>, written: usize, at: usize) -> Option<End> {
        let text = line.text;
        let mark = MARKS.iter().position(|mark| text[at..].starts_with(mark))?;
        let from = at + MARKS[mark].len();
        if text[from..].chars().next().is_none_or(char::is_whitespace) || is_quoted(text, at, from)
        {
            return None;
        }
        let (end, length) = line.end_of(mark, from)?;
        let inside = &text[from..end];
        let tail = &text[end + MARKS[mark].len()..end + length];
        self.plain(&text[written..at]);
        match MARKS[mark] {
            "**" => self.tagged("strong", &meant(inside)),
            "*" => self.tagged("em", &meant(inside)),
            "``" => self.tagged("code", &literally(inside)),
            "|" => self.substitute(inside, tail),
            _ if tail.starts_with('_') => self.phrase_reference(inside, tail == "__"),
            _ => self.interpreted(inside, tail.trim_matches(':')),
        }
        Some(end + length)
    }

    /// A piece whose role stands before it.
    fn role_before(&mut self, line: &mut Line<'_>, written: usize, at: usize) -> Option<End> {
        let text = line.text;
        let role = role(&text[at..]).filter(|role| !role.contains("::"))?;
        let from = at + role.len() + 2;
        let from = from + text[from..].strip_prefix('`').map(|_| 1)?;
        if text[from..].chars().next().is_none_or(char::is_whitespace) {
            return None;
        }
        let (end, length) = line.end_of(3, from)?;
        self.plain(&text[written..at]);
        self.interpreted(&text[from..end], role);
        Some(end + length)
    }

    fn interpreted(&mut self, inside: &str, role: &str) {
        let text = meant(inside);
        match role {
            "" | "title-reference" | "title" | "t" => self.tagged("cite", &text),
            "strong" => self.tagged("strong", &text),
            "emphasis" => self.tagged("em", &text),
            "sub" | "subscript" => self.tagged("sub", &text),
            "sup" | "superscript" => self.tagged("sup", &text),
            "kbd" => self.tagged("kbd", &text),
            "code" | "literal" | "math" | "samp" | "file" | "command" | "program" => {
                self.tagged("code", &literally(inside))
            }
            "pep" | "PEP" => self.numbered(&text, "PEP", |number| {
                format!("https://peps.python.org/pep-{number:04}/")
            }),
            "rfc" | "RFC" => self.numbered(&text, "RFC", |number| {
                format!("https://www.rfc-editor.org/rfc/rfc{number}")
            }),
            // Roles of documentation tools name something that is not here.
            _ => {
                let shown = text.split_once('<').map_or(&*text, |(words, _)| words).trim();
                let shown = shown.trim_start_matches(['~', '!']);
                let is_prose =
                    role.ends_with("ref") || role.ends_with("doc") || role.ends_with("term");
                if is_prose { self.text(shown) } else { self.tagged("code", shown) }
            }
        }
    }

    fn numbered(&mut self, text: &str, kind: &str, address: impl Fn(u32) -> String) {
        match text.trim().parse() {
            Ok(number) => self.link(&Target::Url(address(number)), &format!("{kind} {number}")),
            Err(_) => self.text(text),
        }
    }

    /// A reference between quotes, which may name its target itself.
    fn phrase_reference(&mut self, inside: &str, is_anonymous: bool) {
        let embedded = inside.strip_suffix('>').and_then(|rest| rest.rsplit_once('<'));
        if let Some((words, url)) = embedded {
            let url = meant(url).split_whitespace().collect::<String>();
            let words = meant(words.trim_end());
            let words = if words.is_empty() { url.clone() } else { words };
            let target = match url.strip_suffix('_') {
                Some(name) if !name.contains('/') => {
                    self.defs.resolve(name).cloned().unwrap_or(Target::Url(url))
                }
                _ => Target::Url(url),
            };
            if !is_anonymous {
                self.defs.targets.entry(normal(&words)).or_insert_with(|| target.clone());
            }
            self.link(&target, &words);
            return;
        }
        let words = meant(inside);
        match self.target(&words, is_anonymous) {
            Some(target) => self.link(&target, &words),
            None => self.text(&words),
        }
    }

    fn target(&mut self, name: &str, is_anonymous: bool) -> Option<Target> {
        if !is_anonymous {
            return self.defs.resolve(name).cloned();
        }
        let target = self.defs.anonymous.get(self.anonymous).cloned();
        self.anonymous += 1;
        match target {
            Some(Target::Name(name)) => self.defs.resolve(&name).cloned(),
            other => other,
        }
    }

    /// A word with `_` at its end, or a target within the line.
    fn reference(&mut self, line: &mut Line<'_>, written: usize, at: usize) -> Option<End> {
        let text = line.text;
        let before = text[..at].chars().next_back();
        if text[at + 1..].starts_with('`') && may_start_after(before) {
            let from = at + 2;
            text[from..].chars().next().filter(|c| !c.is_whitespace())?;
            let (end, length) = line.end_of(3, from)?;
            self.plain(&text[written..at]);
            self.plain(&text[from..end]);
            return Some(end + length);
        }
        let is_anonymous = text[at + 1..].starts_with('_');
        let end = at + 1 + usize::from(is_anonymous);
        if !may_end_before(&text[end..]) {
            return None;
        }
        let mut start = at;
        let mut was_mark = true;
        for (place, c) in text[written..at].char_indices().rev() {
            let is_mark = "-._+:".contains(c);
            if NAME_BYTES_MAX < at - written - place
                || !(c.is_alphanumeric() || is_mark && !was_mark)
            {
                break;
            }
            was_mark = is_mark;
            start = written + place;
        }
        let name = text[start..at].trim_start_matches(['-', '.', '_', '+', ':']);
        let start = at - name.len();
        if name.is_empty() || !may_start_after(text[..start].chars().next_back()) {
            return None;
        }
        let target = self.target(name, is_anonymous)?;
        self.plain(&text[written..start]);
        self.link(&target, name);
        Some(end)
    }

    /// `[1]_` and its kin.
    fn footnote(&mut self, text: &str, written: usize, at: usize) -> Option<End> {
        let inside = &text[at + 1..];
        let is_label = |c: char| c.is_alphanumeric() || "-._+:#*".contains(c);
        let length = inside.char_indices().take(NAME_BYTES_MAX).find(|(_, c)| !is_label(*c))?.0;
        let rest = inside[length..].strip_prefix("]_").filter(|rest| may_end_before(rest))?;
        let label = &inside[..length];
        let id = match label {
            "#" | "*" => {
                let id = self.defs.auto_footnotes.get(self.auto_footnotes).cloned();
                self.auto_footnotes += 1;
                id
            }
            _ => self.defs.footnotes.get(&normal(label.trim_start_matches('#'))).cloned(),
        }?;
        self.plain(&text[written..at]);
        self.link(&Target::Place(id), &format!("[{label}]"));
        Some(text.len() - rest.len())
    }

    /// An address in the text.
    fn url(&mut self, text: &str, written: usize, at: usize) -> Option<End> {
        let rest = &text[at..];
        let scheme = ["http://", "https://"].into_iter().find(|scheme| rest.starts_with(scheme))?;
        let is_end = |c: char| c.is_whitespace() || "<>\"`|".contains(c) || c == ESCAPE;
        let end = rest.find(is_end).unwrap_or(rest.len());
        let url =
            rest[..end].trim_end_matches(['.', ',', ';', ':', '!', '?', '\'', ']', '}', '*', '_']);
        let url = if url.contains('(') { url } else { url.trim_end_matches([')', '.', ',']) };
        if url.len() <= scheme.len() {
            return None;
        }
        self.plain(&text[written..at]);
        self.link(&Target::Url(url.to_owned()), url);
        Some(at + url.len())
    }

    fn substitute(&mut self, name: &str, tail: &str) {
        let Some(substitute) = self.defs.substitutes.get(&normal(name)).cloned() else {
            self.text(&meant(&format!("|{name}|{tail}")));
            return;
        };
        let target = (!tail.is_empty()).then(|| self.target(name, tail == "__")).flatten();
        match substitute {
            Substitute::Image(image) => {
                let target = target.or_else(|| self.image_target(&image));
                self.image(&image, target.as_ref());
            }
            Substitute::Text(text) => match target {
                Some(target) => self.link(&target, &text),
                None if SUBSTITUTIONS_DEEP <= self.substitutions => self.text(&text),
                None => {
                    self.substitutions += 1;
                    self.inline(&text);
                    self.substitutions -= 1;
                }
            },
        }
    }

    pub(super) fn image_target(&self, image: &Image) -> Option<Target> {
        let target = image.target.as_deref()?;
        let name = target.strip_suffix('_').map(|name| name.trim_matches('`'));
        let named = name.and_then(|name| self.defs.resolve(name)).cloned();
        Some(named.unwrap_or_else(|| Target::Url(target.split_whitespace().collect())))
    }
}

/// Whether a mark stands alone between quotes or brackets, and so means itself.
fn is_quoted(text: &str, at: usize, from: usize) -> bool {
    let before = text[..at].chars().next_back();
    let after = text[from..].chars().next();
    matches!(
        (before, after),
        (Some('\''), Some('\''))
            | (Some('"'), Some('"'))
            | (Some('('), Some(')'))
            | (Some('['), Some(']'))
            | (Some('{'), Some('}'))
            | (Some('<'), Some('>'))
    )
}

fn is_mail(url: &str) -> bool {
    url.contains('@') && !url.contains([':', '/']) && !url.contains(char::is_whitespace)
}

//! What begins with two dots: footnotes, targets, substitutions, directives and comments.

use super::{Block, Parser, Substitute, Target, dedent, indented, normal};

/// A piece of explicit markup: the text after the dots, and the lines that belong to it.
pub(super) struct Piece<'a> {
    pub(super) first: &'a str,
    pub(super) more: Vec<&'a str>,
}

impl Piece<'_> {
    /// All as one text, lines joined by `by`.
    fn joined(&self, from: usize, by: &str) -> String {
        let first = self.first[from..].trim();
        let lines = std::iter::once(first).chain(self.more.iter().map(|line| line.trim()));
        lines.filter(|line| !line.is_empty()).collect::<Vec<_>>().join(by)
    }
}

impl Parser {
    /// Reads explicit markup that begins here, and says how many lines it has.
    pub(super) fn explicit(
        &mut self,
        lines: &[&str],
        at: usize,
        depth: usize,
        into: &mut Vec<Block>,
    ) -> Option<usize> {
        if let Some(url) = lines[at].strip_prefix("__ ") {
            self.defs.anonymous.push(target(url.trim().to_owned()));
            return Some(1);
        }
        let first = lines[at].strip_prefix("..")?;
        if !first.is_empty() && !first.starts_with(' ') {
            return None;
        }
        let first = first.trim_start();
        let follows = lines.get(at + 1).copied().unwrap_or_default();
        if first.is_empty() && follows.is_empty() {
            return Some(1);
        }
        let count = 1 + indented(lines, at + 1, 1);
        let following = &lines[at + 1..at + count];
        let starts_at_once = following.first().is_some_and(|line| !line.is_empty());
        let mut more = dedent(following);
        if !starts_at_once && !more.is_empty() {
            more.insert(0, "");
        }
        let piece = Piece { first, more };
        self.piece(&piece, depth, into);
        Some(count)
    }

    fn piece(&mut self, piece: &Piece<'_>, depth: usize, into: &mut Vec<Block>) {
        let first = piece.first;
        if let Some(rest) = first.strip_prefix('[')
            && let Some((label, body)) = rest.split_once(']')
            && is_label(label)
        {
            self.footnote(label, body, piece, depth, into);
        } else if let Some(rest) = first.strip_prefix("__") {
            let from = first.len() - rest.strip_prefix(':').unwrap_or(rest).len();
            self.defs.anonymous.push(target(piece.joined(from, "")));
        } else if let Some((name, from)) = named_target(first) {
            self.target(&name, piece.joined(from, ""), into);
        } else if let Some(rest) = first.strip_prefix('|')
            && let Some((name, directive)) = rest.split_once('|')
        {
            self.substitution(name, directive.trim_start(), piece);
        } else if let Some((name, arguments)) = directive(first) {
            self.directive(&name, arguments, piece, depth, into);
        }
        // Anything else is a comment.
    }

    fn footnote(
        &mut self,
        label: &str,
        body: &str,
        piece: &Piece<'_>,
        depth: usize,
        into: &mut Vec<Block>,
    ) {
        let number =
            || (self.defs.footnotes.len() + self.defs.auto_footnotes.len() + 1).to_string();
        let shown = match label {
            "#" | "*" => number(),
            _ if label.starts_with('#') => number(),
            _ => label.to_owned(),
        };
        let id = self.defs.id(&format!("footnote {}", label.trim_start_matches('#')));
        match label {
            "#" | "*" => self.defs.auto_footnotes.push(id.clone()),
            _ => {
                let name = normal(label.trim_start_matches('#'));
                self.defs.footnotes.insert(name, id.clone());
            }
        }
        let mut inside = vec![body.trim_start()];
        inside.extend(piece.more.iter().copied());
        let body = self.blocks(&inside, depth + 1);
        into.push(Block::Footnote { label: shown, id, body });
    }

    fn target(&mut self, name: &str, leads_to: String, into: &mut Vec<Block>) {
        let target = if leads_to.is_empty() {
            let id = self.defs.id(name);
            into.push(Block::Anchor(id.clone()));
            Target::Place(id)
        } else {
            target(leads_to)
        };
        self.defs.targets.insert(normal(name), target);
    }

    fn substitution(&mut self, name: &str, rest: &str, piece: &Piece<'_>) {
        let Some((kind, arguments)) = directive(rest) else { return };
        let from = piece.first.len() - arguments.len();
        let substitute = match &*kind {
            "image" => {
                let mut image = super::directives::image(arguments, &piece.more);
                if image.alt.is_empty() {
                    image.alt = name.to_owned();
                }
                Substitute::Image(image)
            }
            "replace" => Substitute::Text(piece.joined(from, " ")),
            "unicode" => Substitute::Text(characters(&piece.joined(from, " "))),
            _ => return,
        };
        self.defs.substitutes.insert(normal(name), substitute);
    }
}

fn is_label(label: &str) -> bool {
    !label.is_empty()
        && label.len() <= 100
        && label.chars().all(|c| c.is_alphanumeric() || "-._+:#*".contains(c))
}

/// The name of `_name: ...`, and where the rest begins.
fn named_target(first: &str) -> Option<(String, usize)> {
    let rest = first.strip_prefix('_')?;
    if let Some(quoted) = rest.strip_prefix('`') {
        let (name, after) = quoted.split_once("`:")?;
        return Some((name.to_owned(), first.len() - after.len()));
    }
    let (at, _) = rest.match_indices(':').find(|&(at, _)| {
        let after = &rest[at + 1..];
        (after.is_empty() || after.starts_with(' ')) && !rest[..at].ends_with('\\')
    })?;
    Some((rest[..at].replace('\\', ""), at + 2))
}

/// What a target leads to: an address, or another name with a `_` at its end.
fn target(text: String) -> Target {
    let name = text.strip_suffix('_').filter(|name| !name.contains(['/', '\\']));
    match name {
        Some(name) => Target::Name(normal(name.trim_matches('`'))),
        None => Target::Url(text.replace("\\_", "_")),
    }
}

/// The name of `name:: arguments`, and the arguments.
pub(super) fn directive(text: &str) -> Option<(String, &str)> {
    let (name, arguments) = text.split_once("::")?;
    let is_name =
        !name.is_empty() && name.chars().all(|c| c.is_alphanumeric() || "-._+:".contains(c));
    let is_apart = arguments.is_empty() || arguments.starts_with(' ');
    (is_name && is_apart).then(|| (name.to_lowercase(), arguments.trim_start()))
}

/// The characters that numbers like `0xA9` and `U+A9` stand for.
fn characters(text: &str) -> String {
    let word = |word: &str| {
        let hex =
            ["0x", "U+", "u+", "\\x", "\\u"].iter().find_map(|start| word.strip_prefix(start));
        let found = hex.and_then(|hex| u32::from_str_radix(hex, 16).ok()).and_then(char::from_u32);
        found.map_or_else(|| word.to_owned(), String::from)
    };
    text.split_whitespace().map(word).collect::<Vec<_>>().join(" ")
}

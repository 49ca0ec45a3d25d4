//! Lists of all kinds, blocks of lines, and sessions of an interpreter.

use super::{Block, Parser, dedent, indent, indented};

/// A mark of a list item: how long it is with the spaces after it, and what it is.
#[derive(Clone, Copy, PartialEq)]
enum Mark {
    Bullet(char),
    Number(char, u64),
}

fn bullet(line: &str) -> Option<(Mark, usize)> {
    let mark = line.chars().next().filter(|c| "*+-\u{2022}\u{2023}\u{2043}".contains(*c))?;
    let rest = &line[mark.len_utf8()..];
    if !rest.is_empty() && !rest.starts_with(' ') {
        return None;
    }
    let spaces = if rest.is_empty() { 1 } else { indent(rest) };
    Some((Mark::Bullet(mark), 1 + spaces))
}

fn number(line: &str) -> Option<(Mark, usize)> {
    let inside = line.strip_prefix('(').unwrap_or(line);
    let end = inside.find(|c: char| !(c.is_ascii_alphanumeric() || c == '#'))?;
    let word = &inside[..end];
    let mark = inside[end..].chars().next().filter(|c| ".)".contains(*c))?;
    let after = &inside[end + 1..];
    let is_enclosed = inside.len() != line.len();
    if is_enclosed && mark != ')' || !after.is_empty() && !after.starts_with(' ') {
        return None;
    }
    let (kind, value) = ordinal(word)?;
    let spaces = if after.is_empty() { 1 } else { indent(after) };
    Some((Mark::Number(kind, value), line.len() - after.len() + spaces))
}

/// The kind of a number and its value.
fn ordinal(word: &str) -> Option<(char, u64)> {
    let first = word.chars().next()?;
    match first {
        '#' if word.len() == 1 => Some(('1', 0)),
        '0'..='9' if word.len() <= 9 => word.parse().ok().map(|value| ('1', value)),
        'i' if word == "i"
            || word.len() < 8 && 1 < word.len() && word.bytes().all(|b| b"ivxl".contains(&b)) =>
        {
            Some(('i', 1))
        }
        'I' if word == "I"
            || word.len() < 8 && 1 < word.len() && word.bytes().all(|b| b"IVXL".contains(&b)) =>
        {
            Some(('I', 1))
        }
        'a'..='z' if word.len() == 1 => Some(('a', u64::from(u32::from(first) - 96))),
        'A'..='Z' if word.len() == 1 => Some(('A', u64::from(u32::from(first) - 64))),
        _ => None,
    }
}

/// The name of a field, and where its text begins.
pub(super) fn field(line: &str) -> Option<(&str, usize)> {
    let inside = line.strip_prefix(':')?;
    if inside.starts_with([':', ' ']) {
        return None;
    }
    let end = inside.match_indices(':').map(|(at, _)| at).find(|&at| {
        let after = &inside[at + 1..];
        (after.is_empty() || after.starts_with(' ')) && !inside[..at].ends_with('\\')
    })?;
    // `:role:`text`` begins a paragraph, and has no space after the second colon.
    Some((&inside[..end], end + 2 + indent(&inside[end + 1..])))
}

/// Where the description of a command line option begins.
fn option(line: &str) -> Option<usize> {
    let mut chars = line.chars();
    let is_start = match (chars.next()?, chars.next()?) {
        ('-', '-') => chars.next()?.is_ascii_alphanumeric(),
        ('-' | '/', c) => c.is_ascii_alphanumeric(),
        _ => false,
    };
    let end = line.find("  ").unwrap_or(line.len());
    let words = &line[..end];
    let are_options = words
        .split(", ")
        .all(|option| option.starts_with(['-', '/']) && option.split([' ', '=']).count() <= 2);
    (is_start && are_options).then_some(end)
}

impl Parser {
    /// Reads a list that begins here, and says how many lines it has.
    pub(super) fn list(
        &mut self,
        lines: &[&str],
        at: usize,
        depth: usize,
        into: &mut Vec<Block>,
    ) -> Option<usize> {
        let line = lines[at];
        if let Some((mark, _)) = bullet(line) {
            let (items, count) = self.items(lines, at, depth, |line| {
                bullet(line).filter(|(other, _)| *other == mark).map(|(_, width)| width)
            });
            into.push(Block::Bullets(items));
            return Some(count);
        }
        if let Some((Mark::Number(kind, start), _)) = number(line) {
            let next = lines.get(at + 1).copied().unwrap_or_default();
            // Else it is a paragraph that happens to begin like this.
            if next.is_empty() || next.starts_with(' ') || number(next).is_some() {
                let (items, count) = self.items(lines, at, depth, |line| {
                    number(line)
                        .filter(|(mark, _)| is_same_kind(*mark, kind))
                        .map(|(_, width)| width)
                });
                into.push(Block::Numbers { kind, start: start.max(1), items });
                return Some(count);
            }
        }
        if line.starts_with(">>> ") {
            let count = lines[at..].iter().take_while(|line| !line.is_empty()).count();
            into.push(Block::Literal(lines[at..at + count].join("\n")));
            return Some(count);
        }
        if line == "|" || line.starts_with("| ") {
            return Some(line_block(lines, at, into));
        }
        if field(line).is_some() {
            return Some(self.fields(lines, at, depth, into));
        }
        if option(line).is_some_and(|end| {
            end < line.len() || lines.get(at + 1).is_some_and(|next| next.starts_with(' '))
        }) {
            return Some(self.options(lines, at, depth, into));
        }
        None
    }

    /// Items whose first line `width` recognises, telling where its text begins.
    fn items(
        &mut self,
        lines: &[&str],
        at: usize,
        depth: usize,
        width: impl Fn(&str) -> Option<usize>,
    ) -> (Vec<Vec<Block>>, usize) {
        let mut items = Vec::new();
        let mut next = at;
        while let Some(places) = lines.get(next).and_then(|line| width(line)) {
            let more = indented(lines, next + 1, places);
            let first = lines[next]
                .char_indices()
                .nth(places)
                .map_or("", |(start, _)| &lines[next][start..]);
            let mut inside = vec![first];
            inside.extend(
                lines[next + 1..=next + more]
                    .iter()
                    .map(|line| line.get(places..).unwrap_or_default()),
            );
            items.push(self.blocks(&inside, depth + 1));
            next += 1 + more;
            let blank = lines[next..].iter().take_while(|line| line.is_empty()).count();
            if lines.get(next + blank).is_none_or(|line| width(line).is_none()) {
                break;
            }
            next += blank;
        }
        (items, next - at)
    }

    /// What belongs to a line: the rest of it from `start` on, and the indented lines that follow.
    fn belonging(
        &mut self,
        lines: &[&str],
        at: usize,
        start: usize,
        depth: usize,
    ) -> (Vec<Block>, usize) {
        let more = indented(lines, at + 1, 1);
        let following = &lines[at + 1..=at + more];
        let mut inside = vec![lines[at].get(start..).unwrap_or_default().trim_start()];
        inside.extend(dedent_all(following));
        (self.blocks(&inside, depth + 1), 1 + more)
    }

    pub(super) fn fields(
        &mut self,
        lines: &[&str],
        at: usize,
        depth: usize,
        into: &mut Vec<Block>,
    ) -> usize {
        let mut fields = Vec::new();
        let mut next = at;
        while let Some((name, start)) = lines.get(next).and_then(|line| field(line)) {
            let (body, count) = self.belonging(lines, next, start, depth);
            fields.push((name.to_owned(), body));
            next += count;
            let blank = lines[next..].iter().take_while(|line| line.is_empty()).count();
            if lines.get(next + blank).is_some_and(|line| field(line).is_some()) {
                next += blank;
            }
        }
        into.push(Block::Fields(fields));
        next - at
    }

    fn options(&mut self, lines: &[&str], at: usize, depth: usize, into: &mut Vec<Block>) -> usize {
        let mut options = Vec::new();
        let mut next = at;
        while let Some(end) = lines.get(next).and_then(|line| option(line)) {
            let (body, count) = self.belonging(lines, next, end, depth);
            options.push((lines[next][..end].to_owned(), body));
            next += count;
            let blank = lines[next..].iter().take_while(|line| line.is_empty()).count();
            if lines.get(next + blank).is_some_and(|line| option(line).is_some()) {
                next += blank;
            }
        }
        into.push(Block::Options(options));
        next - at
    }

    pub(super) fn definitions(
        &mut self,
        lines: &[&str],
        at: usize,
        depth: usize,
        into: &mut Vec<Block>,
    ) -> usize {
        let mut terms = Vec::new();
        let mut next = at;
        loop {
            let count = indented(lines, next + 1, 1);
            let body = self.blocks(&dedent(&lines[next + 1..=next + count]), depth + 1);
            terms.push((lines[next].to_owned(), body));
            next += 1 + count;
            let blank = lines[next..].iter().take_while(|line| line.is_empty()).count();
            let is_term = |line: &&str| {
                !line.starts_with(' ') && !line.starts_with("..") && bullet(line).is_none()
            };
            let has_more = lines.get(next + blank).is_some_and(is_term)
                && lines.get(next + blank + 1).is_some_and(|line| line.starts_with(' '))
                && number(lines[next + blank]).is_none()
                && !lines[next + blank].ends_with("::");
            if !has_more {
                break;
            }
            next += blank;
        }
        into.push(Block::Definitions(terms));
        next - at
    }
}

fn is_same_kind(mark: Mark, kind: char) -> bool {
    match mark {
        Mark::Number(other, _) => {
            other == kind
                || "iI".contains(other) && "aA".contains(kind)
                || "aA".contains(other) && "iI".contains(kind)
        }
        Mark::Bullet(_) => false,
    }
}

/// As `dedent`, but each line stays.
fn dedent_all<'a>(lines: &[&'a str]) -> Vec<&'a str> {
    let common =
        lines.iter().filter(|line| !line.is_empty()).map(|line| indent(line)).min().unwrap_or(0);
    lines.iter().map(|line| line.get(common..).unwrap_or_default()).collect()
}

fn line_block(lines: &[&str], at: usize, into: &mut Vec<Block>) -> usize {
    let mut rows: Vec<(usize, String)> = Vec::new();
    let mut count = 0;
    for line in &lines[at..] {
        if let Some(text) =
            line.strip_prefix('|').filter(|text| text.is_empty() || text.starts_with(' '))
        {
            rows.push((indent(text).saturating_sub(1), text.trim().to_owned()));
        } else if line.starts_with(' ') && !line.is_empty() {
            if let Some((_, last)) = rows.last_mut() {
                last.push(' ');
                last.push_str(line.trim());
            }
        } else {
            break;
        }
        count += 1;
    }
    into.push(Block::Lines(rows));
    count
}

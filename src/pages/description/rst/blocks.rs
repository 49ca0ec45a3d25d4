//! Lines into blocks: titles, paragraphs, quotes, literal blocks, and whom the rest is left to.

use super::{Block, DEPTH_MAX, Parser, Target, dedent, indent, indented, normal};

/// What lines of titles and transitions are made of.
pub(super) fn rule(line: &str) -> Option<char> {
    let first = line.chars().next().filter(char::is_ascii_punctuation)?;
    line.chars().all(|c| c == first).then_some(first)
}

fn is_long_rule(line: &str) -> bool {
    rule(line).is_some() && 4 <= width(line)
}

fn width(line: &str) -> usize {
    line.chars().count()
}

impl Parser {
    /// The blocks of these lines, which have no common indent.
    pub(super) fn blocks(&mut self, lines: &[&str], depth: usize) -> Vec<Block> {
        let mut blocks = Vec::new();
        if DEPTH_MAX <= depth {
            blocks.push(Block::Literal(lines.join("\n")));
            return blocks;
        }
        let mut at = 0;
        while at < lines.len() {
            if lines[at].is_empty() {
                at += 1;
            } else if lines[at].starts_with(' ') {
                let count = indented(lines, at, 1);
                let inside = self.blocks(&dedent(&lines[at..at + count]), depth + 1);
                blocks.push(Block::Quote(inside));
                at += count;
            } else {
                at += self.block(lines, at, depth, &mut blocks);
            }
        }
        blocks
    }

    /// Reads what begins at a line that is not indented, and says how many lines it has.
    fn block(&mut self, lines: &[&str], at: usize, depth: usize, into: &mut Vec<Block>) -> usize {
        if let Some(count) = self.table(lines, at, depth, into) {
            return count;
        }
        if let Some(count) = self.ruled(lines, at, depth, into) {
            return count;
        }
        if let Some(count) = self.explicit(lines, at, depth, into) {
            return count;
        }
        if let Some(count) = self.list(lines, at, depth, into) {
            return count;
        }
        self.text(lines, at, depth, into)
    }

    /// A title between lines, or a transition.
    fn ruled(
        &mut self,
        lines: &[&str],
        at: usize,
        depth: usize,
        into: &mut Vec<Block>,
    ) -> Option<usize> {
        let style = rule(lines[at])?;
        let next = lines.get(at + 1).copied().unwrap_or_default();
        if lines
            .get(at + 2)
            .is_some_and(|under| rule(under) == Some(style) && !next.trim().is_empty())
        {
            let is_wide = width(next.trim_start()) <= width(lines[at]) || 4 <= width(lines[at]);
            if is_wide && depth == 0 {
                self.title(next.trim(), (style, true), into);
                return Some(3);
            }
        }
        let is_transition = 4 <= width(lines[at]) && next.is_empty();
        is_transition.then(|| {
            into.push(Block::Rule);
            1
        })
    }

    fn title(&mut self, text: &str, style: (char, bool), into: &mut Vec<Block>) {
        let known = self.styles.iter().position(|known| *known == style);
        let level = known.unwrap_or_else(|| {
            self.styles.push(style);
            self.styles.len() - 1
        });
        let name = normal(text);
        let id = self.defs.id(&name);
        // A target of the author's own goes before one that a title makes.
        self.defs.targets.entry(name).or_insert_with(|| Target::Place(id.clone()));
        self.defs.titles.push((level, text.to_owned(), id.clone()));
        into.push(Block::Title { level, text: text.to_owned(), id });
    }

    /// A paragraph, a title with a line below, a definition list, and the literal block that `::` announces.
    fn text(&mut self, lines: &[&str], at: usize, depth: usize, into: &mut Vec<Block>) -> usize {
        let first = lines[at];
        let next = lines.get(at + 1).copied().unwrap_or_default();
        if let Some(style) = rule(next) {
            let is_wide = width(first) <= width(next) || 4 <= width(next);
            if is_wide && depth == 0 {
                self.title(first, (style, false), into);
                return 2;
            }
        }
        if next.starts_with(' ') && !first.ends_with("::") {
            return self.definitions(lines, at, depth, into);
        }
        // A title may stand right below a paragraph, without an empty line.
        let is_end = |&line: &usize| {
            let is_title =
                || depth == 0 && lines.get(line + 1).is_some_and(|under| is_long_rule(under));
            lines[line].is_empty() || lines[line].starts_with(' ') || at < line && is_title()
        };
        let count = (at..lines.len()).find(is_end).unwrap_or(lines.len()) - at;
        let mut text = lines[at..at + count].join("\n");
        if !text.ends_with("::") {
            into.push(Block::Paragraph(text));
            return count;
        }
        text.truncate(text.len() - 2);
        let has_space = text.ends_with([' ', '\n']);
        let trimmed = text.trim_end().to_owned();
        if !trimmed.is_empty() {
            into.push(Block::Paragraph(if has_space { trimmed } else { format!("{trimmed}:") }));
        }
        count + literal(lines, at + count, into)
    }
}

/// The literal block that begins at a line, if one does.
fn literal(lines: &[&str], at: usize, into: &mut Vec<Block>) -> usize {
    let blank = lines[at..].iter().take_while(|line| line.is_empty()).count();
    let start = at + blank;
    let Some(first) = lines.get(start) else { return blank };
    let count = if indent(first) != 0 {
        indented(lines, start, 1)
    } else {
        // Without an indent, each line begins with the same mark.
        let mark = first.chars().next().filter(char::is_ascii_punctuation);
        let is_quoted = |line: &&&str| mark.is_some() && line.chars().next() == mark;
        lines[start..].iter().take_while(is_quoted).count()
    };
    if count != 0 {
        into.push(Block::Literal(dedent(&lines[start..start + count]).join("\n")));
    }
    blank + count
}

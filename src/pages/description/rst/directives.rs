//! Directives: those that descriptions use. Others are shown as they were written.

use super::explicit::Piece;
use super::lists::field;
use super::{Block, Cell, Image, Parser, Table, without_blanks};

/// The most cells of a table made of values.
const CELLS_MAX: usize = 20_000;

/// Directives that show nothing, among them those that would bring in something from elsewhere.
const SILENT: &[&str] = &[
    "raw",
    "include",
    "literalinclude",
    "highlight",
    "role",
    "default-role",
    "meta",
    "sectnum",
    "section-numbering",
    "title",
    "index",
    "currentmodule",
    "module",
    "py:currentmodule",
    "py:module",
    "toctree",
    "target-notes",
    "date",
    "unicode",
    "header",
    "footer",
    "restructuredtext-test-directive",
    "tabularcolumns",
];

/// Arguments, options and content of a directive.
struct Parts<'a> {
    arguments: String,
    options: Vec<(&'a str, String)>,
    content: &'a [&'a str],
}

impl Parts<'_> {
    fn option(&self, name: &str) -> Option<&str> {
        self.options.iter().find(|(known, _)| *known == name).map(|(_, value)| value.as_str())
    }
}

/// Takes a directive apart: arguments until an option or an empty line, options until an empty line.
fn parts<'a>(arguments: &str, more: &'a [&'a str]) -> Parts<'a> {
    let mut parts = Parts { arguments: arguments.to_owned(), options: Vec::new(), content: &[] };
    let mut at = 0;
    while let Some(line) = more.get(at).filter(|line| !line.is_empty()) {
        if let Some((name, start)) = field(line) {
            parts.options.push((name, line.get(start..).unwrap_or_default().trim().to_owned()));
        } else if let Some((_, value)) = parts.options.last_mut() {
            value.push(' ');
            value.push_str(line.trim());
        } else {
            parts.arguments.push('\n');
            parts.arguments.push_str(line);
        }
        at += 1;
    }
    parts.content = without_blanks(&more[at..]);
    parts
}

/// An image by the lines of its directive.
pub(super) fn image(arguments: &str, more: &[&str]) -> Image {
    let parts = parts(arguments, more);
    Image {
        src: parts.arguments.split_whitespace().collect(),
        alt: parts.option("alt").unwrap_or_default().to_owned(),
        target: parts.option("target").map(str::to_owned),
    }
}

fn admonition(name: &str) -> Option<(&'static str, &'static str)> {
    Some(match name {
        "note" => ("note", "Note"),
        "hint" => ("note", "Hint"),
        "tip" => ("note", "Tip"),
        "seealso" => ("note", "See also"),
        "todo" => ("note", "To do"),
        "important" => ("note", "Important"),
        "attention" => ("note warn", "Attention"),
        "caution" => ("note warn", "Caution"),
        "danger" => ("note warn", "Danger"),
        "error" => ("note warn", "Error"),
        "warning" => ("note warn", "Warning"),
        _ => return None,
    })
}

impl Parser {
    pub(super) fn directive(
        &mut self,
        name: &str,
        arguments: &str,
        piece: &Piece<'_>,
        depth: usize,
        into: &mut Vec<Block>,
    ) {
        if let Some((class, title)) = admonition(name) {
            let body = self.inside(arguments, piece, depth);
            into.push(Block::Admonition { class, title: title.to_owned(), body });
            return;
        }
        let all = parts(arguments, &piece.more);
        match name {
            "code" | "code-block" | "sourcecode" | "math" | "prompt" | "command-output"
            | "doctest" | "testcode" => {
                let is_code = name != "math" && name != "doctest";
                let lines = if is_code { all.content } else { without_blanks(&piece.more) };
                let mut text = lines.join("\n");
                if !is_code && !arguments.is_empty() {
                    text = format!("{arguments}\n{text}");
                }
                into.push(Block::Literal(text));
            }
            "parsed-literal" => into.push(Block::Parsed(without_blanks(&piece.more).join("\n"))),
            "image" => into.push(Block::Image(image(arguments, &piece.more))),
            "figure" => {
                let mut body = vec![Block::Image(image(arguments, &piece.more))];
                body.extend(self.blocks(all.content, depth + 1));
                into.push(Block::Group(body));
            }
            "contents" => into.push(Block::Contents(one_line(&all.arguments))),
            "admonition" | "topic" | "sidebar" => {
                let body = self.blocks(all.content, depth + 1);
                into.push(Block::Admonition {
                    class: "note",
                    title: one_line(&all.arguments),
                    body,
                });
            }
            "versionadded" | "versionchanged" | "deprecated" => {
                self.version(name, arguments, piece, depth, into)
            }
            "rubric" | "centered" => {
                into.push(Block::Paragraph(format!("**{}**", one_line(&all.arguments))))
            }
            "container" | "class" | "rst-class" | "only" | "epigraph" | "highlights"
            | "pull-quote" | "compound" | "hlist" | "line-block" => {
                let lines = if piece.more.first().is_some_and(|line| line.is_empty()) {
                    all.content
                } else {
                    &piece.more
                };
                let body = self.blocks(without_blanks(lines), depth + 1);
                into.push(Block::Group(body));
            }
            "table" => self.captioned(&all, depth, into),
            "csv-table" => into.push(Block::Table(self.csv(&all, depth))),
            "list-table" => self.list_table(&all, depth, into),
            _ if SILENT.contains(&name) => (),
            _ => {
                let lines = std::iter::once(piece.first).chain(piece.more.iter().copied());
                into.push(Block::Literal(lines.collect::<Vec<_>>().join("\n")));
            }
        }
    }

    /// The blocks of a directive whose arguments are the beginning of its content.
    fn inside(&mut self, arguments: &str, piece: &Piece<'_>, depth: usize) -> Vec<Block> {
        let mut lines = vec![arguments];
        // Options of an admonition are of no interest.
        let is_option =
            |line: &&&str| [":class:", ":name:"].iter().any(|start| line.starts_with(start));
        let options = piece.more.iter().take_while(is_option).count();
        lines.extend(piece.more[options..].iter().copied());
        self.blocks(&lines, depth + 1)
    }

    fn version(
        &mut self,
        name: &str,
        arguments: &str,
        piece: &Piece<'_>,
        depth: usize,
        into: &mut Vec<Block>,
    ) {
        let (version, words) = arguments.split_once(' ').unwrap_or((arguments, ""));
        let said = match name {
            "versionadded" => "New in version",
            "versionchanged" => "Changed in version",
            _ => "Deprecated since version",
        };
        let mut body = self.inside(words, piece, depth);
        let words = format!("*{said} {version}*");
        match body.first_mut() {
            Some(Block::Paragraph(text)) => *text = format!("{words}: {text}"),
            _ => body.insert(0, Block::Paragraph(words)),
        }
        into.push(Block::Group(body));
    }

    fn captioned(&mut self, parts: &Parts<'_>, depth: usize, into: &mut Vec<Block>) {
        let mut body = self.blocks(parts.content, depth + 1);
        if let Some(Block::Table(table)) = body.first_mut() {
            table.caption = one_line(&parts.arguments);
        }
        into.append(&mut body);
    }

    fn csv(&mut self, parts: &Parts<'_>, depth: usize) -> Table {
        let delimiter = match parts.option("delim") {
            Some("tab") => '\t',
            Some("space") => ' ',
            Some(other) => other.chars().next().unwrap_or(','),
            None => ',',
        };
        let mut rows =
            parts.option("header").map_or_else(Vec::new, |header| values(header, delimiter));
        let heads = parts.option("header-rows").and_then(|rows| rows.parse().ok()).unwrap_or(0)
            + rows.len();
        rows.extend(values(&parts.content.join("\n"), delimiter));
        let mut left = CELLS_MAX;
        let rows = rows.into_iter().take_while(|row| {
            let fits = row.len() <= left;
            left = left.saturating_sub(row.len());
            fits
        });
        let mut made: Vec<Vec<Cell>> = Vec::new();
        for row in rows {
            let cell = |text: String| {
                let lines: Vec<&str> = text.lines().map(str::trim).collect();
                Cell { columns: 1, rows: 1, body: self.blocks(&lines, depth + 1) }
            };
            made.push(row.into_iter().map(cell).collect());
        }
        let body = made.split_off(heads.min(made.len()));
        Table { caption: one_line(&parts.arguments), head: made, body }
    }

    /// A table written as a list of lists.
    fn list_table(&mut self, parts: &Parts<'_>, depth: usize, into: &mut Vec<Block>) {
        let mut blocks = self.blocks(parts.content, depth + 1);
        let Some(Block::Bullets(rows)) = blocks.first_mut() else {
            into.append(&mut blocks);
            return;
        };
        let row = |mut item: Vec<Block>| match item.first_mut() {
            Some(Block::Bullets(cells)) => {
                let cell = |body| Cell { columns: 1, rows: 1, body };
                std::mem::take(cells).into_iter().map(cell).collect()
            }
            _ => vec![Cell { columns: 1, rows: 1, body: item }],
        };
        let mut head: Vec<Vec<Cell>> = std::mem::take(rows).into_iter().map(row).collect();
        let heads: usize =
            parts.option("header-rows").and_then(|rows| rows.parse().ok()).unwrap_or(0);
        let body = head.split_off(heads.min(head.len()));
        into.push(Block::Table(Table { caption: one_line(&parts.arguments), head, body }));
    }
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Rows of values with something between them; quoted ones may hold anything.
fn values(text: &str, delimiter: char) -> Vec<Vec<String>> {
    let mut rows = vec![Vec::new()];
    let mut value = String::new();
    let mut is_quoted = false;
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        if is_quoted {
            match c {
                '"' if chars.peek() == Some(&'"') => value.extend(chars.next()),
                '"' => is_quoted = false,
                _ => value.push(c),
            }
        } else if c == '"' && value.trim().is_empty() {
            value.clear();
            is_quoted = true;
        } else if c == delimiter || c == '\n' {
            rows.last_mut().expect("there is always one").push(std::mem::take(&mut value));
            if c == '\n' {
                rows.push(Vec::new());
            }
        } else {
            value.push(c);
        }
    }
    rows.last_mut().expect("there is always one").push(value);
    rows.retain(|row| row.iter().any(|value| !value.trim().is_empty()));
    rows
}

//! reStructuredText, as far as descriptions use it.
//!
//! Written here, since what there is for Rust either knows too little of the notation or reads files that a text names.
//! A text is read in two passes: first into blocks, with the targets, substitutions and footnotes that it defines, then
//! into HTML. Nothing is included from anywhere, and raw HTML is left out.

mod blocks;
mod directives;
mod explicit;
mod inline;
mod lists;
mod tables;
mod write;

use std::collections::{HashMap, HashSet};

use super::HTML_BYTES_MAX;

/// How deep blocks may stand in each other.
const DEPTH_MAX: usize = 24;
/// How many places a tab stands for, at most.
const TAB: usize = 8;

/// The HTML of a text, not yet safe; none if it would be too long.
pub(super) fn html(text: &str) -> Option<String> {
    let lines: Vec<String> = text.lines().map(plain_spaces).collect();
    let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
    let mut parser = Parser::default();
    let blocks = parser.blocks(&lines, 0);
    let mut writer = write::Writer::new(parser.defs);
    writer.blocks(&blocks);
    (writer.out.len() <= HTML_BYTES_MAX).then_some(writer.out)
}

/// A line with tabs as spaces and nothing at its end.
fn plain_spaces(line: &str) -> String {
    let mut plain = String::with_capacity(line.len());
    let mut column = 0;
    for c in line.trim_end().chars() {
        match c {
            '\t' => {
                let places = TAB - column % TAB;
                plain.extend(std::iter::repeat_n(' ', places));
                column += places;
            }
            '\u{b}' | '\u{c}' => plain.push(' '),
            _ => {
                plain.push(c);
                column += 1;
            }
        }
    }
    plain
}

/// A part of a description.
enum Block {
    Title {
        level: usize,
        text: String,
        id: String,
    },
    Paragraph(String),
    /// Text as it is.
    Literal(String),
    /// Text as it is, with markup within.
    Parsed(String),
    Quote(Vec<Block>),
    Bullets(Vec<Vec<Block>>),
    Numbers {
        kind: char,
        start: u64,
        items: Vec<Vec<Block>>,
    },
    Definitions(Vec<(String, Vec<Block>)>),
    Options(Vec<(String, Vec<Block>)>),
    Fields(Vec<(String, Vec<Block>)>),
    Lines(Vec<(usize, String)>),
    Table(Table),
    Admonition {
        class: &'static str,
        title: String,
        body: Vec<Block>,
    },
    Image(Image),
    Footnote {
        label: String,
        id: String,
        body: Vec<Block>,
    },
    Anchor(String),
    Rule,
    Contents(String),
    Group(Vec<Block>),
}

#[derive(Default)]
struct Table {
    caption: String,
    head: Vec<Vec<Cell>>,
    body: Vec<Vec<Cell>>,
}

struct Cell {
    columns: usize,
    rows: usize,
    body: Vec<Block>,
}

#[derive(Clone)]
struct Image {
    src: String,
    alt: String,
    target: Option<String>,
}

/// Where a reference leads.
#[derive(Clone)]
enum Target {
    Url(String),
    Place(String),
    Name(String),
}

/// What a substitution stands for.
#[derive(Clone)]
enum Substitute {
    Text(String),
    Image(Image),
}

/// What a text defines for use anywhere in it.
#[derive(Default)]
struct Defs {
    targets: HashMap<String, Target>,
    anonymous: Vec<Target>,
    substitutes: HashMap<String, Substitute>,
    /// Labels of footnotes, with their identifiers.
    footnotes: HashMap<String, String>,
    /// The numbered footnotes without a label, in order.
    auto_footnotes: Vec<String>,
    ids: HashSet<String>,
    titles: Vec<(usize, String, String)>,
}

impl Defs {
    /// An identifier for a name, unlike all others so far.
    fn id(&mut self, name: &str) -> String {
        let mut id = String::new();
        for c in name.chars().take(80) {
            if c.is_alphanumeric() {
                id.extend(c.to_lowercase());
            } else if !id.is_empty() && !id.ends_with('-') {
                id.push('-');
            }
        }
        let base = id.trim_end_matches('-').to_owned();
        let base = if base.is_empty() { "section".to_owned() } else { base };
        if self.ids.insert(base.clone()) {
            return base;
        }
        let unique = format!("{base}-{}", self.ids.len());
        self.ids.insert(unique.clone());
        unique
    }

    /// Where a name leads in the end.
    fn resolve(&self, name: &str) -> Option<&Target> {
        const HOPS_MAX: usize = 8;
        let mut target = self.targets.get(&normal(name))?;
        for _ in 0..HOPS_MAX {
            match target {
                Target::Name(next) => target = self.targets.get(next)?,
                _ => return Some(target),
            }
        }
        None
    }
}

/// Names are alike if they differ in case and spaces only.
fn normal(name: &str) -> String {
    name.split_whitespace().collect::<Vec<_>>().join(" ").to_lowercase()
}

/// Reads lines into blocks.
#[derive(Default)]
struct Parser {
    defs: Defs,
    /// The looks of titles, by level.
    styles: Vec<(char, bool)>,
    /// How many simple tables began and did not end.
    failed_tables: usize,
}

fn indent(line: &str) -> usize {
    line.len() - line.trim_start_matches(' ').len()
}

/// The lines without the indent that all have in common.
fn dedent<'a>(lines: &[&'a str]) -> Vec<&'a str> {
    let common = lines.iter().filter(|line| !line.is_empty()).map(|line| indent(line)).min();
    let common = common.unwrap_or(0);
    without_blanks(lines).iter().map(|line| line.get(common..).unwrap_or_default()).collect()
}

/// The lines without empty ones at the start and the end.
fn without_blanks<'a, 'b>(lines: &'b [&'a str]) -> &'b [&'a str] {
    let start = lines.iter().position(|line| !line.trim().is_empty()).unwrap_or(lines.len());
    let end = lines.iter().rposition(|line| !line.trim().is_empty()).map_or(start, |last| last + 1);
    &lines[start..end]
}

/// How many lines from `at` on are indented or empty, without the empty ones at the end.
fn indented(lines: &[&str], at: usize, least: usize) -> usize {
    let mut count = 0;
    for (number, line) in lines[at..].iter().enumerate() {
        if line.is_empty() {
            continue;
        }
        if indent(line) < least {
            break;
        }
        count = number + 1;
    }
    count
}

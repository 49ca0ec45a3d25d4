//! Tables: grids drawn with `+`, `-` and `|`, and simple ones between lines of `=`.

use std::collections::{BTreeSet, HashSet};

use super::{Block, Cell, Parser, Table, dedent};

/// The largest grid, in characters; larger ones are shown as they are.
const GRID_MAX: usize = 200_000;
/// How many steps along the lines of a grid are taken.
const STEPS_MAX: usize = 2_000_000;
/// How many beginnings of simple tables without an end are looked at.
const FAILED_MAX: usize = 50;
/// The most cells of a simple table.
const CELLS_MAX: usize = 50_000;
/// The most columns of a simple table.
const COLUMNS_MAX: usize = 200;

impl Parser {
    /// Reads a table that begins here, and says how many lines it has.
    pub(super) fn table(
        &mut self,
        lines: &[&str],
        at: usize,
        depth: usize,
        into: &mut Vec<Block>,
    ) -> Option<usize> {
        if is_grid_line(lines[at]) {
            let is_part = |line: &&&str| line.starts_with(['+', '|']);
            let count = lines[at..].iter().take_while(is_part).count();
            let drawn = &lines[at..at + count];
            let table = Grid::new(drawn)
                .and_then(|grid| grid.cells())
                .map(|cells| self.grid(drawn, cells, depth));
            into.push(table.map_or_else(|| Block::Literal(drawn.join("\n")), Block::Table));
            return Some(count);
        }
        let columns = columns(lines[at], '=').filter(|_| self.failed_tables < FAILED_MAX)?;
        let table = self.simple_table(lines, at, &columns, depth);
        self.failed_tables += usize::from(table.is_none());
        let (table, count) = table?;
        into.push(Block::Table(table));
        Some(count)
    }

    fn simple_table(
        &mut self,
        lines: &[&str],
        at: usize,
        columns: &[(usize, usize)],
        depth: usize,
    ) -> Option<(Table, usize)> {
        let is_rule = |line: &&str| {
            line.starts_with('=') && line.bytes().all(|byte| byte == b'=' || byte == b' ')
        };
        // The first rule, one below the head, and one at the end; the end is followed by an empty line.
        let mut rules = (at + 1..lines.len()).filter(|&line| is_rule(&lines[line]));
        let second = rules.next()?;
        let is_end = |line: usize| lines.get(line + 1).is_none_or(|next| next.is_empty());
        let last = if is_end(second) && second != at + 1 {
            second
        } else {
            rules.find(|&line| is_end(line))?
        };
        if CELLS_MAX < (last - at) * columns.len() {
            return None;
        }
        let head = if second == last { &[][..] } else { &lines[at + 1..second] };
        let body = if second == last { &lines[at + 1..last] } else { &lines[second + 1..last] };
        let head = self.simple_rows(head, columns, depth);
        let body = self.simple_rows(body, columns, depth);
        Some((Table { caption: String::new(), head, body }, last + 1 - at))
    }

    fn grid(&mut self, drawn: &[&str], cells: Cells, depth: usize) -> Table {
        let rows: Vec<Vec<char>> = drawn.iter().map(|line| line.chars().collect()).collect();
        let mut made: Vec<(usize, Vec<Cell>)> = Vec::new();
        for cell in cells.found {
            let text: Vec<String> = (cell.top + 1..cell.bottom)
                .map(|row| {
                    let end = cell.right.min(rows[row].len());
                    let start = (cell.left + 1).min(end);
                    rows[row][start..end].iter().collect::<String>().trim_end().to_owned()
                })
                .collect();
            let text: Vec<&str> = text.iter().map(String::as_str).collect();
            let between = |borders: &[usize], from: usize, to: usize| {
                borders.iter().filter(|&&border| from < border && border <= to).count().max(1)
            };
            let cell_made = Cell {
                columns: between(&cells.columns, cell.left, cell.right),
                rows: between(&cells.rows, cell.top, cell.bottom),
                body: self.blocks(&dedent(&text), depth + 1),
            };
            match made.last_mut().filter(|(top, _)| *top == cell.top) {
                Some((_, row)) => row.push(cell_made),
                None => made.push((cell.top, vec![cell_made])),
            }
        }
        let is_head = |top: usize| cells.head.is_some_and(|head| top < head);
        let (head, body): (Vec<_>, Vec<_>) = made.into_iter().partition(|(top, _)| is_head(*top));
        let rows = |rows: Vec<(usize, Vec<Cell>)>| rows.into_iter().map(|(_, row)| row).collect();
        Table { caption: String::new(), head: rows(head), body: rows(body) }
    }

    fn simple_rows(
        &mut self,
        lines: &[&str],
        columns: &[(usize, usize)],
        depth: usize,
    ) -> Vec<Vec<Cell>> {
        let mut rows: Vec<Vec<Vec<String>>> = Vec::new();
        let mut is_new = true;
        for line in lines {
            if line.is_empty() || self::columns(line, '-').is_some() {
                is_new = true;
                continue;
            }
            let chars: Vec<char> = line.chars().collect();
            let value = |at: usize| {
                let (start, end) = columns[at];
                let end =
                    if at + 1 == columns.len() { chars.len() } else { end.max(columns[at + 1].0) };
                let end = end.min(chars.len());
                chars[start.min(end)..end].iter().collect::<String>().trim_end().to_owned()
            };
            let values: Vec<String> = (0..columns.len()).map(value).collect();
            // A row goes on where its first column is empty.
            let goes_on = values[0].trim().is_empty() && !is_new;
            match rows.last_mut().filter(|_| goes_on) {
                Some(row) => row.iter_mut().zip(values).for_each(|(cell, value)| cell.push(value)),
                None => rows.push(values.into_iter().map(|value| vec![value]).collect()),
            }
            is_new = false;
        }
        let cell = |text: Vec<String>| {
            let text: Vec<&str> = text.iter().map(String::as_str).collect();
            Cell { columns: 1, rows: 1, body: self.blocks(&dedent(&text), depth + 1) }
        };
        let mut cell = cell;
        rows.into_iter().map(|row| row.into_iter().map(&mut cell).collect()).collect()
    }
}

/// The columns that a line of `=` or `-` draws, if it is one with at least one gap.
fn columns(line: &str, mark: char) -> Option<Vec<(usize, usize)>> {
    if !line.starts_with(mark) || !line.contains(' ') || line.chars().any(|c| c != mark && c != ' ')
    {
        return None;
    }
    let mut columns: Vec<(usize, usize)> = Vec::new();
    for (at, c) in line.chars().enumerate() {
        match columns.last_mut().filter(|(_, end)| *end == at) {
            Some((_, end)) if c == mark => *end += 1,
            _ if c == mark => columns.push((at, at + 1)),
            _ => (),
        }
    }
    (columns.len() <= COLUMNS_MAX).then_some(columns)
}

fn is_grid_line(line: &str) -> bool {
    4 <= line.len()
        && line.starts_with("+-")
        && line.ends_with('+')
        && line.chars().all(|c| "+-=".contains(c))
}

struct Rect {
    top: usize,
    left: usize,
    bottom: usize,
    right: usize,
}

struct Cells {
    found: Vec<Rect>,
    columns: Vec<usize>,
    rows: Vec<usize>,
    /// The line below the head.
    head: Option<usize>,
}

/// A drawn table.
struct Grid {
    chars: Vec<Vec<char>>,
    head: Option<usize>,
    width: usize,
}

impl Grid {
    fn new(lines: &[&str]) -> Option<Self> {
        let width = lines.iter().map(|line| line.chars().count()).max()?;
        if GRID_MAX < width * lines.len() || lines.len() < 3 || !is_grid_line(lines.last()?) {
            return None;
        }
        let mut head = None;
        let mut chars: Vec<Vec<char>> = Vec::new();
        for (number, line) in lines.iter().enumerate() {
            let mut row: Vec<char> = line.chars().collect();
            if line.starts_with("+=") && row.iter().all(|c| "+=".contains(*c)) && head.is_none() {
                head = Some(number);
                row.iter_mut().filter(|c| **c == '=').for_each(|c| *c = '-');
            }
            row.resize(width, ' ');
            chars.push(row);
        }
        Some(Self { chars, head, width })
    }

    fn at(&self, row: usize, column: usize) -> char {
        self.chars[row][column]
    }

    /// All cells in order; none if the drawing is not a table.
    fn cells(&self) -> Option<Cells> {
        let mut found = Vec::new();
        let mut steps = 0;
        // A table within a cell is not part of this one: only corners of cells lead to further cells.
        let mut corners = BTreeSet::from([(0, 0)]);
        let mut seen = HashSet::new();
        while let Some((top, left)) = corners.pop_first() {
            if !seen.insert((top, left)) {
                continue;
            }
            if let Some(rect) = self.cell(top, left, &mut steps)? {
                corners.extend([(top, rect.right), (rect.bottom, left)]);
                found.push(rect);
            }
        }
        let mut columns: Vec<usize> =
            found.iter().flat_map(|rect| [rect.left, rect.right]).collect();
        let mut rows: Vec<usize> = found.iter().flat_map(|rect| [rect.top, rect.bottom]).collect();
        for borders in [&mut columns, &mut rows] {
            borders.sort_unstable();
            borders.dedup();
        }
        (!found.is_empty()).then_some(Cells { found, columns, rows, head: self.head })
    }

    /// The smallest cell with this corner, if one closes; none at all once too many steps were taken.
    fn cell(&self, top: usize, left: usize, steps: &mut usize) -> Option<Option<Rect>> {
        for right in left + 1..self.width {
            *steps += 1;
            if STEPS_MAX < *steps {
                return None;
            }
            match self.at(top, right) {
                '-' => continue,
                '+' => (),
                _ => return Some(None),
            }
            for bottom in top + 1..self.chars.len() {
                *steps += 1;
                match self.at(bottom, right) {
                    '|' => continue,
                    '+' => (),
                    _ => break,
                }
                *steps += right - left + bottom - top;
                let is_closed = (left..=right).all(|column| "-+".contains(self.at(bottom, column)))
                    && (top..=bottom).all(|row| "|+".contains(self.at(row, left)))
                    && self.at(bottom, left) == '+';
                if is_closed {
                    return Some(Some(Rect { top, left, bottom, right }));
                }
            }
        }
        Some(None)
    }
}

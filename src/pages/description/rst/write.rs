//! Blocks into HTML.

use super::super::escape;
use super::{Block, Cell, Defs, HTML_BYTES_MAX, Image, Table, Target};

/// Writes blocks as HTML. It stops where there would be too much.
pub(super) struct Writer {
    pub(super) out: String,
    pub(super) defs: Defs,
    /// How many references without a name were met.
    pub(super) anonymous: usize,
    /// How many references to numbered footnotes without a label were met.
    pub(super) auto_footnotes: usize,
    /// How many substitutions the text that is written stands in.
    pub(super) substitutions: usize,
}

impl Writer {
    pub(super) fn new(defs: Defs) -> Self {
        Self { out: String::new(), defs, anonymous: 0, auto_footnotes: 0, substitutions: 0 }
    }

    pub(super) fn is_full(&self) -> bool {
        HTML_BYTES_MAX < self.out.len()
    }

    pub(super) fn text(&mut self, text: &str) {
        self.out.push_str(&escape(text));
    }

    pub(super) fn start_link(&mut self, href: &str) {
        self.out.push_str(&format!("<a href=\"{}\">", escape(href)));
    }

    pub(super) fn blocks(&mut self, blocks: &[Block]) {
        for block in blocks {
            if self.is_full() {
                return;
            }
            self.block(block);
        }
    }

    fn block(&mut self, block: &Block) {
        match block {
            Block::Title { level, text, id } => {
                let level = (level + 1).min(6);
                self.out.push_str(&format!("<h{level} id=\"{}\">", escape(id)));
                self.inline(text);
                self.out.push_str(&format!("</h{level}>\n"));
            }
            Block::Paragraph(text) => self.element("p", text),
            Block::Literal(text) => {
                self.out.push_str("<pre>");
                self.text(text);
                self.out.push_str("</pre>\n");
            }
            Block::Parsed(text) => self.element("pre", text),
            Block::Quote(body) => self.around("<blockquote>", body, "</blockquote>\n"),
            Block::Bullets(items) => self.items("<ul>", items, "</ul>\n"),
            Block::Numbers { kind, start, items } => {
                self.items(&format!("<ol type=\"{kind}\" start=\"{start}\">"), items, "</ol>\n");
            }
            Block::Definitions(terms) => self.terms(terms, "<dl>", Self::term),
            Block::Options(options) => self.terms(options, "<dl>", |writer, option| {
                writer.out.push_str("<code>");
                writer.text(option.trim());
                writer.out.push_str("</code>");
            }),
            Block::Fields(fields) => {
                self.terms(fields, "<dl class=\"fields\">", |writer, name| writer.inline(name));
            }
            Block::Lines(lines) => self.lines(lines),
            Block::Table(table) => self.table(table),
            Block::Admonition { class, title, body } => {
                self.out.push_str(&format!(
                    "<div class=\"admonition {class}\"><p class=\"admonition-title\">"
                ));
                self.inline(title);
                self.around("</p>", body, "</div>\n");
            }
            Block::Image(image) => {
                self.out.push_str("<p>");
                self.image(image, self.image_target(image).as_ref());
                self.out.push_str("</p>\n");
            }
            Block::Footnote { label, id, body } => {
                let start = format!(
                    "<div class=\"footnote\" id=\"{}\"><span>[{}]</span> ",
                    escape(id),
                    escape(label)
                );
                self.out.push_str(&start);
                self.item(body, true);
                self.out.push_str("</div>\n");
            }
            Block::Anchor(id) => self.out.push_str(&format!("<span id=\"{}\"></span>", escape(id))),
            Block::Rule => self.out.push_str("<hr>\n"),
            Block::Contents(title) => self.contents(title),
            Block::Group(body) => self.blocks(body),
        }
    }

    fn element(&mut self, tag: &str, text: &str) {
        self.out.push_str(&format!("<{tag}>"));
        self.inline(text);
        self.out.push_str(&format!("</{tag}>\n"));
    }

    fn around(&mut self, start: &str, body: &[Block], end: &str) {
        self.out.push_str(start);
        self.blocks(body);
        self.out.push_str(end);
    }

    fn items(&mut self, start: &str, items: &[Vec<Block>], end: &str) {
        let is_list = |block: &Block| matches!(block, Block::Bullets(_) | Block::Numbers { .. });
        let is_short = |item: &Vec<Block>| {
            item.iter().enumerate().all(|(at, block)| {
                is_list(block) || at == 0 && matches!(block, Block::Paragraph(_))
            })
        };
        let are_short = items.iter().all(is_short);
        self.out.push_str(start);
        for item in items {
            self.out.push_str("<li>");
            self.item(item, are_short);
            self.out.push_str("</li>\n");
        }
        self.out.push_str(end);
    }

    /// The blocks of an item, of which the first needs no element of its own if it is short.
    fn item(&mut self, item: &[Block], is_short: bool) {
        match item.split_first() {
            Some((Block::Paragraph(text), rest)) if is_short => {
                self.inline(text);
                self.blocks(rest);
            }
            _ => self.blocks(item),
        }
    }

    fn terms(
        &mut self,
        terms: &[(String, Vec<Block>)],
        start: &str,
        write: impl Fn(&mut Self, &str),
    ) {
        self.out.push_str(start);
        for (term, body) in terms {
            self.out.push_str("<dt>");
            write(self, term);
            self.out.push_str("</dt><dd>");
            self.item(body, body.len() == 1);
            self.out.push_str("</dd>\n");
        }
        self.out.push_str("</dl>\n");
    }

    fn term(&mut self, term: &str) {
        let mut parts = term.split(" : ");
        self.inline(parts.next().unwrap_or_default());
        for classifier in parts {
            self.out.push_str(" : <em>");
            self.inline(classifier);
            self.out.push_str("</em>");
        }
    }

    fn lines(&mut self, lines: &[(usize, String)]) {
        const SPACES_MAX: usize = 40;
        self.out.push_str("<p class=\"line-block\">");
        for (at, (indent, text)) in lines.iter().enumerate() {
            if at != 0 {
                self.out.push_str("<br>\n");
            }
            self.out.push_str(&"\u{a0}".repeat((*indent).min(SPACES_MAX)));
            self.inline(text);
        }
        self.out.push_str("</p>\n");
    }

    fn table(&mut self, table: &Table) {
        self.out.push_str("<table>");
        if !table.caption.is_empty() {
            self.out.push_str("<caption>");
            self.inline(&table.caption);
            self.out.push_str("</caption>");
        }
        for (rows, part, tag) in [(&table.head, "thead", "th"), (&table.body, "tbody", "td")] {
            if !rows.is_empty() {
                self.out.push_str(&format!("<{part}>"));
                rows.iter().for_each(|row| self.row(row, tag));
                self.out.push_str(&format!("</{part}>"));
            }
        }
        self.out.push_str("</table>\n");
    }

    fn row(&mut self, row: &[Cell], tag: &str) {
        self.out.push_str("<tr>");
        for cell in row {
            self.out.push_str(&format!(
                "<{tag} colspan=\"{}\" rowspan=\"{}\">",
                cell.columns, cell.rows
            ));
            self.item(&cell.body, cell.body.len() == 1);
            self.out.push_str(&format!("</{tag}>"));
        }
        self.out.push_str("</tr>\n");
    }

    pub(super) fn image(&mut self, image: &Image, target: Option<&Target>) {
        let href = target.and_then(|target| match target {
            Target::Url(url) => Some(url.clone()),
            Target::Place(id) => Some(format!("#{id}")),
            Target::Name(_) => None,
        });
        if let Some(href) = &href {
            self.start_link(href);
        }
        self.out.push_str(&format!(
            "<img src=\"{}\" alt=\"{}\">",
            escape(&image.src),
            escape(&image.alt)
        ));
        if href.is_some() {
            self.out.push_str("</a>");
        }
    }

    fn contents(&mut self, title: &str) {
        let titles = std::mem::take(&mut self.defs.titles);
        // The one title above all others is that of the text itself.
        let tops = titles.iter().filter(|(level, ..)| *level == 0).count();
        let top = usize::from(tops == 1 && 1 < titles.len() && titles[0].0 == 0);
        if titles.is_empty() {
            return;
        }
        self.out.push_str("<div class=\"contents\">");
        if !title.is_empty() {
            self.element("p", title);
        }
        let mut depth = 0;
        for (level, text, id) in &titles[top..] {
            let wanted = (level + 1 - top).min(depth + 1).min(6);
            while wanted <= depth {
                self.out.push_str("</li>");
                if wanted == depth {
                    break;
                }
                self.out.push_str("</ul>");
                depth -= 1;
            }
            if depth < wanted {
                self.out.push_str("<ul>");
                depth = wanted;
            }
            self.out.push_str("<li>");
            self.start_link(&format!("#{id}"));
            self.text(text);
            self.out.push_str("</a>");
        }
        self.out.push_str(&"</li></ul>".repeat(depth));
        self.out.push_str("</div>\n");
        self.defs.titles = titles;
    }
}

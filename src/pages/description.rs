//! Descriptions of releases, from what their authors wrote to HTML that is safe to show.
//!
//! Whatever the notation, the HTML that comes of it takes the same two steps: `tidy` makes it shallow and well-formed
//! and keeps only what a description needs, then a sanitiser that is maintained elsewhere looks at the result.

mod attributes;
mod markdown;
mod rst;
mod sanitise;
mod tidy;

use std::sync::Arc;

use quick_cache::Weighter;
use quick_cache::sync::Cache;

use crate::digest::Digest;

use super::escape;

/// The longest description that is rendered. Longer ones are shown as plain text, cut here.
pub const RENDERED_BYTES_MAX: usize = 512 << 10;
/// The most HTML that one description may become.
const HTML_BYTES_MAX: usize = 4 << 20;
/// What may be kept of rendered descriptions, in bytes.
const KEPT_BYTES_MAX: u64 = 32 << 20;
/// About how many descriptions that is.
const KEPT_ITEMS: usize = 2000;

/// What a description is written in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Notation {
    /// Markdown as GitHub extends it.
    Markdown,
    /// reStructuredText, which is meant where nothing is said.
    Rest,
    /// Plain text.
    Plain,
}

impl Notation {
    /// By `description_content_type`.
    pub fn of(content_type: &str) -> Self {
        let kind = content_type.split(';').next().unwrap_or_default().trim();
        match kind.to_ascii_lowercase().as_str() {
            "text/markdown" | "text/x-markdown" => Self::Markdown,
            "text/plain" => Self::Plain,
            _ => Self::Rest,
        }
    }
}

/// A description as it is shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rendered {
    /// HTML that is safe within a page of ours: headings from `h3` on, identifiers with `user-content-` before them.
    pub html: String,
    /// What the reader should know of it, if anything.
    pub note: Option<&'static str>,
}

impl Rendered {
    /// The text as it is, as far as it is shown at all.
    fn plain(text: &str, note: Option<&'static str>) -> Self {
        let end = text.floor_char_boundary(RENDERED_BYTES_MAX);
        let note = if end < text.len() {
            Some(
                "This description is too long to be shown whole. Its beginning follows as plain text.",
            )
        } else {
            note
        };
        Self { html: format!("<pre class=\"plain\">{}</pre>", escape(&text[..end])), note }
    }
}

/// Renders a description.
pub fn render(text: &str, notation: Notation) -> Rendered {
    let text = without_old_indent(text);
    if RENDERED_BYTES_MAX < text.len() || notation == Notation::Plain {
        return Rendered::plain(&text, None);
    }
    let html = match notation {
        Notation::Markdown => markdown::html(&text),
        _ => rst::html(&text),
    };
    let safe = html.and_then(|html| sanitise::clean(&html, notation == Notation::Rest));
    match safe {
        Some(html) => Rendered { html, note: None },
        None => Rendered::plain(
            &text,
            Some(
                "This description is nested too deeply to be rendered, so it follows as plain text.",
            ),
        ),
    }
}

/// Old build tools indented all lines but the first by eight places, as headers that go on do.
fn without_old_indent(text: &str) -> String {
    const INDENT: &str = "        ";
    let text = text.replace("\r\n", "\n").replace(['\r', '\0'], "\n");
    let mut rest = text.lines().skip(1).filter(|line| !line.trim().is_empty()).peekable();
    let is_old = rest.peek().is_some() && rest.all(|line| line.starts_with(INDENT));
    if !is_old || text.starts_with(' ') {
        return text;
    }
    let lines = text.lines().map(|line| line.strip_prefix(INDENT).unwrap_or(line));
    lines.collect::<Vec<_>>().join("\n")
}

#[derive(Clone)]
struct ByBytes;

impl Weighter<String, Arc<Rendered>> for ByBytes {
    fn weight(&self, key: &String, rendered: &Arc<Rendered>) -> u64 {
        (key.len() + rendered.html.len() + size_of::<Rendered>()) as u64
    }
}

/// Descriptions that were rendered before, by the digest of what they were made from.
pub struct Descriptions {
    kept: Cache<String, Arc<Rendered>, ByBytes>,
}

impl Default for Descriptions {
    fn default() -> Self {
        Self { kept: Cache::with_weighter(KEPT_ITEMS, KEPT_BYTES_MAX, ByBytes) }
    }
}

impl Descriptions {
    /// Whether the description was rendered before.
    pub fn has(&self, text: &str, content_type: &str) -> bool {
        self.kept.peek(&key(text, Notation::of(content_type))).is_some()
    }

    /// The description rendered now or before; who asks for the same at the same time waits for the first.
    pub fn get(&self, text: &str, content_type: &str) -> Arc<Rendered> {
        let notation = Notation::of(content_type);
        let made = || Ok::<_, std::convert::Infallible>(Arc::new(render(text, notation)));
        match self.kept.get_or_insert_with(&*key(text, notation), made) {
            Ok(rendered) => rendered,
        }
    }
}

fn key(text: &str, notation: Notation) -> String {
    format!("{notation:?} {}", Digest::of(text.as_bytes()).hex())
}

#[cfg(test)]
mod tests;

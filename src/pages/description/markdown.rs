//! Markdown, with what GitHub adds to it.

use pulldown_cmark::{Options, Parser, html::push_html};

/// How many lists and quotes may begin on one line. Each line after them may cost as many steps.
const CONTAINERS_MAX: usize = 50;

/// The HTML of a text, not yet safe; none if it is built to be slow.
pub(super) fn html(text: &str) -> Option<String> {
    if text.lines().any(|line| CONTAINERS_MAX < containers(line)) {
        return None;
    }
    let options = Options::ENABLE_TABLES
        | Options::ENABLE_STRIKETHROUGH
        | Options::ENABLE_TASKLISTS
        | Options::ENABLE_FOOTNOTES
        | Options::ENABLE_GFM;
    let mut html = String::with_capacity(text.len() * 2);
    // Raw HTML is passed on, since people use it for what Markdown lacks; it is taken apart afterwards.
    push_html(&mut html, Parser::new_ext(text, options));
    Some(html)
}

/// How many marks of quotes and list items a line begins with, at most.
fn containers(line: &str) -> usize {
    let start = line.split(|c: char| !(c.is_ascii_digit() || " \t>*+-.)".contains(c))).next();
    let start = start.unwrap_or_default();
    let quotes = start.bytes().filter(|&byte| byte == b'>').count();
    let items = start.split([' ', '\t', '>']).filter(|word| is_mark(word)).count();
    quotes + items
}

fn is_mark(word: &str) -> bool {
    matches!(word, "*" | "+" | "-")
        || word.strip_suffix(['.', ')']).is_some_and(|digits| {
            !digits.is_empty() && digits.len() <= 9 && digits.bytes().all(|b| b.is_ascii_digit())
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_of_lists_and_quotes_are_counted() {
        assert_eq!(containers("> > - 1. text - more"), 4);
        assert_eq!(containers(">>> x > y"), 3);
        assert_eq!(containers("text > - *"), 0);
        assert_eq!(containers("-----------"), 0);
        assert_eq!(html(&"- ".repeat(60)), None);
    }
}

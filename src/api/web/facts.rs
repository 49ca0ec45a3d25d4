//! What a release's record says of it, sorted for people and cut where it is too long.

use crate::pages::version::{Groups, Outside};
use crate::store::record::Dict;

/// Items of one list that are shown.
const ITEMS_MAX: usize = 200;
/// Characters of one text that are shown.
const TEXT_CHARS_MAX: usize = 400;
/// The longest address that is shown.
const ADDRESS_BYTES_MAX: usize = 2000;

/// A text in one line, cut; nothing where old tools had nothing to say.
fn short(text: &str) -> String {
    let mut short = text.split_whitespace().collect::<Vec<_>>().join(" ");
    if let Some((end, _)) = short.char_indices().nth(TEXT_CHARS_MAX) {
        short.truncate(end);
        short.push_str("...");
    }
    if short == "UNKNOWN" { String::new() } else { short }
}

fn text(record: &Dict, name: &str) -> String {
    record.text(name).map(short).unwrap_or_default()
}

/// What it says of itself in a line.
pub fn summary(record: &Dict) -> String {
    text(record, "summary")
}

/// Facts with a name each.
pub fn facts(record: &Dict) -> Vec<(&'static str, String)> {
    let text = |name: &str| text(record, name);
    let person = |name: &str, mail: &str| match (text(name), text(mail)) {
        (name, mail) if mail.contains('<') || name.is_empty() => {
            format!("{name} {mail}").trim().to_owned()
        }
        (name, mail) if mail.is_empty() => name,
        (name, mail) => format!("{name} <{mail}>"),
    };
    let license = match text("license_expression") {
        expression if !expression.is_empty() => expression,
        // Some put the whole text here.
        _ => short(record.text("license").unwrap_or_default().trim().lines().next().unwrap_or("")),
    };
    let facts = [
        ("Author", person("author", "author_email")),
        ("Maintainer", person("maintainer", "maintainer_email")),
        ("Licence", license),
        ("Python", text("requires_python")),
        ("Keywords", text("keywords")),
    ];
    facts.into_iter().filter(|(_, text)| !text.is_empty()).collect()
}

/// Lists of words with a name each, in groups.
pub fn lists(record: &Dict) -> Vec<(&'static str, Groups)> {
    let items = |name: &str| {
        let items = record.texts(name).into_iter().map(short);
        items.filter(|item| !item.is_empty()).take(ITEMS_MAX).collect::<Vec<_>>()
    };
    let together = |item: String| (String::new(), item);
    let requires = grouped(items("requires_dist"), |item| match extra(&item) {
        Some(extra) => (format!("With {extra}"), item),
        None => (String::new(), item),
    });
    let classifiers = grouped(items("classifiers"), |item| match item.split_once(" :: ") {
        Some((group, rest)) => (group.to_owned(), rest.to_owned()),
        None => (String::new(), item),
    });
    let lists = [
        ("Requires", requires),
        ("Extras", grouped(items("provides_extras"), together)),
        ("Classifiers", classifiers),
        ("Platforms", grouped(items("platform"), together)),
    ];
    lists.into_iter().filter(|(_, groups)| !groups.is_empty()).collect()
}

/// Items by group, both in the order in which they come.
fn grouped(items: Vec<String>, group: impl Fn(String) -> (String, String)) -> Groups {
    let mut groups = Groups::new();
    for (name, item) in items.into_iter().map(group) {
        match groups.iter_mut().find(|(known, _)| *known == name) {
            Some((_, items)) => items.push(item),
            None => groups.push((name, vec![item])),
        }
    }
    groups
}

/// The extra that a requirement belongs to.
fn extra(requirement: &str) -> Option<&str> {
    let (_, marker) = requirement.split_once(';')?;
    let (_, rest) = marker.split_once("extra")?;
    let rest = rest.trim_start().strip_prefix("==")?.trim_start();
    let quote = rest.chars().next().filter(|c| ['"', '\''].contains(c))?;
    rest[1..].split_once(quote).map(|(name, _)| name)
}

/// Links out.
pub fn outside(record: &Dict) -> Vec<Outside> {
    let mut links: Vec<Outside> = Vec::new();
    let mut add = |label: &str, address: &str| {
        let is_new = links.iter().all(|link| link.address != address);
        if is_new && !matches!(address, "" | "UNKNOWN") && address.len() <= ADDRESS_BYTES_MAX {
            links.push(Outside { label: short(label), address: address.to_owned() });
        }
    };
    for url in record.texts("project_urls").into_iter().take(ITEMS_MAX) {
        let (label, address) = url.split_once(',').unwrap_or((url, url));
        add(label.trim(), address.trim());
    }
    for (label, field) in [("Homepage", "home_page"), ("Download", "download_url")] {
        add(label, record.text(field).unwrap_or_default().trim());
    }
    links
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::codec::Value;

    fn texts(items: &[&str]) -> Value {
        Value::List(items.iter().map(|item| Value::from(*item)).collect())
    }

    fn group(name: &str, items: &[&str]) -> (String, Vec<String>) {
        (name.to_owned(), items.iter().map(|item| (*item).to_owned()).collect())
    }

    #[test]
    fn lists_are_sorted_for_people() {
        let mut record = Dict::new();
        record.set("classifiers", texts(&["A :: b", "C", "A :: d :: e", "UNKNOWN"]));
        let fast = ["y; extra == 'fast'", "z ; python_version<'3' and extra==\"fast\""];
        record.set("requires_dist", texts(&["x>1", fast[0], fast[1]]));
        let wanted = vec![
            ("Requires", vec![group("", &["x>1"]), group("With fast", &fast)]),
            ("Classifiers", vec![group("A", &["b", "d :: e"]), group("", &["C"])]),
        ];
        assert_eq!(lists(&record), wanted);
    }

    #[test]
    fn facts_are_told_in_a_line() {
        let mut record = Dict::new();
        record.set("license", "\n MIT  License\nPermission is hereby granted");
        record.set("author", "UNKNOWN");
        record.set("author_email", "a@b");
        record.set("keywords", "\u{e9} ".repeat(9999));
        let facts = facts(&record);
        assert_eq!(
            facts[..2],
            [("Author", "a@b".to_owned()), ("Licence", "MIT License".to_owned())]
        );
        assert_eq!(facts[2].1.chars().count(), TEXT_CHARS_MAX + 3);
    }

    #[test]
    fn links_are_told_once_and_bounded() {
        let mut record = Dict::new();
        let long = format!("L, https://h/{}", "x".repeat(ADDRESS_BYTES_MAX));
        record.set("project_urls", texts(&["Docs, https://h/d", "https://h/", &long]));
        record.set("home_page", "https://h/d");
        let found = outside(&record);
        let found: Vec<_> = found.iter().map(|l| (l.label.as_str(), l.address.as_str())).collect();
        assert_eq!(found, [("Docs", "https://h/d"), ("https://h/", "https://h/")]);
        record.set("classifiers", texts(&["x"; 999]));
        assert_eq!(lists(&record)[0].1[0].1.len(), ITEMS_MAX);
    }
}

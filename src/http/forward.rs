//! Which header fields pass from one hop to the next when a request is relayed (RFC 9110, 7.6.1).

use super::request::Headers;

/// Fields that belong to one connection.
const HOP_BY_HOP: [&str; 9] = [
    "connection",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "te",
    "trailer",
    "trailers",
    "transfer-encoding",
    "upgrade",
];

/// Fields of a request that the next hop's client makes anew: who is asked, how long the body is (passed beside the
/// body), and whether to wait before sending it.
const MADE_ANEW: [&str; 3] = ["host", "content-length", "expect"];

/// The fields of a client's request that the other server should see.
pub fn request(headers: &Headers) -> Headers {
    pass(headers, &MADE_ANEW)
}

/// The fields of the other server's answer that the client should see. `Content-Length` stays, for answers to HEAD.
pub fn response(headers: &Headers) -> Headers {
    pass(headers, &[])
}

fn pass(headers: &Headers, also_not: &[&str]) -> Headers {
    let named = named_by_connection(headers);
    let stays =
        |name: &str| !is_in(name, &HOP_BY_HOP) && !is_in(name, also_not) && !is_in(name, &named);
    Headers(headers.0.iter().filter(|(name, _)| stays(name)).cloned().collect())
}

/// What `Connection` names is for this hop only; `close` and `keep-alive` are no field names.
fn named_by_connection(headers: &Headers) -> Vec<&str> {
    let connections = headers.0.iter().filter(|(name, _)| name.eq_ignore_ascii_case("connection"));
    connections
        .flat_map(|(_, value)| value.split(','))
        .map(str::trim)
        .filter(|name| !name.is_empty() && !name.eq_ignore_ascii_case("close"))
        .collect()
}

fn is_in(name: &str, list: &[&str]) -> bool {
    list.iter().any(|n| n.eq_ignore_ascii_case(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(headers: &Headers) -> Vec<&str> {
        headers.0.iter().map(|(name, _)| name.as_str()).collect()
    }

    #[test]
    fn a_request_loses_what_belongs_to_its_connection() {
        let mut headers = Headers::default();
        for (name, value) in [
            ("Host", "replica"),
            ("Authorization", "Basic x"),
            ("X-Outside-Url", "http://o"),
            ("Connection", "close, X-Private"),
            ("connection", "keep-alive"),
            ("X-Private", "1"),
            ("Keep-Alive", "timeout=5"),
            ("Transfer-Encoding", "chunked"),
            ("TE", "trailers"),
            ("Content-Length", "5"),
            ("Content-Type", "text/plain"),
            ("Expect", "100-continue"),
            ("Proxy-Authorization", "Basic y"),
            ("Upgrade", "h2c"),
        ] {
            headers.push(name, value);
        }
        assert_eq!(names(&request(&headers)), ["Authorization", "X-Outside-Url", "Content-Type"]);
    }

    #[test]
    fn an_answer_keeps_its_length_and_its_repeated_fields() {
        let mut headers = Headers::default();
        for (name, value) in [
            ("Content-Length", "5"),
            ("Set-Cookie", "a"),
            ("Set-Cookie", "b"),
            ("Trailer", "x"),
            ("Connection", "close"),
            ("Close", "stays"),
        ] {
            headers.push(name, value);
        }
        assert_eq!(
            names(&response(&headers)),
            ["Content-Length", "Set-Cookie", "Set-Cookie", "Close"]
        );
    }
}

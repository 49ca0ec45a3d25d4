//! Which proxy a URL is asked through: the environment as requests and pip read it.

use std::env;

/// The proxies of the environment. Loopback is never asked through one.
#[derive(Debug, Default)]
pub(super) struct Proxies {
    http: Option<String>,
    https: Option<String>,
    /// Hosts that are asked directly.
    none_for: Vec<String>,
}

impl Proxies {
    /// Reads `HTTP_PROXY`, `HTTPS_PROXY`, `ALL_PROXY` and `NO_PROXY`, small letters first.
    pub(super) fn from_env() -> Self {
        let variable = |name: &str| {
            [name.to_ascii_lowercase(), name.to_owned()]
                .iter()
                .find_map(|name| env::var(name).ok().filter(|value| !value.is_empty()))
        };
        let all = variable("ALL_PROXY");
        let usable = |url: Option<String>| url.or_else(|| all.clone()).filter(|u| is_usable(u));
        Self {
            http: usable(variable("HTTP_PROXY")),
            https: usable(variable("HTTPS_PROXY")),
            none_for: split_hosts(&variable("NO_PROXY").unwrap_or_default()),
        }
    }

    /// Each proxy with the URL it was named by.
    pub(super) fn all(&self) -> impl Iterator<Item = (&str, ureq::Proxy)> {
        let urls = [&self.http, &self.https].into_iter().flatten();
        urls.filter_map(|url| Some((url.as_str(), ureq::Proxy::new(url).ok()?)))
    }

    /// The URL of the proxy to ask this one through; none for a direct connection.
    pub(super) fn for_url(&self, url: &str) -> Option<&str> {
        let (scheme, rest) = url.split_once("://")?;
        let proxy = if scheme.eq_ignore_ascii_case("https") { &self.https } else { &self.http };
        let proxy = proxy.as_deref()?;
        let authority = rest.split(['/', '?', '#']).next().unwrap_or(rest);
        let host = match authority.strip_prefix('[') {
            Some(v6) => v6.split(']').next().unwrap_or(v6),
            None => authority.split(':').next().unwrap_or(authority),
        };
        (!is_loopback(host) && !self.is_asked_directly(host, authority)).then_some(proxy)
    }

    fn is_asked_directly(&self, host: &str, authority: &str) -> bool {
        let (host, authority) = (host.to_ascii_lowercase(), authority.to_ascii_lowercase());
        self.none_for.iter().any(|entry| {
            let is_within = host.strip_suffix(entry.as_str()).is_some_and(|sub| sub.ends_with('.'));
            entry == "*" || host == *entry || authority == *entry || is_within
        })
    }
}

/// Socks is not built in, and ureq would panic over it.
fn is_usable(url: &str) -> bool {
    let is_usable = ureq::Proxy::new(url).is_ok_and(|p| {
        matches!(p.protocol(), ureq::ProxyProtocol::Http | ureq::ProxyProtocol::Https)
    });
    if !is_usable {
        log::warn!("a proxy variable of the environment names no http proxy; it is ignored");
    }
    is_usable
}

fn split_hosts(list: &str) -> Vec<String> {
    let hosts = list.split([',', ' ']).map(|host| host.trim().trim_start_matches("*."));
    hosts
        .map(|host| host.trim_start_matches('.').to_ascii_lowercase())
        .filter(|h| !h.is_empty())
        .collect()
}

fn is_loopback(host: &str) -> bool {
    host.eq_ignore_ascii_case("localhost")
        || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_proxy_goes_by_scheme_and_host() {
        let proxies = Proxies {
            http: Some("http://p1".to_owned()),
            https: Some("http://p2".to_owned()),
            none_for: split_hosts("internal.example, .Corp.example,h:8080 *.x.example"),
        };
        assert_eq!(proxies.for_url("http://host/x"), Some("http://p1"));
        assert_eq!(proxies.for_url("https://host:1/x"), Some("http://p2"));
        for direct in [
            "http://localhost:3141/",
            "http://127.0.0.9/",
            "http://[::1]:3141/+api",
            "https://internal.example/",
            "https://a.internal.example/",
            "http://corp.example",
            "http://b.corp.example?x",
            "http://h:8080/",
            "http://a.x.example/",
        ] {
            assert_eq!(proxies.for_url(direct), None, "{direct}");
        }
        assert_eq!(proxies.for_url("http://h:8081/"), Some("http://p1"));
        assert_eq!(proxies.for_url("http://notinternal.example/"), Some("http://p1"));
        let all = Proxies { none_for: split_hosts("*"), ..proxies };
        assert_eq!(all.for_url("http://host/x"), None);
    }

    #[test]
    fn socks_is_refused() {
        assert!(is_usable("http://user:pass@proxy:3128"));
        assert!(is_usable("proxy:3128"));
        assert!(!is_usable("socks5://proxy:1080"));
        assert!(!is_usable("::"));
    }
}

//! Where to listen: names and addresses to socket addresses.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs as _, UdpSocket};

use super::Refused;
use super::settings::Settings;

const HOST: &str = "localhost";
const PORT: u16 = 3141;

/// The addresses to listen on; none if only a unix socket was asked for.
///
/// # Errors
/// `Refused::Fatal` for a name without address, or `--listen` beside `--host` or `--port`.
pub fn addresses(settings: &Settings) -> Result<Vec<SocketAddr>, Refused> {
    let host = settings.text("host").unwrap_or_else(|| HOST.to_owned());
    let port = settings.number("port", PORT, 0)?;
    let is_default = host == HOST && port == PORT;
    // A variable or a plain line of the file can name several at once.
    let listen = settings.all("listen");
    let listen: Vec<&str> = listen.iter().flat_map(|item| item.split_whitespace()).collect();
    if !listen.is_empty() && !is_default {
        return Err(Refused::Fatal(
            "use either --listen or --host and --port, not both".to_owned(),
        ));
    }
    let mut found = Vec::new();
    if listen.is_empty() {
        if is_default && settings.text("unix-socket").is_some() {
            return Ok(found);
        }
        found = resolve(&host, port)?;
    }
    for item in listen {
        let (host, port) = split(item)?;
        found.extend(resolve(host, port)?);
    }
    let mut seen = Vec::new();
    found.retain(|address| {
        let is_new = !seen.contains(address) || address.port() == 0;
        seen.push(*address);
        is_new
    });
    Ok(found)
}

/// `host:port`, `[v6]:port`, `*:port`, `host` or `:port`.
fn split(item: &str) -> Result<(&str, u16), Refused> {
    let refuse = || Refused::Usage(format!("--listen: `{item}` is not HOST:PORT"));
    let (host, port) = match item.strip_prefix('[') {
        Some(rest) => {
            let (host, rest) = rest.split_once(']').ok_or_else(refuse)?;
            (
                host,
                if rest.is_empty() {
                    None
                } else {
                    Some(rest.strip_prefix(':').ok_or_else(refuse)?)
                },
            )
        }
        None => match item.rsplit_once(':') {
            Some((host, _)) if host.contains(':') => return Err(refuse()),
            Some((host, port)) => (host, Some(port)),
            None => (item, None),
        },
    };
    let port = port.map_or(Ok(PORT), str::parse).map_err(|_| refuse())?;
    Ok((if host.is_empty() { "*" } else { host }, port))
}

/// The addresses of one name, IPv4 first; of several only those that this machine has.
fn resolve(host: &str, port: u16) -> Result<Vec<SocketAddr>, Refused> {
    let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    if let Ok(ip) = host.parse::<IpAddr>() {
        return Ok(vec![SocketAddr::new(ip, port)]);
    }
    let mut found: Vec<SocketAddr> = if host == "*" {
        vec![(Ipv4Addr::UNSPECIFIED, port).into(), (Ipv6Addr::UNSPECIFIED, port).into()]
    } else {
        (host, port)
            .to_socket_addrs()
            .map_err(|e| Refused::Fatal(format!("cannot find an address for `{host}`: {e}")))?
            .collect()
    };
    found.sort_by_key(|address| address.is_ipv6());
    found.dedup();
    if 1 < found.len() {
        let usable: Vec<_> = found.iter().copied().filter(is_ours).collect();
        if !usable.is_empty() {
            found = usable;
        }
    }
    // Each address would get a port of its own, and no client could know that they belong together.
    if port == 0 {
        found.truncate(1);
    }
    Ok(found)
}

/// Whether this machine has the address: a name may stand for both kinds where only one is switched on.
fn is_ours(address: &SocketAddr) -> bool {
    UdpSocket::bind(SocketAddr::new(address.ip(), 0)).is_ok()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::super::file::Section;
    use super::super::options::Program;
    use super::*;

    fn listening(options: &[(&str, &str)]) -> Result<Vec<SocketAddr>, Refused> {
        let mut given = BTreeMap::<String, Vec<String>>::new();
        for (name, value) in options {
            given.entry(name.to_string()).or_default().push(value.to_string());
        }
        addresses(&Settings::new(Program::Serve, given, BTreeMap::new(), Section::default())?)
    }

    #[test]
    fn default_is_the_loopback_with_devpis_port() {
        let found = listening(&[]).unwrap();
        assert_eq!(found[0], "127.0.0.1:3141".parse().unwrap());
        assert!(found.iter().all(|address| address.ip().is_loopback() && address.port() == 3141));
    }

    #[test]
    fn several_listens_are_kept_in_order() {
        let found =
            listening(&[("listen", "127.0.0.1:1"), ("listen", "[::1]:2 127.0.0.3:3")]).unwrap();
        let texts: Vec<_> = found.iter().map(ToString::to_string).collect();
        assert_eq!(texts, ["127.0.0.1:1", "[::1]:2", "127.0.0.3:3"]);
    }

    #[test]
    fn star_is_every_interface() {
        let found = listening(&[("listen", "*:80")]).unwrap();
        assert_eq!(found[0], "0.0.0.0:80".parse().unwrap());
    }

    #[test]
    fn a_free_port_is_one_address() {
        assert_eq!(listening(&[("port", "0")]).unwrap().len(), 1);
    }

    #[test]
    fn a_unix_socket_alone_opens_no_port() {
        assert_eq!(listening(&[("unix-socket", "/run/x")]), Ok(vec![]));
        assert_eq!(
            listening(&[("unix-socket", "/run/x"), ("host", "127.0.0.1")]).unwrap().len(),
            1
        );
    }

    #[test]
    fn nonsense_is_refused() {
        assert!(matches!(
            listening(&[("listen", "127.0.0.1:1"), ("port", "5")]),
            Err(Refused::Fatal(_))
        ));
        assert!(matches!(listening(&[("port", "70000")]), Err(Refused::Usage(_))));
        for item in ["a:b", "::1:80", "[::1", "[::1]80"] {
            assert!(matches!(listening(&[("listen", item)]), Err(Refused::Usage(_))), "{item}");
        }
    }
}

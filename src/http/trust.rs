//! Whom a client trusts, and how it shows who it is: certificates from files. What is wrong with one is told in words,
//! with who is to blame and what to do.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use ureq::tls::{Certificate, ClientCert, PemItem, RootCerts, TlsConfig, parse_pem};

use crate::error::{Context, Error, Result};

/// Who names the file with trusted certificates; the order is that of Python's requests.
const CA_VARIABLES: [&str; 3] = ["REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE"];

/// Where certificates came from, for messages.
#[derive(Clone, Debug, Default)]
pub(super) struct Trust {
    /// The variable that named the authorities, and what it named; the system's own ones if none did.
    authorities: Option<(&'static str, PathBuf)>,
    /// The file with the certificate that is shown to servers.
    shown: Option<PathBuf>,
}

/// The settings for TLS: what the environment names, else what the system trusts, else what is compiled in.
pub(super) fn tls_config(client_cert: Option<&Path>) -> Result<(TlsConfig, Trust)> {
    let named = |name: &&'static str| Some((*name, env::var_os(name).filter(|v| !v.is_empty())?));
    let named = CA_VARIABLES.iter().find_map(named).map(|(name, path)| (name, PathBuf::from(path)));
    let roots = match &named {
        Some((_, path)) => named_roots(path)?,
        None => system_roots(),
    };
    let trust = Trust { authorities: named, shown: client_cert.map(Path::to_owned) };
    let client_cert = client_cert.map(read_client_cert).transpose()?;
    Ok((TlsConfig::builder().root_certs(roots).client_cert(client_cert).build(), trust))
}

impl Trust {
    /// What a failed handshake with the server at `origin` means; `None` if it was no matter of certificates.
    pub fn explain(&self, origin: &str, failure: &str) -> Option<String> {
        const PEER: &str = "invalid peer certificate: ";
        if let Some((_, why)) = failure.split_once(PEER) {
            return Some(self.explain_theirs(origin, why));
        }
        let (_, alert) = failure.split_once("received fatal alert")?;
        let alert = alert.to_lowercase();
        let is_about_ours = ["certificate", "unknownca", "unknown ca", "access"];
        is_about_ours.iter().any(|word| alert.contains(word)).then(|| self.explain_ours(origin))
    }

    /// What the page of a proxy means that refused a request for its certificate.
    pub fn explain_page(&self, origin: &str, page: &str) -> Option<String> {
        let page = page.to_lowercase();
        let is_about_ours = page.contains("ssl certificate") || page.contains("client certificate");
        is_about_ours.then(|| self.explain_ours(origin))
    }

    fn explain_theirs(&self, origin: &str, why: &str) -> String {
        let host = host_of(origin);
        if why.starts_with("UnknownIssuer") || why.contains("CaUsedAsEndEntity") {
            let trusted = match &self.authorities {
                Some((name, path)) => format!("those in {name}={} are", path.display()),
                None => "those of this system are".to_owned(),
            };
            return format!(
                "the certificate of {origin} comes from an authority that is not trusted here ({trusted}): name a \
                 file with that authority's certificate in REQUESTS_CA_BUNDLE or SSL_CERT_FILE, and have the server \
                 send the certificates in between"
            );
        }
        if why.starts_with("certificate not valid for name") || why.starts_with("NotValidForName") {
            let names: Vec<&str> = why.split('"').skip(3).step_by(2).collect();
            let names = if names.is_empty() { "another name".to_owned() } else { names.join(", ") };
            return format!(
                "the certificate of {origin} is for {names}, not for {host}: use a name that it holds in the URL (a \
                 replica's --master-url), or give the server a certificate for {host}"
            );
        }
        let is_early = why.contains("not valid yet") || why.contains("NotValidYet");
        if is_early || why.contains("expired") || why.contains("Expired") {
            let clock = httpdate::fmt_http_date(SystemTime::now());
            let what = if is_early { "is not valid yet" } else { "has expired" };
            let who = if is_early { "wait" } else { "have it renewed" };
            return format!(
                "the certificate of {origin} {what}: {who}, or set this machine's clock right, which says {clock} ({why})"
            );
        }
        format!("the certificate of {origin} cannot be accepted: {why}")
    }

    fn explain_ours(&self, origin: &str) -> String {
        match &self.shown {
            None => format!(
                "{origin} asks for a client certificate, and this node shows none: give --replica-cert, a file with a \
                 certificate and its key that the server accepts"
            ),
            Some(path) => format!(
                "{origin} does not accept the client certificate in {}: it has expired or comes from an authority that \
                 the server does not trust. Give --replica-cert another one, or have the server trust that authority",
                path.display()
            ),
        }
    }
}

/// The host of an origin, without the port.
fn host_of(origin: &str) -> &str {
    let host = origin.split_once("://").map_or(origin, |(_, rest)| rest);
    match host.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|b| b.is_ascii_digit()) => host,
        _ => host,
    }
}

fn named_roots(path: &Path) -> Result<RootCerts> {
    let files = if path.is_dir() { files_in(path)? } else { vec![path.to_owned()] };
    let mut certs = Vec::new();
    for file in &files {
        let items = read_pem(file)?;
        certs.extend(items.into_iter().filter_map(|item| match item {
            PemItem::Certificate(cert) => Some(cert),
            _ => None,
        }));
    }
    if certs.is_empty() {
        return Err(Error::invalid(format!("no certificate in {}", path.display())));
    }
    Ok(RootCerts::from(certs))
}

fn files_in(folder: &Path) -> Result<Vec<PathBuf>> {
    let doing = || format!("reading {}", folder.display());
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).context(doing)? {
        let path = entry.context(doing)?.path();
        if path.is_file() {
            files.push(path);
        }
    }
    Ok(files)
}

fn system_roots() -> RootCerts {
    let found = rustls_native_certs::load_native_certs();
    for error in &found.errors {
        log::warn!("a certificate of the system cannot be read: {error}");
    }
    if found.certs.is_empty() {
        return RootCerts::WebPki;
    }
    RootCerts::from(found.certs.iter().map(|cert| Certificate::from_der(cert).to_owned()))
}

fn read_client_cert(path: &Path) -> Result<ClientCert> {
    let (mut chain, mut key) = (Vec::new(), None);
    for item in read_pem(path)? {
        match item {
            PemItem::Certificate(cert) => chain.push(cert),
            PemItem::PrivateKey(found) => key = Some(found),
            _ => {}
        }
    }
    match key {
        Some(key) if !chain.is_empty() => Ok(ClientCert::new_with_certs(&chain, key)),
        _ => Err(Error::invalid(format!(
            "{} must hold a certificate and its private key",
            path.display()
        ))),
    }
}

fn read_pem(path: &Path) -> Result<Vec<PemItem<'static>>> {
    let unusable = |e: String| Error::invalid(format!("certificates in {}: {e}", path.display()));
    let bytes = fs::read(path).map_err(|e| unusable(e.to_string()))?;
    parse_pem(&bytes).collect::<std::result::Result<_, _>>().map_err(|e| unusable(e.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_failure_has_its_culprit_and_its_remedy() {
        let bare = Trust::default();
        let full = Trust {
            authorities: Some(("SSL_CERT_FILE", "/ca.pem".into())),
            shown: Some("/mine.pem".into()),
        };
        let peer = |why: &str| format!("io: invalid peer certificate: {why}");
        for (trust, failure, words) in [
            (&bare, peer("UnknownIssuer"), ["https://h:1", "of this system", "REQUESTS_CA_BUNDLE"]),
            (&full, peer("UnknownIssuer"), ["not trusted", "SSL_CERT_FILE=/ca.pem", "https://h:1"]),
            (
                &bare,
                peer(
                    "certificate not valid for name \"h\"; certificate is only valid for DnsName(\"a\") or DnsName(\"b\")",
                ),
                ["for a, b, not for h:", "--master-url", "https://h:1"],
            ),
            (&bare, peer("certificate expired: x"), ["has expired", "renewed", "clock"]),
            (&bare, peer("certificate not valid yet: x"), ["not valid yet", "wait", "clock"]),
            (&bare, peer("BadSignature"), ["cannot be accepted", "BadSignature", "https://h:1"]),
            (
                &bare,
                "io: received fatal alert: CertificateRequired".to_owned(),
                ["asks for a client certificate", "--replica-cert", "https://h:1"],
            ),
            (
                &full,
                "io: received fatal alert: UnknownCA".to_owned(),
                ["does not accept", "/mine.pem", "https://h:1"],
            ),
        ] {
            let said = trust.explain("https://h:1", &failure).expect("about certificates");
            assert!(words.iter().all(|word| said.contains(word)), "{failure}: {said}");
        }
        assert_eq!(bare.explain("https://h:1", "connection refused"), None);
        assert!(bare.explain_page("https://h", "No required SSL certificate was sent").is_some());
        assert_eq!(bare.explain_page("https://h", "Bad Request"), None);
    }
}

//! Whom a client trusts, and how it shows who it is: certificates from files.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};

use ureq::tls::{Certificate, ClientCert, PemItem, RootCerts, TlsConfig, parse_pem};

use crate::error::{Context, Error, Result};

/// Who names the file with trusted certificates; the order is that of Python's requests.
const CA_VARIABLES: [&str; 3] = ["REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE"];

/// The settings for TLS: what the environment names, else what the system trusts, else what is compiled in.
pub(super) fn tls_config(client_cert: Option<&Path>) -> Result<TlsConfig> {
    let named = CA_VARIABLES.iter().find_map(|name| env::var_os(name).filter(|v| !v.is_empty()));
    let roots = match named {
        Some(path) => named_roots(Path::new(&path))?,
        None => system_roots(),
    };
    let client_cert = client_cert.map(read_client_cert).transpose()?;
    Ok(TlsConfig::builder().root_certs(roots).client_cert(client_cert).build())
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

//! Commands for people to copy: how pip, uv, twine and devpi work with an index of this server.

use maud::{Markup, html};

use super::layout::Place;

/// A command with a label that says what it does; with script it has a button that copies it.
pub fn command(label: &str, text: &str) -> Markup {
    html! {
        p.quiet { (label) }
        div.command data-label=(label) { pre tabindex="0" aria-label=(label) { code { (text) } } }
    }
}

/// How to use an index.
pub fn of_index(place: &Place, index: &str, takes_uploads: bool) -> Markup {
    let url = format!("{}/{index}", place.base);
    html! {
        (command("Install with pip", &format!("{} {url}/+simple/ PACKAGE", pip(place))))
        (command("Install with uv", &format!("uv pip install --default-index {url}/+simple/ PACKAGE")))
        @if takes_uploads {
            (command("Upload with twine", &format!("twine upload --repository-url {url}/ dist/*")))
        }
        (command("Use with devpi", &format!("devpi use {url}")))
    }
}

/// How to install a project, or one version of it.
pub fn of_project(place: &Place, index: &str, project: &str, version: Option<&str>) -> Markup {
    let url = format!("{}/{index}/+simple/", place.base);
    // Projects' names are in normal form, and only versions that a shell reads as they are get here unquoted.
    let wanted = match version {
        Some(version) if version.bytes().all(is_plain) => format!("{project}=={version}"),
        Some(version) => format!("'{project}=={}'", version.replace('\'', "")),
        None => project.to_owned(),
    };
    html! {
        (command("Install with pip", &format!("{} {url} {wanted}", pip(place))))
        (command("Install with uv", &format!("uv pip install --default-index {url} {wanted}")))
    }
}

/// How pip is told the index that follows. It takes none without TLS from another machine unless told to trust it.
fn pip(place: &Place) -> String {
    let host = place.base.strip_prefix("http://").and_then(|rest| rest.split(['/', '?']).next());
    let host = host.map(|host| host.rsplit_once(':').map_or(host, |(name, _)| name));
    match host {
        Some(host) if !matches!(host, "localhost" | "127.0.0.1" | "[::1]") => {
            format!("pip install --trusted-host {host} --index-url")
        }
        _ => "pip install --index-url".to_owned(),
    }
}

/// Whether a shell takes a byte for what it is.
fn is_plain(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b".+-_".contains(&byte)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pip_is_told_to_trust_a_host_without_tls() {
        for (base, wanted) in [
            ("http://h:3141", "pip install --trusted-host h --index-url"),
            ("http://localhost:3141", "pip install --index-url"),
            ("https://h/pypi", "pip install --index-url"),
        ] {
            assert_eq!(pip(&Place { base: base.into(), ..Place::default() }), wanted);
        }
    }

    #[test]
    fn a_version_is_one_word_to_a_shell() {
        let place = Place { base: "https://h".into(), ..Place::default() };
        let text = |version| of_project(&place, "u/i", "p", Some(version)).into_string();
        assert!(text("1.0+l.1").contains("+simple/ p==1.0+l.1<"));
        assert!(text("1!2").contains("'p==1!2'<"));
        assert!(text("1;rm -rf'x").contains("'p==1;rm -rfx'<"));
    }
}

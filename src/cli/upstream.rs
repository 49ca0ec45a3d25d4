//! Which index `root/pypi` mirrors: the one that this machine's own pip uses. No public index is named in this code;
//! pip is asked.

use std::io::Read as _;
use std::process::{Command, Stdio};
use std::time::Duration;

use crossbeam_channel::bounded;

use crate::error::{Error, Result};
use crate::stop::spawn;

/// How long pip may think.
const PIP_TIMEOUT: Duration = Duration::from_secs(20);

/// The ways in which pip is installed.
const PIPS: &[&[&str]] =
    &[&["python3", "-m", "pip"], &["pip3"], &["pip"], &["python", "-m", "pip"]];
const PYTHONS: &[&str] = &["python3", "python"];
/// What an own configuration of pip falls back to.
const BUILT_IN: &str = "from pip._internal.models.index import PyPI; print(PyPI.simple_url)";

/// Finds the index that pip uses here.
///
/// # Errors
/// `Kind::Invalid` if there is no pip to ask, or what it says cannot be mirrored.
pub fn of_this_machine() -> Result<String> {
    find(std::env::var("PIP_INDEX_URL").ok(), &run)
}

fn find(variable: Option<String>, run: &dyn Fn(&[&str]) -> Option<String>) -> Result<String> {
    let asked = variable
        .filter(|url| !url.trim().is_empty())
        .or_else(|| {
            PIPS.iter()
                .find_map(|pip| run(&[pip, &["config", "get", "global.index-url"][..]].concat()))
        })
        .or_else(|| PYTHONS.iter().find_map(|python| run(&[python, "-c", BUILT_IN])));
    let Some(url) = asked else {
        return Err(Error::invalid(
            "there is no pip here to ask which index root/pypi should mirror: give --root-pypi-url URL, or \
             --no-root-pypi",
        ));
    };
    checked(url.trim()).ok_or_else(|| {
        Error::invalid(
            "the index that pip uses here is no plain http or https URL: give --root-pypi-url URL, or --no-root-pypi",
        )
    })
}

/// An address that can be mirrored: everybody who may see the index sees it, so no credentials.
fn checked(text: &str) -> Option<String> {
    let url = url::Url::parse(text).ok()?;
    let is_plain = matches!(url.scheme(), "http" | "https")
        && url.host().is_some()
        && url.username().is_empty()
        && url.password().is_none();
    is_plain.then(|| format!("{}/", text.trim_end_matches('/')))
}

/// Runs a command and gives what it prints; `None` if it fails, prints nothing or takes too long.
fn run(command: &[&str]) -> Option<String> {
    let (program, args) = command.split_first()?;
    let mut child = Command::new(program)
        .args(args)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .ok()?;
    let mut stdout = child.stdout.take()?;
    let (done, output) = bounded(1);
    let reader = spawn("pip", move || {
        let mut text = String::new();
        let read = stdout.read_to_string(&mut text);
        // Nobody listens any more if it took too long.
        let _ = done.send(read.ok().map(|_| text));
    });
    let text = reader.ok().and_then(|_| output.recv_timeout(PIP_TIMEOUT).ok()).flatten();
    if text.is_none() {
        // It may have ended by itself.
        let _ = child.kill();
    }
    let succeeded = child.wait().is_ok_and(|status| status.success());
    text.filter(|text| succeeded && !text.trim().is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_variable_counts_before_the_configuration_before_what_is_built_in() {
        let configured = |command: &[&str]| match command {
            ["pip3", "config", "get", key] => {
                (*key == "global.index-url").then(|| "http://conf/simple\n".to_owned())
            }
            ["python3", "-c", _] => Some("http://built/in/".to_owned()),
            _ => None,
        };
        let plain = |command: &[&str]| configured(command).filter(|_| command[0] != "pip3");
        let found = |variable: Option<&str>, run| find(variable.map(str::to_owned), run).unwrap();
        assert_eq!(found(Some("http://var/simple/"), &configured), "http://var/simple/");
        assert_eq!(found(Some(""), &configured), "http://conf/simple/");
        assert_eq!(found(None, &plain), "http://built/in/");
    }

    #[test]
    fn no_pip_is_an_error_that_says_what_to_give() {
        let error = find(None, &|_| None).unwrap_err();
        assert!(error.message.contains("--root-pypi-url"), "{error}");
    }

    #[test]
    fn credentials_and_folders_are_not_mirrored() {
        for url in ["https://me:secret@host/simple", "file:///wheels", "nonsense"] {
            let error = find(Some(url.to_owned()), &|_| None).unwrap_err();
            assert!(!error.message.contains("secret@"), "{error}");
        }
    }

    #[test]
    fn a_command_is_run_and_its_failure_is_no_answer() {
        assert_eq!(run(&["echo", "http://x"]).as_deref(), Some("http://x\n"));
        assert_eq!(run(&["false"]), None);
        assert_eq!(run(&["no-such-program-anywhere"]), None);
    }
}

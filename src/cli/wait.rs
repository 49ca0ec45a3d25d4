//! `twinpi wait`: asks a running node until it, or each replica that follows too, has a serial; the exit code says it.

use std::io::Read as _;
use std::time::Duration;

use argh::FromArgs;
use serde_json::Value as Json;

use crate::deadline::Deadline;
use crate::error::{Context as _, Error, Result};
use crate::http::client::{Client, ClientBody, ClientOptions, Timeouts};

/// How long is waited unless it is said.
const TIMEOUT_SECS: u64 = 30;
/// How long a node is asked at once; it waits no longer than five minutes.
const AT_ONCE: Duration = Duration::from_secs(240);
/// How much longer the answer may take than the node was told to wait.
const GRACE: Duration = Duration::from_secs(15);
/// The pause between two questions.
const PAUSE: Duration = Duration::from_millis(500);
const CONNECT: Duration = Duration::from_secs(10);
/// The most bytes of an answer that are read.
const ANSWER_BYTES_MAX: u64 = 4 << 20;

/// Waits until a node has a serial, for scripts that upload at one node and install at another.
#[derive(FromArgs, Debug)]
#[argh(
    subcommand,
    name = "wait",
    help_triggers("-h", "--help"),
    example = "{command_name} --serial 42 https://replica.example.org\n\
        {command_name} --serial 42 --nodes all --timeout 120 https://packages.example.org",
    note = "The serial is that of the header X-DEVPI-SERIAL in the answer to an upload.\n\
        The exit status is 0 if the serial is there, 5 if the time is over, 1 if the node cannot be asked."
)]
pub struct Wait {
    /// the serial to wait for
    #[argh(option)]
    serial: u64,
    /// one (the node that is asked; the default), or all: also each replica that follows the master
    #[argh(option, default = "\"one\".to_owned()")]
    nodes: String,
    /// seconds to wait at most (default: 30)
    #[argh(option, default = "TIMEOUT_SECS")]
    timeout: u64,
    /// print the node's answer as JSON
    #[argh(switch)]
    json: bool,
    /// the node's URL (default: TWINPI_URL)
    #[argh(positional)]
    url: Option<String>,
}

/// Waits, and says whether the serial came in time.
///
/// # Errors
/// `Kind::Invalid` for what is missing, or what the node refuses; that it cannot be reached.
pub fn run(wait: Wait) -> Result<bool> {
    if !["one", "all"].contains(&wait.nodes.as_str()) {
        return Err(Error::invalid(format!("--nodes is `one` or `all`, not `{}`", wait.nodes)));
    }
    let url = wait.url.or_else(|| std::env::var("TWINPI_URL").ok()).filter(|url| !url.is_empty());
    let url = url.ok_or_else(|| Error::invalid("say which node to ask: its URL, or TWINPI_URL"))?;
    let url = url.trim_end_matches('/');
    let client = Client::new(ClientOptions {
        user_agent: format!("twinpi-wait/{}", env!("CARGO_PKG_VERSION")),
        ..ClientOptions::default()
    })?;
    let deadline = Deadline::after(Duration::from_secs(wait.timeout));
    loop {
        let left = deadline.remaining().min(AT_ONCE);
        let secs = left.as_secs() + u64::from(0 < left.subsec_nanos());
        let (serial, nodes) = (wait.serial, &wait.nodes);
        let target = format!("{url}/+wait?serial={serial}&nodes={nodes}&timeout={secs}");
        let (is_there, result) = ask(&client, &target, left + GRACE)?;
        if !is_there && !deadline.is_past() {
            // More than a node waits at once, or one that answered early.
            std::thread::sleep(PAUSE.min(deadline.remaining()));
            continue;
        }
        match wait.json {
            true => println!("{result:#}"),
            false => println!("{}", described(serial, is_there, &result)),
        }
        return Ok(is_there);
    }
}

/// One question: whether the serial is there, and what the node tells.
fn ask(client: &Client, target: &str, patience: Duration) -> Result<(bool, Json)> {
    let timeouts = Timeouts { connect: CONNECT, response_head: patience, per_read: patience };
    let headers = [("Accept".to_owned(), "application/json".to_owned())];
    let answer = client.request("GET", target, &headers, ClientBody::None, timeouts)?;
    let (status, mut text) = (answer.status, Vec::new());
    let mut body = answer.body.take(ANSWER_BYTES_MAX);
    body.read_to_end(&mut text).map_err(Error::from).context(|| "reading the node's answer")?;
    let said: Json = serde_json::from_slice(&text).unwrap_or_default();
    match status {
        200 | 504 if said["result"].is_object() => Ok((status == 200, said["result"].clone())),
        _ => {
            let why = said["message"].as_str().unwrap_or("it does not seem to be a twinpi server");
            Err(Error::invalid(format!("the node answered {status}: {why}")))
        }
    }
}

/// A line for people.
fn described(serial: u64, is_there: bool, result: &Json) -> String {
    let has = match is_there {
        true => "is there",
        false => "is not there in time",
    };
    let nodes = result["nodes"].as_array().into_iter().flatten();
    let others = nodes.filter(|node| node["state"] != "has").map(|node| {
        let name = node["outside-url"].as_str().or(node["uuid"].as_str()).unwrap_or("a node");
        // What a node calls itself must not steer the terminal.
        format!("\n  {} {}", name.escape_debug(), node["state"].as_str().unwrap_or("?"))
    });
    format!("serial {serial} {has}; the node is at {}", result["node-serial"])
        + &others.collect::<String>()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_line_names_who_lacks_it() {
        let result = json!({"node-serial": 7, "nodes": [{"uuid": "a", "state": "has"},
            {"uuid": "b", "outside-url": "http://b\u{1b}", "state": "lacks"}, {"uuid": "c", "state": "away"}]});
        let line = described(7, false, &result);
        let wanted =
            "serial 7 is not there in time; the node is at 7\n  http://b\\u{1b} lacks\n  c away";
        assert_eq!(line, wanted);
        assert_eq!(
            described(3, true, &json!({"node-serial": 3})),
            "serial 3 is there; the node is at 3"
        );
    }

    #[test]
    fn what_is_typed_is_checked() {
        let parse = |args: &[&str]| Wait::from_args(&["twinpi wait"], args);
        assert!(parse(&["http://a"]).is_err(), "no serial");
        assert!(parse(&["--serial", "x", "http://a"]).is_err());
        let wait =
            parse(&["--serial", "4", "--nodes", "some", "http://a"]).expect("is typed rightly");
        assert_eq!(wait.timeout, 30);
        assert!(run(wait).is_err());
    }
}

//! Test results as tox writes them: JSON that somebody uploaded, read with care.

use serde_json::Value as Json;

/// The longest result that is read, in bytes.
pub const BYTES_MAX: u64 = 8 << 20;
/// Environments of one result that are shown.
const ENVIRONMENTS_MAX: usize = 100;
/// Commands of one environment that are shown.
const COMMANDS_MAX: usize = 100;
/// The longest output that is shown of one command, in characters.
const OUTPUT_CHARS_MAX: usize = 100_000;
/// The longest other text.
const TEXT_CHARS_MAX: usize = 300;

/// What ran in one environment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Environment {
    /// Its name, such as `py312`.
    pub name: String,
    /// The machine's name.
    pub host: String,
    /// The machine's kind.
    pub platform: String,
    /// Which Python.
    pub python: String,
    /// Whether all went well; `None` if nothing ran.
    pub is_passed: Option<bool>,
    /// What was run, in order.
    pub commands: Vec<Ran>,
}

/// One command.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ran {
    /// `setup` or `test`
    pub phase: &'static str,
    /// Command and arguments.
    pub command: String,
    /// What it printed; the end of it if that is long.
    pub output: String,
    /// Its exit code.
    pub code: Option<i64>,
}

/// Reads a result; `None` if it is none.
pub fn parse(bytes: &[u8]) -> Option<Vec<Environment>> {
    let result: Json = serde_json::from_slice(bytes).ok()?;
    let (host, platform) = (text(&result["host"]), text(&result["platform"]));
    let environments = result.get("testenvs")?.as_object()?;
    let read = |(name, environment): (&String, &Json)| {
        let python = &environment["python"];
        let commands: Vec<Ran> = ["setup", "test"]
            .into_iter()
            .flat_map(|phase| commands(phase, &environment[phase]))
            .take(COMMANDS_MAX)
            .collect();
        let is_good = |ran: &Ran| ran.code == Some(0);
        let has_tests = commands.iter().any(|ran| ran.phase == "test");
        let has_failed = !commands.iter().all(is_good);
        Environment {
            name: cut(name, TEXT_CHARS_MAX),
            host: host.clone(),
            platform: platform.clone(),
            python: text(&python["version"]),
            is_passed: (has_tests || has_failed).then_some(!has_failed),
            commands,
        }
    };
    Some(environments.iter().take(ENVIRONMENTS_MAX).map(read).collect())
}

fn commands(phase: &'static str, list: &Json) -> Vec<Ran> {
    let read = |ran: &Json| {
        let command = match &ran["command"] {
            Json::Array(words) => {
                words.iter().filter_map(Json::as_str).collect::<Vec<_>>().join(" ")
            }
            other => other.as_str().unwrap_or_default().to_owned(),
        };
        let code = match &ran["retcode"] {
            Json::String(text) => text.parse().ok(),
            other => other.as_i64(),
        };
        let output = ran["output"].as_str().unwrap_or_default();
        let over = output.chars().count().saturating_sub(OUTPUT_CHARS_MAX);
        let output = output.chars().skip(over).collect();
        Ran { phase, command: cut(&command, TEXT_CHARS_MAX), output, code }
    };
    list.as_array().map(|list| list.iter().map(read).collect()).unwrap_or_default()
}

fn text(value: &Json) -> String {
    cut(value.as_str().unwrap_or_default().lines().next().unwrap_or_default(), TEXT_CHARS_MAX)
}

fn cut(text: &str, chars_max: usize) -> String {
    text.chars().take(chars_max).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_result_of_tox_is_read() {
        let result = serde_json::json!({"host": "h", "platform": "linux", "testenvs": {
            "py312": {
                "python": {"version": "3.12.1 (main)\n[GCC]"},
                "setup": [{"command": ["pip", "install", "x"], "output": "ok", "retcode": "0"}],
                "test": [{"command": ["pytest"], "output": "1 failed", "retcode": "1"}],
            },
            "py313": {"test": [{"command": ["pytest"], "output": "", "retcode": 0}]},
            "lint": {},
        }});
        let read = parse(result.to_string().as_bytes()).expect("a result");
        let told: Vec<_> = read.iter().map(|e| (e.name.as_str(), e.is_passed)).collect();
        assert_eq!(told, [("py312", Some(false)), ("py313", Some(true)), ("lint", None)]);
        assert_eq!(read[0].python, "3.12.1 (main)");
        assert_eq!(
            (read[0].commands[0].command.as_str(), read[0].commands[1].code),
            ("pip install x", Some(1))
        );
    }

    #[test]
    fn what_is_no_result_is_none_and_odd_ones_do_no_harm() {
        for text in ["", "[]", "{}", "{\"testenvs\": []}", "{nonsense", &"[".repeat(10_000)] {
            assert_eq!(parse(text.as_bytes()), None, "{text}");
        }
        for text in [
            "{\"testenvs\": {\"a\": 1, \"b\": {\"test\": 3}, \"c\": {\"test\": [1, {\"command\": {}}]}}}",
            "{\"host\": [], \"testenvs\": {\"a\": {\"python\": 3, \"test\": [{\"retcode\": \"x\"}]}}}",
        ] {
            assert!(parse(text.as_bytes()).is_some(), "{text}");
        }
        let long = serde_json::json!({"testenvs": {"e": {"test": [{"output": "x".repeat(200_000) + "end"}]}}});
        let read = parse(long.to_string().as_bytes()).expect("a result");
        let output = &read[0].commands[0].output;
        assert_eq!((output.len(), output.ends_with("end")), (OUTPUT_CHARS_MAX, true));
    }
}

//! The rules of the house that a compiler does not know: the direction of layers, sizes, ASCII, and a map that is true.

#![expect(clippy::unwrap_used, reason = "a test ends where something is not as it should be")]

use std::fs;
use std::path::Path;

/// The layers from the bottom up. A module may use modules of lower layers only, and no siblings.
const LAYERS: &[&[&str]] = &[
    &["error", "deadline", "stop", "sync"],
    &["names", "digest", "serial", "config", "secret"],
    &["store", "http", "nodeinfo", "password"],
    &["model", "replication"],
    &["mirror", "transfer", "search", "pages", "maintenance"],
    &["api"],
    &["server"],
    &["cli"],
];

/// `stop` and `error` are the floor on which the rest of the lowest layer stands.
const FLOOR: &[(&str, &str)] = &[("stop", "deadline"), ("stop", "error"), ("stop", "sync")];

/// A file is read in one sitting.
const FILE_LINES_MAX: usize = 600;
/// A function is read without scrolling.
const FUNCTION_LINES_MAX: usize = 70;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// All files below `folder` that `wanted` takes, with their path from the root.
fn files(folder: &str, wanted: impl Fn(&str) -> bool + Copy) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut todo = vec![root().join(folder)];
    while let Some(path) = todo.pop() {
        if path.is_dir() {
            let entries = fs::read_dir(&path).unwrap();
            todo.extend(entries.map(|entry| entry.unwrap().path()).filter(|path| !is_made(path)));
        } else if wanted(path.file_name().unwrap().to_str().unwrap()) {
            let name = path.strip_prefix(root()).unwrap().to_str().unwrap().to_owned();
            found.push((
                name,
                fs::read_to_string(&path).unwrap_or_else(|e| panic!("{path:?}: {e}")),
            ));
        }
    }
    found.sort();
    found
}

/// What is made by running things, or is data rather than text.
fn is_made(path: &Path) -> bool {
    let name = path.file_name().unwrap().to_str().unwrap();
    path.is_dir() && ["__pycache__", "data", "target", "vectors"].contains(&name)
}

fn sources() -> Vec<(String, String)> {
    let found = files("src", |name| name.ends_with(".rs"));
    assert!(20 < found.len(), "the sources were not found");
    found
}

fn layer(module: &str) -> Option<usize> {
    LAYERS.iter().position(|layer| layer.contains(&module))
}

/// The modules that a line names as `crate::module`.
fn named(line: &str) -> Vec<&str> {
    let code = line.split("//").next().unwrap();
    let names = code.split("crate::").skip(1);
    names
        .map(|rest| rest.split(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap())
        .collect()
}

/// Why a line of `module` may not name `used`, if it may not.
fn objection(module: &str, used: &str) -> Option<String> {
    if module == used || FLOOR.contains(&(module, used)) {
        return None;
    }
    let Some(from) = layer(module) else { return Some(format!("{module} is in no layer")) };
    match layer(used) {
        None => Some(format!("`crate::{used}` is in no layer; name one module per `use`")),
        Some(to) if to < from => None,
        Some(_) => Some(format!("{module} may not use {used}")),
    }
}

#[test]
fn modules_use_lower_layers_only() {
    let mut wrong = Vec::new();
    for (name, text) in sources() {
        let module = name["src/".len()..].split(['/', '.']).next().unwrap();
        if ["lib", "main"].contains(&module) {
            continue;
        }
        for (number, line) in text.lines().enumerate() {
            let objections = named(line).into_iter().filter_map(|used| objection(module, used));
            wrong.extend(objections.map(|why| format!("{name}:{}: {why}", number + 1)));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn an_upward_use_is_found() {
    assert_eq!(named("use crate::api::App; // crate::never"), ["api"]);
    assert_eq!(named("    crate::store::x(crate::names::y)"), ["store", "names"]);
    assert!(objection("store", "api").is_some());
    assert!(objection("store", "http").is_some(), "siblings");
    assert!(objection("store", "").is_some(), "crate::{{a, b}}");
    assert!(objection("store", "names").is_none());
    assert!(objection("store", "store").is_none());
}

#[test]
fn files_are_short() {
    let mut all = sources();
    all.extend(files("tests", |name| name.ends_with(".rs") || name.ends_with(".py")));
    let sizes = all.iter().map(|(name, text)| (name, text.lines().count()));
    let long: Vec<_> = sizes.filter(|(_, lines)| FILE_LINES_MAX < *lines).collect();
    assert!(long.is_empty(), "over {FILE_LINES_MAX} lines: {long:?}");
}

/// The functions of a formatted file that are too long: from `fn` to the brace in the same column.
fn long_functions(text: &str) -> Vec<(usize, usize)> {
    let lines: Vec<&str> = text.lines().collect();
    let mut long = Vec::new();
    for (start, line) in lines.iter().enumerate() {
        let indent = line.len() - line.trim_start().len();
        let words: Vec<&str> = line.split_whitespace().take(4).collect();
        if !words.contains(&"fn")
            || line.trim_start().starts_with("//")
            || line.ends_with([';', '}'])
        {
            continue;
        }
        let is_end = |line: &&str| {
            line.len() - line.trim_start().len() == indent && line.trim_start().starts_with('}')
        };
        let length = lines[start..].iter().position(is_end).map_or(0, |end| end + 1);
        if FUNCTION_LINES_MAX < length {
            long.push((start + 1, length));
        }
    }
    long
}

#[test]
fn functions_are_read_without_scrolling() {
    let mut long = Vec::new();
    for (name, text) in sources() {
        let found = long_functions(&text);
        long.extend(found.iter().map(|(line, length)| format!("{name}:{line}: {length} lines")));
    }
    assert!(long.is_empty(), "over {FUNCTION_LINES_MAX} lines:\n{}", long.join("\n"));
}

#[test]
fn a_long_function_is_found() {
    let text = format!("mod m {{\n    fn f() {{\n{}    }}\n}}\n", "        x();\n".repeat(70));
    assert_eq!(long_functions(&text), [(2, 72)]);
}

#[test]
fn everything_is_ascii() {
    let mut all = sources();
    all.extend(files("tests", |name| !name.ends_with(".bin")));
    all.extend(files("scripts", |_| true));
    all.extend(files("docs", |name| !name.ends_with(".png")));
    all.extend(files(".ci", |_| true));
    for name in ["README.md", "ARCHITECTURE.md", "Makefile", "Cargo.toml"] {
        all.push((name.to_owned(), fs::read_to_string(root().join(name)).unwrap()));
    }
    let mut wrong = Vec::new();
    for (name, text) in all {
        let odd = text.lines().enumerate().find(|(_, line)| !line.is_ascii());
        wrong.extend(odd.map(|(number, line)| format!("{name}:{}: {line}", number + 1)));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// The paths between backticks that look like files of this project.
fn paths(text: &str) -> Vec<&str> {
    let folders = ["src/", "tests/", "docs/", "scripts/", ".ci/"];
    let quoted = text.split('`').skip(1).step_by(2);
    quoted.filter(|word| folders.iter().any(|folder| word.starts_with(folder))).collect()
}

#[test]
fn documents_name_files_that_exist() {
    let mut missing = Vec::new();
    for name in ["README.md", "ARCHITECTURE.md", "docs/OPERATIONS.md"] {
        let text = fs::read_to_string(root().join(name)).unwrap();
        // Blocks of code are set between backticks too, in threes.
        let named =
            paths(&text.replace("```", "")).into_iter().map(str::to_owned).collect::<Vec<_>>();
        assert!(name != "ARCHITECTURE.md" || 10 < named.len(), "{name} names no files");
        let gone =
            named.into_iter().filter(|path| !root().join(path.split(':').next().unwrap()).exists());
        missing.extend(gone.map(|path| format!("{name}: {path}")));
    }
    assert!(missing.is_empty(), "{}", missing.join("\n"));
}

#[test]
fn every_source_is_on_the_map() {
    let map = fs::read_to_string(root().join("ARCHITECTURE.md")).unwrap();
    let absent: Vec<_> = sources()
        .into_iter()
        .map(|(name, _)| name)
        .filter(|name| !map.contains(&format!("`{name}`")))
        .collect();
    assert!(absent.is_empty(), "not in ARCHITECTURE.md: {absent:?}");
}

#[test]
fn every_option_is_described() {
    let text = fs::read_to_string(root().join("docs/OPERATIONS.md")).unwrap();
    let names = twinpi::config::options::OPTIONS.iter().map(|opt| format!("--{}", opt.name));
    // The last character keeps `--listen` from standing for `--listen-more`.
    let is_there =
        |name: &str| [" ", "`", ","].iter().any(|end| text.contains(&format!("{name}{end}")));
    let absent: Vec<_> = names.filter(|name| !is_there(name)).collect();
    assert!(absent.is_empty(), "not in docs/OPERATIONS.md: {absent:?}");
}

#[test]
fn guarantees_name_tests_that_exist() {
    let text = fs::read_to_string(root().join("docs/GUARANTEES.md")).unwrap();
    let named: Vec<(&str, &str)> =
        text.split('`').skip(1).step_by(2).filter_map(|code| code.split_once("::")).collect();
    assert!(36 < named.len(), "{}", named.len());
    let is_missing = |(path, test): &&(&str, &str)| {
        let source = fs::read_to_string(root().join(path)).unwrap_or_default();
        !["fn", "def"].iter().any(|word| source.contains(&format!("{word} {test}(")))
    };
    let missing: Vec<_> = named.iter().filter(is_missing).collect();
    assert!(missing.is_empty(), "no such tests: {missing:?}");
}

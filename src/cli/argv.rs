//! The command line before it is parsed: which program was called, and its options in the one form that the parser
//! takes.

use crate::config::Refused;
use crate::config::options::{Opt, Program, Stand, Takes};
use crate::config::settings::Given;

/// What was called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Called {
    /// A program that this version has.
    Program(Program),
    /// The one that asks a running node, and has nothing to do with a folder or its options.
    Token,
    /// The one that asks a running node whether it has a serial.
    Wait,
    /// The one that writes files about a node that need not be there.
    GenConfig,
}

/// The programs: name as a subcommand, name as one of devpi's.
const PROGRAMS: &[(&str, &str, Called)] = &[
    ("serve", "devpi-server", Called::Program(Program::Serve)),
    ("init", "devpi-init", Called::Program(Program::Init)),
    ("gen-secret", "devpi-gen-secret", Called::Program(Program::GenSecret)),
    ("passwd", "devpi-passwd", Called::Program(Program::Passwd)),
    ("token", "", Called::Token),
    ("wait", "", Called::Wait),
    ("export", "devpi-export", Called::Program(Program::Export)),
    ("import", "devpi-import", Called::Program(Program::Import)),
    ("fsck", "devpi-fsck", Called::Program(Program::Fsck)),
    ("gen-config", "devpi-gen-config", Called::GenConfig),
    ("reindex", "devpi-clear-search-index", Called::Program(Program::Reindex)),
    ("promote", "", Called::Program(Program::Promote)),
    ("demote", "", Called::Program(Program::Demote)),
    ("follow", "", Called::Program(Program::Follow)),
    ("verify", "", Called::Program(Program::Verify)),
];

/// Finds the program that is called by the name of a file, as devpi's are.
pub fn by_file_name(name: &str) -> Option<Called> {
    PROGRAMS
        .iter()
        .find(|(_, theirs, _)| !name.is_empty() && *theirs == name)
        .map(|(_, _, called)| *called)
}

/// Finds the program that is called as a subcommand.
pub fn by_subcommand(name: &str) -> Option<Called> {
    PROGRAMS.iter().find(|(ours, ..)| *ours == name).map(|(_, _, called)| *called)
}

/// The subcommand's name of a program.
pub fn subcommand(program: Program) -> &'static str {
    let found = PROGRAMS.iter().find(|(_, _, called)| *called == Called::Program(program));
    found.map_or("", |(ours, ..)| ours)
}

/// Options in plain form.
#[derive(Debug, PartialEq, Eq)]
pub struct Plain {
    /// For the parser: `--name value`, each option once unless it may be repeated.
    pub args: Vec<String>,
    /// Options that do nothing here, to be warned about or refused.
    pub idle: Given,
}

/// Splits `--name=value`, keeps the last one of options that are given again, and takes out what the parser does not
/// know since it does nothing here.
///
/// # Errors
/// `Refused::Usage` for a switch with a value, or a value that is missing.
pub fn plain(program: Program, args: &[String]) -> Result<Plain, Refused> {
    let mut plain = Plain { args: Vec::new(), idle: Given::new() };
    let mut options: Vec<(&'static Opt, Option<String>)> = Vec::new();
    let mut rest = args.iter();
    while let Some(arg) = rest.next() {
        if arg == "--" {
            plain.args.push(arg.clone());
            plain.args.extend(rest.cloned());
            break;
        }
        let Some((opt, value)) = option(program, arg) else {
            plain.args.push(arg.clone());
            continue;
        };
        let value = match (opt.takes, value) {
            (Takes::Nothing, None) => None,
            (Takes::Nothing, Some(_)) => {
                return Err(Refused::Usage(format!("--{} takes no value", opt.name)));
            }
            (_, Some(value)) => Some(value),
            (_, None) => match rest.next() {
                Some(value) => Some(value.clone()),
                None => return Err(Refused::Usage(format!("--{} needs a value", opt.name))),
            },
        };
        if opt.takes != Takes::Many {
            options.retain(|(other, _)| other.name != opt.name);
        }
        options.push((opt, value));
    }
    let mut front = Vec::new();
    for (opt, value) in options {
        if opt.stand == Stand::Works {
            front.push(format!("--{}", opt.name));
            front.extend(value);
        } else {
            plain
                .idle
                .insert(opt.name.to_owned(), vec![value.unwrap_or_else(|| "true".to_owned())]);
        }
    }
    plain.args.splice(0..0, front);
    Ok(plain)
}

/// Reads an option that the program knows, with the value that is attached to it.
fn option(program: Program, arg: &str) -> Option<(&'static Opt, Option<String>)> {
    let (name, value) = match arg.split_once('=') {
        Some((name, value)) => (name, Some(value.to_owned())),
        None => (arg, None),
    };
    if let Some(value) = arg.strip_prefix("-c").filter(|_| !arg.starts_with("--")) {
        let value =
            Some(value.strip_prefix('=').unwrap_or(value)).filter(|value| !value.is_empty());
        return Opt::find(program, "configfile").map(|opt| (opt, value.map(str::to_owned)));
    }
    Opt::find(program, name.strip_prefix("--")?).map(|opt| (opt, value))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plainly(args: &[&str]) -> Result<Plain, Refused> {
        plain(Program::Serve, &args.iter().map(|arg| arg.to_string()).collect::<Vec<_>>())
    }

    #[test]
    fn values_may_be_attached() {
        let plain =
            plainly(&["--port=1", "--host", "a=b", "--root", "-cfile", "--outside-url="]).unwrap();
        let wanted =
            ["--port", "1", "--host", "a=b", "--configfile", "file", "--outside-url", "", "--root"];
        assert_eq!(plain.args, wanted);
    }

    #[test]
    fn the_last_one_counts_and_lists_grow() {
        let plain =
            plainly(&["--port", "1", "--listen=a:1", "--port=2", "--listen", "b:2"]).unwrap();
        assert_eq!(plain.args, ["--listen", "a:1", "--port", "2", "--listen", "b:2"]);
    }

    #[test]
    fn a_value_may_look_like_an_option() {
        let plain = plainly(&["--host", "--debug-macros"]).unwrap();
        assert_eq!(plain.args, ["--host", "--debug-macros"]);
        assert!(plain.idle.is_empty());
    }

    #[test]
    fn what_does_nothing_is_set_aside() {
        let plain = plainly(&["--debug-macros", "--keyfs-cache-size", "5"]).unwrap();
        assert!(plain.args.is_empty());
        assert_eq!(plain.idle.len(), 2);
    }

    #[test]
    fn missing_and_surplus_values_are_refused() {
        assert!(matches!(plainly(&["--port"]), Err(Refused::Usage(_))));
        assert!(matches!(plainly(&["--debug=yes"]), Err(Refused::Usage(_))));
    }

    #[test]
    fn programs_are_found_by_both_names() {
        assert_eq!(by_file_name("devpi-server"), Some(Called::Program(Program::Serve)));
        assert_eq!(by_subcommand("passwd"), Some(Called::Program(Program::Passwd)));
        assert_eq!(by_file_name("devpi-export"), by_subcommand("export"));
        assert_eq!(
            (by_file_name("twinpi"), by_file_name(""), by_subcommand("")),
            (None, None, None)
        );
        assert_eq!(subcommand(Program::GenSecret), "gen-secret");
    }
}

//! One look-up over command line, environment, file and default, in this order.

use std::collections::{BTreeMap, BTreeSet};
use std::str::FromStr;

use super::Refused;
use super::file::{Entry, Section};
use super::options::{OPTIONS, Opt, Program, Stand};

/// What was typed: option name to its values; a switch has the value `true`.
pub type Given = BTreeMap<String, Vec<String>>;

/// All layers of one program's options.
pub struct Settings {
    program: Program,
    given: Given,
    variables: BTreeMap<String, String>,
    section: Section,
    /// What the user should know, to be logged once the log runs.
    pub warnings: Vec<String>,
}

impl Settings {
    /// Lays the layers over each other and refuses options that this version does not have.
    ///
    /// # Errors
    /// `Refused::Fatal` for an option that is not supported.
    pub fn new(
        program: Program,
        given: Given,
        variables: BTreeMap<String, String>,
        section: Section,
    ) -> Result<Self, Refused> {
        let mut settings = Self { program, given, variables, section, warnings: Vec::new() };
        let unknown: BTreeSet<_> =
            settings.section.0.keys().filter(|key| !Opt::is_known(key)).cloned().collect();
        settings.warnings.extend(
            unknown.iter().map(|key| format!("unknown key `{key}` in the configuration file")),
        );
        for opt in OPTIONS.iter().filter(|opt| opt.of.contains(&program)) {
            settings.judge(opt)?;
        }
        Ok(settings)
    }

    fn judge(&mut self, opt: &Opt) -> Result<(), Refused> {
        let Some((values, place)) = self.place(opt.name) else { return Ok(()) };
        let is_off =
            opt.takes == super::options::Takes::Nothing && read_flag(&values) == Some(false);
        match opt.stand {
            Stand::Works => {}
            _ if is_off => {}
            Stand::Idle(why) => {
                self.warnings.push(format!("option --{} ({place}) has no effect: {why}", opt.name));
            }
            Stand::Missing(instead) => return Err(not_supported(opt.name, &place, instead)),
        }
        Ok(())
    }

    /// The values of an option and where they were given.
    fn place(&self, name: &str) -> Option<(Vec<String>, String)> {
        let opt = Opt::find(self.program, name)?;
        if let Some(values) = self.given.get(name) {
            return Some((values.clone(), "command line".to_owned()));
        }
        let variable = opt.variable();
        let old = (name == "serverdir").then(|| "DEVPI_SERVERDIR".to_owned());
        for variable in old.into_iter().chain([variable]) {
            if let Some(value) = self.variables.get(&variable).filter(|value| !value.is_empty()) {
                return Some((vec![value.clone()], format!("variable {variable}")));
            }
        }
        let values = match self.section.0.get(name)? {
            Entry::One(text) => vec![text.clone()],
            Entry::Many(texts) => texts.clone(),
            Entry::Fields(fields) => vec![joined(fields)],
        };
        Some((values, "configuration file".to_owned()))
    }

    /// All values of an option.
    pub fn all(&self, name: &str) -> Vec<String> {
        debug_assert!(Opt::is_known(name), "{name} is not in the table");
        self.place(name).map(|(values, _)| values).unwrap_or_default()
    }
    /// The value that counts; an empty one is as good as none.
    pub fn text(&self, name: &str) -> Option<String> {
        self.all(name).pop().filter(|value| !value.is_empty())
    }
    /// The value that counts, also if it is empty.
    pub fn text_or_empty(&self, name: &str) -> Option<String> {
        self.all(name).pop()
    }
    /// Whether a switch is on.
    ///
    /// # Errors
    /// `Refused::Usage` if its value is no yes or no.
    pub fn flag(&self, name: &str) -> Result<bool, Refused> {
        match self.place(name) {
            None => Ok(false),
            Some((values, place)) => read_flag(&values)
                .ok_or_else(|| Refused::Usage(format!("--{name} ({place}) must be yes or no"))),
        }
    }
    /// A number of at least `min`.
    ///
    /// # Errors
    /// `Refused::Usage` if it is none or smaller.
    pub fn number<N: FromStr + PartialOrd + std::fmt::Display>(
        &self,
        name: &str,
        default: N,
        min: N,
    ) -> Result<N, Refused> {
        let Some(text) = self.text(name) else { return Ok(default) };
        match text.trim().parse::<N>() {
            Ok(number) if min <= number => Ok(number),
            _ => {
                Err(Refused::Usage(format!("--{name}: `{text}` is not a number of at least {min}")))
            }
        }
    }
    /// The items of a list separated by commas.
    pub fn list(&self, name: &str) -> Vec<String> {
        let text = self.text(name).unwrap_or_default();
        text.split(',').map(str::trim).filter(|item| !item.is_empty()).map(str::to_owned).collect()
    }
}

fn not_supported(name: &str, place: &str, instead: &str) -> Refused {
    let hint = if instead.is_empty() { String::new() } else { format!("; {instead}") };
    Refused::Fatal(format!("option --{name} ({place}) is not supported yet{hint}"))
}

/// A mapping with `name` in the form of the command line: `name:key=value,...`.
fn joined(fields: &BTreeMap<String, String>) -> String {
    let name = fields.get("name").cloned().unwrap_or_default();
    let rest: Vec<_> = fields
        .iter()
        .filter(|(key, _)| *key != "name")
        .map(|(key, value)| format!("{key}={value}"))
        .collect();
    if rest.is_empty() { name } else { format!("{name}:{}", rest.join(",")) }
}

fn read_flag(values: &[String]) -> Option<bool> {
    match values.last()?.to_lowercase().as_str() {
        "y" | "yes" | "t" | "true" | "on" | "1" => Some(true),
        "n" | "no" | "f" | "false" | "off" | "0" => Some(false),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect()
    }
    fn given(pairs: &[(&str, &str)]) -> Given {
        pairs.iter().map(|(key, value)| (key.to_string(), vec![value.to_string()])).collect()
    }
    fn section(pairs: &[(&str, &str)]) -> Section {
        Section(
            pairs
                .iter()
                .map(|(key, value)| (key.to_string(), Entry::One(value.to_string())))
                .collect(),
        )
    }

    #[test]
    fn command_line_beats_environment_beats_file() {
        let layers = |typed, set| {
            let file = section(&[("port", "3")]);
            Settings::new(Program::Serve, given(typed), map(set), file).unwrap().text("port")
        };
        assert_eq!(layers(&[("port", "1")], &[("DEVPISERVER_PORT", "2")]).as_deref(), Some("1"));
        assert_eq!(layers(&[], &[("DEVPISERVER_PORT", "2")]).as_deref(), Some("2"));
        assert_eq!(layers(&[], &[("DEVPISERVER_PORT", "")]).as_deref(), Some("3"));
    }

    #[test]
    fn options_of_other_programs_are_left_alone() {
        let file = section(&[("port", "x"), ("trusted-proxy", "10.0.0.1")]);
        let settings = Settings::new(Program::Init, Given::new(), map(&[]), file).unwrap();
        assert_eq!(settings.number("port", 7u16, 0), Ok(7));
        assert!(settings.warnings.is_empty());
    }

    #[test]
    fn missing_options_are_refused_wherever_they_stand() {
        let why = |typed: &[_], set: &[_], file: &[_]| {
            Settings::new(Program::Serve, given(typed), map(set), section(file)).err()
        };
        for refused in [
            why(&[("debug-macros", "true")], &[], &[]),
            why(&[], &[("DEVPISERVER_DEBUG_MACROS", "1")], &[]),
            why(&[], &[], &[("debug-macros", "yes")]),
        ] {
            let Some(Refused::Fatal(text)) = refused else { panic!("{refused:?}") };
            assert!(
                text.contains("--debug-macros") && text.contains("not supported yet"),
                "{text}"
            );
        }
        assert_eq!(why(&[], &[], &[("debug-macros", "no")]), None);
    }

    #[test]
    fn idle_and_unknown_options_warn() {
        let file = section(&[("keyfs-cache-size", "5"), ("prot", "1")]);
        let settings = Settings::new(Program::Serve, Given::new(), map(&[]), file).unwrap();
        assert_eq!(settings.warnings.len(), 2, "{:?}", settings.warnings);
        assert!(settings.warnings[0].contains("`prot`"));
        assert!(settings.warnings[1].contains("--keyfs-cache-size"));
    }

    #[test]
    fn switches_read_yes_and_no_and_nothing_else() {
        let flag = |value| {
            let set = map(&[("DEVPISERVER_OFFLINE_MODE", value)]);
            Settings::new(Program::Serve, Given::new(), set, Section::default())
                .unwrap()
                .flag("offline-mode")
        };
        assert_eq!(flag("On"), Ok(true));
        assert_eq!(flag("0"), Ok(false));
        assert!(matches!(flag("maybe"), Err(Refused::Usage(_))));
    }

    #[test]
    fn serverdir_has_an_old_variable() {
        let set = map(&[("DEVPI_SERVERDIR", "/old")]);
        let settings =
            Settings::new(Program::Passwd, Given::new(), set, Section::default()).unwrap();
        assert_eq!(settings.text("serverdir").as_deref(), Some("/old"));
    }
}

//! The command line: from what was typed to a `Config`, a command, and an exit code.

pub mod args;
pub mod argv;
mod gen_config;
pub mod password;
pub mod token;
mod upkeep;
pub mod upstream;
pub mod wait;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use argh::{EarlyExit, FromArgs};

use crate::config::file::{self, Section};
use crate::config::options::Program;
use crate::config::settings::{Given, Settings};
use crate::config::{Config, Refused, RoleOption};
use crate::error::{Error, Result};
use crate::secret::Secret;
use crate::server::change::Change;
use crate::server::{self, InitOptions};

use args::{Command, Twinpi};
use argv::Called;

/// The version of devpi-server whose programs these are; printed when called by devpi's name.
const DEVPI_VERSION: &str = "6.20.3";

/// The exit code of `wait` for what did not come in time.
const TIME_OVER: u8 = 5;

/// How a run ended early.
enum Outcome {
    /// There was something to print, and no more.
    Printed(String),
    /// It failed, with this exit code and text.
    Failed(u8, String),
}

impl From<Refused> for Outcome {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::Usage(text) => {
                Self::Failed(2, format!("error: {text}\nRun with --help for more."))
            }
            Refused::Fatal(text) => Self::Failed(1, format!("fatal: {text}")),
            Refused::File(text) => {
                Self::Failed(4, format!("fatal: error in the configuration file {text}"))
            }
        }
    }
}

impl From<Error> for Outcome {
    fn from(error: Error) -> Self {
        Self::Failed(1, format!("fatal: {error}"))
    }
}

/// Runs the program that `argv` calls.
pub fn run(argv: impl IntoIterator<Item = OsString>) -> ExitCode {
    match try_run(argv) {
        Ok(()) => ExitCode::SUCCESS,
        Err(Outcome::Printed(text)) => {
            println!("{text}");
            ExitCode::SUCCESS
        }
        Err(Outcome::Failed(code, text)) => {
            eprintln!("{text}");
            ExitCode::from(code)
        }
    }
}

fn try_run(argv: impl IntoIterator<Item = OsString>) -> std::result::Result<(), Outcome> {
    let mut texts = Vec::new();
    for arg in argv {
        texts.push(
            arg.into_string()
                .map_err(|arg| Refused::Usage(format!("not valid UTF-8: {}", arg.display())))?,
        );
    }
    let name = texts.first().map_or("twinpi", |path| {
        Path::new(path).file_name().map_or("twinpi", |n| n.to_str().unwrap_or("twinpi"))
    });
    let (called, rest) = match argv::by_file_name(name) {
        Some(called) => (Some(called), &texts[1..]),
        None => match texts.get(1).and_then(|arg| argv::by_subcommand(arg)) {
            Some(called) => (Some(called), &texts[2..]),
            None => (None, texts.get(1..).unwrap_or_default()),
        },
    };
    match called {
        None => without_command(name, rest),
        Some(Called::Token) => {
            let shown = format!("{name} token");
            let token = token::Token::from_args(&[&shown], &token::split(rest)).map_err(early)?;
            start_log(false);
            Ok(token::run(token)?)
        }
        Some(Called::Wait) => {
            let shown = format!("{name} wait");
            let wait = wait::Wait::from_args(&[&shown], &token::split(rest)).map_err(early)?;
            start_log(false);
            waited(wait)
        }
        Some(Called::GenConfig) => {
            let is_devpis = argv::by_file_name(name).is_some();
            gen_config(
                &if is_devpis { name.to_owned() } else { format!("{name} gen-config") },
                rest,
            )
        }
        Some(Called::Program(program)) => {
            let shown = if argv::by_file_name(name).is_some() {
                name.to_owned()
            } else {
                format!("{name} {}", argv::subcommand(program))
            };
            start(program, &shown, rest)
        }
    }
}

/// Answers `--help`, `--version` and mistakes before a command.
fn without_command(name: &str, rest: &[String]) -> std::result::Result<(), Outcome> {
    let rest: Vec<&str> = rest.iter().map(String::as_str).collect();
    let twinpi = Twinpi::from_args(&[name], &rest).map_err(early)?;
    if twinpi.version {
        return Err(Outcome::Printed(format!("twinpi {}", env!("CARGO_PKG_VERSION"))));
    }
    let help =
        Twinpi::from_args(&[name], &["--help"]).err().map(|exit| exit.output).unwrap_or_default();
    Err(Outcome::Failed(2, help))
}

fn early(exit: EarlyExit) -> Outcome {
    let text = exit.output.trim_end().to_owned();
    match exit.status {
        Ok(()) => Outcome::Printed(text),
        Err(()) => Refused::Usage(text).into(),
    }
}

/// Reads the options of `program` and runs it.
fn start(program: Program, shown: &str, args: &[String]) -> std::result::Result<(), Outcome> {
    let plain = argv::plain(program, args)?;
    let rest: Vec<&str> = plain.args.iter().map(String::as_str).collect();
    let command = command(program, shown, &rest);
    let (mut given, operand) = match command.map_err(early)? {
        Command::Serve(serve) if serve.version => return Err(Outcome::Printed(version(shown))),
        Command::Serve(serve) => (serve.given(), None),
        Command::Init(init) => (init.given(), None),
        Command::GenSecret(gen_secret) => (gen_secret.given(), None),
        Command::Token(token) => return Ok(token::run(token)?),
        Command::Wait(wait) => return waited(wait),
        Command::GenConfig(_) => return gen_config(shown, args),
        Command::Passwd(passwd) => {
            let user = passwd.user.clone();
            (passwd.given(), user)
        }
        Command::Promote(promote) => (promote.given(), None),
        Command::Demote(demote) => (demote.given(), None),
        Command::Follow(follow) => {
            let url = follow.url.clone();
            (follow.given(), url)
        }
        Command::Export(export) => {
            let directory = export.directory.clone();
            (export.given(), directory)
        }
        Command::Import(import) => {
            let directory = import.directory.clone();
            (import.given(), directory)
        }
        Command::Fsck(fsck) => (fsck.given(), None),
        Command::Verify(verify) => (verify.given(), None),
        Command::Reindex(reindex) => (reindex.given(), None),
    };
    given.extend(plain.idle);
    let (settings, files) = read_settings(program, given)?;
    let config = Config::new(&settings)?;
    start_log(config.debug);
    if 1 < files.len() {
        log::warn!("several configuration files, of which the last one counts: {files:?}");
    }
    for warning in &settings.warnings {
        log::warn!("{warning}");
    }
    Ok(match program {
        Program::Serve => server::serve(config),
        Program::Init => {
            init_options(&settings, &config).and_then(|options| server::init(config, options))
        }
        Program::GenSecret => gen_secret(&settings, &config),
        Program::Passwd => passwd(config, operand),
        Program::Promote | Program::Demote | Program::Follow => {
            return change(program, &settings, &config, operand);
        }
        Program::Export | Program::Import => {
            return upkeep::transfer(program, &settings, config, operand);
        }
        Program::Reindex => server::upkeep::reindex(&config),
        Program::Fsck | Program::Verify => return upkeep::check(program, &settings, &config),
    }?)
}

/// What was typed of a program, by its options.
fn command(
    program: Program,
    shown: &str,
    rest: &[&str],
) -> std::result::Result<Command, EarlyExit> {
    match program {
        Program::Serve => args::Serve::from_args(&[shown], rest).map(Command::Serve),
        Program::Init => args::Init::from_args(&[shown], rest).map(Command::Init),
        Program::GenSecret => args::GenSecret::from_args(&[shown], rest).map(Command::GenSecret),
        Program::Passwd => args::Passwd::from_args(&[shown], rest).map(Command::Passwd),
        Program::Promote => args::Promote::from_args(&[shown], rest).map(Command::Promote),
        Program::Demote => args::Demote::from_args(&[shown], rest).map(Command::Demote),
        Program::Follow => args::Follow::from_args(&[shown], rest).map(Command::Follow),
        Program::Export => args::Export::from_args(&[shown], rest).map(Command::Export),
        Program::Import => args::Import::from_args(&[shown], rest).map(Command::Import),
        Program::Fsck => args::Fsck::from_args(&[shown], rest).map(Command::Fsck),
        Program::Verify => args::Verify::from_args(&[shown], rest).map(Command::Verify),
        Program::Reindex => args::Reindex::from_args(&[shown], rest).map(Command::Reindex),
    }
}

/// Waits; that the time is over has an exit code of its own.
fn waited(wait: wait::Wait) -> std::result::Result<(), Outcome> {
    match wait::run(wait)? {
        true => Ok(()),
        false => Err(Outcome::Failed(TIME_OVER, "the time is over".to_owned())),
    }
}

/// Reads the options of `serve` and writes files with them instead of running it.
fn gen_config(shown: &str, args: &[String]) -> std::result::Result<(), Outcome> {
    if args.iter().any(|arg| arg == "-h" || arg == "--help") {
        let help = args::GenConfig::from_args(&[shown], &["--help"]);
        return help.map(|_| ()).map_err(early);
    }
    let plain = argv::plain(Program::Serve, args)?;
    let rest: Vec<&str> = plain.args.iter().map(String::as_str).collect();
    let mut given = args::Serve::from_args(&[shown], &rest).map_err(early)?.given();
    given.extend(plain.idle);
    let (settings, files) = read_settings(Program::Serve, given)?;
    let config = Config::new(&settings)?;
    start_log(config.debug);
    for warning in &settings.warnings {
        log::warn!("{warning}");
    }
    Ok(gen_config::run(config, &plain.args, files.last())?)
}

/// Called by devpi's name the answer is devpi's version, which scripts compare.
fn version(shown: &str) -> String {
    if shown == "devpi-server" {
        DEVPI_VERSION.to_owned()
    } else {
        format!("twinpi {}", env!("CARGO_PKG_VERSION"))
    }
}

fn read_settings(
    program: Program,
    given: Given,
) -> std::result::Result<(Settings, Vec<PathBuf>), Refused> {
    let variables: BTreeMap<String, String> = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .filter(|(name, _)| name.starts_with("DEVPISERVER_") || name == "DEVPI_SERVERDIR")
        .collect();
    let named = given
        .get("configfile")
        .and_then(|values| values.last())
        .or_else(|| variables.get("DEVPISERVER_CONFIGFILE"))
        .filter(|path| !path.is_empty());
    let files = match named {
        Some(path) => vec![PathBuf::from(path)],
        None => file::found(&|name| std::env::var(name).ok()),
    };
    let section = match files.last() {
        Some(path) => Section::load(path)?,
        None => Section::default(),
    };
    Ok((Settings::new(program, given, variables, section)?, files))
}

/// What tiny_http logs are failures of accept, also the one by which it is stopped; `http` watches for the others.
const QUIET: &str = "tiny_http=off";

/// Starts the log on standard error; `RUST_LOG` counts before `--debug`.
fn start_log(debug: bool) {
    let level = if debug { "debug" } else { "info" };
    let filter = format!("{level},{QUIET}");
    env_logger::Builder::from_env(env_logger::Env::default().default_filter_or(filter)).init();
}

fn init_options(settings: &Settings, config: &Config) -> Result<InitOptions> {
    let flag = |name| settings.flag(name).map_err(|refused| Error::invalid(format!("{refused:?}")));
    let is_replica = match config.role {
        RoleOption::Auto => config.master_url.is_some(),
        role => role == RoleOption::Replica,
    };
    let mirrors = settings.text("root-pypi-url");
    let root_pypi = match mirrors {
        _ if is_replica || flag("no-root-pypi")? => None,
        Some(url) => Some(url),
        None => Some(upstream::of_this_machine()?),
    };
    Ok(InitOptions {
        root_password: settings.text_or_empty("root-passwd").unwrap_or_default(),
        root_password_hash: settings.text("root-passwd-hash"),
        root_pypi,
    })
}

fn gen_secret(settings: &Settings, config: &Config) -> Result<()> {
    let path = match &config.secretfile {
        Some(path) if settings.text("secretfile").is_some() => path,
        _ => return Err(Error::invalid("say where the secret file is: --secretfile FILE")),
    };
    if path.exists() {
        log::info!("checking the secret in {}", path.display());
    } else {
        Secret::generate()?.save(path)?;
        log::info!("wrote a new secret to {}", path.display());
    }
    Secret::load(path)?;
    log::info!("the secret file is in order");
    Ok(())
}

/// Changes the role of a node, or tells what that would cost.
fn change(
    program: Program,
    settings: &Settings,
    config: &Config,
    operand: Option<String>,
) -> std::result::Result<(), Outcome> {
    let missing = |what: &str| Refused::Usage(format!("say which node to follow: {what}"));
    let change = match program {
        Program::Promote if settings.flag("plan")? => Change::Plan,
        Program::Promote => Change::Promote { is_loss_accepted: settings.flag("accept-loss")? },
        Program::Demote => {
            Change::Demote(config.master_url.clone().ok_or_else(|| missing("--primary-url URL"))?)
        }
        _ => Change::Follow(operand.ok_or_else(|| missing("its URL"))?),
    };
    let done = server::change::run(config, &change)?;
    match settings.flag("json")? {
        true => println!("{:#}", done.json),
        false => println!("{}", done.text),
    }
    Ok(())
}

fn passwd(config: Config, user: Option<String>) -> Result<()> {
    let user = match user {
        Some(user) => user,
        None => password::ask_user()?,
    };
    let new = password::ask_new(&user)?;
    server::passwd(config, &user, &new)
}

//! `twinpi gen-config`: files for nginx and for what starts programs, made for the options of one node.

use std::fs;
use std::path::{Path, PathBuf};

use crate::config::Config;
use crate::config::options::{Opt, Program, Takes};
use crate::error::{Context as _, Error, Result};
use crate::pages::escape;

/// The folder that is written, below the current one; devpi's name for it.
const FOLDER: &str = "gen-config";

/// Who runs the node if nobody says so.
const USER: &str = "twinpi";

/// Options whose values are paths: a service is not started in the folder where the command was typed.
const PATHS: [&str; 6] = [
    "configfile",
    "serverdir",
    "secretfile",
    "unix-socket",
    "replica-file-search-path",
    "replica-cert",
];

/// Names below which units with `ProtectHome=yes` see nothing.
const HOMES: [&str; 3] = ["/home", "/root", "/run/user"];

/// Names below which units with `PrivateTmp=yes` have folders of their own.
const TEMPORARY: [&str; 2] = ["/tmp", "/var/tmp"];

const CRONTAB: &str = include_str!("gen_config/crontab");
const LAUNCHD: &str = include_str!("gen_config/launchd-macos.txt");
const NGINX: &str = include_str!("gen_config/nginx.conf");
const NGINX_CACHE: &str = include_str!("gen_config/nginx-cache.conf");
const NGINX_CACHED: &str = include_str!("gen_config/nginx-cached.conf");
const PLIST: &str = include_str!("gen_config/net.devpi.plist");
const SUPERVISOR: &str = include_str!("gen_config/supervisor-devpi.conf");
const SUPERVISORD: &str = include_str!("gen_config/supervisord.conf");
const SYSTEMD: &str = include_str!("gen_config/devpi.service");
const WINDOWS: &str = include_str!("gen_config/windows-service.txt");

/// What the files are made from.
struct Plan {
    /// The program and its arguments, each a word.
    words: Vec<String>,
    /// As whom it runs.
    user: String,
    config: Config,
}

/// Writes the folder and tells what is in it.
///
/// # Errors
/// A value that cannot stand in one of the files; a folder that cannot be written.
pub(super) fn run(config: Config, args: &[String], file: Option<&PathBuf>) -> Result<()> {
    let plan = Plan {
        words: words(args, &config, file)?,
        user: user(&|name| std::env::var(name).ok()),
        config,
    };
    if file.is_none() {
        log::info!("a file with the options is easier to keep than these files: see --configfile");
    }
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("DEVPISERVER_")) {
        log::warn!("{name} is set here, and will not be where the files are used");
    }
    let made = plan.files()?;
    let folder = Path::new(FOLDER);
    fs::create_dir_all(folder).map_err(Error::from).context(|| format!("making {FOLDER}"))?;
    for (name, text) in made {
        let path = folder.join(name);
        let doing = || format!("writing {}", path.display());
        fs::write(&path, text).map_err(Error::from).context(doing)?;
        println!("wrote {}", path.display());
    }
    Ok(())
}

/// The words that start the node: this program, and what was typed with its paths in full.
fn words(args: &[String], config: &Config, file: Option<&PathBuf>) -> Result<Vec<String>> {
    let program =
        std::env::current_exe().map_err(Error::from).context(|| "finding this program")?;
    let absolute = |path: &Path| -> Result<String> {
        let path = std::path::absolute(path).map_err(Error::from).context(|| "finding a folder")?;
        path.into_os_string()
            .into_string()
            .map_err(|path| Error::invalid(format!("not valid UTF-8: {}", path.display())))
    };
    let mut words = vec![absolute(&program)?, "serve".to_owned()];
    if let Some(file) = file {
        words.extend(["--configfile".to_owned(), absolute(file)?]);
    }
    words.extend(["--serverdir".to_owned(), absolute(&config.serverdir)?]);
    let mut rest = args.iter();
    while let Some(arg) = rest.next() {
        let name = arg.trim_start_matches("--");
        let Some(opt) = Opt::find(Program::Serve, name) else {
            return Err(Error::invalid(format!("not an option of serve: {arg}")));
        };
        let value = match opt.takes {
            Takes::Nothing => None,
            _ => rest.next(),
        };
        if matches!(name, "configfile" | "serverdir") {
            continue;
        }
        words.push(arg.clone());
        words.extend(match value {
            Some(path) if PATHS.contains(&name) && !path.starts_with('~') => {
                Some(absolute(Path::new(path))?)
            }
            value => value.cloned(),
        });
    }
    if let Some(odd) = words.iter().find(|word| word.chars().any(char::is_control)) {
        return Err(Error::invalid(format!("cannot stand in these files: {odd:?}")));
    }
    Ok(words)
}

/// Who types this, by the variables that tell it.
fn user(variable: &dyn Fn(&str) -> Option<String>) -> String {
    let is_plain = |name: &String| {
        !name.is_empty()
            && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.'))
    };
    let names = ["LOGNAME", "USER", "LNAME", "USERNAME"];
    names.iter().find_map(|name| variable(name).filter(is_plain)).unwrap_or_else(|| USER.to_owned())
}

impl Plan {
    fn files(&self) -> Result<Vec<(&'static str, String)>> {
        let line = joined(&self.words, for_shell);
        let log = self.config.serverdir.with_extension("log");
        let crontab = fill(
            CRONTAB,
            &[
                ("command", &line.replace('%', "\\%")),
                ("log", &for_shell(&log.display().to_string()).replace('%', "\\%")),
            ],
        );
        let arguments =
            self.words.iter().map(|word| format!("        <string>{}</string>\n", escape(word)));
        let supervisor = [("command", line.replace('%', "%%")), ("user", self.user.clone())];
        let supervisor = supervisor.each_ref().map(|(name, value)| (*name, value.as_str()));
        Ok(vec![
            ("crontab", crontab),
            ("devpi.service", self.unit()),
            ("launchd-macos.txt", fill(LAUNCHD, &[("user", &self.user)])),
            ("net.devpi.plist", fill(PLIST, &[("arguments", &arguments.collect::<String>())])),
            ("nginx-devpi.conf", self.nginx(false)?),
            ("nginx-devpi-caching.conf", self.nginx(true)?),
            ("supervisor-devpi.conf", fill(SUPERVISOR, &supervisor)),
            ("supervisord.conf", SUPERVISORD.to_owned()),
            ("windows-service.txt", fill(WINDOWS, &[("command", &line)])),
        ])
    }

    /// The unit for systemd. What it protects leaves the node its own folders.
    fn unit(&self) -> String {
        let config = &self.config;
        let socket = config.unix_socket.as_deref().and_then(Path::parent);
        let read = [&config.secretfile, &config.replica_cert, &config.replica_file_search_path];
        let written = || [Some(config.serverdir.as_path()), socket].into_iter().flatten();
        let program = Path::new(&self.words[0]);
        let used =
            || written().chain(read.into_iter().flatten().map(PathBuf::as_path)).chain([program]);
        let yes_unless = |folders: &[&str]| {
            let is_below = |path: &Path| folders.iter().any(|folder| path.starts_with(folder));
            if used().any(is_below) { "no" } else { "yes" }
        };
        let writable: Vec<String> = written().map(|path| path.display().to_string()).collect();
        fill(
            SYSTEMD,
            &[
                ("user", &self.user),
                ("command", &joined(&self.words, |word| for_systemd(word).replace('$', "$$"))),
                ("writable", &joined(&writable, for_systemd)),
                ("home", yes_unless(&HOMES)),
                ("tmp", yes_unless(&TEMPORARY)),
            ],
        )
    }

    /// A server of nginx that passes on to the node; it may keep files.
    fn nginx(&self, is_caching: bool) -> Result<String> {
        let outside = self.config.outside_url.as_deref().unwrap_or("http://localhost:80");
        let url =
            url::Url::parse(outside).map_err(|e| Error::invalid(format!("--outside-url: {e}")))?;
        let host = for_nginx(url.host_str().unwrap_or("localhost"))?;
        let path = for_nginx(url.path().trim_end_matches('/'))?;
        let port = url.port_or_known_default().unwrap_or(80);
        let listen = match url.scheme() {
            "https" => format!(
                "    listen {port} ssl;\n    ssl_certificate     /etc/nginx/{host}.pem;\n    ssl_certificate_key /etc/nginx/{host}.pem;\n"
            ),
            _ => format!("    listen {port};\n"),
        };
        let expiry = self.config.mirror_cache_expiry.as_secs().to_string();
        let rewrite = match path.as_str() {
            "" => String::new(),
            path => format!("        rewrite ^{path}(/.*)$ $1 break;\n"),
        };
        let name = "twinpi_node";
        let cached = fill(
            NGINX_CACHED,
            &[("path", &path), ("expiry", &expiry), ("rewrite", &rewrite), ("name", name)],
        );
        let or_empty = |text: String| if is_caching { text } else { String::new() };
        Ok(fill(
            NGINX,
            &[
                ("cache", &or_empty(fill(NGINX_CACHE, &[("expiry", &expiry)]))),
                ("cached", &or_empty(cached)),
                ("name", name),
                ("upstream", &self.upstream()?),
                ("host", &host),
                ("listen", &listen),
                ("body", &self.config.body_bytes_max.to_string()),
                ("outside", &format!("$scheme://$http_host{path}")),
                ("path", &path),
                ("strip", if path.is_empty() { "" } else { "/" }),
            ],
        ))
    }

    /// Where nginx, on the same machine, reaches the node.
    fn upstream(&self) -> Result<String> {
        if let Some(socket) = &self.config.unix_socket {
            return for_nginx(&format!("unix:{}", socket.display()));
        }
        let mut address = *self
            .config
            .listen
            .first()
            .ok_or_else(|| Error::invalid("the node listens nowhere"))?;
        if address.ip().is_unspecified() {
            address.set_ip(match address.is_ipv4() {
                true => std::net::Ipv4Addr::LOCALHOST.into(),
                false => std::net::Ipv6Addr::LOCALHOST.into(),
            });
        }
        Ok(address.to_string())
    }
}

/// A template with its places filled; each is `@name@`, and what fills one is not looked into.
fn fill(template: &str, values: &[(&str, &str)]) -> String {
    let mut text = String::new();
    let mut rest = template;
    while let Some((before, after)) = rest.split_once('@') {
        text.push_str(before);
        let found = values
            .iter()
            .find_map(|(name, value)| Some((value, after.strip_prefix(name)?.strip_prefix('@')?)));
        match found {
            Some((value, after)) => {
                text.push_str(value);
                rest = after;
            }
            None => {
                text.push('@');
                rest = after;
            }
        }
    }
    text + rest
}

fn joined(words: &[String], quoted: impl Fn(&str) -> String) -> String {
    words.iter().map(|word| quoted(word)).collect::<Vec<_>>().join(" ")
}

fn is_plain(word: &str) -> bool {
    let is_plain = |b: u8| b.is_ascii_alphanumeric() || b"-_./:=,+@".contains(&b);
    !word.is_empty() && word.bytes().all(is_plain)
}

/// A word of a shell's command line; supervisor reads them alike.
fn for_shell(word: &str) -> String {
    match is_plain(word) {
        true => word.to_owned(),
        false => format!("'{}'", word.replace('\'', "'\\''")),
    }
}

/// A word of a unit's line. Dollars stand for variables in commands only.
fn for_systemd(word: &str) -> String {
    match is_plain(word) {
        true => word.to_owned(),
        false => {
            let escaped = word.replace('\\', "\\\\").replace('"', "\\\"");
            format!("\"{}\"", escaped.replace('%', "%%"))
        }
    }
}

/// A word of nginx, which has no way to write a dollar.
///
/// # Errors
/// `Kind::Invalid` for one that would not mean itself.
fn for_nginx(word: &str) -> Result<String> {
    match word.is_empty() || is_plain(&word.replace(['[', ']', '%', '~'], "-")) {
        true => Ok(word.to_owned()),
        false => Err(Error::invalid(format!("cannot stand in the configuration of nginx: {word}"))),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::config::file::Section;
    use crate::config::settings::Settings;

    fn plan(args: &[&str]) -> Result<Plan> {
        let args: Vec<String> = args.iter().map(|arg| (*arg).to_owned()).collect();
        let given = args.chunks(2).map(|pair| (pair[0][2..].to_owned(), vec![pair[1].clone()]));
        let settings =
            Settings::new(Program::Serve, given.collect(), BTreeMap::new(), Section::default())
                .unwrap();
        let config = Config::new(&settings).unwrap();
        Ok(Plan { words: words(&args, &config, None)?, user: user(&|_| None), config })
    }

    fn file(plan: &Plan, name: &str) -> String {
        plan.files().unwrap().into_iter().find(|(other, _)| *other == name).expect("it is made").1
    }

    /// The names of settings in the block of OPERATIONS that begins with `first`.
    fn documented(first: &str, end: char) -> Vec<&'static str> {
        let text = include_str!("../../docs/OPERATIONS.md");
        let block = text.split("```").find(|block| block.contains(first)).expect("it is there");
        let lines = block.lines().skip(1).filter(|line| !line.is_empty() && !line.starts_with('['));
        lines.map(|line| line.split_once(end).expect("a setting").0).collect()
    }

    #[test]
    fn the_unit_has_what_operations_shows() {
        let unit = file(&plan(&["--serverdir", "/var/lib/twinpi"]).unwrap(), "devpi.service");
        let names = documented("[Unit]", '=');
        assert!(10 < names.len());
        let missing: Vec<_> =
            names.iter().filter(|name| !unit.contains(&format!("\n{name}="))).collect();
        // What is set by variables there stands in the command here.
        assert!(missing.iter().all(|name| **name == "Environment"), "{missing:?}");
        assert!(unit.contains("\nReadWritePaths=/var/lib/twinpi\n"));
    }

    #[test]
    fn nginx_has_what_operations_shows() {
        let nginx = file(&plan(&["--serverdir", "/data"]).unwrap(), "nginx-devpi.conf");
        let text = include_str!("../../docs/OPERATIONS.md");
        let block = text.split("```nginx\n").nth(1).unwrap().split("```").next().unwrap();
        for line in block.lines().map(|line| line.split(';').next().unwrap()) {
            let line = line.replace("1g", "1073741824");
            assert!(nginx.contains(&format!("    {line};")), "{line}:\n{nginx}");
        }
    }

    #[test]
    fn values_are_quoted_as_each_file_wants_it() {
        let plan = plan(&["--serverdir", "/data/a b%c$d'e\"f<"]).unwrap();
        let has = |name: &str, text: &str| {
            let file = file(&plan, name);
            assert!(file.contains(text), "{name}:\n{file}");
        };
        has("devpi.service", r#"--serverdir "/data/a b%%c$$d'e\"f<""#);
        has("devpi.service", r#"ReadWritePaths="/data/a b%%c$d'e\"f<""#);
        has("crontab", r#"--serverdir '/data/a b\%c$d'\''e"f<'"#);
        has("supervisor-devpi.conf", r#"--serverdir '/data/a b%%c$d'\''e"f<'"#);
        has("net.devpi.plist", "<string>/data/a b%c$d&#x27;e&quot;f&lt;</string>");
    }

    #[test]
    fn a_unit_protects_only_what_the_node_does_not_use() {
        let unit = |dir: &str| file(&plan(&["--serverdir", dir]).unwrap(), "devpi.service");
        assert!(unit("/home/ann/index").contains("\nProtectHome=no\n"));
        assert!(unit("/tmp/index").contains("\nPrivateTmp=no\n"));
    }

    #[test]
    fn nginx_finds_the_node_and_shows_it_outside() {
        let nginx = |args: &[&str], name: &str| {
            file(&plan(&[&["--serverdir", "/data"], args].concat()).unwrap(), name)
        };
        let plain = nginx(&["--listen", "0.0.0.0:3199"], "nginx-devpi.conf");
        assert!(plain.contains("server 127.0.0.1:3199;") && !plain.contains("proxy_cache"));
        let cached = nginx(
            &[
                "--unix-socket",
                "/run/twinpi/s",
                "--outside-url",
                "https://packages.example.org/pip",
            ],
            "nginx-devpi-caching.conf",
        );
        for part in [
            "server unix:/run/twinpi/s;",
            "listen 443 ssl;",
            "server_name packages.example.org;",
            "location /pip/ {",
            "proxy_pass http://twinpi_node/;",
            "X-Outside-Url $scheme://$http_host/pip;",
            "proxy_cache_valid 200 1800s;",
            "rewrite ^/pip(/.*)$ $1 break;",
        ] {
            assert!(cached.contains(part), "{part}:\n{cached}");
        }
        assert!(!cached.contains('@'), "{cached}");
    }

    #[test]
    fn what_nginx_would_take_for_something_else_is_refused() {
        for path in ["/run/a;b", "/run/$x", "/run/a b", "/run/{"] {
            let plan = plan(&["--serverdir", "/data", "--unix-socket", path]).unwrap();
            assert!(plan.files().is_err(), "{path}");
        }
        assert!(plan(&["--serverdir", "/data/a\nb"]).is_err());
    }

    #[test]
    fn users_are_taken_as_the_machine_names_them() {
        assert_eq!(user(&|name| (name == "USER").then(|| "ann".to_owned())), "ann");
        assert_eq!(user(&|_| Some("a b".to_owned())), USER);
    }
}

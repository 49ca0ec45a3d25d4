//! `twinpi token`: makes, lists and revokes access tokens by asking a running node over HTTP, so it works from any machine
//! and through a replica.

use std::io::{self, IsTerminal as _, Read as _};
use std::time::Duration;

use argh::FromArgs;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value as Json};

use crate::error::{Context, Error, Result};
use crate::http::client::{Client, ClientBody, ClientOptions, Timeouts};

/// How long the node may take; a replica waits for its master.
const PATIENCE: Duration = Duration::from_secs(60);
const CONNECT: Duration = Duration::from_secs(10);

/// The most bytes of an answer that are read.
const ANSWER_BYTES_MAX: u64 = 4 << 20;

/// Seconds of the units in which a life can be given.
const UNITS: [(&str, u64); 4] = [("m", 60), ("h", 3600), ("d", 86_400), ("w", 7 * 86_400)];

/// Makes, lists and revokes access tokens: what a CI job gets instead of a password. A token reads or uploads, on the
/// indexes and projects that it names, until a date. It never grants more than its owner has, and nothing else at all.
#[derive(FromArgs, Debug)]
#[argh(
    subcommand,
    name = "token",
    help_triggers("-h", "--help"),
    example = "Let a CI job publish one project, for 90 days:\n\
        export TWINPI_URL=https://packages.example.org TWINPI_USER=ann\n\
        {command_name} create --permission read,upload --index ann/prod --project hello --note 'CI of hello'\n\
        \n\
        It prints the token, once. Give it to the job as the password of the user __token__:\n\
        TWINE_USERNAME=__token__ TWINE_PASSWORD=twp_... twine upload --repository-url $TWINPI_URL/ann/prod/ dist/*\n\
        UV_PUBLISH_TOKEN=twp_... uv publish --publish-url $TWINPI_URL/ann/prod/\n\
        pip install --index-url https://__token__:twp_...@packages.example.org/ann/prod/+simple/ hello\n\
        \n\
        See which there are, and end one at once:\n\
        {command_name} list\n\
        {command_name} revoke 0123456789ab",
    note = "The node is --url or TWINPI_URL, the user --user or TWINPI_USER, the password TWINPI_PASSWORD or asked for."
)]
pub struct Token {
    #[argh(subcommand)]
    /// what to do
    action: Action,
}

#[derive(FromArgs, Debug)]
#[argh(subcommand)]
enum Action {
    Create(Create),
    List(List),
    Revoke(Revoke),
}

/// Makes a token and prints it, this once.
#[derive(FromArgs, Debug)]
#[argh(
    subcommand,
    name = "create",
    help_triggers("-h", "--help"),
    example = "{command_name} --permission upload --index ann/prod --project hello\n\
        {command_name} --permission read --index '*' --expires 2026-12-31\n\
        {command_name} --permission read,upload --index ann/dev --index ann/prod --expires 12h"
)]
struct Create {
    /// what it lets do: read, upload; may be repeated or separated by commas
    #[argh(option)]
    permission: Vec<String>,
    /// an index, user/name, or '*' for all that its owner may use; may be repeated
    #[argh(option)]
    index: Vec<String>,
    /// a project; may be repeated (default: all)
    #[argh(option)]
    project: Vec<String>,
    /// 30m, 12h, 30d, 8w, a date (2026-12-31, UTC), or never (default: 90d, at most 366d)
    #[argh(option)]
    expires: Option<String>,
    /// what it is for, shown in lists
    #[argh(option)]
    note: Option<String>,
    /// whose token, if not the own one: for root
    #[argh(option)]
    owner: Option<String>,
    /// the node's URL (default: TWINPI_URL)
    #[argh(option)]
    url: Option<String>,
    /// who asks (default: TWINPI_USER)
    #[argh(option)]
    user: Option<String>,
    /// print all that is known of the token, as JSON
    #[argh(switch)]
    json: bool,
}

/// Lists the tokens of a user. What a token's text was cannot be shown again.
#[derive(FromArgs, Debug)]
#[argh(subcommand, name = "list", help_triggers("-h", "--help"))]
struct List {
    /// whose tokens, if not the own ones: for root
    #[argh(option)]
    owner: Option<String>,
    /// the node's URL (default: TWINPI_URL)
    #[argh(option)]
    url: Option<String>,
    /// who asks (default: TWINPI_USER)
    #[argh(option)]
    user: Option<String>,
    /// print JSON
    #[argh(switch)]
    json: bool,
}

/// Ends tokens at once, on replicas as soon as they hear of it.
#[derive(FromArgs, Debug)]
#[argh(subcommand, name = "revoke", help_triggers("-h", "--help"))]
struct Revoke {
    /// ids as listed
    #[argh(positional)]
    id: Vec<String>,
    /// whose tokens, if not the own ones: for root
    #[argh(option)]
    owner: Option<String>,
    /// the node's URL (default: TWINPI_URL)
    #[argh(option)]
    url: Option<String>,
    /// who asks (default: TWINPI_USER)
    #[argh(option)]
    user: Option<String>,
}

/// Runs the command that was typed.
///
/// # Errors
/// `Kind::Invalid` for what is missing; what the node says; that it cannot be reached.
pub fn run(token: Token) -> Result<()> {
    match token.action {
        Action::Create(create) => self::create(create),
        Action::List(list) => self::list(&list),
        Action::Revoke(revoke) => self::revoke(&revoke),
    }
}

/// `--name=value` as `--name value`, which is what the parser takes.
pub fn split(args: &[String]) -> Vec<&str> {
    let mut parts = Vec::new();
    for arg in args {
        match arg.split_once('=') {
            Some((name, value)) if name.starts_with("--") => parts.extend([name, value]),
            _ => parts.push(arg.as_str()),
        }
    }
    parts
}

fn create(create: Create) -> Result<()> {
    let Create { permission, index, project, expires, note, owner, url, user, json } = create;
    let mut wish = Map::new();
    for (name, option, values) in [
        ("permissions", "--permission read or --permission upload", permission),
        ("indexes", "--index USER/NAME or --index '*'", index),
    ] {
        let values = separated(&values);
        if values.is_empty() {
            return Err(Error::invalid(format!("say what the token is for: {option}")));
        }
        wish.insert(name.into(), values.into());
    }
    if !project.is_empty() {
        wish.insert("projects".into(), separated(&project).into());
    }
    if let Some(expires) = expires {
        let (name, value) = life(&expires)?;
        wish.insert(name.into(), value);
    }
    if let Some(note) = note {
        wish.insert("note".into(), note.into());
    }
    let node = Node::new(url, user)?;
    let answer = node.ask("POST", &node.tokens(owner.as_deref(), None), Some(&wish.into()))?;
    let made = &answer["result"];
    if json {
        println!("{made:#}");
        return Ok(());
    }
    println!("{}", made["token"].as_str().unwrap_or_default());
    eprintln!("token {}. It is shown this once.", described(made));
    Ok(())
}

fn list(list: &List) -> Result<()> {
    let node = Node::new(list.url.clone(), list.user.clone())?;
    let answer = node.ask("GET", &node.tokens(list.owner.as_deref(), None), None)?;
    if list.json {
        println!("{:#}", answer["result"]);
        return Ok(());
    }
    for token in answer["result"].as_array().into_iter().flatten() {
        println!("{}", described(token));
    }
    Ok(())
}

fn revoke(revoke: &Revoke) -> Result<()> {
    if revoke.id.is_empty() {
        return Err(Error::invalid("say which token: an id as `twinpi token list` shows it"));
    }
    let node = Node::new(revoke.url.clone(), revoke.user.clone())?;
    for id in &revoke.id {
        let answer = node.ask("DELETE", &node.tokens(revoke.owner.as_deref(), Some(id)), None)?;
        println!("{}", answer["message"].as_str().unwrap_or("revoked"));
    }
    Ok(())
}

/// One line for people.
fn described(token: &Json) -> String {
    let text = |key: &str| token[key].as_str().unwrap_or_default().to_owned();
    let names = |key: &str| {
        let names = token[key].as_array().into_iter().flatten().filter_map(Json::as_str);
        names.collect::<Vec<_>>().join(",")
    };
    let end = match (token["expires"].as_str(), token["expired"].as_bool()) {
        (None, _) => "does not end".to_owned(),
        (Some(at), Some(true)) => format!("ended {at}"),
        (Some(at), _) => format!("ends {at}"),
    };
    let note = Some(text("note")).filter(|note| !note.is_empty());
    // A note comes from elsewhere and must not steer the terminal.
    let note = note.map(|note| format!("  {}", note.escape_debug())).unwrap_or_default();
    format!(
        "{}  {} on {}, projects {}, {end}{note}",
        text("id"),
        names("permissions"),
        names("indexes"),
        names("projects"),
    )
}

fn separated(values: &[String]) -> Vec<String> {
    let parts = values.iter().flat_map(|value| value.split(','));
    parts.map(str::trim).filter(|part| !part.is_empty()).map(str::to_owned).collect()
}

/// The field of the request for an end as it is typed.
fn life(text: &str) -> Result<(&'static str, Json)> {
    for (unit, secs) in UNITS {
        if let Some(number) = text.strip_suffix(unit)
            && let Ok(number) = number.parse::<u64>()
        {
            return Ok(("expires_in", number.saturating_mul(secs).into()));
        }
    }
    if text.bytes().all(|b| b.is_ascii_digit()) {
        return Err(Error::invalid(format!("--expires {text}: say the unit, such as {text}d")));
    }
    Ok(("expires", text.into()))
}

/// The node that is asked, and as whom.
struct Node {
    url: String,
    user: String,
    authorization: String,
    client: Client,
}

impl Node {
    fn new(url: Option<String>, user: Option<String>) -> Result<Self> {
        let given = |option: Option<String>, name: &str, what: &str| {
            let value = option.or_else(|| std::env::var(name).ok()).filter(|text| !text.is_empty());
            value.ok_or_else(|| Error::invalid(format!("{what}, or set {name}")))
        };
        let url = given(url, "TWINPI_URL", "say which node to ask: --url https://...")?;
        let user = given(user, "TWINPI_USER", "say who you are: --user NAME")?;
        let password = match std::env::var("TWINPI_PASSWORD") {
            Ok(password) => password,
            Err(_) => ask_password(&user)?,
        };
        let authorization = format!("Basic {}", STANDARD.encode(format!("{user}:{password}")));
        let client = Client::new(ClientOptions {
            user_agent: format!("twinpi-token/{}", env!("CARGO_PKG_VERSION")),
            ..ClientOptions::default()
        })?;
        let url = url.trim_end_matches('/').to_owned();
        Ok(Self { url, user, authorization, client })
    }

    /// The address of a user's tokens, or of one of them.
    fn tokens(&self, owner: Option<&str>, id: Option<&str>) -> String {
        let quote = |text: &str| {
            percent_encoding::utf8_percent_encode(text, percent_encoding::NON_ALPHANUMERIC)
                .to_string()
        };
        let path = format!("{}/{}/+tokens", self.url, quote(owner.unwrap_or(&self.user)));
        id.map_or(path.clone(), |id| format!("{path}/{}", quote(id)))
    }

    fn ask(&self, method: &str, url: &str, body: Option<&Json>) -> Result<Json> {
        let headers = [
            ("Accept", "application/json"),
            ("Content-Type", "application/json"),
            ("Authorization", self.authorization.as_str()),
        ];
        let headers = headers.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let body = match body.map(Json::to_string) {
            None => ClientBody::None,
            Some(text) => {
                let length = Some(text.len() as u64);
                ClientBody::Reader { reader: Box::new(io::Cursor::new(text)), length }
            }
        };
        let timeouts = Timeouts { connect: CONNECT, response_head: PATIENCE, per_read: PATIENCE };
        let answer = self.client.request(method, url, &headers, body, timeouts)?;
        let status = answer.status;
        let mut text = Vec::new();
        answer
            .body
            .take(ANSWER_BYTES_MAX)
            .read_to_end(&mut text)
            .map_err(Error::from)
            .context(|| "reading the node's answer")?;
        let said: Json = serde_json::from_slice(&text).unwrap_or_default();
        if (200..300).contains(&status) && said.is_object() {
            return Ok(said);
        }
        let why = said["message"].as_str().unwrap_or("it does not seem to be a twinpi server");
        Err(Error::invalid(format!("the node answered {status}: {why}")))
    }
}

/// Asks for the password: hidden on a terminal, else a line of standard input.
fn ask_password(user: &str) -> Result<String> {
    if io::stdin().is_terminal() {
        return Ok(rpassword::prompt_password(format!("password of {user}: "))?);
    }
    let mut text = String::new();
    io::stdin().read_line(&mut text)?;
    Ok(text.trim_end_matches(['\n', '\r']).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(args: &[&str]) -> Option<Token> {
        let args: Vec<String> = args.iter().map(|arg| (*arg).to_owned()).collect();
        Token::from_args(&["twinpi token"], &split(&args)).ok()
    }

    #[test]
    fn options_are_taken_in_both_forms() {
        let Some(Token { action: Action::Create(create) }) = parsed(&[
            "create",
            "--permission=read,upload",
            "--index",
            "ann/dev",
            "--index=ann/prod",
            "--note=a=b",
        ]) else {
            panic!("it is a command")
        };
        assert_eq!(separated(&create.permission), ["read", "upload"]);
        assert_eq!(create.index, ["ann/dev", "ann/prod"]);
        assert_eq!(create.note.as_deref(), Some("a=b"));
        assert!(parsed(&["create", "--password", "x"]).is_none() && parsed(&[]).is_none());
    }

    #[test]
    fn lives_are_typed_in_units_or_as_dates() {
        assert_eq!(life("12h").expect("good"), ("expires_in", 43_200.into()));
        assert_eq!(life("2w").expect("good"), ("expires_in", 1_209_600.into()));
        assert_eq!(life("never").expect("good"), ("expires", "never".into()));
        assert_eq!(life("2026-12-31").expect("good"), ("expires", "2026-12-31".into()));
        assert!(life("90").is_err());
    }

    #[test]
    fn a_note_does_not_steer_the_terminal() {
        let token = serde_json::json!({"id": "0a", "permissions": ["read"], "indexes": ["*"],
            "projects": ["*"], "expires": null, "note": "\u{1b}[2J"});
        let line = described(&token);
        assert_eq!(line, "0a  read on *, projects *, does not end  \\u{1b}[2J");
    }
}

//! Asking for a user's name and for a new password.

use std::io::{self, BufRead, IsTerminal as _, Write as _};

use crate::error::{Error, Result};

/// How often two different passwords may be typed.
const ROUNDS: usize = 3;

/// Reads the name of a user.
///
/// # Errors
/// `Kind::Invalid` if there is none.
pub fn ask_user() -> Result<String> {
    if io::stdin().is_terminal() {
        eprint!("user to set the password for: ");
        io::stderr().flush()?;
    }
    let name = line(&mut io::stdin().lock())?.unwrap_or_default();
    if name.is_empty() { Err(Error::invalid("no user name given")) } else { Ok(name) }
}

/// Reads a new password twice: hidden from a terminal, else two lines of standard input.
///
/// # Errors
/// `Kind::Invalid` if they differ or are empty three times.
pub fn ask_new(user: &str) -> Result<String> {
    if io::stdin().is_terminal() {
        return new(|prompt| {
            match rpassword::prompt_password(format!("{prompt} for user {user}: ")) {
                Ok(typed) => Ok(Some(typed)),
                Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
                Err(e) => Err(e.into()),
            }
        });
    }
    let mut input = io::stdin().lock();
    new(|_| line(&mut input))
}

fn new(mut ask: impl FnMut(&str) -> Result<Option<String>>) -> Result<String> {
    for _ in 0..ROUNDS {
        let (Some(first), Some(second)) = (ask("new password")?, ask("the same again")?) else {
            break;
        };
        if first != second {
            eprintln!("the two differ");
        } else if first.is_empty() {
            eprintln!("an empty password is not accepted");
        } else {
            return Ok(first);
        }
    }
    Err(Error::invalid("no new password was given, nothing is changed"))
}

/// Reads a line without its end; `None` at the end of the input.
fn line(input: &mut impl BufRead) -> Result<Option<String>> {
    let mut text = String::new();
    if input.read_line(&mut text)? == 0 {
        return Ok(None);
    }
    Ok(Some(text.trim_end_matches(['\n', '\r']).to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn typed(text: &str) -> Option<String> {
        let mut input = io::Cursor::new(text);
        new(|_| line(&mut input)).ok()
    }

    #[test]
    fn two_equal_lines_are_taken_as_they_are() {
        assert_eq!(typed("a b \na b \n").as_deref(), Some("a b "));
        assert_eq!(typed("x\r\nx").as_deref(), Some("x"));
    }

    #[test]
    fn there_are_three_rounds() {
        assert_eq!(typed("a\nb\n\n\nc\nc\n").as_deref(), Some("c"));
        assert_eq!(typed("a\nb\n\n\nc\nd\ne\ne\n"), None);
    }

    #[test]
    fn an_early_end_changes_nothing() {
        assert_eq!(typed(""), None);
        assert_eq!(typed("a\n"), None);
    }
}

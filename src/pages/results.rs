//! The pages of test results: all of a file, and one of them with what was printed.

use maud::{Markup, html};

use crate::model::results::Environment;

use super::layout::{Crumb, Page, Place, crumbs, draw};
use super::version::{verdict, when};

/// Which result of which file.
#[derive(Clone, Copy, Debug)]
pub struct Of<'a> {
    /// `user/index`
    pub index: &'a str,
    /// The project.
    pub project: &'a str,
    /// The version.
    pub version: &'a str,
    /// The name of the release file.
    pub file: &'a str,
}

/// One result.
#[derive(Clone, Debug, Default)]
pub struct TestResult {
    /// The name of its file.
    pub name: String,
    /// Who uploaded it, and empty if that is not known.
    pub who: String,
    /// When it was uploaded.
    pub at: String,
    /// What ran; none if it is not here or cannot be read.
    pub environments: Option<Vec<Environment>>,
}

fn way<'a>(place: &Place, of: &Of<'a>, more: &[&'a str]) -> (Vec<&'a str>, Vec<Crumb>) {
    let mut parts: Vec<&str> = of.index.split('/').collect();
    parts.extend([of.project, of.version]);
    let mut way = crumbs(place, &parts);
    parts.extend(["+toxresults", of.file]);
    way.push(Crumb { name: format!("Tests of {}", of.file), link: place.link(&parts) });
    for part in more {
        parts.push(part);
        way.push(Crumb { name: (*part).to_owned(), link: place.link(&parts) });
    }
    (parts, way)
}

/// All results of a file.
pub fn list(place: &Place, of: &Of<'_>, results: &[TestResult]) -> String {
    let (parts, way) = way(place, of, &[]);
    let main = html! {
        h1 { "Test results" small { (of.file) } }
        @if results.is_empty() { p.quiet { "No test result was uploaded for this file." } }
        @for result in results {
            article.card.file {
                h2 {
                    a href=(place.link(&[&parts[..], &[&result.name]].concat())) {
                        "Uploaded " time datetime=(result.at) { (when(&result.at)) }
                        @if !result.who.is_empty() { " by " (result.who) }
                    }
                }
                (environments(result))
            }
        }
    };
    let title = format!("Test results of {}", of.file);
    draw(place, &Page { title: &title, crumbs: way, ..Page::default() }, &main)
}

fn environments(result: &TestResult) -> Markup {
    html! {
        @match &result.environments {
            None => p.quiet { "The result is not here, or cannot be read." },
            Some(environments) => {
                table.stack {
                    thead {
                        tr {
                            th scope="col" { "Environment" } th scope="col" { "Outcome" } th scope="col" { "Host" }
                            th scope="col" { "Platform" } th scope="col" { "Python" }
                        }
                    }
                    tbody {
                        @for environment in environments {
                            tr {
                                th scope="row" { (environment.name) }
                                td { (verdict(environment.is_passed)) }
                                td data-label="Host" { (environment.host) }
                                td data-label="Platform" { (environment.platform) }
                                td data-label="Python" { (environment.python) }
                            }
                        }
                    }
                }
            }
        }
    }
}

/// One result, with what each command printed.
pub fn one(place: &Place, of: &Of<'_>, result: &TestResult, address: &str) -> String {
    let (_, way) = way(place, of, &[&result.name]);
    let main = html! {
        h1 { "Test result" small { (of.file) } }
        p.quiet {
            "Uploaded " time datetime=(result.at) { (when(&result.at)) }
            @if !result.who.is_empty() { " by " (result.who) }
            ". " a href={ (place.root) (address) } { "The result as JSON" }
        }
        (environments(result))
        @for environment in result.environments.iter().flatten() {
            section {
                h2 { (environment.name) " " (verdict(environment.is_passed)) }
                @if environment.commands.is_empty() { p.quiet { "Nothing ran." } }
                @for ran in &environment.commands {
                    @let is_good = ran.code == Some(0);
                    details open[!is_good] {
                        summary {
                            code { (ran.command) } " "
                            @if !is_good {
                                span.tag.bad {
                                    @match ran.code { Some(code) => { "exit code " (code) }, None => "unknown end" }
                                }
                            }
                            " " span.quiet { (ran.phase) }
                        }
                        pre tabindex="0" aria-label={ "Output of " (ran.command) } { code { (ran.output) } }
                    }
                }
            }
        }
    };
    let title = format!("Test result of {}", of.file);
    draw(place, &Page { title: &title, crumbs: way, ..Page::default() }, &main)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::results::Ran;

    #[test]
    fn what_was_uploaded_is_escaped() {
        const EVIL: &str = "\"><script>alert(1)</script>";
        let ran = Ran { phase: "test", command: EVIL.into(), output: EVIL.into(), code: Some(1) };
        let environment = Environment {
            name: EVIL.into(),
            host: EVIL.into(),
            platform: EVIL.into(),
            python: EVIL.into(),
            is_passed: Some(false),
            commands: vec![ran],
        };
        let result = TestResult {
            name: EVIL.into(),
            who: EVIL.into(),
            at: EVIL.into(),
            environments: Some(vec![environment]),
        };
        let of = Of { index: "ann/dev", project: EVIL, version: EVIL, file: EVIL };
        let place = Place::default();
        assert!(!list(&place, &of, std::slice::from_ref(&result)).contains("<script>"));
        assert!(!one(&place, &of, &result, "/a").contains("<script>"));
    }
}

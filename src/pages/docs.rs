//! The frame around documentation: our own page, with what others wrote inside.

use maud::html;

use super::layout::{Crumb, Page, Place, crumbs, draw};

/// What may run inside the frame. Without `allow-same-origin`, pages of documentation can neither read what this server
/// shows to their reader nor act in the reader's name. The address of each page says the same.
pub const SANDBOX: &str = "allow-scripts allow-forms allow-popups allow-popups-to-escape-sandbox allow-downloads \
                           allow-modals";

/// What the frame shows.
pub struct Frame<'a> {
    /// `user/index` that holds the documentation.
    pub index: &'a str,
    /// The project.
    pub project: &'a str,
    /// The version that the documentation is of.
    pub version: &'a str,
    /// The address of the page inside, seen from the frame's own.
    pub inside: &'a str,
    /// Other documentation, by word and address.
    pub others: &'a [(&'static str, String)],
    /// Whether there is a newer release, which has no documentation.
    pub is_behind: bool,
}

/// The page with the frame.
pub fn frame(place: &Place, frame: &Frame<'_>) -> String {
    let title = format!("{} {} documentation", frame.project, frame.version);
    let parts: Vec<&str> = frame.index.split('/').chain([frame.project, frame.version]).collect();
    let mut way = crumbs(place, &parts);
    way.push(Crumb {
        name: "documentation".to_owned(),
        link: format!("{}{}", place.root, place.here),
    });
    let main = html! {
        h1.unseen { (title) }
        p.reading {
            @for (word, address) in frame.others {
                a href=(address) { (word) span.unseen { " documentation" } } " "
            }
            @if frame.is_behind { span { "This is not the newest release." } " " }
            a href=(frame.inside) { "Without the frame" }
        }
        iframe.reading sandbox=(SANDBOX) title=(title) src=(frame.inside) {}
    };
    draw(place, &Page { title: &title, crumbs: way, ..Page::default() }, &main)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_addresses_are_escaped() {
        let html = frame(
            &Place::default(),
            &Frame {
                index: "ann/dev",
                project: "p",
                version: "1\"><script>",
                inside: "../+doc/a.html?x=\"onload=",
                others: &[("latest", "../../latest/+d/\"x".to_owned())],
                is_behind: true,
            },
        );
        assert!(
            !html.contains("1\"><script") && !html.contains("\"onload") && !html.contains("/\"x")
        );
        assert!(html.contains("src=\"../+doc/a.html?x=&quot;onload=\""));
        assert!(html.contains("sandbox=") && !html.contains("allow-same-origin"));
    }
}

//! Pages that keep themselves as new as the node: a script waits for the node to move, fetches the same page again and
//! puts in place of each part the one that was drawn now. Without script they are pages like any other.

use maud::{Markup, html};

use super::layout::Place;

/// What a page tells the script.
#[derive(Clone, Debug, Default)]
pub struct Live {
    /// Where the node stood when the page was drawn, as `/+live` takes it.
    pub mark: String,
    /// After so many seconds the page is drawn again though nothing moved.
    pub every: u32,
}

/// The line that says whether the page keeps up; it shows once the script runs.
pub fn line(place: &Place, live: &Live) -> Markup {
    html! {
        p.live.quiet #live hidden data-live-url=(place.link(&["+live"])) data-live-mark=(live.mark)
            data-live-every=(live.every) {
            span.dot aria-hidden="true" {} span #live-said { "This page updates itself." }
        }
    }
}

/// A part that is replaced by its newer self.
pub fn part(id: &str, inside: &Markup) -> Markup {
    html! { div id=(id) data-live { (inside) } }
}

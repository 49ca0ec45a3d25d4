//! Pages as pure functions of values.

pub mod assets;
pub mod changes;
pub mod commands;
pub mod description;
pub mod docs;
pub mod home;
pub mod index;
pub mod layout;
pub mod live;
pub mod plot;
pub mod project;
pub mod results;
pub mod search;
pub mod simple;
pub mod status;
pub mod version;
pub mod when;

/// The text with the five characters that mean something in HTML escaped.
pub fn escape(text: &str) -> String {
    if !text.contains(['&', '<', '>', '"', '\'']) {
        return text.to_owned();
    }
    let text = text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    text.replace('"', "&quot;").replace('\'', "&#x27;")
}

//! The frame around documentation: our own page, with what others wrote inside.

use super::escape;

/// What may run inside the frame. Without `allow-same-origin`, pages of documentation can neither read what this server
/// shows to their reader nor act in the reader's name. The address of each page says the same.
pub const SANDBOX: &str = "allow-scripts allow-forms allow-popups allow-popups-to-escape-sandbox allow-downloads \
                           allow-modals";

/// What our own page may load: the frame, and its own style.
pub const FRAME_POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; frame-src 'self'; base-uri 'none'; \
                                form-action 'none'; frame-ancestors 'self'";

/// What the frame shows.
pub struct Frame<'a> {
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
pub fn frame(frame: &Frame<'_>) -> String {
    let title = escape(&format!("{} {} documentation", frame.project, frame.version));
    let inside = escape(frame.inside);
    let mut notes = String::new();
    for (word, address) in frame.others {
        notes.push_str(&format!(" <a href=\"{}\">{}</a>", escape(address), escape(word)));
    }
    if frame.is_behind {
        notes.push_str(" <span>This is not the newest release.</span>");
    }
    format!(
        "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>{title}</title>\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\"><style>\
         html,body{{height:100%;margin:0}}body{{display:flex;flex-direction:column;font-family:sans-serif}}\
         header{{padding:.4em .8em;border-bottom:1px solid #bbb}}header *{{margin-right:.8em}}\
         iframe{{flex:1;border:0;width:100%}}</style></head>\n\
         <body><header><strong>{title}</strong>{notes}</header>\n\
         <iframe sandbox=\"{SANDBOX}\" title=\"{title}\" src=\"{inside}\"></iframe></body></html>\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_addresses_are_escaped() {
        let html = frame(&Frame {
            project: "p",
            version: "1\"><script>",
            inside: "../+doc/a.html?x=\"onload=",
            others: &[("latest", "../../latest/+d/\"x".to_owned())],
            is_behind: true,
        });
        assert!(!html.contains("<script>") && !html.contains("\"onload") && !html.contains("/\"x"));
        assert!(html.contains("src=\"../+doc/a.html?x=&quot;onload=\""));
        assert!(!html.contains("allow-same-origin"));
    }
}

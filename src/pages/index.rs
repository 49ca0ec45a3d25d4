//! The page of an index for people: what it is, and what it holds.

use crate::model::index::Index;

use super::escape;

/// The page of an index with the projects of its own; `base` is where the server is seen, without a slash at its end.
pub fn page(index: &Index, projects: &[String], base: &str) -> String {
    let base = escape(base);
    let name = escape(&index.name.to_string());
    let kind = escape(index.config.text("type").unwrap_or("stage"));
    let volatile =
        if index.is_volatile() { "files may be replaced" } else { "files stay as they are" };
    let mut html = format!(
        "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>{name}</title></head>\n\
         <body><h1>{name}</h1>\n<p>{kind}, {volatile}</p>\n"
    );
    if let Some(title) = index.config.text("title") {
        html.push_str(&format!("<p>{}</p>\n", escape(title)));
    }
    html.push_str("<ul>\n");
    for project in projects {
        let project = escape(project);
        html.push_str(&format!(
            "<li><a href=\"{base}/{name}/+simple/{project}/\">{project}</a></li>\n"
        ));
    }
    html.push_str("</ul></body></html>\n");
    html
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::names::IndexName;
    use crate::store::record::Dict;

    #[test]
    fn what_users_wrote_is_escaped() {
        let mut config = Dict::new();
        config.set("title", "<script>alert(1)</script>");
        let name = IndexName::new("ann", "dev").expect("valid");
        let html = page(&Index { name, config }, &["pkg".to_owned()], "http://h");
        assert!(!html.contains("<script") && html.contains("&lt;script&gt;"));
        assert!(html.contains("href=\"http://h/ann/dev/+simple/pkg/\""));
    }
}

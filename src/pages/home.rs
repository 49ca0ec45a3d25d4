//! The pages of all users, and of one: which indexes there are.

use maud::{Markup, html};

use super::layout::{Page, Paging, Place, crumbs, draw};

/// An index in a list.
#[derive(Clone, Debug, Default)]
pub struct IndexLine {
    /// `user/index`
    pub name: String,
    /// `stage` or `mirror`
    pub kind: String,
    /// What its owner calls it.
    pub title: String,
    /// Its bases.
    pub bases: Vec<String>,
    /// Whether files may be replaced.
    pub is_volatile: bool,
    /// Whether everybody may read it.
    pub is_open: bool,
}

/// A user with indexes.
#[derive(Clone, Debug, Default)]
pub struct UserLine {
    /// The user's name.
    pub name: String,
    /// What the user is called.
    pub title: String,
    /// What the user says besides.
    pub description: String,
    /// The indexes that the reader may see.
    pub indexes: Vec<IndexLine>,
}

/// Marks of an index: what it is, in a word each.
pub fn tags(index: &IndexLine) -> Markup {
    html! {
        span.tag { (index.kind) }
        @if index.kind != "mirror" && !index.is_volatile { " " span.tag { "non-volatile" } }
        @if !index.is_open { " " span.tag.warn { "closed" } }
    }
}

fn index_line(place: &Place, index: &IndexLine) -> Markup {
    let parts: Vec<&str> = index.name.split('/').collect();
    html! {
        a href=(place.link(&parts)) { (index.name) } " " (tags(index))
        @if !index.title.is_empty() { " " span.quiet { (index.title) } }
    }
}

/// The page of all users.
pub fn all(place: &Place, users: &[UserLine], paging: Paging) -> String {
    let main = html! {
        h1 { "Packages" }
        p.lead { "Users and their indexes on this " (place.role) "." }
        @if users.is_empty() {
            div.note { p { "There is no user yet. Make one: " code { "devpi user -c NAME" } } }
        }
        ul.cards {
            @for user in users {
                li.card {
                    h2 { a href=(place.link(&[&user.name])) { (user.name) } }
                    @if !user.title.is_empty() { p.quiet { (user.title) } }
                    @if user.indexes.is_empty() { p.quiet { "No index." } }
                    ul.plain { @for index in &user.indexes { li { (index_line(place, index)) } } }
                }
            }
        }
        (paging.draw(|page| place.link_with(&[], &[("page", page)])))
        h2 { "New here?" }
        p {
            "An index is made with the devpi command, and then used by any installer: "
            code { "devpi login USER" } ", " code { "devpi index -c dev" } "."
        }
    };
    draw(place, &Page { title: "Packages", ..Page::default() }, &main)
}

/// The page of one user.
pub fn user(place: &Place, user: &UserLine) -> String {
    let main = html! {
        h1 { (user.name) @if !user.title.is_empty() { small { (user.title) } } }
        @if !user.description.is_empty() { p.lead { (user.description) } }
        h2 { "Indexes" }
        @if user.indexes.is_empty() {
            p.quiet { "None that you may see." }
        } @else {
            table.stack {
                thead { tr { th scope="col" { "Index" } th scope="col" { "Kind" } th scope="col" { "Bases" } } }
                tbody {
                    @for index in &user.indexes {
                        @let parts: Vec<&str> = index.name.split('/').collect();
                        tr {
                            th scope="row" {
                                a href=(place.link(&parts)) { (index.name) }
                                @if !index.title.is_empty() { br; span.quiet { (index.title) } }
                            }
                            td { (tags(index)) }
                            td data-label="Bases" { (bases(place, &index.bases)) }
                        }
                    }
                }
            }
        }
    };
    let page = Page { title: &user.name, crumbs: crumbs(place, &[&user.name]), ..Page::default() };
    draw(place, &page, &main)
}

/// Links to bases, in order.
pub fn bases(place: &Place, bases: &[String]) -> Markup {
    html! {
        @for (at, base) in bases.iter().enumerate() {
            @if 0 < at { ", " }
            @let parts: Vec<&str> = base.split('/').collect();
            a href=(place.link(&parts)) { (base) }
        }
    }
}

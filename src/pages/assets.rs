//! What pages load besides themselves: one style sheet and a few scripts, part of the program. Each has a hash of its
//! bytes in its name, so browsers may keep it for good.

use std::sync::LazyLock;

use crate::digest::Digest;

/// A file that pages load.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asset {
    /// The style of all pages.
    Style,
    /// The sign beside a page's title in browsers.
    Icon,
    /// Buttons that copy commands.
    Copy,
    /// Names while one types.
    Search,
    /// Keeps a page as new as the node.
    Live,
}

/// All of them.
pub const ALL: [Asset; 5] = [Asset::Style, Asset::Icon, Asset::Copy, Asset::Search, Asset::Live];

/// How much of a hash stands in a name, in hex digits.
const HASH_DIGITS: usize = 16;

static NAMES: LazyLock<Vec<String>> = LazyLock::new(|| {
    let name = |asset: &Asset| {
        let (stem, kind) = asset.file();
        let hash = Digest::of(asset.text().as_bytes()).hex();
        format!("{stem}.{}.{kind}", &hash[..HASH_DIGITS])
    };
    ALL.iter().map(name).collect()
});

impl Asset {
    /// Its bytes, which are text.
    pub fn text(self) -> &'static str {
        match self {
            Self::Style => include_str!("assets/style.css"),
            Self::Icon => include_str!("assets/icon.svg"),
            Self::Copy => include_str!("assets/copy.js"),
            Self::Search => include_str!("assets/search.js"),
            Self::Live => include_str!("assets/live.js"),
        }
    }
    /// Its media type.
    pub fn content_type(self) -> &'static str {
        match self.file().1 {
            "css" => "text/css; charset=utf-8",
            "svg" => "image/svg+xml",
            _ => "text/javascript; charset=utf-8",
        }
    }
    /// The name that it has in addresses, below `/+static/`.
    pub fn name(self) -> &'static str {
        let at = ALL.iter().position(|asset| *asset == self);
        at.and_then(|at| NAMES.get(at)).map_or("", String::as_str)
    }
    /// The one that has this name in addresses.
    pub fn find(name: &str) -> Option<Self> {
        ALL.into_iter().find(|asset| asset.name() == name)
    }
    fn file(self) -> (&'static str, &'static str) {
        match self {
            Self::Style => ("style", "css"),
            Self::Icon => ("icon", "svg"),
            Self::Copy => ("copy", "js"),
            Self::Search => ("search", "js"),
            Self::Live => ("live", "js"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_asset_is_found_by_the_name_that_pages_use() {
        for asset in ALL {
            assert_eq!(Asset::find(asset.name()), Some(asset));
            let (stem, kind) = asset.file();
            assert!(asset.name().starts_with(stem) && asset.name().ends_with(kind));
            assert_eq!(asset.name().len(), stem.len() + kind.len() + HASH_DIGITS + 2);
        }
        assert_eq!(Asset::find("style.css"), None);
    }
}

//! What another server says of a project, in either form of the simple interface (PEP 503, 691, 700, 792).

use crate::store::codec::Value;

/// A project as another server shows it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct UpstreamPage {
    /// Its files, each name once.
    pub files: Vec<UpstreamFile>,
    /// `archived`, `quarantined` or `deprecated` with a reason; `None` is active (PEP 792).
    pub status: Option<(String, Option<String>)>,
}

/// A file as another server shows it.
#[derive(Clone, Debug, PartialEq)]
pub struct UpstreamFile {
    /// The file's name.
    pub name: String,
    /// Where it lies: absolute, `http` or `https`, without fragment and credentials.
    pub url: String,
    /// Type and hex of its hash; SHA-256 where there is a choice.
    pub hash: Option<(String, String)>,
    /// What Python it asks for.
    pub requires_python: Option<String>,
    /// `None`: not yanked; `True` or a text with the reason: yanked.
    pub yanked: Value,
    /// Its size (PEP 700).
    pub size_bytes: Option<u64>,
    /// When it was uploaded there, as it stands there (PEP 700).
    pub upload_time: Option<String>,
    /// Whether its METADATA is offered, and the SHA-256 of that where it is told (PEP 658, 714).
    pub metadata: Option<Option<String>>,
    /// Where its provenance lies (PEP 740).
    pub provenance: Option<String>,
}

/// Reads a page in the form that its media type names.
///
/// # Errors
/// `Kind::BadGateway` if it is no such page.
pub fn page(
    _media_type: &str,
    _body: &mut dyn std::io::Read,
    _url: &url::Url,
    _project: &crate::names::ProjectName,
) -> crate::error::Result<UpstreamPage> {
    Err(crate::error::Error::new(crate::error::Kind::BadGateway, "pages cannot be read yet"))
}

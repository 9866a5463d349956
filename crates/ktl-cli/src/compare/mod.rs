//! Where two builds of the same thing differ first: platform, layer, step, file, and what of it.
//!
//! What is compared are two image archives that builders have sent, each in a file. Nothing of them is believed: blobs are read
//! by their digests and checked, JSON is bounded, and layers of any size go by as streams, side by side.

mod archive;
mod entry;
mod image;
mod json;
mod layer;

pub use archive::Archive;
pub use image::first_difference;

/// Why archives cannot be compared.
#[derive(Debug, thiserror::Error)]
pub enum CompareError {
    #[error("failed to read {path}")]
    Read { path: String, source: std::io::Error },
    #[error("{path}: {what}")]
    Broken { path: String, what: String },
}

/// The first difference, as a person reads it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// `layer 2 of 3`, `config`…
    pub place: String,
    /// The step that made it.
    pub step: Option<String>,
    /// The file, and what of it, or what else it is.
    pub what: String,
    /// For each build, in their order.
    pub values: Option<(String, String)>,
    /// What the user may do about it.
    pub mend: Option<&'static str>,
}

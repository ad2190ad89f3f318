//! From content to chunks: stripes, manifests of files, directories. All pure: the same input gives the same chunks everywhere.

mod directory;
mod file;
mod stripe;

pub use directory::{
    BuiltDirectory, DirectoryBuilder, Draft, DraftBody, Measure, SealedLeaf, build_directory, leaf_ranges, seal_leaf,
    travelling_xattrs,
};
pub use file::{BuiltFile, FileBuilder, build_file, seal_inline};
pub use stripe::{SealedStripe, seal_stripe};

use super::directory::NameError;
use crate::base::codec::DecodeError;
use crate::base::limit::{DIRECTORY_ENTRIES_MAX, INLINE_BYTES_MAX};

/// Why something cannot be published as it is.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BuildError {
    /// A name that cannot stand in a directory.
    #[error(transparent)]
    Name(#[from] NameError),
    /// Names must come in ascending order, each once.
    #[error("names are not in ascending order")]
    Order,
    /// Extended attributes that cannot travel.
    #[error("extended attributes: {0}")]
    Xattrs(DecodeError),
    /// A symbolic link's target.
    #[error("the target of a symbolic link is empty, too long, or has a NUL byte")]
    Target,
    /// More small files in one leaf than were planned: they grew since they were measured.
    #[error("files changed while they were being published; try again")]
    Changed,
    /// More entries than a directory may have.
    #[error("more than {DIRECTORY_ENTRIES_MAX} entries in one directory")]
    Entries,
    /// The sizes of all files together do not fit.
    #[error("the files of one directory are longer than can be counted")]
    Bytes,
    /// The stripes pushed are not those of a file of the size that was said.
    #[error("stripes for {pushed} bytes were made, for a file of {size} bytes over {INLINE_BYTES_MAX}")]
    Stripes {
        /// Bytes in the stripes.
        pushed: u64,
        /// Size of the file.
        size: u64,
    },
}

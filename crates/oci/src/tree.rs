//! Layers as directories: a layer's tar is unpacked into a tree of its own, and what a command changed over such trees becomes
//! a tar again.
//!
//! A tree is one layer, in the form in which overlayfs takes it with `userxattr` (kernel documentation, "Overlay Filesystem"): a
//! character device 0:0 is a whiteout, and `user.overlay.opaque` on a directory hides what lies below it. Each layer is unpacked
//! by itself, as Docker's `overlay2` does, so that layers are shared between images.
//!
//! On file systems that have no such devices or attributes, no overlay can be mounted either: whiteouts are then files as in the tar
//! (`.wh.NAME`, `.wh..wh..opq`), and trees are copied.
//!
//! If the user who unpacks may not give files away, owners stand in an extended attribute of the files ([`OWNER`]).

mod changes;
mod list;
mod lower;
mod names;
mod unpack;

pub use changes::{Change, Changes, Form, Upper};
pub use list::{Listed, ListedKind, list, readable};
pub use unpack::{TreeError, unpack};

/// Extended attribute for the owner of a file that its user could not give away: `UID:GID` in decimal digits.
pub const OWNER: &str = "user.kiln.owner";
/// Prefix of extended attributes that its user could not set: `user.kiln.xattr.security.capability`.
pub const HELD: &str = "user.kiln.xattr.";
/// Extended attributes of overlayfs itself: those of a layer would change the meaning of the tree.
const OF_OVERLAY: [&str; 2] = ["user.overlay.", "trusted.overlay."];
const OPAQUE: &str = "user.overlay.opaque";

/// Owners of files that can have no attribute, by path without a leading slash.
pub type Others = std::collections::BTreeMap<Vec<u8>, (u32, u32)>;

/// The place where owners of files are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Owners {
    /// In the file system: this is root, perhaps of a namespace.
    Given,
    /// In extended attributes, and in [`Others`]: this is a user with one id. All files are the user's.
    Noted,
}

#[cfg(test)]
mod tests;

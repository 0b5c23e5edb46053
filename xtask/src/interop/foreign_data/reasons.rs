//! Differences from the peers that are meant.

/// Parts of messages about what kiln does not take and pip does: by its documentation, it refuses them.
const REASONS: [&str; 43] = [
    // Sources.
    "and kiln installs wheels",
    "is not taken: kiln installs wheels",
    "is not taken: it is source",
    "asks to build sources",
    "concerns building",
    "are only known once it is built",
    "is built from",
    // Wheels that are no wheels, and other places.
    "is not the file name of a wheel",
    ", a wheel of",
    "the wheel is one of",
    ":` is not taken",
    "this URL has no host",
    "this URL cannot be read",
    "this is not the URL of a file here",
    "this is not the address of an index",
    "the part of the URL after `#` is not taken",
    "is a version and no URL",
    "credentials in a requirements file are not taken",
    // Hashes.
    "this is no sha256",
    "has no sha256",
    "a hash that is given is always checked",
    "`--hash` belongs to no requirement",
    // Options.
    "where pip ignores it",
    "where pip reads only one",
    "is no option",
    "certificates are always checked",
    "there are two default indexes",
    "` is not taken (",
    "would come from the environment",
    // Versions and names that no package has.
    "`===` compares text",
    "is no package name",
    "is no extra",
    "these are not versions of Python",
    "it has white space",
    "it holds a control character",
    // Markers that tools read in different ways, or that nobody can evaluate.
    "asks for the kernel",
    "orders texts",
    "compares two",
    "does not compare with a plain version",
    "is read by no tool",
    "looks for a text in a text",
    "compares text, and some tools compare versions",
    "names no extra",
];
const MORE: [&str; 10] = [
    "asks for more than two numbers",
    "the encoding `",
    "a URL with `;` is not taken",
    "has no meaning",
    "a marker consists of ASCII characters",
    "its marker has ",
    "at its line",
    "`extra` has no value",
    "is there twice",
    "this is not a string",
];
/// Parts of the peers' messages about what kiln takes: it is read in one way by everybody.
const LENIENT: [&str; 5] = [
    // Sources are not looked at.
    ".sdist'",
    "is not normalized",
    "'created-by'",
    ".hashes'",
    // pip 26.3 as a library cannot read an option of its own.
    "handle_mutual_excludes",
];

/// Returns true for a reason of kiln's that its documentation gives.
pub(super) fn is_reason(reason: &str) -> bool {
    REASONS.iter().chain(&MORE).any(|known| reason.contains(known))
}

/// Returns true where kiln may take what a peer refuses.
pub(super) fn is_leniency(why: &str) -> bool {
    LENIENT.iter().any(|known| why.contains(known))
}

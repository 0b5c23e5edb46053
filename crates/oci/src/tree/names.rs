//! Paths of members, as components.

/// Splits a member's path into components: without leading slashes, `.` and empty ones. `None` if it leaves the root.
pub(super) fn components(path: &[u8]) -> Option<Vec<&[u8]>> {
    let mut names = Vec::new();
    for name in path.split(|byte| *byte == b'/') {
        match name {
            b"" | b"." => {}
            b".." => return None,
            name if name.contains(&0) => return None,
            name => names.push(name),
        }
    }
    Some(names)
}

/// Returns a path for messages.
pub(super) fn shown(path: &[u8]) -> String {
    String::from_utf8_lossy(path).escape_debug().to_string()
}

//! Whiteouts: names by which a layer deletes files of the layers below it (OCI image specification, "Whiteouts").
//!
//! A file of such a name cannot be in a layer: whatever unpacks the layer deletes another file instead of writing this one.

/// The beginning of a whiteout's name.
pub const PREFIX: &str = ".wh.";

/// Returns the first component of a path that is the name of a whiteout.
pub fn component(path: &str) -> Option<&str> {
    path.split('/').find(|name| name.starts_with(PREFIX))
}

/// Returns a clause about such a component, for messages.
pub fn problem(component: &str) -> String {
    format!(
        "no layer can hold a file named `{component}`: names that begin with `{PREFIX}` delete files of the layers below"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_component_of_a_path_is_looked_at() {
        assert_eq!(component("opt/.wh.x/y"), Some(".wh.x"));
        assert_eq!(component(".wh..wh..opq"), Some(".wh..wh..opq"));
        assert_eq!(component("opt/a.wh.b/.wh/.who"), None);
    }
}

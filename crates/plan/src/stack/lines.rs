//! Lines of a stack file: where a key stands.

use toml::de::{DeTable, DeValue};

/// The line, from 1, of a key that is named with those above it: the deepest of them that the text has. Nothing where
/// it has none, or is no TOML.
pub fn line_of(text: &str, path: &[&str]) -> Option<usize> {
    let document = DeTable::parse(text).ok()?;
    let mut table = document.get_ref();
    let mut found = None;
    for name in path {
        let Some((key, value)) = table.iter().find(|(key, _)| key.get_ref() == name) else { break };
        found = Some(key.span().start);
        match value.get_ref() {
            DeValue::Table(inner) => table = inner,
            _ => break,
        }
    }
    found.map(|at| line_at(text, at))
}

/// Returns the line, from 1 on, of a byte of a stack file.
pub fn line_at(text: &str, at: usize) -> usize {
    1 + text.bytes().take(at).filter(|byte| *byte == b'\n').count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_found_however_it_is_written() {
        let text = "[stack]\nname = \"x\"\n\n[images.train]\nfrom = \"scratch\"\nenv = { A = \"1\",\n  B = \"2\" }\n\n\
                    [images.train.labels]\nx = \"y\"\n";
        assert_eq!(line_of(text, &["images", "train", "from"]), Some(5));
        assert_eq!(line_of(text, &["images", "train", "env", "B"]), Some(7));
        assert_eq!(line_of(text, &["images", "train", "labels", "x"]), Some(10));
        assert_eq!(line_of(text, &["images", "train", "env", "C"]), Some(6));
        assert_eq!(line_of(text, &["target", "python"]), None);
        assert_eq!(line_of("no toml [", &["stack"]), None);
    }
}

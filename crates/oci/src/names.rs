//! File names as text. A name is any bytes; one that is not UTF-8 is held as text in which each byte that belongs to no
//! character is a private-use character, U+10FF00 plus the byte, and is written to a layer as it was.

/// The first of the characters that stand for bytes.
const FIRST: u32 = 0x0010_FF00;

/// Returns the text of a name; `None` where the name holds a character that stands for a byte.
pub fn text(name: &[u8]) -> Option<String> {
    let mut text = String::with_capacity(name.len());
    for chunk in name.utf8_chunks() {
        if chunk.valid().chars().any(|character| byte(character).is_some()) {
            return None;
        }
        text.push_str(chunk.valid());
        text.extend(chunk.invalid().iter().filter_map(|byte| char::from_u32(FIRST + u32::from(*byte))));
    }
    Some(text)
}

/// Returns the name that a text stands for.
pub fn bytes(text: &str) -> Vec<u8> {
    let mut name = Vec::with_capacity(text.len());
    for character in text.chars() {
        match byte(character) {
            Some(byte) => name.push(byte),
            None => name.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes()),
        }
    }
    name
}

fn byte(character: char) -> Option<u8> {
    // Bytes below 0x80 are characters themselves.
    u8::try_from(u32::from(character).checked_sub(FIRST)?).ok().filter(|byte| *byte >= 0x80)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_name_that_is_utf8_is_its_own_text() {
        assert_eq!(text("naïve 文".as_bytes()).unwrap(), "naïve 文");
        assert_eq!(text(b"caf\xe9").unwrap(), "caf\u{10ffe9}");
        assert_eq!(text("\u{10ffe9}".as_bytes()), None, "its text would stand for another name");
    }

    proptest! {
        #[test]
        fn a_text_stands_for_the_name_that_it_was_made_of(name in prop::collection::vec(any::<u8>(), 0..40)) {
            if let Some(text) = text(&name) {
                prop_assert_eq!(bytes(&text), name);
            }
        }
    }
}

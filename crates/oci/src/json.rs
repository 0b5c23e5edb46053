//! JSON as Go's programs write and read it: most documents of images are theirs.
//!
//! Go's decoder (encoding/json, "Unmarshal") takes null for whatever is absent, matches the names of members without
//! regard to case, and puts U+FFFD for what is not Unicode. A [`Shape`] says which members a document has; a value that
//! was tidied by it has none of this left, and its unknown members are as they were.

use serde_json::{Map, Value, json};

use crate::error::OciError;

/// The shape of a value, as far as kiln reads it.
#[derive(Debug)]
pub enum Shape {
    /// Anything.
    Any,
    /// A string.
    Text,
    /// An integer. Go's programs write -1 for a size that they do not know, which is 0 here.
    Number,
    /// `true` or `false`.
    Flag,
    /// An array.
    List(&'static Self),
    /// An object whose members all have one shape.
    Map(&'static Self),
    /// An object with these members.
    Object(&'static [(&'static str, Self)]),
}

/// A document that others write, and whose shape is known.
pub trait Foreign: serde::de::DeserializeOwned {
    /// Its shape.
    #[doc(hidden)]
    fn tidy(value: &mut Value);
}

/// Reads a document that came from outside.
pub fn from_json<T: Foreign>(bytes: &[u8], what: &str) -> Result<T, OciError> {
    let invalid = |source| OciError::Json { what: what.to_owned(), source };
    let mut value = parse(bytes).map_err(invalid)?;
    T::tidy(&mut value);
    serde_json::from_value(value).map_err(invalid)
}

/// Parses JSON whose strings may hold what is not Unicode.
pub(crate) fn parse(bytes: &[u8]) -> Result<Value, serde_json::Error> {
    let text = String::from_utf8_lossy(bytes);
    match serde_json::from_str(&text) {
        Err(error) if error.is_syntax() && text.contains("\\u") => serde_json::from_str(&with_whole_pairs(&text)),
        parsed => parsed,
    }
}

/// Replaces halves of surrogate pairs that stand alone.
fn with_whole_pairs(text: &str) -> String {
    let unit = |at: &str| {
        let digits = at.strip_prefix("\\u")?.get(..4)?;
        u16::from_str_radix(digits, 16).ok().filter(|_| !digits.starts_with('+'))
    };
    let mut whole = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('\\') {
        whole.push_str(&rest[..at]);
        rest = &rest[at..];
        let taken = match (unit(rest), rest.get(6..).and_then(unit)) {
            (Some(0xd800..=0xdbff), Some(0xdc00..=0xdfff)) => 12,
            (Some(0xd800..=0xdfff), _) => {
                whole.push('\u{fffd}');
                rest = &rest[6..];
                continue;
            }
            // The escaped character may be a backslash, which escapes nothing then.
            _ => 1 + rest[1..].chars().next().map_or(0, char::len_utf8),
        };
        whole.push_str(&rest[..taken]);
        rest = &rest[taken..];
    }
    whole + rest
}

/// Brings a value into a shape, where Go's decoder would.
pub fn tidy(value: &mut Value, shape: &Shape) {
    match (value, shape) {
        (Value::Object(members), Shape::Object(known)) => tidy_members(members, known),
        (Value::Object(members), Shape::Map(of)) => members.values_mut().for_each(|value| tidy_element(value, of)),
        (Value::Array(elements), Shape::List(of)) => elements.iter_mut().for_each(|value| tidy_element(value, of)),
        (number @ Value::Number(_), Shape::Number) if number.as_i64().is_some_and(|number| number < 0) => {
            *number = json!(0);
        }
        _ => {}
    }
}

fn tidy_members(members: &mut Map<String, Value>, known: &[(&str, Shape)]) {
    for (name, mut value) in std::mem::take(members) {
        let found = known.iter().find(|(known, _)| name.eq_ignore_ascii_case(known));
        match found {
            // Of equal names the last that is not null counts.
            Some(_) if value.is_null() => {}
            Some((known, shape)) => {
                tidy(&mut value, shape);
                members.insert((*known).to_owned(), value);
            }
            None => {
                members.insert(name, value);
            }
        }
    }
}

/// An element that is null has the value that Go gives to what is absent.
fn tidy_element(value: &mut Value, shape: &Shape) {
    if value.is_null() {
        *value = match shape {
            Shape::Any => return,
            Shape::Text => json!(""),
            Shape::Number => json!(0),
            Shape::Flag => json!(false),
            Shape::List(_) => json!([]),
            Shape::Map(_) | Shape::Object(_) => json!({}),
        };
    }
    tidy(value, shape);
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHAPE: Shape = Shape::Object(&[
        ("mediaType", Shape::Text),
        ("size", Shape::Number),
        ("annotations", Shape::Map(&Shape::Text)),
        ("layers", Shape::List(&Shape::Object(&[("urls", Shape::List(&Shape::Text))]))),
    ]);

    fn tidied(text: &str) -> Value {
        let mut value = parse(text.as_bytes()).unwrap();
        tidy(&mut value, &SHAPE);
        value
    }

    #[test]
    fn null_is_absent_wherever_it_stands() {
        for (written, meant) in [
            (r#"{"mediaType": null, "size": null, "annotations": null}"#, json!({})),
            (r#"{"annotations": {"a": null}}"#, json!({ "annotations": { "a": "" } })),
            (r#"{"layers": [null, {"urls": [null]}]}"#, json!({ "layers": [{}, { "urls": [""] }] })),
            (r#"{"size": -1}"#, json!({ "size": 0 })),
        ] {
            assert_eq!(tidied(written), meant, "{written}");
        }
    }

    #[test]
    fn names_have_no_case_and_unknown_members_stay() {
        let meant = json!({ "mediaType": "b", "other": null, "Annotation": 1 });
        assert_eq!(tidied(r#"{"MEDIATYPE": "a", "other": null, "Annotation": 1, "mediatype": "b"}"#), meant);
    }

    #[test]
    fn strings_that_are_not_unicode_are_read() {
        for (written, meant) in [
            (&b"{\"mediaType\": \"a\xff\"}"[..], "a\u{fffd}"),
            (br#"{"mediaType": "\ud800"}"#, "\u{fffd}"),
            (br#"{"mediaType": "\udc00\ud800x"}"#, "\u{fffd}\u{fffd}x"),
            (br#"{"mediaType": "\ud83d\ude00"}"#, "😀"),
            (br#"{"mediaType": "\\ud800\ud800"}"#, "\\ud800\u{fffd}"),
        ] {
            assert_eq!(parse(written).unwrap()["mediaType"], meant);
        }
        for wrong in [&b"{"[..], br#"{"a": "\u12"}"#, br#"{"a": "\"#, b"\\u\xff"] {
            assert!(parse(wrong).is_err());
        }
    }
}

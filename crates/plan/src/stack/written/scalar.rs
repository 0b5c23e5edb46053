//! Values that are a string or a flag in the ordinary case, and a table where more is to be said.

/// A string or a flag, or a table that is read as `T` with the places of its values kept: serde's untagged enums lose both the
/// places and the names of unknown keys.
macro_rules! scalar_or_table {
    (@visit string, $type:ty, $scalar:path) => {
        fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<$type, E> {
            Ok($scalar(text.to_owned()))
        }
    };
    (@visit boolean, $type:ty, $scalar:path) => {
        fn visit_bool<E: serde::de::Error>(self, value: bool) -> Result<$type, E> {
            Ok($scalar(value))
        }
    };
    ($kind:ident, $type:ty, $scalar:path, $table:path, $inner:ty, $expected:literal) => {
        impl<'de> serde::Deserialize<'de> for $type {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                struct Visitor;
                impl<'de> serde::de::Visitor<'de> for Visitor {
                    type Value = $type;
                    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                        f.write_str($expected)
                    }
                    $crate::stack::written::scalar::scalar_or_table!(@visit $kind, $type, $scalar);
                    fn visit_map<A: serde::de::MapAccess<'de>>(self, map: A) -> Result<$type, A::Error> {
                        <$inner as serde::Deserialize>::deserialize(serde::de::value::MapAccessDeserializer::new(map)).map(|table| $table(table.into()))
                    }
                }
                deserializer.deserialize_any(Visitor)
            }
        }

        impl schemars::JsonSchema for $type {
            fn schema_name() -> std::borrow::Cow<'static, str> {
                stringify!($type).into()
            }
            fn json_schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
                let table = generator.subschema_for::<$inner>();
                schemars::json_schema!({ "anyOf": [{ "type": stringify!($kind) }, table] })
            }
        }
    };
}

pub(super) use scalar_or_table;

//! Values that are a string or a flag in the ordinary case, and a table where more is to be said; and lists of them.

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::value::{MapAccessDeserializer, SeqAccessDeserializer};
use serde::de::{Error, IntoDeserializer as _, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};

use crate::stack::spanned::Spanned;

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

        impl $crate::stack::written::scalar::Expected for $type {
            const EXPECTED: &'static str = $expected;
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

/// A value that says in errors what it may be.
pub trait Expected {
    /// A noun phrase.
    const EXPECTED: &'static str;
}

/// One value that is a string or a table, or a list of them.
#[derive(Debug, Clone)]
pub enum OneOrList<T> {
    /// One.
    One(T),
    /// Any number.
    List(Vec<Spanned<T>>),
}

impl<'de, T: Deserialize<'de> + Expected> Deserialize<'de> for OneOrList<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(OneOrListVisitor(PhantomData))
    }
}

struct OneOrListVisitor<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de> + Expected> Visitor<'de> for OneOrListVisitor<T> {
    type Value = OneOrList<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, or a list of them", T::EXPECTED.replace(", or ", ", "))
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<OneOrList<T>, E> {
        T::deserialize(text.into_deserializer()).map(OneOrList::One)
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<OneOrList<T>, A::Error> {
        T::deserialize(MapAccessDeserializer::new(map)).map(OneOrList::One)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<OneOrList<T>, A::Error> {
        Vec::deserialize(SeqAccessDeserializer::new(list)).map(OneOrList::List)
    }
}

impl<T: JsonSchema> JsonSchema for OneOrList<T> {
    fn schema_name() -> Cow<'static, str> {
        format!("OneOrListOf{}", T::schema_name()).into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let one = generator.subschema_for::<T>();
        json_schema!({ "anyOf": [one.clone(), { "type": "array", "items": one }] })
    }
}

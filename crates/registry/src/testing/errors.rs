//! Errors as registries write them.

use kiln_testing::http::Answer;
use serde_json::json;

/// An error with one of the codes of the distribution specification.
pub(super) fn error(status: u16, code: &str, message: &str) -> Answer {
    Answer::new(status).json(&json!({ "errors": [{ "code": code, "message": message }] }))
}

//! `RequestId`: what ties an answer to its request.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use serde_json::value::RawValue;

use super::Problem;

/// A client's name for its request: a JSON number or string, echoed exactly as it came.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct RequestId(Box<str>);

impl RequestId {
    /// The longest id, in bytes of JSON.
    pub const MAX_BYTES: usize = 64;

    /// The id as it stands in JSON.
    pub fn as_json(&self) -> &str {
        &self.0
    }

    pub(super) fn from_raw(raw: &RawValue) -> Result<Self, Problem> {
        let json = raw.get();
        let number_or_string =
            json.starts_with(|c: char| c == '"' || c == '-' || c.is_ascii_digit());
        if number_or_string && json.len() <= Self::MAX_BYTES {
            Ok(Self(json.into()))
        } else {
            Err(Problem::BadId)
        }
    }
}

impl From<u64> for RequestId {
    fn from(number: u64) -> Self {
        Self(number.to_string().into())
    }
}

/// From JSON text: `7` or `"seven"`.
impl FromStr for RequestId {
    type Err = Problem;

    fn from_str(json: &str) -> Result<Self, Problem> {
        Self::from_raw(serde_json::from_str(json).map_err(|_| Problem::BadId)?)
    }
}

impl Serialize for RequestId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let raw: &RawValue = serde_json::from_str(&self.0).expect("only JSON becomes a RequestId");
        raw.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for RequestId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let raw = Box::<RawValue>::deserialize(deserializer)?;
        Self::from_raw(&raw).map_err(de::Error::custom)
    }
}

impl JsonSchema for RequestId {
    fn schema_name() -> Cow<'static, str> {
        "RequestId".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "A request's id, echoed as it came; at most 64 bytes of JSON.",
            "type": ["number", "string"],
        })
    }
}

impl fmt::Debug for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

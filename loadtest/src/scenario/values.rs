//! Durations and sizes as people write them.

use std::time::Duration;

use bytesize::ByteSize;
use serde::de::Error;
use serde::{Deserialize, Deserializer};

/// `"250ms"`, `"10s"`, `"1m 30s"`.
pub fn duration<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    let text = String::deserialize(deserializer)?;
    humantime::parse_duration(&text)
        .map_err(|_| D::Error::custom(format!("{text:?} is not a duration, as \"10s\" is")))
}

/// The same, for what may be left out.
pub fn optional_duration<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<Duration>, D::Error> {
    duration(deserializer).map(Some)
}

/// `128`, `"16KiB"`.
pub fn size<'de, D: Deserializer<'de>>(deserializer: D) -> Result<usize, D::Error> {
    Ok(ByteSize::deserialize(deserializer)?.as_u64() as usize)
}

/// A list of sizes.
pub fn sizes<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<usize>, D::Error> {
    let sizes = Vec::<ByteSize>::deserialize(deserializer)?;
    Ok(sizes.into_iter().map(|size| size.as_u64() as usize).collect())
}

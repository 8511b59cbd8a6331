//! The search for destinations: SCAN over the histories of the source, from connections of its own.

use std::sync::Arc;
use std::time::{Duration, Instant};

use fanlight_proto::Destination;
use futures_util::future::join_all;
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};
use tracing::warn;

use super::Core;
use crate::connection::{Connection, ConnectionError};
use crate::history::LIST;
use crate::names::Partition;
use crate::resp3::Value;
use crate::shard::Shard;

/// What a search tells.
#[derive(Debug)]
pub(super) enum Found {
    /// One that is to be relayed.
    Destination(Destination, Partition),
    /// Everything that was there all the while has been told.
    Complete,
}

/// Searches again and again, as long as it is polled. It waits for whoever takes what it finds.
pub(super) async fn run(core: Arc<Core>, found: mpsc::Sender<Found>) {
    let mut told = None;
    loop {
        let shards = core.source.shards.all();
        let scans = shards.iter().map(|shard| scan(&core, shard, &found));
        let scans = join_all(scans).await;
        let error = scans.iter().find_map(|scan| scan.as_ref().err().map(ToString::to_string));
        if error.is_none() && !shards.is_empty() {
            core.meters.scans.increment(1);
            if found.send(Found::Complete).await.is_err() {
                return;
            }
        }
        if error != told {
            if let Some(error) = &error {
                let cell = &core.options.source_cell;
                warn!("cell {cell}: the search for destinations failed: {error}; trying again");
            }
            told = error;
        }
        sleep(core.options.scan_interval).await;
    }
}

/// Searches one shard.
async fn scan(
    core: &Core,
    shard: &Shard,
    found: &mpsc::Sender<Found>,
) -> Result<(), ConnectionError> {
    let mut connection = shard.context.connect("relay").await?;
    let pattern = core.source.names.any_key(LIST);
    let mut cursor = String::from("0");
    let mut misplaced = None;
    loop {
        let begun = Instant::now();
        let (next, keys) = page(core, &mut connection, &cursor, &pattern).await?;
        let took = begun.elapsed();
        for key in keys {
            let Some((tag, text)) = core.source.names.parts(&key, LIST) else { continue };
            let Ok(destination) = text.parse::<Destination>() else { continue };
            let Some(place) = core.place(&destination) else { continue };
            if place.partition.tag() != tag {
                misplaced = Some(destination);
                continue;
            }
            let found = found.send(Found::Destination(destination, place.partition));
            if found.await.is_err() {
                return Ok(());
            }
        }
        if next == "0" {
            break;
        }
        cursor = next;
        // So that it takes no more than a fifth of the server's time.
        sleep((took * PAUSES).min(PAUSE_MAX)).await;
    }
    if let Some(destination) = misplaced {
        warn!(
            ?destination,
            "the source keeps this elsewhere, so it is not relayed: both cells must have the same \
             namespaces, with the same `patterns`"
        );
    }
    Ok(())
}

async fn page(
    core: &Core,
    connection: &mut Connection,
    cursor: &str,
    pattern: &[u8],
) -> Result<(String, Vec<bytes::Bytes>), ConnectionError> {
    let words = [b"SCAN", cursor.as_bytes(), b"MATCH", pattern, b"COUNT", COUNT];
    let after = core.source.config.response_timeout;
    let answer = timeout(after, connection.ask("SCAN", &words)).await;
    let during = "to SCAN";
    let answer = answer.map_err(|_| ConnectionError::TimedOut { during, after })??;
    let Value::Array(parts) = answer else { return Err(ConnectionError::Unasked) };
    let [cursor, Value::Array(keys)] = &parts[..] else { return Err(ConnectionError::Unasked) };
    let cursor = cursor.as_text().ok_or(ConnectionError::Unasked)?.to_owned();
    let keys = keys.iter().filter_map(|key| match key {
        Value::Bulk(key) => Some(key.clone()),
        _ => None,
    });
    Ok((cursor, keys.collect()))
}

/// Keys looked at by one SCAN, which takes about half a millisecond.
const COUNT: &[u8] = b"1000";
/// The pause after each, as so many times what it took.
const PAUSES: u32 = 4;
const PAUSE_MAX: Duration = Duration::from_millis(100);

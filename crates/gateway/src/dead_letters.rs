//! Dead letters: moving them to where their queue says, whether or not it has consumers.

use std::sync::Arc;
use std::time::Duration;

use fanlight_engine::broker::Channel;
use fanlight_engine::history::IdempotencyKey;
use fanlight_engine::policy::PublishPermit;
use fanlight_engine::queue::{self, Dead, Fetched, Queue, QueueError, QueueOptions};
use fanlight_proto::Destination;
use metrics::counter;
use tokio::time::sleep;

use crate::worker::WorkerShared;

/// Moves what no consumer fetches, for as long as the node lives. With several nodes, one of them
/// finds it.
pub async fn run(shared: Arc<WorkerShared>) {
    loop {
        sleep(TURN).await;
        // What is not moved now is found again.
        let Ok(found) = shared.queues.dead().await else { continue };
        for Dead { destination, entries } in found {
            let queue = queue_of(&shared, destination);
            let Ok(dead) = shared.queues.take_dead(&queue, &entries).await else { continue };
            bury(Arc::clone(&shared), Arc::new(queue), dead).await;
        }
    }
}

/// Moves dead letters, one after the other: published first, so that none is lost. What can't be
/// published now stays as it is, with all after it, and is found again after the ack timeout.
pub async fn bury(shared: Arc<WorkerShared>, queue: Arc<Queue>, dead: Vec<Fetched>) {
    for letter in dead {
        let result = bury_one(&shared, &queue, &letter).await;
        counter!("fanlight_queue_dead_letters_total", "result" => result).increment(1);
        if result == FAILED {
            return;
        }
    }
}

async fn bury_one(shared: &WorkerShared, queue: &Queue, letter: &Fetched) -> &'static str {
    let mut result = "dropped";
    if let Some(to) = &queue.options.dead_letter {
        let namespaces = shared.rules.policy.namespaces();
        let Ok(permit) = PublishPermit::for_backend(namespaces, to) else { return FAILED };
        let publication = queue::dead_letter(letter, permit.destination().clone());
        // Should the next step fail, this one is not repeated.
        let key = format!("dead {} {}", queue.destination, letter.delivery.entry);
        let key = IdempotencyKey::new(key);
        if shared.broker.publish_once(permit, publication, key).await.is_err() {
            return FAILED;
        }
        result = "moved";
    }
    match shared.queues.ack(queue, &[letter.delivery.entry]).await {
        Ok(()) => result,
        Err(QueueError::Unavailable) => FAILED,
    }
}

/// The queue at a destination. Where there is none any more, nothing is a dead letter.
fn queue_of(shared: &WorkerShared, destination: Destination) -> Queue {
    let permit = PublishPermit::for_backend(shared.rules.policy.namespaces(), &destination);
    let options = permit.ok().and_then(|permit| permit.options().queue.clone());
    let never = || QueueOptions { max_deliveries: u32::MAX, ..QueueOptions::default() };
    let channel = Channel::of_destination(destination.to_shared());
    Queue { destination, channel, options: options.unwrap_or_else(never) }
}

const FAILED: &str = "failed";
const TURN: Duration = Duration::from_secs(1);

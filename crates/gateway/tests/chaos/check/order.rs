//! A publisher's messages keep the order in which it sent them.

use std::collections::HashMap;

use fanlight_proto::Position;

use super::{Known, Rule, Violation};
use crate::record::{Content, Outcome, Run, Send, What};

/// What was acknowledged stands before what its publisher sent later over the same connection, and
/// before all that it sent after the answer. What had no answer may still be under way when its
/// publisher has gone on; and what only the subscribers of one node got went past whatever was on
/// its way to that node.
pub(super) fn check(run: &Run, destination: usize, known: &Known, out: &mut Vec<Violation>) {
    let mut sends: HashMap<Content, &Send> = HashMap::new();
    for send in run.sends.iter().filter(|send| send.content.destination == destination) {
        sends.insert(send.content, send);
    }
    let at_end = |text| Violation {
        rule: Rule::PublisherOrder,
        destination: Some(destination),
        subscriber: None,
        at_ms: u64::MAX,
        text,
    };
    for epoch in epochs(known) {
        let in_epoch = known.all().filter(|(position, _)| position.epoch == epoch);
        let contents: Vec<_> = in_epoch.map(|(_, content)| content).collect();
        out.extend(misplaced(&sends, &contents).map(|(_, text)| at_end(text)));
    }
    if run.destinations[destination].history {
        // Subscribers are held to the positions.
        return;
    }
    for (index, subscriber) in run.subscribers.iter().enumerate() {
        let heard = subscriber.heard.iter().filter(|heard| heard.destination == destination);
        let heard: Vec<_> = heard.collect();
        // A node may hear late what the subscriber got elsewhere before it came.
        for visit in heard.split(|heard| matches!(heard.what, What::Asks { .. })) {
            let mut contents = Vec::new();
            let mut times = HashMap::new();
            for heard in visit {
                if let What::Message { content: Some(content), .. } = heard.what {
                    contents.push(content);
                    times.insert(content, heard.at_ms);
                }
            }
            out.extend(misplaced(&sends, &contents).map(|(content, text)| {
                let at_ms = times[&content];
                Violation { subscriber: Some(index), at_ms, ..at_end(text) }
            }));
        }
    }
}

fn epochs(known: &Known) -> Vec<u64> {
    let mut epochs: Vec<_> = known.all().map(|(Position { epoch, .. }, _)| epoch).collect();
    epochs.dedup();
    epochs
}

/// Each content that comes after one that was sent later.
fn misplaced<'r>(
    sends: &'r HashMap<Content, &Send>,
    contents: &'r [Content],
) -> impl Iterator<Item = (Content, String)> + 'r {
    // By publisher and connection: the send of the highest number so far.
    let mut highest: HashMap<(usize, u64), &Send> = HashMap::new();
    contents.iter().filter_map(move |content| {
        let send = *sends.get(content)?;
        if matches!(send.outcome, Outcome::Acked { degraded: true, .. }) {
            return None;
        }
        let mut later = highest.values().filter(|before| {
            let bound =
                before.connection == send.connection || send.ended_at_ms < before.sent_at_ms;
            before.content.publisher == content.publisher
                && before.content.number > content.number
                && send.acked()
                && bound
        });
        let later = later.next().map(|before| before.content);
        let key = (content.publisher, send.connection);
        let before = highest.entry(key).or_insert(send);
        if before.content.number < content.number {
            *before = send;
        }
        Some((*content, format!("{content:?} comes after {:?}", later?)))
    })
}

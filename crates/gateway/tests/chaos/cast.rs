//! Who takes part in a run: destinations, and those who publish, listen and consume.

use crate::consumer::Mode;
use crate::record::{self, Destination, QueueRules};
use crate::subscriber::Habit;
use crate::wire::Protocol;

/// As the checker wants them: topics, then queues.
pub fn destinations() -> Vec<Destination> {
    let topic = |(name, target, history, owner): (&str, &str, bool, Option<&str>)| {
        let name = if owner.is_some() { target } else { name };
        let owner = owner.map(str::to_owned);
        Destination { name: name.to_owned(), history, owner, queue: None }
    };
    let queue = |(name, dead_letter): (&str, Option<usize>)| Destination {
        name: name.to_owned(),
        history: false,
        owner: None,
        queue: Some(QueueRules { ack_timeout_ms: ACK_TIMEOUT_MS, dead_letter }),
    };
    TOPICS.into_iter().map(topic).chain(QUEUES.into_iter().map(queue)).collect()
}

/// Where publishers publish, by destination; to the dead letters they don't.
pub fn targets() -> Vec<String> {
    let topics = TOPICS.iter().map(|(_, target, _, _)| *target);
    let queues = QUEUES.iter().filter(|(_, dead_letter)| dead_letter.is_some());
    topics.chain(queues.map(|(name, _)| *name)).map(str::to_owned).collect()
}

/// As the checker wants them.
pub fn consumers() -> Vec<record::Consumer> {
    let consumer =
        |(index, (name, _, mode, _, destination)): (usize, &(&str, _, Mode, _, usize))| {
            record::Consumer {
                name: (*name).to_owned(),
                user: consumer_name(index),
                destination: *destination,
                is_auto: *mode == Mode::Auto,
            }
        };
    CONSUMERS.iter().enumerate().map(consumer).collect()
}

/// By how much a message there is longer than it needs to be. A history must be kept; what is
/// not can be large, so that it soon fills what holds it for a slow connection.
pub fn padding_bytes(destination: usize) -> usize {
    match destination {
        KEPT_BULK => 4 * 1024,
        OPEN_BULK => 56 * 1024,
        _ => 0,
    }
}

pub fn publisher_name(index: usize) -> String {
    format!("publisher-{index}")
}

pub fn consumer_name(index: usize) -> String {
    format!("consumer-{index}")
}

/// All users, each once.
pub fn users() -> Vec<String> {
    let mut users: Vec<_> = LISTENERS.iter().map(|(_, user, ..)| (*user).to_owned()).collect();
    users.extend((0..=PUBLISHERS.len()).map(publisher_name));
    users.extend((0..CONSUMERS.len()).map(consumer_name));
    users.sort();
    users.dedup();
    users
}

/// What subscribers call it, what publishers call it, whether it has history, and whose it is.
pub const TOPICS: [(&str, &str, bool, Option<&str>); 9] = [
    ("/topic/kept.a", "/topic/kept.a", true, None),
    ("/topic/kept.b", "/topic/kept.b", true, None),
    ("/topic/open.a", "/topic/open.a", false, None),
    ("/user/queue/kept", "/user/ann/queue/kept", true, Some("ann")),
    ("/user/queue/kept", "/user/bob/queue/kept", true, Some("bob")),
    ("/user/queue/open", "/user/ann/queue/open", false, Some("ann")),
    ("/user/queue/open", "/user/bob/queue/open", false, Some("bob")),
    ("/topic/kept.bulk", "/topic/kept.bulk", true, None),
    ("/topic/open.bulk", "/topic/open.bulk", false, None),
];

const KEPT_BULK: usize = 7;
/// Where the largest messages go.
pub const OPEN_BULK: usize = 8;

/// A queue, and the place of its dead letters among all destinations; those come last.
pub const QUEUES: [(&str, Option<usize>); 4] = [
    ("/queue/jobs.a", Some(DEAD_LETTERS)),
    ("/queue/jobs.b", Some(DEAD_LETTERS)),
    ("/queue/taken", Some(DEAD_LETTERS)),
    ("/queue/dead.jobs", None),
];

const JOBS_A: usize = TOPICS.len();
const JOBS_B: usize = TOPICS.len() + 1;
const TAKEN: usize = TOPICS.len() + 2;
const DEAD_LETTERS: usize = TOPICS.len() + 3;

/// Name, user, protocol, habit, and the places of its destinations.
pub const LISTENERS: [(&str, &str, Protocol, Habit, &[usize]); 14] = [
    ("native-stays", "cid", Protocol::Native, Habit::Stays, &[0, 1, 2]),
    ("stomp-stays", "cid", Protocol::Stomp, Habit::Stays, &[0, 1, 2]),
    ("native-restless", "dan", Protocol::Native, Habit::Restless, &[0, 1, 2]),
    ("stomp-restless", "dan", Protocol::Stomp, Habit::Restless, &[0, 1, 2]),
    ("native-forgetful", "eve", Protocol::Native, Habit::Forgetful, &[0, 2]),
    ("ann-native", "ann", Protocol::Native, Habit::Restless, &[3, 5, 0]),
    ("ann-stomp", "ann", Protocol::Stomp, Habit::Stays, &[3, 5]),
    ("bob-native", "bob", Protocol::Native, Habit::Restless, &[4, 6]),
    ("native-wanders", "fay", Protocol::Native, Habit::Wanders, &[0, 2]),
    ("stomp-wanders", "gus", Protocol::Stomp, Habit::Wanders, &[0, 1]),
    ("native-bulk", "cid", Protocol::Native, Habit::Stays, &[KEPT_BULK, OPEN_BULK]),
    ("native-stalls", "hal", Protocol::Native, Habit::Stalls, &[KEPT_BULK, OPEN_BULK]),
    ("stomp-stalls", "ida", Protocol::Stomp, Habit::Stalls, &[KEPT_BULK, OPEN_BULK]),
    ("stomp-stalls-too", "ida", Protocol::Stomp, Habit::Stalls, &[OPEN_BULK, 2]),
];

/// Name, protocol, how it acknowledges, whether it leaves every few seconds with whatever it
/// holds, and its queue.
pub const CONSUMERS: [(&str, Protocol, Mode, bool, usize); 9] = [
    ("native-individual", Protocol::Native, Mode::Individual, false, JOBS_A),
    ("stomp-individual-restless", Protocol::Stomp, Mode::Individual, true, JOBS_A),
    ("stomp-client-restless", Protocol::Stomp, Mode::Client, true, JOBS_A),
    ("stomp-client", Protocol::Stomp, Mode::Client, false, JOBS_B),
    ("native-individual-restless", Protocol::Native, Mode::Individual, true, JOBS_B),
    ("native-client-restless", Protocol::Native, Mode::Client, true, JOBS_B),
    ("native-auto", Protocol::Native, Mode::Auto, false, TAKEN),
    ("stomp-auto", Protocol::Stomp, Mode::Auto, false, TAKEN),
    ("undertaker", Protocol::Native, Mode::Individual, false, DEAD_LETTERS),
];

/// Protocol, and whether it names its publications so that it may repeat them.
pub const PUBLISHERS: [(Protocol, bool); 3] =
    [(Protocol::Native, false), (Protocol::Stomp, false), (Protocol::Native, true)];

/// The ack timeout of queues in a run.
pub const ACK_TIMEOUT_MS: u64 = 3_000;

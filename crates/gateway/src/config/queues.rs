//! Namespaces whose mode is "queue": their options, and what must hold of them.

use std::fmt;
use std::str::FromStr;

use fanlight_engine::policy::PublishPermit;
use fanlight_engine::queue::QueueOptions;
use fanlight_proto::{Destination, DestinationError};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::problem::Problem;
use super::values::{Span, as_text, words};
use super::{Config, Namespace};

words! {
    /// Who gets a message.
    #[derive(Default)]
    Mode {
        /// All who are subscribed.
        #[default]
        Topic = "topic",
        /// One of them.
        Queue = "queue",
    }
}

/// How queues behave.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default)]
pub struct Queue {
    /// The most messages that a subscription holds without having acknowledged them. Clients may
    /// ask for less. Default: 16.
    pub prefetch: u16,
    /// How long a consumer may take to acknowledge a message before it is delivered again.
    /// Default: "30s".
    pub ack_timeout: Span,
    /// How often a message is delivered before it becomes a dead letter. Default: 5.
    pub max_deliveries: u32,
    /// The most messages in one queue, those that consumers hold included; a full queue refuses
    /// more. Default: 10000.
    pub max_length: u32,
    /// How long a queue is kept, with all that is in it, that nobody publishes to or consumes.
    /// Default: "7days".
    pub expires_after: Span,
    /// Where dead letters go: a destination in another namespace. Absent: they are dropped.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dead_letter: Option<DeadLetter>,
}

/// A destination, as an option.
#[derive(Debug, Clone, PartialEq)]
pub struct DeadLetter(pub Destination);

impl FromStr for DeadLetter {
    type Err = DestinationError;

    fn from_str(text: &str) -> Result<Self, DestinationError> {
        text.parse().map(Self)
    }
}

impl fmt::Display for DeadLetter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

as_text!(DeadLetter, "DeadLetter", { "type": "string", "title": "destination" });

impl Queue {
    pub(super) fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

impl Default for Queue {
    fn default() -> Self {
        Self {
            prefetch: 16,
            ack_timeout: Span::seconds(30),
            max_deliveries: 5,
            max_length: 10_000,
            expires_after: Span::seconds(7 * 24 * 3600),
            dead_letter: None,
        }
    }
}

/// What does not hold together.
pub(super) fn problems(config: &Config, problems: &mut Vec<Problem>) {
    for (at, namespace) in config.namespaces.iter().enumerate() {
        let key = format!("namespaces[{at}].queue");
        if namespace.mode == Mode::Queue {
            bounds(&key, &namespace.queue, problems);
            dead_letter(config, &key, namespace, problems);
        } else if namespace.queue != Queue::default() {
            problems.push(Problem::new(
                key,
                "the mode of this namespace is not \"queue\"",
                "set `mode = \"queue\"`, or remove this table",
            ));
        }
    }
}

fn bounds(key: &str, queue: &Queue, problems: &mut Vec<Problem>) {
    for (option, value) in [
        ("prefetch", queue.prefetch.into()),
        ("ack_timeout", queue.ack_timeout.as_ms()),
        ("max_deliveries", queue.max_deliveries.into()),
        ("max_length", queue.max_length.into()),
        ("expires_after", queue.expires_after.as_ms()),
    ] {
        if value == 0 {
            let key = format!("{key}.{option}");
            problems.push(Problem::new(key, "zero", "set it above zero, or remove it"));
        }
    }
    let most = QueueOptions::PREFETCH_MAX;
    if queue.prefetch > most {
        let fault = format!("more than {most}");
        problems.push(Problem::new(format!("{key}.prefetch"), fault, "hold fewer messages"));
    }
    if queue.expires_after <= queue.ack_timeout {
        problems.push(Problem::new(
            format!("{key}.expires_after"),
            "not longer than ack_timeout: messages would be gone before they are acknowledged",
            "set it to hours or days",
        ));
    }
}

/// A dead letter must come to rest: it may die again, but not in a circle.
fn dead_letter(config: &Config, key: &str, namespace: &Namespace, problems: &mut Vec<Problem>) {
    let Ok(policy) = config.compiled_policy() else { return };
    let mut next = namespace.queue.to_domain().dead_letter;
    let mut seen = vec![namespace.queue.to_domain()];
    while let Some(destination) = next {
        let mut problem = |fault: &str, remedy: &str| {
            problems.push(Problem::new(format!("{key}.dead_letter"), fault, remedy));
        };
        let permit = match PublishPermit::for_backend(policy.namespaces(), &destination) {
            Ok(permit) => permit,
            Err(denied) => {
                let remedy = "add a [[namespaces]] that matches it";
                return problem(&denied.to_string(), remedy);
            }
        };
        let Some(queue) = permit.options().queue.clone() else { return };
        if seen.contains(&queue) {
            return problem(
                "dead letters would go round in a circle",
                "put the destination into another namespace, before this one, whose own dead \
                 letters go nowhere",
            );
        }
        let after = queue.dead_letter.clone();
        seen.push(queue);
        next = after;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The problems of namespaces written as TOML tables.
    fn faults(namespaces: &[&str]) -> Vec<String> {
        let tables = namespaces.iter().map(|table| format!("[[namespaces]]\n{table}\n"));
        let config: Config = toml::from_str(&tables.collect::<String>()).unwrap();
        let mut found = Vec::new();
        problems(&config, &mut found);
        found.iter().map(ToString::to_string).collect()
    }

    fn queue(name: &str, queue: &str) -> String {
        format!("name = '{name}'\nmatch = '/queue/{name}'\nmode = 'queue'\nqueue = {{ {queue} }}")
    }

    #[test]
    fn options_of_queues_need_the_mode() {
        let table = "name = 'a'\nmatch = '/queue/**'\nqueue = { prefetch = 1 }";
        let found = faults(&[table]);
        assert!(found[0].contains("namespaces[0].queue"), "{found:?}");
        assert_eq!(faults(&[&format!("{table}\nmode = 'queue'")]), [""; 0]);
    }

    #[test]
    fn every_option_of_a_queue_is_bounded() {
        for (option, remedy) in [
            ("prefetch = 0", "above zero"),
            ("prefetch = 1025", "hold fewer"),
            ("ack_timeout = '0s'", "above zero"),
            ("max_deliveries = 0", "above zero"),
            ("max_length = 0", "above zero"),
            ("expires_after = '30s'", "hours or days"),
        ] {
            let found = faults(&[&queue("a", option)]);
            let name = option.split(' ').next().unwrap();
            assert_eq!(found.len(), 1, "{option}: {found:?}");
            assert!(found[0].contains(name) && found[0].contains(remedy), "{found:?}");
        }
    }

    #[test]
    fn dead_letters_need_a_namespace_and_must_not_go_round() {
        let lost = queue("a", "dead_letter = '/topic/nowhere'");
        assert!(faults(&[&lost])[0].contains("no namespace"));
        let own = queue("a", "dead_letter = '/queue/a'");
        assert!(faults(&[&own])[0].contains("circle"));
        let (a, b) = (queue("a", "dead_letter = '/queue/b'"), queue("b", ""));
        assert_eq!(faults(&[&a, &b]), [""; 0]);
        let b = queue("b", "dead_letter = '/queue/a'");
        assert_eq!(faults(&[&a, &b]).len(), 2);
    }

    #[test]
    fn queues_have_neither_patterns_nor_history_nor_presence() {
        for option in ["patterns = true", "history = {}", "presence = true"] {
            let table = format!("name = 'a'\nmatch = '/queue/**'\nmode = 'queue'\n{option}");
            let config: Config = toml::from_str(&format!("[[namespaces]]\n{table}")).unwrap();
            let problem = config.compiled_policy().unwrap_err().to_string();
            assert!(problem.contains("namespaces[0].mode"), "{option}: {problem}");
        }
    }
}

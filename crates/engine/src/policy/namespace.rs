//! Namespaces, and the one absolute name of each destination.

use std::collections::HashSet;
use std::sync::Arc;

use fanlight_proto::destination::DestinationKind;
use fanlight_proto::{Destination, DestinationPattern};

use super::cover::Glob;
use super::rule::Names;
use super::{Denied, PolicyError, Subject};
use crate::broker::Channel;
use crate::conflate::Conflate;
use crate::history::History;
use crate::queue::QueueOptions;
use crate::session::headers;

/// A configured part of the destination space; the first that matches has a destination.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Namespace {
    /// Names it in errors and in broker channels: 1-64 of `a-z A-Z 0-9 _ -`.
    pub name: String,
    /// The destinations in it. User destinations match by `/user/queue/...` (without the name)
    /// as well as by `/user/{name}/queue/...`.
    pub pattern: String,
    /// Whether clients may subscribe to patterns in it. Its publications then travel on one
    /// channel to every node with a subscriber anywhere in it.
    pub patterns: bool,
    /// Whether sessions without a user may use it, as far as rules allow.
    pub anonymous: bool,
    /// What is done with its publications.
    pub options: NamespaceOptions,
}

impl Namespace {
    /// One for users, without patterns and options.
    pub fn new(name: &str, pattern: &str) -> Self {
        Self {
            name: name.to_owned(),
            pattern: pattern.to_owned(),
            patterns: false,
            anonymous: false,
            options: NamespaceOptions::default(),
        }
    }
}

/// What a namespace does with its publications.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NamespaceOptions {
    /// What is kept of each destination's publications; `None` keeps nothing.
    pub history: Option<History>,
    /// Whether it is kept and told who is subscribed to each destination.
    pub presence: bool,
    /// Each message goes to one consumer, and comes again until it is acknowledged; `None` gives
    /// it to all subscribers. Patterns, history and presence don't go with it.
    pub queue: Option<QueueOptions>,
    /// Whether it is recorded who subscribes to its destinations, and which are occupied.
    pub events: bool,
    /// How often a subscriber gets a message of a key at most; `None`: each. Neither history nor
    /// queues go with it.
    pub conflate: Option<Conflate>,
    /// The backend that has a say in who subscribes, beside the policy.
    pub subscribe_hook: Option<Arc<str>>,
    /// The same for who publishes.
    pub publish_hook: Option<Arc<str>>,
}

/// The namespaces, ready for matching.
#[derive(Debug, Clone, Default)]
pub struct Namespaces {
    ordered: Box<[Compiled]>,
}

#[derive(Debug, Clone)]
pub(super) struct Compiled {
    name: Box<str>,
    pattern: DestinationPattern,
    glob: Glob,
    /// Set where patterns are allowed.
    pub(super) channel: Option<Channel>,
    pub(super) anonymous: bool,
    pub(super) options: Arc<NamespaceOptions>,
}

/// The names of a destination or pattern, as one subject sees it.
#[derive(Debug)]
pub(super) struct Resolved {
    /// With the user or session in it, in canonical spelling.
    pub(super) absolute: String,
    /// The same without.
    pub(super) shown: String,
    /// Whether it is the subject's own.
    pub(super) is_own: bool,
}

impl Namespaces {
    /// Checks and compiles; the error names the faulty namespace.
    pub fn new(namespaces: &[Namespace]) -> Result<Self, PolicyError> {
        let mut names = HashSet::new();
        let mut ordered = Vec::with_capacity(namespaces.len());
        for Namespace { name, pattern, patterns, anonymous, options } in namespaces {
            if !is_good_name(name) {
                return Err(PolicyError::BadName { name: name.clone() });
            }
            if !names.insert(name) {
                return Err(PolicyError::DuplicateName { name: name.clone() });
            }
            if options.queue.is_some()
                && (*patterns || options.history.is_some() || options.presence)
            {
                return Err(PolicyError::NotForQueues { name: name.clone() });
            }
            check_conflation(name, options)?;
            let parsed = pattern.parse().map_err(|error| PolicyError::BadNamespacePattern {
                name: name.clone(),
                pattern: pattern.clone(),
                error,
            })?;
            ordered.push(Compiled {
                name: name.as_str().into(),
                pattern: parsed,
                glob: Glob::of(pattern),
                channel: patterns.then(|| Channel::of_namespace(name)),
                anonymous: *anonymous,
                options: Arc::new(options.clone()),
            });
        }
        Ok(Self { ordered: ordered.into() })
    }

    /// What is kept of the publications of `destination`, which is absolute.
    pub fn history(&self, destination: &Destination) -> Option<History> {
        self.of(destination)?.history_of(destination)
    }

    /// What the namespace of `destination`, which is absolute, is called.
    pub fn name_of(&self, destination: &Destination) -> Option<&str> {
        Some(&self.of(destination)?.name)
    }

    /// How the publications of `destination`, which is absolute, are conflated.
    pub fn conflate(&self, destination: &Destination) -> Option<&Conflate> {
        self.of(destination)?.options.conflate.as_ref()
    }

    /// Whether any are.
    pub fn any_conflated(&self) -> bool {
        self.ordered.iter().any(|namespace| namespace.options.conflate.is_some())
    }

    /// Whether sessions without a user have any use here.
    pub(super) fn any_anonymous(&self) -> bool {
        self.ordered.iter().any(|namespace| namespace.anonymous)
    }

    /// The one that has `destination`, which is absolute.
    pub(super) fn of(&self, destination: &Destination) -> Option<&Compiled> {
        let shown = destination.shown();
        let matches = |namespace: &&Compiled| {
            namespace.pattern.matches(destination.as_str()) || namespace.pattern.matches(&shown)
        };
        self.ordered.iter().find(matches)
    }

    /// The one that has every destination of a pattern.
    pub(super) fn covering(&self, absolute: &Glob, shown: &Glob) -> Result<&Compiled, Denied> {
        for namespace in &self.ordered {
            let glob = &namespace.glob;
            if glob.covers(absolute) || glob.covers(shown) {
                return Ok(namespace);
            }
            if glob.overlaps(absolute) || glob.overlaps(shown) {
                return Err(Denied::PatternTooWide);
            }
        }
        Err(Denied::NoNamespace)
    }
}

/// Positions would skip, and who recovers would be given what conflation spares it.
fn check_conflation(name: &str, options: &NamespaceOptions) -> Result<(), PolicyError> {
    let Some(conflate) = &options.conflate else { return Ok(()) };
    if options.history.is_some() || options.queue.is_some() {
        return Err(PolicyError::NotForConflation { name: name.to_owned() });
    }
    match &conflate.key_header {
        Some(header) if headers::is_reserved(header) => {
            Err(PolicyError::BadConflationKey { name: name.to_owned(), header: header.to_string() })
        }
        _ => Ok(()),
    }
}

impl Compiled {
    pub(super) fn channel_of(&self, destination: &Destination) -> Channel {
        let own = || Channel::of_destination(destination.to_shared());
        self.channel.clone().unwrap_or_else(own)
    }

    pub(super) fn history_of(&self, destination: &Destination) -> Option<History> {
        history_of(&self.options, destination)
    }
}

/// What is kept of a destination. Nothing of a session's private one: nobody could return to it.
pub(super) fn history_of(options: &NamespaceOptions, destination: &Destination) -> Option<History> {
    options.history.filter(|_| !is_session_private(destination))
}

impl Resolved {
    pub(super) fn destination(
        destination: &Destination,
        subject: &Subject<'_>,
    ) -> Result<(Destination, Self), Denied> {
        let is_user =
            matches!(destination.kind(), DestinationKind::OwnUser | DestinationKind::NamedUser);
        if !is_user {
            let absolute = destination.as_str().to_owned();
            let shown = absolute.clone();
            return Ok((destination.clone(), Self { absolute, shown, is_own: false }));
        }
        if is_session_private(destination) {
            return Err(Denied::SessionPrivate);
        }
        let own = own_segment(subject)?;
        let destination = absolute(destination, Some(&own))?;
        let absolute = destination.as_str().to_owned();
        let shown = destination.shown().into_owned();
        let is_own = has_user(&absolute, &own);
        Ok((destination, Self { absolute, shown, is_own }))
    }

    pub(super) fn pattern(text: &str, subject: &Subject<'_>) -> Result<Self, Denied> {
        let Some(rest) = text.strip_prefix("/user/") else {
            return Ok(Self { absolute: text.to_owned(), shown: text.to_owned(), is_own: false });
        };
        let (first, path) = rest.split_once('/').unwrap_or((rest, ""));
        if first.contains(['*', '?', '{']) {
            return Err(Denied::PatternOverUsers);
        }
        if first.starts_with('~') {
            return Err(Denied::SessionPrivate);
        }
        let own = own_segment(subject)?;
        if matches!(first, "queue" | "topic") {
            let absolute = format!("/user/{own}/{rest}");
            return Ok(Self { absolute, shown: text.to_owned(), is_own: true });
        }
        let named: Destination = format!("/user/{first}/queue/x").parse()?;
        let user = segment_of(&named.user_name().ok_or(Denied::NoUser)?)?;
        let absolute = format!("/user/{user}/{path}");
        Ok(Self { is_own: user == own, absolute, shown: format!("/user/{path}") })
    }

    pub(super) fn names(&self) -> Names<'_> {
        Names { absolute: &self.absolute, own: self.is_own.then_some(&self.shown) }
    }
}

/// `destination` with its user resolved and spelled in the one canonical way, so that
/// `/user/%61nn/queue/x` is no second name of `/user/ann/queue/x`. `own` is a canonical segment.
pub(super) fn absolute(
    destination: &Destination,
    own: Option<&str>,
) -> Result<Destination, Denied> {
    match (destination.kind(), destination.user_path(), destination.user_name()) {
        (DestinationKind::OwnUser, Some(path), _) => {
            let own = own.ok_or(Denied::NoUser)?;
            Ok(format!("/user/{own}{path}").parse()?)
        }
        (DestinationKind::NamedUser, Some(path), Some(user))
            if !is_session_private(destination) =>
        {
            Ok(Destination::for_user(&user, path)?)
        }
        _ => Ok(destination.clone()),
    }
}

/// The segment after `/user/` in the subject's own destinations.
fn own_segment(subject: &Subject<'_>) -> Result<String, Denied> {
    match subject.principal {
        Some(principal) => segment_of(&principal.user),
        None => Ok(format!("~{}", subject.session)),
    }
}

/// A user's name as a segment of a destination.
fn segment_of(user: &str) -> Result<String, Denied> {
    let example = Destination::for_user(user, "/queue/x")?;
    let segment = example.as_str().split('/').nth(2).unwrap_or_default();
    Ok(segment.to_owned())
}

fn has_user(absolute: &str, own: &str) -> bool {
    absolute.split('/').nth(2) == Some(own)
}

fn is_session_private(destination: &Destination) -> bool {
    destination.as_str().starts_with("/user/~")
}

fn is_good_name(name: &str) -> bool {
    let good = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-');
    (1..=64).contains(&name.len()) && name.bytes().all(good)
}

//! Who may subscribe and publish where: namespaces, ordered rules, default deny, permits.

mod app;
mod cover;
mod grants;
mod namespace;
mod right;
mod rule;

use std::sync::Arc;

use fanlight_proto::{Destination, DestinationError, DestinationPattern, PatternError};

use crate::broker::Channel;
use crate::history::{History, HistoryQuery, HistoryRange};
use crate::hub::Target;
use crate::presence::{MembersQuery, Place};
use crate::publication::SessionId;
use crate::queue::Queue;

pub use crate::auth::Principal;
pub use app::{AppKind, AppPermit, AppRoute, AppRouteError};
pub use grants::{BadGrants, Grants};
pub use namespace::{Namespace, NamespaceOptions, Namespaces};
pub use right::Right;
pub use rule::{Action, PolicyRule, RuleEffect, Who};

use app::AppRoutes;
use cover::Glob;
use namespace::{Compiled, Resolved};
use rule::Rule;

/// The right to publish to one destination (design invariant 6).
///
/// Only this module makes one, so nothing is published that no rule or backend allowed. Its
/// destination is absolute: own-user destinations are resolved to their user or session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublishPermit {
    destination: Destination,
    channel: Channel,
    options: Arc<NamespaceOptions>,
}

/// The right to subscribe to one destination or pattern (design invariant 6).
///
/// Only this module makes one. What it is for is absolute, as with [`PublishPermit`].
#[derive(Debug, Clone)]
pub struct SubscribePermit {
    target: Target,
    channel: Channel,
    options: Arc<NamespaceOptions>,
}

/// The right to read one destination's history (design invariant 6).
///
/// Only this module makes one.
#[derive(Debug, Clone)]
pub struct HistoryPermit {
    destination: Destination,
    channel: Channel,
    history: History,
}

/// The right to remove one destination's history (design invariant 6).
///
/// Only this module makes one, and only for backends.
#[derive(Debug, Clone)]
pub struct RemovalPermit(HistoryPermit);

/// The right to see who is at one destination (design invariant 6).
///
/// Only this module makes one.
#[derive(Debug, Clone)]
pub struct PresencePermit {
    place: Place,
}

/// Namespaces and rules, ready for use.
///
/// What no namespace has is denied; else the first rule that matches decides; what no rule matches
/// is denied, unless a token grants it. A user destination is matched by its absolute name, and where it is the
/// session's own also by the name without the user: `/user/queue/x` and `/user/ann/queue/x` are
/// one destination, so a rule on either applies to both. `/user/**` allows only one's own, and
/// denies everyone's.
#[derive(Debug, Clone, Default)]
pub struct Policy {
    namespaces: Namespaces,
    rules: Box<[Rule]>,
    app: AppRoutes,
}

/// Who asks.
#[derive(Debug, Clone, Copy)]
pub struct Subject<'s> {
    /// The user, or `None` for an anonymous session.
    pub principal: Option<&'s Principal>,
    /// The session.
    pub session: SessionId,
    /// What is granted for this one request, beside what the principal's own token grants.
    pub capability: Option<&'s Grants>,
}

impl<'s> Subject<'s> {
    /// Who asks by its own right alone.
    pub fn new(principal: Option<&'s Principal>, session: SessionId) -> Self {
        Self { principal, session, capability: None }
    }

    fn grants(&self) -> impl Iterator<Item = &'s Grants> {
        let own = self.principal.map(|principal| &principal.grants);
        own.into_iter().chain(self.capability)
    }
}

/// Why something is not allowed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    /// No route has this destination in `/app`.
    #[error("nothing handles this destination")]
    NoHandler,
    /// The destination is in no configured namespace.
    #[error("no namespace has this destination")]
    NoNamespace,
    /// The namespace is not for sessions without a user.
    #[error("this needs a user; connect with a token")]
    Anonymous,
    /// No rule allows it, or one denies it.
    #[error("the policy does not allow this")]
    NotAllowed,
    /// `/user/queue/...` without a user or session whose own it could be.
    #[error("an own destination needs a user; name one: /user/{{name}}/queue/...")]
    NoUser,
    /// `/user/~...`, which only the session itself has, under its own name.
    #[error("a session's private destination can't be named; use /user/queue/...")]
    SessionPrivate,
    /// The namespace does not allow patterns.
    #[error("patterns are not allowed in this namespace; subscribe to each destination")]
    Patterns,
    /// The pattern could match destinations of more than one namespace, or of none.
    #[error("the pattern reaches beyond its namespace; make it narrower")]
    PatternTooWide,
    /// The pattern could match destinations of more than one user.
    #[error("a pattern can't range over users; name one, or use /user/queue/...")]
    PatternOverUsers,
    /// The namespace keeps no history.
    #[error("this namespace keeps no history")]
    NoHistory,
    /// The namespace has no presence.
    #[error("this namespace has no presence")]
    NoPresence,
    /// Nobody is at a destination that a backend handles.
    #[error("/app has no presence")]
    AppPresence,
    /// Presence is of one destination.
    #[error("a pattern has no presence; subscribe to each destination")]
    PatternPresence,
    /// The user's name makes the destination invalid.
    #[error(transparent)]
    Destination(#[from] DestinationError),
    /// The user's name makes the pattern invalid.
    #[error(transparent)]
    Pattern(#[from] PatternError),
}

impl Denied {
    /// What to do about it, where the message does not say. It names options, and nothing of what
    /// they are set to.
    pub fn remedy(&self) -> &'static str {
        match self {
            Self::NoHandler => "use one of a route of [[app.routes]], or /topic, /queue or /user",
            Self::NoNamespace => {
                "mind how it is spelt, or give one of [[namespaces]] a `match` that has it"
            }
            Self::NotAllowed => {
                "have [[policy.rules]], the `roles` of a route or the grants of the token allow it"
            }
            Self::NoHistory => {
                "give its [[namespaces]] a `history`, or fetch the state from the backend"
            }
            Self::NoPresence => "give its [[namespaces]] `presence = true`",
            Self::AppPresence => "ask without presence",
            Self::Anonymous
            | Self::NoUser
            | Self::SessionPrivate
            | Self::Patterns
            | Self::PatternTooWide
            | Self::PatternOverUsers
            | Self::PatternPresence
            | Self::Destination(_)
            | Self::Pattern(_) => "",
        }
    }
}

/// What is wrong with a policy's configuration, and where.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PolicyError {
    /// A namespace's name can't stand in a channel's name.
    #[error("namespace {name:?}: a name is 1-64 of a-z, A-Z, 0-9, _ and -")]
    BadName {
        /// The name.
        name: String,
    },
    /// Two namespaces share a name.
    #[error("namespace {name:?} is defined twice; rename one")]
    DuplicateName {
        /// The name.
        name: String,
    },
    /// A namespace's pattern does not parse.
    #[error("namespace {name:?}: pattern {pattern:?}: {error}")]
    BadNamespacePattern {
        /// The namespace.
        name: String,
        /// The pattern.
        pattern: String,
        /// What is wrong with it.
        error: PatternError,
    },
    /// A namespace of queues allows patterns, or keeps history or presence.
    #[error("namespace {name:?}: queues have neither patterns nor history nor presence")]
    NotForQueues {
        /// The namespace.
        name: String,
    },
    /// A conflated namespace keeps history, or is one of queues.
    #[error("namespace {name:?}: what is conflated has neither history nor queues")]
    NotForConflation {
        /// The namespace.
        name: String,
    },
    /// The header that is to be the key of conflation never comes with a publication.
    #[error(
        "namespace {name:?}: no publication has a header {header:?}, which is the server's own"
    )]
    BadConflationKey {
        /// The namespace.
        name: String,
        /// The header.
        header: String,
    },
    /// A rule's destination does not parse.
    #[error("rule {rule}: destination {pattern:?}: {error}")]
    BadRulePattern {
        /// The rule, counted from 0.
        rule: usize,
        /// The pattern.
        pattern: String,
        /// What is wrong with it.
        error: PatternError,
    },
    /// A claim is compared with a variable that the destination does not have.
    #[error("rule {rule}: the destination has no {{{variable}}} to compare a claim with")]
    UnknownVariable {
        /// The rule, counted from 0.
        rule: usize,
        /// The variable.
        variable: String,
    },
    /// A compared variable could stand for more than one part of a destination.
    #[error(
        "rule {rule}: {{{variable}}} is compared, so it must be the only wildcard of its segment \
         and have no ** before it"
    )]
    AmbiguousVariable {
        /// The rule, counted from 0.
        rule: usize,
        /// The variable.
        variable: String,
    },
}

impl Policy {
    /// Checks and compiles; the error names what is faulty.
    pub fn new(namespaces: &[Namespace], rules: &[PolicyRule]) -> Result<Self, PolicyError> {
        let compiled = rules.iter().enumerate().map(|(at, rule)| Rule::new(at, rule));
        Ok(Self {
            namespaces: Namespaces::new(namespaces)?,
            rules: compiled.collect::<Result<_, _>>()?,
            app: AppRoutes::default(),
        })
    }

    /// The namespaces, for publishing without a session.
    pub fn namespaces(&self) -> &Namespaces {
        &self.namespaces
    }

    /// The claims that rules name: a principal needs no others.
    pub fn claim_names(&self) -> Vec<String> {
        let mut names: Vec<String> =
            self.rules.iter().flat_map(Rule::claim_names).map(str::to_owned).collect();
        names.sort_unstable();
        names.dedup();
        names
    }

    /// Whether a session without a user could do anything.
    pub fn allows_anonymous(&self) -> bool {
        self.namespaces.any_anonymous() || self.app.any_anonymous()
    }

    /// Whether `subject` may publish to `destination`.
    pub fn publish(
        &self,
        subject: &Subject<'_>,
        destination: &Destination,
    ) -> Result<Right<PublishPermit>, Denied> {
        let (destination, namespace) = self.decide(Action::Publish, subject, destination)?;
        let hook = namespace.options.publish_hook.as_ref();
        Ok(Right::new(PublishPermit::new(namespace, destination), hook))
    }

    /// Whether `subject` may subscribe to `destination`.
    pub fn subscribe(
        &self,
        subject: &Subject<'_>,
        destination: &Destination,
    ) -> Result<Right<SubscribePermit>, Denied> {
        let (destination, namespace) = self.decide(Action::Subscribe, subject, destination)?;
        let channel = namespace.channel_of(&destination);
        let options = Arc::clone(&namespace.options);
        let permit = SubscribePermit { target: Target::Destination(destination), channel, options };
        Ok(Right::new(permit, namespace.options.subscribe_hook.as_ref()))
    }

    /// Whether `subject` may read the history of `destination`. The backend that has a say in
    /// subscriptions there has it in this too.
    pub fn history(
        &self,
        subject: &Subject<'_>,
        destination: &Destination,
    ) -> Result<Right<HistoryPermit>, Denied> {
        let (destination, namespace) = self.decide(Action::History, subject, destination)?;
        let permit = HistoryPermit::new(namespace, destination)?;
        Ok(Right::new(permit, namespace.options.subscribe_hook.as_ref()))
    }

    /// Whether `subject` may see who is at `destination`. The backend that has a say in
    /// subscriptions there has it in this too.
    pub fn presence(
        &self,
        subject: &Subject<'_>,
        destination: &Destination,
    ) -> Result<Right<PresencePermit>, Denied> {
        let (destination, namespace) = self.decide(Action::Presence, subject, destination)?;
        let permit = PresencePermit::new(namespace, destination)?;
        Ok(Right::new(permit, namespace.options.subscribe_hook.as_ref()))
    }

    /// Whether `subject` may subscribe to every destination that `pattern` matches.
    ///
    /// The answer is yes only if that is certain: one namespace has them all and allows patterns,
    /// one rule allows them all, and no rule before it denies any. So each destination that a
    /// permitted pattern matches could also be subscribed to by itself. Several rules that only
    /// together allow all of a pattern do not count.
    pub fn subscribe_pattern(
        &self,
        subject: &Subject<'_>,
        pattern: &DestinationPattern,
    ) -> Result<Right<SubscribePermit>, Denied> {
        let resolved = Resolved::pattern(pattern.as_str(), subject)?;
        let (absolute, shown) = (Glob::of(&resolved.absolute), Glob::of(&resolved.shown));
        let namespace = self.namespaces.covering(&absolute, &shown)?;
        let channel = namespace.channel.clone().ok_or(Denied::Patterns)?;
        if subject.principal.is_none() && !namespace.anonymous {
            return Err(Denied::Anonymous);
        }
        let names = resolved.names();
        let globs = [Some(&absolute), resolved.is_own.then_some(&shown)];
        let permitted = |target: DestinationPattern| {
            let target = Target::Pattern(Arc::new(target));
            let options = Arc::clone(&namespace.options);
            let permit = SubscribePermit { target, channel, options };
            Right::new(permit, namespace.options.subscribe_hook.as_ref())
        };
        for rule in self.rules.iter().filter(|rule| rule.concerns(Action::Subscribe, subject)) {
            if rule.allows() {
                if rule.covers(subject, &names) {
                    return Ok(permitted(resolved.absolute.parse()?));
                }
            } else if globs.into_iter().flatten().any(|glob| rule.overlaps(glob)) {
                return Err(Denied::NotAllowed);
            }
        }
        if !subject.grants().any(|grants| grants.cover(Action::Subscribe, subject, &names)) {
            return Err(Denied::NotAllowed);
        }
        Ok(permitted(resolved.absolute.parse()?))
    }

    /// A destination of `subject`'s own, absolute, and the channel that it comes on; `None` where
    /// there is no namespace for it, so that nobody can have subscribed. `path` is `/queue/...`.
    pub(crate) fn own(&self, subject: &Subject<'_>, path: &str) -> Option<(Destination, Channel)> {
        let own = format!("/user{path}").parse().ok()?;
        let (destination, _) = Resolved::destination(&own, subject).ok()?;
        let channel = self.namespaces.of(&destination)?.channel_of(&destination);
        Some((destination, channel))
    }

    fn decide(
        &self,
        action: Action,
        subject: &Subject<'_>,
        destination: &Destination,
    ) -> Result<(Destination, &Compiled), Denied> {
        let (destination, resolved) = Resolved::destination(destination, subject)?;
        let namespace = self.namespaces.of(&destination).ok_or(Denied::NoNamespace)?;
        if subject.principal.is_none() && !namespace.anonymous {
            return Err(Denied::Anonymous);
        }
        let names = resolved.names();
        let mut rules = self.rules.iter().filter(|rule| rule.concerns(action, subject));
        match rules.find(|rule| rule.matches(subject, &names)) {
            Some(rule) if rule.allows() => Ok((destination, namespace)),
            None if subject.grants().any(|grants| grants.allow(action, subject, &names)) => {
                Ok((destination, namespace))
            }
            _ => Err(Denied::NotAllowed),
        }
    }
}

impl PublishPermit {
    /// The permit of a backend, which may publish wherever there is a namespace.
    pub fn for_backend(namespaces: &Namespaces, destination: &Destination) -> Result<Self, Denied> {
        let destination = namespace::absolute(destination, None)?;
        let namespace = namespaces.of(&destination).ok_or(Denied::NoNamespace)?;
        Ok(Self::new(namespace, destination))
    }

    fn new(namespace: &Compiled, destination: Destination) -> Self {
        let options = Arc::clone(&namespace.options);
        Self { channel: namespace.channel_of(&destination), destination, options }
    }

    /// The permit for what no history is to keep: it is for one session, and that one is there or
    /// it is not.
    #[must_use]
    pub fn without_history(mut self) -> Self {
        if self.options.history.is_some() {
            Arc::make_mut(&mut self.options).history = None;
        }
        self
    }

    /// What its namespace does with publications. What is kept of them: [`Self::history`].
    pub fn options(&self) -> &Arc<NamespaceOptions> {
        &self.options
    }

    /// What is to be kept of the publications that it allows.
    pub fn history(&self) -> Option<History> {
        namespace::history_of(&self.options, &self.destination)
    }

    /// Where it allows to publish.
    pub fn destination(&self) -> &Destination {
        &self.destination
    }

    /// The broker's channel for that.
    pub fn channel(&self) -> &Channel {
        &self.channel
    }
}

impl SubscribePermit {
    /// The permit for what a backend subscribes `subject` to: wherever there is a namespace.
    pub fn for_backend(
        namespaces: &Namespaces,
        subject: &Subject<'_>,
        destination: &Destination,
    ) -> Result<Self, Denied> {
        let (destination, _) = Resolved::destination(destination, subject)?;
        let namespace = namespaces.of(&destination).ok_or(Denied::NoNamespace)?;
        if subject.principal.is_none() && !namespace.anonymous {
            return Err(Denied::Anonymous);
        }
        let channel = namespace.channel_of(&destination);
        let options = Arc::clone(&namespace.options);
        Ok(Self { target: Target::Destination(destination), channel, options })
    }

    /// What it allows to subscribe to.
    pub fn target(&self) -> &Target {
        &self.target
    }

    /// The broker's channel for that.
    pub fn channel(&self) -> &Channel {
        &self.channel
    }

    /// What its namespace does with publications.
    pub fn options(&self) -> &Arc<NamespaceOptions> {
        &self.options
    }

    /// What is kept of the publications that it allows to receive. `None` for patterns.
    pub fn history(&self) -> Option<(&Destination, History)> {
        match &self.target {
            Target::Destination(destination) => {
                Some((destination, namespace::history_of(&self.options, destination)?))
            }
            Target::Pattern(_) => None,
        }
    }

    /// Where it makes the subscriber a member: at its destination, if the namespace has presence.
    pub fn place(&self) -> Option<Place> {
        match &self.target {
            Target::Destination(destination) if self.options.presence => {
                Some(Place { channel: self.channel.clone(), destination: destination.clone() })
            }
            _ => None,
        }
    }

    /// The queue that it allows to consume, where its namespace is one of queues.
    pub fn queue(&self) -> Option<Queue> {
        let options = self.options.queue.clone()?;
        match &self.target {
            Target::Destination(destination) => Some(Queue {
                destination: destination.clone(),
                channel: self.channel.clone(),
                options,
            }),
            Target::Pattern(_) => None,
        }
    }

    /// Target and channel, for the hub.
    pub fn into_parts(self) -> (Target, Channel) {
        (self.target, self.channel)
    }
}

impl RemovalPermit {
    /// The permit of a backend, which may remove every history that is kept.
    pub fn for_backend(namespaces: &Namespaces, destination: &Destination) -> Result<Self, Denied> {
        HistoryPermit::for_backend(namespaces, destination).map(Self)
    }

    /// Whose history it is.
    pub fn destination(&self) -> &Destination {
        &self.0.destination
    }

    /// The broker's channel for that.
    pub fn channel(&self) -> &Channel {
        &self.0.channel
    }

    /// What is kept of it.
    pub fn history(&self) -> History {
        self.0.history
    }
}

impl HistoryPermit {
    /// The permit of a backend, which may read every history that is kept.
    pub fn for_backend(namespaces: &Namespaces, destination: &Destination) -> Result<Self, Denied> {
        let destination = namespace::absolute(destination, None)?;
        let namespace = namespaces.of(&destination).ok_or(Denied::NoNamespace)?;
        Self::new(namespace, destination)
    }

    fn new(namespace: &Compiled, destination: Destination) -> Result<Self, Denied> {
        let history = namespace.history_of(&destination).ok_or(Denied::NoHistory)?;
        Ok(Self { channel: namespace.channel_of(&destination), destination, history })
    }

    /// Whose history it is.
    pub fn destination(&self) -> &Destination {
        &self.destination
    }

    /// The query that it allows.
    pub fn into_query(self, range: HistoryRange, limit: u32) -> HistoryQuery {
        let Self { destination, channel, history } = self;
        HistoryQuery { channel, destination, history, range, limit }
    }
}

impl PresencePermit {
    /// The permit of a backend, which may see who is anywhere that has presence.
    pub fn for_backend(namespaces: &Namespaces, destination: &Destination) -> Result<Self, Denied> {
        let destination = namespace::absolute(destination, None)?;
        let namespace = namespaces.of(&destination).ok_or(Denied::NoNamespace)?;
        Self::new(namespace, destination)
    }

    fn new(namespace: &Compiled, destination: Destination) -> Result<Self, Denied> {
        if !namespace.options.presence {
            return Err(Denied::NoPresence);
        }
        let channel = namespace.channel_of(&destination);
        Ok(Self { place: Place { channel, destination } })
    }

    /// Whose members it allows to see.
    pub fn destination(&self) -> &Destination {
        &self.place.destination
    }

    /// The query that it allows, of at most [`MembersQuery::MAX_LIMIT`] members.
    pub fn into_query(self, cursor: Option<Box<str>>, limit: Option<u32>) -> MembersQuery {
        let limit = limit.unwrap_or(MembersQuery::DEFAULT_LIMIT).min(MembersQuery::MAX_LIMIT);
        MembersQuery { place: self.place, cursor, limit }
    }
}

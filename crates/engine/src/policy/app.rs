//! Routes of `/app/...`: which one has a destination, who may use it, and what its variables are.

use std::sync::Arc;

use fanlight_proto::destination::DestinationKind;
use fanlight_proto::{Destination, DestinationError, DestinationPattern, PatternError};

use super::cover::Glob;
use super::rule::Names;
use super::{Action, Denied, Policy, Subject};

/// A configured route; the first that matches has a destination.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AppRoute {
    /// The destinations it is for, as a pattern: `/app/chat/{room}`.
    pub destination: String,
    /// The user must have one of these roles; empty means any.
    pub roles: Vec<String>,
    /// Whether sessions without a user may use it.
    pub anonymous: bool,
    /// Whether it also answers those who subscribe.
    pub requests: bool,
    /// Where the reply to a message goes: a topic, a queue, or the sender's own destination, with
    /// the route's variables.
    pub send_to: Option<String>,
    /// Whether all of the sender's sessions get that, or only the one that asked.
    pub broadcast: bool,
}

/// How something comes to `/app/...`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AppKind {
    /// It is sent there.
    Message,
    /// Somebody subscribes there, and wants one answer.
    Request,
}

/// The right to have something handled by a route (design invariant 6).
///
/// Only this module makes one.
#[derive(Debug, Clone)]
pub struct AppPermit {
    route: Arc<Route>,
    kind: AppKind,
    destination: Destination,
    variables: Box<[(Box<str>, Box<str>)]>,
}

/// What is wrong with a route, and with which, counted from 0.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AppRouteError {
    /// Its destination does not parse.
    #[error("{error}")]
    BadPattern {
        /// The route.
        route: usize,
        /// What is wrong with it.
        error: PatternError,
    },
    /// Its destination is not in `/app`.
    #[error("a route's destination begins with /app/")]
    NotApp {
        /// The route.
        route: usize,
    },
    /// A variable occurs twice.
    #[error("{{{variable}}} occurs twice")]
    RepeatedVariable {
        /// The route.
        route: usize,
        /// The variable.
        variable: String,
    },
    /// Another route before it has all of its destinations.
    #[error("never reached: the route {by} before it has all of these destinations")]
    NeverReached {
        /// The route.
        route: usize,
        /// The other.
        by: usize,
    },
    /// `send_to` names a variable that the destination does not have.
    #[error("the destination has no {{{variable}}}")]
    UnknownVariable {
        /// The route.
        route: usize,
        /// The variable.
        variable: String,
    },
    /// `send_to` is not a destination.
    #[error("{error}")]
    BadSendTo {
        /// The route.
        route: usize,
        /// What is wrong with it.
        error: DestinationError,
    },
    /// `send_to` has a brace without its other one.
    #[error("a malformed {{variable}}")]
    BadVariable {
        /// The route.
        route: usize,
    },
    /// `send_to` is in `/app`, or names a user.
    #[error("a reply goes to a topic, a queue or the sender's own /user/queue/...")]
    NotForReplies {
        /// The route.
        route: usize,
    },
    /// Only an own destination can go to one session.
    #[error("only the sender's own /user/queue/... can go to one session")]
    NotOneSessions {
        /// The route.
        route: usize,
    },
}

/// The routes, ready for matching.
#[derive(Debug, Clone, Default)]
pub(super) struct AppRoutes(Box<[Arc<Route>]>);

#[derive(Debug)]
struct Route {
    at: usize,
    pattern: DestinationPattern,
    roles: Box<[String]>,
    anonymous: bool,
    requests: bool,
    send_to: Option<Template>,
    broadcast: bool,
}

/// A text with variables.
#[derive(Debug)]
struct Template(Box<[Piece]>);

#[derive(Debug)]
enum Piece {
    Text(Box<str>),
    Variable(Box<str>),
}

impl Policy {
    /// The same policy with these routes; the error names the faulty one.
    pub fn with_app_routes(self, routes: &[AppRoute]) -> Result<Self, AppRouteError> {
        let globs: Vec<Glob> = routes.iter().map(|route| Glob::of(&route.destination)).collect();
        let mut compiled = Vec::with_capacity(routes.len());
        for (at, route) in routes.iter().enumerate() {
            compiled.push(Arc::new(Route::new(at, route)?));
            // One that takes no requests leaves those to the next.
            let takes_as_much = |by: &usize| routes[*by].requests || !route.requests;
            let covering = (0..at).find(|by| takes_as_much(by) && globs[*by].covers(&globs[at]));
            if let Some(by) = covering {
                return Err(AppRouteError::NeverReached { route: at, by });
            }
        }
        Ok(Self { app: AppRoutes(compiled.into()), ..self })
    }

    /// Whether `subject` may have this handled by a route, and by which.
    ///
    /// The route itself says who may use it. A rule that denies the destination comes before that;
    /// to allow it takes none.
    pub fn app(
        &self,
        subject: &Subject<'_>,
        kind: AppKind,
        destination: &Destination,
    ) -> Result<AppPermit, Denied> {
        let text = destination.as_str();
        let takes = |route: &&Arc<Route>| kind == AppKind::Message || route.requests;
        let mut routes = self.app.0.iter().filter(takes);
        let found = routes.find_map(|route| Some((route, route.pattern.captures(text)?)));
        let (route, captures) = found.ok_or(Denied::NoHandler)?;
        match subject.principal {
            None if !route.anonymous => return Err(Denied::Anonymous),
            None if !route.roles.is_empty() => return Err(Denied::NotAllowed),
            Some(principal)
                if !route.roles.is_empty()
                    && !route.roles.iter().any(|role| principal.has_role(role)) =>
            {
                return Err(Denied::NotAllowed);
            }
            _ => {}
        }
        let action = match kind {
            AppKind::Message => Action::Publish,
            AppKind::Request => Action::Subscribe,
        };
        let names = Names { absolute: text, own: None };
        let mut rules = self.rules.iter().filter(|rule| rule.concerns(action, subject));
        let first = rules.find(|rule| rule.matches(subject, &names));
        if first.is_some_and(|rule| !rule.allows()) {
            return Err(Denied::NotAllowed);
        }
        let variables = captures.into_iter().map(|(name, value)| (name.into(), value.into()));
        Ok(AppPermit {
            variables: variables.collect(),
            route: Arc::clone(route),
            kind,
            destination: destination.clone(),
        })
    }
}

impl AppRoutes {
    /// Whether sessions without a user have any use here.
    pub(super) fn any_anonymous(&self) -> bool {
        self.0.iter().any(|route| route.anonymous)
    }
}

impl AppPermit {
    /// Which route, counted from 0.
    pub fn route(&self) -> usize {
        self.route.at
    }

    /// The route's pattern.
    pub fn pattern(&self) -> &str {
        self.route.pattern.as_str()
    }

    /// How it came.
    pub fn kind(&self) -> AppKind {
        self.kind
    }

    /// Where.
    pub fn destination(&self) -> &Destination {
        &self.destination
    }

    /// What the route's variables stand for, in the pattern's order.
    pub fn variables(&self) -> &[(Box<str>, Box<str>)] {
        &self.variables
    }

    /// Where the reply to a message goes, if its route says so.
    pub(crate) fn send_to(&self) -> Option<Box<str>> {
        Some(self.route.send_to.as_ref()?.expand(&self.variables).into())
    }

    /// Whether that is for the session that asked, alone.
    pub(crate) fn is_for_one_session(&self) -> bool {
        !self.route.broadcast
    }
}

impl Route {
    fn new(at: usize, route: &AppRoute) -> Result<Self, AppRouteError> {
        let AppRoute { destination, roles, anonymous, requests, send_to, broadcast } = route;
        let pattern: DestinationPattern =
            destination.parse().map_err(|error| AppRouteError::BadPattern { route: at, error })?;
        if !destination.starts_with("/app/") {
            return Err(AppRouteError::NotApp { route: at });
        }
        let variables: Vec<&str> = pattern.variables().collect();
        let repeats = |n: &usize| variables[..*n].contains(&variables[*n]);
        if let Some(n) = (0..variables.len()).find(repeats) {
            let variable = variables[n].to_owned();
            return Err(AppRouteError::RepeatedVariable { route: at, variable });
        }
        let send_to = send_to.as_deref().map(|text| Template::new(at, text, &variables));
        let send_to = send_to.transpose()?;
        let example = send_to.as_ref().map(Template::example);
        let is_own = match example.map(|example| example.parse::<Destination>()) {
            None => false,
            Some(Err(error)) => return Err(AppRouteError::BadSendTo { route: at, error }),
            Some(Ok(example)) => match example.kind() {
                DestinationKind::OwnUser => true,
                DestinationKind::Topic | DestinationKind::Queue => false,
                DestinationKind::App | DestinationKind::NamedUser => {
                    return Err(AppRouteError::NotForReplies { route: at });
                }
            },
        };
        if !broadcast && !is_own {
            return Err(AppRouteError::NotOneSessions { route: at });
        }
        let (roles, anonymous) = (roles.as_slice().into(), *anonymous);
        let (requests, broadcast) = (*requests, *broadcast);
        Ok(Self { at, pattern, roles, anonymous, requests, send_to, broadcast })
    }
}

impl Template {
    fn new(route: usize, text: &str, variables: &[&str]) -> Result<Self, AppRouteError> {
        let mut pieces = Vec::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once('{') {
            let (name, after) =
                after.split_once('}').ok_or(AppRouteError::BadVariable { route })?;
            if !variables.contains(&name) {
                let variable = name.to_owned();
                return Err(AppRouteError::UnknownVariable { route, variable });
            }
            pieces.push(Piece::Text(before.into()));
            pieces.push(Piece::Variable(name.into()));
            rest = after;
        }
        pieces.push(Piece::Text(rest.into()));
        Ok(Self(pieces.into()))
    }

    /// It with values of which nothing but the form matters.
    fn example(&self) -> String {
        self.filled(|_| "x")
    }

    fn expand(&self, variables: &[(Box<str>, Box<str>)]) -> String {
        self.filled(|name| {
            let found = variables.iter().find(|(own, _)| **own == *name);
            found.map_or("", |(_, value)| value)
        })
    }

    fn filled<'v>(&'v self, value: impl Fn(&str) -> &'v str) -> String {
        self.0
            .iter()
            .map(|piece| match piece {
                Piece::Text(text) => &**text,
                Piece::Variable(name) => value(name),
            })
            .collect()
    }
}

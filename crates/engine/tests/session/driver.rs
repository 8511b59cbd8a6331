//! A driver without sockets: carries out a session's effects and writes down what happened.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use fanlight_engine::auth::{AuthError, Credentials, Principal};
use fanlight_engine::broker::{Joined, PublishError, Published, Reach};
use fanlight_engine::encode::{Encoder, Framing};
use fanlight_engine::history::{History, HistoryError, HistoryPage, Lost};
use fanlight_engine::hub::{Hub, SessionKey};
use fanlight_engine::ids::Ids;
use fanlight_engine::policy::{
    Action, Namespace, NamespaceOptions, Policy, PolicyRule, RuleEffect, Who,
};
use fanlight_engine::presence::{MembersQuery, PresenceError};
use fanlight_engine::publication::{ContentType, Publication, PublicationId};
use fanlight_engine::queue::{
    Batch, Consumers, DeliveryId, EntryId, Fetched, QueueError, Settlement,
};
use fanlight_engine::registry::{Entered, SubscriptionChange};
use fanlight_engine::session::{
    Activity, Cx, Done, Effect, Form, Handshake, Incoming, Listening, Order, Protocol, Rules,
    Session, Telling,
};
use fanlight_engine::time::Now;
use fanlight_engine::timeline::Recovered;
use fanlight_proto::stomp;
use fanlight_proto::{CloseReason, Position};
use uuid::Uuid;

use crate::hooks;
use crate::shown::{
    app_line, event_line, frame_line, history_line, native_line, permitted_line, recover_line,
    shown_member,
};

/// One session and what surrounds it.
pub(crate) struct Driver {
    pub(crate) session: Session,
    pub(crate) hub: Hub,
    pub(crate) consumers: Consumers,
    pub(crate) now: Now,
    pub(crate) rules: Rules,
    /// Answers wait until the transcript gives them.
    pub(crate) hold: bool,
    pub(crate) pending: Option<Pending>,
    pub(crate) closed: Option<CloseReason>,
    /// The registry answers at once and unseen, unless it is what a test is about.
    pub(crate) registry_shown: bool,
    /// Entries in the registry without their exit.
    pub(crate) entered: i32,
    /// Joins without their leave, by channel.
    pub(crate) joined: BTreeMap<String, i32>,
    /// Appearances without their end, by destination.
    pub(crate) present: BTreeMap<String, i32>,
    /// What was written down since it was last taken.
    pub(crate) log: Vec<String>,
    framing: Framing,
    ids: Ids,
    activity: Activity,
    /// Messages that wait because the session is busy.
    unread: VecDeque<(bool, Vec<u8>)>,
    frames: stomp::Decoder,
}

/// What an effect under way waits for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Pending {
    Authenticated(String),
    Authorized(String),
    Introduced,
    Renewed,
    Decided,
    Published(PublicationId),
    Joined,
    Members,
    Entered,
    Recovered,
    History,
    Settled,
    App,
}

const START: Now = Now { mono_ms: 5_000, unix_ms: 1_800_000_000_000 };

impl Driver {
    pub(crate) fn new(rules: Rules, protocol: Option<Protocol>, handshake: Handshake) -> Self {
        let mut ids = Ids::new(7);
        let id = ids.session(START);
        Self {
            session: Session::new(SessionKey(3), id, protocol, handshake, START),
            hub: Hub::new(),
            consumers: Consumers::new(),
            now: START,
            rules,
            hold: false,
            pending: None,
            closed: None,
            registry_shown: false,
            entered: 0,
            joined: BTreeMap::new(),
            present: BTreeMap::new(),
            log: Vec::new(),
            framing: Framing::Stream,
            ids,
            activity: Activity { last_received_ms: START.mono_ms, last_sent_ms: START.mono_ms },
            unread: VecDeque::new(),
            frames: stomp::Decoder::new(),
        }
    }

    /// Begins a session that listens, in place of the one that waits for its client.
    pub(crate) fn listen(&mut self, handshake: Handshake, listening: Listening, form: Form) {
        if form == Form::Items {
            self.framing = Framing::Items;
        }
        let (key, id) = (SessionKey(3), self.session.id());
        self.session = Session::listener(key, id, listening, handshake, self.now);
        self.step(Session::listen);
    }

    /// A transport message from the client.
    pub(crate) fn receive(&mut self, text: bool, bytes: &[u8]) {
        self.heard();
        self.unread.push_back((text, bytes.to_vec()));
        self.feed();
    }

    /// A pong, or anything else that is no message.
    pub(crate) fn heard(&mut self) {
        self.activity.last_received_ms = self.now.mono_ms;
    }

    /// Time passes, with a sweep each second.
    pub(crate) fn pass(&mut self, seconds: u64) {
        for second in 1..=seconds {
            self.now.mono_ms += 1000;
            self.now.unix_ms += 1000;
            let before = self.log.len();
            let activity = self.activity;
            self.consumers.sweep(self.now.mono_ms);
            self.step(|session, cx| session.on_sweep(cx, activity));
            for line in &mut self.log[before..] {
                *line = format!("@{second}s {line}");
            }
        }
    }

    pub(crate) fn drain(&mut self, retry_after_ms: u64) {
        self.drain_within(retry_after_ms, 5000);
    }

    pub(crate) fn drain_within(&mut self, retry_after_ms: u64, time_ms: u64) {
        let until_ms = self.now.mono_ms + time_ms;
        self.step(|session, cx| session.on_drain(cx, retry_after_ms, until_ms));
    }

    pub(crate) fn rebalance(&mut self, retry_after_ms: u64) {
        let until_ms = self.now.mono_ms + 5000;
        self.step(|session, cx| session.on_rebalance(cx, retry_after_ms, until_ms));
    }

    pub(crate) fn order(&mut self, order: Order) {
        self.step(|session, cx| assert!(session.on_order(cx, order)));
    }

    pub(crate) fn fault(&mut self, reason: CloseReason, message: &str) {
        self.step(|session, cx| session.close_with_error(cx, reason, message));
    }

    /// The transport is gone.
    pub(crate) fn transport_closed(&mut self) {
        self.pending = None;
        self.unread.clear();
        self.step(Session::on_closed);
    }

    /// Answers what is pending.
    pub(crate) fn done(&mut self, done: Done) {
        assert!(self.pending.take().is_some(), "nothing is pending");
        self.step(|session, cx| session.on_done(cx, done));
        self.feed();
    }

    pub(crate) fn answer_published(&mut self, outcome: Result<(), PublishError>) {
        self.answer_published_at(outcome.map(|()| (None, Reach::Cluster)));
    }

    pub(crate) fn answer_published_at(
        &mut self,
        outcome: Result<(Option<Position>, Reach), PublishError>,
    ) {
        let Some(Pending::Published(id)) = self.pending else { panic!("{:?}", self.pending) };
        let published = outcome.map(|(position, reach)| Published { id, position, reach });
        self.done(Done::Published(published.map_err(Into::into)));
    }

    pub(crate) fn answer_recovered(&mut self, outcome: Option<Result<(), Lost>>, count: u32) {
        assert_eq!(self.pending, Some(Pending::Recovered));
        // As if the node did not know it from before either.
        let is_known = outcome != Some(Err(Lost::Unavailable));
        let position = is_known.then_some(Position { epoch: 0xe, offset: 7 });
        self.done(Done::Recovered(Recovered { position, outcome, count }));
    }

    /// A page of `count` publications from offset 1 on, whose bodies are their offsets.
    pub(crate) fn answer_history(&mut self, count: u64, top: Position, lost: Option<Lost>) {
        let publications = (1..=count).map(|offset| {
            Arc::new(Publication {
                id: PublicationId(Uuid::from_u128(offset.into())),
                destination: "/topic/kept/a".parse().unwrap(),
                body: offset.to_string().into(),
                content_type: ContentType::Json,
                headers: [].into(),
                publisher: None,
                at_unix_ms: 1,
                position: Some(Position { offset, ..top }),
                only_for: None,
                except: None,
                is_json: false,
            })
        });
        let publications = publications.collect();
        self.done(Done::History(Ok(HistoryPage { publications, top, lost })));
    }

    pub(crate) fn answer_authenticated(&mut self) {
        let Some(Pending::Authenticated(token)) = &self.pending else {
            panic!("{:?}", self.pending)
        };
        self.done(Done::Authenticated(principal(token, self.now).map(Arc::new)));
    }

    /// Answers the fetch that is due with these messages: `7`, or `7x2` for the second delivery.
    pub(crate) fn fetched(&mut self, queue: &str, messages: &[&str]) {
        let fetch = self.consumers.next_fetch(|_| true).expect("nothing is to be fetched");
        assert_eq!(fetch.queue.destination.as_str(), queue);
        assert!(messages.len() <= fetch.count as usize, "only {} were asked for", fetch.count);
        let has_more = messages.len() == fetch.count as usize;
        let messages = messages.iter().map(|message| fetched(message, queue)).collect();
        let batch = Ok(Batch { messages, has_more });
        let dispatches = self.consumers.on_fetched(&fetch, self.now.mono_ms, batch, |_| true);
        for dispatch in dispatches {
            let mut payload = Vec::new();
            dispatch.write(&mut payload);
            let line = format!("S< {}", self.shown(&payload));
            self.log.push(line.replace(ID_ZEROS, "#"));
        }
        self.consumers.on_written();
        self.log_settlements();
    }

    pub(crate) fn answer_settled(&mut self, outcome: Result<(), QueueError>) {
        assert_eq!(self.pending, Some(Pending::Settled));
        self.done(Done::Settled(outcome));
    }

    fn log_settlements(&mut self) {
        while let Some(settlement) = self.consumers.next_settlement() {
            self.log.push(format!("S! {}", settlement_line(&settlement)));
        }
    }

    fn feed(&mut self) {
        while !self.session.is_busy() && self.closed.is_none() {
            let Some((text, bytes)) = self.unread.pop_front() else { return };
            self.step(|session, cx| {
                let message = match std::str::from_utf8(&bytes) {
                    Ok(utf8) if text => Incoming::Text(utf8),
                    _ => Incoming::Binary(&bytes),
                };
                session.on_message(cx, message);
            });
        }
    }

    fn step(&mut self, step: impl FnOnce(&mut Session, &mut Cx<'_>)) {
        let mut effects = Vec::new();
        let mut cx = Cx {
            now: self.now,
            rules: &self.rules,
            hub: &mut self.hub,
            consumers: &mut self.consumers,
            ids: &mut self.ids,
            effects: &mut effects,
        };
        step(&mut self.session, &mut cx);
        let last = effects.len();
        for (at, effect) in effects.into_iter().enumerate() {
            assert!(self.closed.is_none(), "an effect after Close: {effect:?}");
            let answered = self.effect(effect);
            if let Some(done) = answered {
                assert_eq!(at + 1, last, "what has an answer comes last");
                assert!(self.pending.is_none(), "one effect under way at a time");
                self.pending = Some(done);
            }
        }
        if self.pending == Some(Pending::Entered) && !self.registry_shown {
            self.pending = None;
            return self.answer_entered(Entered::Now);
        }
        assert_eq!(
            self.session.is_busy(),
            self.pending.is_some() && self.closed.is_none(),
            "busy is what has something pending"
        );
        if self.closed.is_some() {
            self.pending = None;
        }
        self.log_settlements();
        if !self.hold {
            self.answer_well();
        }
    }

    pub(crate) fn answer_entered(&mut self, entered: Entered) {
        self.step(|session, cx| session.on_done(cx, Done::Entered(entered)));
    }

    fn answer_well(&mut self) {
        match self.pending {
            None => {}
            Some(Pending::Authenticated(_)) => self.answer_authenticated(),
            Some(Pending::Authorized(_)) => crate::capability::answer(self),
            Some(Pending::Published(_)) => self.answer_published(Ok(())),
            Some(Pending::Introduced) => self.done(Done::Introduced(Ok(None))),
            Some(Pending::Renewed) => {
                self.done(Done::Authenticated(Err(AuthError::BackendUnavailable)));
            }
            Some(Pending::Decided) => self.done(Done::Decided(Ok(()))),
            Some(Pending::Joined) => self.done(Done::Joined(Joined::Live)),
            Some(Pending::Members) => self.done(Done::Members(Err(PresenceError::Unavailable))),
            Some(Pending::Entered) => self.done(Done::Entered(Entered::Now)),
            Some(Pending::Recovered) => self.answer_recovered(None, 0),
            Some(Pending::History) => {
                self.done(Done::History(Err(HistoryError::Unavailable)));
            }
            Some(Pending::Settled) => self.answer_settled(Ok(())),
            Some(Pending::App) => self.done(Done::App(Ok(None))),
        }
    }

    fn effect(&mut self, effect: Effect) -> Option<Pending> {
        let (line, pending) = match effect {
            Effect::Write { text, payload } => {
                assert!(text, "everything that a session says itself is text");
                self.activity.last_sent_ms = self.now.mono_ms;
                (format!("S< {}", self.shown(&payload)), None)
            }
            Effect::Ping => {
                self.activity.last_sent_ms = self.now.mono_ms;
                ("S< (ping)".to_owned(), None)
            }
            who @ (Effect::Authenticate(_) | Effect::Introduce(_) | Effect::Renew(_)) => {
                hooks::asked_who(who)
            }
            Effect::Authorize(token) => crate::capability::asked(&token),
            Effect::AskToSubscribe(question) => hooks::asked(&question),
            effect @ (Effect::Enter { .. } | Effect::Exit { .. } | Effect::Record(_)) => {
                match self.registry_effect(effect) {
                    (Some(line), pending) => (line, pending),
                    (None, pending) => return pending,
                }
            }
            Effect::Publish(permit, publication) => {
                let line = format!("S? publish {}", permitted_line(&permit, &publication));
                (line, Some(Pending::Published(publication.id)))
            }
            Effect::PublishOnce(permit, publication, key) => {
                let line = permitted_line(&permit, &publication);
                let line = format!("S? publish once {} {line}", key.text);
                (line, Some(Pending::Published(publication.id)))
            }
            Effect::Recover(recover) => (recover_line(&recover), Some(Pending::Recovered)),
            Effect::History(query) => (history_line(&query), Some(Pending::History)),
            Effect::App(message) => (app_line(&message), Some(Pending::App)),
            Effect::Tell(telling) => return self.tell(&telling),
            Effect::Join(channel) => {
                *self.joined.entry(channel.as_str().to_owned()).or_default() += 1;
                (format!("S? join {}", channel.as_str()), Some(Pending::Joined))
            }
            Effect::Settle(channels) => {
                let settlements =
                    channels.iter().filter_map(|channel| self.consumers.settlement_of(channel));
                let lines: Vec<_> = settlements.map(|one| settlement_line(&one)).collect();
                (format!("S? {}", lines.join(", ")), Some(Pending::Settled))
            }
            Effect::Leave(channel) => {
                *self.joined.entry(channel.as_str().to_owned()).or_default() -= 1;
                (format!("S! leave {}", channel.as_str()), None)
            }
            Effect::Appear(place, member) => {
                *self.present.entry(place.destination.to_string()).or_default() += 1;
                (format!("S! appear {} as {}", place.destination, shown_member(&member)), None)
            }
            Effect::Vanish(place, member) => {
                *self.present.entry(place.destination.to_string()).or_default() -= 1;
                (format!("S! vanish {} as {}", place.destination, shown_member(&member)), None)
            }
            Effect::Members(MembersQuery { place, cursor, limit }) => {
                let cursor = cursor.map(|cursor| format!(" after {cursor}")).unwrap_or_default();
                let line = format!("S? members {} {limit}{cursor}", place.destination);
                (line, Some(Pending::Members))
            }
            Effect::Close(reason) => {
                self.closed = Some(reason);
                (format!("S| close {reason}"), None)
            }
        };
        self.log.push(line.replace(&self.session.id().to_string(), "<session>"));
        pending
    }

    /// What the session is told, in the frames that its client gets.
    fn tell(&mut self, telling: &Telling) -> Option<Pending> {
        let mut encoder = Encoder::new(usize::MAX);
        for chunk in encoder.tell(telling, SessionKey(3), self.framing, &self.hub) {
            let frame: Vec<u8> = chunk.pieces().concat();
            // What is for an array has a comma before it.
            let line = format!("S< {}", self.shown(frame.strip_prefix(b",").unwrap_or(&frame)));
            let id = telling.publication.id.to_string();
            self.log.push(line.replace(&id, "<id>"));
        }
        None
    }

    /// What is asked of the registry; without a line where it is not shown.
    fn registry_effect(&mut self, effect: Effect) -> (Option<String>, Option<Pending>) {
        let is_shown = self.registry_shown;
        let shown = |line: String| is_shown.then_some(line);
        match effect {
            Effect::Enter { user, is_limited, is_known } => {
                self.entered += 1;
                let bound = if is_limited { "" } else { " without limit" };
                let known = if is_known && user.is_some() { " known" } else { "" };
                let user = user.as_deref().unwrap_or("nobody");
                let line = format!("S? enter {user}{known}{bound}");
                (shown(line), Some(Pending::Entered))
            }
            Effect::Exit { user, reason } => {
                self.entered -= 1;
                let user = user.as_deref().unwrap_or("nobody");
                (shown(format!("S! exit {user} {reason}")), None)
            }
            Effect::Record(SubscriptionChange { user, destination, began }) => {
                let what = if began { "subscribed" } else { "unsubscribed" };
                let user = user.as_deref().unwrap_or("nobody");
                (Some(format!("S! {what} {user} {}", destination.as_str())), None)
            }
            effect => unreachable!("{effect:?} is not the registry's"),
        }
    }

    fn shown(&mut self, mut payload: &[u8]) -> String {
        if payload == b"\n" {
            return "(eol)".to_owned();
        }
        if payload.starts_with(b"{") {
            return native_line(payload);
        }
        if self.session.listens_from().is_some() {
            return event_line(payload);
        }
        let is_connected = payload.starts_with(b"CONNECTED");
        let frame = self.frames.next(&mut payload, &stomp::Limits::default()).unwrap();
        let Some(stomp::Incoming::Frame(frame)) = frame else { panic!("not a frame: {frame:?}") };
        assert!(payload.is_empty(), "one frame per message");
        if is_connected && let Ok(version) = frame.header("version").unwrap_or_default().parse() {
            self.frames.set_version(version);
        }
        frame_line(&frame)
    }
}

/// How they are shown, and what is the token among them.
pub(crate) fn shown_credentials(credentials: Credentials) -> (String, String) {
    match credentials {
        Credentials::Token(token) => (token.as_str().to_owned(), token.as_str().to_owned()),
        Credentials::Login { login, passcode, bearer } => {
            let token = bearer.as_ref().unwrap_or(&passcode).as_str();
            (format!("{login}:{} or {token}", passcode.as_str()), token.to_owned())
        }
    }
}

/// Who a token stands for: `ann`, `ann+admin` with a role, `app+service` for an account, `ann@60`
/// that expires in 60 s; some stand for what is wrong with them.
pub(crate) fn principal(token: &str, now: Now) -> Result<Principal, AuthError> {
    match token {
        "expired" => return Err(AuthError::Expired),
        "forged" => return Err(AuthError::BadSignature),
        "keyless" => return Err(AuthError::KeysUnavailable),
        _ => {}
    }
    let (token, expires) = token.split_once('@').unwrap_or((token, ""));
    let (user, role) = token.split_once('+').unwrap_or((token, ""));
    let mut principal = Principal::of_user(user);
    principal.is_service = role == "service";
    if !role.is_empty() {
        principal.roles = [role.into()].into();
    }
    principal.expires_unix_s = expires.parse::<u64>().ok().map(|seconds| now.unix_s() + seconds);
    Ok(principal)
}

/// The rules that transcripts go by, where they do not say otherwise.
pub(crate) fn rules() -> Rules {
    rules_with(&[])
}

/// The same, after these.
pub(crate) fn rules_with(first: &[PolicyRule]) -> Rules {
    let namespace = |name: &str, pattern: &str, patterns, anonymous| Namespace {
        patterns,
        anonymous,
        ..Namespace::new(name, pattern)
    };
    let allow = |destination: &str, actions: &[Action]| PolicyRule {
        actions: actions.to_vec(),
        ..PolicyRule::new(RuleEffect::Allow, destination)
    };
    let both = [Action::Subscribe, Action::Publish];
    let kept = NamespaceOptions {
        history: Some(History { size: 10, ttl_ms: 60_000 }),
        ..NamespaceOptions::default()
    };
    let namespaces = [
        Namespace { options: kept.clone(), ..namespace("kept", "/topic/kept/**", true, false) },
        Namespace { options: kept, ..namespace("inbox", "/user/queue/kept.*", false, true) },
        namespace("public", "/topic/public/**", true, true),
        namespace("single", "/topic/single/**", false, false),
        Namespace {
            options: NamespaceOptions { events: true, ..NamespaceOptions::default() },
            ..namespace("told", "/topic/told/**", false, true)
        },
        namespace("topic", "/topic/**", true, false),
        namespace("user", "/user/**", false, true),
    ];
    let usual = [
        PolicyRule::new(RuleEffect::Deny, "/topic/secret/**"),
        PolicyRule {
            actions: vec![Action::History],
            ..PolicyRule::new(RuleEffect::Deny, "/topic/kept/sealed")
        },
        allow("/topic/kept/**", &[Action::History]),
        allow("/user/queue/**", &[Action::History]),
        PolicyRule { who: Who::Authenticated, ..allow("/topic/**", &both) },
        allow("/topic/public/**", &[Action::Subscribe]),
        allow("/user/queue/**", &both),
        PolicyRule {
            roles: vec!["admin".to_owned()],
            ..allow("/user/{name}/queue/**", &[Action::Publish])
        },
    ];
    let rules = [first, &usual].concat();
    Rules { policy: Policy::new(&namespaces, &rules).unwrap(), ..Rules::default() }
}

/// The same, but nobody is anonymous.
pub(crate) fn closed_rules() -> Rules {
    let namespaces = [Namespace::new("topic", "/topic/**")];
    let rules = [PolicyRule::new(RuleEffect::Allow, "/topic/**")];
    Rules { policy: Policy::new(&namespaces, &rules).unwrap(), ..Rules::default() }
}

pub(crate) fn handshake(user: &str) -> Handshake {
    let principal = principal(user, START).expect("a good token");
    Handshake { principal: Some(Arc::new(principal)), ..Handshake::default() }
}

/// The message `7` of `queue`, delivered for the first time; `7x2`: for the second.
fn fetched(message: &str, queue: &str) -> Fetched {
    let (number, count) = message.split_once('x').unwrap_or((message, "1"));
    let number: u32 = number.parse().unwrap();
    let publication = Publication {
        id: PublicationId(Uuid::from_u128(number.into())),
        destination: queue.parse().unwrap(),
        body: format!("{number}").into(),
        content_type: ContentType::Unspecified,
        headers: Box::default(),
        publisher: None,
        at_unix_ms: START.unix_ms,
        position: None,
        only_for: None,
        except: None,
        is_json: false,
    };
    let entry = EntryId { ms: 0, seq: number.into() };
    let delivery = DeliveryId { entry, count: count.parse().unwrap() };
    Fetched { delivery, publication: Arc::new(publication) }
}

/// `ack /queue/a 1 2`, `release /queue/a 3`
fn settlement_line(settlement: &Settlement) -> String {
    let mut line = String::new();
    for entry in &settlement.acks {
        line.push_str(&format!(" {}", entry.seq));
    }
    for release in &settlement.releases {
        assert!(release.was_delivered);
        line.push_str(&format!(" -{}", release.delivery.entry.seq));
    }
    format!("settle {}{line}", settlement.queue.destination)
}

/// What the ids of messages begin with in transcripts, where they are `#7`.
pub(crate) const ID_ZEROS: &str = "0000000000000000000000000000000";

/// A connected STOMP 1.2 session of ann.
pub(crate) fn connected_stomp() -> Driver {
    connected(b"CONNECT\naccept-version:1.2\npasscode:ann\n\n\0")
}

/// A connected native session of ann.
pub(crate) fn connected_native() -> Driver {
    connected(br#"{"type":"connect","token":"ann"}"#)
}

fn connected(connect: &[u8]) -> Driver {
    let mut driver = Driver::new(rules(), None, Handshake::default());
    driver.receive(true, connect);
    assert!(driver.session.is_connected());
    driver.log.clear();
    driver
}

/// `/topic/ops` is for those with the role ops.
pub(crate) fn role_policy() -> Policy {
    let namespaces = [Namespace::new("topic", "/topic/**")];
    let ops = PolicyRule {
        roles: vec!["ops".to_owned()],
        ..PolicyRule::new(RuleEffect::Allow, "/topic/ops")
    };
    let all = PolicyRule::new(RuleEffect::Allow, "/topic/all");
    Policy::new(&namespaces, &[ops, all]).unwrap()
}

/// A session that waits for the registry.
pub(crate) fn connecting(user: &str) -> Driver {
    let mut driver = Driver::new(rules(), None, Handshake::default());
    driver.registry_shown = true;
    driver.hold = true;
    let connect = format!("CONNECT\naccept-version:1.2\npasscode:{user}\n\n\0");
    driver.receive(true, connect.as_bytes());
    driver.answer_authenticated();
    assert_eq!(driver.pending, Some(Pending::Entered));
    driver
}

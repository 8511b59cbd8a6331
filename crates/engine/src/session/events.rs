//! A session whose client only listens: server-sent events, and polls.
//!
//! What it wants is known when it begins. Each event's data is the native protocol's JSON; the id
//! of each that moves the client on is its whole [`Cursor`], so that the last one alone recovers
//! all of its destinations, on any node.

use std::collections::HashSet;
use std::sync::Arc;

use fanlight_proto::cursor::{Cursor, CursorError};
use fanlight_proto::native::ServerMessage;
use fanlight_proto::sse::{self, Field};
use fanlight_proto::{CloseReason, Position};

use super::alone::Refusal;
use super::app::{is_app, may_ask};
use super::connect::Connecting;
use super::heartbeat::Beats;
use super::live::{Answer, Note, is_pattern, may_subscribe};
use super::native::{self, is_named_user};
use super::presence::may_see_presence;
use super::queue::Consuming;
use super::recovery::{Wanted, actions_of};
use super::{Codec, Cx, Effect, Fault, Handshake, Rules, Session};
use crate::auth::{Capability, Principal};
use crate::hook::SubscribeQuestion;
use crate::hub::{SessionKey, Wire};
use crate::policy::{Right, Subject, SubscribePermit};
use crate::publication::SessionId;
use crate::queue::AckMode;
use crate::time::Now;
use crate::timeline::Start;

/// What a client wants to listen to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listening {
    wanted: Box<[Box<str>]>,
    cursor: Cursor,
    presence: bool,
    form: Form,
    capability: Option<Arc<Capability>>,
    /// Whether all backends have agreed that have a say in it.
    is_agreed: bool,
}

/// In which form a listener is told things.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// Server-sent events.
    Events,
    /// Native messages, for who polls. Where it stands is told apart, so what went as wished is not
    /// told.
    Items,
}

/// A stream of events, as far as it has come.
#[derive(Debug)]
pub(super) struct Events {
    listening: Listening,
    /// How many of its destinations are joined.
    joined: u16,
}

impl Listening {
    /// To these destinations or patterns, from where a client with `cursor` stands in each. With
    /// `presence` it is told who comes and goes.
    pub fn new(
        wanted: Vec<Box<str>>,
        cursor: Option<&str>,
        presence: bool,
        form: Form,
    ) -> Result<Self, CursorError> {
        let cursor = match cursor {
            Some(text) => Cursor::parse_for(text, wanted.len())?,
            None => Cursor::new(vec![None; wanted.len()])?,
        };
        let wanted = wanted.into();
        Ok(Self { wanted, cursor, presence, form, capability: None, is_agreed: false })
    }

    /// The same by this capability, where the client's own token does not allow it.
    #[must_use]
    pub fn with_capability(self, capability: Option<Arc<Capability>>) -> Self {
        Self { capability, ..self }
    }

    /// Refuses what a client who is `principal` may not listen to, before there is its session,
    /// which will have this id: so that the refusal can be an answer's status. With what backends
    /// are to be asked first, in the order of the destinations.
    pub fn check(
        &self,
        rules: &Rules,
        principal: Option<&Arc<Principal>>,
        session: SessionId,
    ) -> Result<Vec<SubscribeQuestion>, Refusal> {
        let own = Subject::new(principal.map(|principal| &**principal), session);
        let capability = self.capability.as_deref().map(|capability| &capability.grants);
        let subject = Subject { capability, ..own };
        let (mut named, mut questions) = (HashSet::new(), Vec::new());
        for to in &self.wanted {
            let mut checked = may_listen(rules, &subject, to, self.presence);
            if checked.is_ok() && !named.insert(to) {
                checked = Err(Fault::repeated_destination());
            }
            let right = checked.map_err(|fault| Refusal::of(fault, to))?;
            let hook = right.as_ref().and_then(|right| Some((right, right.hook()?)));
            questions.extend(hook.map(|(right, hook)| SubscribeQuestion {
                hook: Arc::clone(hook),
                actions: actions_of(right, Start::Now, self.presence),
                session,
                principal: principal.cloned(),
                destination: right.name().into(),
            }));
        }
        Ok(questions)
    }

    /// The same once the backends have agreed to all that [`Self::check`] wanted to be asked: its
    /// session does not ask them again.
    #[must_use]
    pub fn agreed(self) -> Self {
        Self { is_agreed: true, ..self }
    }

    /// The destinations or patterns.
    pub fn wanted(&self) -> &[Box<str>] {
        &self.wanted
    }
}

impl Session {
    /// A session of a client that listens; [`Session::listen`] begins it.
    pub fn listener(
        key: SessionKey,
        id: SessionId,
        listening: Listening,
        handshake: Handshake,
        now: Now,
    ) -> Self {
        let codec = Codec::Events(Box::new(Events { listening, joined: 0 }));
        Self { codec, ..Self::new(key, id, None, handshake, now) }
    }

    /// Connects a listener as whom its handshake said it is, then subscribes it to all it wants.
    pub fn listen(&mut self, cx: &mut Cx<'_>) {
        // Who polls is answered in time whatever happens.
        let beats = match self.form() {
            Some(Form::Items) => Beats::none(),
            _ => Beats::one_way(&cx.rules.heartbeats),
        };
        let connecting = Connecting { beats };
        if let Err(fault) = self.connect(cx, None, connecting) {
            self.events_fail(cx, &fault, None);
        }
    }

    /// Where a listener stands, for the publications that it is given: they move it on.
    pub fn cursor_mut(&mut self) -> Option<&mut Cursor> {
        match &mut self.codec {
            Codec::Events(events) => Some(&mut events.listening.cursor),
            Codec::Undecided | Codec::Native | Codec::Stomp { .. } => None,
        }
    }

    /// Where a listener stands, and whether it is live on all it wants.
    pub fn listens_from(&self) -> Option<(&Cursor, bool)> {
        match &self.codec {
            Codec::Events(events) => Some((&events.listening.cursor, events.next().is_none())),
            Codec::Undecided | Codec::Native | Codec::Stomp { .. } => None,
        }
    }

    pub(super) fn events_connected(&mut self, cx: &mut Cx<'_>) {
        if self.form() == Some(Form::Events) {
            // For the end that comes without advice, when the node dies with all its streams.
            let mut payload = Vec::new();
            sse::retry(&mut payload, retry_after_ms(self.id));
            event(&mut payload, CONNECTED, &native::connected(self, cx));
            cx.effects.push(Effect::Write { text: true, payload });
        }
        self.events_join(cx);
    }

    /// Whether backends have agreed to all that it wants before it began.
    pub(super) fn is_agreed(&self) -> bool {
        matches!(&self.codec, Codec::Events(events) if events.listening.is_agreed)
    }

    fn form(&self) -> Option<Form> {
        match &self.codec {
            Codec::Events(events) => Some(events.listening.form),
            Codec::Undecided | Codec::Native | Codec::Stomp { .. } => None,
        }
    }

    /// Subscribes to what comes next.
    fn events_join(&mut self, cx: &mut Cx<'_>) {
        let Codec::Events(events) = &self.codec else { return };
        let Some((index, to, since)) = events.next() else { return };
        let presence = events.listening.presence;
        let wire = Wire::Events { index: Some(index), named: is_named_user(&to) };
        // It can't ask again from the same place, once an id further on has come.
        let start = since.map_or(Start::Now, Start::Resume);
        let consuming = Consuming { mode: AckMode::Auto, prefetch: None, only_queues: false };
        let headers = Box::default();
        let wanted = Wanted::new(wire, start, presence, consuming, headers);
        let capability = events.listening.capability.clone();
        let subscribe =
            |session: &mut Self| session.subscribe(cx, &to, &to, wanted, Answer::Joined(index));
        let subscribed = match capability {
            Some(capability) => self.with_capability(capability, subscribe),
            None => subscribe(self),
        };
        if let Err((fault, _)) = subscribed {
            self.events_fail(cx, &fault, Some(index));
        }
    }

    /// One of its destinations is joined.
    pub(super) fn events_joined(&mut self, cx: &mut Cx<'_>, index: u16, note: Note) {
        let Codec::Events(events) = &mut self.codec else { return };
        events.joined = index + 1;
        let Listening { cursor, form, .. } = &mut events.listening;
        if let Some(position) = cursor.positions_mut().get_mut(usize::from(index)) {
            *position = note.position;
        }
        if *form == Form::Events || note.recovered != Some(true) || note.degraded {
            let message = ServerMessage::Ok(native::confirmed(u64::from(index).into(), note));
            write(cx, *form, Some(&*cursor), Some(SUBSCRIBED), &message);
        }
        self.events_join(cx);
    }

    /// A stream has no requests to refuse one by one: it ends.
    pub(super) fn events_fail(&mut self, cx: &mut Cx<'_>, fault: &Fault, index: Option<u16>) {
        if self.is_closed() {
            return;
        }
        let id = index.map(|index| u64::from(index).into());
        self.events_end(cx, &native::error(fault, id), fault.reason);
    }

    /// Ends it with this as its last word.
    pub(super) fn events_end(
        &mut self,
        cx: &mut Cx<'_>,
        error: &ServerMessage,
        reason: CloseReason,
    ) {
        if let Some(form) = self.form() {
            write(cx, form, None, Some(FAULT), error);
        }
        self.end(cx, reason);
    }

    /// Tells of a subscription that a backend has made or ended.
    pub(super) fn events_told(&mut self, cx: &mut Cx<'_>, message: &ServerMessage) {
        let event = match message {
            ServerMessage::Unsubscribed { .. } => UNSUBSCRIBED,
            _ => SUBSCRIBED,
        };
        if let Some(form) = self.form() {
            write(cx, form, None, Some(event), message);
        }
    }

    pub(super) fn events_reconnect(&mut self, cx: &mut Cx<'_>, after_ms: u64, reason: CloseReason) {
        let message = ServerMessage::Reconnect { after_ms, reason: reason.code().into() };
        match self.form() {
            Some(Form::Events) => {
                let mut payload = Vec::new();
                sse::retry(&mut payload, after_ms);
                event(&mut payload, RECONNECT, &message);
                cx.effects.push(Effect::Write { text: true, payload });
            }
            Some(Form::Items) => write(cx, Form::Items, None, None, &message),
            None => {}
        }
        self.end(cx, reason);
    }
}

/// The right of `subject` to listen to `to`: to subscribe; `None` where a backend is to answer it.
fn may_listen(
    rules: &Rules,
    subject: &Subject<'_>,
    to: &str,
    presence: bool,
) -> Result<Option<Right<SubscribePermit>>, Fault> {
    if is_app(to) && !is_pattern(to) {
        return may_ask(rules, subject, to, presence).map(|()| None);
    }
    let right = may_subscribe(rules, subject, to)?;
    if presence {
        may_see_presence(rules, subject, to)?;
    }
    Ok(Some(right))
}

impl Events {
    /// By which it may still subscribe, while it does.
    pub(super) fn capability_in_use(&self) -> Option<&Capability> {
        let joins = usize::from(self.joined) < self.listening.wanted.len();
        self.listening.capability.as_deref().filter(|_| joins)
    }

    /// What is to be joined next: its place, its name, and where the client stands in it.
    fn next(&self) -> Option<(u16, Box<str>, Option<Position>)> {
        let at = usize::from(self.joined);
        let to = self.listening.wanted.get(at)?.clone();
        Some((self.joined, to, self.listening.cursor.positions().get(at).copied().flatten()))
    }
}

fn write(
    cx: &mut Cx<'_>,
    form: Form,
    cursor: Option<&Cursor>,
    event: Option<Field<'_>>,
    message: &ServerMessage,
) {
    let mut data = Vec::new();
    message.write(&mut data);
    if form == Form::Items {
        cx.effects.push(Effect::Write { text: true, payload: data });
        return;
    }
    let mut payload = Vec::new();
    if let Some(cursor) = cursor.filter(|cursor| has_position(cursor)) {
        sse::cursor_id(&mut payload, cursor);
    }
    sse::body(&mut payload, event, &data);
    cx.effects.push(Effect::Write { text: true, payload });
}

fn event(payload: &mut Vec<u8>, name: Field<'_>, message: &ServerMessage) {
    let mut data = Vec::new();
    message.write(&mut data);
    sse::body(payload, Some(name), &data);
}

/// How long a client whose stream breaks waits: each another time, so that not all come at once.
fn retry_after_ms(id: SessionId) -> u64 {
    // The last bits of a session's id are random.
    RETRY_MIN_MS + (id.0.as_u128() as u64) % RETRY_SPREAD_MS
}

/// Whether there is anything to come back to.
pub(crate) fn has_position(cursor: &Cursor) -> bool {
    cursor.positions().iter().any(Option::is_some)
}

const RETRY_MIN_MS: u64 = 1000;
const RETRY_SPREAD_MS: u64 = 4000;

/// A heartbeat: a comment.
pub(super) const HEARTBEAT: &[u8] = b":\n\n";

const fn name(text: &'static str) -> Field<'static> {
    match Field::new(text) {
        Ok(field) => field,
        Err(_) => panic!("a name of ours has no line ends"),
    }
}

const CONNECTED: Field<'static> = name("connected");
const SUBSCRIBED: Field<'static> = name("subscribed");
const UNSUBSCRIBED: Field<'static> = name("unsubscribed");
const RECONNECT: Field<'static> = name("reconnect");
/// Not `error`, which is `EventSource`'s own.
const FAULT: Field<'static> = name("fault");
/// The event that tells of a loss.
pub(crate) const LOST: Field<'static> = name("lost");
/// The event that tells who came and went.
pub(crate) const PRESENCE: Field<'static> = name("presence");

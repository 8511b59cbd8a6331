//! The one task of a client: it keeps a connection, and ties answers and messages to their takers.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use fanlight_proto::native::{
    Confirmed, History, Message, PresenceChange, RequestId, ServerMessage,
};
use fanlight_proto::{CloseReason, Position, ReconnectAdvice};
use tokio::sync::{broadcast, mpsc, oneshot, watch};
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;

use crate::client::{Event, Members};
use crate::consumer::{CurrentConnection, Held};
use crate::entry::Entry;
use crate::error::{LinkError, RequestError};
use crate::link::{Link, SessionInfo};
use crate::options::ConnectOptions;
use crate::outgoing::Outgoing;
use crate::postponed::Postponed;
use crate::recent::Recent;
use crate::subscription::{Begin, Sink};

/// What a handle asks of the driver.
#[derive(Debug)]
pub(crate) enum Command {
    Subscribe { sink: Sink, begin: Begin, id: u64, reply: SubscribeReply },
    Unsubscribe { key: u64 },
    Request { id: u64, text: String, reply: RequestReply },
    Settle { settlement: Settlement, id: u64, reply: RequestReply },
}

/// Messages that are done, or given back.
#[derive(Debug)]
pub(crate) struct Settlement {
    pub(crate) ids: Vec<Box<str>>,
    pub(crate) is_ack: bool,
    /// The connection that they came on.
    pub(crate) connection: u64,
}

/// What the server says to a request.
#[derive(Debug)]
pub(crate) enum Answer {
    Confirmed(Box<Confirmed>),
    History(History),
    Members(Members),
}

/// How a subscription began.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Joined {
    /// Whether the node could not reach its broker.
    pub(crate) degraded: bool,
    /// Whether all came that was missed, where it began with a position.
    pub(crate) recovered: Option<bool>,
    /// Why it did not.
    pub(crate) reason: Option<Arc<str>>,
    /// Behind which position it is live.
    pub(crate) position: Option<Position>,
}

type RequestReply = oneshot::Sender<Result<Answer, RequestError>>;
pub(crate) type SubscribeReply = oneshot::Sender<Result<Joined, RequestError>>;

/// What the handles and the driver share.
#[derive(Debug, Clone)]
pub(crate) struct Shared {
    pub(crate) events: broadcast::Sender<Event>,
    pub(crate) session: watch::Sender<Option<SessionInfo>>,
    /// Set once the client has ended for good.
    pub(crate) ended: Arc<OnceLock<LinkError>>,
    pub(crate) connection: CurrentConnection,
}

pub(crate) struct Driver {
    options: ConnectOptions,
    commands: mpsc::Receiver<Command>,
    shared: Shared,
    cancel: CancellationToken,
    subscribed: HashMap<Arc<str>, Entry>,
    pending: HashMap<u64, Pending>,
    recent: Recent,
    postponed: Postponed,
    next_id: u64,
    /// When the server advised to come back.
    advised: Option<Duration>,
}

enum Pending {
    Subscribe { to: Arc<str> },
    Request { reply: RequestReply },
    Settle { ids: Vec<Box<str>>, reply: RequestReply },
}

enum Step {
    Heard(Result<(), LinkError>),
    Asked(Option<Command>),
    Quiet,
    Renew,
    Cancelled,
}

impl Driver {
    pub(crate) fn new(
        options: ConnectOptions,
        commands: mpsc::Receiver<Command>,
        shared: Shared,
        cancel: CancellationToken,
    ) -> Self {
        Self {
            options,
            commands,
            shared,
            cancel,
            subscribed: HashMap::new(),
            pending: HashMap::new(),
            recent: Recent::default(),
            postponed: Postponed::default(),
            next_id: OWN_IDS,
            advised: None,
        }
    }

    /// Runs until the client is closed or reconnecting is of no use. `first` learns how the first
    /// attempt ended, unless that is to be tried again.
    pub(crate) async fn run(mut self, first: oneshot::Sender<Result<(), LinkError>>) {
        let mut first = Some(first);
        let mut failures = 0;
        let mut refreshed = false;
        let error = loop {
            let error = match self.dial().await {
                Ok((link, info, heard)) => {
                    tell(&mut first, Ok(()));
                    refreshed = false;
                    let since = Instant::now();
                    let error = self.serve(link, info, heard).await;
                    // A server that takes sessions only to drop them is not to be hurried.
                    if since.elapsed() > self.options.backoff.bound(failures) {
                        failures = 0;
                    }
                    error
                }
                Err(error) if first.is_some() && !self.options.retry_first => break error,
                Err(error) => error,
            };
            let again = match error.advice() {
                ReconnectAdvice::Reconnect => true,
                ReconnectAdvice::RefreshToken => self.options.token.can_change() && !refreshed,
                ReconnectAdvice::Stop => false,
            };
            if !again {
                break error;
            }
            refreshed = error.advice() == ReconnectAdvice::RefreshToken;
            let wait = self.wait_after(&error, failures);
            failures = failures.saturating_add(1);
            self.disconnected(error, Some(wait));
            tokio::select! {
                () = sleep(wait) => {}
                () = self.cancel.cancelled() => break LinkError::ClosedHere,
            }
        };
        tell(&mut first, Err(error.clone()));
        self.end(&error);
    }

    async fn dial(&self) -> Result<(Link, SessionInfo, Vec<ServerMessage>), LinkError> {
        let dialed = async {
            let token = self.options.token.fetch().await;
            let token = token.map_err(|reason| LinkError::NoToken { reason })?;
            Link::open(&self.options, token.as_deref()).await
        };
        tokio::select! {
            dialed = dialed => dialed,
            () = self.cancel.cancelled() => Err(LinkError::ClosedHere),
        }
    }

    fn wait_after(&mut self, error: &LinkError, failures: u32) -> Duration {
        let asked = match error {
            LinkError::Refused { retry_after, .. } => *retry_after,
            _ => None,
        };
        // What the server advises is spread over its clients already.
        let advised = self.advised.take().or(asked).map(|wait| wait.min(ADVICE_MAX));
        advised.unwrap_or_else(|| self.options.backoff.wait(failures))
    }

    /// Serves one connection to its end.
    async fn serve(
        &mut self,
        mut link: Link,
        info: SessionInfo,
        mut heard: Vec<ServerMessage>,
    ) -> LinkError {
        let heartbeat = info.heartbeat;
        self.shared.session.send_replace(Some(info.clone()));
        let _ = self.shared.events.send(Event::Connected(info));
        self.subscribe_again(&mut link);
        let mut last_heard = Instant::now();
        let mut pinged = false;
        loop {
            for message in heard.drain(..) {
                self.take(message, &mut link);
            }
            let quiet_after = last_heard + heartbeat * if pinged { 2 } else { 1 };
            let renew_at = self.postponed.next_at();
            let may_ask = !link.is_congested() && self.pending.len() < PENDING_MAX;
            let step = tokio::select! {
                result = link.receive(&mut heard) => Step::Heard(result),
                command = self.commands.recv(), if may_ask => Step::Asked(command),
                () = sleep_until(quiet_after), if !heartbeat.is_zero() => Step::Quiet,
                () = sleep_until(renew_at.unwrap_or(quiet_after)), if renew_at.is_some() => {
                    Step::Renew
                }
                () = self.cancel.cancelled() => Step::Cancelled,
            };
            match step {
                Step::Heard(Ok(())) => {
                    last_heard = Instant::now();
                    pinged = false;
                }
                Step::Heard(Err(error)) => return error,
                Step::Asked(Some(command)) => self.carry_out(command, &mut link),
                Step::Quiet if pinged => return LinkError::Silent { silence: heartbeat * 2 },
                Step::Quiet => {
                    link.send(&Outgoing::Ping.to_text());
                    pinged = true;
                    self.pending.retain(|_, pending| pending.is_wanted());
                }
                Step::Renew => self.renew_postponed(&mut link),
                Step::Asked(None) | Step::Cancelled => {
                    link.close().await;
                    return LinkError::ClosedHere;
                }
            }
        }
    }

    fn carry_out(&mut self, command: Command, link: &mut Link) {
        match command {
            Command::Subscribe { sink, begin, id, reply } => {
                self.subscribe(sink, begin, id, reply, link);
            }
            Command::Unsubscribe { key } => self.unsubscribe(key, link),
            Command::Request { id, text, reply } if !reply.is_closed() => {
                link.send(&text);
                self.pending.insert(id, Pending::Request { reply });
            }
            Command::Settle { settlement, id, reply } if !reply.is_closed() => {
                self.settle(settlement, id, reply, link);
            }
            // Its caller has given up waiting for a connection.
            Command::Request { .. } | Command::Settle { .. } => {}
        }
    }

    /// Sends what this connection holds; nothing, if it does not hold all of it. The server would
    /// ignore what it did not give to this connection, and call that done.
    fn settle(&mut self, settlement: Settlement, id: u64, reply: RequestReply, link: &mut Link) {
        let Settlement { ids, is_ack, connection } = settlement;
        let is_current = connection == self.shared.connection.number();
        let is_held = |id: &str| self.subscribed.values().any(|entry| entry.held.has(id));
        if let Some(id) = ids.iter().find(|id| !is_current || !is_held(id)) {
            let _ = reply.send(Err(RequestError::NotHeld { id: id.to_string() }));
            return;
        }
        let request =
            if is_ack { Outgoing::Ack { ids: &ids, id } } else { Outgoing::Nack { ids: &ids, id } };
        link.send(&request.to_text());
        self.pending.insert(id, Pending::Settle { ids, reply });
    }

    fn subscribe(
        &mut self,
        sink: Sink,
        begin: Begin,
        id: u64,
        reply: SubscribeReply,
        link: &mut Link,
    ) {
        if sink.is_abandoned() {
            return;
        }
        let to = Arc::clone(&sink.to);
        self.forget_abandoned(&to, link);
        let wants = sink.wants.clone();
        if let Some(entry) = self.subscribed.get_mut(&to) {
            if begin != Begin::Now || wants.acks.is_some() || entry.wants.acks.is_some() {
                let _ = reply.send(Err(RequestError::AlreadySubscribed));
                return;
            }
            entry.add(sink);
            if wants.presence && !entry.wants.presence {
                // The server has one subscription of a name, so it is made anew.
                link.send(&Outgoing::Unsubscribe { to: &to }.to_text());
                (entry.request, entry.wants.presence, entry.joined) = (id, true, None);
                link.send(&entry.renew(&to).to_text());
                self.pending.insert(id, Pending::Subscribe { to });
                entry.waiting.push(reply);
                return;
            }
            match entry.joined.clone() {
                Some(joined) => {
                    let _ = reply.send(Ok(joined));
                }
                None => entry.waiting.push(reply),
            }
            return;
        }
        link.send(&Outgoing::subscribe(&to, begin, &wants, id).to_text());
        self.pending.insert(id, Pending::Subscribe { to: Arc::clone(&to) });
        let position = match begin {
            Begin::After(position) => Some(position),
            Begin::Now | Begin::Newest(_) => None,
        };
        let entry = Entry {
            sinks: vec![sink],
            request: id,
            wants,
            held: Held::default(),
            joined: None,
            waiting: vec![reply],
            position,
            is_renewed: false,
        };
        self.subscribed.insert(to, entry);
    }

    /// Ends what was dropped while there was no room to say so.
    fn forget_abandoned(&mut self, to: &str, link: &mut Link) {
        let abandoned = |entry: &Entry| entry.sinks.iter().find_map(Sink::abandoned);
        while let Some(key) = self.subscribed.get(to).and_then(abandoned) {
            self.unsubscribe(key, link);
        }
    }

    fn unsubscribe(&mut self, key: u64, link: &mut Link) {
        let of_key = |entry: &Entry| entry.sinks.iter().any(|sink| sink.key == key);
        let found = self.subscribed.iter_mut().find(|(_, entry)| of_key(entry));
        let Some((to, entry)) = found else { return };
        entry.sinks.retain(|sink| sink.key != key);
        if entry.sinks.is_empty() {
            let to = Arc::clone(to);
            if !self.postponed.remove(&to) {
                link.send(&Outgoing::Unsubscribe { to: &to }.to_text());
            }
            self.subscribed.remove(&to);
        }
    }

    fn subscribe_again(&mut self, link: &mut Link) {
        self.subscribed.retain(|_, entry| {
            entry.sinks.retain(|sink| !sink.is_abandoned());
            !entry.sinks.is_empty()
        });
        let all: Vec<_> = self.subscribed.keys().cloned().collect();
        for to in all {
            self.subscribe_anew(to, link);
        }
    }

    /// Tries the next of those that the server would not have yet.
    fn renew_postponed(&mut self, link: &mut Link) {
        if let Some(to) = self.postponed.take(Instant::now()) {
            self.subscribe_anew(to, link);
        }
    }

    fn subscribe_anew(&mut self, to: Arc<str>, link: &mut Link) {
        let Some(entry) = self.subscribed.get_mut(&to) else { return };
        entry.request = self.next_id;
        self.next_id += 1;
        entry.wants.presence = entry.sinks.iter().any(|sink| sink.wants.presence);
        link.send(&entry.renew(&to).to_text());
        self.pending.insert(entry.request, Pending::Subscribe { to });
    }

    fn take(&mut self, message: ServerMessage, link: &mut Link) {
        match message {
            ServerMessage::Message(message) => self.deliver(&Arc::new(message), link),
            ServerMessage::Presence { to, change } => self.tell(&to, change),
            ServerMessage::Members { id, users, count, cursor, .. } => {
                self.answer(&id, Ok(Answer::Members(Members { users, count, cursor })));
            }
            ServerMessage::Ok(confirmed) => {
                let id = confirmed.id.clone();
                self.answer(&id, Ok(Answer::Confirmed(Box::new(confirmed))));
            }
            ServerMessage::History(history) => {
                let id = history.id.clone();
                self.answer(&id, Ok(Answer::History(history)));
            }
            ServerMessage::Lost { to, reason, epoch, offset } => {
                self.on_lost(&to, &reason, Position::from_parts(&epoch, offset).ok());
            }
            ServerMessage::Subscribed { to, .. } => {
                let _ = self.shared.events.send(Event::Subscribed(to.into()));
            }
            ServerMessage::Unsubscribed { to } => {
                self.on_ended(&to, "a backend has ended the subscription");
                let _ = self.shared.events.send(Event::Unsubscribed(to.into()));
            }
            ServerMessage::Error { id, code, message, retry_after_ms, to } => {
                let retry_after = retry_after_ms.map(Duration::from_millis);
                let code = code.into_owned();
                let refused = RequestError::Refused { code, message, retry_after };
                match (id, to) {
                    (Some(id), _) => self.answer(&id, Err(refused)),
                    (None, Some(to)) => self.on_ended(&to, &refused.to_string()),
                    // One without either comes before a close and is told with it.
                    (None, None) => {}
                }
            }
            ServerMessage::Reconnect { after_ms, .. } => {
                self.advised = Some(Duration::from_millis(after_ms));
            }
            ServerMessage::Connected { .. } | ServerMessage::Pong { .. } => {}
        }
    }

    fn deliver(&mut self, message: &Arc<Message>, link: &mut Link) {
        let connection = self.shared.connection.number();
        if message.ack
            && let Some(entry) = self.subscribed.get_mut(&*message.to)
            && let (Some(acks), [sink]) = (entry.wants.acks, &mut entry.sinks[..])
        {
            if sink.push(message, connection) {
                entry.held.add(&message.id, acks.prefetch);
            }
            if sink.is_abandoned() {
                let key = sink.key;
                self.unsubscribe(key, link);
            }
            return;
        }
        let matching = |entry: &&mut Entry| entry.sinks.iter().any(|sink| sink.takes(&message.to));
        let mut entries: Vec<_> = self.subscribed.values_mut().filter(matching).collect();
        if entries.len() > 1 && !self.recent.is_new(&message.id) {
            return;
        }
        if let Some(position) = message.position() {
            // What is given again, for whatever reason, is not received again.
            entries.retain_mut(|entry| entry.advance(position));
        }
        let mut abandoned = Vec::new();
        for sink in entries.iter_mut().flat_map(|entry| &mut entry.sinks) {
            sink.push(message, connection);
            if sink.is_abandoned() {
                abandoned.push(sink.key);
            }
        }
        for key in abandoned {
            self.unsubscribe(key, link);
        }
    }

    fn tell(&mut self, to: &str, change: PresenceChange) {
        let change = Arc::new(change);
        let Some(entry) = self.subscribed.get_mut(to) else { return };
        for sink in entry.sinks.iter_mut().filter(|sink| sink.wants.presence) {
            sink.push_presence(&change);
        }
    }

    /// The server has missed something of `to` for good.
    fn on_lost(&mut self, to: &str, reason: &str, position: Option<Position>) {
        for entry in self.subscribed.values_mut() {
            if entry.sinks.iter().any(|sink| sink.takes(to)) {
                if entry.is_exact() {
                    entry.position = position.or(entry.position);
                }
                entry.sinks.iter_mut().for_each(|sink| sink.push_lost(reason));
            }
        }
    }

    /// The server has ended the subscription to `to`; one that is being asked for comes after that.
    fn on_ended(&mut self, to: &str, reason: &str) {
        if self.subscribed.get(to).is_some_and(|entry| entry.joined.is_some())
            && let Some(entry) = self.subscribed.remove(to)
        {
            for sink in entry.sinks {
                sink.end(reason.to_owned());
            }
        }
    }

    fn answer(&mut self, id: &RequestId, result: Result<Answer, RequestError>) {
        let id = id.as_json().parse::<u64>().ok();
        match id.and_then(|id| Some((id, self.pending.remove(&id)?))) {
            Some((_, Pending::Request { reply })) => {
                let _ = reply.send(result);
            }
            Some((_, Pending::Settle { ids, reply })) => {
                if let Ok(Answer::Confirmed(_)) = &result {
                    self.settled(&ids);
                }
                let _ = reply.send(result);
            }
            Some((id, Pending::Subscribe { to })) => self.subscribed_or_not(id, &to, result),
            None => {}
        }
    }

    /// The server has what was said of these messages.
    fn settled(&mut self, ids: &[Box<str>]) {
        for entry in self.subscribed.values_mut() {
            let Some(acks) = entry.wants.acks else { continue };
            for id in ids {
                entry.held.settle(id, acks.mode);
            }
        }
    }

    fn subscribed_or_not(&mut self, id: u64, to: &Arc<str>, result: Result<Answer, RequestError>) {
        let Some(entry) = self.subscribed.get_mut(to).filter(|entry| entry.request == id) else {
            return;
        };
        let error = match result {
            Ok(Answer::History(_) | Answer::Members(_)) => RequestError::Unexpected,
            Ok(Answer::Confirmed(confirmed)) => {
                let position = confirmed.position();
                let Confirmed { degraded, recovered, reason, .. } = *confirmed;
                let reason = reason.as_deref();
                let joined =
                    Joined { degraded, recovered, reason: reason.map(Into::into), position };
                entry.joined = Some(joined.clone());
                if entry.is_exact() {
                    entry.position = position.or(entry.position);
                }
                if entry.is_renewed && recovered == Some(false) {
                    let reason = reason.unwrap_or("unknown");
                    entry.sinks.iter_mut().for_each(|sink| sink.push_lost(reason));
                }
                for reply in entry.waiting.drain(..) {
                    let _ = reply.send(Ok(joined.clone()));
                }
                return;
            }
            Err(error) => error,
        };
        if entry.is_renewed
            && let Some(wait) = wait_asked(&error)
        {
            return self.postponed.add(Arc::clone(to), wait, Instant::now());
        }
        if let Some(entry) = self.subscribed.remove(to) {
            for reply in entry.waiting {
                let _ = reply.send(Err(error.clone()));
            }
            for sink in entry.sinks {
                sink.end(error.to_string());
            }
        }
    }

    /// What was asked on a lost connection is lost with it; subscriptions are kept.
    fn disconnected(&mut self, error: LinkError, retry_in: Option<Duration>) {
        self.shared.session.send_replace(None);
        self.shared.connection.lost();
        self.postponed.clear();
        for (_, pending) in self.pending.drain() {
            match pending {
                Pending::Request { reply } | Pending::Settle { reply, .. } => {
                    let _ = reply.send(Err(RequestError::ConnectionLost));
                }
                Pending::Subscribe { .. } => {}
            }
        }
        for entry in self.subscribed.values_mut() {
            entry.joined = None;
            entry.held.clear();
        }
        let _ = self.shared.events.send(Event::Disconnected { error, retry_in });
    }

    fn end(mut self, error: &LinkError) {
        let _ = self.shared.ended.set(error.clone());
        self.disconnected(error.clone(), None);
        for (_, entry) in self.subscribed.drain() {
            for reply in entry.waiting {
                let _ = reply.send(Err(RequestError::Ended(error.clone())));
            }
            for sink in entry.sinks {
                sink.end(error.to_string());
            }
        }
        self.commands.close();
        while let Ok(command) = self.commands.try_recv() {
            let refusal = RequestError::Ended(error.clone());
            match command {
                Command::Subscribe { sink, reply, .. } => {
                    sink.end(error.to_string());
                    let _ = reply.send(Err(refusal));
                }
                Command::Request { reply, .. } | Command::Settle { reply, .. } => {
                    let _ = reply.send(Err(refusal));
                }
                Command::Unsubscribe { .. } => {}
            }
        }
    }
}

impl Pending {
    /// Whether somebody still waits for the answer.
    fn is_wanted(&self) -> bool {
        match self {
            Self::Subscribe { .. } => true,
            Self::Request { reply } | Self::Settle { reply, .. } => !reply.is_closed(),
        }
    }
}

/// After which time the server would have a request again, where it is only too early for it.
fn wait_asked(error: &RequestError) -> Option<Duration> {
    match error {
        RequestError::Refused { retry_after: Some(wait), .. } => Some((*wait).min(ADVICE_MAX)),
        RequestError::Refused { code, .. } if code == CloseReason::RateLimited.code() => {
            Some(UNADVISED)
        }
        _ => None,
    }
}

fn tell(first: &mut Option<oneshot::Sender<Result<(), LinkError>>>, result: Result<(), LinkError>) {
    if let Some(first) = first.take() {
        let _ = first.send(result);
    }
}

/// Ids of the driver's own requests begin here; those of handles begin at 1 and stay below.
const OWN_IDS: u64 = 1 << 48;
const PENDING_MAX: usize = 1024;
/// A server that advises more than this is not believed.
const ADVICE_MAX: Duration = Duration::from_secs(300);
/// The wait where the server says only that it was too early.
const UNADVISED: Duration = Duration::from_secs(1);

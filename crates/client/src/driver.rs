//! The one task of a client: it keeps a connection, and ties answers and messages to their takers.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use fanlight_proto::ReconnectAdvice;
use fanlight_proto::native::{Message, PresenceChange, RequestId, ServerMessage};
use tokio::sync::{broadcast, mpsc, oneshot, watch};
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;

use crate::client::{Event, Members, Sent};
use crate::error::{LinkError, RequestError};
use crate::link::{Link, SessionInfo};
use crate::options::ConnectOptions;
use crate::outgoing::Outgoing;
use crate::recent::Recent;
use crate::subscription::{Received, Sink};

/// What a handle asks of the driver.
#[derive(Debug)]
pub(crate) enum Command {
    Subscribe { sink: Sink, id: u64, reply: SubscribeReply },
    Unsubscribe { key: u64 },
    Request { id: u64, text: String, reply: oneshot::Sender<Result<Sent, RequestError>> },
    Members { id: u64, text: String, reply: oneshot::Sender<Result<Members, RequestError>> },
}

/// How a subscription began.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Joined {
    /// Whether the node could not reach its broker.
    pub(crate) degraded: bool,
}

type SubscribeReply = oneshot::Sender<Result<Joined, RequestError>>;

/// What the handles and the driver share.
#[derive(Debug, Clone)]
pub(crate) struct Shared {
    pub(crate) events: broadcast::Sender<Event>,
    pub(crate) session: watch::Sender<Option<SessionInfo>>,
    /// Set once the client has ended for good.
    pub(crate) ended: Arc<OnceLock<LinkError>>,
}

pub(crate) struct Driver {
    options: ConnectOptions,
    commands: mpsc::Receiver<Command>,
    shared: Shared,
    cancel: CancellationToken,
    subscribed: HashMap<Arc<str>, Entry>,
    pending: HashMap<u64, Pending>,
    recent: Recent,
    next_id: u64,
    /// When the server advised to come back.
    advised: Option<Duration>,
}

/// All subscriptions to one destination or pattern: one at the server.
struct Entry {
    sinks: Vec<Sink>,
    /// The request that subscribes or subscribed it on this connection.
    request: u64,
    /// Whether changes of presence were asked for.
    presence: bool,
    /// How it began on this connection, once that is known.
    joined: Option<Joined>,
    waiting: Vec<SubscribeReply>,
}

enum Pending {
    Subscribe { to: Arc<str> },
    Request { reply: oneshot::Sender<Result<Sent, RequestError>> },
    Members { reply: oneshot::Sender<Result<Members, RequestError>> },
}

enum Step {
    Heard(Result<(), LinkError>),
    Asked(Option<Command>),
    Quiet,
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
            let may_ask = !link.is_congested() && self.pending.len() < PENDING_MAX;
            let step = tokio::select! {
                result = link.receive(&mut heard) => Step::Heard(result),
                command = self.commands.recv(), if may_ask => Step::Asked(command),
                () = sleep_until(quiet_after), if !heartbeat.is_zero() => Step::Quiet,
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
                Step::Asked(None) | Step::Cancelled => {
                    link.close().await;
                    return LinkError::ClosedHere;
                }
            }
        }
    }

    fn carry_out(&mut self, command: Command, link: &mut Link) {
        match command {
            Command::Subscribe { sink, id, reply } => self.subscribe(sink, id, reply, link),
            Command::Unsubscribe { key } => self.unsubscribe(key, link),
            Command::Request { id, text, reply } if !reply.is_closed() => {
                link.send(&text);
                self.pending.insert(id, Pending::Request { reply });
            }
            Command::Members { id, text, reply } if !reply.is_closed() => {
                link.send(&text);
                self.pending.insert(id, Pending::Members { reply });
            }
            // Its caller has given up waiting for a connection.
            Command::Request { .. } | Command::Members { .. } => {}
        }
    }

    fn subscribe(&mut self, sink: Sink, id: u64, reply: SubscribeReply, link: &mut Link) {
        if sink.is_abandoned() {
            return;
        }
        let to = Arc::clone(&sink.to);
        let presence = sink.presence;
        if let Some(entry) = self.subscribed.get_mut(&to) {
            entry.sinks.push(sink);
            if presence && !entry.presence {
                // The server has one subscription of a name, so it is made anew.
                link.send(&Outgoing::Unsubscribe { to: &to }.to_text());
                link.send(&Outgoing::Subscribe { to: &to, presence, id }.to_text());
                self.pending.insert(id, Pending::Subscribe { to });
                (entry.request, entry.presence, entry.joined) = (id, true, None);
                entry.waiting.push(reply);
                return;
            }
            match entry.joined {
                Some(joined) => {
                    let _ = reply.send(Ok(joined));
                }
                None => entry.waiting.push(reply),
            }
            return;
        }
        link.send(&Outgoing::Subscribe { to: &to, presence, id }.to_text());
        self.pending.insert(id, Pending::Subscribe { to: Arc::clone(&to) });
        let (sinks, waiting) = (vec![sink], vec![reply]);
        let entry = Entry { sinks, request: id, presence, joined: None, waiting };
        self.subscribed.insert(to, entry);
    }

    fn unsubscribe(&mut self, key: u64, link: &mut Link) {
        let of_key = |entry: &Entry| entry.sinks.iter().any(|sink| sink.key == key);
        let found = self.subscribed.iter_mut().find(|(_, entry)| of_key(entry));
        let Some((to, entry)) = found else { return };
        entry.sinks.retain(|sink| sink.key != key);
        if entry.sinks.is_empty() {
            link.send(&Outgoing::Unsubscribe { to }.to_text());
            let to = Arc::clone(to);
            self.subscribed.remove(&to);
        }
    }

    fn subscribe_again(&mut self, link: &mut Link) {
        self.subscribed.retain(|_, entry| {
            entry.sinks.retain(|sink| !sink.is_abandoned());
            !entry.sinks.is_empty()
        });
        for (to, entry) in &mut self.subscribed {
            entry.request = self.next_id;
            self.next_id += 1;
            entry.presence = entry.sinks.iter().any(|sink| sink.presence);
            let (presence, id) = (entry.presence, entry.request);
            link.send(&Outgoing::Subscribe { to, presence, id }.to_text());
            self.pending.insert(entry.request, Pending::Subscribe { to: Arc::clone(to) });
        }
    }

    fn take(&mut self, message: ServerMessage, link: &mut Link) {
        match message {
            ServerMessage::Message(message) => self.deliver(&Arc::new(message), link),
            ServerMessage::Presence { to, change } => self.tell(&to, change),
            ServerMessage::Members { id, users, count, cursor, .. } => {
                if let Some((_, Pending::Members { reply })) = self.asked(&id) {
                    let _ = reply.send(Ok(Members { users, count, cursor }));
                }
            }
            ServerMessage::Ok { id, message_id, degraded } => {
                self.answer(&id, Ok(Sent { message_id, degraded }));
            }
            ServerMessage::Error { id: Some(id), code, message, retry_after_ms } => {
                let retry_after = retry_after_ms.map(Duration::from_millis);
                let code = code.into_owned();
                self.answer(&id, Err(RequestError::Refused { code, message, retry_after }));
            }
            ServerMessage::Reconnect { after_ms, .. } => {
                self.advised = Some(Duration::from_millis(after_ms));
            }
            // An error without a request comes before a close and is told with it.
            ServerMessage::Error { id: None, .. }
            | ServerMessage::Connected { .. }
            | ServerMessage::Pong { .. } => {}
        }
    }

    fn deliver(&mut self, message: &Arc<Message>, link: &mut Link) {
        let matching = |entry: &&mut Entry| entry.sinks.iter().any(|sink| sink.takes(&message.to));
        let mut entries: Vec<_> = self.subscribed.values_mut().filter(matching).collect();
        if entries.len() > 1 && !self.recent.is_new(&message.id) {
            return;
        }
        let mut abandoned = Vec::new();
        for sink in entries.iter_mut().flat_map(|entry| &mut entry.sinks) {
            sink.push(message);
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
        for sink in entry.sinks.iter_mut().filter(|sink| sink.presence) {
            sink.receive(Received::Presence(Arc::clone(&change)));
        }
    }

    /// What was asked by this request, which is answered now.
    fn asked(&mut self, id: &RequestId) -> Option<(u64, Pending)> {
        let id = id.as_json().parse::<u64>().ok()?;
        Some((id, self.pending.remove(&id)?))
    }

    fn answer(&mut self, id: &RequestId, result: Result<Sent, RequestError>) {
        match self.asked(id) {
            Some((_, Pending::Request { reply })) => {
                let _ = reply.send(result);
            }
            Some((_, Pending::Members { reply })) => {
                if let Err(error) = result {
                    let _ = reply.send(Err(error));
                }
            }
            Some((id, Pending::Subscribe { to })) => self.subscribed_or_not(id, &to, result),
            None => {}
        }
    }

    fn subscribed_or_not(&mut self, id: u64, to: &Arc<str>, result: Result<Sent, RequestError>) {
        let Some(entry) = self.subscribed.get_mut(to).filter(|entry| entry.request == id) else {
            return;
        };
        let error = match result {
            Ok(Sent { degraded, .. }) => {
                let joined = Joined { degraded };
                entry.joined = Some(joined);
                for reply in entry.waiting.drain(..) {
                    let _ = reply.send(Ok(joined));
                }
                return;
            }
            Err(error) => error,
        };
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
        for (_, pending) in self.pending.drain() {
            match pending {
                Pending::Request { reply } => {
                    let _ = reply.send(Err(RequestError::ConnectionLost));
                }
                Pending::Members { reply } => {
                    let _ = reply.send(Err(RequestError::ConnectionLost));
                }
                Pending::Subscribe { .. } => {}
            }
        }
        for entry in self.subscribed.values_mut() {
            entry.joined = None;
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
                Command::Request { reply, .. } => {
                    let _ = reply.send(Err(refusal));
                }
                Command::Members { reply, .. } => {
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
            Self::Request { reply } => !reply.is_closed(),
            Self::Members { reply } => !reply.is_closed(),
        }
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

//! How nodes tell each other what sessions are to do: over a channel of each node's own, which its
//! subscriber connection carries like any other.

use std::collections::HashMap;
use std::fmt::Write;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use fanlight_engine::broker::{Channel, Delivery, DeliverySink, Full, Notice, PublishError};
use fanlight_engine::publication::{ContentType, Publication, PublicationId, SessionId};
use fanlight_engine::registry::{Command, Entry, Order, Sessions, Told};
use fanlight_proto::{CloseReason, Destination};
use futures_util::future::join_all;
use tokio::sync::{Notify, mpsc};
use tokio::time::sleep;
use uuid::Uuid;

use super::operation::Held;
use super::{Inner, unix_ms};
use crate::command;
use crate::lease::{boot_of, refuse_errors};
use crate::names::{Names, Partition};
use crate::peers::{self, PeerInbox, PeerSink};
use crate::resp3::Value;
use crate::shards::Shards;

/// The sink that the broker is given for this node's own channel, and what comes out of it.
pub fn control() -> (Arc<dyn DeliverySink>, ControlInbox) {
    let (sender, orders) = mpsc::channel(INBOX);
    let (peer_sink, peer_inbox) = peers::inbox();
    let revoked = Arc::<Notify>::default();
    let sink = ControlSink { orders: sender, peers: peer_sink, revoked: Arc::clone(&revoked) };
    (Arc::new(sink), ControlInbox { orders, peers: Some(peer_inbox), revoked })
}

/// What other nodes tell this one.
#[derive(Debug)]
pub struct ControlInbox {
    orders: mpsc::Receiver<Delivery>,
    peers: Option<PeerInbox>,
    revoked: Arc<Notify>,
}

/// Orders and what is for the peers are kept apart: neither takes the other's room, or waits for it.
struct ControlSink {
    orders: mpsc::Sender<Delivery>,
    peers: PeerSink,
    revoked: Arc<Notify>,
}

impl DeliverySink for ControlSink {
    fn deliver(&self, delivery: Delivery) -> Result<(), Full> {
        let tells_of_revoked =
            delivery.publications.iter().any(|one| one.body == REVOKED.as_bytes());
        if tells_of_revoked {
            self.revoked.notify_one();
        }
        let is_for_peers = |publication: &Publication| peers::is_message(&publication.body);
        let mut delivered = Ok(());
        for publication in delivery.publications.iter().filter(|one| is_for_peers(one)) {
            delivered = delivered.and(self.peers.push(publication.body.clone()));
        }
        if delivery.publications.iter().all(|one| is_for_peers(one)) {
            return delivered;
        }
        delivered.and(self.orders.try_send(delivery).map_err(|_| Full))
    }

    /// An order that was missed was not counted as told.
    fn notify(&self, _notice: Notice) {
        self.revoked.notify_one();
    }
}

impl ControlInbox {
    /// What is for the peers, which [`RedisPeers`](crate::RedisPeers) wants; once.
    pub fn peers(&mut self) -> Option<PeerInbox> {
        self.peers.take()
    }

    /// Notified when more is revoked than before, or may be.
    pub fn revoked(&self) -> Arc<Notify> {
        Arc::clone(&self.revoked)
    }

    /// Carries out what comes, until nothing can come any more.
    pub(super) async fn run(mut self, sessions: Arc<dyn Sessions>) {
        drop(self.peers.take());
        while let Some(delivery) = self.orders.recv().await {
            for publication in delivery.publications.iter() {
                for order in read(&publication.body) {
                    sessions.order(order).await;
                }
            }
        }
    }
}

impl Inner {
    pub(super) async fn order_user(
        &self,
        user: &str,
        command: Command,
    ) -> Result<Told, PublishError> {
        let mut nodes: HashMap<String, Vec<Order>> = HashMap::new();
        for held in self.held(user).await? {
            let order = order(&held, command.clone());
            nodes.entry(held.boot().to_owned()).or_default().push(order);
        }
        let mut told = Told { sessions: Some(0), ..Told::default() };
        let telling = nodes
            .iter()
            .map(|(boot, orders)| async move { (orders.len(), self.tell(boot, orders).await) });
        for (orders, heard) in join_all(telling).await {
            if heard? {
                told.nodes += 1;
                told.sessions = told.sessions.map(|sessions| sessions + orders);
            } else {
                told.unheard += 1;
            }
        }
        Ok(told)
    }

    /// Asks every node, as nothing but the user leads to the node of a session.
    pub(super) async fn order_session(
        &self,
        session: SessionId,
        command: Command,
    ) -> Result<Told, PublishError> {
        let orders = [Order { session, handle: None, command }];
        let nodes = self.lease.nodes();
        if nodes.is_empty() {
            // None were ever listed, not even this one.
            return Err(PublishError::Unavailable);
        }
        let telling = nodes.iter().map(|node| self.tell(boot_of(&node.owner), &orders));
        let mut told = Told::default();
        for (node, heard) in nodes.iter().zip(join_all(telling).await) {
            let heard = heard?;
            told.nodes += usize::from(heard);
            told.unheard += usize::from(!heard && node.left.is_some());
        }
        Ok(told)
    }

    /// Carries out what the limit of sessions has decided. Who is just reconnecting to Redis hears
    /// of it a little later.
    pub(super) async fn order_all(self: Arc<Self>, orders: Vec<(String, Order)>) {
        let mut nodes: HashMap<String, Vec<Order>> = HashMap::new();
        for (boot, order) in orders {
            nodes.entry(boot).or_default().push(order);
        }
        for (boot, orders) in nodes {
            if boot == self.lease.boot() {
                for order in orders {
                    self.sessions.order(order).await;
                }
                continue;
            }
            for _ in 0..TELL_ATTEMPTS {
                match self.tell(&boot, &orders).await {
                    Ok(true) => break,
                    Ok(false) | Err(_) => sleep(TELL_AGAIN).await,
                }
            }
        }
    }

    /// Whether the node has heard it.
    async fn tell(&self, boot: &str, orders: &[Order]) -> Result<bool, PublishError> {
        let mut heard = true;
        for some in orders.chunks(ORDERS_EACH) {
            heard &= say(&self.shards, &self.names, boot, write(some)).await?;
        }
        Ok(heard)
    }
}

/// Says something on a node's own channel; whether the node has heard it.
pub(crate) async fn say(
    shards: &Shards,
    names: &Names,
    boot: &str,
    text: String,
) -> Result<bool, PublishError> {
    let channel = Channel::of_node(boot);
    let partition = Partition::of(channel.as_str());
    let publication = Publication {
        id: PublicationId(Uuid::now_v7()),
        destination: destination(),
        body: Bytes::from(text),
        content_type: ContentType::Text,
        headers: Box::default(),
        publisher: None,
        at_unix_ms: unix_ms(),
        position: None,
        only_for: None,
        except: None,
        is_json: false,
    };
    let name = names.within(partition, &channel);
    let command = command::publish(&publication, name, shards.sharded_pubsub());
    let answer = refuse_errors(shards.call(partition, |_| command).await?)?;
    Ok(matches!(answer, Value::Integer(receivers) if receivers > 0))
}

/// That a newer session took the place of `held`, with the node to tell.
pub(super) fn replaced(held: &Held) -> Option<(String, Order)> {
    let handle = held.handle.parse().ok()?;
    Some((held.boot().to_owned(), Order::replaced(held.session, handle)))
}

/// That a session was let in, and there was no room for it.
pub(super) fn limited(entry: &Entry) -> Order {
    Order {
        session: entry.session,
        handle: Some(entry.handle),
        command: Command::End {
            reason: CloseReason::SessionLimit,
            message: "this user has as many sessions as are allowed".into(),
        },
    }
}

fn order(held: &Held, command: Command) -> Order {
    Order { session: held.session, handle: held.handle.parse().ok(), command }
}

/// One line each: `reason session handle message`, or a word in place of the reason and what it is
/// about in place of the message.
fn write(orders: &[Order]) -> String {
    let mut text = String::new();
    for Order { session, handle, command } in orders {
        let (word, rest) = match command {
            Command::End { reason, message } => {
                (reason.code(), message.replace(char::is_control, " "))
            }
            Command::Revoke { until_unix_ms } => (REVOKE, until_unix_ms.to_string()),
            Command::Subscribe(to) => (SUBSCRIBE, to.to_string()),
            Command::Unsubscribe(to) => (UNSUBSCRIBE, to.to_string()),
        };
        let session = session.0.simple();
        let handle = handle.map_or_else(|| "-".to_owned(), |handle| handle.to_string());
        let _ = writeln!(text, "{word} {session} {handle} {rest}");
    }
    text
}

/// What can't be read is left out: a later version may say more.
fn read(body: &[u8]) -> Vec<Order> {
    let order = |line: &str| {
        let mut fields = line.splitn(4, ' ');
        let word = fields.next()?;
        let session = SessionId(Uuid::parse_str(fields.next()?).ok()?);
        let handle = fields.next()?.parse().ok();
        let rest = fields.next()?;
        let command = match word {
            REVOKE => Command::Revoke { until_unix_ms: rest.parse().ok()? },
            SUBSCRIBE => Command::Subscribe(rest.parse().ok()?),
            UNSUBSCRIBE => Command::Unsubscribe(rest.parse().ok()?),
            code => Command::End {
                reason: CloseReason::ALL.into_iter().find(|reason| reason.code() == code)?,
                message: rest.into(),
            },
        };
        Some(Order { session, handle, command })
    };
    std::str::from_utf8(body).unwrap_or_default().lines().filter_map(order).collect()
}

/// Envelopes have a destination; clients can't come by this channel whatever it is.
pub(crate) fn destination() -> Destination {
    "/topic/node".parse().expect("it is a destination")
}

/// Deliveries that wait to be carried out.
const INBOX: usize = 1024;
/// Orders in one message.
const ORDERS_EACH: usize = 128;
/// What a node is told when more is revoked than before.
pub(crate) const REVOKED: &str = "revoked";
const REVOKE: &str = "revoke_token";
const SUBSCRIBE: &str = "subscribe";
const UNSUBSCRIBE: &str = "unsubscribe";
const TELL_ATTEMPTS: usize = 10;
const TELL_AGAIN: Duration = Duration::from_millis(200);

#[cfg(test)]
mod tests {
    use super::*;
    use fanlight_engine::broker::WorkerId;
    use fanlight_engine::registry::Handle;

    #[test]
    fn orders_are_read_as_they_were_written_and_what_is_strange_is_left_out() {
        let handle = Handle { worker: WorkerId(1), slot: 2, serial: 3 };
        let order = |handle, message: &str| Order {
            session: SessionId(Uuid::from_u128(7)),
            handle,
            command: Command::End { reason: CloseReason::Replaced, message: message.into() },
        };
        let orders = [order(Some(handle), "a newer one"), order(None, "")];
        assert_eq!(read(write(&orders).as_bytes()), orders);
        assert_eq!(read(write(&[order(None, "a\nb")]).as_bytes()), [order(None, "a b")]);
        for command in [
            Command::Revoke { until_unix_ms: 7 },
            Command::Subscribe("/user/queue/a%20b".parse().unwrap()),
            Command::Unsubscribe("/topic/ä".parse().unwrap()),
        ] {
            let order = Order { command, ..order(Some(handle), "") };
            assert_eq!(read(write(std::slice::from_ref(&order)).as_bytes()), [order]);
        }
        assert!(read(b"\xff").is_empty() && read(b"revoke 1 2 3\n\n").is_empty());
    }
}

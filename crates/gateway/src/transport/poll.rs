//! Long and short polling: what came for some destinations since a cursor, from any node.
//!
//! The cursor names the positions that the client has, and behind a `~` the mailbox that waits for
//! its next poll. Where that is gone, or has answered what never arrived, a new one goes on from
//! the positions.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::{Extension, Request, State};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use bytes::Bytes;
use fanlight_engine::peers::{Claim, ClaimName, Holder, PeerError};
use fanlight_engine::session::Form;
use http::{HeaderMap, StatusCode, header};

use super::door::Visitor;
use super::events::{Mailbox, Wanted};
use super::mailboxes::{ask_another, peers_failed, through_outage};
use super::{Station, cors, door};
use crate::accept::Peer;
use crate::mail::{MailReply, Receive};
use crate::problem::Problem;
use crate::worker::{MailboxKind, MailboxOptions, Opening};

/// The endpoint's routes.
pub fn routes(station: Station) -> Router {
    let methods = get(poll).head(cors::no_head).post(poll).options(cors::preflight);
    Router::new().route("/poll", methods).with_state(station)
}

async fn poll(
    State(station): State<Station>,
    Extension(Peer(peer)): Extension<Peer>,
    request: Request,
) -> Response {
    let allowed = cors::allowed(request.headers(), &station.node.config.origin);
    let answer = match Poll::read(&station, peer, request).await {
        Ok(poll) => poll.answer().await,
        Err(problem) => Err(problem),
    };
    let response = match answer {
        Ok(page) => {
            let headers =
                [(header::CONTENT_TYPE, "application/json"), (header::CACHE_CONTROL, "no-store")];
            (StatusCode::OK, headers, page).into_response()
        }
        Err(problem) => problem.into_response(),
    };
    cors::with(allowed, response)
}

/// A poll that may be.
struct Poll<'s> {
    station: &'s Station,
    peer: SocketAddr,
    headers: HeaderMap,
    visitor: Visitor,
    wanted: Wanted,
    until: Instant,
}

impl<'s> Poll<'s> {
    async fn read(
        station: &'s Station,
        peer: SocketAddr,
        request: Request,
    ) -> Result<Self, Box<Problem>> {
        let node = &*station.node;
        let (parts, body) = request.into_parts();
        let visitor = door::visit(node, peer, &parts.headers, &parts.uri).await?;
        let body = door::body(node, body).await?;
        let wanted = Wanted::read(&parts.method, parts.uri.query(), &parts.headers, &body)?;
        let longest = node.config.poll.max_wait.0;
        let wait = wanted.wait()?.unwrap_or(DEFAULT_WAIT).min(longest);
        let until = Instant::now() + wait;
        Ok(Self { station, peer, headers: parts.headers, visitor, wanted, until })
    }

    /// The page of messages.
    async fn answer(mut self) -> Result<Bytes, Box<Problem>> {
        let mailbox = self.wanted.take_mailbox()?;
        let node = &self.station.node;
        let (peers, is_asked) = (&node.peers, node.hooks.decides_who_connects());
        let wanted = std::mem::take(&mut self.wanted);
        if !is_asked {
            // Whatever the mailbox was opened for, the client must still be allowed it.
            wanted.clone().check(node, &self.visitor.caller, Form::Items).await?;
        }
        if let Some(Mailbox { from, id }) = mailbox
            && let Some(name) = mailbox_name(&id)
            && let Ok(Some(holder)) = peers.holder(name).await
        {
            self.station.may_wait(&holder)?;
            if let Some(page) = self.ask(&holder, Some(from)).await? {
                return Ok(page);
            }
        }
        // What would find no place costs no backend a question.
        let admitted = self.station.admit(self.peer, &self.headers)?;
        let agreed = wanted.agreed(node, self.peer, &self.headers, &self.visitor, Form::Items);
        let (handshake, listening) = agreed.await.inspect_err(|problem| count_paced(problem))?;
        let id = format!("{:032x}", rand::random::<u128>());
        let name = mailbox_name(&id).expect("it is short");
        let mailbox = MailboxOptions {
            kind: MailboxKind::Poll,
            name: name.clone(),
            caller: self.visitor.owner(),
            linger_ms: node.config.poll.linger.as_ms(),
            ended: None,
        };
        let opening = Opening::Listener(handshake, listening);
        let handle = self.station.open(admitted, mailbox, opening).await?;
        let (Claim::Ours(holder) | Claim::TakenOver(holder) | Claim::Theirs(holder)) =
            through_outage(|| peers.claim(name.clone(), handle)).await.map_err(peers_failed)?;
        let page = self.ask(&holder, None).await?;
        page.ok_or_else(|| peers_failed(PeerError::Gone).into())
    }

    /// A page of the mailbox, if it is there and the client stands where it has told.
    async fn ask(
        &self,
        holder: &Holder,
        from: Option<Box<str>>,
    ) -> Result<Option<Bytes>, Box<Problem>> {
        // Whatever time another mailbox has taken to be found gone.
        let left = self.until.saturating_duration_since(Instant::now());
        let receive = Receive {
            receiver: rand::random(),
            stays: false,
            max_bytes: u32::MAX,
            wait_ms: u32::try_from(left.as_millis()).unwrap_or(u32::MAX),
            from: from.clone(),
        };
        let Some(received) = self.station.receive(holder, self.visitor.owner(), receive).await
        else {
            return same_again(holder, from.as_deref()).map(Some);
        };
        match received {
            Ok(MailReply::Frame(page) | MailReply::Last(page)) if page.starts_with(b"{") => {
                Ok(Some(page))
            }
            Ok(MailReply::Last(_)) => {
                let detail = "another poll with this cursor has come since, and waits in its place";
                Err(Problem::new(StatusCode::CONFLICT, "already_polling", detail).into())
            }
            Ok(_) | Err(PeerError::Gone | PeerError::TooLarge) => Ok(None),
            Err(error) => Err(peers_failed(error).into()),
        }
    }
}

/// For a client that is to come again, to another node.
fn same_again(holder: &Holder, from: Option<&str>) -> Result<Bytes, Box<Problem>> {
    let Some(from) = from else { return Err(ask_another().into()) };
    let id = holder.name.as_str().rsplit('/').next().unwrap_or_default();
    let page = serde_json::json!({ "messages": [], "cursor": format!("{from}~{id}") });
    Ok(page.to_string().into())
}

/// Counts a client that has to come back for its turn.
fn count_paced(problem: &Problem) {
    if door::is_paced(problem.code()) {
        door::count_session(problem.code());
    }
}

fn mailbox_name(id: &str) -> Option<ClaimName> {
    ClaimName::new("poll", &[id]).ok()
}

/// How long to wait where the client does not say.
const DEFAULT_WAIT: Duration = Duration::from_secs(25);

//! `xhr_send` and `jsonp_send`: what a client sends.

use axum::extract::Request;
use axum::response::{IntoResponse, Response};
use fanlight_engine::peers::PeerError;
use fanlight_proto::native::MAX_BATCH;
use fanlight_proto::sockjs::{Limits, PayloadError, Transport, read_jsonp_send, read_xhr_send};
use http::{StatusCode, header};

use super::Visit;
use super::reply::{self, Cors};
use crate::body::{self, Unread};
use crate::mail::{MailReply, Wish};
use crate::problem::Problem;
use crate::transport::door;
use crate::transport::mailboxes::peers_failed;

impl Visit {
    pub(super) async fn send(self, request: Request, cors: Cors) -> Response {
        let (parts, body) = request.into_parts();
        let bytes = self.state.station.node.config.limits.message.as_bytes();
        // Escapes and the array around the messages take their room too.
        let limits = Limits { bytes: 2 * bytes, messages: MAX_BATCH };
        let time = self.state.station.node.config.limits.request_body_time.0;
        let body = match body::read(body, limits.bytes, time).await {
            Ok(body) => body,
            Err(Unread::TooLarge) => {
                return cors.on(refused(PayloadError::TooLarge { limit: limits.bytes }));
            }
            Err(unread) => return cors.on_problem(door::unread_body(unread)),
        };
        let content_type = parts.headers.get(header::CONTENT_TYPE);
        let content_type = content_type.and_then(|value| value.to_str().ok());
        let messages = match self.transport {
            Transport::JsonpSend => read_jsonp_send(&body, content_type, &limits),
            _ => read_xhr_send(&body, &limits),
        };
        let messages = match messages {
            Ok(messages) => messages,
            Err(error) => return cors.on(refused(error)),
        };
        if let Some(message) = messages.iter().find(|message| message.len() > bytes) {
            let detail = format!("a message of {} bytes exceeds limits.message", message.len());
            let problem = Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "too_large", detail);
            return cors.on_problem(problem);
        }
        let messages = messages.into_iter().map(|message| message.into_owned().into()).collect();
        let holder = match self.holder().await {
            Ok(Some(holder)) => holder,
            Ok(None) | Err(PeerError::Gone) => return cors.on(reply::not_found()),
            Err(error) => return cors.on_problem(peers_failed(error)),
        };
        match self.ask(&holder, Wish::Send { messages }).await {
            Ok(MailReply::Sent) => {
                let (status, body) = self.transport.accepted();
                let status = StatusCode::from_u16(status).unwrap_or(StatusCode::NO_CONTENT);
                cors.on(reply::of(self.transport, status, body))
            }
            Ok(MailReply::Full) => cors.on_problem(too_many()),
            Ok(_) | Err(PeerError::Gone) => cors.on(reply::not_found()),
            Err(error) => cors.on_problem(peers_failed(error)),
        }
    }
}

/// The session has not taken what came before.
fn too_many() -> Problem {
    let detail = "too many requests of this session wait to be handled; send them one by one";
    Problem::new(StatusCode::TOO_MANY_REQUESTS, "too_many_sends", detail)
}

/// In the protocol's words, with its status.
fn refused(error: PayloadError) -> Response {
    let status = StatusCode::from_u16(error.status()).unwrap_or(StatusCode::BAD_REQUEST);
    (status, error.to_string()).into_response()
}

//! The gateways' server API: who is in a room.

use std::time::Duration;

use anyhow::{Context, ensure};
use axum::body::Body;
use axum::http::Request;
use axum::http::header::AUTHORIZATION;
use http_body_util::{BodyExt, Limited};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Deserialize;

use crate::message::Room;

pub struct Api {
    client: Client<HttpConnector, Body>,
    url: String,
    authorization: String,
}

#[derive(Deserialize)]
struct Members {
    members: Vec<Member>,
}

#[derive(Deserialize)]
struct Member {
    user: Option<String>,
}

impl Api {
    pub fn new(url: &str, key: &str) -> anyhow::Result<Self> {
        ensure!(url.starts_with("http://"), "GATEWAY_API is no http:// URL: {url}");
        let client = Client::builder(TokioExecutor::new()).build_http();
        Ok(Self { client, url: url.to_owned(), authorization: format!("Bearer {key}") })
    }

    /// The users in a room, a thousand of them at most.
    pub async fn members(&self, room: &Room) -> anyhow::Result<Vec<String>> {
        let destination = format!("/topic/chat.{}", room.as_str());
        let destination = utf8_percent_encode(&destination, NON_ALPHANUMERIC);
        let request =
            Request::get(format!("{}/presence?destination={destination}&limit=1000", self.url))
                .header(AUTHORIZATION, &self.authorization)
                .body(Body::empty())?;
        let answer = tokio::time::timeout(PATIENCE, self.client.request(request)).await??;
        let status = answer.status();
        let body = Limited::new(answer.into_body(), ANSWER_BYTES_MAX).collect();
        let body = tokio::time::timeout(PATIENCE, body).await?;
        let body = body.map_err(|error| anyhow::anyhow!(error))?.to_bytes();
        ensure!(status.is_success(), "{status}: {}", String::from_utf8_lossy(&body));
        let members: Members = serde_json::from_slice(&body).context("the members of a room")?;
        Ok(members.members.into_iter().filter_map(|member| member.user).collect())
    }
}

const PATIENCE: Duration = Duration::from_secs(2);
const ANSWER_BYTES_MAX: usize = 1 << 20;

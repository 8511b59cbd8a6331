//! A chat behind Fanlight: its page, and the webhook that keeps messages in a database.

mod api;
mod chat;
mod message;
mod pages;
mod store;
mod token;
mod webhook;

use std::env;
use std::sync::Arc;

use anyhow::Context;
use axum::Router;
use axum::routing::{get, post};

use crate::chat::Chat;

/// What every request has at hand.
struct State {
    chat: Chat,
    token_key: token::Key,
    webhook_key: webhook::Key,
    /// Where browsers find the gateway.
    gateway: String,
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> anyhow::Result<()> {
    let store = store::Store::open(&variable("DATABASE_URL")?).await.context("the database")?;
    let api = api::Api::new(&variable("GATEWAY_API")?, &secret("API_KEY_FILE")?)?;
    let state = Arc::new(State {
        chat: Chat { store, api },
        token_key: token::Key::new(&secret("JWT_SECRET_FILE")?),
        webhook_key: webhook::Key::new(&secret("WEBHOOK_SECRET_FILE")?)?,
        gateway: variable("GATEWAY")?,
    });
    let app = Router::new()
        .merge(pages::routes()?)
        .route("/session", get(pages::session))
        .route("/fanlight", post(webhook::answer))
        .with_state(state);
    let port = env::var("PORT").unwrap_or_else(|_| "8101".to_owned());
    let listener = tokio::net::TcpListener::bind(format!("127.0.0.1:{port}")).await?;
    println!("chat at http://{}", listener.local_addr()?);
    axum::serve(listener, app).await?;
    Ok(())
}

fn variable(name: &str) -> anyhow::Result<String> {
    env::var(name).with_context(|| format!("the environment variable {name}"))
}

/// What is in the file that a variable names.
fn secret(name: &str) -> anyhow::Result<String> {
    let path = variable(name)?;
    let text = std::fs::read_to_string(&path).with_context(|| format!("{name}: {path}"))?;
    Ok(text.trim_end().to_owned())
}

//! `fanlight pub` and `fanlight sub`: a client on the command line.

use std::io::{Read as _, Write as _};

use anyhow::{Context as _, anyhow, bail};
use fanlight_client::{
    Client, ConnectOptions, Event, LinkError, Message, Missed, SendOptions, Sent, Subscription,
};
use futures_util::stream::{self, StreamExt as _};
use serde_json::json;

use crate::config::Secret;

/// Where and as whom.
#[derive(Debug, clap::Args)]
struct Connection {
    /// Where Fanlight listens, as in <ws://127.0.0.1:8080/ws>.
    url: String,
    /// The token to authenticate with. Better given by the variable, which other users can't see.
    #[arg(long, env = "FANLIGHT_TOKEN", hide_env_values = true)]
    token: Option<Secret>,
    /// Print as JSON, one object per line.
    #[arg(long)]
    json: bool,
}

/// Publish one message, as a client.
#[derive(Debug, clap::Args)]
pub(super) struct Publish {
    #[command(flatten)]
    connection: Connection,
    /// Where to, as in /topic/news.
    destination: String,
    /// What; "-" reads it from standard input.
    body: String,
    /// What it is. Without this: JSON if it can be read as such, else text/plain.
    #[arg(long, value_name = "TYPE")]
    content_type: Option<String>,
    /// Publish only once under this name within five minutes, however often it is tried.
    #[arg(long)]
    key: Option<String>,
    /// Send to this session only, of those of the user in /user/{name}/...
    #[arg(long, value_name = "ID")]
    session: Option<String>,
}

/// Print messages as they come, as a client.
#[derive(Debug, clap::Args)]
pub(super) struct Subscribe {
    #[command(flatten)]
    connection: Connection,
    /// Destinations or patterns, as in /topic/news or '/topic/**'.
    #[arg(required = true)]
    destinations: Vec<String>,
    /// End after so many messages.
    #[arg(long, value_name = "N")]
    count: Option<u64>,
}

pub(super) fn publish(command: &Publish) -> anyhow::Result<()> {
    let body = match command.body.as_str() {
        "-" => {
            let mut body = Vec::new();
            std::io::stdin().read_to_end(&mut body).context("can't read standard input")?;
            body
        }
        text => text.as_bytes().to_vec(),
    };
    let is_json = serde_json::from_slice::<serde::de::IgnoredAny>(&body).is_ok();
    let given = command.content_type.as_deref();
    let options = SendOptions {
        content_type: given.or((!is_json).then_some("text/plain")),
        key: command.key.as_deref(),
        session: command.session.as_deref(),
    };
    super::block_on(async {
        let client = connect(&command.connection).await?;
        let sent = client.send_with(&command.destination, &body, &options).await;
        let sent = sent.with_context(|| format!("can't publish to {}", command.destination))?;
        client.close().await;
        if command.connection.json {
            let position = sent.position.map(|position| position.to_string());
            let Sent { message_id, degraded, duplicate, .. } = sent;
            let told = json!({
                "message_id": message_id,
                "degraded": degraded,
                "duplicate": duplicate,
                "position": position,
            });
            println!("{told}");
        } else if sent.degraded {
            eprintln!("note: the broker can't be reached; only this node's subscribers were");
        }
        Ok(())
    })
}

pub(super) fn subscribe(command: &Subscribe) -> anyhow::Result<()> {
    super::block_on(async {
        let client = connect(&command.connection).await?;
        let mut events = client.events();
        let mut messages = Vec::new();
        for destination in &command.destinations {
            let subscription = client.subscribe(destination).await;
            let subscription =
                subscription.with_context(|| format!("can't subscribe to {destination}"))?;
            if subscription.is_degraded() {
                eprintln!(
                    "note: the node can't reach its broker; messages to {destination} arrive \
                     once it can, and those sent until then are missed"
                );
            }
            messages.push(until_ended(subscription).boxed());
        }
        // On standard error, for people and for scripts that must know when to publish.
        eprintln!("note: subscribed to {}", command.destinations.join(" "));
        let mut messages = stream::select_all(messages);
        let mut left = command.count;
        while left != Some(0) {
            tokio::select! {
                Some(item) = messages.next() => {
                    if show(item, command.connection.json)? {
                        left = left.map(|left| left - 1);
                    }
                }
                Some(event) = events.next() => report(event)?,
            }
        }
        client.close().await;
        Ok(())
    })
}

/// What comes of one subscription.
enum Item {
    Message(std::sync::Arc<Message>),
    Missed(Missed),
    Ended(String),
}

/// A subscription's messages, and its end as an item of its own.
fn until_ended(subscription: Subscription) -> impl stream::Stream<Item = Item> {
    let destination = subscription.to().to_owned();
    let messages = subscription.map(|item| match item {
        Ok(message) => Item::Message(message),
        Err(missed) => Item::Missed(missed),
    });
    messages.chain(stream::once(async move { Item::Ended(destination) }))
}

/// Prints an item; whether it was a message.
fn show(item: Item, as_json: bool) -> anyhow::Result<bool> {
    let message = match item {
        Item::Message(message) => message,
        Item::Missed(Missed::Lost(reason)) => {
            eprintln!("note: messages were lost and can't be had any more ({reason})");
            return Ok(false);
        }
        Item::Missed(Missed::Dropped(missed)) => {
            eprintln!(
                "note: {missed} messages were missed, they came faster than they are printed"
            );
            return Ok(false);
        }
        Item::Ended(destination) => bail!("the subscription to {destination} has ended"),
    };
    let line = if as_json { serde_json::to_string(&*message)? } else { plain(&message)? };
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}").and_then(|()| out.flush()).context("can't write")?;
    Ok(true)
}

/// Destination and body. Control characters are escaped: a message must not steer the terminal.
fn plain(message: &Message) -> anyhow::Result<String> {
    let body = message.body()?;
    let mut line = format!("{} ", message.to);
    for character in String::from_utf8_lossy(&body).chars() {
        if character.is_control() {
            line.extend(character.escape_default());
        } else {
            line.push(character);
        }
    }
    Ok(line)
}

fn report(event: Event) -> anyhow::Result<()> {
    match event {
        Event::Connected(_) => eprintln!("note: connected again"),
        Event::Disconnected { error, retry_in: Some(wait) } => {
            let wait = wait.as_secs_f32();
            eprintln!("note: {error}; connecting again in {wait:.1}s, messages may be missed");
        }
        Event::Disconnected { error, retry_in: None } => return Err(error.into()),
    }
    Ok(())
}

async fn connect(connection: &Connection) -> anyhow::Result<Client> {
    let mut options = ConnectOptions::new(&connection.url)?;
    if let Some(token) = &connection.token {
        options = options.token(token.reveal().trim());
    }
    Client::connect(options).await.map_err(|error| match remedy(&error) {
        Some(remedy) => anyhow!("{error}\nremedy: {remedy}"),
        None => error.into(),
    })
}

fn remedy(error: &LinkError) -> Option<&'static str> {
    match error {
        LinkError::Unreachable { .. } | LinkError::TimedOut { .. } => {
            Some("check the URL, and that Fanlight runs there; to try it out: fanlight serve --dev")
        }
        LinkError::Refused { status: 401 | 403, .. } | LinkError::Closed { code: 4502, .. } => {
            Some("give a token with --token or FANLIGHT_TOKEN; `fanlight token inspect` reads one")
        }
        LinkError::Refused { status: 404, .. } | LinkError::WrongProtocol { .. } => {
            Some("check the URL's path; it is that of the option websocket.path, /ws by default")
        }
        _ => None,
    }
}

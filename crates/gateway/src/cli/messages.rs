//! `fanlight pub` and `fanlight sub`: a client on the command line.

use std::io::{Read as _, Write as _};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, anyhow, bail};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use clap::builder::RangedI64ValueParser;
use fanlight_client::{
    AckMode, Begin, Capability, Client, ConnectOptions, ConsumeOptions, Consumer, Delivery, Event,
    LinkError, MAX_HISTORY, Message, Position, RecvError, RequestError, SendOptions, Sent,
    SubscribeOptions, Subscription,
};
use fanlight_proto::native;
use futures_util::stream::{self, BoxStream, StreamExt as _};
use http::Method;
use serde::{Deserialize, Serialize};
use serde_json::json;
use serde_json::value::RawValue;

use super::cluster::Key;
use crate::config::Secret;

/// Where and as whom.
#[derive(Debug, clap::Args)]
struct Connection {
    /// Where Fanlight listens, as in <ws://127.0.0.1:8080/ws>. To publish as a backend: its server
    /// API, as in <http://127.0.0.1:8081>.
    url: String,
    /// The token to authenticate with. Better given by the variable, which other users can't see.
    #[arg(long, env = "FANLIGHT_TOKEN", hide_env_values = true)]
    token: Option<Secret>,
    /// A capability to publish or subscribe with, where the token does not allow it. Better given
    /// by the variable, too.
    #[arg(long, value_name = "TOKEN", env = "FANLIGHT_CAPABILITY", hide_env_values = true)]
    capability: Option<Secret>,
    /// Print as JSON, one object per line.
    #[arg(long)]
    json: bool,
}

/// Publish one message, as a client or as a backend.
#[derive(Debug, clap::Args)]
pub(super) struct Publish {
    #[command(flatten)]
    connection: Connection,
    #[command(flatten)]
    api_key: Key,
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
    /// Begin with what came after this position of the one destination, as --json prints it.
    #[arg(long, value_name = "EPOCH:OFFSET", conflicts_with_all = ["history", "ack"])]
    since: Option<Position>,
    /// Begin with the newest messages of the history.
    #[arg(long, value_name = "N", value_parser = newest(), conflicts_with = "ack")]
    history: Option<u32>,
    /// Of queues: acknowledge each message once it is printed, and take one at a time.
    #[arg(long)]
    ack: bool,
}

impl Connection {
    fn capability(&self) -> Option<Capability> {
        self.capability.as_ref().map(|token| Capability::new(token.reveal().trim()))
    }
}

fn newest() -> RangedI64ValueParser<u32> {
    RangedI64ValueParser::new().range(1..=i64::from(MAX_HISTORY))
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
    if command.connection.url.starts_with("http:") {
        return super::block_on(publish_by_api(command, &body, is_json));
    }
    if command.api_key.is_from_file() {
        bail!("a key is for a server API, whose URL begins with http://; leave --key-file out");
    }
    let capability = command.connection.capability();
    let options = SendOptions {
        content_type: given.or((!is_json).then_some("text/plain")),
        key: command.key.as_deref(),
        session: command.session.as_deref(),
        capability: capability.as_ref(),
        ..SendOptions::default()
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

/// As the server API has it.
#[derive(Serialize)]
struct ForApi<'m> {
    to: &'m str,
    data: Box<RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    content_type: Option<&'m str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<&'m str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    session: Option<&'m str>,
}

/// What the server API tells.
#[derive(Deserialize)]
struct Told {
    message_id: String,
    #[serde(default)]
    degraded: bool,
    #[serde(default)]
    duplicate: bool,
    epoch: Option<String>,
    offset: Option<u64>,
}

/// Publishes as a backend, above the policy's rules.
async fn publish_by_api(command: &Publish, body: &[u8], is_json: bool) -> anyhow::Result<()> {
    if command.connection.capability.is_some() {
        bail!("a backend publishes by its key; leave --capability and FANLIGHT_CAPABILITY out");
    }
    let api = command.api_key.api(&command.connection.url)?;
    let content_type = command.content_type.as_deref().or((!is_json).then_some("text/plain"));
    let data = if native::is_json(content_type) {
        let text = std::str::from_utf8(body).context("the message is not JSON")?;
        RawValue::from_string(text.trim().to_owned()).context("the message is not JSON")?
    } else {
        serde_json::value::to_raw_value(&STANDARD.encode(body))?
    };
    let (key, session) = (command.key.as_deref(), command.session.as_deref());
    let message = ForApi { to: &command.destination, data, content_type, key, session };
    let message = serde_json::to_vec(&message)?;
    let told = api.ask(Method::POST, "/publish", Some(message), API_TIME).await;
    let told: Told = told.with_context(|| format!("can't publish to {}", command.destination))?;
    if command.connection.json {
        let position = told.epoch.zip(told.offset).map(|(epoch, at)| format!("{epoch}:{at}"));
        let Told { message_id, degraded, duplicate, .. } = told;
        let told = json!({
            "message_id": message_id,
            "degraded": degraded,
            "duplicate": duplicate,
            "position": position,
        });
        println!("{told}");
    } else if told.degraded {
        eprintln!("note: the broker can't be reached; only this node's subscribers were");
    }
    Ok(())
}

pub(super) fn subscribe(command: &Subscribe) -> anyhow::Result<()> {
    if command.since.is_some() && command.destinations.len() > 1 {
        bail!("a position is of one destination; give --since with one destination");
    }
    super::block_on(async {
        let client = connect(&command.connection).await?;
        let mut events = client.events();
        let mut items = Vec::new();
        for destination in &command.destinations {
            let begun = Source::begin(&client, destination, command).await;
            let source = begun.with_context(|| format!("can't subscribe to {destination}"))?;
            items.push(source.items(destination));
        }
        // On standard error, for people and for scripts that must know when to publish.
        eprintln!("note: subscribed to {}", command.destinations.join(" "));
        let mut items = stream::select_all(items);
        let mut left = command.count;
        while left != Some(0) {
            tokio::select! {
                Some(item) = items.next() => {
                    if take(&client, item, command.connection.json).await? {
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
    Message(Arc<Message>),
    Delivery(Delivery),
    /// Messages to it can't be had, or no more will come.
    Fault(Box<str>, RecvError),
}

/// One subscription, in either way of receiving.
enum Source {
    Messages(Subscription),
    Deliveries(Consumer),
}

impl Source {
    /// Subscribes as the command says.
    async fn begin(
        client: &Client,
        destination: &str,
        command: &Subscribe,
    ) -> Result<Self, RequestError> {
        let capability = command.connection.capability();
        if command.ack {
            let options = ConsumeOptions { prefetch: Some(1), capability };
            let mode = AckMode::ClientIndividual;
            let consumer = client.consume_with(destination, mode, options).await?;
            note_degraded(consumer.is_degraded(), destination);
            return Ok(Self::Deliveries(consumer));
        }
        let begin = match (command.since, command.history) {
            (Some(since), _) => Begin::After(since),
            (None, Some(newest)) => Begin::Newest(newest),
            (None, None) => Begin::Now,
        };
        let options = SubscribeOptions { begin, presence: false, capability };
        let subscription = client.subscribe_with(destination, options).await?;
        note_degraded(subscription.is_degraded(), destination);
        note_beginning(&subscription, command);
        Ok(Self::Messages(subscription))
    }

    async fn next(&mut self) -> Result<Item, RecvError> {
        match self {
            Self::Messages(subscription) => subscription.recv().await.map(Item::Message),
            Self::Deliveries(consumer) => consumer.recv().await.map(Item::Delivery),
        }
    }

    /// All that comes. Its end is an item of its own.
    fn items(self, to: &str) -> BoxStream<'static, Item> {
        let to: Box<str> = to.into();
        let items = stream::unfold(Some(self), move |source| {
            let to = to.clone();
            async move {
                let mut source = source?;
                Some(match source.next().await {
                    Ok(item) => (item, Some(source)),
                    Err(end @ RecvError::Ended(_)) => (Item::Fault(to, end), None),
                    Err(loss) => (Item::Fault(to, loss), Some(source)),
                })
            }
        });
        items.boxed()
    }
}

/// Tells where a subscription did not begin as it was wanted.
fn note_beginning(subscription: &Subscription, command: &Subscribe) {
    let to = subscription.to();
    let wanted = match (command.since, command.history) {
        (Some(since), _) => format!("what came after {since}"),
        (None, Some(_)) => "the newest messages".to_owned(),
        (None, None) => return,
    };
    let at = subscription.begun_at();
    if subscription.is_recovered() == Some(false) {
        let reason = subscription.lost_reason().unwrap_or("unknown");
        let behind = at.map_or(String::new(), |at| format!("; going on behind {at}"));
        eprintln!("note: not recovered: {wanted} in {to} can't be had ({reason}){behind}");
    } else if at.is_none() && !subscription.is_degraded() {
        eprintln!("note: no history is kept of {to}: only what comes from now on is printed");
    }
}

fn note_degraded(is_degraded: bool, destination: &str) {
    if is_degraded {
        eprintln!(
            "note: the node can't reach its broker; messages to {destination} arrive once it \
             can, and those sent until then are missed"
        );
    }
}

/// Prints an item, and acknowledges it where that is due; whether it was a message and is done.
async fn take(client: &Client, item: Item, as_json: bool) -> anyhow::Result<bool> {
    match item {
        Item::Message(message) => print(&message, as_json).map(|()| true),
        Item::Delivery(delivery) => {
            print(&delivery, as_json)?;
            let done = client.ack(&delivery).await;
            if let Err(error) = &done {
                eprintln!("note: the last message may come again, to anybody: {error}");
            }
            Ok(done.is_ok())
        }
        Item::Fault(to, end @ RecvError::Ended(_)) => Err(end).context(to),
        Item::Fault(to, loss) => {
            if as_json {
                print_line(&Loss::of(&to, &loss))?;
            }
            eprintln!("note: {to}: {loss}");
            Ok(false)
        }
    }
}

/// What a script must know of a loss.
#[derive(Serialize)]
struct Loss<'l> {
    to: &'l str,
    /// Why they can't be had any more, a stable code; of messages that came too fast, how many.
    #[serde(skip_serializing_if = "Option::is_none")]
    lost: Option<&'l str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    missed: Option<u64>,
}

impl<'l> Loss<'l> {
    fn of(to: &'l str, error: &'l RecvError) -> Self {
        let (lost, missed) = match error {
            RecvError::Lost(reason) | RecvError::Ended(reason) => (Some(&**reason), None),
            RecvError::Missed(missed) => (None, Some(*missed)),
        };
        Self { to, lost, missed }
    }
}

/// A message with its position as one text, to be given back with `--since`.
#[derive(Serialize)]
struct Line<'m> {
    #[serde(flatten)]
    message: &'m Message,
    #[serde(skip_serializing_if = "Option::is_none")]
    position: Option<String>,
}

fn print(message: &Message, as_json: bool) -> anyhow::Result<()> {
    if as_json {
        let position = message.position().map(|position| position.to_string());
        print_line(&Line { message, position })
    } else {
        write_line(&plain(message)?)
    }
}

fn print_line(line: &impl Serialize) -> anyhow::Result<()> {
    write_line(&serde_json::to_string(line)?)
}

fn write_line(line: &str) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}").and_then(|()| out.flush()).context("can't write")
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
        Event::Subscribed(to) => eprintln!("note: a backend has subscribed this session to {to}"),
        Event::Unsubscribed(to) => eprintln!("note: a backend has ended the subscription to {to}"),
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
    options.subscription_queue = WAITING_MAX;
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

/// How long the server API may take.
const API_TIME: Duration = Duration::from_secs(10);
/// Messages that wait to be printed. A whole history may come before the first is.
const WAITING_MAX: usize = 1 << 17;

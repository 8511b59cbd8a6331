//! STOMP 1.0-1.2: what each client frame asks for, and the frames that answer. Section names are
//! those of the STOMP 1.2 specification.

use bytes::Bytes;
use fanlight_proto::Position;
use fanlight_proto::stomp::{self, Command, Frame, Incoming, Version, Writer};

use super::app::is_app;
use super::backlog::Input;
use super::capability;
use super::connect::Connecting;
use super::headers;
use super::heartbeat::{self, Beats};
use super::live::{Answer, Draft, Live, Note};
use super::queue;
use super::recovery::Wanted;
use super::{Codec, Cx, Effect, Fault, Session, State};
use crate::auth::{Credentials, Token};
use crate::hub::Wire;
use crate::queue::AckMode;
use crate::timeline::Start;

impl Session {
    pub(super) fn stomp_input(&mut self, cx: &mut Cx<'_>, input: &[u8]) {
        let mut rest = input;
        self.stomp_frames(cx, &mut rest);
        if self.is_busy() && !rest.is_empty() {
            let rest = Bytes::copy_from_slice(rest);
            self.keep(Input::Stomp(rest));
        }
    }

    /// Handles frames until `input` is used up, the session is busy, or it has ended.
    pub(super) fn stomp_frames(&mut self, cx: &mut Cx<'_>, input: &mut &[u8]) {
        while !self.is_busy() && !self.is_closed() {
            let limits = stomp::Limits {
                frame_bytes: self.max_message_bytes(cx.rules),
                headers: cx.rules.limits.headers,
                header_bytes: cx.rules.limits.header_bytes,
            };
            let Codec::Stomp { decoder, .. } = &mut self.codec else {
                return;
            };
            match decoder.next(input, &limits) {
                Ok(None) => return,
                Ok(Some(Incoming::Heartbeat)) => {}
                Ok(Some(Incoming::Frame(frame))) => self.stomp_frame(cx, &frame),
                Err(error) => self.fail(cx, &error.into()),
            }
        }
    }

    fn stomp_frame(&mut self, cx: &mut Cx<'_>, frame: &Frame) {
        // "any client frame other than CONNECT" may ask for a receipt ("RECEIPT").
        let asks = !matches!(frame.command, Command::Connect | Command::Stomp);
        let receipt = frame.header("receipt").filter(|_| asks);
        let mut answer = match receipt {
            Some(receipt) if receipt.len() > cx.rules.limits.id_bytes => {
                return self.fail(cx, &Fault::id_too_long(cx.rules.limits.id_bytes));
            }
            Some(receipt) => Answer::Receipt(receipt.into()),
            None => Answer::Nobody,
        };
        match self.stomp_command(cx, frame, &mut answer) {
            Ok(()) => self.confirm(cx, answer, Note::default()),
            Err(fault) => self.refuse(cx, &fault, &answer),
        }
        if frame.command == Command::Disconnect {
            self.end(cx, fanlight_proto::CloseReason::ClientClosed);
        }
    }

    /// Does what a frame asks for. Takes `answer` away where the outcome is known only later.
    fn stomp_command(
        &mut self,
        cx: &mut Cx<'_>,
        frame: &Frame,
        answer: &mut Answer,
    ) -> Result<(), Fault> {
        if matches!(frame.command, Command::Connect | Command::Stomp) {
            return self.stomp_connect(cx, frame);
        }
        let live = self.live_mut().ok_or_else(Fault::not_connected)?;
        if !matches!(frame.command, Command::Ack | Command::Nack) {
            live.admit(cx, frame.command == Command::Send)?;
        }
        match (self.stomp_carry_out(cx, frame, answer), frame.header(capability::TOKEN)) {
            // What its own right does not allow, the capability may.
            (Err(fault), Some(token)) if fault.is_denied() => {
                self.authorize_stomp(cx, token, frame, std::mem::take(answer));
                Ok(())
            }
            (outcome, _) => outcome,
        }
    }

    /// Does what a frame asks for that is admitted.
    pub(super) fn stomp_carry_out(
        &mut self,
        cx: &mut Cx<'_>,
        frame: &Frame,
        answer: &mut Answer,
    ) -> Result<(), Fault> {
        match frame.command {
            Command::Send => self.stomp_send(cx, frame, answer),
            Command::Subscribe => self.stomp_subscribe(cx, frame, answer),
            Command::Unsubscribe => {
                let id = subscription_id(frame, self.stomp_version())?;
                self.unsubscribe(cx, id)
            }
            Command::Begin => {
                let id = transaction_id(cx, frame)?;
                let live = self.live_mut().ok_or_else(Fault::not_connected)?;
                live.transactions_mut().begin(id, &cx.rules.limits)
            }
            Command::Commit | Command::Abort => self.stomp_end_transaction(cx, frame, answer),
            Command::Ack | Command::Nack => self.stomp_ack(cx, frame, self.stomp_version(), answer),
            Command::Disconnect => Ok(()),
            Command::Connected | Command::Message | Command::Receipt | Command::Error => {
                Err(Fault::not_from_clients(frame.command.as_str()))
            }
            Command::Connect | Command::Stomp => Err(Fault::already_connected()),
        }
    }

    /// "CONNECT or STOMP Frame"
    fn stomp_connect(&mut self, cx: &mut Cx<'_>, frame: &Frame) -> Result<(), Fault> {
        if !matches!(self.state, State::AwaitConnect { .. }) {
            return Err(Fault::already_connected());
        }
        let version = stomp::negotiate(frame.header("accept-version"))
            .ok_or_else(Fault::unsupported_version)?;
        // 1.0 has no heartbeats.
        let theirs = frame.header("heart-beat").filter(|_| version > Version::V10);
        let beats = match theirs {
            None => Beats::pinged(),
            Some(theirs) => {
                Beats::negotiated(stomp::parse_heart_beat(theirs)?, &cx.rules.heartbeats)
            }
        };
        if let Codec::Stomp { decoder, .. } = &mut self.codec {
            decoder.set_version(version);
        }
        self.connect(cx, credentials(frame)?, Connecting { beats })
    }

    pub(super) fn stomp_connected(&mut self, cx: &mut Cx<'_>) {
        let version = self.stomp_version();
        let mut payload = Vec::new();
        let mut writer = Writer::new(&mut payload, Command::Connected, version)
            .header("version", version.as_str());
        if version > Version::V10 {
            let (send_ms, receive_ms) = heartbeat::offer(&cx.rules.heartbeats);
            writer = writer.header("heart-beat", &format!("{send_ms},{receive_ms}"));
        }
        writer = writer.header("session", &self.id.to_string()).header("server", SERVER);
        // A service knows its own name, and may pass this frame on to others: Spring's relay does.
        if let Some(principal) = self.principal().filter(|principal| !principal.is_service) {
            writer = writer.header("user-name", &principal.user);
        }
        writer.end();
        cx.effects.push(Effect::Write { text: true, payload });
    }

    /// "SEND"
    fn stomp_send(
        &mut self,
        cx: &mut Cx<'_>,
        frame: &Frame,
        answer: &mut Answer,
    ) -> Result<(), Fault> {
        let transaction = match frame.header("transaction") {
            Some(_) => Some(self.open_transaction(frame)?),
            None => None,
        };
        let draft = Draft {
            to: required(frame, "destination")?,
            body: frame.body.clone(),
            content_type: frame.header("content-type").unwrap_or_default().into(),
            is_json: false,
            headers: passed_on(frame, &[]),
            key: frame.header("idempotency-key"),
            session: frame.header("session"),
            exclude_self: flag(frame, "exclude-self")?,
        };
        let sending = self.sending(cx, draft)?;
        let Some(transaction) = transaction else {
            self.publish(cx, [sending].into(), Vec::new(), std::mem::take(answer));
            return Ok(());
        };
        let live = self.live_mut().ok_or_else(Fault::no_transaction)?;
        live.transactions_mut().add(transaction, sending, &cx.rules.limits)
    }

    /// "SUBSCRIBE"
    fn stomp_subscribe(
        &mut self,
        cx: &mut Cx<'_>,
        frame: &Frame,
        answer: &mut Answer,
    ) -> Result<(), Fault> {
        let version = self.stomp_version();
        let to = required(frame, "destination")?;
        let id = subscription_id(frame, version)?;
        if id.len() > cx.rules.limits.id_bytes {
            return Err(Fault::id_too_long(cx.rules.limits.id_bytes));
        }
        if frame.header("selector").is_some() {
            return Err(Fault::selector());
        }
        let consuming = queue::consuming(frame)?;
        let ack = consuming.mode != AckMode::Auto;
        let start = position(frame)?.map_or(Start::Now, Start::After);
        let presence = flag(frame, "presence")?;
        let wire = Wire::Stomp { version, id, ack };
        let asked = std::mem::take(answer);
        let headers = if is_app(to) { passed_on(frame, &SUBSCRIBE_HEADERS) } else { [].into() };
        let wanted = Wanted::new(wire, start, presence, consuming, headers);
        self.subscribe(cx, id, to, wanted, asked).map_err(|(fault, unanswered)| {
            *answer = unanswered;
            fault
        })
    }

    /// "COMMIT", "ABORT"
    fn stomp_end_transaction(
        &mut self,
        cx: &mut Cx<'_>,
        frame: &Frame,
        answer: &mut Answer,
    ) -> Result<(), Fault> {
        let id = transaction_id(cx, frame)?;
        let live = self.live_mut().ok_or_else(Fault::not_connected)?;
        let (sends, verdicts) = live.transactions_mut().end(id)?;
        live.drop_empty();
        if frame.command == Command::Commit {
            self.publish(cx, sends, verdicts, std::mem::take(answer));
        }
        Ok(())
    }

    /// The transaction that a frame belongs to.
    pub(super) fn open_transaction<'f>(&self, frame: &'f Frame) -> Result<&'f str, Fault> {
        let id = required(frame, "transaction")?;
        let open = self.live().and_then(Live::transactions);
        if open.is_some_and(|open| open.contains(id)) {
            Ok(id)
        } else {
            Err(Fault::no_transaction())
        }
    }

    pub(super) fn stomp_receipt(&mut self, cx: &mut Cx<'_>, receipt: &str, note: Note) {
        let mut payload = Vec::new();
        let mut writer = Writer::new(&mut payload, Command::Receipt, self.stomp_version())
            .header("receipt-id", receipt);
        for (name, is_set) in [("degraded", note.degraded), ("duplicate", note.duplicate)] {
            if is_set {
                writer = writer.header(name, "true");
            }
        }
        if let Some(recovered) = note.recovered {
            writer = writer.header("recovered", if recovered { "true" } else { "false" });
        }
        if let Some(reason) = note.reason {
            writer = writer.header("reason", reason.code());
        }
        if let Some(position) = note.position {
            writer = writer
                .header("epoch", &position.epoch_text())
                .header("offset", &position.offset.to_string());
        }
        writer.end();
        cx.effects.push(Effect::Write { text: true, payload });
    }

    /// "ERROR": the session ends after it, unless the configuration keeps it.
    pub(super) fn stomp_fail(&mut self, cx: &mut Cx<'_>, fault: &Fault, receipt: Option<&str>) {
        if self.is_closed() {
            return;
        }
        let mut payload = Vec::new();
        let mut writer = Writer::new(&mut payload, Command::Error, self.stomp_version())
            .header("message", &fault.message)
            .header("code", fault.code);
        if let Some(receipt) = receipt {
            writer = writer.header("receipt-id", receipt);
        }
        if let Some(retry_after_ms) = fault.retry_after_ms {
            // In seconds, as HTTP's header of that name.
            writer = writer.header("retry-after", &retry_after_ms.div_ceil(1000).to_string());
        }
        if fault.reason == fanlight_proto::CloseReason::UnsupportedVersion {
            writer = writer.header("version", Version::SUPPORTED);
        }
        writer.header("content-type", "text/plain").body(fault.text().as_bytes());
        cx.effects.push(Effect::Write { text: true, payload });
        if fault.ends(true, cx.rules.on_forbidden) {
            self.end(cx, fault.reason);
        }
    }

    /// The version to write in.
    pub(super) fn stomp_version(&self) -> Version {
        match &self.codec {
            Codec::Stomp { decoder, .. } => decoder.version(),
            Codec::Native | Codec::Undecided | Codec::Events(_) => Version::V10,
        }
    }
}

/// What a CONNECT proves its client by. An empty `passcode` is what many clients send by default.
fn credentials(frame: &Frame) -> Result<Option<Credentials>, Fault> {
    let given = |name| frame.header(name).filter(|value| !value.is_empty());
    let authorization = frame.header("Authorization").or(frame.header("authorization"));
    let bearer = authorization.map(|value| match value.split_once(' ') {
        Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") => Ok(token.trim()),
        _ => Err(Fault::not_bearer()),
    });
    let passcode = given("passcode");
    if let (Some(login), Some(passcode)) = (given("login"), passcode) {
        // A relay passes on what its own clients proved themselves by to it.
        let bearer = bearer.and_then(Result::ok).map(Token::new);
        let (login, passcode) = (login.into(), Token::new(passcode));
        return Ok(Some(Credentials::Login { login, passcode, bearer }));
    }
    let token = bearer.transpose()?.or(passcode);
    Ok(token.map(|token| Credentials::Token(Token::new(token))))
}

/// The position that a SUBSCRIBE gives back.
fn position(frame: &Frame) -> Result<Option<Position>, Fault> {
    let parsed = match (frame.header("epoch"), frame.header("offset")) {
        (None, None) => match frame.header("last-event-id") {
            None => return Ok(None),
            Some(id) => id.parse::<Position>(),
        },
        (Some(epoch), Some(offset)) => format!("{epoch}:{offset}").parse(),
        _ => {
            let remedy = "give both, as they came with the last message";
            return Err(Fault::bad_header("epoch and offset go together", remedy));
        }
    };
    parsed.map(Some).map_err(Fault::bad_position)
}

/// A header that is true or false, which it also is where it is missing.
fn flag(frame: &Frame, name: &'static str) -> Result<bool, Fault> {
    match frame.header(name) {
        None | Some("false") => Ok(false),
        Some("true") => Ok(true),
        Some(_) => {
            let message = format!("the header {name} has an unknown value");
            Err(Fault::bad_header(message, "use true or false"))
        }
    }
}

fn required<'f>(frame: &'f Frame, name: &str) -> Result<&'f str, Fault> {
    let value = frame.header(name).filter(|value| !value.is_empty());
    value.ok_or_else(|| Fault::missing_header(frame.command.as_str(), name))
}

/// The headers that others are to see: all that are not the server's own, nor among `besides`.
fn passed_on(frame: &Frame, besides: &[&str]) -> Box<[(Box<str>, Box<str>)]> {
    let is_for_others = |name: &str| !headers::is_reserved(name) && !besides.contains(&name);
    let passed_on = frame.headers.iter().filter(|(name, _)| is_for_others(name));
    passed_on.map(|(name, value)| (name.into(), value.into())).collect()
}

/// What names a subscription: in 1.0 the destination, where no id is given.
fn subscription_id(frame: &Frame, version: Version) -> Result<&str, Fault> {
    match frame.header("id") {
        None if version == Version::V10 => required(frame, "destination"),
        _ => required(frame, "id"),
    }
}

fn transaction_id<'f>(cx: &Cx<'_>, frame: &'f Frame) -> Result<&'f str, Fault> {
    let id = required(frame, "transaction")?;
    let limit = cx.rules.limits.id_bytes;
    if id.len() > limit { Err(Fault::id_too_long(limit)) } else { Ok(id) }
}

/// What a SUBSCRIBE says to the server.
const SUBSCRIBE_HEADERS: [&str; 4] = ["id", "selector", "presence", "prefetch-count"];

/// CONNECTED's `server`.
const SERVER: &str = concat!("fanlight/", env!("CARGO_PKG_VERSION"));

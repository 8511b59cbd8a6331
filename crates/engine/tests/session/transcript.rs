//! Runs a transcript: its inputs are carried out, and what follows each is compared.
//!
//! | line | what |
//! |---|---|
//! | `# stomp 1.2 ann` | begins with a session that is connected already |
//! | `# events ann /topic/a`, `# polls ...` | begins a session that listens to these |
//! | `C> SEND destination:/topic/a \| body` | the client sends a STOMP frame |
//! | `C> {"type":"ping"}` | the client sends this text |
//! | `C> (pong)`, `C> (eol)` | the client sends a pong, an end of line |
//! | `C> (text) ...`, `C> (bytes) ...` | the client sends this, where `\n` and `\0` are escapes |
//! | `D> hold` | from here on nothing is answered but by these lines: |
//! | `D> published`, `D> joined`, `D> authenticated`, and ` unavailable`, ` degraded`, ... | |
//! | `D> introduced ann`, `D> renewed ann@60`, `D> decided no` | a backend has decided |
//! | `D> registry` | from here on the registry is shown too |
//! | `D> published at e:5`, `D> published duplicate` | it has a position, or was there before |
//! | `D> recovered 3`, `D> recovered too_old`, `D> history 4 at e:9` | of a subscription, a request |
//! | `D> handled`, `D> handled reply {}`, `D> handled refused code why`, ... | what a backend says |
//! | `D> fetched /queue/a 7 8x2` | a queue gives the messages 7 and 8, 8 for the second time |
//! | `D> drain`, `D> gone`, `D> fault too_large ...` | the driver drains, loses, refuses |
//! | `D> rebalance` | the driver has too many |
//! | `D> order subscribe /topic/a`, `D> order unsubscribe ...` | a backend wants that |
//! | `D> drain within 1s`, `D> drain over` | it waits for answers less than 5s |
//! | `T> 11s` | time passes, with a sweep each second |
//! | `S<` | written to the client (`S< (ping)` to its transport) |
//! | `S?`, `S!` | asked of the driver, with and without an answer |
//! | `S\|` | the transport is closed |

#![expect(clippy::needless_pass_by_value, reason = "`check(expect![..])` reads best")]

use expect_test::Expect;
use fanlight_engine::app::{AppBody, AppFailure};
use fanlight_engine::broker::{Joined, PublishError, Reach};
use fanlight_engine::history::{HistoryError, Lost};
use fanlight_engine::limits::RetryAfterMs;
use fanlight_engine::presence::PresenceError;
use fanlight_engine::queue::QueueError;
use fanlight_engine::registry::Entered;
use fanlight_engine::session::{Done, Form, Handshake, Listening, Order, Protocol, Rules};
use fanlight_proto::stomp::{Command, Version, Writer};
use fanlight_proto::{CloseReason, Position};

use crate::driver::{self, Driver};
use crate::hooks;

/// Checks a transcript under the usual rules.
pub(crate) fn check(transcript: Expect) {
    check_with(driver::rules(), Handshake::default(), transcript);
}

/// Checks a transcript under other rules.
pub(crate) fn check_rules(rules: Rules, transcript: Expect) {
    check_with(rules, Handshake::default(), transcript);
}

/// Checks a transcript under other rules, after a handshake.
pub(crate) fn check_with(rules: Rules, handshake: Handshake, transcript: Expect) {
    let mut driver = Driver::new(rules, None, handshake);
    let mut actual = String::new();
    for line in transcript.data().lines().map(str::trim) {
        if line.is_empty() || line.starts_with('S') || line.starts_with('@') {
            continue;
        }
        run(&mut driver, line);
        actual.push_str(line);
        actual.push('\n');
        for line in driver.log.drain(..) {
            actual.push_str(&line);
            actual.push('\n');
        }
    }
    transcript.assert_eq(&actual);
}

pub(crate) fn run(driver: &mut Driver, line: &str) {
    let (kind, rest) = line.split_once(' ').unwrap_or((line, ""));
    match kind {
        "#" => begin(driver, rest),
        "C>" => client(driver, rest),
        "D>" => drive(driver, rest),
        "T>" => driver.pass(rest.strip_suffix('s').unwrap().parse().unwrap()),
        _ => panic!("what is {line:?}?"),
    }
}

/// `stomp 1.2 ann`, `native ann`; without a user it is anonymous. `events ann /topic/a /topic/b`
fn begin(driver: &mut Driver, who: &str) {
    let words: Vec<&str> = who.split(' ').collect();
    if let ["events" | "polls", user, ref wanted @ ..] = words[..] {
        let form = if words[0] == "events" { Form::Events } else { Form::Items };
        let wanted = wanted.iter().map(|&to| to.into()).collect();
        let listening = Listening::new(wanted, None, false, form).unwrap();
        let handshake = driver::handshake(user);
        let (principal, id) = (handshake.principal.as_ref(), driver.session.id());
        match listening.check(&driver.rules, principal, id) {
            Ok(_) => driver.listen(handshake, listening, form),
            Err(refusal) => driver.log.push(format!("S| {}: {refusal}", refusal.code)),
        }
        return;
    }
    match words[..] {
        ["stomp", version, ref user @ ..] => {
            let user = user.first().map(|user| format!(" passcode:{user}")).unwrap_or_default();
            let connect = format!("CONNECT accept-version:{version}{user} heart-beat:0,0");
            client(driver, &connect);
            let version: Version = version.parse().unwrap();
            assert_eq!(driver.session.protocol(), Some(Protocol::Stomp(version)));
        }
        ["native", ref user @ ..] => {
            let token = user.first().map(|user| format!(r#","token":"{user}""#));
            client(driver, &format!(r#"{{"type":"connect"{}}}"#, token.unwrap_or_default()));
            assert_eq!(driver.session.protocol(), Some(Protocol::Native));
        }
        _ => panic!("who is {who:?}?"),
    }
    assert!(driver.session.is_connected(), "{:?}", driver.log);
    driver.log.clear();
}

fn client(driver: &mut Driver, line: &str) {
    let line = &line.replace('#', driver::ID_ZEROS);
    if *line == "(pong)" {
        driver.heard();
    } else if *line == "(eol)" {
        driver.receive(true, b"\n");
    } else if let Some(text) = line.strip_prefix("(text) ") {
        driver.receive(true, &unescape(text));
    } else if let Some(bytes) = line.strip_prefix("(bytes) ") {
        driver.receive(false, &unescape(bytes));
    } else if line.starts_with(['{', '[']) {
        driver.receive(true, line.as_bytes());
    } else {
        driver.receive(true, &frame(driver, line));
    }
}

/// A frame of one line. A word without a colon goes on with the header before it.
fn frame(driver: &Driver, line: &str) -> Vec<u8> {
    let (head, body) = line.split_once(" | ").unwrap_or((line, ""));
    let mut words = head.split(' ');
    let name = words.next().unwrap();
    let command = Command::ALL.into_iter().find(|command| command.as_str() == name);
    let mut headers: Vec<(&str, String)> = Vec::new();
    for word in words {
        match (word.split_once(':'), headers.last_mut()) {
            (Some((name, value)), _) => headers.push((name, value.to_owned())),
            (None, Some((_, value))) => value.push_str(&format!(" {word}")),
            (None, None) => panic!("{word:?} is no header"),
        }
    }
    let version = match driver.session.protocol() {
        Some(Protocol::Stomp(version)) => version,
        _ => Version::V10,
    };
    let mut out = Vec::new();
    Writer::new(&mut out, command.expect(name), version).headers(headers).body(body.as_bytes());
    out
}

fn drive(driver: &mut Driver, line: &str) {
    let (what, rest) = line.split_once(' ').unwrap_or((line, ""));
    match (what, rest) {
        ("hold", "") => driver.hold = true,
        ("published", "") => driver.answer_published(Ok(())),
        ("published", "unavailable") => driver.answer_published(Err(PublishError::Unavailable)),
        ("published", "unknown") => driver.answer_published(Err(PublishError::Unknown)),
        ("published", "key_reused") => driver.answer_published(Err(PublishError::KeyReused)),
        ("published", "queue_full") => driver.answer_published(Err(PublishError::QueueFull)),
        ("published", "overloaded") => driver.answer_published(Err(PublishError::Overloaded)),
        ("published", "refused") => hooks::decide(driver, what, rest),
        ("published", "duplicate") => {
            driver.answer_published_at(Ok((None, Reach::Duplicate)));
        }
        ("published", at) if at.starts_with("at ") => {
            let position = at[3..].parse().unwrap();
            driver.answer_published_at(Ok((Some(position), Reach::Cluster)));
        }
        ("recovered", "") => driver.answer_recovered(None, 0),
        ("recovered", "too_old") => driver.answer_recovered(Some(Err(Lost::TooOld)), 0),
        ("recovered", "unavailable") => driver.answer_recovered(Some(Err(Lost::Unavailable)), 0),
        ("recovered", count) => {
            driver.answer_recovered(Some(Ok(())), count.parse().unwrap());
        }
        ("history", "unavailable") => {
            driver.done(Done::History(Err(HistoryError::Unavailable)));
        }
        ("history", "too_old") => {
            driver.answer_history(0, Position { epoch: 0xe, offset: 7 }, Some(Lost::TooOld));
        }
        ("history", rest) => {
            let (count, top) = rest.split_once(" at ").unwrap();
            driver.answer_history(count.parse().unwrap(), top.parse().unwrap(), None);
        }
        ("members", "unavailable") => {
            driver.done(Done::Members(Err(PresenceError::Unavailable)));
        }
        ("handled", outcome) => driver.done(Done::App(handled(outcome))),
        ("settled", "") => driver.answer_settled(Ok(())),
        ("settled", "unavailable") => driver.answer_settled(Err(QueueError::Unavailable)),
        ("fetched", rest) => {
            let mut words = rest.split(' ');
            let queue = words.next().unwrap();
            driver.fetched(queue, &words.collect::<Vec<_>>());
        }
        ("joined", "") => driver.done(Done::Joined(Joined::Live)),
        ("joined", "degraded") => driver.done(Done::Joined(Joined::Degraded)),
        ("authenticated", "") => driver.answer_authenticated(),
        ("authorized", "") => crate::capability::answer(driver),
        ("introduced" | "renewed" | "decided", rest) => hooks::decide(driver, what, rest),
        ("registry", "") => driver.registry_shown = true,
        ("entered", "") => driver.done(Done::Entered(Entered::Now)),
        ("entered", "later") => driver.done(Done::Entered(Entered::Later)),
        ("entered", "too often") => driver.done(Done::TooOften(RetryAfterMs(1500))),
        ("entered", "full") => driver.done(Done::Entered(Entered::Full)),
        ("drain", "") => driver.drain(1500),
        ("rebalance", "") => driver.rebalance(1500),
        ("drain", "within 1s") => driver.drain_within(1500, 1000),
        ("drain", "over") => driver.drain_within(1500, 0),
        ("order", rest) => driver.order(order(rest)),
        ("gone", "") => driver.transport_closed(),
        ("fault", rest) => {
            let (code, message) = rest.split_once(' ').unwrap();
            let reason = CloseReason::ALL.into_iter().find(|reason| reason.code() == code);
            driver.fault(reason.unwrap(), message);
        }
        _ => panic!("how to {line:?}?"),
    }
}

/// What a handler says: nothing, a reply, or why it does not do it.
fn handled(outcome: &str) -> Result<Option<AppBody>, AppFailure> {
    let (what, rest) = outcome.split_once(' ').unwrap_or((outcome, ""));
    match what {
        "" => Ok(None),
        "reply" => Ok(Some(AppBody::of_json(rest.to_owned()).with_header("x-from", "backend"))),
        "bytes" => Ok(Some(AppBody::bytes(rest.to_owned(), "application/x-thing".into()))),
        "refused" => {
            let (code, message) = rest.split_once(' ').unwrap();
            Err(AppFailure::refused(code, message))
        }
        "timeout" => Err(AppFailure::Timeout),
        "unavailable" => Err(AppFailure::Unavailable),
        _ => panic!("how is {outcome:?} handled?"),
    }
}

fn unescape(text: &str) -> Vec<u8> {
    text.replace("\\n", "\n").replace("\\r", "\r").replace("\\0", "\0").into_bytes()
}

fn order(text: &str) -> Order {
    let (what, to) = text.split_once(' ').unwrap();
    let to = to.parse().unwrap();
    if what == "subscribe" { Order::Subscribe(to) } else { Order::Unsubscribe(to) }
}

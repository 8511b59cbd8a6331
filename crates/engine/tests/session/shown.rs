//! What a session writes and asks for, as lines of a transcript.

use fanlight_engine::app::AppMessage;
use fanlight_engine::history::{HistoryQuery, HistoryRange};
use fanlight_engine::policy::{AppKind, PublishPermit, Right};
use fanlight_engine::presence::Member;
use fanlight_engine::publication::Publication;
use fanlight_engine::session::Recover;
use fanlight_engine::timeline::Start;
use fanlight_proto::stomp;

pub(crate) fn frame_line(frame: &stomp::Frame) -> String {
    let mut headers: Vec<_> = frame.headers.iter().collect();
    headers.sort_unstable();
    let mut line = frame.command.to_string();
    for (name, value) in headers {
        if !matches!(name, "content-length" | "content-type") || frame.command.as_str() != "ERROR" {
            line.push_str(&format!(" {name}:{value}"));
        }
    }
    match frame.command {
        // An error's body is its message and what to do about it.
        stomp::Command::Error => {
            let body = String::from_utf8_lossy(&frame.body).into_owned();
            let message = frame.header("message").unwrap_or_default();
            assert!(body.starts_with(message), "{body:?} explains {message:?}");
            assert_eq!(frame.header("content-type"), Some("text/plain"));
        }
        stomp::Command::Message => {
            line.push_str(&format!(" | {}", String::from_utf8_lossy(&frame.body)));
        }
        _ => assert!(frame.body.is_empty()),
    }
    line
}

/// A native message as `type field:value ...`, so that a transcript can be read aloud.
pub(crate) fn native_line(payload: &[u8]) -> String {
    let value: serde_json::Value = serde_json::from_slice(payload).unwrap();
    let mut object = value.as_object().unwrap().clone();
    let kind = object.remove("type").unwrap();
    if object.contains_key("message_id") {
        object.insert("message_id".into(), "<id>".into());
    }
    format!("{} {}", kind.as_str().unwrap(), serde_json::to_string(&object).unwrap())
}

/// A server-sent event as `event NAME: ` and its data; without a name it is a `message`.
pub(crate) fn event_line(payload: &[u8]) -> String {
    let text = std::str::from_utf8(payload).unwrap();
    let (mut name, mut line) = ("message", String::new());
    for (field, value) in text.lines().filter_map(|line| line.split_once(": ")) {
        match field {
            "id" => line.push_str(&format!("id {value} ")),
            "event" => name = value,
            "data" => line.push_str(&format!("event {name}: {}", native_line(value.as_bytes()))),
            // Another one for each session.
            "retry" => {}
            _ => panic!("what is {field:?}?"),
        }
    }
    line
}

pub(crate) fn shown_member(member: &Member) -> &str {
    member.user().map_or("<anonymous>", |user| user)
}

pub(crate) fn permitted_line(permit: &Right<PublishPermit>, publication: &Publication) -> String {
    assert_eq!(*permit.destination(), publication.destination);
    let is_kept = permit.options().history.is_some();
    assert!(!(is_kept && publication.only_for.is_some()), "kept for all, but it is for one");
    publication_line(publication)
}

/// `app message /app/a/7 by /app/a/{x} x=7 from ann`
pub(crate) fn app_line(message: &AppMessage) -> String {
    let kind = match message.kind() {
        AppKind::Message => "message",
        AppKind::Request => "request",
    };
    let mut line = format!("S? app {kind} {}", message.destination());
    for (name, value) in message.permit.variables() {
        line.push_str(&format!(" {name}={value}"));
    }
    if let Some(user) = message.user() {
        line.push_str(&format!(" from {user}"));
    }
    assert!(message.session.is_some());
    if let Some(key) = &message.key {
        line.push_str(&format!(" key {key}"));
    }
    for (name, value) in &message.headers {
        line.push_str(&format!(" {name}:{value}"));
    }
    if !message.body.is_empty() {
        line.push_str(&format!(" | {}", String::from_utf8_lossy(&message.body)));
    }
    line
}

fn publication_line(publication: &Publication) -> String {
    let mut line = publication.destination.to_string();
    if let Some(user) = &publication.publisher {
        line.push_str(&format!(" from {user}"));
    }
    if let Some(session) = publication.only_for {
        line.push_str(&format!(" only for {session}"));
    }
    if publication.except.is_some() {
        line.push_str(" without its session");
    }
    if let Some(content_type) = publication.content_type.as_str() {
        let known = if publication.is_json { "known " } else { "" };
        line.push_str(&format!(" as {known}{content_type}"));
    }
    for (name, value) in &publication.headers {
        line.push_str(&format!(" {name}:{value}"));
    }
    if !publication.body.is_empty() {
        let body = String::from_utf8_lossy(&publication.body);
        line.push_str(&format!(" | {}", body.replace('\0', "\\0")));
    }
    line
}

pub(crate) fn recover_line(recover: &Recover) -> String {
    let start = match recover.start {
        Start::Now => "from now".to_owned(),
        Start::Newest(newest) => format!("with the newest {newest}"),
        Start::After(position) => format!("after {position}"),
        Start::Resume(position) => format!("from {position}, however late"),
    };
    let degraded = if recover.is_degraded { ", degraded" } else { "" };
    format!("S? recover {} {start}{degraded}", recover.destination)
}

pub(crate) fn history_line(query: &HistoryQuery) -> String {
    let range = match query.range {
        HistoryRange::Newest => "newest".to_owned(),
        HistoryRange::After(position) => format!("after {position}"),
    };
    format!("S? history {} {range} limit {}", query.destination, query.limit)
}

//! The session's rules as transcripts: what the client sends, what it gets, what the driver does.

#![expect(clippy::needless_raw_string_hashes, reason = "expect-test writes them so")]
#![expect(clippy::unwrap_used, reason = "to panic is how a test fails")]
#![expect(clippy::format_push_string, reason = "plain to read, and nothing here is hot")]

mod app;
mod capability;
mod connect;
mod drain;
mod driver;
mod errors;
mod events;
mod hooks;
mod model;
mod native;
mod presence;
mod queue;
mod receipts;
mod recovery;
mod registry;
mod send;
mod server;
mod shown;
mod subscribe;
mod time;
mod transactions;
mod transcript;
mod user;

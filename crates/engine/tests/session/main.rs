//! The session's rules as transcripts: what the client sends, what it gets, what the driver does.

mod connect;
mod drain;
mod driver;
mod errors;
mod model;
mod native;
mod receipts;
mod send;
mod subscribe;
mod time;
mod transactions;
mod transcript;
mod user;

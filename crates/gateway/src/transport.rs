//! The transports: how a session's messages travel.

pub mod ws;

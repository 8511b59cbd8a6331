//! The transports: how a session's messages travel.

pub mod cors;
pub mod door;
pub mod events;
pub mod sockjs;
pub mod stomp_tcp;
pub mod ws;

//! The gateway as its clients meet it: real processes, sockets, browsers and Redis servers.

mod handshake;
mod lifecycle;
mod messages;
mod support;
mod websocket;

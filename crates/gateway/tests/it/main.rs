//! The gateway as its clients meet it: real processes, sockets, browsers and Redis servers.

mod cluster;
mod handshake;
mod lifecycle;
mod messages;
mod page;
mod stompjs;
mod support;
mod websocket;

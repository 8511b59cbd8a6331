//! The gateway as its clients meet it: real processes, sockets, browsers and Redis servers.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking where something is missing")]
#![expect(clippy::disallowed_methods, reason = "a test's tasks end with its runtime")]

mod api;
mod api_orders;
mod app;
mod backend;
mod cluster;
mod collector;
mod crowd;
mod descriptors;
mod ecs;
mod endings;
mod events;
mod handshake;
mod handshake_rates;
mod haproxy;
mod health;
mod hooks;
mod http;
mod http2;
mod lifecycle;
mod load_tools;
mod messages;
mod nginx;
mod observability;
mod operate;
mod pacing;
mod page;
mod polls;
mod presence;
mod pressure;
mod prometheus;
mod queues;
mod rebalance;
mod recovery;
mod registry;
mod relay;
mod returning;
mod sockjs;
mod sockjs_client;
mod sockjs_cluster;
mod sockjs_conformance;
mod sockjs_session;
mod spring;
mod stomp_tcp;
mod stompjs;
mod support;
mod ticker;
mod tls;
mod traces;
mod webhook_events;
mod websocket;

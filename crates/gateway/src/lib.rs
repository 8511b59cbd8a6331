//! The gateway: listeners, transports, workers, configuration and command line.
//!
//! One message's way through the node is in `docs/architecture.md`.

pub mod accept;
pub mod accounts;
pub mod admin;
pub mod admission;
pub mod api;
pub mod body;
pub mod bridge;
pub mod cli;
pub mod client_address;
pub mod clock;
pub mod config;
pub mod dead_letters;
pub mod descriptors;
pub mod dev;
pub mod drain;
pub mod ecs;
pub mod health;
pub mod http1;
pub mod http2;
pub mod http_client;
pub mod jwt;
pub mod listeners;
pub mod mail;
pub mod node;
pub mod origin;
pub mod pacer;
pub mod presence;
pub mod problem;
pub mod rates;
pub mod rebalance;
pub mod registry;
pub mod relay;
pub mod repeated;
pub mod server;
pub mod signals;
pub mod socket;
pub mod status;
pub mod takeover;
pub mod telemetry;
pub mod tls;
pub mod traces;
pub mod transport;
pub mod upkeep;
pub mod worker;

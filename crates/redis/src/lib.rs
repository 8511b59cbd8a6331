//! Fanlight's broker over Redis.
#![allow(dead_code)]
pub mod config;
pub mod envelope;
pub mod resp3;
mod canary;
mod subscriptions;

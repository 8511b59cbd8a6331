//! Fuzz targets: a short random smoke under `cargo test`, real fuzzing under `cargo bolero test`.

mod native;
mod sockjs;
mod sse;
mod stomp;
mod ws;

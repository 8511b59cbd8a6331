//! Fuzz targets: a short random smoke under `cargo test`, real fuzzing under `cargo bolero test`.

mod native;
mod stomp;
mod ws;

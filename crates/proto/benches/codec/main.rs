//! What the wire formats cost, one module per format.

mod native;
mod sockjs;
mod sse;
mod stomp;
mod ws;

fn main() {
    divan::main();
}

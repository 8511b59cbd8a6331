//! What the wire formats cost, one module per format.

mod native;
mod stomp;
mod ws;

fn main() {
    divan::main();
}

//! What the wire formats cost, one module per format.

mod native;
mod stomp;

fn main() {
    divan::main();
}

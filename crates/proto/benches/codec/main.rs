//! What the wire formats cost, one module per format.

mod ws;

fn main() {
    divan::main();
}

//! `fanlight`: the gateway and its command line.

use std::process::ExitCode;

/// Gives memory of ended connections back, and holds small ones without waste.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    fanlight::cli::run(std::env::args_os())
}

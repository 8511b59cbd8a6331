//! `fanlight`: the gateway and its command line.

use std::process::ExitCode;

fn main() -> ExitCode {
    fanlight::cli::run(std::env::args_os())
}

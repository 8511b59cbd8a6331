//! A process that ends with the tester, however that ends: a server that outlives it would disturb
//! whatever is measured next.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::process::Command;

use anyhow::{Context, Result};
use rustix::process::{Signal, set_parent_process_death_signal};

/// What to become.
#[derive(Debug, clap::Args)]
pub struct Become {
    /// Whether it is told to end, so that it can end its own processes, and not killed.
    #[arg(long)]
    gently: bool,
    /// A program and its arguments.
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    program: Vec<OsString>,
}

/// The command that becomes `command` in the same process, bound to this one.
pub fn bound(command: &Command) -> Result<Command> {
    bound_by(&[], command)
}

/// The same of one that has processes of its own, which are to end with it.
pub fn bound_gently(command: &Command) -> Result<Command> {
    bound_by(&["--gently"], command)
}

fn bound_by(options: &[&str], command: &Command) -> Result<Command> {
    let mut bound = Command::new(std::env::current_exe()?);
    bound.arg("become").args(options).arg(command.get_program()).args(command.get_args());
    bound.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
    if let Some(folder) = command.get_current_dir() {
        bound.current_dir(folder);
    }
    Ok(bound)
}

/// Replaces this process by the program. The signal stays set.
pub fn exec(to_be: &Become) -> Result<()> {
    let signal = if to_be.gently { Signal::TERM } else { Signal::KILL };
    set_parent_process_death_signal(Some(signal))?;
    let (program, arguments) = to_be.program.split_first().context("no program")?;
    let error = Command::new(program).args(arguments).exec();
    Err(error).with_context(|| format!("starting {}", program.display()))
}

//! Fanlight's development commands: `cargo xtask ci|test|examples|tidy|deploy|sbom|bench|fuzz|chaos|rollout`.

mod bench;
mod chaos;
mod ci;
mod counts;
mod dashboards;
mod deploy;
mod examples;
mod failing;
mod fuzz;
mod process;
mod requirements;
mod rollout;
mod test;
mod tidy;
mod tools;

use std::process::ExitCode;

use clap::Parser;

/// Fanlight's development commands.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
enum Task {
    /// Everything CI checks: format, lints, docs, tidy, tests.
    Ci,
    /// Installs what the tests need, then runs all of them.
    Test {
        /// Passed to `cargo test`: a filter, or `-- --nocapture` and the like.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Runs the applications of `examples/` with all that they need, until Ctrl-C.
    Examples(examples::Options),
    /// Checks the rules of the tree that compilers do not: arrows, budgets, dead files.
    Tidy,
    /// Checks what is shipped for running Fanlight: compose, Terraform, manifests, dashboards.
    Deploy {
        /// Only checks whose name contains this.
        #[arg(default_value = "")]
        filter: String,
    },
    /// Prints what the gateway is made of, as `CycloneDX`: a software bill of materials.
    Sbom,
    /// Runs the benchmarks, what the cluster costs Redis, then deliveries and idle connections over
    /// real sockets.
    Bench {
        /// Only what the cluster costs Redis.
        #[arg(long, conflicts_with = "filter")]
        redis: bool,
        /// Only Fanlight beside its peers: builds what is missing, and takes an hour or two.
        #[arg(long, conflicts_with_all = ["filter", "redis"])]
        peers: bool,
        /// With `--peers`: small sizes, to see that everything works.
        #[arg(long, requires = "peers")]
        quick: bool,
        /// Only count the hot paths' instructions, and fail where there are more than recorded.
        #[arg(long, conflicts_with_all = ["filter", "redis"])]
        check: bool,
        /// Only count the hot paths' instructions, and record them.
        #[arg(long, conflicts_with_all = ["filter", "redis", "check"])]
        record: bool,
        /// Only benchmarks whose name contains this; the rest is then left out.
        filter: Option<String>,
    },
    /// Runs each fuzz target for longer than the tests do.
    Fuzz {
        /// Time for each target.
        #[arg(long, default_value_t = 60)]
        seconds: u64,
        /// Only targets whose name contains this.
        #[arg(default_value = "")]
        filter: String,
    },
    /// Makes faults against real nodes and Redis processes, and judges what clients saw.
    Chaos(chaos::Options),
    /// Restarts every node of a loaded cluster in turn, and adds one: nobody may lose anything.
    Rollout {
        /// Passed to `fanlight-loadtest rollout`: `--quick`, `--proxy haproxy` and the like.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
}

fn main() -> ExitCode {
    match run(Task::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(task: Task) -> anyhow::Result<()> {
    match task {
        Task::Ci => ci::run(),
        Task::Test { arguments } => test::run(&arguments).map(drop),
        Task::Examples(options) => examples::run(&options),
        Task::Tidy => tidy::run(),
        Task::Deploy { filter } => deploy::run(&filter),
        Task::Sbom => deploy::write_sbom(&mut std::io::stdout()),
        Task::Bench { redis: true, .. } => bench::run_redis_costs(),
        Task::Bench { peers: true, quick, .. } => bench::run_peers(quick),
        Task::Bench { check: true, .. } => counts::check(),
        Task::Bench { record: true, .. } => counts::record(),
        Task::Bench { filter, .. } => bench::run(filter.as_deref()),
        Task::Fuzz { seconds, filter } => fuzz::run(seconds, &filter),
        Task::Chaos(options) => chaos::run(&options),
        Task::Rollout { arguments } => rollout::run(&arguments),
    }
}

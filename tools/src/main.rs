//! `falconer`: one binary, one noun or verb a job.

use clap::{Parser, Subcommand};
use std::io::Write;
use std::process::ExitCode;

/// Tools for Falconer and for every server that speaks the ZooKeeper protocol.
#[derive(Parser)]
#[command(name = "falconer", version, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Bench(tools::bench::Args),
    Disk(tools::disk::Args),
}

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Bench(args) => tools::bench::run(&args),
        Command::Disk(args) => tools::disk::run(&args),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            // Standard error may be gone; the exit code still tells.
            let _ = writeln!(std::io::stderr(), "falconer: {e}");
            ExitCode::FAILURE
        }
    }
}

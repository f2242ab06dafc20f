//! `falconer`: one binary, one noun or verb a job.

use clap::{CommandFactory, Parser, Subcommand};
use std::error::Error;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use tools::{Out, Outcome};

/// Tools for Falconer and for every server that speaks the ZooKeeper protocol.
#[derive(Parser)]
#[command(
    name = "falconer",
    version,
    max_term_width = 100,
    after_help = "Exit status: 0 all is well; 1 what was looked for was found (damage, differences) or no request \
                  succeeded; 2 it could not be done."
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Bench(tools::bench::Args),
    Disk(tools::disk::Args),
    Doctor(tools::doctor::Args),
    Log(tools::log_files::Args),
    Snapshot(tools::snapshot_files::Args),
    Shell(tools::shell::Args),
    Status(tools::status::Args),
    /// Write the completions of a shell to standard output: falconer completions bash > /etc/bash_completion.d/falconer
    Completions {
        /// Which shell
        shell: clap_complete::Shell,
    },
    /// Write the manual pages of falconer and its commands into a folder
    Man {
        /// The folder, as /usr/local/share/man/man1
        dir: PathBuf,
    },
}

fn main() -> ExitCode {
    match run(Cli::parse().command) {
        Ok(status) => status,
        // `falconer log dump … | head`: the reader has enough.
        Err(e) if is_broken_pipe(&*e) => ExitCode::SUCCESS,
        Err(e) => {
            // Standard error may be gone; the exit status still tells.
            let _ = writeln!(io::stderr(), "falconer: {}", words(&*e));
            ExitCode::from(2)
        }
    }
}

fn run(command: Command) -> Result<ExitCode, Box<dyn Error>> {
    let mut results = io::BufWriter::new(io::stdout());
    let mut complaints = io::stderr();
    let mut out = Out::new(&mut results, &mut complaints);
    let outcome = match command {
        Command::Bench(args) => tools::bench::run(&args)?,
        Command::Disk(args) => {
            tools::disk::run(&args)?;
            Outcome::Fine
        }
        Command::Doctor(args) => tools::doctor::run(&args, &mut out)?,
        Command::Log(args) => tools::log_files::run(&args, &mut out)?,
        Command::Snapshot(args) => tools::snapshot_files::run(&args, &mut out)?,
        Command::Status(args) => tools::status::run(&args, &mut out)?,
        Command::Shell(args) => return Ok(tools::shell::run(&args)?),
        Command::Completions { shell } => {
            clap_complete::generate(shell, &mut Cli::command(), "falconer", &mut results);
            Outcome::Fine
        }
        Command::Man { dir } => {
            std::fs::create_dir_all(&dir)?;
            clap_mangen::generate_to(Cli::command(), &dir)?;
            Outcome::Fine
        }
    };
    results.flush()?;
    Ok(match outcome {
        Outcome::Fine => ExitCode::SUCCESS,
        Outcome::Found => ExitCode::from(1),
    })
}

/// The error with its causes, each said once.
fn words(e: &(dyn Error + 'static)) -> String {
    let mut text = e.to_string();
    let mut cause = e.source();
    while let Some(e) = cause {
        let more = e.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        cause = e.source();
    }
    text
}

fn is_broken_pipe(e: &(dyn Error + 'static)) -> bool {
    let mut cause = Some(e);
    while let Some(e) = cause {
        if e.downcast_ref::<io::Error>().is_some_and(|e| e.kind() == io::ErrorKind::BrokenPipe) {
            return true;
        }
        cause = e.source();
    }
    false
}

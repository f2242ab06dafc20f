//! `falconer doctor`: what operators get wrong, found before it hurts, each with its remedy.
//!
//! ```text
//!   Args ─┬─ configuration::check   zoo.cfg, myid, members         the keys, what they mean together
//!         ├─ directory::check       data and log directories       disk, space, owner, what lies there
//!         ├─ system::check          limits, io_uring, clock        of this machine
//!         └─ servers::check         four-letter words, peers       of what runs
//!                    └── Examination: fine, note, warning, problem ── text or JSON
//! ```
//!
//! Nothing is written anywhere, and nothing is measured: `falconer disk` does that.

mod configuration;
mod directory;
pub mod servers;
mod system;

pub use crate::ask::Error;
use crate::{Out, Outcome};
use config::{Env, Origin, Property};
use serde_json::json;
use std::path::PathBuf;

/// What operators get wrong, in a configuration, a data directory, this machine, running servers.
#[derive(clap::Args, Clone, Debug)]
#[command(
    after_help = "Without arguments: this machine, and the server on localhost:2181 if one is there.\n\nExit status: 0 \
                        nothing but notes; 1 a warning or a problem; 2 it could not look."
)]
pub struct Args {
    /// A configuration; its data directories, its members and its own server are looked at too
    #[arg(value_name = "ZOO_CFG")]
    configuration: Option<PathBuf>,
    /// A system property that the server is started with, besides those in SERVER_JVMFLAGS and JVMFLAGS
    #[arg(short = 'D', value_name = "NAME=VALUE")]
    property: Vec<String>,
    /// A data directory without a configuration
    #[arg(long, value_name = "DIR")]
    data: Vec<PathBuf>,
    /// Running servers: HOST:PORT[,HOST:PORT...]; the rest of their ensemble is found by them
    #[arg(short, long, value_name = "HOST:PORT")]
    server: Option<String>,
    /// Where the servers' admin ports may be, on their own hosts: the one of each is found by its client port
    #[arg(long, value_name = "PORT[,PORT...]", default_value = "8080", value_delimiter = ',')]
    admin: Vec<u16>,
    /// Show what is fine, too
    #[arg(short, long)]
    verbose: bool,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// How bad it is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Level {
    /// Looked at, nothing to say.
    Fine,
    /// Worth knowing.
    Note,
    /// It will hurt some day.
    Warning,
    /// It does not work, or loses data.
    Problem,
}

impl Level {
    /// The word for it.
    pub fn word(self) -> &'static str {
        match self {
            Level::Fine => "fine",
            Level::Note => "note",
            Level::Warning => "warning",
            Level::Problem => "problem",
        }
    }
}

/// One thing that was looked at.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Finding {
    /// The name of the check, stable, for programs.
    pub check: &'static str,
    /// How bad it is.
    pub level: Level,
    /// What it is about: a file, a directory, a server, this machine.
    pub about: String,
    /// What was found.
    pub what: String,
    /// What to do; empty where there is nothing to do.
    pub fix: String,
}

/// Everything that was looked at.
#[derive(Debug, Default)]
pub struct Examination {
    /// In the order of looking.
    pub findings: Vec<Finding>,
}

impl Examination {
    fn add(&mut self, level: Level, check: &'static str, about: &str, what: String, fix: &str) {
        self.findings.push(Finding { check, level, about: about.to_owned(), what, fix: fix.to_owned() });
    }

    fn fine(&mut self, check: &'static str, about: &str, what: String) {
        self.add(Level::Fine, check, about, what, "");
    }

    fn note(&mut self, check: &'static str, about: &str, what: String, fix: &str) {
        self.add(Level::Note, check, about, what, fix);
    }

    fn warn(&mut self, check: &'static str, about: &str, what: String, fix: &str) {
        self.add(Level::Warning, check, about, what, fix);
    }

    fn problem(&mut self, check: &'static str, about: &str, what: String, fix: &str) {
        self.add(Level::Problem, check, about, what, fix);
    }

    fn count(&self, level: Level) -> usize {
        self.findings.iter().filter(|f| f.level == level).count()
    }
}

/// Examines what the arguments name.
///
/// # Errors
/// When a server string makes no sense, or nothing can be written.
pub fn run(args: &Args, out: &mut Out<'_>) -> Result<Outcome, Error> {
    let mut e = Examination::default();
    let mut servers: Vec<String> = match &args.server {
        Some(text) => crate::shell::target(text).map_err(|e| Error::Server(e.to_string()))?.servers,
        None => Vec::new(),
    };
    if let Some(file) = &args.configuration {
        let mut env = Env::from_process();
        for text in &args.property {
            let (name, value) = text.split_once('=').unwrap_or((text, ""));
            let origin = Origin::CommandLine;
            env.properties.push(Property { name: name.to_owned(), value: value.to_owned(), origin });
        }
        let own = configuration::check(&mut e, file, &env);
        if args.server.is_none() {
            servers.extend(own);
        }
    }
    for dir in &args.data {
        directory::check(&mut e, directory::Role::Both, dir, None);
    }
    system::check(&mut e);
    let nothing_named = args.configuration.is_none() && args.data.is_empty() && args.server.is_none();
    if nothing_named && crate::ask::connect("localhost:2181", crate::ask::PATIENCE).is_ok() {
        servers.push("localhost:2181".into());
    }
    if !servers.is_empty() {
        servers::check(
            &mut e,
            &crate::ask::View::of_all(&servers, &args.admin),
            args.server.is_some() || nothing_named,
        );
    }
    e.findings.sort_by_key(|f| std::cmp::Reverse(f.level));
    show(args, &e, out)?;
    let bad = e.count(Level::Problem) + e.count(Level::Warning);
    Ok(if bad > 0 { Outcome::Found } else { Outcome::Fine })
}

fn show(args: &Args, e: &Examination, out: &mut Out<'_>) -> Result<(), Error> {
    let levels = [Level::Problem, Level::Warning, Level::Note, Level::Fine];
    if args.json {
        let findings: Vec<_> = e
            .findings
            .iter()
            .map(|f| json!({ "check": f.check, "level": f.level.word(), "about": f.about, "what": f.what, "fix": f.fix }))
            .collect();
        let counts: serde_json::Map<_, _> =
            levels.iter().map(|l| (l.word().to_owned(), e.count(*l).into())).collect();
        out.line(&json!({ "findings": findings, "counts": counts }).to_string())?;
        return Ok(());
    }
    for f in e.findings.iter().filter(|f| args.verbose || f.level != Level::Fine) {
        out.line(&format!("{:8} {}: {}", f.level.word(), f.about, f.what))?;
        if !f.fix.is_empty() {
            out.line(&format!("{:8} → {}", "", f.fix))?;
        }
    }
    let [problems, warnings, notes, fine] = levels.map(|l| e.count(l));
    out.line(&format!(
        "{problems} problems, {warnings} warnings, {notes} notes; {fine} checks found nothing"
    ))?;
    Ok(())
}

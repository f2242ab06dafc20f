//! The command line of `falconerd`, and the way from there to a running server and back.

use crate::boot::{self, Failure};
use crate::memory;
use crate::version;
use config::{Env, Invocation, RawConfig, Settings};
use std::process::ExitCode;
use std::sync::OnceLock;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

const HELP: &str = "\
falconerd: a coordination server that speaks ZooKeeper's protocol

  falconerd                         a server alone on 127.0.0.1:2181, data in ./falconer-data
  falconerd ZOO_CFG                 a server configured by a zoo.cfg, as it stands
  falconerd PORT DIR [TICK [CNXNS]] as ZooKeeperServerMain
  falconerd --check ZOO_CFG         explains what each key would do, starts nothing
  falconerd --version

  -Dname=value                      a Java system property, e.g. -Djute.maxbuffer=4194304; also read from
                                    SERVER_JVMFLAGS and JVMFLAGS
  FALCONER_LOG=debug                what is logged: error, warn, info (default), debug, trace
  SIGUSR1, SIGUSR2                  log at level debug; log as at the start again
";

/// Runs the command with `arguments`, the program's name not among them.
pub fn run(mut arguments: Vec<String>) -> ExitCode {
    if arguments.iter().any(|a| a == "--help" || a == "-h") {
        print!("{HELP}");
        return ExitCode::SUCCESS;
    }
    if arguments.iter().any(|a| a == "--version") {
        println!("falconerd {} ({})", env!("CARGO_PKG_VERSION"), version::FULL);
        return ExitCode::SUCCESS;
    }
    let check = arguments.iter().position(|a| a == "--check").map(|at| arguments.remove(at)).is_some();
    let mut env = Env::from_process();
    let resolved = Invocation::parse(&arguments, &mut env)
        .and_then(RawConfig::read)
        .and_then(|raw| Settings::resolve(raw, &env));
    let (settings, findings) = match resolved {
        Ok(ok) => ok,
        Err(refusal) => {
            if check {
                print!("{}", config::explain_refusal(&refusal));
            }
            eprintln!("{refusal}");
            return ExitCode::from(refusal.exit_code());
        }
    };
    if check {
        print!("{}", config::explain(&settings, &findings));
        return ExitCode::SUCCESS;
    }
    start_logging();
    memory::begin();
    for finding in findings.iter().filter(|f| f.level == config::Level::Warning) {
        tracing::warn!("{finding}");
    }
    match boot::serve(settings, properties(&env)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            tracing::error!("{failure}");
            ExitCode::from(failure.exit_code())
        }
    }
}

/// Java system properties that were given, for the admin interface; secrets hidden, sorted.
fn properties(env: &Env) -> Vec<(String, String)> {
    let shown = |p: &config::Property| (p.name.clone(), config::keys::shown(&p.name, &p.value));
    let mut all: Vec<_> = env.properties.iter().map(shown).collect();
    all.sort();
    all
}

/// Changes what is logged while the server runs.
type Reload = tracing_subscriber::reload::Handle<EnvFilter, tracing_subscriber::Registry>;

static FILTER: OnceLock<Reload> = OnceLock::new();

/// Sets what is logged from now on: a level, or levels by module, as `FALCONER_LOG`. Returns it as understood.
///
/// # Errors
/// The reason why `text` is no filter.
pub fn set_log_filter(text: &str) -> Result<String, String> {
    let filter = EnvFilter::try_new(text).map_err(|e| format!("{text:?} is no filter of the log: {e}"))?;
    let shown = filter.to_string();
    let handle = FILTER.get().ok_or("the log has not been started")?;
    handle.reload(filter).map_err(|e| format!("the filter can't be changed: {e}"))?;
    // Whatever is let through, whoever reads the log should know why it changed.
    tracing::warn!(filter = shown, "what is logged was changed");
    Ok(shown)
}

/// What the log started with.
pub fn initial_log_filter() -> String {
    std::env::var("FALCONER_LOG").unwrap_or_else(|_| "info".to_owned())
}

fn start_logging() {
    let filter = EnvFilter::try_from_env("FALCONER_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    let color = std::io::IsTerminal::is_terminal(&std::io::stderr());
    let (filter, handle) = tracing_subscriber::reload::Layer::new(filter);
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_ansi(color);
    tracing_subscriber::registry().with(filter).with(lines).init();
    let _ = FILTER.set(handle);
    // A thread that dies leaves a server that looks alive: the process goes with it.
    let default = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        default(info);
        tracing::error!("a thread died; the process ends so that nothing goes on without it");
        std::process::exit(i32::from(Failure::INTERNAL));
    }));
}

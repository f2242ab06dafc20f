//! The command line of `falconerd`, and the way from there to a running server and back.

use crate::boot::{self, Failure};
use crate::version;
use config::{Env, Invocation, RawConfig, Settings};
use std::process::ExitCode;
use tracing_subscriber::EnvFilter;

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
    for finding in findings.iter().filter(|f| f.level == config::Level::Warning) {
        tracing::warn!("{finding}");
    }
    match boot::serve(settings) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            tracing::error!("{failure}");
            ExitCode::from(failure.exit_code())
        }
    }
}

fn start_logging() {
    let filter = EnvFilter::try_from_env("FALCONER_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    let color = std::io::IsTerminal::is_terminal(&std::io::stderr());
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(color).init();
    // A thread that dies leaves a server that looks alive: the process goes with it.
    let default = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        default(info);
        tracing::error!("a thread died; the process ends so that nothing goes on without it");
        std::process::exit(i32::from(Failure::INTERNAL));
    }));
}

//! `falconer shell`: ZooKeeper's command line, command for command and byte for byte where people and scripts see it.
//!
//! ```text
//!   Args ── one command ──────────────┐
//!        └─ lines (terminal, or pipe) ┴─ words ── commands::Command::run ── session::Session ── server
//!                                                        │                        │
//!                                                        └──── show::Screen ◄── events
//! ```
//!
//! Three nouns: a *command* has options in the manner of commons-cli ([`options`]); the *session* is one client
//! session with its watches ([`session`]); the *screen* is the one way out, as text or as JSON ([`show`]).
//!
//! What differs from zkCli on purpose: a one-shot command closes its session at its end; an error that leads
//! nowhere by itself has a second line with what to do, on a terminal and with `--json`; an empty line does nothing;
//! a number that is none is an error message and not the end of the program.

pub mod commands;
mod line;
pub mod options;
mod quota;
pub mod session;
pub mod show;
pub mod watches;

use crate::bench::Target;
use clap::ValueEnum;
use commands::{Command, Failure, usage};
use line::Lines;
use options::words;
use session::{Session, Wish};
use show::Screen;
use std::cell::RefCell;
use std::collections::VecDeque;
use std::fmt;
use std::io::{self, BufRead, IsTerminal};
use std::path::PathBuf;
use std::process::ExitCode;
use std::rc::Rc;
use std::time::Duration;

/// How many commands `history` shows besides itself.
const HISTORY_SHOWN: usize = 10;
/// How many commands `redo` can reach back.
const HISTORY_KEPT: usize = 10_000;

/// ZooKeeper's command line: zkCli's commands with their options and output.
///
/// With a command, runs it and ends; without, reads commands from the terminal or from standard input.
#[derive(clap::Args, Clone, Debug)]
#[command(
    trailing_var_arg = true,
    after_help = "Commands:\n  ls [-s] [-w] [-R] PATH; get [-s] [-w] [-b] [-x] PATH; create [-s] [-e] [-c] [-t TTL] PATH [DATA] \
                  [ACL]; set [-s] [-v N] [-b] PATH DATA; delete [-v N] PATH; deleteall PATH; stat PATH; …\n  An unknown \
                  command, such as 'help', lists them all.\n\nExit status: 0 done; 1 refused, or not understood; 127 no such \
                  command."
)]
pub struct Args {
    /// Where: HOST:PORT[,HOST:PORT...][/chroot]
    #[arg(short, long, value_name = "HOST:PORT", default_value = "localhost:2181")]
    server: String,
    /// The session time-out to ask for, in milliseconds
    #[arg(long, value_name = "MS", default_value_t = 30_000, value_parser = clap::value_parser!(i32).range(1..))]
    timeout: i32,
    /// Take a read-only server too
    #[arg(short, long)]
    read_only: bool,
    /// Wait for the connection, as long as the session time-out, before anything is done
    #[arg(long)]
    wait: bool,
    /// One JSON object a line for each command and each event
    #[arg(long)]
    json: bool,
    /// Only what commands answer: no greeting, no events
    #[arg(short, long)]
    quiet: bool,
    /// Colours
    #[arg(long, value_enum, default_value_t = Colour::Auto, value_name = "WHEN")]
    color: Colour,
    /// zkCli's -client-configuration: a properties file. What it asks for beyond a plain connection is refused
    #[arg(long, value_name = "FILE")]
    client_configuration: Option<PathBuf>,
    /// A command with its options and arguments
    #[arg(value_name = "COMMAND", allow_hyphen_values = true)]
    command: Vec<String>,
}

/// When output is coloured.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
enum Colour {
    /// On a terminal, unless NO_COLOR is set.
    Auto,
    Always,
    Never,
}

/// Why the shell could not start.
#[derive(Debug)]
#[non_exhaustive]
pub enum Error {
    /// The server string makes no sense.
    Server(String),
    /// The client configuration can't be read.
    Configuration {
        /// The file.
        file: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The client configuration asks for what is not there.
    Unsupported {
        /// The file.
        file: PathBuf,
        /// The key.
        key: String,
    },
    /// No connection in time.
    Connect {
        /// The server string.
        server: String,
        /// Why.
        why: String,
    },
    /// The terminal, or standard input, can't be read.
    Input(io::Error),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Server(why) => write!(f, "{why}"),
            Error::Configuration { file, source } => write!(f, "can't read {}: {source}", file.display()),
            Error::Unsupported { file, key } => write!(
                f,
                "{} asks for {key}: TLS and SASL are not available in this version; use a plain client port without it",
                file.display()
            ),
            Error::Connect { server, why } => write!(f, "no connection to {server}: {why}"),
            Error::Input(source) => write!(f, "can't read commands: {source}"),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Error::Configuration { source, .. } | Error::Input(source) => Some(source),
            Error::Server(_) | Error::Unsupported { .. } | Error::Connect { .. } => None,
        }
    }
}

/// Runs the shell; the exit status is that of the last command.
///
/// # Errors
/// When it can't start. What a command refuses is on the screen.
pub fn run(args: &Args) -> Result<ExitCode, Error> {
    let colours = match args.color {
        Colour::Always => true,
        Colour::Never => false,
        Colour::Auto => {
            io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty())
        }
    };
    let screen = Screen::new(args.json, colours && !args.json);
    screen.set_print_watches(!args.quiet);
    let target = target(&args.server)?;
    if let Some(file) = &args.client_configuration {
        check_client_configuration(file)?;
    }
    if !args.quiet {
        screen.line(&format!("Connecting to {}", args.server));
    }
    let mut shell = Shell::new(args, target, screen)?;
    if args.command.is_empty() {
        if !args.quiet {
            shell.screen.line("Welcome to ZooKeeper!");
        }
        shell.read_commands(!args.quiet)?;
    } else {
        shell.process(&args.command);
    }
    // zkCli leaves its session to its time-out here, so there is no event of a close.
    shell.screen.set_print_watches(false);
    shell.session.borrow_mut().close();
    Ok(ExitCode::from(shell.exit_code))
}

/// Reads a server string.
///
/// # Errors
/// When it names no server, or its chroot is no path.
pub fn target(text: &str) -> Result<Target, Error> {
    let target: Target = text.parse().map_err(Error::Server)?;
    if !target.chroot.is_empty() {
        commands::check_path(&target.chroot)
            .map_err(|e| Error::Server(format!("the chroot in '{text}': {}", e.message())))?;
    }
    Ok(target)
}

/// A client configuration may hold what has no meaning here; what would make the connection another one is refused.
fn check_client_configuration(file: &PathBuf) -> Result<(), Error> {
    let text = std::fs::read_to_string(file)
        .map_err(|source| Error::Configuration { file: file.clone(), source })?;
    for line in text.lines().map(str::trim).filter(|l| !l.starts_with(['#', '!'])) {
        let (key, value) = line.split_once(['=', ':']).unwrap_or((line, ""));
        let (key, value) = (key.trim(), value.trim());
        let asked = match key {
            "zookeeper.client.secure" => value.eq_ignore_ascii_case("true"),
            "zookeeper.sasl.client" => false,
            key => key.starts_with("zookeeper.ssl.") || key.starts_with("zookeeper.sasl."),
        };
        if asked {
            return Err(Error::Unsupported { file: file.clone(), key: key.to_owned() });
        }
    }
    Ok(())
}

/// The state between commands.
struct Shell {
    session: Rc<RefCell<Session>>,
    screen: Screen,
    wish: Wish,
    /// Only the server string, as it was typed: the prompt shows it.
    host: String,
    wait: bool,
    hints: bool,
    /// The commands so far; the first of them has the number `history_from`.
    history: VecDeque<String>,
    history_from: usize,
    exit_code: u8,
    quit: bool,
}

impl Shell {
    fn new(args: &Args, target: Target, screen: Screen) -> Result<Shell, Error> {
        let wish = Wish { target, timeout_ms: args.timeout, read_only: args.read_only };
        let session = Session::open(wish.clone(), screen.clone());
        let shell = Shell {
            session: Rc::new(RefCell::new(session)),
            screen,
            wish,
            host: args.server.clone(),
            wait: args.wait,
            hints: io::stderr().is_terminal(),
            history: VecDeque::new(),
            history_from: 0,
            exit_code: 0,
            quit: false,
        };
        shell.await_connection()?;
        Ok(shell)
    }

    fn await_connection(&self) -> Result<(), Error> {
        let patience = Duration::from_millis(self.wish.timeout_ms as u64);
        let session = self.session.borrow();
        if self.wait && !session.wait_connected(patience) {
            let why = session.why().unwrap_or_else(|| format!("no answer in {} ms", self.wish.timeout_ms));
            return Err(Error::Connect { server: self.host.clone(), why });
        }
        Ok(())
    }

    /// Commands from a terminal with line editing, else from standard input line by line.
    fn read_commands(&mut self, greet: bool) -> Result<(), Error> {
        let terminal = io::stdin().is_terminal() && io::stdout().is_terminal() && !self.screen.json();
        if greet {
            // zkCli's words for line editing; scripts wait for them.
            self.screen.line(&format!("JLine support is {}", if terminal { "enabled" } else { "disabled" }));
        }
        if !terminal {
            for line in io::stdin().lock().lines() {
                self.line(&line.map_err(Error::Input)?);
                if self.quit {
                    break;
                }
            }
            return Ok(());
        }
        let mut lines = Lines::new(Rc::clone(&self.session), &self.screen).map_err(Error::Input)?;
        while !self.quit {
            let state = self.session.borrow().state().name();
            let prompt = format!("[zk: {}({state}) {}] ", self.host, self.count());
            match lines.next(&prompt).map_err(Error::Input)? {
                Some(line) => self.line(&line),
                None => break,
            }
        }
        lines.save();
        Ok(())
    }

    /// The number of the command at hand.
    fn count(&self) -> usize {
        self.history_from + self.history.len()
    }

    fn line(&mut self, line: &str) {
        let words = words(line);
        if words.is_empty() {
            return;
        }
        self.history.push_back(line.to_owned());
        self.process(&words);
        if self.history.len() > HISTORY_KEPT {
            self.history.pop_front();
            self.history_from += 1;
        }
    }

    /// Runs a command and shows what becomes of it.
    fn process(&mut self, words: &[String]) {
        let result = self.execute(words);
        let command = words.first().map_or("", String::as_str);
        self.exit_code = result.as_ref().err().map_or(0, Failure::exit_code);
        match result {
            Ok(()) => self.screen.end(command, None),
            Err(e) => {
                self.screen.error(&e.message());
                // A connection that can't be made is explained to everybody: zkCli's own words say nothing of it.
                let unreachable = matches!(&e, Failure::Refused(r) if r.why.is_some());
                if let Some(hint) = e.hint().filter(|_| self.hints || unreachable) {
                    self.screen.error(&format!("({hint})"));
                }
                self.screen.end(command, Some(e.json()));
            }
        }
    }

    fn execute(&mut self, words: &[String]) -> Result<(), Failure> {
        let name = words.first().map_or("", String::as_str);
        let Some(command) = Command::find(name) else {
            self.screen.error(&usage());
            return Err(Failure::NotFound(name.to_owned()));
        };
        let arg = words.get(1).map(String::as_str);
        match (name, arg) {
            ("quit", _) => {
                self.quit = true;
                self.session.borrow_mut().close();
                return Ok(());
            }
            ("redo", Some(number)) => return self.redo(number),
            ("history", _) => self.show_history(),
            ("printwatches", None) => {
                let on = self.screen.print_watches();
                self.screen.line(&format!("printwatches is {}", if on { "on" } else { "off" }));
                self.screen.set("printwatches", on);
            }
            ("printwatches", Some(word)) => self.screen.set_print_watches(word == "on"),
            ("connect", host) => self.connect(host)?,
            _ => {}
        }
        let mut session = self.session.borrow_mut();
        if !session.state().is_alive() {
            self.screen.line("Not connected");
            self.screen.set("connected", false);
            return Ok(());
        }
        if name == "close" {
            session.close();
            return Ok(());
        }
        command.run(words, &session, &self.screen)
    }

    fn connect(&mut self, host: Option<&str>) -> Result<(), Failure> {
        if let Some(host) = host {
            self.wish.target = target(host).map_err(|e| Failure::Malformed(e.to_string()))?;
            self.host = host.to_owned();
        }
        self.session.borrow_mut().close();
        *self.session.borrow_mut() = Session::open(self.wish.clone(), self.screen.clone());
        self.await_connection().map_err(|e| Failure::Malformed(e.to_string()))
    }

    fn redo(&mut self, number: &str) -> Result<(), Failure> {
        let wrong = |text: &str| Err(Failure::Malformed(text.into()));
        let now = self.count().saturating_sub(1);
        let wanted = number.parse().ok().filter(|n| *n < now);
        let at = wanted.and_then(|n: usize| n.checked_sub(self.history_from));
        let Some(line) = at.and_then(|at| self.history.get(at)).cloned() else {
            return wrong("Command index out of range");
        };
        let words = words(&line);
        if words.first().is_some_and(|w| w == "redo") {
            return wrong("No redoing redos");
        }
        // In the history it stands as what it was, so that it can be done again.
        if let Some(last) = self.history.back_mut() {
            *last = line;
        }
        self.execute(&words)
    }

    fn show_history(&self) {
        let now = self.count().saturating_sub(1);
        for (number, line) in (self.history_from..).zip(&self.history) {
            if number + HISTORY_SHOWN >= now {
                self.screen.line(&format!("{number} - {line}"));
                self.screen.push("history", serde_json::json!({ "number": number, "line": line }));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn server_strings_have_a_chroot_or_are_refused_with_the_reason() {
        assert_eq!(target("h:1,g/x/y").unwrap().chroot, "/x/y");
        assert_eq!(target("h:1/").unwrap().chroot, "");
        let text = target("h/a//b").unwrap_err().to_string();
        assert!(text.contains("empty node name"), "{text}");
        assert!(target(",").is_err());
    }

    #[test]
    fn a_client_configuration_that_asks_for_tls_is_refused_with_its_key() {
        let dir = std::env::temp_dir().join(format!("falconer-shell-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let file = dir.join("client.properties");
        for (text, refused) in [
            ("# nothing\nzookeeper.client.secure=false\nzookeeper.request.timeout=5\n", None),
            ("zookeeper.client.secure = true\n", Some("zookeeper.client.secure")),
            ("zookeeper.ssl.trustStore.location=/x\n", Some("zookeeper.ssl.trustStore.location")),
        ] {
            std::fs::write(&file, text).unwrap();
            match (check_client_configuration(&file), refused) {
                (Ok(()), None) => {}
                (Err(e), Some(key)) => assert!(e.to_string().contains(key), "{e}"),
                (found, wanted) => panic!("{found:?} instead of {wanted:?}"),
            }
        }
        assert!(check_client_configuration(&dir.join("none")).is_err());
        std::fs::remove_dir_all(&dir).unwrap();
    }
}

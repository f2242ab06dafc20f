//! What the resolver has to say: findings about what it accepted, faults about what it refuses.

use std::fmt;
use std::path::{Path, PathBuf};

use crate::keys::printable;

/// Where a value was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// A line, from 1, of a configuration file.
    Line(PathBuf, u32),
    /// A whole file, for what is missing in it.
    File(PathBuf),
    /// `-Dname=value`, or a positional argument.
    CommandLine,
    /// This environment variable.
    Variable(&'static str),
    /// Nowhere: a consequence of something absent.
    Nowhere,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::Line(path, line) => write!(f, "{}:{line}", printable(&path.to_string_lossy())),
            Origin::File(path) => f.write_str(&printable(&path.to_string_lossy())),
            Origin::CommandLine => f.write_str("command line"),
            Origin::Variable(name) => f.write_str(name),
            Origin::Nowhere => f.write_str("-"),
        }
    }
}

/// What became of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// In effect.
    Honoured,
    /// Accepted, without effect.
    Ignored,
    /// Accepted; means nothing outside of the Java implementation.
    NotNeeded,
    /// The reason why the server does not start.
    Refused,
    /// No key was given: something about the configuration as a whole.
    Note,
}

impl fmt::Display for Effect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Effect::Honoured => "honoured",
            Effect::Ignored => "ignored",
            Effect::NotNeeded => "not needed",
            Effect::Refused => "refused",
            Effect::Note => "note",
        })
    }
}

/// Whether the operator should look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// For the report only.
    Info,
    /// Worth a line in the log at every start.
    Warning,
}

/// One key given, or one remark. Carries no secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The key as it was written; empty for a [`Effect::Note`] about no key.
    pub key: String,
    /// Its value as it may be shown.
    pub value: String,
    /// Where it stands.
    pub origin: Origin,
    /// What became of it.
    pub effect: Effect,
    /// Whether to log it.
    pub level: Level,
    /// The value in effect where it isn't simply the one given.
    pub effective: Option<String>,
    /// Meaning or reason, a clause.
    pub note: String,
}

impl fmt::Display for Finding {
    /// One line, for the log.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.origin, self.key.is_empty()) {
            (Origin::Nowhere, true) => return f.write_str(&self.note),
            (Origin::Nowhere, false) => write!(f, "{}", self.key)?,
            (origin, true) => write!(f, "{origin}")?,
            (origin, false) => write!(f, "{origin}: {}={} {}", self.key, self.value, self.effect)?,
        }
        write!(f, ": {}", self.note)?;
        match &self.effective {
            Some(effective) => write!(f, " (in effect: {effective})"),
            None => Ok(()),
        }
    }
}

/// Why the process ends; the numbers are ZooKeeper's, so that scripts and units keep their meaning.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ExitCode {
    /// Invalid invocation or configuration: 2.
    InvalidInvocation,
    /// A data directory can't be used: 3.
    UnableToAccessDatadir,
}

impl ExitCode {
    /// The process's exit status.
    pub const fn code(self) -> u8 {
        match self {
            ExitCode::InvalidInvocation => 2,
            ExitCode::UnableToAccessDatadir => 3,
        }
    }
}

/// One reason not to start. Carries no secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The key, or what is wrong when there is no key.
    pub key: String,
    /// Where.
    pub origin: Origin,
    /// What would be right, a clause.
    pub wanted: String,
    /// What is there, as it may be shown.
    pub found: String,
    /// What to do.
    pub remedy: String,
    /// How the process ends.
    pub exit: ExitCode,
}

impl Fault {
    /// A data directory that turned out unusable when it was opened (exit code 3): the caller's own finding, in the
    /// form of all the others.
    pub fn data_dir(key: &str, dir: &Path, found: String) -> Fault {
        Fault {
            key: key.to_owned(),
            origin: Origin::File(dir.to_owned()),
            wanted: "a directory that this user can read and write".to_owned(),
            found,
            remedy: "create it, change its owner, or choose another".to_owned(),
            exit: ExitCode::UnableToAccessDatadir,
        }
    }
}

impl fmt::Display for Fault {
    /// One line: where, key, wanted, found, remedy.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.origin != Origin::Nowhere {
            write!(f, "{}: ", self.origin)?;
        }
        write!(f, "{}: wanted {}, found {}; {}", self.key, self.wanted, self.found, self.remedy)
    }
}

/// Why a configuration does not start. All faults at once: nobody likes to find them one by one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// At least one.
    pub faults: Vec<Fault>,
    /// What was found about the other keys.
    pub findings: Vec<Finding>,
}

impl Refusal {
    /// A refusal for one reason.
    pub fn one(fault: Fault) -> Refusal {
        Refusal { faults: vec![fault], findings: Vec::new() }
    }

    /// The exit status: an invalid configuration comes before a bad directory, which it may have named.
    pub fn exit_code(&self) -> u8 {
        self.faults.iter().map(|f| f.exit).min().unwrap_or(ExitCode::InvalidInvocation).code()
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, fault) in self.faults.iter().enumerate() {
            write!(f, "{}{fault}", if i == 0 { "" } else { "\n" })?;
        }
        Ok(())
    }
}

impl std::error::Error for Refusal {}

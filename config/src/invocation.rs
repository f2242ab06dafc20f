//! The command line and the environment: which configuration, and which system properties.

use std::path::PathBuf;

use crate::limits;
use crate::report::{ExitCode, Fault, Origin, Refusal};

/// What the server was asked to run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Invocation {
    /// No argument: a server alone on 127.0.0.1:2181 with its data in `./falconer-data`.
    Embedded,
    /// A `zoo.cfg`.
    File(PathBuf),
    /// `<port> <datadir> [ticktime] [maxcnxns]`, as `ZooKeeperServerMain` takes it.
    Positional {
        /// Client port on all addresses.
        port: u16,
        /// Data and log.
        data_dir: PathBuf,
        /// `tickTime` in ms, if given.
        tick_ms: Option<u32>,
        /// `maxClientCnxns`, if given; 0 and absent are unlimited, as there.
        max_client_cnxns: Option<u32>,
    },
}

/// A Java system property, and who set it.
#[derive(Clone, PartialEq, Eq)]
pub struct Property {
    /// Full name, prefix included.
    pub name: String,
    /// Value; empty for a bare `-Dname`.
    pub value: String,
    /// The command line or a variable.
    pub origin: Origin,
}

impl std::fmt::Debug for Property {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}={:?}", self.origin, self.name, crate::keys::shown(&self.name, &self.value))
    }
}

/// System properties and everything else of the environment that matters. A later property wins over an earlier one of
/// the same name: `SERVER_JVMFLAGS` first, then `JVMFLAGS` (`zkServer.sh` joins them in this order), then the command line.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Env {
    /// In order of rising precedence.
    pub properties: Vec<Property>,
    /// JVM options that are no `-D` (`-Xmx512m`), which mean nothing here, with their variable.
    pub jvm_options: Vec<(String, &'static str)>,
}

impl Env {
    /// Nothing set.
    pub fn empty() -> Env {
        Env::default()
    }

    /// From the environment of this process.
    pub fn from_process() -> Env {
        Env::from_variables(|name| std::env::var_os(name).map(|v| v.to_string_lossy().into_owned()))
    }

    /// From variables looked up by `get`.
    pub fn from_variables(get: impl Fn(&str) -> Option<String>) -> Env {
        let mut env = Env::empty();
        if get("ZOO_DATADIR_AUTOCREATE_DISABLE").is_some_and(|v| !v.is_empty()) {
            let origin = Origin::Variable("ZOO_DATADIR_AUTOCREATE_DISABLE");
            let name = "zookeeper.datadir.autocreate".to_owned();
            env.properties.push(Property { name, value: "false".to_owned(), origin });
        }
        for variable in ["SERVER_JVMFLAGS", "JVMFLAGS"] {
            for flag in split_flags(&get(variable).unwrap_or_default()) {
                match property(&flag) {
                    Some((name, value)) => {
                        env.properties.push(Property { name, value, origin: Origin::Variable(variable) })
                    }
                    None => env.jvm_options.push((flag, variable)),
                }
            }
        }
        env
    }
}

impl Invocation {
    /// Reads the arguments that are left after the caller took its own flags (`--check`, `--help`): properties go to
    /// `env`, the rest says what to run.
    ///
    /// # Errors
    /// An unknown flag, a wrong number of arguments, or a port, tick or limit that is no number in its range.
    pub fn parse(args: &[String], env: &mut Env) -> Result<Invocation, Refusal> {
        let mut rest = Vec::new();
        for arg in args {
            match property(arg) {
                Some((name, value)) => {
                    env.properties.push(Property { name, value, origin: Origin::CommandLine });
                }
                None if arg.starts_with('-') && arg.len() > 1 => {
                    return Err(usage("an option that exists, or -Dname=value", arg));
                }
                None => rest.push(arg.as_str()),
            }
        }
        match rest[..] {
            [] => Ok(Invocation::Embedded),
            ["", ..] => Err(usage("a path", "\"\"")),
            [file] => Ok(Invocation::File(PathBuf::from(file))),
            [port, dir, ref more @ ..] if more.len() <= 2 => {
                let port = port.parse().map_err(|_| usage("a port from 0 to 65535", port))?;
                let number = |text: Option<&&str>, wanted, max: u32| match text {
                    None => Ok(None),
                    Some(text) => match text.parse::<u32>() {
                        Ok(n) if n <= max => Ok(Some(n)),
                        _ => Err(usage(wanted, text)),
                    },
                };
                let tick_max = u32::try_from(limits::TICK_MS_MAX).unwrap_or(u32::MAX);
                let tick_ms = number(more.first(), "a tick time in ms, at least 1", tick_max)?;
                if tick_ms == Some(0) {
                    return Err(usage("a tick time in ms, at least 1", "0"));
                }
                let max_client_cnxns = number(more.get(1), "a number of connections", i32::MAX as u32)?;
                Ok(Invocation::Positional { port, data_dir: PathBuf::from(dir), tick_ms, max_client_cnxns })
            }
            _ => Err(usage(
                "at most <port> <datadir> [ticktime] [maxcnxns]",
                &format!("{} arguments", rest.len()),
            )),
        }
    }
}

fn usage(wanted: &str, found: &str) -> Refusal {
    Refusal::one(Fault {
        key: "arguments".to_owned(),
        origin: Origin::CommandLine,
        wanted: wanted.to_owned(),
        found: crate::keys::shown("", found),
        remedy: "usage: falconerd [-Dname=value]... [ZOO_CFG | <port> <datadir> [ticktime] [maxcnxns]]"
            .to_owned(),
        exit: ExitCode::InvalidInvocation,
    })
}

/// `-Dname=value` or `-Dname`.
fn property(flag: &str) -> Option<(String, String)> {
    let body = flag.strip_prefix("-D")?;
    let (name, value) = body.split_once('=').unwrap_or((body, ""));
    (!name.is_empty()).then(|| (name.to_owned(), value.to_owned()))
}

/// Splits at white space. Quotes group, although `zkServer.sh` would split inside them: nobody means a quote literally.
fn split_flags(flags: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote = None;
    for c in flags.chars().take(limits::FLAGS_BYTES_MAX) {
        match (quote, c) {
            (Some(q), c) if c == q => quote = None,
            (None, '"' | '\'') => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (None, c) if c.is_ascii_whitespace() => words.extend(word.take()),
            (_, c) => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(line: &str) -> Vec<String> {
        line.split_whitespace().map(str::to_owned).collect()
    }

    #[test]
    fn arguments_say_what_to_run() {
        let positional = |tick_ms, max_client_cnxns| Invocation::Positional {
            port: 2181,
            data_dir: PathBuf::from("/d"),
            tick_ms,
            max_client_cnxns,
        };
        for (line, want) in [
            ("", Some(Invocation::Embedded)),
            ("conf/zoo.cfg", Some(Invocation::File("conf/zoo.cfg".into()))),
            ("-Djute.maxbuffer=5 zoo.cfg", Some(Invocation::File("zoo.cfg".into()))),
            ("2181 /d", Some(positional(None, None))),
            ("2181 /d 2000", Some(positional(Some(2000), None))),
            ("2181 /d 2000 10", Some(positional(Some(2000), Some(10)))),
            ("2181 /d 2000 10 5", None),
            ("65536 /d", None),
            ("2181 /d 0", None),
            ("2181 /d x", None),
            ("--nonsense", None),
        ] {
            let got = Invocation::parse(&args(line), &mut Env::empty());
            assert_eq!(got.as_ref().ok(), want.as_ref(), "for {line:?}");
            if let Err(refusal) = got {
                assert_eq!((refusal.exit_code(), refusal.to_string().lines().count()), (2, 1));
            }
        }
    }

    #[test]
    fn properties_come_from_flags_in_the_order_of_precedence() {
        let mut env = Env::from_variables(|name| match name {
            "SERVER_JVMFLAGS" => Some("-Xmx1g  -Da=1 -Db='x y' -Dbare".to_owned()),
            "JVMFLAGS" => Some("-Da=2\n-Dc=\"q\"".to_owned()),
            "ZOO_DATADIR_AUTOCREATE_DISABLE" => Some("1".to_owned()),
            _ => None,
        });
        Invocation::parse(&args("-Da=3"), &mut env).unwrap();
        let got: Vec<_> = env.properties.iter().map(|p| (p.name.as_str(), p.value.as_str())).collect();
        let want = [
            ("zookeeper.datadir.autocreate", "false"),
            ("a", "1"),
            ("b", "x y"),
            ("bare", ""),
            ("a", "2"),
            ("c", "q"),
            ("a", "3"),
        ];
        assert_eq!(got, want);
        assert_eq!(env.jvm_options, [("-Xmx1g".to_owned(), "SERVER_JVMFLAGS")]);
    }
}

//! Raw to cooked: decides for each key given what becomes of it, and builds [`Settings`] or a [`Refusal`].

mod cook;
mod ensemble;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use proto::ids::ServerId;

use crate::invocation::{Env, Invocation};
use crate::keys::{self, Key, Kind, Place, Verdict};
use crate::limits;
use crate::members::{self, BadLine, Host, HostPort, Member, Quorum, Role};
use crate::properties::Entry;
use crate::raw::{ConfigFile, DirState, MyId, RawConfig};
use crate::report::{Effect, ExitCode, Fault, Finding, Level, Origin, Refusal};
use crate::settings::*;

impl Settings {
    /// Decides. Findings tell about every key given, in the order: system properties, `zoo.cfg`, dynamic file, remarks.
    ///
    /// # Errors
    /// All reasons not to start, together.
    pub fn resolve(raw: RawConfig, env: &Env) -> Result<(Settings, Vec<Finding>), Refusal> {
        let mut resolver = Resolver::default();
        resolver.collect_properties(env);
        if let Some(main) = &raw.main {
            resolver.collect_file(main, raw.dynamic.is_some());
        }
        resolver.judge();
        let settings = resolver.settings(&raw);
        resolver.into_result(settings)
    }
}

/// A key in effect: the last one of its precedence.
#[derive(Clone)]
struct Given {
    row: &'static Key,
    /// As written, without `zookeeper.`: tells the members of a family apart.
    name: String,
    value: String,
    origin: Origin,
    /// Its place in `findings`.
    finding: usize,
}

#[derive(Default)]
struct Resolver {
    findings: Vec<Finding>,
    faults: Vec<Fault>,
    /// By row and by name: only families have several names a row.
    given: BTreeMap<(&'static str, bool, String), Given>,
    /// Lines that make up the membership of the static file.
    member_lines: Vec<(Entry, Origin, usize)>,
    /// Rows that were read: a test checks that every honoured one is.
    read: BTreeSet<(&'static str, bool)>,
}

fn slot(row: &'static Key, name: &str) -> (&'static str, bool, String) {
    let name = if row.name.ends_with('*') { name } else { row.name };
    (row.name, row.place == Place::Property, name.to_owned())
}

/// The row a resolver line names.
fn row(name: &str) -> &'static Key {
    keys::find_in_file(name)
        .expect("the resolver names rows of the table; each test that resolves runs all of it")
}

/// The same for a property without prefix.
fn property_row(name: &str) -> &'static Key {
    keys::find_property(name)
        .expect("the resolver names rows of the table; each test that resolves runs all of it")
}

// Collecting: which key, from where, and who wins.
impl Resolver {
    fn collect_properties(&mut self, env: &Env) {
        for p in &env.properties {
            let bare = p.name.strip_prefix("zookeeper.");
            let ignored = |note: String| (Effect::Ignored, Level::Warning, note);
            let (effect, level, note) = match keys::find_property(&p.name) {
                Some(row) if row.place == Place::File => {
                    ignored(format!("ZooKeeper reads {} only from zoo.cfg", row.name))
                }
                Some(row) => {
                    self.put(row, &p.name, bare.unwrap_or(&p.name), &p.value, p.origin.clone());
                    continue;
                }
                None => match bare {
                    Some(bare) if keys::find_property(bare).is_some_and(|k| k.place == Place::Property) => {
                        ignored(format!("ZooKeeper reads {bare} without the prefix"))
                    }
                    Some(bare) => ignored(unknown(bare)),
                    None if p.name.starts_with("falconer.") => ignored(unknown(&p.name)),
                    None => match keys::find_in_file(&p.name) {
                        Some(row) if row.place == Place::Both => {
                            ignored(format!("ZooKeeper reads it as zookeeper.{}", row.name))
                        }
                        _ => (Effect::NotNeeded, Level::Info, "not a property of ZooKeeper".to_owned()),
                    },
                },
            };
            self.find(&p.name, &p.value, p.origin.clone(), effect, level, note);
        }
        for (option, variable) in &env.jvm_options {
            let origin = Origin::Variable(variable);
            let note = "an option of the Java machine".to_owned();
            self.find(option, "", origin, Effect::NotNeeded, Level::Info, note);
        }
    }

    fn collect_file(&mut self, file: &ConfigFile, has_dynamic: bool) {
        for e in &file.entries {
            let origin = Origin::Line(file.path.clone(), e.line);
            if is_member_line(&e.key) {
                if has_dynamic {
                    self.fault_at(
                        &e.key,
                        origin,
                        "membership in the dynamic file only, since dynamicConfigFile is given",
                        &format!("{:?}", keys::shown(&e.key, &e.value)),
                        "move the line there",
                    );
                } else {
                    self.put_member_line(e, origin);
                }
                continue;
            }
            let note = match keys::find_in_file(&e.key) {
                Some(row) if row.place == Place::Property => {
                    format!("ZooKeeper reads it only as a system property: -D{}=...; {}", row.name, row.note)
                }
                Some(row) => {
                    self.put(row, &e.key, &e.key, &e.value, origin);
                    continue;
                }
                None => match e.key.strip_prefix("zookeeper.") {
                    Some(bare) if keys::find_in_file(bare).is_some() => {
                        format!("in a file the prefix has no effect but to hide the key; write {bare}")
                    }
                    _ => unknown(&e.key),
                },
            };
            self.find(&e.key, &e.value, origin, Effect::Ignored, Level::Warning, note);
        }
    }

    fn put(&mut self, row: &'static Key, written: &str, name: &str, value: &str, origin: Origin) {
        let finding =
            self.find(written, value, origin.clone(), Effect::Honoured, Level::Info, row.note.to_owned());
        let given = Given { row, name: name.to_owned(), value: value.to_owned(), origin, finding };
        let winner = given.origin.clone();
        if let Some(loser) = self.given.insert(slot(row, name), given) {
            let level = if loser.value == value { Level::Info } else { Level::Warning };
            let loser = &mut self.findings[loser.finding];
            loser.effect = Effect::Ignored;
            loser.level = level;
            loser.note = format!("overridden by {winner}");
        }
    }

    /// Duplicate keys of members too: the later line wins.
    fn put_member_line(&mut self, e: &Entry, origin: Origin) {
        let row = row(&e.key);
        let (effect, note) = match row.verdict {
            Verdict::Refused => (Effect::Refused, row.note.to_owned()),
            _ => (Effect::Honoured, row.note.to_owned()),
        };
        let finding = self.find(&e.key, &e.value, origin.clone(), effect, Level::Info, note);
        if let Some(at) = self.member_lines.iter().position(|(old, ..)| old.key == e.key) {
            let (_, _, loser) = self.member_lines.remove(at);
            let loser = &mut self.findings[loser];
            loser.effect = Effect::Ignored;
            loser.level = Level::Warning;
            loser.note = format!("overridden by {origin}");
        }
        self.member_lines.push((e.clone(), origin, finding));
    }

    fn find(
        &mut self,
        key: &str,
        value: &str,
        origin: Origin,
        effect: Effect,
        level: Level,
        note: String,
    ) -> usize {
        self.findings.push(Finding {
            key: keys::shown("", key),
            value: keys::shown(key, value),
            origin,
            effect,
            level,
            effective: None,
            note,
        });
        self.findings.len() - 1
    }

    fn note(&mut self, key: &str, level: Level, note: String) {
        self.find(key, "", Origin::Nowhere, Effect::Note, level, note);
    }
}

fn is_member_line(key: &str) -> bool {
    key.starts_with("server.") || key.starts_with("group") || key.starts_with("weight")
}

fn unknown(key: &str) -> String {
    match keys::suggest(key) {
        Some(meant) => format!("no such key; did you mean {meant}?"),
        None => "no such key; ZooKeeper would keep it as a system property that nobody reads".to_owned(),
    }
}

fn ensembles_only(row: &Key) -> String {
    format!("concerns ensembles only: {}", row.note)
}

// Judging: the verdict of each key in effect.
impl Resolver {
    fn judge(&mut self) {
        for given in self.given.values().cloned().collect::<Vec<_>>() {
            let finding = &mut self.findings[given.finding];
            if given.row.also.contains(&given.name.as_str()) {
                finding.note = format!("the manual's title of {}; {}", given.row.name, given.row.note);
            }
            match given.row.verdict {
                Verdict::Honoured => {}
                Verdict::Silent => finding.effect = Effect::NotNeeded,
                Verdict::EnsembleOnly => {
                    finding.effect = Effect::NotNeeded;
                    finding.note = ensembles_only(given.row);
                }
                Verdict::Ignored => {
                    finding.effect = Effect::Ignored;
                    // What asks for the default, or is no word that switches anything, is not worth a warning.
                    let asks = match given.row.kind {
                        Kind::WordNo => given.value == "no",
                        // It only switches off, and what it switches is off.
                        Kind::ExactFalse => false,
                        _ => given.value != given.row.default,
                    };
                    finding.level = if asks { Level::Warning } else { Level::Info };
                }
                Verdict::Refused if given.row.asks_for_nothing(&given.value) => {
                    finding.effect = Effect::NotNeeded;
                    finding.note = "asks for nothing".to_owned();
                }
                Verdict::Refused => {
                    self.fault(&given, given.row.note, "remove it, or keep this server on ZooKeeper");
                }
            }
        }
    }

    /// A fault of a key that is given; `wanted` is what would be right.
    fn fault(&mut self, given: &Given, wanted: &str, remedy: &str) {
        let finding = &mut self.findings[given.finding];
        finding.effect = Effect::Refused;
        finding.note = wanted.to_owned();
        let (key, found) = (finding.key.clone(), format!("{:?}", finding.value));
        // A refused key has no right value: its note is the reason, and reads as one.
        let wanted = match given.row.verdict {
            Verdict::Refused => format!("no such setting ({wanted})"),
            _ => wanted.to_owned(),
        };
        self.fault_at(&key, given.origin.clone(), &wanted, &found, remedy);
    }

    /// What concerns ensembles only is in effect: this is one.
    fn honour_ensemble_keys(&mut self) {
        for given in self.given.values() {
            if given.row.verdict == Verdict::EnsembleOnly {
                let finding = &mut self.findings[given.finding];
                finding.effect = Effect::Honoured;
                finding.note = given.row.note.to_owned();
            }
        }
    }

    fn fault_at(&mut self, key: &str, origin: Origin, wanted: &str, found: &str, remedy: &str) {
        self.faults.push(Fault {
            key: key.to_owned(),
            origin,
            wanted: wanted.to_owned(),
            found: found.to_owned(),
            remedy: remedy.to_owned(),
            exit: ExitCode::InvalidInvocation,
        });
    }

    fn into_result(self, settings: Option<Settings>) -> Result<(Settings, Vec<Finding>), Refusal> {
        match settings {
            Some(settings) if self.faults.is_empty() => Ok((settings, self.findings)),
            _ => Err(Refusal { faults: self.faults, findings: self.findings }),
        }
    }
}

// Reading: one value of a kind. After a fault the default is returned, so that the remaining faults are found too.
impl Resolver {
    fn given(&mut self, row: &'static Key) -> Option<Given> {
        self.read.insert((row.name, row.place == Place::Property));
        self.given.get(&slot(row, row.name)).cloned()
    }

    fn text(&mut self, name: &str) -> Option<String> {
        self.given(row(name)).map(|g| g.value)
    }

    /// The table's default where the key is absent or no number.
    fn int(&mut self, row: &'static Key) -> i64 {
        let default = row.default.parse().expect("a test of the table parses the default of every number");
        self.opt_int(row).unwrap_or(default)
    }

    fn opt_int(&mut self, row: &'static Key) -> Option<i64> {
        let given = self.given(row)?;
        match row.kind {
            Kind::FileInt(min, max) => match given.value.parse::<i64>() {
                Ok(v) if (min..=max).contains(&v) => Some(v),
                _ => {
                    let remedy = match row.default {
                        "" => "write the number in decimal, without unit".to_owned(),
                        default => format!("write e.g. {}={default}", row.name),
                    };
                    self.fault(&given, &format!("a whole number from {min} to {max}"), &remedy);
                    None
                }
            },
            Kind::Int(min, max) => match java_decode(&given.value) {
                Some(v) if (min..=max).contains(&v) => Some(v),
                Some(v) => {
                    let v = v.clamp(min, max);
                    self.adjust(&given, v.to_string(), format!("may be from {min} to {max}; {}", row.note));
                    Some(v)
                }
                None => {
                    let note = "not a number: ZooKeeper would use the default without a word".to_owned();
                    self.adjust(&given, row.default.to_owned(), note);
                    None
                }
            },
            _ => unreachable!("the resolver reads {} as a number, the table does not", row.name),
        }
    }

    /// A number that the row's range keeps within `u32`.
    fn u32(&mut self, name: &str) -> u32 {
        let row = row(name);
        u32::try_from(self.int(row)).unwrap_or(u32::MAX)
    }

    fn flag(&mut self, row: &'static Key) -> bool {
        let default = matches!(row.default, "true" | "yes");
        self.opt_flag(row).unwrap_or(default)
    }

    fn opt_flag(&mut self, row: &'static Key) -> Option<bool> {
        let given = self.given(row)?;
        let value = given.value.as_str();
        let (is, trap) = match row.kind {
            Kind::FileBool => {
                let is = value.eq_ignore_ascii_case("true");
                if !is && !value.eq_ignore_ascii_case("false") {
                    self.fault(&given, "true or false", "write one of them");
                    return None;
                }
                (is, None)
            }
            Kind::Bool => {
                let is = value.eq_ignore_ascii_case("true");
                (
                    is,
                    (!is && !value.eq_ignore_ascii_case("false"))
                        .then_some("anything but true counts as false"),
                )
            }
            Kind::ExactTrue => {
                let is = value == "true";
                (is, (!is && value != "false").then_some("only the exact word true switches it on"))
            }
            Kind::ExactFalse => {
                let is = value != "false";
                (is, (is && value != "true").then_some("only the exact word false switches it off"))
            }
            Kind::WordYes => {
                let is = value == "yes";
                (is, (!is && value != "no").then_some("only the word yes switches it on"))
            }
            _ => unreachable!("the resolver reads {} as a switch, the table does not", row.name),
        };
        if let Some(trap) = trap {
            self.adjust(&given, if is { "on" } else { "off" }.to_owned(), trap.to_owned());
        }
        Some(is)
    }

    /// In effect, but not as written: the operator should know.
    fn adjust(&mut self, given: &Given, effective: String, note: String) {
        let finding = &mut self.findings[given.finding];
        finding.level = Level::Warning;
        finding.effective = Some(effective);
        finding.note = note;
    }

    fn host(&mut self, name: &str) -> Option<Host> {
        let given = self.given(row(name))?;
        let host = Host::parse(&given.value);
        if host.is_none() {
            self.fault(&given, "a host name or an address", "write e.g. 0.0.0.0");
        }
        host
    }

    fn path(&mut self, name: &str) -> Option<PathBuf> {
        let given = self.given(row(name))?;
        if given.value.is_empty() || given.value.contains('\0') {
            self.fault(&given, "a path", "write the path of a directory or remove the line");
            return None;
        }
        Some(PathBuf::from(given.value))
    }
}

/// `Long.decode`: optional sign, then decimal, `0x`, `0X` or `#` hex, or octal behind a leading zero.
fn java_decode(text: &str) -> Option<i64> {
    let (negative, digits) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let hex = ["0x", "0X", "#"].iter().find_map(|p| digits.strip_prefix(p));
    let (digits, radix) = match (hex, digits.strip_prefix('0')) {
        (Some(hex), _) => (hex, 16),
        (None, Some(octal)) if !octal.is_empty() => (octal, 8),
        _ => (digits, 10),
    };
    if digits.starts_with(['+', '-']) {
        return None;
    }
    let magnitude = i128::from_str_radix(digits, radix).ok()?;
    i64::try_from(if negative { -magnitude } else { magnitude }).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_properties_are_decoded_as_java_does() {
        for (text, want) in [
            ("0", Some(0)),
            ("10", Some(10)),
            ("+10", Some(10)),
            ("-1", Some(-1)),
            ("0x3fffff", Some(0x3f_ffff)),
            ("0XfF", Some(255)),
            ("#10", Some(16)),
            ("010", Some(8)),
            ("-0x10", Some(-16)),
            ("09", None),
            ("", None),
            ("-", None),
            ("--1", None),
            ("0x", None),
            ("0x-1", None),
            ("1M", None),
            ("99999999999999999999", None),
        ] {
            assert_eq!(java_decode(text), want, "for {text:?}");
        }
    }

    /// A key that the table calls honoured and nobody reads would be a lie.
    #[test]
    fn every_honoured_key_is_read() {
        let raw = RawConfig {
            invocation: Invocation::File("zoo.cfg".into()),
            main: ConfigFile::parse("zoo.cfg".as_ref(), b"dataDir=/d\nclientPort=1").ok(),
            dynamic: None,
            my_id: MyId::Missing,
            data_dir: DirState::Missing,
            data_log_dir: DirState::Missing,
        };
        let mut resolver = Resolver::default();
        resolver.collect_file(raw.main.as_ref().unwrap(), false);
        resolver.judge();
        assert!(resolver.settings(&raw).is_some());
        for key in keys::KEYS {
            let read = resolver.read.contains(&(key.name, key.place == Place::Property));
            let wanted = matches!(key.verdict, Verdict::Honoured | Verdict::EnsembleOnly);
            assert_eq!(read, wanted, "{}", key.name);
        }
    }

    #[test]
    fn an_ensemble_is_resolved_from_its_dynamic_file() {
        let main = "dataDir=/d\ninitLimit=5\nsyncLimit=2\ncnxTimeout=700\nconnectToLearnerMasterLimit=3\n\
             dynamicConfigFile=/etc/zoo.cfg.dynamic.1f";
        let dynamic = "server.1=a:1:2;2181\nserver.2=b:1:2;2181\nserver.3=c:1:2:observer;2181";
        let raw = RawConfig {
            invocation: Invocation::File("zoo.cfg".into()),
            main: ConfigFile::parse("zoo.cfg".as_ref(), main.as_bytes()).ok(),
            dynamic: ConfigFile::parse("/etc/zoo.cfg.dynamic.1f".as_ref(), dynamic.as_bytes()).ok(),
            my_id: MyId::FirstLine("1".to_owned()),
            data_dir: DirState::Missing,
            data_log_dir: DirState::Missing,
        };
        let (settings, findings) = Settings::resolve(raw, &Env::empty()).unwrap();
        let Membership::Ensemble(ensemble) = settings.membership else { panic!("an ensemble of three") };
        assert_eq!(
            ensemble.config_text(),
            "server.1=a:1:2:participant;0.0.0.0:2181\nserver.2=b:1:2:participant;0.0.0.0:2181\n\
             server.3=c:1:2:observer;0.0.0.0:2181\nversion=1f"
        );
        assert_eq!((ensemble.voters().count(), ensemble.me().id.0), (2, 1));
        assert_eq!((ensemble.init_limit_ticks, ensemble.sync_limit_ticks), (5, 2));
        assert_eq!(ensemble.connect_limit_ticks, Some(3));
        assert_eq!((ensemble.dial_timeout_ms, ensemble.hello_timeout_ms), (700, None));
        assert_eq!((ensemble.bind_retries, ensemble.resend_ms), (Some(3), (200, 60_000)));
        assert_eq!(settings.client.listen.unwrap().to_string(), "0.0.0.0:2181");
        let of = |key: &str| findings.iter().find(|f| f.key == key).unwrap().effect;
        assert_eq!((of("initLimit"), of("cnxTimeout")), (Effect::Honoured, Effect::Honoured));
    }
}

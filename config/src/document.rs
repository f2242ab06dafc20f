//! `docs/configuration.md`, made from the table of keys.

use std::fmt::Write;

use crate::keys::{KEYS, Key, Kind, Place, Section};

/// The whole page. A test compares it with the file.
pub fn document() -> String {
    let mut out = String::from(HEAD);
    for section in Section::ALL {
        let _ = write!(out, "\n## {}\n\n", section.title());
        out.push_str(
            "| Key | Where | Value | Default | Verdict | Meaning or reason |\n|---|---|---|---|---|---|\n",
        );
        for key in KEYS.iter().filter(|k| k.section == section) {
            let _ = writeln!(
                out,
                "| {} | {} | {} | {} | {} | {} |",
                names(key),
                place(key),
                kind(key.kind),
                if key.default.is_empty() { "–".to_owned() } else { format!("`{}`", key.default) },
                key.verdict.word(),
                cell(key.note),
            );
        }
    }
    out
}

const HEAD: &str = "\
# Configuration

<!-- Made from the table in config/src/keys.rs. To change it: edit the table, then
     UPDATE_DOCS=1 cargo test -p config --test document -->

Falconer reads ZooKeeper's `zoo.cfg`, its dynamic configuration file and `myid`, and the system properties that
ZooKeeper's start scripts pass to Java. `falconerd --check zoo.cfg` prints what becomes of each key, and what is in effect.

| Started as | Runs with |
|---|---|
| `falconerd` | a server alone on 127.0.0.1:2181, data in `./falconer-data`, `tickTime` 2000 |
| `falconerd zoo.cfg` | that file |
| `falconerd <port> <datadir> [ticktime] [maxcnxns]` | these; `tickTime` 3000 and unlimited connections unless given, as in ZooKeeper |

System properties are taken from `-Dname=value` arguments, and from the variables `SERVER_JVMFLAGS` and `JVMFLAGS`; of two of
the same name the argument wins over `JVMFLAGS`, and that over `SERVER_JVMFLAGS`. A key of `zoo.cfg` wins over the property.
`ZOO_DATADIR_AUTOCREATE_DISABLE`, if not empty, sets `zookeeper.datadir.autocreate` to `false`.

| Verdict | Means |
|---|---|
| honoured | does what ZooKeeper's manual says |
| ignored | accepted without effect; a warning at start says so, unless the value is the default or switches off what is not there |
| not needed | accepted without effect and without a warning |
| ensembles only | honoured in an ensemble; checked, and without effect, on a server alone, as in ZooKeeper |
| refused | Falconer does not start, unless the value asks for nothing: empty, `false`, or the default |

An unknown key never stops the server: ZooKeeper makes system properties of them. It draws a warning, with the key that was
probably meant. A value that can't be read refuses where ZooKeeper refuses, and otherwise draws a warning and leaves the
default, as in ZooKeeper.

More than one participant among the `server` lines, or `standaloneEnabled=false`, makes an ensemble. Its `myid` names the line
of this server; `initLimit` and `syncLimit` are required. Host names are resolved anew whenever a connection is made.

| Exit code | Means |
|---|---|
| 2 | invalid invocation or configuration; each reason is one line with file, line, key, what was wanted, what was found, and the remedy |
| 3 | a data directory can't be used |

In the tables, *file* is `zoo.cfg`, and *property* a system property; a key for both is called `zookeeper.<key>` as a property.
";

fn names(key: &Key) -> String {
    let mut text = format!("`{}`", key.name);
    for title in key.also {
        let _ = write!(text, " or `{title}`");
    }
    text
}

fn place(key: &Key) -> &'static str {
    match key.place {
        Place::File => "file",
        Place::Both => "file, property",
        Place::Property => "property",
        Place::Own => "file, property without prefix",
    }
}

fn kind(kind: Kind) -> String {
    match kind {
        Kind::Text => "text".to_owned(),
        Kind::Path => "path".to_owned(),
        Kind::FileInt(min, max) | Kind::Int(min, max) => match (min, max) {
            (min, i64::MAX) => format!("number from {min}"),
            (min, max) if min <= -i64::from(i32::MAX) && max >= i64::from(i32::MAX) => "number".to_owned(),
            (min, max) if min == max => format!("{min}"),
            (min, max) if max >= i64::from(i32::MAX) => format!("number from {min}"),
            (min, max) => format!("number from {min} to {max}"),
        },
        Kind::FileBool | Kind::Bool => "true or false".to_owned(),
        Kind::ExactTrue => "exactly `true` or not".to_owned(),
        Kind::ExactFalse => "exactly `false` or not".to_owned(),
        Kind::WordYes => "`yes` or not".to_owned(),
        Kind::WordNo => "`no` or not".to_owned(),
        Kind::Choice(words) => words.join(", "),
        Kind::Unread => "–".to_owned(),
    }
}

fn cell(text: &str) -> String {
    text.replace('|', "\\|").replace('<', "&lt;").replace('*', "\\*")
}

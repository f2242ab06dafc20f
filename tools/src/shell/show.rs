//! What the shell prints: Apache's text, or one JSON object for each command.

use proto::Stat;
use serde_json::{Map, Value, json};
use std::io::{self, Write};
use std::sync::{Arc, Mutex, PoisonError};

/// Where an event goes while a person may be typing: above the line that is being edited.
pub type Above = Box<dyn FnMut(String) + Send>;

/// The one way out. Events come from the session's thread while answers come from the command's.
#[derive(Clone)]
pub struct Screen {
    inner: Arc<Mutex<Inner>>,
    json: bool,
    colours: bool,
}

struct Inner {
    above: Option<Above>,
    print_watches: bool,
    /// What the command at hand has said so far, with `--json`.
    record: Map<String, Value>,
}

impl std::fmt::Debug for Screen {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Screen")
            .field("json", &self.json)
            .field("colours", &self.colours)
            .finish_non_exhaustive()
    }
}

impl Screen {
    /// A screen on standard output and standard error.
    pub fn new(json: bool, colours: bool) -> Screen {
        let inner = Inner { above: None, print_watches: true, record: Map::new() };
        Screen { inner: Arc::new(Mutex::new(inner)), json, colours }
    }

    /// Whether answers are JSON objects.
    pub fn json(&self) -> bool {
        self.json
    }

    /// Sends events above the line that is being edited.
    pub fn set_above(&self, above: Above) {
        self.lock().above = Some(above);
    }

    /// Switches the printing of events.
    pub fn set_print_watches(&self, on: bool) {
        self.lock().print_watches = on;
    }

    /// Whether events are printed.
    pub fn print_watches(&self) -> bool {
        self.lock().print_watches
    }

    /// A line of the answer.
    pub fn line(&self, text: &str) {
        self.text(&format!("{text}\n"));
    }

    /// A piece of the answer.
    pub fn text(&self, text: &str) {
        if !self.json {
            self.bytes(text.as_bytes());
        }
    }

    /// A line beside the answer, to standard error as zkCli does it; with `--json` a note.
    pub fn note(&self, text: &str) {
        if self.json {
            self.push("notes", json!(text));
        } else {
            let _lock = self.lock();
            // Standard error may be gone; nothing depends on it.
            let _ = writeln!(io::stderr(), "{text}");
        }
    }

    /// A field of the answer, with `--json`.
    pub fn set(&self, name: &str, value: impl Into<Value>) {
        if self.json {
            self.lock().record.insert(name.to_owned(), value.into());
        }
    }

    /// One more element of a list in the answer, with `--json`.
    pub fn push(&self, name: &str, value: Value) {
        if self.json {
            let mut inner = self.lock();
            let list = inner.record.entry(name).or_insert_with(|| json!([]));
            list.as_array_mut()
                .expect("each name is used for a list or for a value, never for both")
                .push(value);
        }
    }

    /// A stat: eleven lines, or one object.
    pub fn stat(&self, s: &Stat) {
        if self.json {
            let stat = json!({
                "czxid": format!("0x{:x}", s.czxid), "ctime": s.ctime,
                "mzxid": format!("0x{:x}", s.mzxid), "mtime": s.mtime,
                "pzxid": format!("0x{:x}", s.pzxid),
                "cversion": s.cversion, "dataVersion": s.version, "aclVersion": s.aversion,
                "ephemeralOwner": format!("0x{:x}", s.ephemeral_owner),
                "dataLength": s.data_length, "numChildren": s.num_children,
            });
            self.set("stat", stat);
            return;
        }
        for (name, value) in [
            ("cZxid", format!("0x{:x}", s.czxid)),
            ("ctime", date(s.ctime)),
            ("mZxid", format!("0x{:x}", s.mzxid)),
            ("mtime", date(s.mtime)),
            ("pZxid", format!("0x{:x}", s.pzxid)),
            ("cversion", s.cversion.to_string()),
            ("dataVersion", s.version.to_string()),
            ("aclVersion", s.aversion.to_string()),
            ("ephemeralOwner", format!("0x{:x}", s.ephemeral_owner)),
            ("dataLength", s.data_length.to_string()),
            ("numChildren", s.num_children.to_string()),
        ] {
            self.line(&format!("{} = {value}", self.painted("36", name)));
        }
    }

    /// An event, if events are printed.
    pub fn event(&self, event: &Event) {
        let mut inner = self.lock();
        if !inner.print_watches {
            return;
        }
        let text = if self.json {
            let fields = json!({
                "event": { "state": event.state, "type": event.kind, "path": event.path, "zxid": event.zxid }
            });
            format!("{fields}\n")
        } else {
            format!("\n{}\n\n{event}\n", self.painted("33", "WATCHER::"))
        };
        match &mut inner.above {
            Some(above) => above(text),
            None => write_out(text.as_bytes()),
        }
    }

    /// Ends a command: with `--json` everything that it said becomes one line.
    pub fn end(&self, command: &str, error: Option<Value>) {
        if self.json {
            let mut inner = self.lock();
            let mut line = Map::new();
            line.insert("command".into(), json!(command));
            line.append(&mut inner.record);
            if let Some(error) = error {
                line.insert("error".into(), error);
            }
            write_out(format!("{}\n", Value::Object(line)).as_bytes());
        }
    }

    /// An error, to standard error.
    pub fn error(&self, text: &str) {
        if !self.json {
            let _lock = self.lock();
            // Standard error may be gone; the exit status still tells.
            let _ = writeln!(io::stderr(), "{}", self.painted("31", text));
        }
    }

    /// Text in a colour (an SGR code) where there are colours.
    pub fn painted(&self, colour: &str, text: &str) -> String {
        if self.colours { format!("\x1b[{colour}m{text}\x1b[0m") } else { text.to_owned() }
    }

    fn bytes(&self, bytes: &[u8]) {
        let _lock = self.lock();
        write_out(bytes);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// To standard output; the program ends when nobody reads it any more (`falconer shell ls -R / | head`).
fn write_out(bytes: &[u8]) {
    let mut out = io::stdout().lock();
    if out.write_all(bytes).and_then(|()| out.flush()).is_err() {
        std::process::exit(0);
    }
}

/// Something that happened to a watched znode, or to the session.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Event {
    /// `SyncConnected`, `Disconnected`, ...
    pub state: &'static str,
    /// `None` for the session's own events, else `NodeCreated`, ...
    pub kind: &'static str,
    /// The znode.
    pub path: Option<String>,
    /// The change, −1 where there is none.
    pub zxid: i64,
}

impl std::fmt::Display for Event {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let path = self.path.as_deref().unwrap_or("null");
        write!(f, "WatchedEvent state:{} type:{} path:{path} zxid: {}", self.state, self.kind, self.zxid)
    }
}

/// A point in time as Java prints a `Date`, in the local time zone.
pub fn date(ms: i64) -> String {
    let zone = jiff::tz::TimeZone::try_system().unwrap_or(jiff::tz::TimeZone::UTC);
    match jiff::Timestamp::from_millisecond(ms) {
        Ok(at) => at.to_zoned(zone).strftime("%a %b %d %H:%M:%S %Z %Y").to_string(),
        // Beyond the year 9999: only a damaged or hostile server says so.
        Err(_) => format!("{ms} ms"),
    }
}

/// Sixteen bytes a line, in hexadecimal and as text, in the frame that zkCli's `get -x` has.
pub fn hex_dump(data: &[u8]) -> String {
    if data.is_empty() {
        return String::new();
    }
    let rule = format!("+--------+{}+{}+", "-".repeat(49), "-".repeat(16));
    let mut out = format!(
        "         +{}+\n         |  0  1  2  3  4  5  6  7  8  9  a  b  c  d  e  f |\n{rule}",
        "-".repeat(49)
    );
    for (row, bytes) in data.chunks(16).enumerate() {
        let hex: String = bytes.iter().map(|b| format!(" {b:02x}")).collect();
        let text: String =
            bytes.iter().map(|b| if (0x20..0x7f).contains(b) { char::from(*b) } else { '.' }).collect();
        out.push_str(&format!("\n|{:08x}|{hex:48} |{text:16}|", row * 16));
    }
    out.push('\n');
    out.push_str(&rule);
    out
}

/// A list as Java prints it.
pub fn list<S: AsRef<str>>(items: impl IntoIterator<Item = S>) -> String {
    let mut out = String::from("[");
    for (i, item) in items.into_iter().enumerate() {
        if i > 0 {
            out.push_str(", ");
        }
        out.push_str(item.as_ref());
    }
    out.push(']');
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hex_dump_has_the_frame_that_people_know() {
        let wanted = [
            "         +-------------------------------------------------+",
            "         |  0  1  2  3  4  5  6  7  8  9  a  b  c  d  e  f |",
            "+--------+-------------------------------------------------+----------------+",
            "|00000000| 30 31 32 33 34 35 36 37 38 39 61 62 63 64 65 66 |0123456789abcdef|",
            "|00000010| 00 7f ff 68 69                                  |...hi           |",
            "+--------+-------------------------------------------------+----------------+",
        ];
        assert_eq!(hex_dump(b"0123456789abcdef\x00\x7f\xffhi"), wanted.join("\n"));
        assert_eq!(hex_dump(b""), "");
    }

    #[test]
    fn lists_and_events_look_as_in_java() {
        assert_eq!(list(["a", "b"]), "[a, b]");
        assert_eq!(list::<&str>([]), "[]");
        let e = Event { state: "SyncConnected", kind: "None", path: None, zxid: -1 };
        assert_eq!(e.to_string(), "WatchedEvent state:SyncConnected type:None path:null zxid: -1");
    }

    #[test]
    fn dates_look_as_in_java() {
        let text = date(0);
        assert!(text.ends_with("1970") || text.ends_with("1969"), "{text}");
        assert_eq!(text.split(' ').count(), 6, "{text}");
        assert_eq!(date(i64::MAX), format!("{} ms", i64::MAX));
    }
}

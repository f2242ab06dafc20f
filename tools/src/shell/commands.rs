//! The commands: what they are called, their options, and what each does. Names, texts and their order are zkCli's.

use super::options::{Given, NONE, Opt, Options};
use super::quota;
use super::session::{Create, Refusal, Session, local_code};
use super::show::{Screen, hex_dump, list};
use super::watches::Removal;
use crate::admin::Admin;
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use proto::Code;
use proto::acl::{Id, perms};
use proto::client::{AddWatchMode, CreateMode};
use proto::stat::Owner;
use serde_json::{Value, json};
use std::collections::VecDeque;
use std::time::Duration;

/// How long `top` waits for a connection.
const TOP_PATIENCE: Duration = Duration::from_secs(10);
/// How long `sync` waits, as in zkCli.
const SYNC_PATIENCE: Duration = Duration::from_secs(30);
/// How many multis of `deleteall` are under way at once, as in zkCli.
const BATCHES_UNDER_WAY: usize = 10;
/// How many znodes one multi of `deleteall` removes unless `-b` says otherwise.
const BATCH: usize = 1000;
/// Bytes of paths in one multi of `deleteall`: half of the default of jute.maxbuffer, which no request may exceed.
const BATCH_BYTES: usize = 512 * 1024;

/// Why a command failed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Failure {
    /// It makes no sense as it was typed.
    Malformed(String),
    /// There is no such command.
    NotFound(String),
    /// The server refuses, or is out of reach.
    Refused(Refusal),
}

impl From<Refusal> for Failure {
    fn from(e: Refusal) -> Failure {
        Failure::Refused(e)
    }
}

impl Failure {
    /// The exit status of zkCli.
    pub fn exit_code(&self) -> u8 {
        match self {
            Failure::NotFound(_) => 127,
            Failure::Malformed(_) | Failure::Refused(_) => 1,
        }
    }

    /// What went wrong, in zkCli's words.
    pub fn message(&self) -> String {
        let refusal = match self {
            Failure::Malformed(text) => return text.clone(),
            Failure::NotFound(name) => return format!("Command not found: Command not found {name}"),
            Failure::Refused(refusal) => refusal,
        };
        let path = refusal.path.as_deref().unwrap_or("null");
        match Code::from_wire(refusal.code) {
            Some(Code::NoNode) => format!("Node does not exist: {path}"),
            Some(Code::NoChildrenForEphemerals) => format!("Ephemerals cannot have children: {path}"),
            Some(Code::NodeExists) => format!("Node already exists: {path}"),
            Some(Code::NotEmpty) => format!("Node not empty: {path}"),
            Some(Code::NotReadOnly) => format!("Not a read-only call: {path}"),
            Some(Code::InvalidAcl) => format!("Acl is not valid : {path}"),
            Some(Code::NoAuth) => format!("Insufficient permission : {path}"),
            Some(Code::BadArguments) => format!("Arguments are not valid : {path}"),
            Some(Code::BadVersion) => format!("version No is not valid : {path}"),
            Some(Code::QuotaExceeded) => format!("Quota has exceeded : {path}"),
            Some(Code::ReconfigInProgress) => {
                "Another reconfiguration is in progress -- concurrent reconfigs not supported (yet)".into()
            }
            Some(Code::NewConfigNoQuorum) => "No quorum of new config is connected and up-to-date with the leader of last \
                                              commmitted config - try invoking reconfiguration after new servers are \
                                              connected and synced"
                .into(),
            _ => keeper_message(refusal),
        }
    }

    /// What to do about it, where the message does not say.
    pub fn hint(&self) -> Option<String> {
        if let Failure::NotFound(name) = self {
            return instead_of(name).map(|what| format!("{what} does that"));
        }
        let Failure::Refused(refusal) = self else { return None };
        if let Some(why) = &refusal.why {
            return Some(why.clone());
        }
        let hint = match Code::from_wire(refusal.code)? {
            Code::NoNode => {
                "ls of the parent shows what is there; create makes one znode, whose parent must exist"
            }
            Code::NotEmpty => "deleteall removes a znode with all below it",
            Code::NoAuth => {
                "getAcl shows who may do what; addauth SCHEME CREDENTIAL gives this session an identity"
            }
            Code::BadVersion => "stat shows dataVersion and aclVersion; without -v any version will do",
            Code::InvalidAcl => {
                "an ACL is scheme:id:perms[,...] with perms out of cdrwa; 'auth' needs an addauth before it"
            }
            Code::Unimplemented => {
                "the server lacks this, or its configuration does: TTL znodes need extendedTypesEnabled=true"
            }
            Code::ReconfigDisabled => "reconfigEnabled=true in the configuration of every server enables it",
            Code::QuotaExceeded => "listquota shows the limit and what is used of it",
            Code::NotReadOnly => {
                "the server takes no writes now: it has lost its quorum, or its disk is full (srvr and its log tell)"
            }
            Code::SessionExpired => "connect begins a new session",
            Code::NoChildrenForEphemerals => "an ephemeral znode ends with its session and can't be a parent",
            _ => return None,
        };
        Some(hint.into())
    }

    /// As a JSON object.
    pub fn json(&self) -> Value {
        let mut fields = json!({ "message": self.message() });
        if let Failure::Refused(e) = self {
            fields["code"] = e.code.into();
            fields["name"] = code_text(e.code).into();
        }
        if let Some(hint) = self.hint() {
            fields["hint"] = hint.into();
        }
        fields
    }
}

/// The message of the Java client's exception.
fn keeper_message(e: &Refusal) -> String {
    match e.path.as_deref() {
        None | Some("") => format!("KeeperErrorCode = {}", code_text(e.code)),
        Some(path) => format!("KeeperErrorCode = {} for {path}", code_text(e.code)),
    }
}

/// The name of an error code in the Java client's messages.
fn code_text(code: i32) -> String {
    let name = match Code::from_wire(code) {
        None => match code {
            0 => "ok",
            -1 => "SystemError",
            -3 => "DataInconsistency",
            local_code::CONNECTION_LOSS => "ConnectionLoss",
            local_code::OPERATION_TIMEOUT => "OperationTimeout",
            -100 => "APIError",
            _ => return format!("Unknown error {code}"),
        },
        Some(Code::NotEmpty) => "Directory not empty",
        Some(Code::SessionExpired) => "Session expired",
        Some(Code::SessionMoved) => "Session moved",
        Some(Code::NotReadOnly) => "Not a read-only call",
        Some(Code::EphemeralOnLocalSession) => "Ephemeral node on local session",
        Some(Code::NoWatcher) => "No such watcher",
        Some(Code::ReconfigDisabled) => "Reconfig is disabled",
        Some(Code::SessionClosedRequireSaslAuth) => "Session closed because client failed to authenticate",
        Some(Code::QuotaExceeded) => "Quota has exceeded",
        Some(Code::ThrottledOp) => "Op throttled due to high load",
        Some(Code::InvalidAcl) => "InvalidACL",
        Some(code) => return format!("{code:?}"),
    };
    name.into()
}

/// What does the job of a command that is gone, or that other programs have.
fn instead_of(name: &str) -> Option<&'static str> {
    let lower = name.to_ascii_lowercase();
    Some(match &*lower {
        "ls2" => "ls -s",
        "rmr" | "rm" => "deleteall",
        "cat" => "get",
        "exit" | "bye" | ":q" => "quit",
        "auth" => "addauth",
        lower => COMMANDS.iter().find(|c| c.name.eq_ignore_ascii_case(lower))?.name,
    })
}

/// A command of the shell.
pub struct Command {
    /// What is typed.
    pub name: &'static str,
    /// What may follow.
    pub usage: &'static str,
    /// Its options.
    pub options: Options,
    /// Whether the usage message lists the options.
    lists_options: bool,
    /// Its arguments take paths, for completion.
    pub takes_path: bool,
    /// What it does; `None`: the shell does it itself.
    run: Option<Run>,
}

impl std::fmt::Debug for Command {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name)
    }
}

const fn flag(name: &'static str, about: &'static str) -> Opt {
    Opt { name, has_value: false, about }
}

const fn value(name: &'static str, about: &'static str) -> Opt {
    Opt { name, has_value: true, about }
}

const fn any_of(all: &'static [Opt]) -> Options {
    Options { all, exclusive: false, required: false }
}

type Run = fn(&Command, &Given, &Session, &Screen) -> Result<(), Failure>;

const fn plain(name: &'static str, usage: &'static str, options: Options, run: Run) -> Command {
    Command { name, usage, options, lists_options: false, takes_path: true, run: Some(run) }
}

const fn own(name: &'static str, usage: &'static str) -> Command {
    Command { name, usage, options: NONE, lists_options: false, takes_path: false, run: None }
}

/// All commands, sorted as zkCli lists them.
pub static COMMANDS: &[Command] = &[
    plain(
        "addWatch",
        "[-m mode] path # optional mode is one of [PERSISTENT, PERSISTENT_RECURSIVE] - default is PERSISTENT_RECURSIVE",
        any_of(&[value("m", "")]),
        add_watch,
    ),
    Command { takes_path: false, ..plain("addauth", "scheme auth", NONE, add_auth) },
    own("close", ""),
    Command {
        takes_path: false,
        ..plain(
            "config",
            "[-c] [-w] [-s]",
            any_of(&[flag("c", "client connection string"), flag("s", "stats"), flag("w", "watch")]),
            config,
        )
    },
    own("connect", "host:port"),
    plain(
        "create",
        "[-s] [-e] [-c] [-t ttl] path [data] [acl]",
        any_of(&[flag("c", "container"), flag("e", "ephemeral"), flag("s", "sequential"), value("t", "ttl")]),
        create,
    ),
    plain("delete", "[-v version] path", any_of(&[value("v", "version")]), delete),
    plain("deleteall", "path [-b batch size]", any_of(&[value("b", "batch size")]), delete_all),
    plain(
        "delquota",
        "[-n|-b|-N|-B] path",
        Options {
            all: &[
                flag("n", "num soft quota"),
                flag("b", "bytes soft quota"),
                flag("N", "num hard quota"),
                flag("B", "bytes hard quota"),
            ],
            exclusive: true,
            required: false,
        },
        delete_quota,
    ),
    Command {
        lists_options: true,
        ..plain(
            "get",
            "[-s] [-w] [-b] [-x] path",
            any_of(&[
                flag("b", "Output data in base64 format"),
                flag("s", "Print znode stats additionally"),
                flag("w", "Watch for changes on the znode"),
                flag("x", "Output data in hexdump format"),
            ]),
            get,
        )
    },
    plain("getAcl", "[-s] path", any_of(&[flag("s", "stats")]), get_acl),
    plain("getAllChildrenNumber", "path", NONE, all_children_number),
    plain("getEphemerals", "path", NONE, ephemerals),
    own("history", ""),
    plain("listquota", "path", NONE, list_quota),
    plain(
        "ls",
        "[-s] [-w] [-R] path",
        any_of(&[flag("?", "help"), flag("R", "recurse"), flag("s", "stat"), flag("w", "watch")]),
        ls,
    ),
    own("printwatches", "on|off"),
    own("quit", ""),
    Command {
        takes_path: false,
        ..plain(
            "reconfig",
            "[-s] [-v version] [[-file path] | [-members serverID=host:port1:port2;port3[,...]*]] | \
             [-add serverId=host:port1:port2;port3[,...]]* [-remove serverId[,...]*]",
            any_of(&[
                value("add", "comma-separated list of config strings for new servers"),
                value("file", "path of config file to parse for membership"),
                value("members", "comma-separated list of config strings for non-incremental reconfig"),
                value("remove", "comma-separated list of server IDs to remove"),
                flag("s", "stats"),
                value("v", "required current config version"),
            ]),
            reconfig,
        )
    },
    own("redo", "cmdno"),
    plain(
        "removewatches",
        "path [-c|-d|-a] [-l]",
        any_of(&[
            flag("a", "any watcher type"),
            flag("c", "child watcher type"),
            flag("d", "data watcher type"),
            flag("l", "remove locally when there is no server connection"),
            flag("p", "persistent watcher type"),
            flag("r", "persistent recursive watcher type"),
        ]),
        remove_watches,
    ),
    Command {
        lists_options: true,
        ..plain(
            "set",
            "path data [-s] [-v version] [-b]",
            any_of(&[
                flag("b", "Supply data in base64 format"),
                flag("s", "Print znode stats additionally"),
                value("v", "Set with an expected version"),
            ]),
            set,
        )
    },
    plain(
        "setAcl",
        "[-s] [-v version] [-R] path acl",
        any_of(&[flag("R", "recursive"), flag("s", "stats"), value("v", "version")]),
        set_acl,
    ),
    plain(
        "setquota",
        "-n|-b|-N|-B val path",
        Options {
            all: &[
                value("n", "num soft quota"),
                value("b", "bytes soft quota"),
                value("N", "num hard quota"),
                value("B", "bytes hard quota"),
            ],
            exclusive: true,
            required: true,
        },
        set_quota,
    ),
    plain("stat", "[-w] path", any_of(&[flag("w", "watch")]), stat),
    plain("sync", "path", NONE, sync),
    Command {
        takes_path: false,
        ..plain(
            "top",
            "[-a adminPort] [n]",
            any_of(&[value("a", "admin port of the server, 8080 if it is missing")]),
            top,
        )
    },
    Command { takes_path: false, ..plain("version", "", NONE, version) },
    Command { takes_path: false, ..plain("whoami", "", NONE, who_am_i) },
];

impl Command {
    /// The command of a name.
    pub fn find(name: &str) -> Option<&'static Command> {
        COMMANDS.iter().find(|c| c.name == name)
    }

    /// Runs it on a session; `words` are the command and what was typed behind it.
    ///
    /// # Errors
    /// As it fails.
    pub fn run(&self, words: &[String], zk: &Session, screen: &Screen) -> Result<(), Failure> {
        let Some(run) = self.run else { return Ok(()) };
        // zkCli reads no options here.
        let parsed = match self.name {
            "whoami" => Given::words(words),
            _ => self.options.parse(words).map_err(Failure::Malformed)?,
        };
        run(self, &parsed, zk, screen)
    }

    fn usage_message(&self) -> String {
        let mut text = format!("{} {}", self.name, self.usage);
        if self.lists_options {
            text.push('\n');
            text.push_str(&self.options.help());
        }
        text
    }

    fn malformed<T>(&self) -> Result<T, Failure> {
        Err(Failure::Malformed(self.usage_message()))
    }

    /// The `nth` argument, the command being the 0th.
    fn arg<'g>(&self, given: &'g Given, nth: usize) -> Result<&'g str, Failure> {
        given.args.get(nth).map_or_else(|| self.malformed(), |a| Ok(a.as_str()))
    }

    /// The path, which is the first argument.
    fn path<'g>(&self, given: &'g Given, screen: &Screen) -> Result<&'g str, Failure> {
        let path = self.arg(given, 1)?;
        check_path(path)?;
        screen.set("path", path);
        Ok(path)
    }

    /// The old way to ask for a watch: a word behind the path. It becomes `-w`, and what stood there is forgotten.
    fn old_watch(&self, given: &Given, screen: &Screen, now: &str) -> bool {
        let old = given.args.len() > 2;
        if old {
            let name = self.name;
            screen.note(&format!(
                "'{name} path [watch]' has been deprecated. Please use '{name} {now} path' instead."
            ));
        }
        old || given.has("w")
    }
}

/// The lines that explain all commands.
pub fn usage() -> String {
    let mut text = String::from("ZooKeeper -server host:port -client-configuration properties-file cmd args");
    // Programs may compare this with zkCli's.
    for c in COMMANDS.iter().filter(|c| c.name != "top") {
        text.push_str(&format!("\n\t{} {}", c.name, c.usage));
    }
    text
}

/// Checks a path with the Java client's messages.
///
/// # Errors
/// When no znode can have it.
pub fn check_path(path: &str) -> Result<(), Failure> {
    let wrong = |text: &str| Err(Failure::Malformed(text.into()));
    if path.is_empty() {
        return wrong("Path length must be > 0");
    }
    if !path.starts_with('/') {
        return wrong("Path must start with / character");
    }
    if path.len() == 1 {
        return Ok(());
    }
    if path.ends_with('/') {
        return wrong("Path must not end with / character");
    }
    // Java counts in UTF-16.
    let chars: Vec<u16> = path.encode_utf16().collect();
    let (slash, dot) = (u16::from(b'/'), u16::from(b'.'));
    let ends = |i: usize| chars.get(i + 1).is_none_or(|c| *c == slash);
    for i in 1..chars.len() {
        let (before, c) = (chars[i - 1], chars[i]);
        let reason = if c == 0 {
            "null character not allowed"
        } else if c == slash && before == slash {
            "empty node name specified"
        } else if c == dot && before == dot && chars[i - 2] == slash && ends(i)
            || c == dot && before == slash && ends(i)
        {
            "relative paths not allowed"
        } else if matches!(c, 1..=0x1f | 0x7f..=0x9f | 0xd800..=0xf8ff | 0xfff0..) {
            "invalid character"
        } else {
            continue;
        };
        return wrong(&format!("Invalid path string \"{path}\" caused by {reason} @{i}"));
    }
    Ok(())
}

/// Reads an ACL as people type it: `scheme:id:perms`, several separated by commas. What can't be read is noted
/// and left out, as zkCli does.
fn parse_acl(text: &str, screen: &Screen) -> Vec<(i32, Id)> {
    let mut entries = Vec::new();
    for part in text.split(',') {
        let (Some(first), Some(last)) =
            (part.find(':'), part.rfind(':').filter(|l| part.find(':') != Some(*l)))
        else {
            screen.note(&format!("{part} does not have the form scheme:id:perm"));
            continue;
        };
        let mut bits = 0;
        for c in part[last + 1..].chars() {
            match PERMS.iter().find(|(letter, _)| *letter == c) {
                Some((_, bit)) => bits |= bit,
                None => screen.note(&format!("Unknown perm type: {c}")),
            }
        }
        entries.push((bits, Id::new(&part[..first], &part[first + 1..last])));
    }
    entries
}

/// The letters of the permissions, in the order in which they are shown.
const PERMS: [(char, i32); 5] = [
    ('c', perms::CREATE),
    ('d', perms::DELETE),
    ('r', perms::READ),
    ('w', perms::WRITE),
    ('a', perms::ADMIN),
];

fn perms_text(bits: i32) -> String {
    PERMS.iter().filter(|(_, bit)| bits & bit != 0).map(|(c, _)| *c).collect()
}

/// A string in Java's form of a record: a quote before it, and six characters escaped.
fn record_text(text: &str) -> String {
    let mut out = String::from("'");
    for c in text.chars() {
        match c {
            '\0' => out.push_str("%00"),
            '\n' => out.push_str("%0A"),
            '\r' => out.push_str("%0D"),
            ',' => out.push_str("%2C"),
            '}' => out.push_str("%7D"),
            '%' => out.push_str("%25"),
            c => out.push(c),
        }
    }
    out
}

fn number<T: std::str::FromStr>(given: &Given, option: &str, default: T, kind: &str) -> Result<T, Failure> {
    match given.value(option) {
        None => Ok(default),
        Some(text) => {
            text.parse().map_err(|_| Failure::Malformed(format!("-{option} argument must be {kind} value")))
        }
    }
}

/// A value with its JSON form: text where it is text, else base64.
fn show_data(data: Option<&[u8]>, shown: &str, screen: &Screen) {
    if screen.json() {
        match data.map(std::str::from_utf8) {
            None => screen.set("data", Value::Null),
            Some(Ok(text)) => screen.set("data", text),
            Some(Err(_)) => screen.set("dataBase64", BASE64.encode(data.unwrap_or_default())),
        }
    } else {
        screen.line(shown);
    }
}

fn add_watch(c: &Command, given: &Given, zk: &Session, screen: &Screen) -> Result<(), Failure> {
    if given.args.len() != 2 {
        return c.malformed();
    }
    let mode = match given.value("m").map(str::to_uppercase).as_deref() {
        None | Some("PERSISTENT_RECURSIVE") => AddWatchMode::PersistentRecursive,
        Some("PERSISTENT") => AddWatchMode::Persistent,
        Some(_) => return c.malformed(),
    };
    Ok(zk.add_watch(c.path(given, screen)?, mode)?)
}

fn add_auth(c: &Command, given: &Given, zk: &Session, _: &Screen) -> Result<(), Failure> {
    let scheme = c.arg(given, 1)?;
    zk.add_auth(scheme, given.args.get(2).map_or(&[], |a| a.as_bytes()));
    Ok(())
}

fn config(_: &Command, given: &Given, zk: &Session, screen: &Screen) -> Result<(), Failure> {
    let (data, stat) = zk.get_config(given.has("w"))?;
    let text = String::from_utf8_lossy(data.as_deref().unwrap_or(b"null")).into_owned();
    let shown = if given.has("c") { client_addresses(&text) } else { text };
    screen.set("config", shown.as_str());
    screen.line(&shown);
    if given.has("s") {
        screen.stat(&stat);
    }
    Ok(())
}

/// The version of a configuration and where its servers take clients, as zkCli's `config -c` shows them.
fn client_addresses(config: &str) -> String {
    let mut version = "";
    let mut servers: Vec<(u64, String)> = Vec::new();
    for line in config.lines() {
        let Some((key, value)) = line.split_once('=') else { continue };
        let (key, value) = (key.trim(), value.trim());
        if key == "version" {
            version = value;
        } else if let Some(id) = key.strip_prefix("server.") {
            let address = value.rsplit_once(';').map_or("", |(_, a)| a);
            // A port alone listens on all addresses.
            let address = match address {
                a if !a.is_empty() && !a.contains(':') => format!("0.0.0.0:{a}"),
                a => a.replace(['[', ']'], ""),
            };
            servers.push((id.parse().unwrap_or(u64::MAX), address));
        }
    }
    servers.sort();
    let addresses: Vec<_> = servers.into_iter().map(|(_, a)| a).collect();
    format!("{version} {}", addresses.join(","))
}

fn create(c: &Command, given: &Given, zk: &Session, screen: &Screen) -> Result<(), Failure> {
    let path = c.arg(given, 1)?;
    let [e, s, container, t] = ["e", "s", "c", "t"].map(|o| given.has(o));
    let wrong = |text: &str| Err(Failure::Malformed(text.into()));
    if container && (e || s) {
        return wrong("-c cannot be combined with -s or -e. Containers cannot be ephemeral or sequential.");
    }
    let ttl_ms: i64 = number(given, "t", 0, "a long")?;
    if t && e {
        return wrong("TTLs cannot be used with Ephemeral znodes");
    }
    if t && container {
        return wrong("TTLs cannot be used with Container znodes");
    }
    if t && !(1..=Owner::TTL_MAX_MS).contains(&ttl_ms) {
        let max = Owner::TTL_MAX_MS;
        return wrong(&format!("ttl must be positive and cannot be larger than: {max}"));
    }
    let mode = match (e, s, t) {
        _ if container => CreateMode::Container,
        (true, true, _) => CreateMode::EphemeralSequential,
        (true, false, _) => CreateMode::Ephemeral,
        (false, true, true) => CreateMode::TtlSequential,
        (false, true, false) => CreateMode::PersistentSequential,
        (false, false, true) => CreateMode::Ttl,
        (false, false, false) => CreateMode::Persistent,
    };
    let acl = match given.args.get(3) {
        Some(text) => parse_acl(text, screen),
        None => vec![(perms::ALL, Id::new("world", "anyone"))],
    };
    // A name may be nothing but its number.
    match mode.is_sequential() {
        true => check_path(&format!("{path}1"))?,
        false => check_path(path)?,
    }
    let made = if acl.is_empty() {
        Err(Refusal { code: Code::InvalidAcl.wire(), path: None, why: None })
    } else {
        zk.create(&Create { path, data: given.args.get(2).map(|d| d.as_bytes()), acl: &acl, mode, ttl_ms })
    };
    match made {
        Ok(path) => {
            screen.set("path", path.as_str());
            if !screen.json() {
                screen.note(&format!("Created {path}"));
            }
            Ok(())
        }
        Err(e) => {
            if e.code == Code::EphemeralOnLocalSession.wire() {
                screen.note("Unable to create ephemeral node on a local session");
            } else if e.code == Code::InvalidAcl.wire() {
                screen.note(&keeper_message(&e));
            }
            Err(e.into())
        }
    }
}

fn delete(c: &Command, given: &Given, zk: &Session, screen: &Screen) -> Result<(), Failure> {
    let path = c.path(given, screen)?;
    if given.args.len() > 2 {
        screen.note(
            "'delete path [version]' has been deprecated. Please use 'delete [-v version] path' instead.",
        );
    }
    Ok(zk.delete(path, number(given, "v", -1, "an int")?)?)
}

fn delete_all(c: &Command, given: &Given, zk: &Session, screen: &Screen) -> Result<(), Failure> {
    let batch: i32 = number(given, "b", BATCH as i32, "an int")?;
    let path = c.path(given, screen)?;
    let mut tree = vec![path.to_owned()];
    let mut next = 0;
    while let Some(at) = tree.get(next).cloned() {
        next += 1;
        let parent = if at == "/" { "" } else { &at };
        tree.extend(zk.children(&at, false)?.0.iter().map(|name| format!("{parent}/{name}")));
    }
    // The deepest first.
    tree.reverse();
    screen.set("znodes", tree.len());
    let Ok(batch) = usize::try_from(batch.max(0)) else { return c.malformed() };
    if batch == 0 {
        return Ok(tree.iter().try_for_each(|p| zk.delete(p, -1))?);
    }
    let mut under_way = VecDeque::new();
    let mut failed = 0;
    let mut rest = tree.as_slice();
    while !rest.is_empty() && failed == 0 {
        let mut bytes = 0;
        let n = rest.iter().take(batch).take_while(|p| {
            bytes += p.len() + 21;
            bytes <= BATCH_BYTES
        });
        let (part, later) = rest.split_at(n.count().max(1));
        rest = later;
        if under_way.len() == BATCHES_UNDER_WAY {
            failed = under_way.pop_front().map_or(0, super::session::Batch::wait);
        }
        if failed == 0 {
            under_way.push_back(zk.delete_many(part)?);
        }
    }
    for batch in under_way {
        let code = batch.wait();
        failed = if failed == 0 { code } else { failed };
    }
    if failed != 0 {
        screen.note("Failed to delete some node(s) in the subtree!");
        screen.set("failed", code_text(failed));
    }
    Ok(())
}

fn delete_quota(c: &Command, given: &Given, zk: &Session, screen: &Screen) -> Result<(), Failure> {
    let path = c.arg(given, 1)?;
    screen.set("path", path);
    let named: Vec<_> = quota::LIMITS.iter().filter(|(o, _)| given.has(o)).map(|(_, name)| *name).collect();
    match quota::delete(zk, path, &named) {
        Ok(true) => Ok(()),
        Ok(false) => {
            screen.line(&format!("Quota does not exist for {path}"));
            screen.set("exists", false);
            Ok(())
        }
        Err(e) => no_quota(e, path, screen),
    }
}

/// That a quota does not exist is no failure in zkCli.
fn no_quota(e: Failure, path: &str, screen: &Screen) -> Result<(), Failure> {
    match e {
        Failure::Refused(e) if e.code == Code::NoNode.wire() => {
            screen.note(&format!("quota for {path} does not exist."));
            screen.set("exists", false);
            Ok(())
        }
        e => Err(e),
    }
}

fn get(c: &Command, given: &Given, zk: &Session, screen: &Screen) -> Result<(), Failure> {
    c.arg(given, 1)?;
    let watch = c.old_watch(given, screen, "[-s] [-w]");
    let (data, stat) = zk.get_data(c.path(given, screen)?, watch)?;
    let bytes = data.as_deref().unwrap_or(b"null");
    let shown = if given.has("x") {
        hex_dump(bytes)
    } else if given.has("b") {
        BASE64.encode(bytes)
    } else {
        String::from_utf8_lossy(bytes).into_owned()
    };
    show_data(data.as_deref(), &shown, screen);
    if given.has("b") {
        screen.set("dataBase64", BASE64.encode(data.as_deref().unwrap_or_default()));
    }
    if given.has("s") {
        screen.stat(&stat);
    }
    Ok(())
}

fn get_acl(c: &Command, given: &Given, zk: &Session, screen: &Screen) -> Result<(), Failure> {
    let (entries, stat) = zk.get_acl(c.path(given, screen)?)?;
    for (bits, id) in &entries {
        let perms = perms_text(*bits);
        screen.line(&format!("{},{}\n: {perms}", record_text(&id.scheme), record_text(&id.id)));
        screen.push("acl", json!({ "scheme": id.scheme, "id": id.id, "perms": perms }));
    }
    if given.has("s") {
        screen.stat(&stat);
    }
    Ok(())
}

fn all_children_number(c: &Command, given: &Given, zk: &Session, screen: &Screen) -> Result<(), Failure> {
    let n = zk.all_children_number(c.path(given, screen)?)?;
    screen.set("number", n);
    screen.line(&n.to_string());
    Ok(())
}

fn ephemerals(c: &Command, given: &Given, zk: &Session, screen: &Screen) -> Result<(), Failure> {
    let path = if given.args.len() < 2 { "/" } else { c.path(given, screen)? };
    let paths = zk.ephemerals(path)?;
    screen.line(&list(&paths));
    screen.set("ephemerals", json!(paths));
    Ok(())
}

fn list_quota(c: &Command, given: &Given, zk: &Session, screen: &Screen) -> Result<(), Failure> {
    let path = c.arg(given, 1)?;
    let absolute = quota::limit_path(path);
    if !screen.json() {
        screen.note(&format!("absolute path is {absolute}"));
    }
    check_path(&absolute)?;
    screen.set("path", path);
    match quota::get(zk, path) {
        Ok((limits, stats)) => {
            screen.line(&format!("Output quota for {path} {limits}"));
            screen.line(&format!("Output stat for {path} {stats}"));
            screen.set("quota", limits.json());
            screen.set("used", stats.json());
            Ok(())
        }
        Err(e) => no_quota(e, path, screen),
    }
}

fn ls(c: &Command, given: &Given, zk: &Session, screen: &Screen) -> Result<(), Failure> {
    if given.has("?") {
        screen.text(&format!("usage: ls [options] path\n{}", c.options.help()));
    }
    let watch = c.old_watch(given, screen, "[-w]");
    let path = c.path(given, screen)?;
    if given.has("R") {
        zk.get_data(path, watch)?;
        let mut show = |path: &str| {
            screen.line(path);
            screen.push("paths", json!(path));
            Ok(())
        };
        show(path)?;
        return visit_below(zk, path, watch, &mut show);
    }
    let (mut names, stat) = zk.children(path, watch)?;
    names.sort_by(|a, b| a.encode_utf16().cmp(b.encode_utf16()));
    screen.line(&list(&names));
    screen.set("children", json!(names));
    if given.has("s") {
        screen.stat(&stat);
    }
    Ok(())
}

/// What lies below a path, in zkCli's order: all children of a znode, then what lies below each of them.
fn visit_below(
    zk: &Session,
    path: &str,
    watch: bool,
    visit: &mut dyn FnMut(&str) -> Result<(), Failure>,
) -> Result<(), Failure> {
    // Paths still to be looked below, the next one last. As deep as the tree is, the stack of the thread is not.
    let mut open = vec![path.to_owned()];
    while let Some(at) = open.pop() {
        let mut names = match zk.children(&at, watch) {
            Ok((names, _)) => names,
            // Deleted since it was listed.
            Err(e) if e.code == Code::NoNode.wire() => continue,
            Err(e) => return Err(e.into()),
        };
        names.sort_by(|a, b| a.encode_utf16().cmp(b.encode_utf16()));
        let parent = if at == "/" { "" } else { &at };
        let paths: Vec<String> = names.iter().map(|name| format!("{parent}/{name}")).collect();
        paths.iter().try_for_each(|p| visit(p))?;
        open.extend(paths.into_iter().rev());
    }
    Ok(())
}

fn reconfig(c: &Command, given: &Given, zk: &Session, screen: &Screen) -> Result<(), Failure> {
    let wrong = |text: &str| Err(Failure::Malformed(text.into()));
    let [add, remove, members, file] = ["add", "remove", "members", "file"].map(|o| given.value(o));
    if [add, remove, members, file].iter().all(Option::is_none) {
        return c.malformed();
    }
    let version = match given.value("v") {
        None => -1,
        Some(text) => match i64::from_str_radix(text, 16) {
            Ok(version) => version,
            Err(_) => return wrong("-v must be followed by a long (configuration version)"),
        },
    };
    if (file.is_some() || members.is_some()) && (add.is_some() || remove.is_some()) {
        return wrong(
            "Can't use -file or -members together with -add or -remove (mixing incremental and non-incremental modes is not \
             allowed)",
        );
    }
    if file.is_some() && members.is_some() {
        return wrong("Can't use -file and -members together (conflicting non-incremental modes)");
    }
    let [add, remove, mut members] = [add, remove, members].map(|v| v.map(str::to_lowercase));
    if let Some(file) = file {
        members =
            Some(members_of(file).map_err(|e| Failure::Malformed(format!("Error processing {file}: {e}")))?);
    }
    let (config, stat) = zk.reconfig(add.as_deref(), remove.as_deref(), members.as_deref(), version)?;
    let text = String::from_utf8_lossy(config.as_deref().unwrap_or_default()).into_owned();
    screen.line(&format!("Committed new configuration:\n{text}"));
    screen.set("config", text);
    if given.has("s") {
        screen.stat(&stat);
    }
    Ok(())
}

/// The members that a dynamic configuration file names, one a line.
fn members_of(file: &str) -> Result<String, String> {
    let text = std::fs::read_to_string(file).map_err(|e| e.to_string())?;
    let mut members = Vec::new();
    for line in text.lines().map(str::trim).filter(|l| !l.is_empty() && !l.starts_with(['#', '!'])) {
        let (key, value) = line.split_once('=').ok_or_else(|| format!("'{line}' is not KEY=VALUE"))?;
        if !["server.", "group.", "weight."].iter().any(|p| key.trim().starts_with(p)) {
            return Err(format!(
                "unrecognised parameter {}: only server., group. and weight. may stand there",
                key.trim()
            ));
        }
        members.push(format!("{}={}", key.trim(), value.trim()));
    }
    if members.is_empty() { Err("it names no server".into()) } else { Ok(members.join("\n")) }
}

fn remove_watches(c: &Command, given: &Given, zk: &Session, screen: &Screen) -> Result<(), Failure> {
    let path = c.path(given, screen)?;
    let what = if given.has("c") {
        Removal::Children
    } else if given.has("d") {
        Removal::Data
    } else if given.has("p") {
        Removal::Persistent
    } else if given.has("r") {
        Removal::PersistentRecursive
    } else {
        Removal::Any
    };
    Ok(zk.remove_watches(path, what, given.has("l"))?)
}

fn set(c: &Command, given: &Given, zk: &Session, screen: &Screen) -> Result<(), Failure> {
    let (path, text) = (c.arg(given, 1)?, c.arg(given, 2)?);
    let data = if given.has("b") {
        BASE64.decode(text).map_err(|e| Failure::Malformed(format!("the data is not base64: {e}")))?
    } else {
        text.as_bytes().to_vec()
    };
    let version = number(given, "v", -1, "an int")?;
    check_path(path)?;
    screen.set("path", path);
    let stat = zk.set_data(path, &data, version)?;
    if given.has("s") {
        screen.stat(&stat);
    }
    Ok(())
}

fn set_acl(c: &Command, given: &Given, zk: &Session, screen: &Screen) -> Result<(), Failure> {
    let (path, text) = (c.arg(given, 1)?, c.arg(given, 2)?);
    let acl = parse_acl(text, screen);
    let version = number(given, "v", -1, "an int")?;
    check_path(path)?;
    screen.set("path", path);
    let set_one = |path: &str| match acl.is_empty() {
        true => Err(Refusal { code: Code::InvalidAcl.wire(), path: None, why: None }),
        false => zk.set_acl(path, &acl, version),
    };
    if given.has("R") {
        zk.get_data(path, false)?;
        let mut set_each = |path: &str| {
            if let Err(e) = set_one(path) {
                screen.text(&keeper_message(&e));
                screen.push("failed", json!({ "path": path, "error": code_text(e.code) }));
            }
            Ok(())
        };
        set_each(path)?;
        return visit_below(zk, path, false, &mut set_each);
    }
    let stat = set_one(path)?;
    if given.has("s") {
        screen.stat(&stat);
    }
    Ok(())
}

fn set_quota(c: &Command, given: &Given, zk: &Session, screen: &Screen) -> Result<(), Failure> {
    let path = c.arg(given, 1)?;
    if path.starts_with(quota::ROOT) {
        screen.note(&format!("cannot set a quota under the path: {}", quota::ROOT));
        return Ok(());
    }
    let mut limits = quota::Track::default();
    for (option, name) in quota::LIMITS {
        limits.set(name, -1);
        let Some(text) = given.value(option) else { continue };
        let count = option.eq_ignore_ascii_case("n");
        let (limit, enough) = match text.parse::<i64>() {
            // Counts are ints in Java, bytes are longs.
            Ok(n) if !count || i32::try_from(n).is_ok() => (n, n > 0 || !count && n == 0),
            _ => {
                screen.note("NumberFormatException happens when parsing the option value");
                return Ok(());
            }
        };
        if !enough {
            let (what, least) = if count { ("num", "zero") } else { ("bytes", "or equal to zero") };
            screen.note(&format!("the {what} quota must be greater than {least}"));
            return Ok(());
        }
        limits.set(name, limit);
    }
    check_path(path)?;
    screen.set("path", path);
    quota::set(zk, screen, path, &limits)
}

fn stat(c: &Command, given: &Given, zk: &Session, screen: &Screen) -> Result<(), Failure> {
    c.arg(given, 1)?;
    let watch = c.old_watch(given, screen, "[-w]");
    let path = c.path(given, screen)?;
    match zk.exists(path, watch)? {
        Some(stat) => screen.stat(&stat),
        None => {
            return Err(Refusal { code: Code::NoNode.wire(), path: Some(path.to_owned()), why: None }.into());
        }
    }
    Ok(())
}

fn sync(c: &Command, given: &Given, zk: &Session, screen: &Screen) -> Result<(), Failure> {
    match zk.sync(c.path(given, screen)?, SYNC_PATIENCE)? {
        0 => screen.line("Sync is OK"),
        code => {
            screen.line(&format!("Sync has failed. rc={code}"));
            screen.set("failed", code_text(code));
        }
    }
    Ok(())
}

fn version(c: &Command, given: &Given, _: &Session, screen: &Screen) -> Result<(), Failure> {
    if given.args.len() > 1 {
        return c.malformed();
    }
    // Programs that read it expect a number of ZooKeeper's first.
    const VERSION: &str = concat!("3.9.5-falconer-", env!("CARGO_PKG_VERSION"));
    screen.set("version", VERSION);
    screen.line(&format!("ZooKeeper CLI version: {VERSION}"));
    Ok(())
}

/// Who uses the server most: Falconer's own command, answered by its admin port.
fn top(c: &Command, given: &Given, zk: &Session, screen: &Screen) -> Result<(), Failure> {
    let number =
        |text: Option<&str>, default: u16| text.map_or(Ok(default), |t| t.parse().or_else(|_| c.malformed()));
    let port = number(given.value("a"), 8080)?;
    let n = number(given.args.get(1).map(String::as_str), 8)?;
    let server = match zk.wait_connected(TOP_PATIENCE) {
        true => zk.server(),
        false => None,
    };
    let Some(server) = server else {
        return Err(Failure::Malformed("there is no connection to a server".into()));
    };
    let live = Admin::find(&server, &[port]).and_then(|(admin, _)| admin.json("/api/live").ok());
    let Some((200, live)) = live else {
        return Err(Failure::Malformed(format!(
            "the admin interface of {server} is not reached on port {port} of its host: -a PORT names another; it listens on \
             127.0.0.1 alone unless admin.serverAddress says otherwise, and only a Falconer answers this"
        )));
    };
    for list in ["namespaces", "clients", "top_sessions"] {
        screen.set(list, live[list].clone());
    }
    screen.text(&crate::top::tables(&live, usize::from(n)));
    Ok(())
}

fn who_am_i(_: &Command, _: &Given, zk: &Session, screen: &Screen) -> Result<(), Failure> {
    let ids = zk.who_am_i()?;
    screen.line("Auth scheme: User");
    for (scheme, user) in ids {
        screen.line(&format!("{scheme}: {user}"));
        screen.push("identities", json!({ "scheme": scheme, "user": user }));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_sorted_as_apache_lists_them() {
        let names: Vec<_> = COMMANDS.iter().map(|c| c.name).collect();
        let mut sorted = names.clone();
        sorted.sort_unstable();
        assert_eq!(names, sorted);
        // Those whose options are listed somewhere; the others are named in the order of their definition.
        for c in COMMANDS.iter().filter(|c| !c.options.exclusive) {
            let options: Vec<_> = c.options.all.iter().map(|o| o.name.to_lowercase()).collect();
            assert!(options.is_sorted(), "{c:?}: {options:?}");
        }
    }

    #[test]
    fn usage_of_get_lists_its_options() {
        assert_eq!(
            Command::find("get").unwrap().usage_message(),
            "get [-s] [-w] [-b] [-x] path\n -b   Output data in base64 format\n -s   Print znode stats additionally\n -w   \
             Watch for changes on the znode\n -x   Output data in hexdump format\n"
        );
    }

    #[test]
    fn paths_are_refused_in_javas_words() {
        for (path, wanted) in [
            ("", "Path length must be > 0"),
            ("a", "Path must start with / character"),
            ("/a/", "Path must not end with / character"),
            ("/a//b", "Invalid path string \"/a//b\" caused by empty node name specified @3"),
            ("/a/../b", "Invalid path string \"/a/../b\" caused by relative paths not allowed @4"),
            ("/.", "Invalid path string \"/.\" caused by relative paths not allowed @1"),
            ("/a\u{1}", "Invalid path string \"/a\u{1}\" caused by invalid character @2"),
            ("/\u{1f600}", "Invalid path string \"/\u{1f600}\" caused by invalid character @1"),
        ] {
            assert_eq!(check_path(path), Err(Failure::Malformed(wanted.into())), "{path}");
        }
        for path in ["/", "/a", "/a.b/..c/.d", "/ä/€"] {
            assert_eq!(check_path(path), Ok(()), "{path}");
            assert!(proto::path::validate(path).is_ok());
        }
    }

    #[test]
    fn acls_are_read_and_shown() {
        let screen = Screen::new(true, false);
        let acl = parse_acl("world:anyone:cdrwa,digest:u:h=:r,bad,ip:1.2.3.4:wq", &screen);
        assert_eq!(
            acl,
            [(31, Id::new("world", "anyone")), (1, Id::new("digest", "u:h=")), (2, Id::new("ip", "1.2.3.4"))]
        );
        assert_eq!(perms_text(31), "cdrwa");
        assert_eq!(record_text("a,b%}"), "'a%2Cb%25%7D");
    }

    #[test]
    fn errors_have_apaches_words() {
        let refused = |code: i32, path: Option<&str>| {
            Failure::Refused(Refusal { code, path: path.map(str::to_owned), why: None }).message()
        };
        assert_eq!(refused(-101, Some("/x")), "Node does not exist: /x");
        assert_eq!(refused(-114, None), "Acl is not valid : null");
        assert_eq!(refused(-4, Some("/x")), "KeeperErrorCode = ConnectionLoss for /x");
        assert_eq!(refused(-121, Some("/x")), "KeeperErrorCode = No such watcher for /x");
        assert_eq!(refused(-123, None), "KeeperErrorCode = Reconfig is disabled");
        assert_eq!(refused(-6, Some("/x")), "KeeperErrorCode = Unimplemented for /x");
        assert_eq!(Failure::NotFound("x".into()).message(), "Command not found: Command not found x");
        assert_eq!(Failure::NotFound("x".into()).exit_code(), 127);
        for (typed, hint) in
            [("ls2", Some("ls -s does that")), ("getacl", Some("getAcl does that")), ("frobnicate", None)]
        {
            assert_eq!(Failure::NotFound(typed.into()).hint().as_deref(), hint);
        }
    }

    #[test]
    fn the_client_addresses_of_a_configuration() {
        let config = "server.2=h2:1:2:participant;0.0.0.0:2182\nserver.1=h1:1:2:observer;2181\nserver.3=h:1:2\nversion=1a";
        assert_eq!(client_addresses(config), "1a 0.0.0.0:2181,0.0.0.0:2182,");
        assert_eq!(client_addresses(""), " ");
    }
}

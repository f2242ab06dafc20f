//! The files as they were found, before any of it is believed.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use crate::invocation::Invocation;
use crate::limits;
use crate::properties::{self, Entry};
use crate::report::{ExitCode, Fault, Origin, Refusal};

/// A `.properties` file: `zoo.cfg` or a dynamic file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigFile {
    /// As it was named, not made absolute.
    pub path: PathBuf,
    /// In file order, duplicates included.
    pub entries: Vec<Entry>,
}

/// `<dataDir>/myid`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MyId {
    /// There is no such file.
    Missing,
    /// Its first line, without the line end and otherwise untouched.
    FirstLine(String),
    /// It is there and can't be read.
    Unreadable(String),
}

/// What stands where a data directory should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DirState {
    /// Nothing: it will be created, if that is allowed.
    Missing,
    /// A directory.
    Directory,
    /// Something else, or out of reach: what it is.
    Unusable(String),
}

/// Everything [`crate::Settings::resolve`] looks at besides the environment. Raw: nothing here has been checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RawConfig {
    /// What was asked for.
    pub invocation: Invocation,
    /// `zoo.cfg`; none unless the invocation names one.
    pub main: Option<ConfigFile>,
    /// The file `dynamicConfigFile` names.
    pub dynamic: Option<ConfigFile>,
    /// `myid` in the data directory.
    pub my_id: MyId,
    /// The data directory; `Missing` when none is configured.
    pub data_dir: DirState,
    /// The log's directory; the data directory's state when there is only one.
    pub data_log_dir: DirState,
}

impl RawConfig {
    /// Reads the files the invocation asks for. Reads only: no directory is created, nothing is written.
    ///
    /// # Errors
    /// `zoo.cfg` or the dynamic file can't be read, is larger than [`limits::FILE_BYTES_MAX`], or has a broken `\u`
    /// escape.
    pub fn read(invocation: Invocation) -> Result<RawConfig, Refusal> {
        let main = match &invocation {
            Invocation::File(path) => Some(ConfigFile::read("configuration file", path)?),
            Invocation::Embedded | Invocation::Positional { .. } => None,
        };
        let dynamic = match main.as_ref().and_then(|m| m.last("dynamicConfigFile")) {
            Some(path) if !path.is_empty() => Some(ConfigFile::read("dynamicConfigFile", Path::new(path))?),
            _ => None,
        };
        let data_dir: Option<PathBuf> = match &invocation {
            Invocation::Embedded => Some(PathBuf::from(crate::settings::EMBEDDED_DATA_DIR)),
            Invocation::Positional { data_dir, .. } => Some(data_dir.clone()),
            Invocation::File(_) => main.as_ref().and_then(|m| m.last("dataDir")).map(PathBuf::from),
        };
        let log_dir = main.as_ref().and_then(|m| m.last("dataLogDir")).map(PathBuf::from);
        let my_id = data_dir.as_deref().map_or(MyId::Missing, |dir| MyId::read(&dir.join("myid")));
        let data_state = data_dir.as_deref().map_or(DirState::Missing, DirState::of);
        let data_log_dir = log_dir.as_deref().map_or_else(|| data_state.clone(), DirState::of);
        Ok(RawConfig { invocation, main, dynamic, my_id, data_dir: data_state, data_log_dir })
    }
}

impl ConfigFile {
    /// Reads and parses `path`; `what` names it in a refusal.
    ///
    /// # Errors
    /// As [`RawConfig::read`].
    pub fn read(what: &str, path: &Path) -> Result<ConfigFile, Refusal> {
        let refuse = |wanted: &str, found: String, remedy: &str| {
            Refusal::one(Fault {
                key: what.to_owned(),
                origin: Origin::File(path.to_owned()),
                wanted: wanted.to_owned(),
                found,
                remedy: remedy.to_owned(),
                exit: ExitCode::InvalidInvocation,
            })
        };
        let bytes = read_up_to(path, limits::FILE_BYTES_MAX + 1)
            .map_err(|e| refuse("a readable file", e.to_string(), "check the path and the permissions"))?;
        if bytes.len() as u64 > limits::FILE_BYTES_MAX {
            return Err(refuse("at most 1 MiB", "more".to_owned(), "is this the right file?"));
        }
        ConfigFile::parse(path, &bytes).map_err(|bad| {
            let found = format!("something else on line {}", bad.line);
            refuse("four hex digits behind every \\u", found, "write a backslash as \\\\")
        })
    }

    /// The same from bytes.
    ///
    /// # Errors
    /// A broken `\u` escape.
    pub fn parse(path: &Path, bytes: &[u8]) -> Result<ConfigFile, properties::BadEscape> {
        Ok(ConfigFile { path: path.to_owned(), entries: properties::parse(bytes)? })
    }

    /// The value in effect: the last one.
    fn last(&self, key: &str) -> Option<&str> {
        self.entries.iter().rev().find(|e| e.key == key).map(|e| e.value.as_str())
    }
}

impl MyId {
    fn read(path: &Path) -> MyId {
        match fs::metadata(path) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return MyId::Missing,
            Err(e) if e.kind() == std::io::ErrorKind::NotADirectory => return MyId::Missing,
            Err(e) => return MyId::Unreadable(e.to_string()),
            Ok(meta) if !meta.is_file() => return MyId::Missing,
            Ok(_) => {}
        }
        match read_up_to(path, limits::MYID_BYTES_MAX) {
            Err(e) => MyId::Unreadable(e.to_string()),
            Ok(bytes) => MyId::first_line(&bytes),
        }
    }

    /// The first line of these bytes; ends at `\n`, `\r` or the end.
    pub fn first_line(bytes: &[u8]) -> MyId {
        let line = bytes.split(|b| matches!(b, b'\n' | b'\r')).next().unwrap_or_default();
        MyId::FirstLine(String::from_utf8_lossy(line).into_owned())
    }
}

impl DirState {
    fn of(path: &Path) -> DirState {
        match fs::metadata(path) {
            Ok(meta) if meta.is_dir() => DirState::Directory,
            Ok(_) => DirState::Unusable("a file".to_owned()),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => DirState::Missing,
            Err(e) => DirState::Unusable(e.to_string()),
        }
    }
}

fn read_up_to(path: &Path, max: u64) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    fs::File::open(path)?.take(max).read_to_end(&mut bytes)?;
    Ok(bytes)
}

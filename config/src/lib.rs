//! From `zoo.cfg`, `myid`, the dynamic file and JVM flags to typed settings.
//!
//! An operator should be able to point Falconer at the files ZooKeeper ran with, and learn, before anything starts, what
//! becomes of each key. So every key ZooKeeper knows has one row in one table ([`keys::KEYS`]) with a verdict, and the
//! resolver, the `--check` report and `docs/configuration.md` are all made from it.
//!
//! Three nouns: a [`RawConfig`] is what was read and not yet believed; [`Settings`] is what the server runs with, every
//! default filled in; a [`Finding`] says what became of one key that was given.
//!
//! ```text
//! arguments, environment ── Invocation::parse, Env::from_process
//!        │
//!        ▼
//! files ── RawConfig::read            the only I/O: reads zoo.cfg, the dynamic file, myid; looks at the directories
//!        │      properties::parse     Java's syntax: Vec<Entry>, duplicates and line numbers kept
//!        ▼
//! Settings::resolve                   pure: collect (who wins) → judge (verdicts) → read (kinds, ranges) → settings
//!        │
//!        ├── Ok(Settings, Vec<Finding>) ── explain ──► `falconerd --check`
//!        └── Err(Refusal)  ── one line per fault, exit code 2 or 3
//! ```
//!
//! It resolves no host names and creates no directory. It never downgrades in silence: what asks for protection that does
//! not exist yet is refused.
//!
//! ```
//! use config::{Env, Invocation, RawConfig, Settings};
//! let mut env = Env::empty();
//! let invocation = Invocation::parse(&["-Djute.maxbuffer=4194304".to_owned()], &mut env)?;
//! let (settings, findings) = Settings::resolve(RawConfig::read(invocation)?, &env)?;
//! assert_eq!(settings.client.request_bytes_max, 4_194_304);
//! println!("{}", config::explain(&settings, &findings));
//! # Ok::<(), config::Refusal>(())
//! ```

mod document;
mod explain;
mod invocation;
pub mod keys;
pub mod limits;
mod members;
pub mod properties;
mod raw;
mod report;
mod resolve;
mod settings;

pub use document::document;
pub use explain::{explain, explain_refusal};
pub use invocation::{Env, Invocation, Property};
pub use members::{BadLine, Host, HostPort, Member, PeerAddress, Quorum, Role, parse_group, parse_weight};
pub use raw::{ConfigFile, DirState, MyId, RawConfig};
pub use report::{Effect, ExitCode, Fault, Finding, Level, Origin, Refusal};
pub use settings::{
    Admin, Auth, Client, EMBEDDED_DATA_DIR, Ensemble, FOUR_LETTER_WORDS, LocalSessions, Membership,
    Operations, Retention, Secret, Sessions, Settings, Storage, Tree, WalBackend, Whitelist,
};

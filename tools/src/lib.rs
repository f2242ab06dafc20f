//! What operators type besides the server: the parts of the `falconer` binary.
//!
//! Each subcommand is one module with a clap `Args` and a `run`. None of them needs a running server of ours:
//! [`mod@bench`] loads any server of the protocol, [`shell`] talks to one, [`status`] shows a whole ensemble, [`doctor`]
//! says what is wrong with a configuration, a directory or a server, [`disk`] measures a disk before it is trusted,
//! [`log_files`] and [`snapshot_files`] look into data directories, Falconer's and Apache's, and never write there.
//!
//! ```text
//!   main ─┬─ bench::run           sockets → latencies               load generator
//!         ├─ disk::run            commits → latencies, verdict      what a log would get from a disk
//!         ├─ log_files::run       place → records → txn → text      list, dump, verify, stat
//!         ├─ snapshot_files::run  place → records → text            list, dump, verify, tree, diff
//!         ├─ doctor::run          files, system, servers → findings  what operators get wrong
//!         ├─ status::run          four-letter words → table         an ensemble at a glance
//!         ├─ shell::run           command → session → text, JSON    zkCli's commands
//!         └─ render, svg          all that a terminal or a page shows
//! ```
//!
//! What is not here: the server's own code. `tools` sees formats (`wal`, `snapshot`), the protocol (`proto`) and
//! the tree (`engine`, to replay a log over a snapshot), never `node` or `server`.

mod admin;
pub mod ask;
pub mod bench;
pub mod disk;
pub mod doctor;
pub mod log_files;
mod place;
pub mod render;
pub mod shell;
pub mod snapshot_files;
pub mod status;
pub mod svg;
mod top;
mod txn;

use std::io::{self, Write};

pub use place::Error as PlaceError;

/// What a command that looks for something says in its exit status.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// All is well: 0.
    Fine,
    /// There is damage, there are differences: 1.
    Found,
}

/// Where a command writes: results to one stream, complaints to another.
pub struct Out<'a> {
    results: &'a mut (dyn Write + Send),
    complaints: &'a mut (dyn Write + Send),
}

impl std::fmt::Debug for Out<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Out")
    }
}

impl<'a> Out<'a> {
    /// Results, best buffered, and complaints.
    pub fn new(results: &'a mut (dyn Write + Send), complaints: &'a mut (dyn Write + Send)) -> Out<'a> {
        Out { results, complaints }
    }

    fn line(&mut self, line: &str) -> io::Result<()> {
        self.results.write_all(line.as_bytes())?;
        self.results.write_all(b"\n")
    }

    fn text(&mut self, text: &str) -> io::Result<()> {
        self.results.write_all(text.as_bytes())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.results.flush()
    }

    fn complain(&mut self, what: &str) {
        // Nobody left to complain to; the exit status still tells.
        let _ = writeln!(self.complaints, "falconer: {what}");
    }
}

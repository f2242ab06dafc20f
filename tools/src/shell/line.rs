//! A person at a terminal: line editing, history in a file, completion of commands, options and paths, events above
//! the line that is being typed.

use super::commands::{COMMANDS, Command};
use super::options::words;
use super::session::Session;
use super::show::Screen;
use rustyline::completion::{Completer, Pair};
use rustyline::config::{BellStyle, Configurer};
use rustyline::error::ReadlineError;
use rustyline::highlight::Highlighter;
use rustyline::hint::Hinter;
use rustyline::history::FileHistory;
use rustyline::validate::Validator;
use rustyline::{CompletionType, Context, Editor, ExternalPrinter, Helper};
use std::borrow::Cow;
use std::cell::RefCell;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::rc::Rc;

/// Lines kept in the file of the history.
const HISTORY_LINES: usize = 1000;
/// Candidates that a completion shows: a znode may have a million children.
const CANDIDATES_MAX: usize = 1000;

/// The session as the completion sees it: `connect` replaces it.
pub type Shared = Rc<RefCell<Session>>;

/// Reads lines with editing.
pub struct Lines {
    editor: Editor<Completion, FileHistory>,
    history: Option<PathBuf>,
}

impl std::fmt::Debug for Lines {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Lines").field("history", &self.history).finish_non_exhaustive()
    }
}

impl Lines {
    /// Takes over the terminal.
    ///
    /// # Errors
    /// When it can't be had.
    pub fn new(session: Shared, screen: &Screen) -> io::Result<Lines> {
        let mut editor = Editor::<Completion, FileHistory>::new().map_err(as_io)?;
        editor.set_completion_type(CompletionType::List);
        editor.set_bell_style(BellStyle::None);
        editor.set_max_history_size(HISTORY_LINES).map_err(as_io)?;
        editor.set_helper(Some(Completion { session, screen: screen.clone() }));
        let history = history_file();
        if let Some(file) = &history {
            // There is none before the first session.
            let _ = editor.load_history(file);
        }
        if let Ok(mut printer) = editor.create_external_printer() {
            screen.set_above(Box::new(move |text| {
                // The terminal is gone; so is whoever would read it.
                let _ = printer.print(text);
            }));
        }
        Ok(Lines { editor, history })
    }

    /// The next line, `None` at the end of the input. An interrupt empties the line.
    ///
    /// # Errors
    /// When the terminal can't be read.
    pub fn next(&mut self, prompt: &str) -> io::Result<Option<String>> {
        loop {
            match self.editor.readline(prompt) {
                Ok(line) => {
                    // What holds a credential stays out of the file.
                    if !line.trim().is_empty() && !line.trim_start().starts_with("addauth") {
                        let _ = self.editor.add_history_entry(line.as_str());
                    }
                    return Ok(Some(line));
                }
                Err(ReadlineError::Interrupted) => {}
                Err(ReadlineError::Eof) => return Ok(None),
                Err(e) => return Err(as_io(e)),
            }
        }
    }

    /// Writes the history to its file, readable by its owner alone.
    pub fn save(&mut self) {
        let Some(file) = &self.history else { return };
        // A history that can't be kept is no reason to complain at the end of a session.
        if let Some(dir) = file.parent() {
            let _ = std::fs::create_dir_all(dir);
        }
        if self.editor.save_history(file).is_ok() {
            let _ = std::fs::set_permissions(file, std::fs::Permissions::from_mode(0o600));
        }
    }
}

/// `FALCONER_HISTORY` (empty: none), else below the directory for the state of programs.
fn history_file() -> Option<PathBuf> {
    match std::env::var_os("FALCONER_HISTORY") {
        Some(file) if file.is_empty() => None,
        Some(file) => Some(file.into()),
        None => {
            let state = std::env::var_os("XDG_STATE_HOME").map(PathBuf::from).filter(|p| p.is_absolute());
            let home = || std::env::var_os("HOME").map(|h| PathBuf::from(h).join(".local/state"));
            Some(state.or_else(home)?.join("falconer/history"))
        }
    }
}

fn as_io(e: ReadlineError) -> io::Error {
    match e {
        ReadlineError::Io(e) => e,
        e => io::Error::other(e.to_string()),
    }
}

/// Completes what stands before the cursor.
struct Completion {
    session: Shared,
    screen: Screen,
}

impl Helper for Completion {}
impl Validator for Completion {}

impl Hinter for Completion {
    type Hint = String;
}

impl Highlighter for Completion {
    fn highlight_prompt<'b, 's: 'b, 'p: 'b>(&'s self, prompt: &'p str, _: bool) -> Cow<'b, str> {
        Cow::Owned(self.screen.painted("1", prompt))
    }
}

impl Completer for Completion {
    type Candidate = Pair;

    fn complete(&self, line: &str, pos: usize, _: &Context<'_>) -> rustyline::Result<(usize, Vec<Pair>)> {
        let (start, candidates) = complete(&line[..pos], |dir| {
            // A call in the middle of a command would change the session under it; completion never runs there.
            let session = self.session.borrow();
            session
                .state()
                .is_alive()
                .then(|| session.children(dir, false).ok())
                .flatten()
                .map(|(names, _)| names)
        });
        let pairs = candidates.into_iter().take(CANDIDATES_MAX);
        Ok((start, pairs.map(|c| Pair { display: c.trim_end().to_owned(), replacement: c }).collect()))
    }
}

/// Where the word before the cursor starts, and what it may become.
fn complete(before: &str, children: impl FnOnce(&str) -> Option<Vec<String>>) -> (usize, Vec<String>) {
    let (start, quote) = last_word(before);
    let word = &before[start + quote.map_or(0, char::len_utf8)..];
    let typed = words(&before[..start]);
    let Some(command) = typed.first() else {
        let names = COMMANDS.iter().map(|c| c.name).filter(|n| n.starts_with(word));
        return (start, names.map(|n| format!("{n} ")).collect());
    };
    let command = Command::find(command);
    if let Some(option) = word.strip_prefix('-') {
        let all = command.map_or(&[][..], |c| c.options.all);
        let names = all.iter().map(|o| o.name).filter(|n| n.starts_with(option));
        return (start, names.map(|n| format!("-{n} ")).collect());
    }
    if !word.starts_with('/') || !command.is_some_and(|c| c.takes_path) {
        return (start, Vec::new());
    }
    let cut = word.rfind('/').expect("it starts with one");
    let (dir, begun) = (if cut == 0 { "/" } else { &word[..cut] }, &word[cut + 1..]);
    let mut names: Vec<_> = children(dir).unwrap_or_default();
    names.retain(|n| n.starts_with(begun));
    names.sort();
    (start, names.iter().map(|n| quoted(format!("{}/{n}", &word[..cut]), quote)).collect())
}

/// Where the word begins that is being typed, and the quote that it began with.
fn last_word(before: &str) -> (usize, Option<char>) {
    let mut at = 0;
    loop {
        at += before[at..].find(|c: char| !c.is_whitespace()).unwrap_or(before.len() - at);
        let quote = before[at..].chars().next().filter(|c| matches!(c, '\'' | '"'));
        let end = match quote {
            Some(quote) => before[at + 1..].find(quote).map(|i| at + i + 2),
            None => before[at..].find(char::is_whitespace).map(|i| at + i),
        };
        match end {
            Some(end) => at = end,
            None => return (at, quote),
        }
    }
}

/// A path as it can be typed: in quotes if it began with one, or if it would be several words without.
fn quoted(path: String, began: Option<char>) -> String {
    let spaces = path.contains(char::is_whitespace);
    match began.or(spaces.then_some(if path.contains('\'') { '"' } else { '\'' })) {
        Some(quote) => format!("{quote}{path}{quote}"),
        None => path,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_options_and_paths_are_completed() {
        let tree = |dir: &str| {
            Some(match dir {
                "/" => vec!["app".to_owned(), "apple".into(), "zookeeper".into()],
                "/app" => vec!["x".to_owned()],
                _ => return None,
            })
        };
        let all = |line: &str| complete(line, tree);
        assert_eq!(all("getA"), (0, vec!["getAcl ".into(), "getAllChildrenNumber ".into()]));
        assert_eq!(all("  quo"), (2, vec![]));
        assert_eq!(all("get /ap"), (4, vec!["/app".into(), "/apple".into()]));
        assert_eq!(all("ls -s /app/"), (6, vec!["/app/x".into()]));
        assert_eq!(all("ls /none/"), (3, vec![]));
        assert_eq!(all("setquota -"), (9, ["-n ", "-b ", "-N ", "-B "].map(String::from).into()));
        assert_eq!(all("whoami /"), (7, vec![]));
        assert_eq!(all("get x"), (4, vec![]));
    }

    #[test]
    fn paths_with_spaces_are_completed_in_quotes() {
        let tree = |_: &str| Some(["two words", "it's here", "plain"].map(String::from).to_vec());
        for (line, start, wanted) in [
            ("get /a/tw", 4, "'/a/two words'"),
            ("get /a/it", 4, "\"/a/it's here\""),
            ("get /a/p", 4, "/a/plain"),
            ("get '/a/two w", 4, "'/a/two words'"),
            ("get \"/a/p", 4, "\"/a/plain\""),
            ("set -v 1 '/x y' /a/p", 16, "/a/plain"),
            ("set é /a/p", 7, "/a/plain"),
        ] {
            assert_eq!(complete(line, tree), (start, vec![wanted.to_owned()]), "{line}");
            assert_eq!(words(&format!("get {wanted}")).len(), 2, "{wanted}");
        }
        assert_eq!(complete("get '/a/two words'", tree).1, Vec::<String>::new(), "it is whole");
    }
}

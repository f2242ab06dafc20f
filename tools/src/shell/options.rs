//! Lines into words, and words into options, as zkCli does it (commons-cli's rules, its messages included).

use std::fmt::Write;

/// Breaks a line into words: separated by white space; a word in single or double quotes may hold some, and loses
/// the quotes.
pub fn words(line: &str) -> Vec<String> {
    let mut out = Vec::new();
    let mut rest = line.trim_start();
    while let Some(first) = rest.chars().next() {
        let (word, after) = if first == '"' || first == '\'' {
            match rest[1..].find(first) {
                Some(end) => (&rest[1..=end], &rest[end + 2..]),
                // A quote that nothing closes is no quote.
                None => {
                    rest = rest[1..].trim_start();
                    continue;
                }
            }
        } else {
            rest.split_at(rest.find(char::is_whitespace).unwrap_or(rest.len()))
        };
        out.push(word.to_owned());
        rest = after.trim_start();
    }
    out
}

/// An option of a command.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Opt {
    /// Without the hyphen.
    pub name: &'static str,
    /// Whether a value follows.
    pub has_value: bool,
    /// One line about it.
    pub about: &'static str,
}

/// The options of a command.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Options {
    /// All of them: as help lists them, by name without regard to case; exclusive ones as the message names them.
    pub all: &'static [Opt],
    /// At most one of them may be given.
    pub exclusive: bool,
    /// One of them must be given.
    pub required: bool,
}

/// What was given.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Given {
    options: Vec<(&'static str, Option<String>)>,
    /// The words that are no options; the first is the command.
    pub args: Vec<String>,
}

impl Given {
    /// Words of which none is an option.
    pub fn words(words: &[String]) -> Given {
        Given { options: Vec::new(), args: words.to_vec() }
    }

    /// Whether an option was given.
    pub fn has(&self, name: &str) -> bool {
        self.options.iter().any(|(n, _)| *n == name)
    }

    /// The value of an option; of several the first, as in commons-cli.
    pub fn value(&self, name: &str) -> Option<&str> {
        self.options.iter().find(|(n, _)| *n == name)?.1.as_deref()
    }
}

/// No options at all.
pub const NONE: Options = Options { all: &[], exclusive: false, required: false };

impl Options {
    /// Sorts words, the command first, into options and arguments.
    ///
    /// # Errors
    /// The exception that commons-cli would throw, as zkCli prints it.
    pub fn parse(&self, words: &[String]) -> Result<Given, String> {
        let mut given = Given::default();
        // The option whose value is still to come.
        let mut open: Option<&Opt> = None;
        let mut words_only = false;
        for word in words {
            if words_only {
                given.args.push(word.clone());
            } else if word == "--" {
                words_only = true;
            } else if let Some(opt) = open.filter(|_| !self.looks_like_option(word)) {
                given.options.push((opt.name, Some(unquoted(word).to_owned())));
                open = None;
            } else if word.len() > 1 && word.starts_with('-') && !word.starts_with("--") {
                self.option(word, &mut given, &mut open)?;
            } else if word.len() > 1 && word.starts_with('-') {
                return Err(unrecognized(word));
            } else {
                given.args.push(word.clone());
            }
        }
        finished(open)?;
        if self.required && given.options.is_empty() {
            let wanted: Vec<_> = self.all.iter().map(|o| format!("-{} {}", o.name, o.about)).collect();
            return Err(exception(
                "MissingOption",
                &format!("Missing required option: [{}]", wanted.join(", ")),
            ));
        }
        Ok(given)
    }

    /// One word that starts with a single hyphen: an option, `-o=value`, or letters in a row (`-sw`, `-v3`).
    fn option<'a>(&'a self, word: &str, given: &mut Given, open: &mut Option<&'a Opt>) -> Result<(), String> {
        let text = &word[1..];
        if let Some(opt) = self.find(text) {
            return self.take(opt, given, open);
        }
        if let Some((name, value)) = text.split_once('=') {
            return match self.find(name).filter(|o| o.has_value && name.len() == 1) {
                Some(opt) => {
                    self.take(opt, given, open)?;
                    *open = None;
                    given.options.push((opt.name, Some(value.to_owned())));
                    Ok(())
                }
                None => Err(unrecognized(word)),
            };
        }
        for (at, letter) in text.char_indices() {
            let end = at + letter.len_utf8();
            let Some(opt) = self.find(&text[at..end]) else { return Err(unrecognized(word)) };
            self.take(opt, given, open)?;
            if opt.has_value && end < text.len() {
                *open = None;
                given.options.push((opt.name, Some(unquoted(&text[end..]).to_owned())));
                break;
            }
        }
        Ok(())
    }

    fn take<'a>(&self, opt: &'a Opt, given: &mut Given, open: &mut Option<&'a Opt>) -> Result<(), String> {
        finished(*open)?;
        if self.exclusive
            && let Some((other, _)) = given.options.iter().find(|(n, _)| *n != opt.name)
        {
            let name = opt.name;
            let text = format!(
                "The option '{name}' was specified but an option from this group has already been selected: '{other}'"
            );
            return Err(exception("AlreadySelected", &text));
        }
        if opt.has_value {
            *open = Some(opt);
        } else {
            given.options.push((opt.name, None));
        }
        Ok(())
    }

    fn find(&self, name: &str) -> Option<&Opt> {
        self.all.iter().find(|o| o.name == name)
    }

    /// Whether a word that stands where a value is due is rather the next option.
    fn looks_like_option(&self, word: &str) -> bool {
        let Some(text) = word.strip_prefix('-') else { return false };
        if text.is_empty() || word.parse::<f64>().is_ok() {
            return false;
        }
        let name = text.split('=').next().unwrap_or(text);
        self.find(name).is_some() || self.find(&name.chars().take(1).collect::<String>()).is_some()
    }

    /// The options in a table, as commons-cli prints it.
    pub fn help(&self) -> String {
        let heads: Vec<String> = self
            .all
            .iter()
            .map(|o| format!(" -{}{}", o.name, if o.has_value { " <arg>" } else { "" }))
            .collect();
        let width = heads.iter().map(String::len).max().unwrap_or(0);
        let mut out = String::new();
        for (head, opt) in heads.iter().zip(self.all) {
            writeln!(out, "{head:width$}   {}", opt.about).expect("a string takes everything");
        }
        out
    }
}

fn finished(open: Option<&Opt>) -> Result<(), String> {
    match open {
        Some(opt) => Err(exception("MissingArgument", &format!("Missing argument for option: {}", opt.name))),
        None => Ok(()),
    }
}

fn unrecognized(word: &str) -> String {
    exception("UnrecognizedOption", &format!("Unrecognized option: {word}"))
}

/// zkCli prints the exception with its class.
fn exception(class: &str, text: &str) -> String {
    format!("org.apache.commons.cli.{class}Exception: {text}")
}

fn unquoted(value: &str) -> &str {
    match value.strip_prefix('"').and_then(|v| v.strip_suffix('"')) {
        Some(inner) if !inner.contains('"') => inner,
        _ => value,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SET: Options = Options {
        all: &[
            Opt { name: "b", has_value: false, about: "base64" },
            Opt { name: "s", has_value: false, about: "stats" },
            Opt { name: "v", has_value: true, about: "version" },
        ],
        exclusive: false,
        required: false,
    };
    const QUOTA: Options = Options {
        all: &[
            Opt { name: "n", has_value: true, about: "num soft quota" },
            Opt { name: "b", has_value: true, about: "bytes soft quota" },
        ],
        exclusive: true,
        required: true,
    };

    #[test]
    fn lines_break_into_words() {
        for (line, wanted) in [
            ("ls /", vec!["ls", "/"]),
            ("  set  /a 'x y' \"z  w\" ", vec!["set", "/a", "x y", "z  w"]),
            ("create /a \"\" ''", vec!["create", "/a", "", ""]),
            ("a\"b c\"", vec!["a\"b", "c\""]),
            ("'open word", vec!["open", "word"]),
            ("   ", vec![]),
        ] {
            assert_eq!(words(line), wanted, "{line}");
        }
    }

    fn parse(options: &Options, line: &str) -> Result<Given, String> {
        options.parse(&words(line))
    }

    #[test]
    fn options_stand_anywhere_alone_and_in_a_row() {
        for line in
            ["set -s -v 3 /a x", "set /a x -v 3 -s", "set -sv3 /a x", "set /a -v=3 x -s", "set -sv 3 /a x"]
        {
            let g = parse(&SET, line).unwrap();
            assert_eq!((g.has("s"), g.value("v"), g.has("b")), (true, Some("3"), false), "{line}");
            assert_eq!(g.args, ["set", "/a", "x"], "{line}");
        }
        let g = parse(&SET, "set -v -1 /a -- -s").unwrap();
        assert_eq!((g.value("v"), g.has("s")), (Some("-1"), false));
        assert_eq!(g.args, ["set", "/a", "-s"]);
        assert_eq!(parse(&SET, "set /a -").unwrap().args, ["set", "/a", "-"]);
    }

    #[test]
    fn what_is_wrong_is_said_as_apache_says_it() {
        for (options, line, wanted) in [
            (&SET, "set -q /a", "UnrecognizedOptionException: Unrecognized option: -q"),
            (&SET, "set /a -5", "UnrecognizedOptionException: Unrecognized option: -5"),
            (&SET, "set --s /a", "UnrecognizedOptionException: Unrecognized option: --s"),
            (&SET, "set -sx /a", "UnrecognizedOptionException: Unrecognized option: -sx"),
            (&SET, "set /a x -v", "MissingArgumentException: Missing argument for option: v"),
            (&SET, "set -v -s /a x", "MissingArgumentException: Missing argument for option: v"),
            (
                &QUOTA,
                "setquota -n 1 -b 2 /a",
                "AlreadySelectedException: The option 'b' was specified but an option from this group has already been \
                 selected: 'n'",
            ),
            (
                &QUOTA,
                "setquota /a",
                "MissingOptionException: Missing required option: [-n num soft quota, -b bytes soft quota]",
            ),
        ] {
            assert_eq!(
                parse(options, line).unwrap_err(),
                format!("org.apache.commons.cli.{wanted}"),
                "{line}"
            );
        }
    }

    #[test]
    fn the_table_of_options_is_aligned() {
        assert_eq!(SET.help(), " -b         base64\n -s         stats\n -v <arg>   version\n");
    }
}

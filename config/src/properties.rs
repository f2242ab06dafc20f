//! Java's `.properties` syntax, as `java.util.Properties.load` reads it.
//!
//! ```text
//! # comment        ! comment
//! key=value        key: value        key value        key
//! long=a,\
//!      b           one logical line "a,b": the backslash, the line end and the next line's indent vanish
//! path=C:\\data    esc\=aped=x       u=\u00e4         \t \n \r \f, \uXXXX; any other \c is c
//! ```
//!
//! Two things are more tolerant than Java, and neither can change the meaning of a file that is plain ASCII: bytes that
//! are valid UTF-8 are read as UTF-8 (else as ISO-8859-1), and a UTF-8 byte order mark at the start is dropped.

use std::fmt;

/// One `key=value` of the file, unescaped, and trimmed as ZooKeeper trims it.
#[derive(Clone, PartialEq, Eq)]
pub struct Entry {
    /// The key; may be empty (`=x`).
    pub key: String,
    /// The value; empty when there was none.
    pub value: String,
    /// The line the entry starts on, from 1.
    pub line: u32,
}

impl fmt::Debug for Entry {
    /// Secrets stay out of logs even when somebody prints the raw configuration.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}={:?}", self.line, self.key, crate::keys::shown(&self.key, &self.value))
    }
}

/// The one thing `Properties.load` can't read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadEscape {
    /// The line the entry starts on, from 1.
    pub line: u32,
}

/// All entries in file order; duplicates are kept (the later one wins, but a report wants to show both).
///
/// # Errors
/// A `\u` that is not followed by four hex digits.
pub fn parse(bytes: &[u8]) -> Result<Vec<Entry>, BadEscape> {
    let text = decode(bytes);
    let mut lines = natural_lines(&text).peekable();
    let mut entries = Vec::new();
    while let Some((line, first)) = lines.next() {
        let start = first.trim_start_matches(is_blank);
        if start.is_empty() || start.starts_with(['#', '!']) {
            continue;
        }
        let mut logical = start.to_owned();
        while ends_in_odd_backslashes(&logical) {
            logical.pop();
            match lines.next() {
                Some((_, more)) => logical.push_str(more.trim_start_matches(is_blank)),
                None => break,
            }
        }
        entries.push(entry(&logical, line)?);
    }
    Ok(entries)
}

fn decode(bytes: &[u8]) -> String {
    match std::str::from_utf8(bytes) {
        Ok(text) => text.strip_prefix('\u{feff}').unwrap_or(text).to_owned(),
        Err(_) => bytes.iter().map(|&b| char::from(b)).collect(),
    }
}

/// Lines ended by `\n`, `\r` or `\r\n`, numbered from 1.
fn natural_lines(text: &str) -> impl Iterator<Item = (u32, &str)> {
    let mut rest = Some(text);
    let mut number = 0u32;
    std::iter::from_fn(move || {
        let text = rest?;
        number = number.saturating_add(1);
        match text.find(['\n', '\r']) {
            None => {
                rest = None;
                Some((number, text))
            }
            Some(at) => {
                let after = &text[at..];
                rest = Some(after.strip_prefix("\r\n").unwrap_or(&after[1..]));
                Some((number, &text[..at]))
            }
        }
    })
}

/// What Java's reader calls white space: not the line ends, and nothing beyond ASCII.
fn is_blank(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\x0c')
}

fn ends_in_odd_backslashes(line: &str) -> bool {
    line.bytes().rev().take_while(|&b| b == b'\\').count() % 2 == 1
}

fn entry(logical: &str, line: u32) -> Result<Entry, BadEscape> {
    let mut escaped = false;
    let key_len = logical
        .char_indices()
        .find(|&(_, c)| {
            let ends = !escaped && (matches!(c, '=' | ':') || is_blank(c));
            escaped = !escaped && c == '\\';
            ends
        })
        .map_or(logical.len(), |(at, _)| at);
    let (key, rest) = logical.split_at(key_len);
    let rest = rest.trim_start_matches(is_blank);
    let value = rest.strip_prefix(['=', ':']).unwrap_or(rest).trim_start_matches(is_blank);
    let text = |s| unescape(s).map(|s| java_trim(&s).to_owned()).ok_or(BadEscape { line });
    Ok(Entry { key: text(key)?, value: text(value)?, line })
}

/// UTF-16 underneath, because `\uD83D\uDE00` is one character written as two escapes.
fn unescape(text: &str) -> Option<String> {
    if !text.contains('\\') {
        return Some(text.to_owned());
    }
    let mut units: Vec<u16> = Vec::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        let c = match c {
            '\\' => match chars.next() {
                None => break,
                Some('t') => '\t',
                Some('n') => '\n',
                Some('r') => '\r',
                Some('f') => '\x0c',
                Some('u') => {
                    let mut unit = 0u32;
                    for _ in 0..4 {
                        unit = unit * 16 + chars.next()?.to_digit(16)?;
                    }
                    units.push(u16::try_from(unit).ok()?);
                    continue;
                }
                Some(other) => other,
            },
            plain => plain,
        };
        units.extend_from_slice(c.encode_utf16(&mut [0; 2]));
    }
    Some(String::from_utf16_lossy(&units))
}

/// `String.trim`: everything up to U+0020 at both ends.
fn java_trim(s: &str) -> &str {
    s.trim_matches(|c| c <= ' ')
}

#[cfg(test)]
mod tests {
    use super::*;

    type Row<'a> = (&'a str, &'a [(&'a str, &'a str, u32)]);

    #[test]
    fn reads_what_java_reads() {
        // Each expectation follows the grammar in the documentation of java.util.Properties.load.
        let table: &[Row<'_>] = &[
            ("", &[]),
            ("\n\r\n\r  \t\n", &[]),
            ("a=b", &[("a", "b", 1)]),
            ("a:b\nc d\ne", &[("a", "b", 1), ("c", "d", 2), ("e", "", 3)]),
            ("  a \t=\x0c b  ", &[("a", "b", 1)]),
            ("a = = b", &[("a", "= b", 1)]),
            ("a  b=c", &[("a", "b=c", 1)]),
            ("a==b", &[("a", "=b", 1)]),
            ("# x=1\n  ! y=2\nz=3", &[("z", "3", 3)]),
            ("a=b # not a comment", &[("a", "b # not a comment", 1)]),
            ("# no continuation \\\na=1", &[("a", "1", 2)]),
            ("a=1,\\\n   2,\\\r\n\t3\nb=4", &[("a", "1,2,3", 1), ("b", "4", 4)]),
            ("a=1\\\n# inside", &[("a", "1# inside", 1)]),
            ("a=1\\\n\nb=2", &[("a", "1", 1), ("b", "2", 3)]),
            ("a=1\\\\\nb=2", &[("a", "1\\", 1), ("b", "2", 2)]),
            ("a=1\\", &[("a", "1", 1)]),
            ("a\\=b\\:c\\ d=e", &[("a=b:c d", "e", 1)]),
            ("p=C:\\\\data\\zk", &[("p", "C:\\datazk", 1)]),
            ("p=\\u0041\\u00e4\\uD83D\\uDE00", &[("p", "Aä😀", 1)]),
            ("p=x\\ty", &[("p", "x\ty", 1)]),
            ("=v", &[("", "v", 1)]),
            ("a=1\na=2", &[("a", "1", 1), ("a", "2", 2)]),
            ("\u{feff}a=1", &[("a", "1", 1)]),
            ("a=1\rb=2", &[("a", "1", 1), ("b", "2", 2)]),
        ];
        for (text, want) in table {
            let got = parse(text.as_bytes()).unwrap();
            let got: Vec<_> = got.iter().map(|e| (e.key.as_str(), e.value.as_str(), e.line)).collect();
            assert_eq!(got, *want, "for {text:?}");
        }
    }

    #[test]
    fn latin_1_where_it_is_not_utf_8() {
        assert_eq!(parse(b"a=\xe4").unwrap()[0].value, "ä");
        assert_eq!(parse("a=ä".as_bytes()).unwrap()[0].value, "ä");
    }

    #[test]
    fn a_broken_unicode_escape_names_its_line() {
        for text in ["x=1\na=\\u12", "x=1\na=\\u12g4", "x=1\na=\\u"] {
            assert_eq!(parse(text.as_bytes()), Err(BadEscape { line: 2 }), "for {text:?}");
        }
    }

    #[test]
    fn debug_output_keeps_secrets() {
        let entries = parse(b"ssl.keyStore.password=hunter2\ntickTime=7").unwrap();
        let text = format!("{entries:?}");
        assert!(!text.contains("hunter2") && text.contains('7'), "{text}");
    }
}

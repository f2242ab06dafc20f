//! Paths of znodes (semantics, section 1).

/// Why a path is refused, in words for an error message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum PathError {
    /// The path is empty.
    Empty,
    /// The path does not start with `/`.
    NotAbsolute,
    /// The path ends with `/`.
    TrailingSlash,
    /// Two slashes in a row.
    EmptyComponent,
    /// A component is `.` or `..`.
    Relative,
    /// A character that paths may not hold.
    Character(char),
}

impl core::fmt::Display for PathError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            PathError::Empty => f.write_str("the path is empty"),
            PathError::NotAbsolute => f.write_str("the path does not start with /"),
            PathError::TrailingSlash => f.write_str("the path ends with /"),
            PathError::EmptyComponent => f.write_str("the path has an empty component"),
            PathError::Relative => f.write_str("the path has a component . or .."),
            PathError::Character(c) => write!(f, "the path holds the character {:#06x}", *c as u32),
        }
    }
}

impl core::error::Error for PathError {}

/// Checks a whole path as Apache does. Every character beyond the basic plane is refused, since Apache sees
/// it as two surrogates.
pub fn validate(path: &str) -> Result<(), PathError> {
    if is_plain(path.as_bytes()) {
        return Ok(());
    }
    if path.is_empty() {
        return Err(PathError::Empty);
    }
    let Some(rest) = path.strip_prefix('/') else { return Err(PathError::NotAbsolute) };
    if rest.is_empty() {
        return Ok(());
    }
    if rest.ends_with('/') {
        return Err(PathError::TrailingSlash);
    }
    for component in rest.split('/') {
        match component {
            "" => return Err(PathError::EmptyComponent),
            "." | ".." => return Err(PathError::Relative),
            _ => {}
        }
    }
    match rest.chars().find(|&c| is_forbidden(c)) {
        Some(c) => Err(PathError::Character(c)),
        None => Ok(()),
    }
}

/// Whether a path is one of those that nearly all are: printable ASCII below the root, no component that is empty or
/// begins with a dot. One pass without branches; whatever else may still be valid.
fn is_plain(path: &[u8]) -> bool {
    let [b'/', rest @ ..] = path else { return false };
    let odd = rest.iter().zip(path).fold(false, |odd, (&b, &before)| {
        odd | !(0x20..0x7f).contains(&b) | (before == b'/') & ((b == b'/') | (b == b'.'))
    });
    rest.last().is_some_and(|&b| b != b'/') && !odd
}

fn is_forbidden(c: char) -> bool {
    matches!(c as u32, 0..=0x1f | 0x7f..=0x9f | 0xd800..=0xf8ff | 0xfff0..)
}

/// The parent of a path: the text before the last `/`, `/` for children of the root. `None` for the root,
/// for the empty path and for text without a slash.
pub fn parent(path: &str) -> Option<&str> {
    match path.rfind('/') {
        Some(0) if path.len() > 1 => Some("/"),
        Some(0) | None => None,
        Some(at) => Some(&path[..at]),
    }
}

/// The last component of a path.
pub fn name(path: &str) -> &str {
    path.rfind('/').map_or(path, |at| &path[at + 1..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_accepted_and_refused_as_apache_does() {
        for ok in ["/", "/a", "/a/b", "/...", "/a b", "/\u{2028}", "/\u{a0}", "/\u{f900}", "/\u{ffef}", "/.a"]
        {
            assert_eq!(validate(ok), Ok(()), "{ok:?}");
        }
        for bad in [
            "",
            "a",
            "/a/",
            "//",
            "/a//b",
            "/.",
            "/a/..",
            "/./a",
            "/\0",
            "/\u{1f}",
            "/\u{7f}",
            "/\u{85}",
            "/\u{e000}",
            "/\u{f8ff}",
            "/\u{fff0}",
            "/\u{fffd}",
            "/\u{1f600}",
        ] {
            assert!(validate(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn the_short_way_takes_nothing_that_the_rules_refuse() {
        let rules = |path: &str| {
            let Some(rest) = path.strip_prefix('/') else { return false };
            let whole = |c: &str| !["", ".", ".."].contains(&c);
            rest.is_empty() || rest.split('/').all(whole) && !rest.chars().any(is_forbidden)
        };
        let mut paths = alloc::vec![alloc::string::String::new()];
        let mut from = 0;
        for _ in 0..6 {
            let end = paths.len();
            for i in from..end {
                for c in ['/', '.', 'a', '\u{7f}', '\u{e9}'] {
                    let longer = alloc::format!("{}{c}", paths[i]);
                    paths.push(longer);
                }
            }
            from = end;
        }
        assert_eq!(paths.len(), 19_531);
        for path in &paths {
            assert_eq!(validate(path).is_ok(), rules(path), "{path:?}");
        }
    }

    #[test]
    fn parents_and_names() {
        assert_eq!(parent("/"), None);
        assert_eq!(parent(""), None);
        assert_eq!(parent("a"), None);
        assert_eq!(parent("/a"), Some("/"));
        assert_eq!(parent("/a/b"), Some("/a"));
        assert_eq!(parent("/a/"), Some("/a"));
        assert_eq!(name("/a/b"), "b");
    }
}

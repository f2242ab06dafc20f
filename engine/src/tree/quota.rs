//! Quotas: which paths carry one, and the text of their znodes (semantics, section 7).
//!
//! ```text
//! /zookeeper/quota<path>/zookeeper_limits    makes <path> a quota
//! /zookeeper/quota<path>/zookeeper_stats     the counts below <path>, kept by the server
//! ```

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::collections::BTreeSet;

/// Where the znodes of quotas lie.
pub(crate) const QUOTA: &str = "/zookeeper/quota";
/// The name of a znode of limits.
pub(crate) const LIMITS: &str = "zookeeper_limits";
/// The name of a znode of counts.
pub(crate) const STATS: &str = "zookeeper_stats";

/// The path whose quota is kept in children of `parent`, if `parent` lies in the quota tree.
pub(crate) fn subject(parent: &str) -> Option<&str> {
    parent.strip_prefix(QUOTA).filter(|s| s.len() > 1 && s.starts_with('/'))
}

/// The znode that counts what lies below `prefix`.
pub(crate) fn stats_path(prefix: &str) -> String {
    format!("{QUOTA}{prefix}/{STATS}")
}

/// The znode of the limits of `prefix`.
pub(crate) fn limits_path(prefix: &str) -> String {
    format!("{QUOTA}{prefix}/{LIMITS}")
}

/// The paths that carry a quota.
#[derive(Debug, Default)]
pub(crate) struct QuotaPaths {
    prefixes: BTreeSet<Box<str>>,
}

impl QuotaPaths {
    pub(crate) fn is_empty(&self) -> bool {
        self.prefixes.is_empty()
    }

    pub(crate) fn add(&mut self, path: &str) {
        let path = without_blanks(path);
        if !path.is_empty() {
            self.prefixes.insert(path.into());
        }
    }

    pub(crate) fn remove(&mut self, path: &str) {
        self.prefixes.remove(&*without_blanks(path));
    }

    pub(crate) fn clear(&mut self) {
        self.prefixes.clear();
    }

    /// The longest path with a quota at or above `path`.
    pub(crate) fn covering(&self, path: &str) -> Option<&str> {
        if self.prefixes.is_empty() {
            return None;
        }
        let path = without_blanks(path);
        let mut end = path.len();
        while end > 0 {
            if let Some(found) = self.prefixes.get(&path[..end]) {
                return Some(found);
            }
            end = path[..end].rfind('/')?;
        }
        None
    }
}

/// Apache's trie of quotas does not see components of blanks only.
fn without_blanks(path: &str) -> Cow<'_, str> {
    let blank = |c: &str| c.trim_matches(|ch| ch <= ' ').is_empty();
    if !path.split('/').skip(1).any(blank) && path.starts_with('/') {
        return Cow::Borrowed(path);
    }
    let mut out = String::with_capacity(path.len());
    for component in path.split('/').filter(|c| !blank(c)) {
        out.push('/');
        out.push_str(component);
    }
    Cow::Owned(out)
}

/// The numbers of a limits or stats znode. What can't be read counts as not set.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Numbers(BTreeMap<String, i64>);

impl Numbers {
    pub(crate) const COUNT: &'static str = "count";
    pub(crate) const BYTES: &'static str = "bytes";
    pub(crate) const COUNT_HARD: &'static str = "countHardLimit";
    pub(crate) const BYTES_HARD: &'static str = "byteHardLimit";

    pub(crate) fn parse(text: &[u8]) -> Numbers {
        let text = String::from_utf8_lossy(text);
        let mut numbers = BTreeMap::new();
        for pair in text.split([',', ';']).filter(|p| !p.is_empty()) {
            let mut parts = pair.split('=');
            if let (Some(key), Some(Ok(n))) = (parts.next(), parts.next().map(str::parse)) {
                numbers.insert(key.into(), n);
            }
        }
        Numbers(numbers)
    }

    /// −1 where it is not set.
    pub(crate) fn get(&self, key: &str) -> i64 {
        self.0.get(key).copied().unwrap_or(-1)
    }

    pub(crate) fn set(&mut self, key: &str, n: i64) {
        self.0.insert(key.into(), n);
    }

    /// The text of a stats znode: count and bytes first, other keys behind a mark that old readers stop at.
    pub(crate) fn text(&self) -> String {
        let mut out =
            format!("{}={},{}={}", Self::COUNT, self.get(Self::COUNT), Self::BYTES, self.get(Self::BYTES));
        let others = self.0.iter().filter(|(k, _)| *k != Self::COUNT && *k != Self::BYTES);
        for (i, (key, n)) in others.enumerate() {
            out.push_str(if i == 0 { "=;" } else { ";" });
            out.push_str(&format!("{key}={n}"));
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_quota_covers() {
        let mut q = QuotaPaths::default();
        assert_eq!(q.covering("/a"), None);
        q.add("/a");
        q.add("/a/b/c");
        for (path, want) in [
            ("/a", Some("/a")),
            ("/a/b", Some("/a")),
            ("/a/b/c", Some("/a/b/c")),
            ("/a/b/c/d/e", Some("/a/b/c")),
            ("/a/b/cd", Some("/a")),
            ("/ab", None),
            ("/", None),
            ("", None),
            ("/a/ /b/c/d", Some("/a/b/c")),
        ] {
            assert_eq!(q.covering(path), want, "{path}");
        }
        q.remove("/a");
        assert_eq!(q.covering("/a/b"), None);
        assert_eq!(q.covering("/a/b/c"), Some("/a/b/c"));
        q.add("/");
        q.add("");
        assert_eq!(q.covering("/x"), None, "the root carries no quota");
    }

    #[test]
    fn subjects_of_the_quota_tree() {
        assert_eq!(subject("/zookeeper/quota/a/b"), Some("/a/b"));
        for none in ["/zookeeper/quota", "/zookeeper/quota/", "/zookeeper/quotas/a", "/a"] {
            assert_eq!(subject(none), None, "{none}");
        }
        assert_eq!(stats_path("/a"), "/zookeeper/quota/a/zookeeper_stats");
        assert_eq!(limits_path("/a"), "/zookeeper/quota/a/zookeeper_limits");
    }

    #[test]
    fn texts() {
        for (text, count, bytes, count_hard, back) in [
            ("count=1,bytes=2", 1, 2, -1, "count=1,bytes=2"),
            ("", -1, -1, -1, "count=-1,bytes=-1"),
            ("nonsense", -1, -1, -1, "count=-1,bytes=-1"),
            ("count=x,bytes=7", -1, 7, -1, "count=-1,bytes=7"),
            ("bytes=5", -1, 5, -1, "count=-1,bytes=5"),
            (
                "count=-1,bytes=-1=;byteHardLimit=-1;countHardLimit=4",
                -1,
                -1,
                4,
                "count=-1,bytes=-1=;byteHardLimit=-1;countHardLimit=4",
            ),
        ] {
            let n = Numbers::parse(text.as_bytes());
            assert_eq!(
                (n.get(Numbers::COUNT), n.get(Numbers::BYTES), n.get(Numbers::COUNT_HARD), &*n.text()),
                (count, bytes, count_hard, back),
                "{text}"
            );
        }
        assert_eq!(Numbers::parse(b"byteHardLimit=3").get(Numbers::BYTES_HARD), 3);
    }
}

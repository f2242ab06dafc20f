//! What hard quotas refused, by top-level path: a figure for the metrics, no part of the replicated state.

use crate::limits;
use std::collections::HashMap;

/// How often writes below each top-level path were refused, at most [`limits::QUOTA_REFUSALS`] paths of them.
#[derive(Debug, Default)]
pub(crate) struct Refused(HashMap<Box<str>, u64>);

impl Refused {
    /// A write to `path` was refused.
    pub(crate) fn note(&mut self, path: &str) {
        let top = path.split('/').nth(1).unwrap_or_default();
        let mut end = top.len().min(limits::QUOTA_REFUSAL_BYTES);
        while !top.is_char_boundary(end) {
            end -= 1;
        }
        let top = &top[..end];
        if let Some(count) = self.0.get_mut(top) {
            *count += 1;
            return;
        }
        if self.0.len() == limits::QUOTA_REFUSALS {
            // The one that was refused least makes room; should it come back, it begins anew: a count is never too high.
            if let Some(least) = self.0.iter().min_by_key(|(_, count)| **count).map(|(top, _)| top.clone()) {
                self.0.remove(&least);
            }
        }
        self.0.insert(top.into(), 1);
    }

    /// The paths, without their slash, and the counts; in the order of the paths.
    pub(crate) fn counts(&self) -> Vec<(Box<str>, u64)> {
        let mut all: Vec<_> = self.0.iter().map(|(top, count)| (top.clone(), *count)).collect();
        all.sort_unstable();
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_top_level_path_counts_and_the_table_is_bounded() {
        let mut refused = Refused::default();
        for path in ["/a/b/c", "/a", "/b", "/a/x"] {
            refused.note(path);
        }
        let long = "é".repeat(limits::QUOTA_REFUSAL_BYTES);
        refused.note(&format!("/{long}/x"));
        let found = refused.counts();
        assert_eq!(found[..2], [("a".into(), 3), ("b".into(), 1)]);
        assert_eq!(found[2].0.len(), limits::QUOTA_REFUSAL_BYTES);
        for i in 0..3 * limits::QUOTA_REFUSALS {
            refused.note(&format!("/n{i}"));
        }
        let found = refused.counts();
        assert_eq!(
            (found.len(), &found[0]),
            (limits::QUOTA_REFUSALS, &("a".into(), 3)),
            "the most refused stays"
        );
    }
}

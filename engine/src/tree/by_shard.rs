//! Work in the order of the shards that it concerns.

/// Sorts the numbers of items by their shards. Its vectors are used again.
#[derive(Debug, Default)]
pub(super) struct ByShard {
    /// Where the items of each shard end in `order`.
    ends: Vec<u32>,
    order: Vec<u32>,
}

impl ByShard {
    /// Puts the items, given by their shards' numbers, in order. Those of one shard keep theirs.
    ///
    /// # Panics
    /// When there are four billion of them; a batch is small.
    pub(super) fn sort(&mut self, shards: usize, items: impl ExactSizeIterator<Item = usize> + Clone) {
        self.ends.clear();
        self.ends.resize(shards, 0);
        self.order.clear();
        self.order.resize(items.len(), 0);
        for shard in items.clone() {
            self.ends[shard] += 1;
        }
        let mut start = 0;
        for end in &mut self.ends {
            start += std::mem::replace(end, start);
        }
        for (n, shard) in items.enumerate() {
            let place = &mut self.ends[shard];
            self.order[*place as usize] = u32::try_from(n).expect("a batch is small");
            *place += 1;
        }
    }

    /// Each shard that has items, with their numbers.
    pub(super) fn groups(&mut self) -> impl Iterator<Item = (usize, &mut [u32])> {
        let (mut rest, mut start) = (&mut self.order[..], 0);
        let groups = self.ends.iter().enumerate().map(move |(shard, &end)| {
            let (group, after) = std::mem::take(&mut rest).split_at_mut((end - start) as usize);
            (rest, start) = (after, end);
            (shard, group)
        });
        groups.filter(|(_, group)| !group.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_shard_gets_its_own_in_their_order() {
        let mut sorted = ByShard::default();
        for items in [vec![], vec![3, 0, 3, 7, 0, 3], vec![5; 9], (0..8).rev().collect()] {
            sorted.sort(8, items.iter().copied());
            let groups: Vec<(usize, Vec<u32>)> = sorted.groups().map(|(s, n)| (s, n.to_vec())).collect();
            let wanted: Vec<(usize, Vec<u32>)> = (0..8)
                .map(|s| (s, (0..items.len() as u32).filter(|&n| items[n as usize] == s).collect::<Vec<_>>()))
                .filter(|(_, of)| !of.is_empty())
                .collect();
            assert_eq!(groups, wanted);
        }
    }
}

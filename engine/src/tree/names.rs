//! A set of names that grows and shrinks by one small bucket at a time.
//!
//! A parent may have a million children. A hash table that doubles would stop every reader and the applier for
//! tens of milliseconds; here the names lie packed in buckets of about a dozen, and a linear hash (Litwin,
//! "Linear Hashing", 1980) splits or merges one bucket per insertion or removal. A name costs its bytes and two
//! or three more.
//!
//! ```text
//! bucket:  | len | name | len | name | ...     len: one byte; 255 announces four bytes, little endian
//! ```

use super::hash::PathHash;

/// Up to this many names live in one bucket without any table.
const FEW: usize = 24;
/// A bucket is split when there are more names per bucket than this on average.
const SPLIT_ABOVE: usize = 12;
/// Two buckets are merged when there are fewer names per bucket than this on average.
const MERGE_BELOW: usize = 4;
/// Bytes that a bucket gets with its first name, at most: names may be long, and then the next one need not be.
const FIRST_MAX: usize = 512;
/// Buckets per chunk of the table, so that the table itself never moves as a whole.
const CHUNK: usize = 256;

/// A set of names; the order of iteration means nothing.
#[derive(Debug, Default)]
pub(crate) struct NameSet {
    len: usize,
    name_bytes: usize,
    /// The only bucket while the set is small, else empty.
    few: Bucket,
    many: Option<Box<Buckets>>,
}

/// The buckets of a linear hash: `round` is the power of two that this round of splits started with, `split`
/// how many of those buckets are split already.
#[derive(Debug)]
struct Buckets {
    round: usize,
    split: usize,
    chunks: Vec<Vec<Bucket>>,
    /// Names that a bucket gets room for with its first one.
    room: usize,
}

/// Packed names.
#[derive(Debug, Default)]
struct Bucket(Vec<u8>);

impl NameSet {
    /// Names in the set.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Bytes of all names.
    pub(crate) fn name_bytes(&self) -> usize {
        self.name_bytes
    }

    /// Adds a name; false if it is there already.
    pub(crate) fn insert(&mut self, hash: &PathHash, name: &[u8]) -> bool {
        let absent = !self.contains(hash, name);
        if absent {
            self.add(hash, name);
        }
        absent
    }

    /// Adds a name that is known not to be there: neither looks through its bucket nor loads it.
    pub(crate) fn add(&mut self, hash: &PathHash, name: &[u8]) {
        debug_assert!(!self.contains(hash, name));
        let bucket = match &mut self.many {
            None => &mut self.few,
            Some(many) => {
                let room = many.room;
                let bucket = many.of_hash_mut(hash.of(name));
                if bucket.0.capacity() == 0 {
                    bucket.0.reserve_exact((room * (head_len(name) + name.len())).min(FIRST_MAX));
                }
                bucket
            }
        };
        bucket.push(name);
        self.len += 1;
        self.name_bytes += name.len();
        match &mut self.many {
            None if self.len > FEW => {
                let mut many = Box::new(Buckets::new());
                *many.bucket_mut(0) = std::mem::take(&mut self.few);
                while self.len > many.len() * SPLIT_ABOVE {
                    many.split_one(hash);
                }
                self.many = Some(many);
            }
            Some(many) if self.len > many.len() * SPLIT_ABOVE => many.split_one(hash),
            _ => {}
        }
    }

    /// Makes the table for `names` more, so that no bucket need be split on the way there.
    pub(crate) fn reserve(&mut self, names: usize) {
        if self.is_empty() && names > FEW {
            self.many = Some(Box::new(Buckets::with_len(names.div_ceil(SPLIT_ABOVE))));
        }
    }

    /// Removes a name; false if it is not there.
    pub(crate) fn remove(&mut self, hash: &PathHash, name: &[u8]) -> bool {
        let bucket = match &mut self.many {
            None => &mut self.few,
            Some(many) => many.of_hash_mut(hash.of(name)),
        };
        if !bucket.remove(name) {
            return false;
        }
        self.len -= 1;
        self.name_bytes -= name.len();
        if let Some(many) = &mut self.many {
            if self.len <= FEW / 2 {
                for name in many.chunks.iter().flatten().flat_map(Bucket::names) {
                    self.few.push(name);
                }
                self.many = None;
            } else if self.len < many.len() * MERGE_BELOW {
                many.merge_one();
            }
        }
        true
    }

    /// Whether the name is in the set.
    pub(crate) fn contains(&self, hash: &PathHash, name: &[u8]) -> bool {
        match &self.many {
            None => self.few.find(name).is_some(),
            Some(many) => many.bucket(many.place(hash.of(name))).find(name).is_some(),
        }
    }

    /// The names.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &[u8]> {
        let many = self.many.iter().flat_map(|m| m.chunks.iter().flatten());
        std::iter::once(&self.few).chain(many).flat_map(Bucket::names)
    }

    /// Places to ask [`NameSet::names_at`] for.
    pub(crate) fn places(&self) -> usize {
        self.many.as_ref().map_or(1, |m| m.len())
    }

    /// The names of one place, a few at most. Who asks place by place while the set changes may see a name
    /// twice or miss one.
    pub(crate) fn names_at(&self, place: usize) -> impl Iterator<Item = &[u8]> {
        match &self.many {
            None => self.few.names(),
            Some(m) if place < m.len() => m.bucket(place).names(),
            Some(_) => Names(&[]),
        }
    }
}

impl Buckets {
    fn new() -> Buckets {
        Buckets { round: 1, split: 0, chunks: vec![vec![Bucket::default()]], room: 1 }
    }

    fn with_len(len: usize) -> Buckets {
        let round = 1 << len.max(1).ilog2();
        let mut chunks = Vec::with_capacity(len.div_ceil(CHUNK));
        for at in (0..len).step_by(CHUNK) {
            chunks.push((at..len.min(at + CHUNK)).map(|_| Bucket::default()).collect());
        }
        Buckets { round, split: len - round, chunks, room: SPLIT_ABOVE }
    }

    fn len(&self) -> usize {
        self.round + self.split
    }

    fn place(&self, h: u64) -> usize {
        let h = h as usize;
        let place = h & (self.round - 1);
        if place < self.split { h & (2 * self.round - 1) } else { place }
    }

    fn bucket(&self, place: usize) -> &Bucket {
        &self.chunks[place / CHUNK][place % CHUNK]
    }

    fn bucket_mut(&mut self, place: usize) -> &mut Bucket {
        &mut self.chunks[place / CHUNK][place % CHUNK]
    }

    fn of_hash_mut(&mut self, h: u64) -> &mut Bucket {
        let place = self.place(h);
        self.bucket_mut(place)
    }

    /// Divides the next bucket of the round between itself and a new last one.
    fn split_one(&mut self, hash: &PathHash) {
        let (from, to) = (self.split, self.len());
        let old = std::mem::take(self.bucket_mut(from));
        let room = || Bucket(Vec::with_capacity(old.0.len() * 5 / 8));
        let (mut stay, mut go) = (room(), room());
        for name in old.names() {
            let moves = hash.of(name) as usize & self.round != 0;
            if moves { &mut go } else { &mut stay }.push(name);
        }
        *self.bucket_mut(from) = stay;
        if to.is_multiple_of(CHUNK) {
            self.chunks.push(Vec::new());
        }
        self.chunks[to / CHUNK].push(go);
        self.split += 1;
        if self.split == self.round {
            self.round *= 2;
            self.split = 0;
        }
    }

    /// Undoes the last split.
    fn merge_one(&mut self) {
        if self.len() == 1 {
            return;
        }
        if self.split == 0 {
            self.round /= 2;
            self.split = self.round;
        }
        self.split -= 1;
        let from = self.len();
        let last = self.chunks[from / CHUNK].pop().expect("the last bucket lies at the end of its chunk");
        if self.chunks[from / CHUNK].is_empty() {
            self.chunks.pop();
        }
        let into = self.split;
        self.bucket_mut(into).0.extend_from_slice(&last.0);
    }
}

impl Bucket {
    fn names(&self) -> Names<'_> {
        Names(&self.0)
    }

    /// Where the entry of a name starts.
    fn find(&self, name: &[u8]) -> Option<usize> {
        let mut names = self.names();
        loop {
            let at = self.0.len() - names.0.len();
            // Siblings often differ at their ends only.
            let there = names.next()?;
            if there.last() == name.last() && there == name {
                return Some(at);
            }
        }
    }

    fn push(&mut self, name: &[u8]) {
        let head = head_len(name);
        let more = head + name.len();
        if self.0.capacity() - self.0.len() < more {
            // Half as much again wastes less than twice as much.
            self.0.reserve_exact(more.max(self.0.len() / 2));
        }
        if head == 1 {
            self.0.push(name.len() as u8);
        } else {
            let len = u32::try_from(name.len()).expect("a name comes in a frame far below 4 GiB");
            self.0.push(u8::MAX);
            self.0.extend_from_slice(&len.to_le_bytes());
        }
        self.0.extend_from_slice(name);
    }

    fn remove(&mut self, name: &[u8]) -> bool {
        let Some(at) = self.find(name) else { return false };
        self.0.drain(at..at + head_len(name) + name.len());
        if self.0.capacity() > 64 && self.0.len() < self.0.capacity() / 4 {
            self.0.shrink_to(self.0.len() * 2);
        }
        true
    }
}

fn head_len(name: &[u8]) -> usize {
    if name.len() < usize::from(u8::MAX) { 1 } else { 5 }
}

/// The names of a bucket.
struct Names<'a>(&'a [u8]);

impl<'a> Iterator for Names<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let (&first, rest) = self.0.split_first()?;
        let (len, rest) = if first < u8::MAX {
            (usize::from(first), rest)
        } else {
            let (len, rest) = rest.split_first_chunk::<4>()?;
            (u32::from_le_bytes(*len) as usize, rest)
        };
        let (name, rest) = rest.split_at_checked(len)?;
        self.0 = rest;
        Some(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    fn check(set: &NameSet, model: &BTreeSet<Vec<u8>>) {
        let mut names: Vec<&[u8]> = set.iter().collect();
        names.sort_unstable();
        assert_eq!(names, model.iter().map(Vec::as_slice).collect::<Vec<_>>());
        assert_eq!(set.len(), model.len());
        assert_eq!(set.name_bytes(), model.iter().map(Vec::len).sum::<usize>());
        let by_place: usize = (0..set.places()).map(|p| set.names_at(p).count()).sum();
        assert_eq!(by_place, model.len());
    }

    #[test]
    fn it_is_a_set_while_it_grows_and_while_it_shrinks() {
        let hash = PathHash::new(3);
        let (mut set, mut model) = (NameSet::default(), BTreeSet::new());
        let name = |i: usize| match i % 7 {
            0 => vec![b'n'; i],
            _ => format!("child-{i}").into_bytes(),
        };
        for i in 0..3000 {
            assert_eq!(set.insert(&hash, &name(i)), model.insert(name(i)));
            assert!(!set.insert(&hash, &name(i)));
            if i < 60 || i % 500 == 0 {
                check(&set, &model);
            }
        }
        assert!(!set.contains(&hash, b"other") && !set.remove(&hash, b"other"));
        for i in 0..3000 {
            assert!(set.contains(&hash, &name(i)));
            assert_eq!(set.remove(&hash, &name(i)), model.remove(&name(i)));
            assert!(!set.contains(&hash, &name(i)));
            if i > 2940 || i % 500 == 0 {
                check(&set, &model);
            }
        }
        assert!(set.is_empty() && set.many.is_none());
    }

    #[test]
    fn buckets_stay_small_at_every_size() {
        let hash = PathHash::new(3);
        let mut set = NameSet::default();
        for i in 0..40_000 {
            set.insert(&hash, format!("{i:010}").as_bytes());
        }
        let most = (0..set.places()).map(|p| set.names_at(p).count()).max().unwrap();
        assert!(most < 6 * SPLIT_ABOVE, "{most} names in one bucket");
        for i in 0..39_900 {
            set.remove(&hash, format!("{i:010}").as_bytes());
        }
        assert!(set.places() <= 100 / MERGE_BELOW + 1, "{} buckets for 100 names", set.places());
    }

    #[test]
    fn it_is_a_set_however_many_names_were_expected() {
        let hash = PathHash::new(3);
        for expected in [0, 1, 24, 25, 26, 3000, 3072, 3073, 9000] {
            let (mut set, mut model) = (NameSet::default(), BTreeSet::new());
            set.reserve(expected);
            check(&set, &model);
            for i in 0..3500 {
                let name = format!("child-{i}").into_bytes();
                set.add(&hash, &name);
                model.insert(name);
                if i < 30 || i % 500 == 0 {
                    check(&set, &model);
                }
            }
            assert!(set.contains(&hash, b"child-77") && !set.contains(&hash, b"child-3500"));
            for i in 0..3500 {
                let name = format!("child-{i}").into_bytes();
                assert!(set.remove(&hash, &name) && model.remove(&name));
                if i > 3460 || i % 500 == 0 {
                    check(&set, &model);
                }
            }
            assert!(set.is_empty());
        }
    }

    #[test]
    fn names_of_every_length_are_kept_apart() {
        let hash = PathHash::new(3);
        let mut set = NameSet::default();
        for len in [0, 1, 253, 254, 255, 256, 70_000] {
            assert!(set.insert(&hash, &vec![b'a'; len]));
        }
        for len in [0, 1, 253, 254, 255, 256, 70_000] {
            assert!(set.contains(&hash, &vec![b'a'; len]), "{len}");
            assert!(!set.contains(&hash, &vec![b'a'; len + 5]), "{len}");
        }
        assert_eq!(set.len(), 7);
    }
}

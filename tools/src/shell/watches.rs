//! The watches of the session, as Apache's client keeps them for its default watcher: five sets of paths.

use proto::client::EventType;
use std::collections::BTreeSet;

/// The kinds of watches.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// On a znode's value and existence.
    Data,
    /// On a znode that did not exist.
    Exist,
    /// On the list of children.
    Child,
    /// On a znode, not used up by an event.
    Persistent,
    /// On a subtree, not used up by an event.
    PersistentRecursive,
}

/// What `removewatches` names.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Removal {
    /// `-c`.
    Children,
    /// `-d`.
    Data,
    /// `-a`, and without an option.
    Any,
    /// `-p`.
    Persistent,
    /// `-r`.
    PersistentRecursive,
}

impl Removal {
    /// The number on the wire.
    pub fn wire(self) -> i32 {
        match self {
            Removal::Children => 1,
            Removal::Data => 2,
            Removal::Any => 3,
            Removal::Persistent => 4,
            Removal::PersistentRecursive => 5,
        }
    }
}

/// Which watches are set, by path as the client writes it.
#[derive(Debug, Default)]
pub struct Watches {
    /// [`Kind::Data`].
    pub data: BTreeSet<String>,
    /// [`Kind::Exist`].
    pub exist: BTreeSet<String>,
    /// [`Kind::Child`].
    pub child: BTreeSet<String>,
    /// [`Kind::Persistent`].
    pub persistent: BTreeSet<String>,
    /// [`Kind::PersistentRecursive`].
    pub recursive: BTreeSet<String>,
}

impl Watches {
    /// Notes a watch that the server has set.
    pub fn add(&mut self, kind: Kind, path: &str) {
        let set = match kind {
            Kind::Data => &mut self.data,
            Kind::Exist => &mut self.exist,
            Kind::Child => &mut self.child,
            Kind::Persistent => &mut self.persistent,
            Kind::PersistentRecursive => &mut self.recursive,
        };
        set.insert(path.to_owned());
    }

    /// Uses up the watches that an event fires; false if there was none, and the event concerns nobody.
    pub fn fire(&mut self, event: EventType, path: &str) -> bool {
        let mut fired = self.persistent.contains(path);
        let spent: &mut [&mut BTreeSet<String>] = match event {
            EventType::NodeCreated | EventType::NodeDataChanged => &mut [&mut self.data, &mut self.exist],
            EventType::NodeChildrenChanged => &mut [&mut self.child],
            EventType::NodeDeleted => &mut [&mut self.data, &mut self.exist, &mut self.child],
        };
        for set in spent {
            fired |= set.remove(path);
        }
        // A recursive watch knows of children by their own events.
        fired || event != EventType::NodeChildrenChanged && self.has_recursive_above(path)
    }

    /// Removes watches; returns the names of the events that tell of it, none if there was no such watch.
    pub fn remove(&mut self, what: Removal, path: &str) -> Vec<&'static str> {
        let any = what == Removal::Any;
        let mut removed = Vec::new();
        if (any || what == Removal::Children) && self.child.remove(path) {
            removed.push("ChildWatchRemoved");
        }
        if any || what == Removal::Data {
            let (data, exist) = (self.data.remove(path), self.exist.remove(path));
            if data || exist {
                removed.push("DataWatchRemoved");
            }
        }
        let persistent = (any || what == Removal::Persistent) && self.persistent.remove(path);
        let recursive = (any || what == Removal::PersistentRecursive) && self.recursive.remove(path);
        if persistent || recursive {
            removed.push("PersistentWatchRemoved");
        }
        removed
    }

    /// Whether [`Watches::remove`] would find something.
    pub fn has(&self, what: Removal, path: &str) -> bool {
        let any = what == Removal::Any;
        (any || what == Removal::Children) && self.child.contains(path)
            || (any || what == Removal::Data) && (self.data.contains(path) || self.exist.contains(path))
            || (any || what == Removal::Persistent) && self.persistent.contains(path)
            || (any || what == Removal::PersistentRecursive) && self.recursive.contains(path)
    }

    /// Whether nothing is watched.
    pub fn is_empty(&self) -> bool {
        [&self.data, &self.exist, &self.child, &self.persistent, &self.recursive].iter().all(|s| s.is_empty())
    }

    fn has_recursive_above(&self, path: &str) -> bool {
        let mut at = Some(path);
        while let Some(p) = at {
            if self.recursive.contains(p) {
                return true;
            }
            at = proto::path::parent(p);
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_uses_up_the_watches_it_fires_and_no_others() {
        let mut w = Watches::default();
        for kind in [Kind::Data, Kind::Child] {
            w.add(kind, "/a");
        }
        w.add(Kind::Exist, "/b");
        assert!(w.fire(EventType::NodeDataChanged, "/a"));
        assert!(!w.fire(EventType::NodeDataChanged, "/a"), "used up");
        assert!(w.fire(EventType::NodeDeleted, "/a"), "the child watch fires too");
        assert!(w.fire(EventType::NodeCreated, "/b"));
        assert!(w.is_empty());
    }

    #[test]
    fn persistent_watches_stay_and_recursive_ones_see_the_subtree_but_no_child_events() {
        let mut w = Watches::default();
        w.add(Kind::Persistent, "/p");
        w.add(Kind::PersistentRecursive, "/r");
        for _ in 0..2 {
            assert!(w.fire(EventType::NodeChildrenChanged, "/p"));
            assert!(w.fire(EventType::NodeCreated, "/r/x/y"));
        }
        assert!(!w.fire(EventType::NodeChildrenChanged, "/r/x"));
        assert!(!w.fire(EventType::NodeCreated, "/p/x"));
        w.add(Kind::PersistentRecursive, "/");
        assert!(w.fire(EventType::NodeDeleted, "/z"));
    }

    #[test]
    fn removal_tells_of_each_kind_once() {
        let mut w = Watches::default();
        for kind in [Kind::Data, Kind::Exist, Kind::Child, Kind::Persistent, Kind::PersistentRecursive] {
            w.add(kind, "/a");
        }
        assert!(w.has(Removal::PersistentRecursive, "/a") && !w.has(Removal::Any, "/b"));
        assert_eq!(w.remove(Removal::Children, "/a"), ["ChildWatchRemoved"]);
        assert_eq!(w.remove(Removal::Any, "/a"), ["DataWatchRemoved", "PersistentWatchRemoved"]);
        assert!(w.remove(Removal::Any, "/a").is_empty());
    }
}

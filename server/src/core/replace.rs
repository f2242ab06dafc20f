//! Another state in the place of this server's: what an operator asks for with the command `restore`.
//!
//! The new state gets the next zxid, so that no client, no follower and no file ever sees zxids go back. It becomes a
//! snapshot at that zxid, the log begins anew behind it, and the node is made again as a start makes it. In an ensemble the
//! leader does this and looks for a majority once more: with the highest zxid of all it wins, and the others get the state as
//! every follower does that the log can't help. Another server that wins all the same has its own state, and this server
//! takes that one.
//!
//! | crash | what the next start finds |
//! |---|---|
//! | before the snapshot has its name | the old state |
//! | behind that | the new one: a log that ends before the snapshot is begun anew behind it |
//!
//! Clients are cut off; those whose session is part of the new state resume it, the others begin a new one.

use super::{Core, Item};
use crate::boot::{node_config, zab_config};
use engine::{Settled, Tree};
use node::{Input, Node, Service};
use proto::{ServerId, Zxid};
use std::sync::atomic::Ordering;

/// Why the state is still the old one.
#[derive(Debug)]
pub enum NotReplaced {
    /// Only a leader may; that is this one, as far as it is known.
    NotLeading(Option<ServerId>),
    /// No zxid can be given right now: leadership is being handed over, or the epoch is about to change.
    Busy,
    /// The snapshot could not be written.
    Write(String),
}

impl Core {
    /// The zxid that a state would get now, if this server may replace its own at all.
    pub fn zxid_for_replacement(&self) -> Result<Zxid, NotReplaced> {
        self.with_node(|node| self.place(node))
    }

    fn place(&self, node: &Node) -> Result<Zxid, NotReplaced> {
        if node.service() != Service::Leading {
            return Err(NotReplaced::NotLeading(node.zab().leader()));
        }
        node.zab().next_zxid().ok_or(NotReplaced::Busy)
    }

    /// Puts `state` in the place of this server's. `newest` is the last zxid that it knows of: one that runs alone goes on
    /// behind it; in an ensemble it is not above [`Core::zxid_for_replacement`]. Returns the zxid of the new state. Requests
    /// wait until it is in place; what is not answered by then never will be.
    ///
    /// # Errors
    /// Nothing has changed.
    pub fn replace_state(&self, state: &Tree, newest: Zxid) -> Result<Zxid, NotReplaced> {
        let replaced = self.replace(state, newest);
        // Whoever came meanwhile has left its work to us, whatever became of this.
        self.pump_aside();
        replaced
    }

    fn replace(&self, state: &Tree, newest: Zxid) -> Result<Zxid, NotReplaced> {
        let mut stepper = self.node.lock();
        let zxid = self.place(&stepper.node)?;
        let zxid = if self.peers.is_none() { zxid.max(newest) } else { zxid };
        let replacing =
            self.log.begin_replace(self, state, zxid).map_err(|e| NotReplaced::Write(e.to_string()))?;
        // From here on nothing can go wrong but the disk of the log, and then the process ends.
        if self.peers.is_some() {
            self.service.store(Service::None as u8, Ordering::SeqCst);
        }
        self.cut_clients();
        // Before the tree changes: what is being sent to a learner are parts of it. Behind a cut nothing more gets out.
        self.close_links();
        let mut applier = stepper.node.lend_applier();
        let importer = applier.import();
        crate::disk::copy(state, &mut state.walk(), &importer).expect("a tree gives what another one takes");
        let settled = Settled { zxid, digest: state.config().digest_enabled.then(|| state.digest()) };
        importer.finish(zxid, Some(settled)).expect("the state was looked through before");
        self.plant_config(&mut applier);
        let durable = self.log.end_replace(replacing, self.peers.is_none());
        // The old node's last wishes, and what was on its way to it.
        let runner = self.runner.lock();
        self.tasks.lock().clear();
        self.requests.forget();
        {
            let mut inbox = self.inbox.lock();
            // With the inbox held: a learner that came meanwhile is either among these, or heard of by the new node.
            self.close_links();
            inbox.start_over(&mut stepper.work);
            inbox.items.push_back(Item::LogFull(self.is_log_full()));
            for peer in self.peers.iter().flat_map(|p| p.connected()) {
                inbox.items.push_back(Item::Peer(Some(Input::ElectionLink { peer, up: true })));
            }
        }
        let config = node_config(&self.settings, &self.schemes);
        let (tree, now) = (self.tree.clone(), self.clock.now());
        stepper.node = match self.settings.ensemble() {
            None => Node::new(config, durable, tree, applier, now),
            Some(ensemble) => {
                let zab = zab_config(&self.settings, ensemble);
                let found = zab::Recovered { epochs: self.log.epochs(), joined: true, recent: Vec::new() };
                Node::join(config, zab, found, durable, tree, applier, now)
            }
        };
        self.next_tick.store(stepper.node.next_timeout().0, Ordering::Relaxed);
        drop(runner);
        drop(stepper);
        // The pace of the loops was that of the old node.
        self.loops.iter().for_each(|l| l.send(crate::event_loop::Message::ResumeAll));
        Ok(zxid)
    }

    fn close_links(&self) {
        if let Some(peers) = &self.peers {
            peers.links().iter().for_each(|link| peers.close(link.id));
        }
    }

    /// How often this server has begun to serve as leader.
    pub fn times_led(&self) -> u64 {
        self.led.load(Ordering::SeqCst)
    }
}

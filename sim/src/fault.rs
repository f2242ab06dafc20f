//! What goes wrong, and when: a plan made from the seed before the run begins, so that parts of it can be left out when a
//! failure is shrunk.

use crate::net::{PORTS, Place, Port};
use crate::rng::Rng;
use crate::time::{MS, Time};
use vfs::mem::Failure;

/// Something that goes wrong.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Fault {
    /// A server dies; with its machine (`silent`), or alone.
    Crash {
        /// Which.
        server: usize,
        /// The machine loses power.
        silent: bool,
    },
    /// All servers lose power at once.
    CrashAll,
    /// A server loses power in the middle of the `nth` operation of its disk from now.
    CrashAtWrite {
        /// Which.
        server: usize,
        /// How many operations later.
        nth: u64,
    },
    /// A server dies between two packets of its peers' ports, the `nth` from now.
    CrashAtPacket {
        /// Which.
        server: usize,
        /// How many packets later.
        nth: u64,
    },
    /// A server dies and its disk is replaced by an empty one.
    Wipe {
        /// Which.
        server: usize,
    },
    /// A server stands still.
    Pause {
        /// Which.
        server: usize,
    },
    /// Directed links are cut.
    Cut {
        /// From, to, port.
        links: Vec<(Place, Place, Port)>,
        /// All of a place's links at once, both ways.
        whole: bool,
        /// One port only.
        one_port: bool,
    },
    /// Whoever leads then is cut off from the other servers, not from its clients.
    CutLeader,
    /// The connections between two places break.
    Reset {
        /// One.
        a: Place,
        /// The other.
        b: Place,
    },
    /// The links between two places become slow.
    SlowLink {
        /// One.
        a: Place,
        /// The other.
        b: Place,
        /// So many times as slow.
        factor: u64,
    },
    /// The disk of a server becomes slow.
    SlowDisk {
        /// Which.
        server: usize,
        /// So many times as slow.
        factor: u64,
    },
    /// The disk of a server does not answer.
    Stall {
        /// Which.
        server: usize,
    },
    /// The `nth` operation of a server's disk from now fails.
    FailWrite {
        /// Which.
        server: usize,
        /// How many operations later.
        nth: u64,
        /// How.
        how: Failure,
    },
    /// The disk of a server has only so much room left.
    Full {
        /// Which.
        server: usize,
        /// Bytes.
        left: u64,
    },
    /// A server loses power, and a bit on its disk turns over.
    Rot {
        /// Which.
        server: usize,
    },
    /// A server dies, and its next start builds a tree in which the value of one znode is another one: what a bug, or a bit of
    /// the memory, would do.
    Spoil {
        /// Which.
        server: usize,
    },
    /// The wall clock of a server jumps.
    WallJump {
        /// Which.
        server: usize,
        /// By ms.
        ms: i64,
    },
    /// The clocks of a server run at another rate.
    Rate {
        /// Which.
        server: usize,
        /// Parts in a thousand.
        rate: u64,
    },
}

/// A fault with its time.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Planned {
    /// When it begins.
    pub at: Time,
    /// How long it lasts, ns.
    pub lasts: u64,
    /// What.
    pub fault: Fault,
}

/// Kinds of faults; each seed has some of them.
const KINDS: u64 = 17;

/// The plan of a seed: `servers` servers, `clients` clients, faults until `horizon`.
pub fn plan(rng: &mut Rng, servers: usize, clients: usize, horizon: Time) -> Vec<Planned> {
    let enabled: Vec<u64> = (0..KINDS).filter(|_| rng.one_in(2)).collect();
    let mut plan = Vec::new();
    if enabled.is_empty() {
        return plan;
    }
    let n = rng.range(1, 9);
    for _ in 0..n {
        let at = rng.range(horizon / 50, horizon);
        let lasts = match rng.below(4) {
            0 => rng.range(MS, 20 * MS),
            1 | 2 => rng.range(20 * MS, 300 * MS),
            _ => rng.range(300 * MS, 1500 * MS),
        };
        let kind = *rng.pick(&enabled);
        if let Some(fault) = fault(rng, kind, servers, clients) {
            plan.push(Planned { at, lasts, fault });
        }
    }
    plan.sort_by_key(|p| p.at);
    plan
}

/// In some of the ensembles, one more: the tree of a server gets wrong.
pub fn spoil(rng: &mut Rng, servers: usize, horizon: Time) -> Option<Planned> {
    let (spoils, server) = (rng.one_in(6), rng.below(servers as u64) as usize);
    let (at, lasts) = (rng.range(horizon / 4, horizon), rng.range(20 * MS, 300 * MS));
    (spoils && servers > 1).then_some(Planned { at, lasts, fault: Fault::Spoil { server } })
}

fn fault(rng: &mut Rng, kind: u64, servers: usize, clients: usize) -> Option<Fault> {
    let server = rng.below(servers as u64) as usize;
    let places = servers + clients;
    let other = (server + 1 + rng.below(places as u64 - 1) as usize) % places;
    Some(match kind {
        0 => Fault::Crash { server, silent: rng.one_in(2) },
        1 => Fault::CrashAtWrite { server, nth: rng.below(60) },
        2 if servers > 1 => Fault::CrashAll,
        3 if servers > 1 => Fault::CrashAtPacket { server, nth: rng.below(40) },
        4 if servers > 1 => Fault::Wipe { server },
        5 => Fault::Pause { server },
        6 => {
            let (mut links, mut one_port) = (Vec::new(), false);
            let whole = rng.one_in(2);
            if whole {
                // One side of the world does not reach the other.
                let side: Vec<bool> = (0..places).map(|_| rng.one_in(2)).collect();
                for a in 0..places {
                    for b in (0..places).filter(|&b| side[a] != side[b]) {
                        links.extend(PORTS.map(|p| (a, b, p)));
                    }
                }
            } else {
                one_port = servers > 1 && rng.one_in(2);
                let port = *rng.pick(&PORTS);
                let ports: Vec<Port> = if one_port { vec![port] } else { PORTS.to_vec() };
                let to = if one_port && port != Port::Client {
                    (server + 1 + rng.below(servers as u64 - 1) as usize) % servers
                } else {
                    other
                };
                let (a, b) = if rng.one_in(2) { (server, to) } else { (to, server) };
                links.extend(ports.into_iter().map(|p| (a, b, p)));
            }
            Fault::Cut { links, whole, one_port }
        }
        7 => Fault::Reset { a: server, b: other },
        8 => Fault::SlowLink { a: server, b: other, factor: rng.range(5, 100) },
        9 => Fault::SlowDisk { server, factor: rng.range(5, 100) },
        10 => Fault::Stall { server },
        11 => {
            let how = *rng.pick(&[Failure::Eio, Failure::Eio, Failure::Short, Failure::Enospc]);
            Fault::FailWrite { server, nth: rng.below(60), how }
        }
        12 => Fault::Full { server, left: rng.below(96 << 10) },
        13 => Fault::Rot { server },
        14 => Fault::WallJump { server, ms: *rng.pick(&[-3_600_000, -1_000, 1_000, 3_600_000]) },
        15 => Fault::Rate { server, rate: rng.range(900, 1101) },
        16 if servers > 2 => Fault::CutLeader,
        _ => return None,
    })
}

//! Elections as transcripts: each file of `election/` says what one server hears and what it must say, in order.
//!
//! ```text
//!   server 2 of 1 2 3, observers 4, epoch 1, zxid 0x100000005      the server; `blank` behind it: it has no history
//!   at 200                                                         ms after the start; a tick, if one is due
//!   up 1, down 3                                                   connections of the election port
//!   <- 3 looking 3 0x100000007 1 round 1                           from 3: state, leader, zxid, epoch, round
//!   -> 1 3 looking 2 0x100000005 1 round 1                         to 1 and to 3, the same
//!   follows 3, leads, looks                                        what it does now
//! ```
//! Between two lines that are heard, everything that is said must be listed, in any order of receivers. `min` is an
//! observer's number.

mod transcripts;

use proto::peer::{Notification, PeerState, Vote};
use proto::{Durable, DurableEpochs, Epoch, Instant, ServerId, Zxid};
use std::collections::BTreeSet;
use std::sync::Arc;
use zab::{Ensemble, Output, Recovered, Verifier, Zab};

fn number(text: &str) -> i64 {
    match text.strip_prefix("0x") {
        Some(hex) => i64::from_str_radix(hex, 16).unwrap(),
        None if text == "min" => i64::MIN,
        None => text.parse().unwrap_or_else(|_| panic!("{text} is no number")),
    }
}

fn ids(text: &str) -> Vec<ServerId> {
    text.split_whitespace().map(|t| ServerId(number(t))).collect()
}

fn state(text: &str) -> PeerState {
    match text {
        "looking" => PeerState::Looking,
        "following" => PeerState::Following,
        "leading" => PeerState::Leading,
        "observing" => PeerState::Observing,
        other => panic!("{other} is no state"),
    }
}

/// A notification as a transcript has it, without the servers that it goes to.
fn text_of(n: &Notification<'_>) -> String {
    let zxid = if n.vote.zxid < 0 { n.vote.zxid.to_string() } else { format!("{:#x}", n.vote.zxid) };
    format!("{:?} {} {zxid} {} round {}", n.state, n.vote.leader, n.vote.peer_epoch, n.round)
        .to_lowercase()
        .replace(&i64::MIN.to_string(), "min")
}

struct Run {
    zab: Zab,
    start: Instant,
    now: Instant,
    said: Vec<(ServerId, String)>,
}

impl Run {
    fn begin(line: &str) -> Run {
        let (first, rest) = line.split_once(',').unwrap();
        let (me, voters) = first.strip_prefix("server ").unwrap().split_once(" of ").unwrap();
        let (mut observers, mut epoch, mut zxid, mut joined) = (Vec::new(), 0, 0, true);
        for part in rest.split(',') {
            match part.trim().split_once(' ') {
                Some(("observers", list)) => observers = ids(list),
                Some(("epoch", n)) => epoch = number(n) as u32,
                Some(("zxid", n)) => zxid = number(n) as u64,
                None if part.trim() == "blank" => joined = false,
                _ => panic!("{line}: what is {part}?"),
            }
        }
        let ensemble = Ensemble {
            me: ServerId(number(me)),
            verifier: Verifier::majority(ids(voters)),
            observers,
            tick_ms: 2_000,
            init_limit: 10,
            connect_limit: zab::limits::CONNECT_TICKS,
            sync_limit: 5,
            config_text: Arc::from(&b""[..]),
            config_version: 0,
            election: Default::default(),
            kept_records: 500,
            read_only_after_ms: None,
            slow_log: None,
        };
        let recovered = Recovered {
            epochs: DurableEpochs::from_completed_write(Epoch(epoch), Epoch(epoch)),
            joined,
            recent: Vec::new(),
        };
        let start = Instant::from_ms(1_000);
        let durable = Durable::from_completed_write(Zxid::from_u64(zxid));
        let mut run =
            Run { zab: Zab::join(ensemble, recovered, durable, start), start, now: start, said: Vec::new() };
        run.listen();
        run
    }

    fn listen(&mut self) {
        while let Some(output) = self.zab.next_output() {
            if let Output::Notify { to, payload } = output {
                let n = Notification::decode(&payload).unwrap().unwrap();
                self.said.push((to, text_of(&n)));
            }
        }
    }

    fn line(&mut self, line: &str, place: &str) {
        if let Some(expected) = line.strip_prefix("-> ") {
            let at = expected.find(|c: char| c.is_alphabetic()).unwrap();
            let (to, text) = expected.split_at(at);
            for to in ids(to) {
                let found = self.said.iter().position(|(t, said)| *t == to && said == text);
                match found {
                    Some(i) => drop(self.said.remove(i)),
                    None => panic!("{place}: {line}: said instead: {:?}", self.said),
                }
            }
            return;
        }
        if let Some(role) = ["looks", "leads"].into_iter().find(|r| line == *r) {
            let wanted = if role == "looks" { PeerState::Looking } else { PeerState::Leading };
            assert_eq!(self.zab.state(), wanted, "{place}: {line}");
            return;
        }
        if let Some(leader) = line.strip_prefix("follows ").or(line.strip_prefix("observes ")) {
            let wanted =
                if line.starts_with("follows") { PeerState::Following } else { PeerState::Observing };
            assert_eq!(self.zab.state(), wanted, "{place}: {line}");
            assert_eq!(self.zab.elected(), Some(ServerId(number(leader))), "{place}: {line}");
            return;
        }
        assert!(self.said.is_empty(), "{place}: before {line} it said also {:?}", self.said);
        let words: Vec<&str> = line.split([' ', ',']).filter(|w| !w.is_empty()).collect();
        match words[..] {
            ["at", ms] => {
                self.now = self.start.plus_ms(number(ms) as u64);
                while self.zab.next_timeout() <= self.now {
                    let due = self.zab.next_timeout();
                    self.zab.tick(due);
                }
            }
            ["up" | "down", ..] => {
                for pair in words.chunks(2) {
                    self.zab.election_link(self.now, ServerId(number(pair[1])), pair[0] == "up");
                }
            }
            ["<-", from, s, leader, zxid, epoch, "round", round] => {
                let vote =
                    Vote { leader: ServerId(number(leader)), zxid: number(zxid), peer_epoch: number(epoch) };
                let n = Notification {
                    state: state(s),
                    vote,
                    round: number(round),
                    version: 2,
                    config: None,
                    features: None,
                };
                self.zab.notification(self.now, ServerId(number(from)), &n);
            }
            _ => panic!("{place}: {line} is not understood"),
        }
        self.listen();
    }
}

#[test]
fn every_transcript_holds() {
    let mut played = BTreeSet::new();
    for (name, lines) in transcripts::of("election") {
        let mut run: Option<Run> = None;
        for (n, line) in &lines {
            let place = format!("{name}:{n}");
            match &mut run {
                _ if line.starts_with("server ") => {
                    if let Some(run) = &run {
                        assert!(run.said.is_empty(), "{place}: at the end it said also {:?}", run.said);
                    }
                    run = Some(Run::begin(line));
                }
                Some(run) => run.line(line, &place),
                None => panic!("{place}: a transcript begins with its server"),
            }
        }
        let run = run.expect("a transcript has a server");
        assert!(run.said.is_empty(), "{name}: at the end it said also {:?}", run.said);
        played.insert(name);
    }
    assert!(played.len() >= 5, "{played:?}");
}

//! Leaders and learners as transcripts: each file of `agreement/` says what one server hears on its links and from its disk,
//! and what it must say and ask for, in order.
//!
//! ```text
//!   server 3 of 1 2 3, epoch 1, log 0x100000001 0x100000003        the server, which has these records and those between
//!   elected 3                                                      the election is over: this server leads, or follows another
//!   reigns                                                         it leads, and one other Falconer follows on link 8
//!   up 7, up 7 to 3, down 7                                        a link that was accepted, or dialled, or is gone
//!   <- 7 info 1 accepted 1                                         from link 7; `apache` behind info or leaderinfo: no Falconer
//!   -> 7 leaderinfo 2                                              to link 7
//!   -> epochs 2 current 2, -> log 0x200000001, -> serve leading    what the shell is asked to do
//!   -> applies 0x200000001                                         up to there, now
//!   epochs, durable 0x100000004, truncated 0x1, received, saved 0x1, found 7 0x1, sent 7        the disk is done
//!   propose 2                                                      so many records are proposed
//!   at 1000                                                        ms after the start; ticks, as far as they are due
//! ```
//! Everything that is said between two inputs is listed, in its order. Notes, notifications and dials are left out.

mod transcripts;

use proto::jute::Reader;
use proto::peer::{Features, FromLeader, FromLearner, LearnerInfo, Notification, Packet, PeerState, Vote};
use proto::txn::{RecordBatch, TxnHeader};
use proto::{Durable, DurableEpochs, Epoch, Instant, LinkId, ServerId, Zxid};
use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::sync::Arc;
use zab::{Ensemble, Output, Recovered, Verifier, Zab};

fn number(text: &str) -> i64 {
    match text.strip_prefix("0x") {
        Some(hex) => i64::from_str_radix(hex, 16).unwrap_or_else(|_| panic!("{text} is no number")),
        None => text.parse().unwrap_or_else(|_| panic!("{text} is no number")),
    }
}

fn zxid(text: &str) -> Zxid {
    Zxid::from_wire(number(text))
}

fn epoch(text: &str) -> Epoch {
    Epoch(number(text) as u32)
}

/// A record of which only the zxid means anything.
fn record(zxid: Zxid) -> Vec<u8> {
    let mut bytes = vec![0; TxnHeader::LEN];
    bytes[12..20].copy_from_slice(&zxid.to_wire().to_be_bytes());
    bytes
}

fn batch(first: Zxid, last: Zxid) -> Arc<RecordBatch> {
    let mut batch = RecordBatch::new();
    for z in first.as_u64()..=last.as_u64() {
        let z = Zxid::from_u64(z);
        batch.push_with(z, |out| out.extend_from_slice(&record(z)));
    }
    Arc::new(batch)
}

fn of_learner(packet: &FromLearner<'_>) -> String {
    match packet {
        FromLearner::Info { observer, accepted, info } => {
            let kind = if *observer { "observerinfo" } else { "info" };
            format!("{kind} {} accepted {}", info.server.unwrap(), accepted.0)
        }
        FromLearner::AckEpoch { last, current } => {
            format!("ackepoch {last} {}", current.map_or(-1, |c| i64::from(c.0)))
        }
        FromLearner::Ack { zxid } => format!("ack {zxid}"),
        other => format!("{other:?}"),
    }
}

fn of_leader(packet: &FromLeader<'_>) -> String {
    match packet {
        FromLeader::LeaderInfo { epoch, .. } => format!("leaderinfo {}", epoch.0),
        FromLeader::Diff { zxid } => format!("diff {zxid}"),
        FromLeader::Trunc { zxid } => format!("trunc {zxid}"),
        FromLeader::NewLeader { epoch, .. } => format!("newleader {}", epoch.0),
        FromLeader::UpToDate => "uptodate".into(),
        FromLeader::Proposal { zxid, .. } => format!("proposal {zxid}"),
        FromLeader::Commit { zxid } => format!("commit {zxid}"),
        FromLeader::Inform { zxid, .. } => format!("inform {zxid}"),
        FromLeader::Ping { zxid } => format!("ping {zxid}"),
        other => format!("{other:?}"),
    }
}

struct Run {
    zab: Zab,
    me: ServerId,
    voters: Vec<ServerId>,
    start: Instant,
    now: Instant,
    /// The link to the leader.
    dialled: Option<LinkId>,
    epochs: Option<DurableEpochs>,
    said: Vec<String>,
}

impl Run {
    fn begin(line: &str) -> Run {
        let (first, rest) = line.split_once(',').unwrap();
        let (me, voters) = first.strip_prefix("server ").unwrap().split_once(" of ").unwrap();
        let me = ServerId(number(me));
        let voters: Vec<ServerId> = voters.split_whitespace().map(|v| ServerId(number(v))).collect();
        let (mut observers, mut current, mut accepted, mut joined) = (Vec::new(), Epoch(0), None, true);
        let (mut recent, mut last) = (Vec::new(), Zxid::ZERO);
        for part in rest.split(',') {
            let words: Vec<&str> = part.split_whitespace().collect();
            match words[..] {
                ["observers", ref ids @ ..] => {
                    observers = ids.iter().map(|v| ServerId(number(v))).collect();
                }
                ["epoch", n] => current = epoch(n),
                ["accepted", n] => accepted = Some(epoch(n)),
                ["log", from, to] => {
                    recent.push(batch(zxid(from), zxid(to)));
                    last = zxid(to);
                }
                ["blank"] => joined = false,
                _ => panic!("{line}: what is {part}?"),
            }
        }
        let ensemble = Ensemble {
            me,
            verifier: Verifier::majority(voters.clone()),
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
        let accepted = accepted.unwrap_or(current);
        let recovered =
            Recovered { epochs: DurableEpochs::from_completed_write(accepted, current), joined, recent };
        let start = Instant::from_ms(1_000);
        let zab = Zab::join(ensemble, recovered, Durable::from_completed_write(last), start);
        let mut run =
            Run { zab, me, voters, start, now: start, dialled: None, epochs: None, said: Vec::new() };
        run.listen();
        run
    }

    /// Does what a shell does after each step.
    fn listen(&mut self) {
        if let Some(batch) = self.zab.take_batch() {
            let (first, last) = (batch.get(0).unwrap().0, batch.last().unwrap());
            let upto = if first == last { String::new() } else { format!(" {last}") };
            self.said.push(format!("log {first}{upto}"));
        }
        if let Some(loose) = self.zab.take_loose() {
            self.said.push(format!("applies {}", loose.last().unwrap()));
        }
        while let Some(output) = self.zab.next_output() {
            self.output(output);
        }
        let mut applied = None;
        while let Some(records) = self.zab.next_to_apply() {
            applied = Some(records.last());
        }
        self.said.extend(applied.map(|upto| format!("applies {upto}")));
    }

    fn output(&mut self, output: Output) {
        match output {
            Output::Notify { .. } | Output::Dial { .. } | Output::Note(_) => {}
            Output::Close { link } => self.said.push(format!("close {}", link.0)),
            Output::Send { link, packets } => self.packets(link, &packets),
            Output::SendAll { links, packets } => links.iter().for_each(|l| self.packets(*l, &packets)),
            Output::Propose { links, records } => {
                for link in links.iter() {
                    self.said.extend(records.iter().map(|(z, _)| format!("{} proposal {z}", link.0)));
                }
            }
            Output::Inform { links, records } => {
                for link in links.iter() {
                    self.said.extend(records.iter().map(|(z, _)| format!("{} inform {z}", link.0)));
                }
            }
            Output::SendLog { link, after, upto } => {
                self.said.push(format!("{} log behind {after} to {upto}", link.0))
            }
            Output::SendSnapshot { link, .. } => self.said.push(format!("{} snap", link.0)),
            Output::FindInLog { link, zxid } => self.said.push(format!("find {zxid} for {}", link.0)),
            Output::PersistEpochs { accepted, current, .. } => {
                assert!(self.epochs.is_none(), "one after the other");
                let before = self.zab.epochs();
                let history = current.map(|(epoch, _)| epoch);
                self.epochs = Some(DurableEpochs::from_completed_write(
                    accepted.max(before.accepted()),
                    history.unwrap_or(before.current()),
                ));
                let current = history.map_or(String::new(), |c| format!(" current {}", c.0));
                self.said.push(format!("epochs {}{current}", accepted.0));
            }
            Output::Truncate { after, reload } => {
                let reload = if reload { " and reload" } else { "" };
                self.said.push(format!("truncate {after}{reload}"));
            }
            Output::Reload => self.said.push("reload".into()),
            Output::ReceiveSnapshot { zxid, .. } => self.said.push(format!("receive {zxid}")),
            Output::SaveSnapshot { zxid } => self.said.push(format!("save {zxid}")),
            Output::Serve(service) => self.said.push(format!("serve {service:?}").to_lowercase()),
            Output::SlowLog(_) => self.said.push("slow log".into()),
            Output::Differs(d) | Output::Doubt(d) => self.said.push(format!("{d:?}")),
        }
    }

    fn packets(&mut self, link: LinkId, packets: &[u8]) {
        let mut r = Reader::new(packets);
        while r.remaining() > 0 {
            let packet = Packet::read(&mut r).unwrap();
            let text = if self.dialled == Some(link) {
                of_learner(&FromLearner::parse(&packet).unwrap())
            } else {
                of_leader(&FromLeader::parse(&packet).unwrap())
            };
            self.said.push(format!("{} {text}", link.0));
        }
    }

    /// The others agree.
    fn elected(&mut self, leader: ServerId) {
        let votes: Vec<ServerId> = self.voters.iter().copied().filter(|v| *v != self.me).collect();
        let epochs = self.zab.epochs();
        let own = Vote {
            leader,
            zxid: self.zab.history().last().to_wire(),
            peer_epoch: i64::from(epochs.current().0),
        };
        for from in votes {
            let state = match () {
                () if leader == self.me => PeerState::Looking,
                () if leader == from => PeerState::Leading,
                () => PeerState::Following,
            };
            let n = Notification { state, vote: own, round: 1, version: 2, config: None, features: None };
            self.zab.notification(self.now, from, &n);
        }
        assert_eq!(self.zab.elected(), Some(leader), "all have voted for it");
    }

    /// This server leads, and one other, a Falconer on link 8, follows.
    fn reigns(&mut self) {
        let other = *self.voters.iter().find(|v| **v != self.me).unwrap();
        let (accepted, last) = (self.zab.epochs().accepted().0, self.zab.history().last());
        for line in [
            &*format!("elected {}", self.me),
            "up 8",
            &*format!("<- 8 info {other} accepted {accepted}"),
            "epochs",
            &*format!("<- 8 ackepoch {last} {}", self.zab.epochs().current().0),
            "epochs",
            &*format!("<- 8 ack {}", Zxid::new(Epoch(accepted + 1), 0)),
        ] {
            self.input(line);
        }
        assert_eq!(self.zab.service(), zab::Service::Leading);
        self.said.clear();
    }

    fn learner_says(&mut self, link: LinkId, words: &[&str]) {
        let packet = match *words {
            [kind @ ("info" | "observerinfo"), server, "accepted", accepted, ref rest @ ..] => {
                let info = LearnerInfo {
                    server: Some(ServerId(number(server))),
                    protocol: 0x10000,
                    config_version: rest.iter().find_map(|w| w.strip_prefix("config=")).map_or(0, number),
                    features: (!rest.contains(&"apache")).then_some(Features(0)),
                };
                FromLearner::Info { observer: kind == "observerinfo", accepted: epoch(accepted), info }
            }
            ["ackepoch", last, "-1"] => FromLearner::AckEpoch { last: zxid(last), current: None },
            ["ackepoch", last, e] => FromLearner::AckEpoch { last: zxid(last), current: Some(epoch(e)) },
            ["ack", z] => FromLearner::Ack { zxid: zxid(z) },
            _ => panic!("a learner says no {words:?}"),
        };
        self.zab.from_learner(self.now, link, &packet);
    }

    fn leader_says(&mut self, link: LinkId, words: &[&str]) {
        let bytes;
        let packet = match *words {
            ["leaderinfo", e, ref rest @ ..] => {
                let features = (!rest.contains(&"apache")).then_some(Features(0));
                FromLeader::LeaderInfo { epoch: epoch(e), protocol: 0x10000, features }
            }
            ["diff", z] => FromLeader::Diff { zxid: zxid(z) },
            ["trunc", z] => FromLeader::Trunc { zxid: zxid(z) },
            ["snap", z] => FromLeader::Snap { zxid: zxid(z) },
            ["newleader", e] => FromLeader::NewLeader { epoch: epoch(e), config: None },
            ["uptodate"] => FromLeader::UpToDate,
            ["proposal", z] => {
                bytes = record(zxid(z));
                FromLeader::Proposal { zxid: zxid(z), record: &bytes }
            }
            ["inform", z] => {
                bytes = record(zxid(z));
                FromLeader::Inform { zxid: zxid(z), record: &bytes }
            }
            ["commit", z] => FromLeader::Commit { zxid: zxid(z) },
            ["ping", z] => FromLeader::Ping { zxid: zxid(z) },
            _ => panic!("a leader says no {words:?}"),
        };
        self.zab.from_leader(self.now, link, packet);
    }

    fn input(&mut self, line: &str) {
        let words: Vec<&str> = line.split_whitespace().collect();
        let now = self.now;
        match words[..] {
            ["elected", leader] => self.elected(ServerId(number(leader))),
            ["reigns"] => self.reigns(),
            ["up", link] => self.zab.link_up(now, LinkId(number(link) as u64), None),
            ["up", link, "to", leader] => {
                let link = LinkId(number(link) as u64);
                self.dialled = Some(link);
                self.zab.link_up(now, link, Some(ServerId(number(leader))));
            }
            ["down", link] => self.zab.link_down(now, LinkId(number(link) as u64)),
            ["sent", link] => self.zab.snapshot_sent(now, LinkId(number(link) as u64)),
            ["<-", link, ref words @ ..] => {
                let link = LinkId(number(link) as u64);
                if self.dialled == Some(link) {
                    self.leader_says(link, words);
                } else {
                    self.learner_says(link, words);
                }
            }
            ["epochs"] => {
                let epochs = self.epochs.take().expect("they are asked for first");
                self.zab.epochs_persisted(now, epochs);
            }
            ["durable", z] => self.zab.persisted(now, Durable::from_completed_write(zxid(z))),
            ["truncated", z] => self.zab.truncated(now, Durable::from_completed_write(zxid(z))),
            ["received"] => self.zab.snapshot_received(now, self.dialled.unwrap(), Some(Zxid::ZERO)),
            ["received", "half"] => self.zab.snapshot_received(now, self.dialled.unwrap(), None),
            ["received", settles] => {
                self.zab.snapshot_received(now, self.dialled.unwrap(), Some(zxid(settles)))
            }
            ["reloaded"] => self.zab.reloaded(now),
            ["saved", z] => self.zab.snapshot_saved(now, Durable::from_completed_write(zxid(z))),
            ["found", link, z] => {
                let found = (z != "nothing").then(|| zxid(z));
                self.zab.found_in_log(now, LinkId(number(link) as u64), found);
            }
            ["propose", n] => {
                for _ in 0..number(n) {
                    let z = self.zab.next_zxid().expect("it leads");
                    self.zab.propose(z).push_with(z, |out| out.extend_from_slice(&record(z)));
                }
            }
            ["at", ms] => {
                self.now = self.start.plus_ms(number(ms) as u64);
                while self.zab.next_timeout() <= self.now {
                    let due = self.zab.next_timeout();
                    self.zab.tick(due);
                }
            }
            _ => panic!("{line} is not understood"),
        }
        self.listen();
    }
}

#[test]
fn every_transcript_holds() {
    let mut wrong = BTreeMap::new();
    let mut played = BTreeSet::new();
    for (name, lines) in transcripts::of("agreement") {
        let mut run: Option<Run> = None;
        let (mut input, mut wanted) = ((0, "the beginning"), Vec::new());
        let lines = lines.iter().map(|(n, line)| (*n, line.as_str()));
        for (n, line) in lines.chain([(0, "end")]) {
            if let Some(text) = line.strip_prefix("-> ") {
                wanted.push(text);
                continue;
            }
            if let Some(run) = &mut run {
                let said = std::mem::take(&mut run.said);
                if said != wanted {
                    let place = format!("{name}:{:03}", input.0);
                    wrong.insert(place, format!("after {}: {said:#?}, not {wanted:#?}", input.1));
                }
            }
            wanted.clear();
            input = (n, line);
            match &mut run {
                _ if line == "end" => {}
                _ if line.starts_with("server ") => run = Some(Run::begin(line)),
                Some(run) => run.input(line),
                None => panic!("{name}:{n}: a transcript begins with its server"),
            }
        }
        played.insert(name);
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert!(played.len() >= 4, "{played:?}");
}

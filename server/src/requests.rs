//! Where the time of one request went: the batches in flight with their times, and the requests that took too long.

use crate::conn::Conn;
use crate::core::{Core, wall_now};
use crate::limits;
use crate::stats::Counter;
use node::stage::Stage;
use parking_lot::Mutex;
use proto::client::OpCode;
use proto::txn::{Record, RecordBatch, Txn};
use proto::{Instant, WallMs, Zxid};
use std::collections::VecDeque;
use std::fmt::Write;
use std::sync::Arc;

/// When the records of one batch passed each stage.
pub struct Trace {
    /// The records, as long as they are in flight.
    pub batch: Arc<RecordBatch>,
    /// The node took the writes.
    pub admitted: Instant,
    /// They were prepared and handed to the log.
    pub prepared: Instant,
    /// Their durable write began.
    pub written: Instant,
    /// It was complete.
    pub durable: Instant,
    /// The role under which it was written has not ended: its times mean something.
    pub timed: bool,
}

/// The batches that are durable and not applied, and the requests that took too long.
pub struct Requests {
    threshold_ns: u64,
    traces: Mutex<VecDeque<Trace>>,
    slow: Mutex<Slow>,
}

#[derive(Default)]
struct Slow {
    recent: VecDeque<SlowRequest>,
    logged: Option<std::time::Instant>,
    /// Not logged since, as one had been just before.
    unsaid: u64,
}

/// A request that took too long.
#[derive(Clone, Debug)]
pub struct SlowRequest {
    /// When it was answered.
    pub at: WallMs,
    /// What was asked for.
    pub op: Option<OpCode>,
    /// Of which znode, where that is known.
    pub path: Option<String>,
    /// The client.
    pub peer: String,
    /// Its session.
    pub session: i64,
    /// From readiness of the socket to the reply, ns.
    pub total_ns: u64,
    /// The time in each stage, ns, where it was taken.
    pub stages: Vec<(Stage, u64)>,
}

impl Requests {
    /// Notes requests that take longer than `threshold_ms`; `None`: none.
    pub fn new(threshold_ms: Option<u32>) -> Requests {
        Requests {
            threshold_ns: threshold_ms.map_or(u64::MAX, |ms| u64::from(ms) * 1_000_000),
            traces: Mutex::default(),
            slow: Mutex::default(),
        }
    }

    /// Whether a request that took `ns` is noted.
    pub fn is_slow(&self, ns: u64) -> bool {
        ns > self.threshold_ns
    }

    /// Batches have become durable.
    pub fn durable(&self, traces: impl Iterator<Item = Trace>) {
        self.traces.lock().extend(traces);
    }

    /// Everything up to `upto` is applied and answered. `see` gets each batch of it once.
    pub fn applied(&self, upto: Zxid, mut see: impl FnMut(&Trace)) {
        let mut traces = self.traces.lock();
        while let Some(trace) = traces.front()
            && trace.batch.last().is_none_or(|last| last <= upto)
        {
            see(trace);
            traces.pop_front();
        }
    }

    /// A role has ended: what is in flight may be applied under another one, much later.
    pub fn role_ended(&self) {
        self.traces.lock().iter_mut().for_each(|trace| trace.timed = false);
    }

    /// The log was cut: what lay behind `after` will never be applied.
    pub fn cut(&self, after: Zxid) {
        self.traces.lock().retain(|trace| trace.batch.last().is_none_or(|last| last <= after));
    }

    /// What is in flight will never be applied.
    pub fn forget(&self) {
        self.traces.lock().clear();
    }

    /// Notes a write that took too long, answered at `now`.
    pub fn slow_write(&self, core: &Core, conn: &Conn, op: i32, zxid: Zxid, received: Instant, now: Instant) {
        let mut stages = Vec::new();
        let mut path = None;
        {
            let traces = self.traces.lock();
            let find = |t: &&Trace| t.batch.iter().any(|(z, _)| z == zxid);
            if let Some(t) = traces.iter().find(find) {
                let times = [
                    (Stage::Admit, received, t.admitted),
                    (Stage::Prepare, t.admitted, t.prepared),
                    (Stage::Append, t.prepared, t.written),
                    (Stage::Persist, t.written, t.durable),
                    (Stage::Commit, t.durable, now),
                ];
                stages.extend(times.map(|(stage, from, to)| (stage, to.0.saturating_sub(from.0))));
                let record = t.batch.iter().find(|(z, _)| *z == zxid).map(|(_, r)| r);
                path = record.and_then(|r| Record::decode(r).ok()).and_then(|r| path_of(&r.txn));
            }
        }
        self.note(core, conn, op, path, now.0.saturating_sub(received.0), stages);
    }

    /// Notes a read that took too long; `request` is its frame's payload, where there is one request.
    pub fn slow_read(&self, core: &Core, conn: &Conn, request: &[u8], ns: u64, stages: Vec<(Stage, u64)>) {
        let op = request.get(4..8).map_or(0, |b| i32::from_be_bytes(b.try_into().expect("four bytes")));
        let mut r = proto::jute::Reader::new(request.get(8..).unwrap_or_default());
        let path = r.string().ok().flatten().filter(|p| p.starts_with('/')).map(|p| p.into_owned());
        self.note(core, conn, op, path, ns, stages);
    }

    fn note(
        &self,
        core: &Core,
        conn: &Conn,
        op: i32,
        path: Option<String>,
        total_ns: u64,
        stages: Vec<(Stage, u64)>,
    ) {
        core.stats.add(Counter::Slow, 1);
        let request = SlowRequest {
            at: wall_now(),
            op: OpCode::from_wire(op),
            path,
            peer: conn.peer.to_string(),
            session: conn.session().map_or(0, |s| s.id.0),
            total_ns,
            stages,
        };
        let mut slow = self.slow.lock();
        if slow.recent.len() == limits::SLOW_REQUESTS {
            slow.recent.pop_front();
        }
        slow.recent.push_back(request.clone());
        if slow.logged.is_some_and(|at| at.elapsed() < limits::SLOW_LOG_INTERVAL) {
            slow.unsaid += 1;
            return;
        }
        slow.logged = Some(std::time::Instant::now());
        let unsaid = std::mem::take(&mut slow.unsaid);
        drop(slow);
        tracing::warn!(unsaid, "slow request: {request}");
    }

    /// The requests that took too long, the latest last.
    pub fn recent(&self) -> Vec<SlowRequest> {
        self.slow.lock().recent.iter().cloned().collect()
    }
}

impl std::fmt::Display for SlowRequest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let ms = |ns: u64| ns as f64 / 1e6;
        match self.op {
            Some(op) => write!(f, "{op:?}")?,
            None => f.write_str("reads of one turn")?,
        }
        write!(f, " {:?} of session 0x{:x}", self.path.as_deref().unwrap_or("-"), self.session)?;
        write!(f, " at {} took {:.1} ms", self.peer, ms(self.total_ns))?;
        for (i, (stage, ns)) in self.stages.iter().enumerate() {
            f.write_str(if i == 0 { ": " } else { ", " })?;
            write!(f, "{} {:.1}", stage.name(), ms(*ns))?;
        }
        Ok(())
    }
}

/// The znode that a transaction is about; of a multi the first.
fn path_of(txn: &Txn<'_>) -> Option<String> {
    match txn {
        Txn::Create { path, .. }
        | Txn::Delete { path, .. }
        | Txn::SetData { path, .. }
        | Txn::SetAcl { path, .. }
        | Txn::Check { path, .. } => Some(path.to_string()),
        Txn::Multi(all) => all.iter().find_map(path_of).map(|mut first| {
            let _ = write!(first, " and {} more", all.len() - 1);
            first
        }),
        Txn::Error { code } => Some(format!("(error {code})")),
        Txn::CreateSession { .. } | Txn::CloseSession { .. } => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::Epoch;

    fn trace(zxid: Zxid) -> Trace {
        let mut batch = RecordBatch::new();
        batch.push_with(zxid, |out| out.push(0));
        let (at, timed) = (Instant(1), true);
        Trace { batch: Arc::new(batch), admitted: at, prepared: at, written: at, durable: at, timed }
    }

    #[test]
    fn what_is_kept_over_an_election_has_no_times_and_what_is_cut_off_is_forgotten() {
        let z = |epoch, n| Zxid::new(Epoch(epoch), n);
        let requests = Requests::new(None);
        requests.durable([z(1, 1), z(1, 2), z(1, 3)].map(trace).into_iter());
        let seen = |upto| {
            let mut seen = Vec::new();
            requests.applied(upto, |t| seen.push((t.batch.last().unwrap(), t.timed)));
            seen
        };
        assert_eq!(seen(z(1, 1)), [(z(1, 1), true)]);
        requests.role_ended();
        requests.cut(z(1, 2));
        requests.durable([trace(z(2, 1))].into_iter());
        assert_eq!(seen(z(2, 1)), [(z(1, 2), false), (z(2, 1), true)]);
        requests.durable([trace(z(2, 2))].into_iter());
        requests.forget();
        assert_eq!(seen(z(9, 0)), []);
    }
}

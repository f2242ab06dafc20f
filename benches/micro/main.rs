//! Single steps in tight loops: means, for finding out what a change did, not for judging a server.

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use engine::{
    Applier, Asker, Audience, Identity, Outbox, Prep, PrepConfig, PrepRequest, Standing, Tree, TreeConfig,
};
use proto::acl::OPEN;
use proto::client::{Create, CreateOp, OpCode, ReadOp, RequestHeader, WriteOp, WriteReply};
use proto::jute::{Put, Reader};
use proto::state::{NodeRecord, OPEN_ACL};
use proto::txn::{Record, RecordBatch};
use proto::{ConnId, ServerId, SessionId, Stat, StatPersisted, WallMs, Xid, Zxid};
use std::cell::RefCell;
use std::hint::black_box;
use std::ops::ControlFlow;
use std::sync::Arc;

const VALUE: [u8; 100] = [b'v'; 100];
const KEYS: u64 = 100_000;
const SESSION: SessionId = SessionId(1);

struct Nobody;

impl Audience for Nobody {
    fn deliver(&self, _to: ConnId, _frame: &[u8]) {}
    fn identity(&self, _of: ConnId) -> Option<Arc<Identity>> {
        None
    }
}

struct Buffer(RefCell<Vec<u8>>);

impl Outbox for Buffer {
    fn append(&self, fill: &mut dyn FnMut(&mut Vec<u8>)) {
        fill(&mut self.0.borrow_mut());
    }
}

fn path(i: u64) -> String {
    format!("/bench/n{i:07}")
}

fn set(path: &str) -> WriteOp<'_> {
    WriteOp::SetData { path: path.into(), data: Some(&VALUE), version: -1 }
}

/// A leader with a tree of [`KEYS`] znodes.
struct Leader {
    tree: Arc<Tree>,
    applier: Applier,
    prep: Prep,
    identity: Identity,
    zxid: Zxid,
}

impl Leader {
    fn new() -> Leader {
        let (tree, applier) = engine::new(TreeConfig::default());
        let prep = Prep::new(&tree, PrepConfig::default());
        let mut leader =
            Leader { tree, applier, prep, identity: Identity::new(Vec::new()), zxid: Zxid::ZERO };
        leader.write(&WriteOp::CreateSession { timeout_ms: 30_000 });
        let create = |path: String| {
            WriteOp::Create(Create {
                op: CreateOp::Create,
                path: path.into(),
                data: Some(&VALUE),
                acl: OPEN,
                flags: 0,
                ttl_ms: 0,
            })
        };
        leader.write(&create("/bench".into()));
        for i in 0..KEYS {
            leader.write(&create(path(i)));
        }
        leader
    }

    fn prepare(&mut self, op: &WriteOp<'_>, out: &mut RecordBatch) {
        self.zxid = Zxid::from_u64(self.zxid.as_u64() + 1);
        let request = PrepRequest {
            session: SESSION,
            standing: Standing::Replicated,
            cxid: Xid(1),
            time: WallMs(1_700_000_000_000),
            identity: &self.identity,
            op,
        };
        self.prep.prepare(&self.tree, &request, self.zxid, out);
    }

    fn apply(&mut self, batch: &RecordBatch) {
        for (zxid, record) in batch.iter() {
            self.applier
                .apply(record, &Nobody, &mut |_, reply| {
                    black_box(reply);
                })
                .expect("prepare makes records");
            self.prep.applied(zxid);
        }
    }

    fn write(&mut self, op: &WriteOp<'_>) {
        let mut batch = RecordBatch::new();
        self.prepare(op, &mut batch);
        self.apply(&batch);
    }
}

fn codec(c: &mut Criterion) {
    let mut g = c.benchmark_group("codec");
    let mut frame = Vec::new();
    frame.put_i32(1);
    frame.put_i32(OpCode::SetData.wire());
    frame.put_str("/bench/n0000001");
    frame.put_buffer(Some(&VALUE));
    frame.put_i32(-1);
    g.bench_function("decode setData request", |b| {
        b.iter(|| {
            let mut r = Reader::new(black_box(&frame));
            let head = RequestHeader::decode(&mut r).expect("encoded above");
            (head, WriteOp::decode(OpCode::SetData, &mut r).is_some())
        });
    });
    let mut out = Vec::with_capacity(128);
    g.bench_function("encode stat reply", |b| {
        b.iter(|| {
            out.clear();
            WriteReply::Stat(black_box(Stat::default())).encode_frame(&mut out, Xid(1), Zxid::from_u64(1));
            out.len()
        });
    });
    let mut leader = Leader::new();
    let mut batch = RecordBatch::new();
    leader.prepare(&set("/bench/n0000001"), &mut batch);
    let record = batch.get(0).expect("one was prepared").1.to_vec();
    g.bench_function("decode setData record", |b| b.iter(|| Record::decode(black_box(&record)).is_ok()));
    g.finish();
}

fn tree(c: &mut Criterion) {
    let mut g = c.benchmark_group("tree");
    let mut leader = Leader::new();
    let paths: Vec<String> = (0..KEYS).map(path).collect();
    let mut i = 0;
    let mut next = || {
        i = (i + 7919) % paths.len();
        &*paths[i]
    };
    g.bench_function("prepare and apply setData", |b| b.iter(|| leader.write(&set(next()))));
    // In batches, as a pipeline has them: what is prepared is not applied yet.
    g.bench_function("prepare setData", |b| {
        b.iter_custom(|n| {
            let mut spent = std::time::Duration::ZERO;
            let mut left = n;
            while left > 0 {
                let some = left.min(256);
                let ops: Vec<WriteOp<'_>> = (0..some).map(|_| set(next())).collect();
                let mut batch = RecordBatch::new();
                let started = std::time::Instant::now();
                ops.iter().for_each(|op| leader.prepare(op, &mut batch));
                spent += started.elapsed();
                leader.apply(&batch);
                left -= some;
            }
            spent
        });
    });
    g.bench_function("apply setData", |b| {
        b.iter_custom(|n| {
            let mut spent = std::time::Duration::ZERO;
            let mut left = n;
            while left > 0 {
                let some = left.min(256);
                let mut batch = RecordBatch::new();
                (0..some).for_each(|_| leader.prepare(&set(next()), &mut batch));
                let started = std::time::Instant::now();
                leader.apply(&batch);
                spent += started.elapsed();
                left -= some;
            }
            spent
        });
    });
    let outbox = Buffer(RefCell::new(Vec::with_capacity(1 << 16)));
    let identity = Identity::new(Vec::new());
    let who = Asker { conn: ConnId(1), session: SESSION, identity: &identity };
    g.bench_function("lookup: getData with its reply", |b| {
        b.iter(|| {
            outbox.0.borrow_mut().clear();
            leader.tree.read(&ReadOp::GetData { path: next().into(), watch: false }, Xid(1), &who, &outbox);
        });
    });
    g.finish();
}

fn append(c: &mut Criterion) {
    let mut g = c.benchmark_group("log");
    let record = |zxid: u64| {
        let mut r = vec![0; 180];
        r[12..20].copy_from_slice(&zxid.to_be_bytes());
        r
    };
    for count in [1, 64] {
        let disk = vfs::mem::Disk::new();
        let identity = wal::Identity { server: ServerId(1), cluster: 1 };
        let mut superblock =
            wal::Superblock::create(&*disk.dir("data"), identity, 1).expect("the disk is in memory");
        let recovery = wal::Recovery::open(disk.dir("data/log"), &superblock, wal::Config::default())
            .expect("the directory is new");
        let wal::Log { mut appender, mut preparer, .. } =
            recovery.finish(&mut superblock, Zxid::ZERO).expect("the disk is in memory");
        let mut zxid = 0;
        g.throughput(Throughput::Elements(count));
        g.bench_function(format!("append and commit {count} records, disk in memory"), |b| {
            b.iter_batched(
                || {
                    while matches!(preparer.step(), Ok(wal::Step::Again)) {}
                    let first = zxid + 1;
                    zxid += count;
                    (first..=zxid).map(|z| (Zxid::from_u64(z), record(z))).collect::<Vec<_>>()
                },
                |records| {
                    appender
                        .append(records.iter().map(|(z, r)| (*z, &r[..])))
                        .and_then(|()| appender.commit())
                        .expect("the disk is in memory")
                },
                BatchSize::SmallInput,
            );
        });
    }
    g.finish();
}

fn checksum(c: &mut Criterion) {
    let mut g = c.benchmark_group("checksum");
    for len in [512, 4096, 65536] {
        let bytes = vec![0x5a_u8; len];
        g.throughput(Throughput::Bytes(len as u64));
        g.bench_function(format!("crc32c of {len} B"), |b| b.iter(|| crc32c::crc32c(black_box(&bytes))));
        g.bench_function(format!("Adler-32 of {len} B (Apache's)"), |b| {
            b.iter(|| simd_adler32::adler32(&black_box(&bytes[..])));
        });
    }
    g.finish();
}

fn snapshot_chunk(c: &mut Criterion) {
    let mut g = c.benchmark_group("snapshot");
    let mut part = Vec::new();
    let mut count = 0;
    while part.len() < 512 << 10 {
        NodeRecord {
            path: path(count).into(),
            data: Some(&VALUE),
            acl: OPEN_ACL,
            stat: StatPersisted { czxid: count as i64, mzxid: count as i64, ..Default::default() },
        }
        .encode(&mut part);
        count += 1;
    }
    g.throughput(Throughput::Bytes(part.len() as u64));
    g.bench_function("compress a chunk of 512 KiB (zstd 1)", |b| {
        let mut compressor = zstd::bulk::Compressor::new(1).expect("level 1 exists");
        b.iter(|| compressor.compress(black_box(&part)).map(|c| c.len()).ok());
    });
    let header = snapshot::Header {
        cluster: [1; 16],
        server: ServerId(1),
        start: Zxid::from_u64(1),
        written: WallMs(0),
    };
    let write = |disk: &Arc<vfs::mem::Disk>| {
        let pace: snapshot::Pace = Box::new(|_| ControlFlow::Continue(()));
        let mut writer =
            snapshot::Writer::create(disk.dir("s"), header, pace).expect("the disk is in memory");
        for _ in 0..8 {
            writer.part(snapshot::Kind::Nodes, count as u32, &part).expect("the disk is in memory");
        }
        writer.finish(Zxid::from_u64(1), None, WallMs(0)).expect("the disk is in memory")
    };
    g.throughput(Throughput::Bytes(8 * part.len() as u64));
    g.sample_size(20);
    g.bench_function("write 8 chunks, disk in memory", |b| {
        b.iter_batched(|| Arc::new(vfs::mem::Disk::new()), |disk| write(&disk), BatchSize::PerIteration);
    });
    let disk = Arc::new(vfs::mem::Disk::new());
    let entry = write(&disk);
    g.bench_function("read 8 chunks with one worker, disk in memory", |b| {
        b.iter(|| {
            let snapshot =
                snapshot::Snapshot::open(&*disk.dir("s"), entry.name(), None).expect("just written");
            snapshot
                .load(1, &|_, _, bytes| {
                    black_box(bytes);
                    Ok::<(), std::convert::Infallible>(())
                })
                .is_ok()
        });
    });
    g.finish();
}

criterion_group!(benches, codec, tree, append, checksum, snapshot_chunk);
criterion_main!(benches);

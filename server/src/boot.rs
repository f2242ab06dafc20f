//! From settings to a running server, and back.
//!
//! ```text
//!   lock ── superblock ── newest valid snapshot, decoded in parallel ── replay of the log ── node ── threads ── serving
//! ```

use crate::admin::{self, Phase, Progress};
use crate::audit;
use crate::command;
use crate::core::{Clock, Core};
use crate::disk::{check_tree, finish_cut, load_newest, plant_config};
use crate::diskcheck;
use crate::event_loop::{EventLoop, Message, PerAddress};
use crate::import::import_apache;
use crate::log::{LogQueue, Parts, chance, random};
use crate::memory;
use crate::peers::PeersConfig;
use crate::peers::jobs::Recent;
use crate::peers::net::Net;
use crate::replay::{Take, replay};
use crate::service_manager;
use crate::snapshots::{Snapshots, cluster_bytes};
use crate::stats::Measure;
use crate::version;
use config::{Ensemble, Retention, Role, Settings, WalBackend};
use engine::acl::{DigestScheme, Schemes, SuperDigest};
use engine::{Applier, PrepConfig, Tree, TreeConfig};
use node::{Config, Node};
use proto::txn::RecordBatch;
use proto::{ConnId, ServerId, Zxid};
use signal_hook::consts::{SIGINT, SIGTERM, SIGUSR1, SIGUSR2};
use signal_hook::iterator::Signals;
use snapshot::{Catalogue, Policy};
use std::fmt;
use std::net::{SocketAddr, ToSocketAddrs};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use vfs::Dir;
use wal::{Identity, Recovery, Superblock};

/// Why a server did not start, or ended. Its text is one line with the remedy.
#[derive(Debug)]
pub enum Failure {
    /// The configuration asks for what this version can't do.
    Unsupported(String),
    /// A directory can't be used.
    DataDir(String),
    /// Another process has the directory.
    InUse(String),
    /// The directory belongs to another server, or to another program.
    Foreign(String),
    /// Something that was acknowledged is damaged.
    Corrupt(String),
    /// The client port can't be had.
    Port(String),
    /// The quorum port or the election port can't be had.
    PeerPort(String),
    /// The system refuses something else.
    System(String),
}

impl Failure {
    /// Exit code: a thread died.
    pub const INTERNAL: u8 = 1;
    /// Exit code: a durable write of the log failed.
    pub const LOG_WRITE: u8 = 25;
    /// Exit code: the state is not that of the other servers.
    pub const DIFFERS: u8 = 26;

    /// The exit code. 1 to 14 mean what they mean in Apache's server.
    pub fn exit_code(&self) -> u8 {
        match self {
            Failure::System(_) => Failure::INTERNAL,
            Failure::Unsupported(_) => 2,
            Failure::DataDir(_) => 3,
            Failure::PeerPort(_) => 14,
            Failure::Port(_) => 21,
            Failure::InUse(_) => 22,
            Failure::Foreign(_) => 23,
            Failure::Corrupt(_) => 24,
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Failure::Unsupported(s)
        | Failure::DataDir(s)
        | Failure::InUse(s)
        | Failure::Foreign(s)
        | Failure::Corrupt(s)
        | Failure::Port(s)
        | Failure::PeerPort(s)
        | Failure::System(s)) = self;
        f.write_str(s)
    }
}

impl From<wal::Error> for Failure {
    fn from(e: wal::Error) -> Failure {
        let text = with_causes(&e);
        match e {
            wal::Error::Locked { .. } => Failure::InUse(text),
            wal::Error::Foreign { .. } | wal::Error::Version { .. } => Failure::Foreign(text),
            wal::Error::Io { .. } | wal::Error::NoSpace { .. } => Failure::DataDir(text),
            _ => Failure::Corrupt(text),
        }
    }
}

/// An error with what caused it, which its own text leaves out: what the system said is half of the message.
pub fn with_causes(e: &dyn std::error::Error) -> String {
    let mut text = e.to_string();
    let mut cause = e.source();
    while let Some(e) = cause {
        text.push_str(&format!(" ({e})"));
        cause = e.source();
    }
    text
}

/// The whole state that a start finds.
struct Recovered {
    tree: Arc<Tree>,
    applier: Applier,
    log: wal::Log,
    catalogue: Catalogue,
    superblock: Superblock,
    replayed: u64,
    replayed_bytes: u64,
    /// The last records of the log, for followers that come back.
    recent: Vec<Arc<RecordBatch>>,
    /// The time that the snapshot took, and the whole of it.
    load_time: std::time::Duration,
    time: std::time::Duration,
}

/// Runs a server until it is told to stop.
/// `properties`: Java system properties that were given, to be shown.
pub fn serve(settings: Settings, properties: Vec<(String, String)>) -> Result<(), Failure> {
    let settings = Arc::new(settings);
    let started = std::time::Instant::now();
    let descriptors = raise_descriptor_limit();
    let (listener, address) = bind(&settings)?;
    let admin = admin::start(settings.clone(), properties)?;
    let data = open_dir(&settings.storage.data_dir, settings.storage.datadir_autocreate)?;
    let log_home = open_dir(&settings.storage.data_log_dir, settings.storage.datadir_autocreate)?;
    let _lock = data.lock("falconer.lock").map_err(|e| match e.kind() {
        std::io::ErrorKind::WouldBlock => Failure::InUse(format!(
            "{} is in use by another falconerd: stop it, or give this one a dataDir of its own",
            data.path().display()
        )),
        _ => dir_failure(data.path(), "lock", &e),
    })?;
    let snapshot_dir =
        data.subdir("snapshot").map_err(|e| dir_failure(data.path(), "make snapshot/ in", &e))?;
    let log_dir = log_home.subdir("log").map_err(|e| dir_failure(log_home.path(), "make log/ in", &e))?;
    let directories = [snapshot_dir.path().to_owned(), log_dir.path().to_owned()];
    admin::restore::sweep(&directories[0]);

    // Beside the start, which it does not hold up.
    let disk = match settings.operations.disk_check {
        false => None,
        true => {
            let (log_home, data_path) = (log_home.clone(), data.path().to_owned());
            Some(spawn_with("disk-check".into(), move || diskcheck::run(&log_home, &data_path))?)
        }
    };
    let recovered = recover(&settings, &admin.progress, &*data, snapshot_dir.clone(), log_dir)?;
    let Recovered {
        tree,
        mut applier,
        log,
        catalogue,
        superblock,
        replayed,
        replayed_bytes,
        recent,
        load_time,
        time,
    } = recovered;
    tracing::info!("{}", log.said);
    if log.found.torn.is_some() {
        tracing::info!("the end of the log was torn by the last crash: nobody had been told of what it held");
    }
    tracing::info!(
        zxid = %tree.applied(),
        znodes = tree.stats().znodes,
        sessions = tree.session_count(),
        replayed,
        load_ms = load_time.as_millis() as u64,
        replay_ms = time.saturating_sub(load_time).as_millis() as u64,
        ms = started.elapsed().as_millis() as u64,
        "recovered"
    );

    if !superblock.contents().joined && tree.applied() > Zxid::ZERO {
        if settings.ensemble().is_none() {
            return Err(Failure::Corrupt(format!(
                "what {} holds counts for nothing since its ensemble has seen that it differs from what the others have: start \
                 it in its ensemble, where it gets their state, or restore a backup",
                settings.storage.data_dir.display()
            )));
        }
        tracing::warn!(
            "what this directory holds counts for nothing: the leader sends its whole state, and until then this server has no vote"
        );
    }

    let clock = Clock::start();
    let schemes = schemes(&settings);
    let history = log.appender.durable();
    let node_config = node_config(&settings, &schemes);
    let now = clock.now();
    let (node, net) = match settings.ensemble() {
        None => (Node::new(node_config, history, tree.clone(), applier, now), None),
        Some(ensemble) => {
            plant_config(&mut applier, ensemble, now.wall);
            let peers = PeersConfig::new(
                ensemble,
                settings.sessions.tick_ms,
                crate::peers::packet_max(settings.client.request_bytes_max),
            );
            let [quorum, election] = bind_peers(ensemble)?;
            let net = Net::new(peers, election, quorum)
                .map_err(|e| Failure::System(format!("the peer ports can't be watched: {e}")))?;
            let contents = superblock.contents();
            let found = zab::Recovered { epochs: superblock.epochs(), joined: contents.joined, recent };
            let zab = zab_config(&settings, ensemble);
            (Node::join(node_config, zab, found, history, tree.clone(), applier, now), Some(net))
        }
    };
    let (net, peers) = net.unzip();
    let cluster = superblock.contents().identity.cluster;
    let server = superblock.contents().identity.server;
    let mut policy = Policy::new(
        snapshot::policy::Settings {
            snap_count: settings.storage.snap_count,
            snap_size_bytes: settings.storage.snap_log_kib.map_or(0, |kib| kib << 10),
        },
        catalogue.entries().first().map_or(0, |e| e.footer().raw),
        chance(),
    );
    policy.logged(replayed, replayed_bytes);
    let queue = LogQueue::new(Parts {
        appender: log.appender,
        superblock,
        policy,
        snapshots: Snapshots::new(snapshot_dir, catalogue, cluster, server),
        retention_keep: match settings.storage.retention {
            Retention::Never => None,
            Retention::AfterEachSnapshot { keep } => Some(keep as usize),
        },
        slow_ms: settings.storage.slow_sync_warning_ms,
        directories,
        backend: log_backend(&log.said),
    });

    let cores = std::thread::available_parallelism().map_or(1, |n| n.get());
    let loop_count = settings.client.event_loops.map_or(cores.min(16), |n| usize::from(n.get()));
    let per_address = Arc::new(PerAddress::default());
    let mut listener = listener;
    let mut loops = Vec::new();
    let mut handles = Vec::new();
    for index in 0..loop_count {
        let (l, h) = EventLoop::new(index, listener.take(), per_address.clone())
            .map_err(|e| Failure::System(format!("no event loop can be made: {e}")))?;
        loops.push(l);
        handles.push(h);
    }
    let port = address.map(|a| a.port());
    let core = Arc::new_cyclic(|me| {
        let me = me.clone();
        Core::new(settings.clone(), tree, schemes, node, queue, handles, clock, port, descriptors, peers, me)
    });
    let ns = |d: std::time::Duration| d.as_nanos() as u64;
    core.stats.measure(Measure::RecoveryLoad, ns(load_time), 1);
    core.stats.measure(Measure::RecoveryReplay, ns(time.saturating_sub(load_time)), 1);
    core.stats.measure(Measure::Recovery, ns(time), 1);
    core.stats.measure(Measure::RecoveryRecords, replayed, 1);

    // Before anybody is served: who is told to stop right after that stops as always, and hands over before.
    let signals = watch_signals()?;
    // Whoever may apply shares the main heap.
    let mut serving = memory::Serving::default();
    let mut serve = |name: &str, run: Box<dyn FnOnce() + Send>| {
        serving
            .spawn(name, run)
            .map_err(|e| Failure::System(format!("the thread {name} can't be started: {e}")))
    };
    let mut threads = Vec::new();
    for (index, event_loop) in loops.into_iter().enumerate() {
        let core = core.clone();
        threads.push(serve(&format!("loop-{index}"), Box::new(move || event_loop.run(&core)))?);
    }
    let log_thread = serve("log", {
        let core = core.clone();
        Box::new(move || core.log.run(&core))
    })?;
    let peers_thread = match net {
        None => None,
        Some(net) => {
            let core = core.clone();
            Some(serve("peers", Box::new(move || net.run(&core)))?)
        }
    };
    drop(serving);
    let preparer = log.preparer;
    spawn("preparer".into(), move || {
        if let Err(e) = preparer.run() {
            tracing::error!("segments can't be prepared any more, the server stops: {}", with_causes(&e));
            std::process::exit(i32::from(Failure::LOG_WRITE));
        }
    })?;
    let snapshot_thread = spawn("snapshot".into(), {
        let core = core.clone();
        move || core.log.run_snapshots(&core)
    })?;
    if settings.operations.detailed_metrics {
        let core = core.clone();
        spawn("history".into(), move || core.history.run(&core, disk))?;
    }
    // Without it everything is as right, and a little slower.
    if memory::is_in_use()
        && let Err(e) = spawn("memory".into(), memory::keep_ahead)
    {
        tracing::debug!("{e}");
    }
    // What the node wants to begin with.
    core.pump_aside();
    match address {
        Some(address) => tracing::info!(version = version::FULL_NUMBER, "serving clients on {address}"),
        None => tracing::warn!("there is no clientPort: nobody can reach this server"),
    }
    tracing::info!(ms = started.elapsed().as_millis() as u64, "started");
    admin.serves(&core);
    if core.settings.operations.audit {
        audit::server("serverStart", "success");
    }
    let serving = address
        .map_or("no clientPort: nobody can reach this server".into(), |a| format!("serving clients on {a}"));
    service_manager::ready(&core, &serving)?;

    wait_for_signal(signals);
    tracing::info!("stopping");
    if core.settings.operations.audit {
        audit::server("serverStop", "invoked");
    }
    admin.progress.enter(Phase::Stopping, 0);
    service_manager::stopping();
    hand_over(&core);
    core.stopping.store(true, Ordering::Release);
    core.loops.iter().for_each(|l| l.send(Message::Pump));
    for t in threads {
        join(t);
    }
    if let Some(peers) = core.peers() {
        peers.stop();
    }
    if let Some(thread) = peers_thread {
        join(thread);
    }
    core.pump();
    core.log.wake_all();
    join(log_thread);
    join(snapshot_thread);
    for conn in core.conns.all() {
        conn.flush();
        conn.cut();
    }
    tracing::info!(zxid = %core.tree.applied(), "stopped");
    Ok(())
}

/// How long a leader may take to hand over before it stops all the same.
const HAND_OVER: std::time::Duration = std::time::Duration::from_secs(2);

/// A leader lets another server lead before it goes, so that clients hardly notice.
fn hand_over(core: &Core) {
    if core.peers().is_none() {
        return;
    }
    core.submit_hand_over();
    core.pump_aside();
    let until = std::time::Instant::now() + HAND_OVER;
    while !core.has_handed_over() && std::time::Instant::now() < until {
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
}

fn spawn(name: String, run: impl FnOnce() + Send + 'static) -> Result<std::thread::JoinHandle<()>, Failure> {
    spawn_with(name, run)
}

fn spawn_with<T: Send + 'static>(
    name: String,
    run: impl FnOnce() -> T + Send + 'static,
) -> Result<std::thread::JoinHandle<T>, Failure> {
    std::thread::Builder::new()
        .name(name.clone())
        .spawn(run)
        .map_err(|e| Failure::System(format!("the thread {name} can't be started: {e}")))
}

/// The word for how the log is written, out of what the log says of itself.
fn log_backend(said: &str) -> String {
    let words = ["uring", "pwritev2", "buffered"];
    let first = words.iter().filter_map(|w| Some((said.find(w)?, *w))).min();
    first.map_or("unknown", |(_, word)| word).to_owned()
}

/// A thread that panicked has ended the process already.
fn join(thread: std::thread::JoinHandle<()>) {
    let _ = thread.join();
}

/// From here on a signal ends the process only by way of [`wait_for_signal`].
fn watch_signals() -> Result<Signals, Failure> {
    Signals::new([SIGINT, SIGTERM, SIGUSR1, SIGUSR2])
        .map_err(|e| Failure::System(format!("signals can't be watched: {e}")))
}

/// Returns when the server is told to stop, and changes what is logged meanwhile.
fn wait_for_signal(mut signals: Signals) {
    for signal in signals.forever() {
        let filter = match signal {
            SIGUSR1 => "debug".to_owned(),
            SIGUSR2 => command::initial_log_filter(),
            _ => break,
        };
        if let Err(why) = command::set_log_filter(&filter) {
            tracing::warn!("{why}");
        }
    }
}

fn dir_failure(path: &Path, doing: &str, e: &std::io::Error) -> Failure {
    let remedy = match e.kind() {
        std::io::ErrorKind::NotADirectory => "a file is in the way: move it, or choose another directory",
        _ => "the user that runs falconerd needs to read and write it",
    };
    Failure::DataDir(format!("cannot {doing} {}: {e}; {remedy}", path.display()))
}

fn open_dir(path: &Path, create: bool) -> Result<Arc<dyn Dir>, Failure> {
    let dir = if create { vfs::os::OsDir::open(path) } else { vfs::os::OsDir::existing(path) };
    match dir {
        Ok(dir) => Ok(Arc::new(dir)),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound && !create => Err(Failure::DataDir(format!(
            "{} does not exist, and datadir.autocreate=false forbids to make it: create it",
            path.display()
        ))),
        Err(e) => Err(dir_failure(path, "open", &e)),
    }
}

fn bind(settings: &Settings) -> Result<(Option<mio::net::TcpListener>, Option<SocketAddr>), Failure> {
    let Some(listen) = &settings.client.listen else { return Ok((None, None)) };
    let text = listen.to_string();
    let fail = |e: std::io::Error| {
        let hint = match e.kind() {
            std::io::ErrorKind::AddrInUse => "another process has the port: stop it, or change clientPort",
            std::io::ErrorKind::PermissionDenied => "ports below 1024 need a privilege: change clientPort",
            _ => "check clientPort and clientPortAddress",
        };
        Failure::Port(format!("clients can't be served on {text}: {e}; {hint}"))
    };
    let address = resolve(&text).map_err(fail)?;
    let socket = socket2::Socket::new(
        socket2::Domain::for_address(address),
        socket2::Type::STREAM,
        Some(socket2::Protocol::TCP),
    )
    .map_err(fail)?;
    let backlog = settings.client.backlog.map_or(1024, |b| b.min(i32::MAX as u32) as i32);
    socket.set_reuse_address(true).map_err(fail)?;
    socket.bind(&address.into()).map_err(fail)?;
    socket.listen(backlog).map_err(fail)?;
    socket.set_nonblocking(true).map_err(fail)?;
    let listener = std::net::TcpListener::from(socket);
    let bound = listener.local_addr().map_err(fail)?;
    Ok((Some(mio::net::TcpListener::from_std(listener)), Some(bound)))
}

/// The quorum port and the election port. Both are kept for the life of the process.
fn bind_peers(ensemble: &Ensemble) -> Result<[std::net::TcpListener; 2], Failure> {
    let own = &ensemble.me().addresses[0];
    let host = if ensemble.listen_on_all_addresses { config::Host::any() } else { own.host.clone() };
    let bind_one = |port: u16, name: &str| {
        let text = config::HostPort { host: host.clone(), port }.to_string();
        let mut tries = 0;
        loop {
            match bind_peer(&text) {
                Ok(listener) => return Ok(listener),
                Err(e) => {
                    tries += 1;
                    if ensemble.bind_retries.is_some_and(|max| tries >= max) {
                        return Err(Failure::PeerPort(format!(
                            "the {name} port {text} can't be had: {e}; it stands in the line server.{}: another process may \
                             have it, or the address is not this machine's (quorumListenOnAllIPs=true binds all)",
                            ensemble.my_id
                        )));
                    }
                    tracing::warn!("the {name} port {text} can't be had, it is tried again: {e}");
                    std::thread::sleep(std::time::Duration::from_secs(1));
                }
            }
        }
    };
    Ok([bind_one(own.quorum_port, "quorum")?, bind_one(own.election_port, "election")?])
}

fn bind_peer(text: &str) -> std::io::Result<std::net::TcpListener> {
    let address = resolve(text)?;
    let socket = socket2::Socket::new(
        socket2::Domain::for_address(address),
        socket2::Type::STREAM,
        Some(socket2::Protocol::TCP),
    )?;
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    socket.listen(128)?;
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}

/// What the settings mean for the node of an ensemble's server.
pub fn zab_config(settings: &Settings, ensemble: &Ensemble) -> zab::Ensemble {
    let ids = |role| ensemble.members.values().filter(move |m| m.role == role).map(|m| m.id);
    zab::Ensemble {
        me: ensemble.my_id,
        verifier: zab::Verifier::majority(ids(Role::Participant).collect()),
        observers: ids(Role::Observer).collect(),
        tick_ms: u64::from(settings.sessions.tick_ms),
        init_limit: ensemble.init_limit_ticks,
        connect_limit: ensemble.connect_limit_ticks.unwrap_or(zab::limits::CONNECT_TICKS),
        sync_limit: ensemble.sync_limit_ticks,
        config_text: ensemble.config_text().into_bytes().into(),
        config_version: ensemble.version as i64,
        election: zab::ElectionTimes {
            resend_min_ms: u64::from(ensemble.resend_ms.0),
            resend_max_ms: u64::from(ensemble.resend_ms.1),
            ..zab::ElectionTimes::default()
        },
        kept_records: ensemble.kept_records as usize,
        read_only_after_ms: settings
            .read_only_mode
            .then_some(zab::limits::READ_ONLY_AFTER_MS.max(u64::from(settings.sessions.tick_ms))),
        slow_log: ensemble.hand_over_when_slow.then(zab::SlowLog::default),
    }
}

fn resolve(text: &str) -> std::io::Result<SocketAddr> {
    text.to_socket_addrs()?
        .next()
        .ok_or_else(|| std::io::Error::new(std::io::ErrorKind::NotFound, "the name has no address"))
}

fn schemes(settings: &Settings) -> Schemes {
    let digest = settings.auth.digest.then(|| DigestScheme {
        super_digest: settings.auth.super_digest.as_ref().map(|s| SuperDigest::new(s.expose())),
        ..DigestScheme::default()
    });
    Schemes { digest }
}

/// Apache's number of a server that runs alone: the top byte of its session ids.
const ALONE: ServerId = ServerId(1);

/// What the settings mean for the node.
pub fn node_config(settings: &Settings, schemes: &Schemes) -> Config {
    let ms = |n: u32| n.min(i32::MAX as u32) as i32;
    Config {
        me: settings.ensemble().map_or(ALONE, |e| e.my_id),
        tick_ms: u64::from(settings.sessions.tick_ms),
        session_timeout_ms: ms(settings.sessions.timeout_min_ms)..=ms(settings.sessions.timeout_max_ms),
        container_check_ms: u64::from(settings.tree.container_check_interval_ms),
        containers_per_minute: settings.tree.containers_per_minute_max,
        container_never_used_ms: settings.tree.container_never_used_ms.map_or(0, |ms| ms as i64),
        local_sessions: match settings.ensemble().map(|e| e.local_sessions) {
            None | Some(config::LocalSessions::Off) => node::LocalSessions::Off,
            Some(config::LocalSessions::On) => node::LocalSessions::On,
            Some(config::LocalSessions::Upgradable) => node::LocalSessions::Upgradable,
        },
        prep: PrepConfig {
            // Room for a request with what becomes of it; what is logged can always be read back.
            record_bytes_max: (2 * settings.client.request_bytes_max as usize)
                .min(wal::Config::default().record_max()),
            schemes: schemes.clone(),
            reconfig_enabled: settings.reconfig,
        },
    }
}

/// What the settings mean for the tree.
pub fn tree_config(settings: &Settings) -> TreeConfig {
    TreeConfig {
        extended_types: settings.tree.extended_types,
        enforce_quota: settings.tree.enforce_quota,
        skip_acl: settings.tree.skip_acl,
        hash_seed: random(),
        ..TreeConfig::default()
    }
}

/// Nobody listens while a server recovers.
pub struct Nobody;

impl engine::Audience for Nobody {
    fn deliver(&self, _: ConnId, _: &[u8]) {}

    fn identity(&self, _: ConnId) -> Option<Arc<engine::Identity>> {
        None
    }
}

fn recover(
    settings: &Settings,
    progress: &Progress,
    data: &dyn Dir,
    snapshot_dir: Arc<dyn Dir>,
    log_dir: Arc<dyn Dir>,
) -> Result<Recovered, Failure> {
    let began = std::time::Instant::now();
    let ensemble = settings.ensemble();
    let identity = Identity { server: settings.my_id.unwrap_or(ServerId(0)), cluster: 0 };
    let mut superblock = match Superblock::open(data)? {
        Some(mut superblock) => {
            // A server that ran alone without an id has one now.
            superblock.adopt_server(identity.server)?;
            superblock.check_identity(identity)?;
            if superblock.damaged_copy() {
                tracing::warn!(
                    "one of the two copies of the superblock was damaged and has been repaired: the disk forgets"
                );
            }
            superblock
        }
        None => {
            refuse_log_without_superblock(data, &*log_dir)?;
            let imported = import_apache(settings, &snapshot_dir, identity.server)?;
            let cluster = imported.as_ref().map_or_else(|| random().max(1), |i| i.cluster);
            let made = Identity { cluster, ..identity };
            let mut superblock = Superblock::create(data, made, random())?;
            match imported {
                Some(i) => superblock.import_epochs(i.epochs.0, i.epochs.1)?,
                // A blank member of an ensemble has nothing to vote with, unless it is told to begin a history.
                None if ensemble.is_some() && !take_initialize(data)? => {}
                None => superblock.set_joined()?,
            }
            superblock
        }
    };
    let device = match settings.storage.wal_backend {
        WalBackend::Auto => vfs::Choice::Auto,
        WalBackend::Uring => vfs::Choice::Only(vfs::DeviceKind::Uring),
        WalBackend::Pwritev2 => vfs::Choice::Only(vfs::DeviceKind::Pwritev2),
        WalBackend::Buffered => vfs::Choice::Only(vfs::DeviceKind::Buffered),
    };
    let config = wal::Config { device, ..wal::Config::default() };
    finish_cut(&mut superblock, &log_dir, &snapshot_dir, config)?;
    // At most: where the log ends is found by reading it.
    let log_bytes = directory_bytes(log_dir.path());
    let mut recovery = Recovery::open(log_dir, &superblock, config)?;
    let cluster = cluster_bytes(superblock.contents().identity.cluster);
    let mut catalogue = Catalogue::open(snapshot_dir, Some(cluster))
        .map_err(|e| Failure::DataDir(format!("the snapshots can't be listed: {}", with_causes(&e))))?;
    catalogue
        .sweep()
        .map_err(|e| Failure::DataDir(format!("leftovers can't be removed: {}", with_causes(&e))))?;
    let newest_usable = catalogue.entries().first().map_or(Zxid::ZERO, |e| e.start());
    for skipped in catalogue.skipped() {
        // Only damage may be passed over: a newer format or a failing disk would let an old state win.
        let ours = !matches!(skipped.why, snapshot::Error::Foreign { .. });
        if skipped.start > newest_usable && ours && !skipped.why.is_damage() {
            return Err(Failure::DataDir(format!(
                "{} can't be used: {}",
                skipped.name,
                with_causes(&skipped.why)
            )));
        }
        tracing::warn!(snapshot = skipped.name, "not usable: {}", with_causes(&skipped.why));
    }
    let (tree, mut applier) =
        engine::new(TreeConfig { hash_seed: superblock.hash_key(), ..tree_config(settings) });
    let loaded_end = load_newest(settings, progress, &mut catalogue, recovery.base(), &mut applier)?;

    let load_time = began.elapsed();
    progress.enter(Phase::Replaying, log_bytes);
    let start = tree.applied();
    let mut replayed = 0_u64;
    let mut replayed_bytes = 0_u64;
    let mut told = std::time::Instant::now();
    let mut recent = Recent::new(ensemble.map_or(0, |e| e.kept_records as usize));
    let read = |take: &mut Take<'_>| recovery.replay(start, take);
    replay(read, &mut applier, |round| {
        for (zxid, record) in round.iter() {
            recent.push(zxid, record);
        }
        replayed += round.len() as u64;
        replayed_bytes += round.byte_len() as u64;
        progress.advance(round.byte_len() as u64);
        if let Some(zxid) = round.last().filter(|_| told.elapsed().as_secs() >= 1) {
            told = std::time::Instant::now();
            tracing::info!(replayed, %zxid, "replaying the log");
            service_manager::status(&format!("replaying the log: {replayed} records, at {zxid}"));
        }
    })?;
    check_tree(settings, &tree, start, loaded_end)?;
    let log = recovery.finish(&mut superblock, start)?;
    let time = began.elapsed();
    let recent = recent.into_batches();
    Ok(Recovered {
        tree,
        applier,
        log,
        catalogue,
        superblock,
        replayed,
        replayed_bytes,
        recent,
        load_time,
        time,
    })
}

/// Whether Apache's file `initialize` says that this server begins a history; it is used up.
fn take_initialize(data: &dyn Dir) -> Result<bool, Failure> {
    match data.unlink("initialize") {
        Ok(()) => Ok(true),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(false),
        Err(e) => Err(dir_failure(data.path(), "remove initialize in", &e)),
    }
}

/// Bytes of the files of a directory.
pub fn directory_bytes(dir: &Path) -> u64 {
    let Ok(entries) = std::fs::read_dir(dir) else { return 0 };
    entries.flatten().filter_map(|e| e.metadata().ok()).filter(|m| m.is_file()).map(|m| m.len()).sum()
}

/// A log whose superblock is gone is somebody's data, not a fresh directory.
fn refuse_log_without_superblock(data: &dyn Dir, log_dir: &dyn Dir) -> Result<(), Failure> {
    let entries = log_dir.list().map_err(|e| dir_failure(log_dir.path(), "list", &e))?;
    match entries.iter().find(|e| e.name.starts_with("log.")) {
        None => Ok(()),
        Some(segment) => Err(Failure::Corrupt(format!(
            "{} holds {} and {} has no superblock that owns it: bring the superblock back, or restore a backup",
            log_dir.path().display(),
            segment.name,
            data.path().display()
        ))),
    }
}

/// As many descriptors as the system grants: each client takes one. Returns how many there are.
fn raise_descriptor_limit() -> u64 {
    match rlimit::increase_nofile_limit(u64::MAX) {
        Ok(limit) => limit,
        Err(e) => {
            tracing::warn!("the limit of open files can't be raised: {e}");
            rlimit::Resource::NOFILE.get_soft().unwrap_or(1024)
        }
    }
}

/// A snapshot whose bytes are whole and whose records are not a state.
pub fn unfit(name: &str, e: engine::ImportError) -> snapshot::Error {
    tracing::error!(snapshot = name, "its records do not form a state: {e:?}");
    let damage = snapshot::Damage::Rule("the records do not form a state");
    snapshot::Error::Damaged { path: name.to_owned(), offset: 0, damage }
}

//! Starts servers of one kind or the other, alone or as an ensemble, on fresh data directories and takes them away again.

use proto::SessionId;
use proto::client::{ConnectRequest, OpCode};
use proto::jute::{Put, begin_frame, end_frame};
use std::fmt;
use std::fs;
use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// Which server.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// Apache ZooKeeper, on a Java virtual machine.
    Apache = 0,
    /// `falconerd`.
    Falconer = 1,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Kind::Apache => "Apache ZooKeeper",
            Kind::Falconer => "Falconer",
        })
    }
}

/// Where things are.
#[derive(Clone, Debug)]
pub struct Paths {
    /// What Apache ZooKeeper consists of; see [`classpath`].
    pub classpath: String,
    /// Options of its virtual machine.
    pub java_options: Vec<String>,
    /// The `falconerd` to start.
    pub falconerd: PathBuf,
    /// Where data directories are made.
    pub scratch: PathBuf,
    /// More lines of the configuration.
    pub config: String,
}

/// How long a server may take until it serves.
const PATIENCE: Duration = Duration::from_secs(120);
/// The name of the configuration in the scratch directory.
const CONFIG: &str = "zoo.cfg";

/// The jars of the Debian package and what they need; those that are there are taken.
const DEBIAN_JARS: [&str; 12] = [
    "zookeeper",
    "zookeeper-jute",
    "slf4j-api",
    "slf4j-nop",
    "netty-all",
    "netty-handler",
    "netty-transport",
    "netty-common",
    "netty-buffer",
    "netty-codec",
    "snappy-java",
    "metrics-core",
];
const DEBIAN_DIR: &str = "/usr/share/java";

/// The classpath of Apache ZooKeeper; the Debian package is installed if there is none.
///
/// # Errors
/// It can't be installed, or `distribution` is none.
pub fn classpath(distribution: Option<&Path>) -> Result<String, String> {
    if let Some(dir) = distribution {
        let lib = dir.join("lib");
        return match lib.is_dir() {
            true => Ok(format!("{}/*", lib.display())),
            false => Err(format!("{} has no lib/: name an unpacked binary distribution", dir.display())),
        };
    }
    let debian = Path::new(DEBIAN_DIR);
    if !debian.join("zookeeper.jar").exists() {
        install()?;
    }
    let jars: Vec<String> = DEBIAN_JARS
        .iter()
        .map(|jar| debian.join(format!("{jar}.jar")))
        .filter(|jar| jar.exists())
        .map(|jar| jar.display().to_string())
        .collect();
    Ok(jars.join(":"))
}

fn install() -> Result<(), String> {
    const PACKAGES: [&str; 5] =
        ["install", "--yes", "--no-install-recommends", "zookeeper", "default-jre-headless"];
    eprintln!("Apache ZooKeeper is missing: apt-get {}", PACKAGES.join(" "));
    let status = match is_root() {
        true => Command::new("apt-get").args(PACKAGES).status(),
        false => Command::new("sudo").arg("apt-get").args(PACKAGES).status(),
    };
    match status {
        Ok(s) if s.success() => Ok(()),
        Ok(_) | Err(_) => {
            Err("Apache ZooKeeper can't be installed; --apache DIR names an unpacked binary distribution"
                .into())
        }
    }
}

fn is_root() -> bool {
    use std::os::unix::fs::MetadataExt;
    fs::metadata("/proc/self").is_ok_and(|m| m.uid() == 0)
}

/// An address of this machine that nobody listens on.
///
/// # Errors
/// The system gives none.
pub fn free_address() -> io::Result<String> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.to_string())
}

/// Waits until somebody listens, or patience ends.
pub fn wait_for_port(address: &str) {
    let end = Instant::now() + PATIENCE;
    while TcpStream::connect(address).is_err() && Instant::now() < end {
        thread::sleep(Duration::from_millis(20));
    }
}

/// One process with its directory.
#[derive(Debug)]
struct Process {
    child: Child,
    dir: PathBuf,
    address: String,
}

/// A server, or an ensemble of them, that serves; stopped and its data removed on drop.
#[derive(Debug)]
pub struct Running {
    kind: Kind,
    dir: PathBuf,
    processes: Vec<Process>,
    version: String,
}

impl Running {
    /// Starts so many servers on empty data directories, an ensemble if there is more than one, and waits until they serve.
    ///
    /// # Errors
    /// One of them does not start; with the end of its log.
    pub fn start(kind: Kind, paths: &Paths, servers: u32) -> Result<Running, String> {
        let failed = |what: &str, e: io::Error| format!("{kind}: can't {what}: {e}");
        let dir = paths.scratch.join(format!("run-{}", std::process::id()));
        // A run that was interrupted may have left it.
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir_all(&dir).map_err(|e| failed("make the data directory", e))?;
        let dir = dir.canonicalize().map_err(|e| failed("find the data directory", e))?;
        let members = members(servers).map_err(|e| failed("find free ports", e))?;
        let mut running = Running { kind, dir, processes: Vec::new(), version: String::new() };
        for number in 1..=servers {
            let dir = running.dir.join(number.to_string());
            let data = dir.join("data");
            fs::create_dir_all(&data).map_err(|e| failed("make the data directory", e))?;
            let address = free_address().map_err(|e| failed("find a free port", e))?;
            let port = address.rsplit(':').next().unwrap_or_default();
            let text = format!(
                "tickTime=2000\ninitLimit=10\nsyncLimit=5\ndataDir={}\nclientPort={port}\n\
                 clientPortAddress=127.0.0.1\nmaxClientCnxns=0\n4lw.commands.whitelist=*\n{}{members}",
                data.display(),
                paths.config
            );
            fs::write(dir.join(CONFIG), text).map_err(|e| failed("write its configuration", e))?;
            fs::write(data.join("myid"), format!("{number}\n")).map_err(|e| failed("write its id", e))?;
            let child = launch(kind, paths, &dir)?;
            running.processes.push(Process { child, dir, address });
        }
        let mut modes = Vec::new();
        for process in &mut running.processes {
            let answer = process.wait_until_it_serves(kind)?;
            let first = answer.lines().next().unwrap_or_default();
            running.version = first.trim_start_matches("Zookeeper version: ").to_string();
            modes.push(answer.contains("Mode: leader"));
        }
        // A single connection goes to the first: of an ensemble a follower, so that both kinds do the same work.
        if let Some(leader) = modes.iter().position(|leads| *leads) {
            let leader = running.processes.remove(leader);
            running.processes.push(leader);
        }
        Ok(running)
    }

    /// Kills the server without warning, starts it again on its data, and returns how long it took from there to the
    /// first read by a new session. For a server that runs alone.
    ///
    /// # Errors
    /// It is not alone, or does not serve again.
    pub fn kill_and_restart(&mut self, paths: &Paths) -> Result<Duration, String> {
        let [process] = &mut self.processes[..] else {
            return Err("a restart is measured of a server that runs alone".into());
        };
        // Gone already: then the start tells why.
        let _ = process.child.kill();
        let _ = process.child.wait();
        let started = Instant::now();
        process.child = launch(self.kind, paths, &process.dir)?;
        while first_read(&process.address).is_err() {
            if started.elapsed() > PATIENCE || process.child.try_wait().ok().flatten().is_some() {
                return process
                    .wait_until_it_serves(self.kind)
                    .and(Err(format!("{} serves no read", self.kind)));
            }
            thread::sleep(Duration::from_millis(5));
        }
        Ok(started.elapsed())
    }

    /// Resident memory of all together, bytes.
    pub fn resident(&self) -> u64 {
        self.processes.iter().map(|p| resident(p.child.id())).sum()
    }

    /// The processes.
    pub fn pids(&self) -> Vec<u32> {
        self.processes.iter().map(|p| p.child.id()).collect()
    }

    /// Hosts and ports, with commas between them; a follower first, the leader last.
    pub fn addresses(&self) -> String {
        self.processes.iter().map(|p| p.address.as_str()).collect::<Vec<_>>().join(",")
    }

    /// What it says of itself.
    pub fn version(&self) -> &str {
        &self.version
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Its data goes with it: there is nothing to be shut down in order.
        for process in &mut self.processes {
            let _ = process.child.kill();
            let _ = process.child.wait();
        }
        let _ = fs::remove_dir_all(&self.dir);
    }
}

impl Process {
    /// Waits; returns the answer to `srvr`.
    fn wait_until_it_serves(&mut self, kind: Kind) -> Result<String, String> {
        let end = Instant::now() + PATIENCE;
        loop {
            if let Some(answer) = four_letters(&self.address, "srvr").ok().filter(|a| a.contains("Mode:")) {
                return Ok(answer);
            }
            let died = self.child.try_wait().ok().flatten();
            if died.is_some() || Instant::now() >= end {
                let log = fs::read_to_string(self.dir.join("log.txt")).unwrap_or_default();
                let tail: Vec<&str> = log.lines().rev().take(10).collect();
                let tail: Vec<&str> = tail.into_iter().rev().collect();
                let what = if died.is_some() { "ended at once" } else { "does not serve" };
                return Err(format!("{kind} {what}; the end of its log:\n{}", tail.join("\n")));
            }
            thread::sleep(Duration::from_millis(50));
        }
    }
}

/// The lines of the configuration that name the members of an ensemble; none for a server that runs alone.
fn members(servers: u32) -> io::Result<String> {
    if servers < 2 {
        return Ok(String::new());
    }
    // Apache's default of 1,000 stops the load, since the requests that wait for a leader count on each server.
    let mut lines = String::from("globalOutstandingLimit=100000\n");
    for number in 1..=servers {
        let (quorum, election) = (free_address()?, free_address()?);
        let port = election.rsplit(':').next().unwrap_or_default();
        lines += &format!("server.{number}={quorum}:{port}\n");
    }
    Ok(lines)
}

/// Resident memory of a process, bytes; 0 when it is gone.
fn resident(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let kib = status
        .lines()
        .find_map(|l| l.strip_prefix("VmRSS:")?.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    kib.unwrap_or(0) * 1024
}

fn launch(kind: Kind, paths: &Paths, dir: &Path) -> Result<Child, String> {
    let failed = |what: &str, e: io::Error| format!("{kind}: can't {what}: {e}");
    let log = fs::File::create(dir.join("log.txt")).map_err(|e| failed("write its log", e))?;
    let errors = log.try_clone().map_err(|e| failed("write its log", e))?;
    let mut command = match kind {
        Kind::Apache => {
            let mut c = Command::new("java");
            c.args(&paths.java_options).args(["-cp", &paths.classpath]);
            c.arg("org.apache.zookeeper.server.quorum.QuorumPeerMain");
            c
        }
        Kind::Falconer => Command::new(&paths.falconerd),
    };
    let command = command.arg(dir.join(CONFIG)).stdin(Stdio::null()).stdout(log).stderr(errors);
    command.spawn().map_err(|e| failed("start", e))
}

/// Opens a session and reads the root.
fn first_read(address: &str) -> io::Result<()> {
    let mut out = Vec::new();
    ConnectRequest {
        last_zxid_seen: 0,
        timeout_ms: 30_000,
        session: SessionId::NONE,
        password: &[0; 16],
        read_only: Some(false),
    }
    .encode_frame(&mut out);
    let at = begin_frame(&mut out);
    out.put_i32(1);
    out.put_i32(OpCode::GetData.wire());
    out.put_str("/");
    out.put_bool(false);
    end_frame(&mut out, at);
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    stream.write_all(&out)?;
    // The answer to the handshake, then the answer to the read.
    for _ in 0..2 {
        let mut len = [0; 4];
        stream.read_exact(&mut len)?;
        let mut frame = vec![0; u32::from_be_bytes(len).min(1 << 20) as usize];
        stream.read_exact(&mut frame)?;
    }
    Ok(())
}

fn four_letters(address: &str, word: &str) -> io::Result<String> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(Duration::from_secs(2)))?;
    stream.write_all(word.as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

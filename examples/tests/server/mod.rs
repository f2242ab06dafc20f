//! A server for the tests of this folder: `falconerd` as a process, with a data directory and a port of its own.
//!
//! * `FALCONER_TEST_SERVER=host:port` uses a server that runs already. Its `zoo.cfg` needs `extendedTypesEnabled=true`,
//!   `maxSessionTimeout=60000` and `maxClientCnxns=0`; with a short `tickTime`, and an Apache server started with
//!   `-Dznode.container.checkIntervalMs=300`, the tests are done sooner.
//! * `FALCONERD=path` names the program. Without it, it is the `falconerd` of the profile that the tests are built
//!   with, built if it isn't there.

use std::env;
use std::fs::{self, File};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

/// Long enough for a machine that is busy with other things; no test waits for it unless it fails.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// A server that lives as long as someone holds it.
pub struct Server {
    pub address: String,
    process: Option<Process>,
}

struct Process {
    child: Child,
    home: PathBuf,
}

impl Server {
    /// The server of this test process: one for all the tests that run at the same time.
    pub fn shared() -> Arc<Server> {
        static SHARED: Mutex<Weak<Server>> = Mutex::new(Weak::new());
        // A test that failed to start a server has left nothing behind that the next one couldn't use.
        let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
        shared.upgrade().unwrap_or_else(|| {
            let server = Arc::new(Server::start());
            *shared = Arc::downgrade(&server);
            server
        })
    }

    fn start() -> Server {
        if let Ok(address) = env::var("FALCONER_TEST_SERVER") {
            return Server { address, process: None };
        }
        let program = program();
        let home =
            env::temp_dir().join(format!("falconer-examples-{}-{}", std::process::id(), unused_port()));
        fs::create_dir_all(&home).expect("a temporary directory can be made");
        let port = unused_port();
        let settings = home.join("zoo.cfg");
        // Short ticks make the sessions of those who die in the examples expire soon.
        fs::write(
            &settings,
            format!(
                "dataDir={}\nclientPort={port}\nclientPortAddress=127.0.0.1\ntickTime=500\nmaxSessionTimeout=60000\n\
                 maxClientCnxns=0\nextendedTypesEnabled=true\nadmin.enableServer=false\n\
                 falconer.znode.container.checkIntervalMs=200\n",
                home.join("data").display()
            ),
        )
        .expect("the temporary directory can be written");
        let output = File::create(home.join("output")).expect("the temporary directory can be written");
        let child = Command::new(&program)
            .arg(&settings)
            .current_dir(&home)
            .stdin(Stdio::null())
            .stdout(output.try_clone().expect("a file can be shared with the server"))
            .stderr(output)
            .spawn()
            .unwrap_or_else(|error| panic!("{} can't be started: {error}", program.display()));
        let mut server =
            Server { address: format!("127.0.0.1:{port}"), process: Some(Process { child, home }) };
        server.wait_until_it_listens();
        server
    }

    fn wait_until_it_listens(&mut self) {
        let begun = Instant::now();
        while TcpStream::connect(&self.address).is_err() {
            let ended = self.process.as_mut().and_then(|process| process.child.try_wait().ok().flatten());
            assert!(ended.is_none(), "the server ended: {ended:?}{}", self.output());
            assert!(
                begun.elapsed() < PATIENCE,
                "the server doesn't listen on {}{}",
                self.address,
                self.output()
            );
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    fn output(&self) -> String {
        let Some(process) = &self.process else { return String::new() };
        let output = fs::read_to_string(process.home.join("output")).unwrap_or_default();
        format!("\nthe server's output:\n{output}")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.output());
        }
        if let Some(Process { child, home }) = &mut self.process {
            // Already dead is as good; and what can't be removed is in the temporary directory.
            let _ = child.kill();
            let _ = child.wait();
            let _ = fs::remove_dir_all(home);
        }
    }
}

/// The server program, built if need be.
fn program() -> PathBuf {
    if let Some(program) = env::var_os("FALCONERD") {
        return program.into();
    }
    // This test is target/<profile>/deps/<test>-<hash>.
    let test = env::current_exe().expect("a process knows its program");
    let profile =
        test.parent().and_then(Path::parent).expect("cargo puts tests two folders below the target");
    let program = profile.join(format!("falconerd{}", env::consts::EXE_SUFFIX));
    if !program.exists() {
        let name = match profile.file_name().and_then(|name| name.to_str()) {
            Some("debug") | None => "dev",
            Some(name) => name,
        };
        let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let built = Command::new(cargo)
            .args(["build", "--package", "server", "--profile", name, "--target-dir"])
            .arg(profile.parent().expect("a profile is a folder of the target"))
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .status();
        assert!(built.is_ok_and(|status| status.success()), "falconerd can't be built; set FALCONERD to one");
    }
    program
}

/// A port that was free a moment ago.
fn unused_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    listener.local_addr().expect("a bound socket has an address").port()
}

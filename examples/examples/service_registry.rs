//! A service registry with live updates, and load balancing over it.
//!
//! Each instance of a service registers an ephemeral znode with its address and weight. The balancer keeps a table of
//! the instances, brought up to date by a persistent recursive watch, and spreads requests over them by weight.
//!
//! What ZooKeeper guarantees, and this program asserts:
//! * An instance that stops deregisters first and drains then: no request is lost on it.
//! * The registration of an instance that dies goes away with its session.
//! * A persistent watch reports every change while the connection lasts; a changed weight takes effect without anyone
//!   polling.
//!
//! What isn't guaranteed:
//! * That a registered instance answers. Between its death and the end of its session it is still listed. The balancer
//!   must try the next one: the registry says where to try, the connection says whether it works.
//! * Events while disconnected. A persistent watch gets no catch-up for that time (a one-shot watch does), so after
//!   every reconnection the balancer sets the watch again and reads everything again.
//! * That the ensemble is reachable. The table stays in memory: the balancer goes on with what it last knew.
//!
//!     cargo run -p falconer-examples --example service_registry -- 127.0.0.1:2181

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use zookeeper_client::{
    Acls, AddWatchMode, Client, CreateMode, CreateOptions, Error, EventType, MultiReadResult, SessionState,
};

type Result<T = ()> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

const PERSISTENT: CreateOptions<'static> = CreateMode::Persistent.with_acls(Acls::anyone_all());
const SEQUENTIAL: CreateOptions<'static> = CreateMode::PersistentSequential.with_acls(Acls::anyone_all());
const EPHEMERAL: CreateOptions<'static> = CreateMode::Ephemeral.with_acls(Acls::anyone_all());

const SERVICE: &str = "/services/greeter";

#[tokio::main]
async fn main() -> Result {
    let server = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:2181".to_owned());
    demo(&server).await
}

/// Plays the whole scene on the server under a root of its own, and leaves nothing behind.
pub async fn demo(server: &str) -> Result {
    let stage = connect(server).await?;
    let (_, sequence) = stage.create("/example-registry-", b"", &SEQUENTIAL).await?;
    let root = format!("/example-registry-{sequence}");
    // The path behind the address is the client's chroot: below, "/" means this root.
    let outcome = tokio::spawn(play(format!("{server}{root}"))).await;
    delete_tree(&stage, &root).await?;
    outcome?
}

async fn play(server: String) -> Result {
    let client = connect(&server).await?;
    client.mkdir(SERVICE, &PERSISTENT).await?;

    let (publish, table) = watch::channel(Table::new());
    let follower = tokio::spawn(follow(client, publish));
    let mut balancer = Balancer { table, credit: BTreeMap::new() };

    println!("three instances of equal weight");
    let long = Client::connector().with_session_timeout(Duration::from_secs(30));
    let red = Instance::start(long.clone().connect(&server).await?, "red").await?;
    let green = Instance::start(long.clone().connect(&server).await?, "green").await?;
    // Its session is short and not closed at the end: as seen from the ensemble, a process that dies.
    let mortal = Client::connector().with_session_timeout(Duration::from_secs(4)).with_detached();
    let blue = Instance::start(mortal.connect(&server).await?, "blue").await?;
    balancer.wait_for(&[("red", 1), ("green", 1), ("blue", 1)]).await?;
    assert_eq!(balancer.spread(30).await?, [("blue", 10), ("green", 10), ("red", 10)].map(counted).into());

    println!("red gets three times the weight");
    red.set_weight(3).await?;
    balancer.wait_for(&[("red", 3), ("green", 1), ("blue", 1)]).await?;
    assert_eq!(balancer.spread(50).await?, [("blue", 10), ("green", 10), ("red", 30)].map(counted).into());

    println!("green stops in good order");
    let drained = green.deregister().await;
    balancer.wait_for(&[("red", 3), ("blue", 1)]).await?;
    assert_eq!(balancer.spread(40).await?, [("blue", 10), ("red", 30)].map(counted).into());
    // Nobody knows it any more: now it can close its port.
    drained.abort();

    println!("blue dies; it stays listed until its session expires");
    blue.die().await;
    // Whether it is still listed or not: every request is answered, all by red.
    assert_eq!(balancer.spread(20).await?, [("red", 20)].map(counted).into());
    balancer.wait_for(&[("red", 3)]).await?;

    println!("a new instance joins");
    let white = Instance::start(long.connect(&server).await?, "white").await?;
    white.set_weight(3).await?;
    balancer.wait_for(&[("red", 3), ("white", 3)]).await?;
    assert_eq!(balancer.spread(40).await?, [("red", 20), ("white", 20)].map(counted).into());

    follower.abort();
    Ok(())
}

fn counted((name, count): (&str, u32)) -> (String, u32) {
    (name.to_owned(), count)
}

/// An instance of the service: a port that answers every connection with its name.
struct Instance {
    client: Client,
    znode: String,
    address: SocketAddr,
    serving: JoinHandle<()>,
}

impl Instance {
    /// Opens the port, then registers it: an instance is known only once it can answer.
    async fn start(client: Client, name: &str) -> Result<Instance> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let answer = name.to_owned();
        let serving = tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                // A client that hangs up early is its own affair.
                let _ = stream.write_all(answer.as_bytes()).await;
            }
        });
        let znode = format!("{SERVICE}/{name}");
        client.create(&znode, format!("{address} 1").as_bytes(), &EPHEMERAL).await?;
        Ok(Instance { client, znode, address, serving })
    }

    async fn set_weight(&self, weight: u32) -> Result {
        self.client.set_data(&self.znode, format!("{} {weight}", self.address).as_bytes(), None).await?;
        Ok(())
    }

    /// Leaves the registry but goes on answering those who still have the old table.
    async fn deregister(self) -> JoinHandle<()> {
        close(self.client).await;
        self.serving
    }

    /// The port closes, the registration stays for as long as the session does.
    async fn die(self) {
        self.serving.abort();
        // Cancelled is what it was told to be.
        let _ = self.serving.await;
        drop(self.client);
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Target {
    address: SocketAddr,
    weight: u32,
}

/// The live instances by name.
type Table = BTreeMap<String, Target>;

impl Target {
    fn parse(registration: &[u8]) -> Option<Target> {
        let (address, weight) = std::str::from_utf8(registration).ok()?.split_once(' ')?;
        Some(Target { address: address.parse().ok()?, weight: weight.parse().ok()? })
    }
}

/// Keeps the table up to date for as long as the session lives.
async fn follow(client: Client, publish: watch::Sender<Table>) -> Result {
    loop {
        // First the watch, then the read: whatever changes after the read makes an event.
        let mut changes = match client.watch(SERVICE, AddWatchMode::PersistentRecursive).await {
            // The client connects again by itself.
            Err(Error::ConnectionLoss) => continue,
            watcher => watcher?,
        };
        loop {
            match read(&client).await {
                Ok(table) => drop(publish.send_replace(table)),
                // The old table stays; the events of the reconnection are under way.
                Err(Error::ConnectionLoss) => {}
                Err(error) => return Err(error.into()),
            }
            let event = changes.changed().await;
            match (event.event_type, event.session_state) {
                (EventType::Session, SessionState::Disconnected) => {}
                // Connected again. What happened meanwhile is not reported: begin anew.
                (EventType::Session, SessionState::SyncConnected) => break,
                (EventType::Session, state) => return Err(format!("the session ended: {state}").into()),
                _ => {}
            }
        }
    }
}

/// Reads the names of all instances, then all their data as of one moment.
async fn read(client: &Client) -> std::result::Result<Table, Error> {
    let names = client.list_children(SERVICE).await?;
    let mut reader = client.new_multi_reader();
    for name in &names {
        reader.add_get_data(&format!("{SERVICE}/{name}"))?;
    }
    let mut table = Table::new();
    for (name, result) in names.into_iter().zip(reader.commit().await?) {
        // An instance that has gone between the two reads has no data, and its event is under way.
        let MultiReadResult::Data { data, .. } = result else { continue };
        match Target::parse(&data) {
            Some(target) => drop(table.insert(name, target)),
            None => println!("  {name} has a registration that makes no sense: left out"),
        }
    }
    Ok(table)
}

/// Spreads requests over the table: smooth weighted round robin.
struct Balancer {
    table: watch::Receiver<Table>,
    /// What each instance has saved up: in each turn it gains its weight, and the chosen one pays the sum of weights.
    credit: BTreeMap<String, i64>,
}

impl Balancer {
    /// Waits until the live table holds these instances with these weights.
    async fn wait_for(&mut self, expected: &[(&str, u32)]) -> Result {
        let expected: BTreeMap<&str, u32> = expected.iter().copied().collect();
        self.table
            .wait_for(|table| {
                table.iter().map(|(name, target)| (name.as_str(), target.weight)).eq(expected.clone())
            })
            .await?;
        self.credit.clear();
        Ok(())
    }

    /// Sends so many requests and returns how many each instance has answered.
    async fn spread(&mut self, requests: u32) -> Result<BTreeMap<String, u32>> {
        let mut answers = BTreeMap::new();
        for _ in 0..requests {
            *answers.entry(self.request().await?).or_default() += 1;
        }
        println!("  {answers:?}");
        Ok(answers)
    }

    /// One request: to the instance whose turn it is, or, if that one doesn't answer, to the next.
    async fn request(&mut self) -> Result<String> {
        let mut table = self.table.borrow().clone();
        while let Some((name, target)) = self.choose(&table) {
            match ask(target.address).await {
                Ok(answer) => return Ok(answer),
                Err(error) => println!("  {name} doesn't answer ({error}): the next one"),
            }
            table.remove(&name);
        }
        Err("no instance answers".into())
    }

    fn choose(&mut self, table: &Table) -> Option<(String, Target)> {
        self.credit.retain(|name, _| table.contains_key(name));
        for (name, target) in table {
            *self.credit.entry(name.clone()).or_default() += i64::from(target.weight);
        }
        let (name, credit) = self.credit.iter_mut().max_by_key(|(_, credit)| **credit)?;
        *credit -= table.values().map(|target| i64::from(target.weight)).sum::<i64>();
        let target = *table.get(name)?;
        Some((name.clone(), target))
    }
}

async fn ask(address: SocketAddr) -> std::io::Result<String> {
    // A dead machine doesn't even refuse: without a limit the request would wait for it.
    tokio::time::timeout(Duration::from_secs(10), async {
        let mut answer = String::new();
        let length = TcpStream::connect(address).await?.read_to_string(&mut answer).await?;
        if length == 0 { Err(std::io::ErrorKind::UnexpectedEof.into()) } else { Ok(answer) }
    })
    .await?
}

/// Closes the session and waits until it is closed; its ephemeral znodes are gone then.
async fn close(client: Client) {
    let mut state = client.state_watcher();
    drop(client);
    while !state.changed().await.is_terminated() {}
}

async fn connect(server: &str) -> Result<Client> {
    let client = Client::connector().with_session_timeout(Duration::from_secs(30)).connect(server).await?;
    // In an ensemble this may be another server than that of the other participants, and a little behind: after sync it
    // has what they had written before.
    client.sync("/").await?;
    Ok(client)
}

/// Deletes what the scene has left, children first.
async fn delete_tree(client: &Client, root: &str) -> Result {
    client.sync(root).await?;
    let mut paths = vec![root.to_owned()];
    let mut next = 0;
    while let Some(path) = paths.get(next).cloned() {
        match client.list_children(&path).await {
            Ok(children) => paths.extend(children.iter().map(|child| format!("{path}/{child}"))),
            // An ephemeral znode whose session has ended meanwhile.
            Err(Error::NoNode) => {}
            Err(error) => return Err(error.into()),
        }
        next += 1;
    }
    for path in paths.iter().rev() {
        match client.delete(path, None).await {
            Ok(()) | Err(Error::NoNode) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

//! A shared lock: many readers or one writer.
//!
//! Readers and writers stand in one queue of ephemeral sequential znodes. A writer waits for the znode just before its
//! own. A reader waits for the nearest *writer* before it, and shares the lock with the readers around it.
//!
//! What ZooKeeper guarantees, and this program asserts:
//! * A writer is alone; readers are together.
//! * Nobody overtakes: a reader that comes after a waiting writer waits behind it, so writers don't starve.
//! * No herd: each waiter watches one znode. The end of a writer wakes the one writer, or all the readers, that can go
//!   on; the end of a reader wakes at most the writer behind it.
//!
//! What isn't guaranteed: that a holder notices in time that its session, and with it the lock, is gone. Writers need a
//! fencing token as in `lock.rs`; it is left out here.
//!
//!     cargo run -p falconer-examples --example shared_lock -- 127.0.0.1:2181

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::{Barrier, mpsc};
use tokio::task::JoinSet;
use zookeeper_client::{Acls, Client, CreateMode, CreateOptions, Error};

type Result<T = ()> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

const PERSISTENT: CreateOptions<'static> = CreateMode::Persistent.with_acls(Acls::anyone_all());
const SEQUENTIAL: CreateOptions<'static> = CreateMode::PersistentSequential.with_acls(Acls::anyone_all());
const EPHEMERAL_SEQUENTIAL: CreateOptions<'static> =
    CreateMode::EphemeralSequential.with_acls(Acls::anyone_all());

#[tokio::main]
async fn main() -> Result {
    let server = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:2181".to_owned());
    demo(&server).await
}

/// Plays the whole scene on the server under a root of its own, and leaves nothing behind.
pub async fn demo(server: &str) -> Result {
    let stage = connect(server).await?;
    let (_, sequence) = stage.create("/example-shared-lock-", b"", &SEQUENTIAL).await?;
    let root = format!("/example-shared-lock-{sequence}");
    // The path behind the address is the client's chroot: below, "/" means this root.
    let home = format!("{server}{root}");
    let outcome = tokio::spawn(async move {
        connect(&home).await?.create("/lock", b"", &PERSISTENT).await?;
        readers_share(&home).await?;
        nobody_overtakes(&home).await?;
        no_herd(&home).await?;
        mixed(&home).await
    })
    .await;
    delete_tree(&stage, &root).await?;
    outcome?
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Mode {
    Read,
    Write,
}

impl Mode {
    fn prefix(self) -> &'static str {
        match self {
            Mode::Read => "/lock/read-",
            Mode::Write => "/lock/write-",
        }
    }

    fn of(name: &str) -> Mode {
        if name.starts_with("write-") { Mode::Write } else { Mode::Read }
    }
}

/// A place in the queue; the lock, once [`Place::wait`] has returned.
struct Place {
    client: Client,
    mode: Mode,
    name: String,
}

impl Place {
    /// Enters the queue. What comes later stands behind this place. (For brevity without the care for a lost connection
    /// that `lock.rs` takes here.)
    async fn enter(client: &Client, mode: Mode) -> Result<Place> {
        let (_, sequence) = client.create(mode.prefix(), b"", &EPHEMERAL_SEQUENTIAL).await?;
        let name = format!("{}{sequence}", &mode.prefix()["/lock/".len()..]);
        Ok(Place { client: client.clone(), mode, name })
    }

    /// Waits until the lock is held in this mode, and returns how often it was woken on the way.
    async fn wait(&self) -> Result<u32> {
        let mut woken = 0;
        loop {
            let mut queue = self.client.list_children("/lock").await?;
            queue.sort_unstable_by_key(|name| sequence_of(name));
            let place = queue.iter().position(|name| *name == self.name).ok_or("our znode is gone")?;
            let blocker = queue[..place].iter().rev().find(|name| match self.mode {
                Mode::Read => Mode::of(name) == Mode::Write,
                Mode::Write => true,
            });
            let Some(blocker) = blocker else { return Ok(woken) };
            match self.client.get_and_watch_data(&format!("/lock/{blocker}")).await {
                Ok((_, _, changed)) => {
                    changed.changed().await;
                    woken += 1;
                }
                Err(Error::NoNode) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    async fn release(self) -> Result {
        Ok(self.client.delete(&format!("/lock/{}", self.name), None).await?)
    }
}

fn sequence_of(name: &str) -> Option<i64> {
    name.rsplit('-').next()?.parse().ok()
}

/// Three readers hold the lock at the same time: each stays inside until all are inside.
async fn readers_share(server: &str) -> Result {
    let all_inside = Arc::new(Barrier::new(3));
    let mut readers = JoinSet::new();
    for number in 0..3 {
        let (server, all_inside) = (server.to_owned(), all_inside.clone());
        readers.spawn(async move {
            let place = Place::enter(&connect(&server).await?, Mode::Read).await?;
            place.wait().await?;
            all_inside.wait().await;
            println!("reader {number}: inside together with two others");
            place.release().await
        });
    }
    while let Some(ended) = readers.join_next().await {
        ended??;
    }
    Ok(())
}

/// The queue is reader, writer, reader: the second reader could share with the first, but the writer was there before.
async fn nobody_overtakes(server: &str) -> Result {
    let client = connect(server).await?;
    let first = Place::enter(&client, Mode::Read).await?;
    first.wait().await?;

    let (enters, mut order) = mpsc::unbounded_channel();
    let mut waiters = JoinSet::new();
    for mode in [Mode::Write, Mode::Read] {
        let place = Place::enter(&connect(server).await?, mode).await?;
        let enters = enters.clone();
        waiters.spawn(async move {
            place.wait().await?;
            enters.send(mode)?;
            place.release().await
        });
    }
    first.release().await?;
    while let Some(ended) = waiters.join_next().await {
        ended??;
    }
    assert_eq!(order.recv().await, Some(Mode::Write), "the writer was first in the queue");
    assert_eq!(order.recv().await, Some(Mode::Read));
    println!("a reader that came after a writer has waited for it");
    Ok(())
}

/// Six writers wait in a row; each is woken once, by the one before it.
async fn no_herd(server: &str) -> Result {
    const WRITERS: u32 = 6;
    let client = connect(server).await?;
    let first = Place::enter(&client, Mode::Write).await?;
    first.wait().await?;

    let mut writers = JoinSet::new();
    for _ in 0..WRITERS {
        let place = Place::enter(&connect(server).await?, Mode::Write).await?;
        writers.spawn(async move {
            let woken = place.wait().await?;
            place.release().await?;
            Result::Ok(woken)
        });
    }
    first.release().await?;
    let mut woken = 0;
    while let Some(ended) = writers.join_next().await {
        woken += ended??;
    }
    assert!(woken <= WRITERS, "{woken} wake-ups for {WRITERS} writers");
    let herd: u32 = (1..=WRITERS).sum();
    println!(
        "{WRITERS} writers in a row were woken {woken} times; a herd would have been woken up to {herd} times"
    );
    Ok(())
}

/// Readers and writers as they come, and a resource that notices when the lock is broken.
async fn mixed(server: &str) -> Result {
    let writing = Arc::new(AtomicBool::new(false));
    let reading = Arc::new(AtomicUsize::new(0));
    let mut everyone = JoinSet::new();
    for number in 0..6 {
        let mode = if number % 3 == 0 { Mode::Write } else { Mode::Read };
        let (server, writing, reading) = (server.to_owned(), writing.clone(), reading.clone());
        everyone.spawn(async move {
            let client = connect(&server).await?;
            for _ in 0..3 {
                let place = Place::enter(&client, mode).await?;
                place.wait().await?;
                match mode {
                    Mode::Write => {
                        assert!(!writing.swap(true, Ordering::SeqCst), "one writer at a time");
                        // A round trip inside gives the others every chance to come in as well.
                        client.sync("/lock").await?;
                        assert_eq!(reading.load(Ordering::SeqCst), 0, "no reader beside a writer");
                        writing.store(false, Ordering::SeqCst);
                    }
                    Mode::Read => {
                        reading.fetch_add(1, Ordering::SeqCst);
                        client.sync("/lock").await?;
                        assert!(!writing.load(Ordering::SeqCst), "no writer beside a reader");
                        reading.fetch_sub(1, Ordering::SeqCst);
                    }
                }
                place.release().await?;
            }
            Result::Ok(())
        });
    }
    while let Some(ended) = everyone.join_next().await {
        ended??;
    }
    println!("6 writes and 12 reads, none beside a writer");
    Ok(())
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

//! An exclusive lock, and the fencing token without which no distributed lock is safe.
//!
//! Who wants the lock creates an ephemeral sequential znode. The lowest number has the lock; each other one watches the
//! znode just before its own, so that a release wakes one waiter and not all of them. The lock of a process that dies
//! is free again as soon as its session has expired.
//!
//! What ZooKeeper guarantees, and this program asserts:
//! * By the order of writes, the lock has one holder at a time, in the order of arrival.
//! * The czxid of the holder's znode is higher than that of every holder before: a fencing token.
//!
//! What no lock service can guarantee: that a process *knows* in time that it has lost the lock. It may stand still
//! (garbage collection, a suspended machine, swapping) for longer than its session lasts, wake up, and go on to write
//! as if it still had the lock; and a request sent in time may arrive late. Asking ZooKeeper just before the write
//! doesn't help: the pause can come after the answer. So the protected resource must take part: each request carries
//! the token of the lock, and the resource refuses tokens lower than the highest it has seen. The second scene shows a
//! holder that stands still, and what the token is for.
//!
//! The sequence number isn't a good token: it has 32 bits, and starts again when the parent znode is deleted and
//! created anew. The czxid has 64 bits and rises for the life of the ensemble.
//!
//!     cargo run -p falconer-examples --example lock -- 127.0.0.1:2181

use std::sync::mpsc;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::task::JoinSet;
use zookeeper_client::{Acls, Client, CreateMode, CreateOptions, Error};

type Result<T = ()> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

const PERSISTENT: CreateOptions<'static> = CreateMode::Persistent.with_acls(Acls::anyone_all());
const SEQUENTIAL: CreateOptions<'static> = CreateMode::PersistentSequential.with_acls(Acls::anyone_all());
const EPHEMERAL_SEQUENTIAL: CreateOptions<'static> =
    CreateMode::EphemeralSequential.with_acls(Acls::anyone_all());

const CONTENDERS: usize = 4;
const ROUNDS: usize = 3;

#[tokio::main]
async fn main() -> Result {
    let server = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:2181".to_owned());
    demo(&server).await
}

/// Plays the whole scene on the server under a root of its own, and leaves nothing behind.
pub async fn demo(server: &str) -> Result {
    let stage = connect(server).await?;
    let (_, sequence) = stage.create("/example-lock-", b"", &SEQUENTIAL).await?;
    let root = format!("/example-lock-{sequence}");
    // The path behind the address is the client's chroot: below, "/" means this root.
    let home = format!("{server}{root}");
    let outcome = tokio::spawn(async move {
        connect(&home).await?.create("/lock", b"", &PERSISTENT).await?;
        contend(&home).await?;
        stand_still(&home).await
    })
    .await;
    delete_tree(&stage, &root).await?;
    outcome?
}

/// The lock as one holder has it.
struct Held {
    znode: String,
    /// Fencing token: higher than that of every earlier holder.
    token: i64,
}

/// Waits until `client`'s session has the lock. One acquisition at a time per session.
async fn acquire(client: &Client) -> Result<Held> {
    let (name, token) = enqueue(client).await?;
    loop {
        let mut queue = client.list_children("/lock").await?;
        queue.sort_unstable_by_key(|name| sequence_of(name));
        let place =
            queue.iter().position(|other| *other == name).ok_or("our znode is gone: someone removed it")?;
        let Some(before) = place.checked_sub(1) else {
            return Ok(Held { znode: format!("/lock/{name}"), token });
        };
        // getData and not exists: if the predecessor is gone already, exists would leave a watch on a znode that will
        // never come again.
        match client.get_and_watch_data(&format!("/lock/{}", queue[before])).await {
            // Whatever happened, look again: the predecessor may have left the queue without ever having had the lock.
            Ok((_, _, changed)) => drop(changed.changed().await),
            Err(Error::NoNode) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Creates the own znode in the queue; returns its name and czxid.
async fn enqueue(client: &Client) -> Result<(String, i64)> {
    // After `ConnectionLoss` nobody knows whether the create has happened. The session id in the name makes it possible
    // to find out; without that, a forgotten znode of our own could block the queue, us included.
    let mine = format!("{:016x}-", client.session_id().0);
    loop {
        match client.create(&format!("/lock/{mine}"), b"", &EPHEMERAL_SEQUENTIAL).await {
            Ok((stat, sequence)) => return Ok((format!("{mine}{sequence}"), stat.czxid)),
            Err(Error::ConnectionLoss) => {}
            Err(error) => return Err(error.into()),
        }
        let queue = client.list_children("/lock").await?;
        if let Some(name) = queue.into_iter().find(|name| name.starts_with(&mine)) {
            let (_, stat) = client.get_data(&format!("/lock/{name}")).await?;
            return Ok((name, stat.czxid));
        }
    }
}

async fn release(client: &Client, held: Held) -> Result {
    match client.delete(&held.znode, None).await {
        // NoNode: this is the second try after a lost connection, or the session was lost and the lock with it.
        Ok(()) | Err(Error::NoNode) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

fn sequence_of(name: &str) -> Option<i64> {
    name.rsplit('-').next()?.parse().ok()
}

/// The protected resource, somewhere outside ZooKeeper. It takes part in the protocol: it remembers the highest token.
#[derive(Default)]
struct Storage {
    highest_token: i64,
    lines: Vec<String>,
}

impl Storage {
    fn write(&mut self, token: i64, line: String) -> std::result::Result<(), String> {
        if token < self.highest_token {
            return Err(format!("refused: token {token:#x} is older than {:#x}", self.highest_token));
        }
        self.highest_token = token;
        self.lines.push(line);
        Ok(())
    }
}

/// Scene one: several processes take the lock in turn.
async fn contend(server: &str) -> Result {
    // `try_lock` on this mutex finds it taken if two are ever inside at once.
    let inside = Arc::new(tokio::sync::Mutex::new(()));
    let storage = Arc::new(Mutex::new(Storage::default()));

    let mut everyone = JoinSet::new();
    for number in 0..CONTENDERS {
        let (server, inside, storage) = (server.to_owned(), inside.clone(), storage.clone());
        everyone.spawn(async move {
            let client = connect(&server).await?;
            for round in 0..ROUNDS {
                let held = acquire(&client).await?;
                {
                    let _alone = inside.try_lock().expect("the lock has one holder");
                    println!("contender {number}, round {round}: has the lock, token {:#x}", held.token);
                    // A round trip while holding the lock gives the others every chance to come in as well.
                    client.sync("/lock").await?;
                    let line = format!("contender {number}, round {round}");
                    storage.lock().expect("no writer panics").write(held.token, line)?;
                }
                release(&client, held).await?;
            }
            Result::Ok(())
        });
    }
    while let Some(ended) = everyone.join_next().await {
        ended??;
    }
    let storage = storage.lock().expect("no writer panics");
    assert_eq!(storage.lines.len(), CONTENDERS * ROUNDS, "no token was ever older than one before");
    Ok(())
}

/// Scene two: a holder stands still for longer than its session lasts, and wakes up believing that it has the lock.
async fn stand_still(server: &str) -> Result {
    let storage = Arc::new(Mutex::new(Storage::default()));
    let (has_lock, sleeper_has_lock) = tokio::sync::oneshot::channel();
    let (wake, woken) = mpsc::channel();

    // The sleeper is a thread with a runtime of its own. When it blocks, its client can't send heartbeats either: as
    // seen from the ensemble, a process that stands still.
    let sleeper = std::thread::spawn({
        let (server, storage) = (server.to_owned(), storage.clone());
        move || -> Result {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(async move {
                let client =
                    Client::connector().with_session_timeout(Duration::from_secs(4)).connect(&server).await?;
                let held = acquire(&client).await?;
                has_lock.send(held.token).map_err(|_| "nobody waits for the sleeper")?;

                // Here the world stops for this process. (No await: that would let the heartbeats go on.)
                woken.recv()?;

                // For this process no time has passed; it still "has" the lock and writes.
                let late = storage.lock().expect("no writer panics").write(held.token, "sleeper".to_owned());
                println!("sleeper:   wakes up and writes with token {:#x}: {late:?}", held.token);
                assert!(late.is_err(), "the storage refuses the token of a lock that was lost");

                // It learns the truth when its client has reached the ensemble again; by then the write is long sent.
                let mut state = client.state_watcher();
                while !client.state().is_terminated() {
                    state.changed().await;
                }
                println!("sleeper:   its session is {}", client.state());
                Ok(())
            })
        }
    });
    let old = sleeper_has_lock.await?;
    println!("sleeper:   has the lock, token {old:#x}, and now stands still");

    // Waits for the znode of the sleeper, that is for its session to expire.
    let client = connect(server).await?;
    let held = acquire(&client).await?;
    assert!(held.token > old, "tokens rise from holder to holder");
    storage.lock().expect("no writer panics").write(held.token, "successor".to_owned())?;
    println!("successor: has the lock, token {:#x}, and has written", held.token);

    wake.send(())?;
    // Joining blocks; the runtime has a thread for that.
    tokio::task::spawn_blocking(|| sleeper.join()).await?.map_err(|_| "the sleeper panicked")??;
    release(&client, held).await?;
    assert_eq!(storage.lock().expect("no writer panics").lines, ["successor"]);
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

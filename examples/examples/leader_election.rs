//! Leader election: one of several processes leads, and when it stops, resigns or dies, the next one does.
//!
//! The candidates stand in the queue of a lock (see `lock.rs` for the recipe by hand; here the client library plays it,
//! with znodes that Apache Curator's `LeaderLatch` understands). The first in the queue leads, its znode tells everyone
//! who it is.
//!
//! What ZooKeeper guarantees, and this program asserts:
//! * One candidate at a time is first in the queue; the terms follow in the order of arrival.
//! * The leader's death ends its session, and the end of the session ends its leadership.
//! * What the leader writes *into ZooKeeper* can be tied to its leadership: a `multi` that begins with a check of its
//!   own znode fails as a whole once that znode is gone. Such a leader can't do harm by not knowing of its end.
//!
//! What isn't guaranteed: that at no moment two processes *believe* that they lead. Whatever a leader changes outside
//! ZooKeeper needs a fencing token, as `lock.rs` shows.
//!
//!     cargo run -p falconer-examples --example leader_election -- 127.0.0.1:2181

use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;
use zookeeper_client::{Acls, Client, CreateMode, CreateOptions, Error, LockPrefix};

type Result<T = ()> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

const PERSISTENT: CreateOptions<'static> = CreateMode::Persistent.with_acls(Acls::anyone_all());
const SEQUENTIAL: CreateOptions<'static> = CreateMode::PersistentSequential.with_acls(Acls::anyone_all());

/// How a term ends, in the order in which the candidates arrive.
#[derive(Clone, Copy, Debug)]
enum End {
    /// Steps down by deleting its znode.
    Resigns,
    /// Dies without a word: its session has to expire.
    Dies,
    /// Someone else removes its znode; the leader doesn't know.
    IsDeposed,
    /// The last one finishes the work.
    Finishes,
}

const TERMS: [End; 4] = [End::Resigns, End::Dies, End::IsDeposed, End::Finishes];

#[tokio::main]
async fn main() -> Result {
    let server = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:2181".to_owned());
    demo(&server).await
}

/// Plays the whole scene on the server under a root of its own, and leaves nothing behind.
pub async fn demo(server: &str) -> Result {
    let stage = connect(server).await?;
    let (_, sequence) = stage.create("/example-leader-", b"", &SEQUENTIAL).await?;
    let root = format!("/example-leader-{sequence}");
    // The path behind the address is the client's chroot: below, "/" means this root.
    let outcome = tokio::spawn(play(format!("{server}{root}"))).await;
    delete_tree(&stage, &root).await?;
    outcome?
}

async fn play(server: String) -> Result {
    let client = connect(&server).await?;
    client.create("/election", b"", &PERSISTENT).await?;
    client.create("/journal", b"", &PERSISTENT).await?;

    let (open, opened) = watch::channel(false);
    let mut candidates = JoinSet::new();
    for (number, end) in TERMS.into_iter().enumerate() {
        candidates.spawn(run_for_office(server.clone(), number, end, opened.clone()));
        // Each candidate stands in the queue before the next one comes, so that the roles above have an order.
        loop {
            let (standing, changed) = client.list_and_watch_children("/election").await?;
            if standing.len() > number {
                break;
            }
            tokio::select! {
                _ = changed.changed() => {}
                Some(ended) = candidates.join_next() => ended??,
            }
        }
    }
    // No term ends before this.
    open.send_replace(true);
    while let Some(ended) = candidates.join_next().await {
        ended??;
    }

    let (journal, _) = client.get_data("/journal").await?;
    assert_eq!(
        journal, b"0,1,2,3,",
        "each led once, in the order of arrival, and no deposed leader has written"
    );
    assert_eq!(leader(&client).await?, None, "nobody leads any more");
    println!("journal: {}", String::from_utf8(journal)?);
    Ok(())
}

/// One candidate: waits for its term, leads, and ends.
async fn run_for_office(
    server: String,
    number: usize,
    end: End,
    mut opened: watch::Receiver<bool>,
) -> Result {
    let connector = match end {
        // Its session is to end by expiry, so it asks for a short one, and doesn't close it.
        End::Dies => Client::connector().with_session_timeout(Duration::from_secs(4)).with_detached(),
        _ => Client::connector().with_session_timeout(Duration::from_secs(30)),
    };
    let client = connector.connect(&server).await?;
    let name = number.to_string();
    let prefix = LockPrefix::new_curator("/election", "latch-")?;
    let leadership = client.lock(prefix, name.as_bytes(), Acls::anyone_all()).await?;
    println!("candidate {number}: leads ({end:?})");
    assert_eq!(leader(&client).await?, Some(name.clone()), "everyone can see who leads");
    opened.wait_for(|opened| *opened).await?;

    // Read, change, write; the write goes through `leadership`, which puts a check of the own znode in front.
    let (mut journal, _) = client.get_data("/journal").await?;
    journal.extend_from_slice(format!("{name},").as_bytes());
    leadership.set_data("/journal", &journal, None).await?;

    match end {
        // Dropping the leadership deletes its znode.
        End::Resigns | End::Finishes => {}
        End::Dies => {
            // As after kill -9: the znode isn't deleted, the connection breaks off, nobody says goodbye.
            std::mem::forget(leadership);
            drop(client);
            return Ok(());
        }
        End::IsDeposed => {
            connect(&server).await?.delete(leadership.lock_path(), None).await?;
            // The next candidate may lead by now. This one still believes in itself, but its write isn't done.
            let late = leadership.set_data("/journal", b"only me", None).await;
            assert_eq!(late, Err(Error::RuntimeInconsistent));
            println!("candidate {number}: was deposed, its late write was refused");
        }
    }
    drop(leadership);
    close(client).await;
    Ok(())
}

/// The name of the candidate that is first in the queue.
async fn leader(client: &Client) -> Result<Option<String>> {
    loop {
        let candidates = client.list_children("/election").await?;
        let first = candidates.into_iter().min_by_key(|name| name.rsplit('-').next().map(str::to_owned));
        let Some(first) = first else { return Ok(None) };
        match client.get_data(&format!("/election/{first}")).await {
            Ok((name, _)) => return Ok(Some(String::from_utf8(name)?)),
            // Gone between the two reads: look again.
            Err(Error::NoNode) => {}
            Err(error) => return Err(error.into()),
        }
    }
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

//! Names that one owner has, and numbers that nobody else has.
//!
//! Three ways to something unique, each shown with several clients at once:
//! * A name: a znode can be created once. Of all that try, one succeeds and the others get `NodeExists`.
//! * A sequential znode: the server appends a counter of the parent, ten digits. No two children get the same, later
//!   ones get higher ones.
//! * The zxid of a write: every change has a 64-bit number of its own. `setData` on one znode returns it as `mzxid`;
//!   nothing has to be cleaned up.
//!
//! What isn't guaranteed: numbers without gaps. The counter moves with every child that is created (sequential or not),
//! zxids with every write of anyone. Nor numbers for ever: the counter is a signed 32-bit number and starts again when
//! the parent is deleted and created anew; a zxid never comes twice in the life of an ensemble.
//!
//!     cargo run -p falconer-examples --example naming -- 127.0.0.1:2181

use std::collections::BTreeSet;
use std::time::Duration;

use tokio::task::JoinSet;
use zookeeper_client::{Acls, Client, CreateMode, CreateOptions, Error};

type Result<T = ()> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

const PERSISTENT: CreateOptions<'static> = CreateMode::Persistent.with_acls(Acls::anyone_all());
const SEQUENTIAL: CreateOptions<'static> = CreateMode::PersistentSequential.with_acls(Acls::anyone_all());

const CLIENTS: usize = 4;
const NUMBERS_PER_CLIENT: usize = 25;

#[tokio::main]
async fn main() -> Result {
    let server = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:2181".to_owned());
    demo(&server).await
}

/// Plays the whole scene on the server under a root of its own, and leaves nothing behind.
pub async fn demo(server: &str) -> Result {
    let stage = connect(server).await?;
    let (_, sequence) = stage.create("/example-naming-", b"", &SEQUENTIAL).await?;
    let root = format!("/example-naming-{sequence}");
    // The path behind the address is the client's chroot: below, "/" means this root.
    let outcome = tokio::spawn(play(format!("{server}{root}"))).await;
    delete_tree(&stage, &root).await?;
    outcome?
}

/// What one client came away with.
struct Take {
    client: usize,
    has_name: bool,
    sequences: Vec<i64>,
    zxids: Vec<i64>,
}

async fn play(server: String) -> Result {
    let client = connect(&server).await?;
    for path in ["/names", "/tickets", "/clock"] {
        client.create(path, b"", &PERSISTENT).await?;
    }

    let mut everyone = JoinSet::new();
    for number in 0..CLIENTS {
        everyone.spawn(take(server.clone(), number));
    }
    let mut takes = Vec::new();
    while let Some(take) = everyone.join_next().await {
        takes.push(take??);
    }

    let owners: Vec<usize> = takes.iter().filter(|take| take.has_name).map(|take| take.client).collect();
    assert_eq!(owners.len(), 1, "one client has the name, not {owners:?}");
    client.sync("/").await?;
    let (data, _) = client.get_data("/names/printer").await?;
    assert_eq!(data, owners[0].to_string().as_bytes(), "and the znode says who");
    println!("the name \"printer\" belongs to client {}", owners[0]);

    assert_unique("sequence numbers", &takes, |take| &take.sequences);
    assert_unique("zxids", &takes, |take| &take.zxids);

    // What is deleted doesn't come back: the counter belongs to the parent and only rises.
    let highest = takes.iter().flat_map(|take| &take.sequences).max().copied();
    for ticket in client.list_children("/tickets").await? {
        client.delete(&format!("/tickets/{ticket}"), None).await?;
    }
    let (_, after) = client.create("/tickets/ticket-", b"", &SEQUENTIAL).await?;
    assert!(Some(after.into_i64()) > highest, "the numbers of deleted znodes aren't given again");
    Ok(())
}

async fn take(server: String, number: usize) -> Result<Take> {
    let client = connect(&server).await?;

    // Who finds `NodeExists` was too late. (After `ConnectionLoss` the znode may exist and be ours: read it and look
    // whose name is in it.) An ephemeral znode would give the name back when its owner dies.
    let has_name = match client.create("/names/printer", number.to_string().as_bytes(), &PERSISTENT).await {
        Ok(_) => true,
        Err(Error::NodeExists) => false,
        Err(error) => return Err(error.into()),
    };

    let mut sequences = Vec::new();
    let mut zxids = Vec::new();
    for _ in 0..NUMBERS_PER_CLIENT {
        let (_, sequence) = client.create("/tickets/ticket-", b"", &SEQUENTIAL).await?;
        sequences.push(sequence.into_i64());
        zxids.push(client.set_data("/clock", b"", None).await?.mzxid);
    }
    Ok(Take { client: number, has_name, sequences, zxids })
}

fn assert_unique(what: &str, takes: &[Take], numbers_of: fn(&Take) -> &Vec<i64>) {
    for take in takes {
        assert!(numbers_of(take).is_sorted_by(|a, b| a < b), "client {}: its {what} rise", take.client);
    }
    let all: BTreeSet<i64> = takes.iter().flat_map(numbers_of).copied().collect();
    assert_eq!(all.len(), CLIENTS * NUMBERS_PER_CLIENT, "no two clients got the same of the {what}");
    println!("{} different {what}, lowest {:?}, highest {:?}", all.len(), all.first(), all.last());
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

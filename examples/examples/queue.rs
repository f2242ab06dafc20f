//! A first-in first-out queue with several producers and consumers.
//!
//! An item is a sequential znode; the sequence is its place in the queue. A consumer claims the lowest one by deleting
//! it: of several that try, one succeeds.
//!
//! What ZooKeeper guarantees, and this program asserts:
//! * Items are claimed in exactly the order in which they were put in, each once.
//! * If the result goes into ZooKeeper too, the claim and the result are one `multi`: nothing is lost and nothing is
//!   done twice, even if the consumer dies at the worst moment.
//!
//! What isn't: a result *outside* ZooKeeper. Delete first and work then, and a consumer that dies in between loses the
//! item; work first and delete then, and it is done twice. For that, make the work idempotent, or keep the claim as an
//! ephemeral znode until the work is done (`progress.rs`).
//!
//! What it isn't for: a message broker. Each item costs two agreed writes, and all items are in memory; `list_children`
//! of a queue with very many items makes a large reply. Thousands are fine, millions aren't.
//!
//!     cargo run -p falconer-examples --example queue -- 127.0.0.1:2181

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::task::JoinSet;
use zookeeper_client::{Acls, Client, CreateMode, CreateOptions, Error, MultiWriteError};

type Result<T = ()> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

const PERSISTENT: CreateOptions<'static> = CreateMode::Persistent.with_acls(Acls::anyone_all());
const SEQUENTIAL: CreateOptions<'static> = CreateMode::PersistentSequential.with_acls(Acls::anyone_all());

const PRODUCERS: usize = 3;
const ITEMS_PER_PRODUCER: usize = 10;
const CONSUMERS: usize = 3;

/// The item that tells one consumer to go home.
const END: &[u8] = b"end";

#[tokio::main]
async fn main() -> Result {
    let server = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:2181".to_owned());
    demo(&server).await
}

/// Plays the whole scene on the server under a root of its own, and leaves nothing behind.
pub async fn demo(server: &str) -> Result {
    let stage = connect(server).await?;
    let (_, sequence) = stage.create("/example-queue-", b"", &SEQUENTIAL).await?;
    let root = format!("/example-queue-{sequence}");
    // The path behind the address is the client's chroot: below, "/" means this root.
    let outcome = tokio::spawn(play(format!("{server}{root}"))).await;
    delete_tree(&stage, &root).await?;
    outcome?
}

async fn play(server: String) -> Result {
    let client = connect(&server).await?;
    client.create("/queue", b"", &PERSISTENT).await?;
    client.create("/done", b"", &PERSISTENT).await?;

    let mut consumers = JoinSet::new();
    for number in 0..CONSUMERS {
        consumers.spawn(consume(server.clone(), number));
    }
    let mut producers = JoinSet::new();
    for number in 0..PRODUCERS {
        producers.spawn(produce(server.clone(), number));
    }
    while let Some(ended) = producers.join_next().await {
        ended??;
    }
    for _ in 0..CONSUMERS {
        client.create("/queue/item-", END, &SEQUENTIAL).await?;
    }
    while let Some(ended) = consumers.join_next().await {
        ended??;
    }

    client.sync("/").await?;
    assert!(client.list_children("/queue").await?.is_empty(), "nothing is left");
    let mut results = client.list_children("/done").await?;
    results.sort_unstable();
    assert_eq!(results.len(), PRODUCERS * ITEMS_PER_PRODUCER, "every item was done");

    // The czxid of a result is the moment of its claim.
    let mut claimed_last = 0;
    let mut next_of: BTreeMap<String, usize> = BTreeMap::new();
    for result in &results {
        let (item, stat) = client.get_data(&format!("/done/{result}")).await?;
        assert!(stat.czxid > claimed_last, "{result} was claimed after all the items before it");
        claimed_last = stat.czxid;
        let item = String::from_utf8(item)?;
        let (producer, number) = item.split_once(' ').ok_or("an item is a producer and a number")?;
        let next = next_of.entry(producer.to_owned()).or_default();
        assert_eq!(number.parse::<usize>()?, *next, "the items of {producer} kept their order");
        *next += 1;
    }
    println!("{} items, each done once, in their order", results.len());
    Ok(())
}

async fn produce(server: String, number: usize) -> Result {
    let client = connect(&server).await?;
    for item in 0..ITEMS_PER_PRODUCER {
        // (After `ConnectionLoss` the item may be in the queue or not. A producer that must not put it in twice writes
        // an id of its own into the data and looks for it; `lock.rs` shows how.)
        client.create("/queue/item-", format!("producer-{number} {item}").as_bytes(), &SEQUENTIAL).await?;
    }
    Ok(())
}

async fn consume(server: String, number: usize) -> Result {
    let client = connect(&server).await?;
    let mut done = 0;
    loop {
        // One read lists the queue and sets the watch: an item that comes between the two can't be missed. A new item
        // wakes all the consumers that wait, and one gets it; with very many consumers let them queue up as in a lock.
        let (mut queue, changed) = client.list_and_watch_children("/queue").await?;
        if queue.is_empty() {
            changed.changed().await;
            continue;
        }
        queue.sort_unstable();
        // The whole list is tried, lowest first, before it is read again: that saves a read an item.
        for item in queue {
            let path = format!("/queue/{item}");
            let data = match client.get_data(&path).await {
                Ok((data, _)) => data,
                // Claimed by another consumer.
                Err(Error::NoNode) => continue,
                Err(error) => return Err(error.into()),
            };
            let mut claim = client.new_multi_writer();
            claim.add_delete(&path, None)?;
            if data != END {
                claim.add_create(&format!("/done/{item}"), &data, &PERSISTENT)?;
            }
            match claim.commit().await {
                Ok(_) if data == END => {
                    println!("consumer {number}: done {done} items");
                    return Ok(());
                }
                Ok(_) => done += 1,
                Err(MultiWriteError::OperationFailed { index: 0, source: Error::NoNode }) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
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

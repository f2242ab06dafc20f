//! Configuration, published and subscribed.
//!
//! A release of the configuration is several znodes that belong together. Two publishers change them at the same time,
//! three subscribers follow.
//!
//! What ZooKeeper guarantees, and this program asserts:
//! * A `multi` is seen whole or not at all: no subscriber ever reads the address of one release with the pool size of
//!   another.
//! * A write with an expected version fails with `BadVersion` when someone else was faster, so no release is lost:
//!   read, change, write, and on `BadVersion` read again.
//! * A client sees the event of a change before it sees any data that contains the change, and its reads never go back
//!   in time.
//!
//! What it doesn't: a subscriber isn't told of every release. A watch fires once, and what changes before it is set
//! again arrives as one change. That is right for configuration, where only the newest counts; for a history, keep
//! each entry in a znode of its own (see `queue.rs`).
//!
//!     cargo run -p falconer-examples --example config -- 127.0.0.1:2181

use std::time::Duration;

use tokio::task::JoinSet;
use zookeeper_client::{Acls, Client, CreateMode, CreateOptions, Error, MultiReadResult, MultiWriteError};

type Result<T = ()> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

const PERSISTENT: CreateOptions<'static> = CreateMode::Persistent.with_acls(Acls::anyone_all());
const SEQUENTIAL: CreateOptions<'static> = CreateMode::PersistentSequential.with_acls(Acls::anyone_all());

const PUBLISHERS: u32 = 2;
const SUBSCRIBERS: u32 = 3;
const RELEASES_PER_PUBLISHER: u32 = 10;
const RELEASES: u32 = PUBLISHERS * RELEASES_PER_PUBLISHER;

#[tokio::main]
async fn main() -> Result {
    let server = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:2181".to_owned());
    demo(&server).await
}

/// Plays the whole scene on the server under a root of its own, and leaves nothing behind.
pub async fn demo(server: &str) -> Result {
    let stage = connect(server).await?;
    let (_, sequence) = stage.create("/example-config-", b"", &SEQUENTIAL).await?;
    let root = format!("/example-config-{sequence}");
    // The path behind the address is the client's chroot: below, "/" means this root.
    let outcome = tokio::spawn(play(format!("{server}{root}"))).await;
    delete_tree(&stage, &root).await?;
    outcome?
}

async fn play(server: String) -> Result {
    let client = connect(&server).await?;
    let mut first = client.new_multi_writer();
    first.add_create("/release", b"0", &PERSISTENT)?;
    first.add_create("/address", &address(0), &PERSISTENT)?;
    first.add_create("/pool", &pool(0), &PERSISTENT)?;
    first.commit().await?;

    let mut subscribers = JoinSet::new();
    for number in 0..SUBSCRIBERS {
        subscribers.spawn(subscribe(server.clone(), number));
    }
    let mut publishers = JoinSet::new();
    for number in 0..PUBLISHERS {
        publishers.spawn(publish(server.clone(), number));
    }
    while let Some(ended) = publishers.join_next().await {
        ended??;
    }
    client.sync("/").await?;
    let (release, stat) = client.get_data("/release").await?;
    assert_eq!(parse(&release)?, RELEASES, "every release of both publishers counts");
    assert_eq!(stat.version, i32::try_from(RELEASES)?, "and each was one change of the znode");

    while let Some(ended) = subscribers.join_next().await {
        ended??;
    }
    println!("{RELEASES} releases, none lost, none seen by halves");
    Ok(())
}

/// Publishes releases, each built on the one before it, whoever made that.
async fn publish(server: String, number: u32) -> Result {
    let client = connect(&server).await?;
    let mut overtaken = 0;
    for _ in 0..RELEASES_PER_PUBLISHER {
        loop {
            let (release, stat) = client.get_data("/release").await?;
            let next = parse(&release)? + 1;
            let mut change = client.new_multi_writer();
            // The version read above is the condition: if the other publisher was here in between, nothing of this
            // change happens.
            change.add_set_data("/release", next.to_string().as_bytes(), Some(stat.version))?;
            change.add_set_data("/address", &address(next), None)?;
            change.add_set_data("/pool", &pool(next), None)?;
            match change.commit().await {
                Ok(_) => break,
                Err(MultiWriteError::OperationFailed { index: 0, source: Error::BadVersion }) => {
                    overtaken += 1
                }
                Err(error) => return Err(error.into()),
            }
        }
    }
    println!("publisher {number}: done, {overtaken} times overtaken and tried again");
    Ok(())
}

/// Follows the configuration until the last release.
async fn subscribe(server: String, number: u32) -> Result {
    let client = connect(&server).await?;
    let mut seen = Vec::new();
    loop {
        // The watch is set by the read that it belongs to: no change can fall between the two.
        let (_, _, changed) = client.get_and_watch_data("/release").await?;
        let release = read_consistently(&client).await?;
        assert!(seen.last().is_none_or(|last| *last <= release), "subscriber {number} went back in time");
        seen.push(release);
        if release == RELEASES {
            break;
        }
        changed.changed().await;
    }
    seen.dedup();
    println!("subscriber {number}: saw {} of {RELEASES} releases, the last one too", seen.len());
    Ok(())
}

/// Reads all znodes of a release at one moment and returns its number.
async fn read_consistently(client: &Client) -> Result<u32> {
    let mut reader = client.new_multi_reader();
    for path in ["/release", "/address", "/pool"] {
        reader.add_get_data(path)?;
    }
    let mut parts = Vec::new();
    for part in reader.commit().await? {
        match part {
            MultiReadResult::Data { data, .. } => parts.push(data),
            other => return Err(format!("a part of the configuration can't be read: {other:?}").into()),
        }
    }
    let release = parse(&parts[0])?;
    assert_eq!(parts[1], address(release), "the address belongs to release {release}");
    assert_eq!(parts[2], pool(release), "the pool size belongs to release {release}");
    Ok(release)
}

fn address(release: u32) -> Vec<u8> {
    format!("db-{release}.example:5432").into_bytes()
}

fn pool(release: u32) -> Vec<u8> {
    (10 * release).to_string().into_bytes()
}

fn parse(number: &[u8]) -> Result<u32> {
    Ok(std::str::from_utf8(number)?.parse()?)
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

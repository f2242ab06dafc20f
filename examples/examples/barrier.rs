//! A barrier: a queue that opens when it is complete, and closes when all have left.
//!
//! Everyone who arrives puts a znode into the queue. Who finds it complete creates the znode `/open`, for which all
//! wait. On the way out everyone takes the own znode away and waits until none is left (a *double* barrier: nobody goes
//! on to the next step while someone is still at work in this one).
//!
//! What ZooKeeper guarantees, and this program asserts:
//! * Nobody passes before all have arrived, nobody leaves before all are ready.
//! * No wake-up is lost: the watch for `/open` is set before the own arrival is announced.
//! * No herd: one znode opens for all; on the way out each waits for one other at a time.
//!
//! What isn't guaranteed: that all are still alive once it is open. The znodes are ephemeral, so a dead one doesn't
//! count as arrived and doesn't hold up the way out, but it may die just after it was counted. Who must notice that
//! watches the members (`membership.rs`).
//!
//!     cargo run -p falconer-examples --example barrier -- 127.0.0.1:2181

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::task::JoinSet;
use zookeeper_client::{Acls, Client, CreateMode, CreateOptions, Error};

type Result<T = ()> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

const PERSISTENT: CreateOptions<'static> = CreateMode::Persistent.with_acls(Acls::anyone_all());
const SEQUENTIAL: CreateOptions<'static> = CreateMode::PersistentSequential.with_acls(Acls::anyone_all());
const EPHEMERAL: CreateOptions<'static> = CreateMode::Ephemeral.with_acls(Acls::anyone_all());

const PARTICIPANTS: usize = 5;
const STEPS: usize = 3;

#[tokio::main]
async fn main() -> Result {
    let server = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:2181".to_owned());
    demo(&server).await
}

/// Plays the whole scene on the server under a root of its own, and leaves nothing behind.
pub async fn demo(server: &str) -> Result {
    let stage = connect(server).await?;
    let (_, sequence) = stage.create("/example-barrier-", b"", &SEQUENTIAL).await?;
    let root = format!("/example-barrier-{sequence}");
    // The path behind the address is the client's chroot: below, "/" means this root.
    let outcome = tokio::spawn(play(format!("{server}{root}"))).await;
    delete_tree(&stage, &root).await?;
    outcome?
}

/// What the participants have done in one step, known outside the barrier: to check the barrier against.
#[derive(Default)]
struct Step {
    arrived: AtomicUsize,
    worked: AtomicUsize,
}

async fn play(server: String) -> Result {
    let client = connect(&server).await?;
    // Each step has a barrier of its own: a participant that is fast can't slip into the next round of the same one.
    for step in 0..STEPS {
        client.create(&format!("/step-{step}"), b"", &PERSISTENT).await?;
        client.create(&format!("/step-{step}/queue"), b"", &PERSISTENT).await?;
    }
    let steps: Arc<[Step]> = (0..STEPS).map(|_| Step::default()).collect();

    let mut everyone = JoinSet::new();
    for number in 0..PARTICIPANTS {
        everyone.spawn(participate(server.clone(), number, steps.clone()));
    }
    while let Some(ended) = everyone.join_next().await {
        ended??;
    }
    println!("{PARTICIPANTS} participants went through {STEPS} steps together");
    Ok(())
}

async fn participate(server: String, number: usize, steps: Arc<[Step]>) -> Result {
    let client = connect(&server).await?;
    for (index, step) in steps.iter().enumerate() {
        let barrier = format!("/step-{index}");

        // One comes late: when the others all wait for it.
        let straggles = number == index % PARTICIPANTS;
        if straggles {
            wait_for_queue_of(&client, &barrier, PARTICIPANTS - 1).await?;
        }
        step.arrived.fetch_add(1, Ordering::SeqCst);
        enter(&client, &barrier, number).await?;
        assert_eq!(
            step.arrived.load(Ordering::SeqCst),
            PARTICIPANTS,
            "nobody passes before all have arrived"
        );

        // The same one works long: until the others all wait to leave.
        if straggles {
            wait_for_queue_of(&client, &barrier, 1).await?;
        }
        println!("participant {number}: has done its part of step {index}");
        step.worked.fetch_add(1, Ordering::SeqCst);
        leave(&client, &barrier, number).await?;
        assert_eq!(step.worked.load(Ordering::SeqCst), PARTICIPANTS, "nobody leaves before all are ready");
    }
    Ok(())
}

/// For the scene only: waits until so many are in the queue.
async fn wait_for_queue_of(client: &Client, barrier: &str, length: usize) -> Result {
    loop {
        let (queue, changed) = client.list_and_watch_children(&format!("{barrier}/queue")).await?;
        if queue.len() == length {
            return Ok(());
        }
        changed.changed().await;
    }
}

async fn enter(client: &Client, barrier: &str, number: usize) -> Result {
    let open = format!("{barrier}/open");
    // First the watch, then the own arrival: the opening can't be missed.
    let (stat, opened) = client.check_and_watch_stat(&open).await?;
    assert_eq!(stat, None, "it can't be open without us");
    client.create(&format!("{barrier}/queue/{number}"), b"", &EPHEMERAL).await?;
    if client.list_children(&format!("{barrier}/queue")).await?.len() == PARTICIPANTS {
        // Complete. Two participants may both see that; one of them creates the znode.
        match client.create(&open, b"", &PERSISTENT).await {
            Ok(_) | Err(Error::NodeExists) => {}
            Err(error) => return Err(error.into()),
        }
    }
    opened.changed().await;
    Ok(())
}

async fn leave(client: &Client, barrier: &str, number: usize) -> Result {
    let queue = format!("{barrier}/queue");
    client.delete(&format!("{queue}/{number}"), None).await?;
    loop {
        let Some(other) = client.list_children(&queue).await?.into_iter().max() else { return Ok(()) };
        // All wait for the same one, the highest, and then for the next that is still there. A watch on the children
        // would wake everyone at every departure.
        match client.get_and_watch_data(&format!("{queue}/{other}")).await {
            Ok((_, _, gone)) => drop(gone.changed().await),
            Err(Error::NoNode) => {}
            Err(error) => return Err(error.into()),
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

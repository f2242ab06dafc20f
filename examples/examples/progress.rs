//! Progress of workers, told by ephemeral znodes; the task of a worker that dies goes to another.
//!
//! A worker takes a task by creating the ephemeral znode `/progress/<task>`, and writes into it how far it is. The
//! coordinator follows all of them with one persistent recursive watch. When a task is done, the worker moves it from
//! `/tasks` to `/done` and removes its progress, in one `multi`. A progress znode that goes away without that belonged
//! to a worker that died: the next free worker takes the task.
//!
//! What ZooKeeper guarantees, and this program asserts:
//! * One worker per task at a time, as ZooKeeper sees it: the znode can be created once.
//! * A task is done once. Its progress znode goes only when its worker's session has ended, and from then on that
//!   worker can't write anything any more: it can't report what another has taken over.
//! * The progress that the coordinator sees of one worker never goes back.
//!
//! What isn't guaranteed: that a worker that was given up has stopped. Until it notices, two may work on one task, so
//! the work itself must bear that (or be fenced, `lock.rs`). And an ephemeral znode takes its data with it: what the
//! successor needs in order to continue belongs into a persistent znode, here `/tasks/<task>`.
//!
//!     cargo run -p falconer-examples --example progress -- 127.0.0.1:2181

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::sync::{oneshot, watch};
use tokio::task::JoinSet;
use zookeeper_client::{
    Acls, AddWatchMode, CheckWriteError, Client, CreateMode, CreateOptions, Error, EventType, SessionState,
};

type Result<T = ()> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

const PERSISTENT: CreateOptions<'static> = CreateMode::Persistent.with_acls(Acls::anyone_all());
const SEQUENTIAL: CreateOptions<'static> = CreateMode::PersistentSequential.with_acls(Acls::anyone_all());
const EPHEMERAL: CreateOptions<'static> = CreateMode::Ephemeral.with_acls(Acls::anyone_all());

const TASKS: usize = 6;
const STEPS: u32 = 4;

#[tokio::main]
async fn main() -> Result {
    let server = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:2181".to_owned());
    demo(&server).await
}

/// Plays the whole scene on the server under a root of its own, and leaves nothing behind.
pub async fn demo(server: &str) -> Result {
    let stage = connect(server).await?;
    let (_, sequence) = stage.create("/example-progress-", b"", &SEQUENTIAL).await?;
    let root = format!("/example-progress-{sequence}");
    // The path behind the address is the client's chroot: below, "/" means this root.
    let outcome = tokio::spawn(play(format!("{server}{root}"))).await;
    delete_tree(&stage, &root).await?;
    outcome?
}

async fn play(server: String) -> Result {
    let client = connect(&server).await?;
    for path in ["/tasks", "/progress", "/done"] {
        client.create(path, b"", &PERSISTENT).await?;
    }
    for task in 0..TASKS {
        // The data is the checkpoint: how many steps need not be done again.
        client.create(&format!("/tasks/{task}"), b"0", &PERSISTENT).await?;
    }

    let (publish, mut board) = watch::channel(Board::new());
    let coordinator = tokio::spawn(coordinate(connect(&server).await?, publish));

    // The unlucky worker begins alone, so that it surely gets a task, and dies in the middle of it.
    let (died, death) = oneshot::channel();
    let unlucky = tokio::spawn(die_at_work(server.clone(), died));
    let orphan = death.await?;
    unlucky.await??;
    board.wait_for(|board| board.contains_key(&orphan)).await?;

    let mut workers = JoinSet::new();
    for name in ["bob", "cid"] {
        workers.spawn(work(server.clone(), name));
    }
    while let Some(ended) = workers.join_next().await {
        ended??;
    }
    // The coordinator ends when it has seen all tasks done.
    tokio::time::timeout(Duration::from_secs(60), coordinator).await???;

    client.sync("/").await?;
    let done = client.list_children("/done").await?;
    assert_eq!(done.len(), TASKS, "every task was done");
    let (by, _) = client.get_data(&format!("/done/{orphan}")).await?;
    assert!(by == b"bob" || by == b"cid", "the task of the dead worker was done by a living one");
    println!("{TASKS} tasks done, number {orphan} by {} in place of the dead one", String::from_utf8(by)?);
    Ok(())
}

/// Takes one task, does half of it, and dies without a word.
async fn die_at_work(server: String, died: oneshot::Sender<String>) -> Result {
    // Its session is short and not closed at the end: as seen from the ensemble, a process that dies.
    let mortal = Client::connector().with_session_timeout(Duration::from_secs(4)).with_detached();
    let client = mortal.connect(&server).await?;
    let task = take(&client, "ann").await?.ok_or("there are tasks enough")?;
    println!("ann: takes task {task}");
    for step in 1..=STEPS / 2 {
        do_step(&client, "ann", &task, step).await?;
    }
    println!("ann: dies, half way through task {task}");
    died.send(task).map_err(|_| "nobody waits for the death of ann")?;
    Ok(())
}

/// Works until every task is done.
async fn work(server: String, name: &str) -> Result {
    let client = connect(&server).await?;
    while let Some(task) = take(&client, name).await? {
        let (checkpoint, _) = client.get_data(&format!("/tasks/{task}")).await?;
        let begun: u32 = String::from_utf8(checkpoint)?.parse()?;
        println!("{name}: takes task {task} after step {begun}");
        for step in begun + 1..=STEPS {
            do_step(&client, name, &task, step).await?;
        }
        let mut finish = client.new_multi_writer();
        finish.add_delete(&format!("/progress/{task}"), None)?;
        finish.add_delete(&format!("/tasks/{task}"), None)?;
        finish.add_create(&format!("/done/{task}"), name.as_bytes(), &PERSISTENT)?;
        finish.commit().await?;
    }
    Ok(())
}

/// Here the work of a step would be done; then checkpoint and report are written as one.
async fn do_step(client: &Client, name: &str, task: &str, step: u32) -> Result {
    let mut report = client.new_multi_writer();
    report.add_set_data(&format!("/tasks/{task}"), step.to_string().as_bytes(), None)?;
    report.add_set_data(&format!("/progress/{task}"), format!("{name} {step}").as_bytes(), None)?;
    report.commit().await?;
    Ok(())
}

/// Claims a task that nobody has; waits while all that is left is in the hands of others; none when all is done.
async fn take(client: &Client, name: &str) -> Result<Option<String>> {
    loop {
        // The watch comes first: whatever is given back after this read wakes us.
        let (_, changed) = client.list_and_watch_children("/progress").await?;
        let mut tasks = client.list_children("/tasks").await?;
        if tasks.is_empty() {
            return Ok(None);
        }
        tasks.sort_unstable();
        for task in tasks {
            // A multi that begins with a check: the task is still to be done, and nobody else is at it.
            let mut claim = client.new_check_writer(&format!("/tasks/{task}"), None)?;
            claim.add_create(&format!("/progress/{task}"), format!("{name} 0").as_bytes(), &EPHEMERAL)?;
            match claim.commit().await {
                Ok(_) => return Ok(Some(task)),
                Err(CheckWriteError::CheckFailed { source: Error::NoNode }) => {}
                Err(CheckWriteError::OperationFailed { source: Error::NodeExists, .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        changed.changed().await;
    }
}

/// Each task in work: who, and how far.
type Board = BTreeMap<String, (String, u32)>;

/// Follows all progress with one watch, until every task is done.
async fn coordinate(client: Client, publish: watch::Sender<Board>) -> Result {
    // The furthest step seen of each worker on each task.
    let mut furthest: BTreeMap<(String, String), u32> = BTreeMap::new();
    loop {
        // First the watch, then the read: whatever changes after the read makes an event.
        let mut changes = client.watch("/", AddWatchMode::PersistentRecursive).await?;
        loop {
            let board = read(&client).await?;
            for (task, (worker, step)) in &board {
                let before = furthest.insert((task.clone(), worker.clone()), *step).unwrap_or(0);
                assert!(before <= *step, "{worker} went back from step {before} to {step} of task {task}");
            }
            publish.send_replace(board);
            if client.list_children("/done").await?.len() == TASKS {
                let seen: Vec<String> = furthest
                    .iter()
                    .map(|((task, worker), step)| format!("{task}: {worker} {step}/{STEPS}"))
                    .collect();
                println!("coordinator: all done; last seen of each: {}", seen.join(", "));
                return Ok(());
            }
            let event = changes.changed().await;
            match (event.event_type, event.session_state) {
                (EventType::Session, SessionState::Disconnected) => {}
                // Connected again. What happened meanwhile is not reported: begin anew.
                (EventType::Session, SessionState::SyncConnected) => break,
                (EventType::Session, state) => return Err(format!("the session ended: {state}").into()),
                (EventType::NodeDeleted, _) if event.path.starts_with("/progress/") => {
                    println!("coordinator: {} has ended", event.path)
                }
                _ => {}
            }
        }
    }
}

async fn read(client: &Client) -> Result<Board> {
    let mut board = Board::new();
    for task in client.list_children("/progress").await? {
        let data = match client.get_data(&format!("/progress/{task}")).await {
            Ok((data, _)) => String::from_utf8(data)?,
            // Gone between the two reads.
            Err(Error::NoNode) => continue,
            Err(error) => return Err(error.into()),
        };
        let (worker, step) = data.split_once(' ').ok_or("progress is a name and a step")?;
        board.insert(task, (worker.to_owned(), step.parse()?));
    }
    Ok(board)
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

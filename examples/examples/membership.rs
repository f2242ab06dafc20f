//! Group membership: who is there, and who has gone.
//!
//! A member is an ephemeral znode under the group. It lives as long as the session of the process that created it, so
//! the list of children is the list of members, without heartbeats or clean-up jobs in the application.
//!
//! What ZooKeeper guarantees, and this program asserts:
//! * Who closes its session is out of the group at once; who dies, when its session has expired, never before.
//! * Every change of the group is noticed. Several changes in quick succession may be noticed as one: the watcher sees
//!   states, not a history. All watchers see the changes in the same order.
//!
//! What isn't guaranteed: that a member in the list is alive *now*. It was within the last session timeout. And a
//! member that is cut off learns of its end only when it reaches the ensemble again; until then it must not assume that
//! the others still count on it (the state `Disconnected` is the signal).
//!
//!     cargo run -p falconer-examples --example membership -- 127.0.0.1:2181

use std::collections::BTreeSet;
use std::time::Duration;

use tokio::sync::watch;
use zookeeper_client::{Acls, Client, CreateMode, CreateOptions, Error, EventType};

type Result<T = ()> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

const PERSISTENT: CreateOptions<'static> = CreateMode::Persistent.with_acls(Acls::anyone_all());
const SEQUENTIAL: CreateOptions<'static> = CreateMode::PersistentSequential.with_acls(Acls::anyone_all());
const EPHEMERAL: CreateOptions<'static> = CreateMode::Ephemeral.with_acls(Acls::anyone_all());

#[tokio::main]
async fn main() -> Result {
    let server = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:2181".to_owned());
    demo(&server).await
}

/// Plays the whole scene on the server under a root of its own, and leaves nothing behind.
pub async fn demo(server: &str) -> Result {
    let stage = connect(server).await?;
    let (_, sequence) = stage.create("/example-membership-", b"", &SEQUENTIAL).await?;
    let root = format!("/example-membership-{sequence}");
    // The path behind the address is the client's chroot: below, "/" means this root.
    let outcome = tokio::spawn(play(format!("{server}{root}"))).await;
    delete_tree(&stage, &root).await?;
    outcome?
}

type Group = BTreeSet<String>;

async fn play(server: String) -> Result {
    connect(&server).await?.create("/group", b"", &PERSISTENT).await?;

    // Two observers, each with a session of its own. Each publishes the group as it sees it.
    let mut views = Vec::new();
    let mut observers = Vec::new();
    for _ in 0..2 {
        let (publish, view) = watch::channel(Group::new());
        observers.push(tokio::spawn(observe(server.clone(), publish)));
        views.push(view);
    }
    let [first, second] = views.as_mut_slice() else { return Err("two observers".into()) };
    let mut all_see = async |members: &[&str]| -> Result {
        let members: Group = members.iter().map(|name| (*name).to_owned()).collect();
        first.wait_for(|group| *group == members).await?;
        second.wait_for(|group| *group == members).await?;
        println!("both observers see {members:?}");
        Ok(())
    };

    let anna = join(&server, "anna").await?;
    all_see(&["anna"]).await?;
    let ben = join(&server, "ben").await?;
    all_see(&["anna", "ben"]).await?;

    // Joins with a short session that isn't closed at the end: as seen from the ensemble, a process that dies.
    let mortal = Client::connector().with_session_timeout(Duration::from_secs(4)).with_detached();
    let carl = mortal.connect(&server).await?;
    carl.create("/group/carl", b"", &EPHEMERAL).await?;
    all_see(&["anna", "ben", "carl"]).await?;

    println!("ben leaves");
    close(ben).await;
    all_see(&["anna", "carl"]).await?;

    println!("carl dies: his session, {:?} long, has to expire first", carl.session_timeout());
    drop(carl);
    all_see(&["anna"]).await?;

    // A name can be taken again as soon as its session is gone, not before.
    let impostor = connect(&server).await?;
    assert_eq!(impostor.create("/group/anna", b"", &EPHEMERAL).await.map(drop), Err(Error::NodeExists));
    let carl = join(&server, "carl").await?;
    all_see(&["anna", "carl"]).await?;

    close(anna).await;
    close(carl).await;
    all_see(&[]).await?;
    for observer in observers {
        observer.abort();
    }
    Ok(())
}

async fn join(server: &str, name: &str) -> Result<Client> {
    let client = connect(server).await?;
    client.create(&format!("/group/{name}"), b"", &EPHEMERAL).await?;
    println!("{name} joins");
    Ok(client)
}

/// Publishes the group, and again after every change.
async fn observe(server: String, publish: watch::Sender<Group>) -> Result {
    let client = connect(&server).await?;
    loop {
        // One read gives the list and sets the watch for the next change: none can fall between.
        let (members, changed) = client.list_and_watch_children("/group").await?;
        publish.send_replace(members.into_iter().collect());
        let event = changed.changed().await;
        if event.event_type == EventType::Session {
            // The observer's own session is over: what it has published is no longer kept up to date.
            return Err(format!("the session ended: {}", event.session_state).into());
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

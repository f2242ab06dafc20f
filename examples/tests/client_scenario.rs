//! Everything that `zookeeper-client` offers, against a server: each call of its interface, with what it must answer,
//! and the errors that people rely on.
//!
//! One test a theme; each works under a root of its own, `/scenario-…`, which it leaves to the server.

mod server;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use server::{PATIENCE, Server};
use zookeeper_client::{
    Acl, Acls, AddWatchMode, AuthId, AuthUser, CheckWriteError, Client, Connector, CreateMode, CreateOptions,
    EnsembleUpdate, Error, EventType, LockOptions, LockPrefix, MultiReadResult, MultiWriteError,
    MultiWriteResult, Permission, SessionState, WatchedEvent,
};

const PERSISTENT: CreateOptions<'static> = CreateMode::Persistent.with_acls(Acls::anyone_all());
const SEQUENTIAL: CreateOptions<'static> = CreateMode::PersistentSequential.with_acls(Acls::anyone_all());
const EPHEMERAL: CreateOptions<'static> = CreateMode::Ephemeral.with_acls(Acls::anyone_all());
const EPHEMERAL_SEQUENTIAL: CreateOptions<'static> =
    CreateMode::EphemeralSequential.with_acls(Acls::anyone_all());
const CONTAINER: CreateOptions<'static> = CreateMode::Container.with_acls(Acls::anyone_all());

/// A root of its own on the shared server.
struct Place {
    server: Arc<Server>,
    root: String,
    client: Client,
}

impl Place {
    async fn new() -> Place {
        let server = Server::shared();
        let stage = connector().connect(&server.address).await.expect("the server answers");
        let (_, sequence) =
            stage.create("/scenario-", b"", &SEQUENTIAL).await.expect("the root can be written");
        let root = format!("/scenario-{sequence}");
        let client = stage.chroot(root.clone()).expect("the root is a path");
        Place { server, root, client }
    }

    /// What a client connects to in order to see this root as "/".
    fn address(&self) -> String {
        format!("{}{}", self.server.address, self.root)
    }

    async fn another_client(&self) -> Client {
        connector().connect(&self.address()).await.expect("the server answers")
    }
}

fn connector() -> Connector {
    Client::connector().with_session_timeout(Duration::from_secs(30))
}

/// Behaviour that came after 3.8.0 is asked of Falconer, and not of whatever else was named in the environment.
fn is_current() -> bool {
    std::env::var_os("FALCONER_TEST_SERVER").is_none()
}

/// Awaits with a limit, so that an event that never comes is a failure with a place and not a hanging test.
async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.unwrap_or_else(|_| panic!("{what}: not within {PATIENCE:?}"))
}

/// Closes the session and waits until it is closed.
async fn close(client: Client) {
    let mut state = client.state_watcher();
    drop(client);
    while !soon("the session closes", state.changed()).await.is_terminated() {}
}

#[track_caller]
fn assert_event(event: &WatchedEvent, event_type: EventType, path: &str, zxid: i64) {
    assert_eq!((event.event_type, event.path.as_str()), (event_type, path));
    assert_eq!(event.session_state, SessionState::SyncConnected);
    if is_current() {
        assert_eq!(event.zxid, zxid, "an event carries the zxid of its change");
    }
}

fn sorted(mut names: Vec<String>) -> Vec<String> {
    names.sort_unstable();
    names
}

#[tokio::test]
async fn creates_every_kind_of_znode() {
    soon("the scenario", async {
        let place = Place::new().await;
        let client = &place.client;
        let session = client.session_id().0;

        let (stat, sequence) = client.create("/persistent", b"data", &PERSISTENT).await.unwrap();
        assert_eq!(sequence.into_i64(), -1, "not sequential");
        assert_eq!((stat.czxid, stat.czxid), (stat.mzxid, stat.pzxid));
        assert_eq!((stat.version, stat.cversion, stat.aversion), (0, 0, 0));
        assert_eq!((stat.data_length, stat.num_children, stat.ephemeral_owner), (4, 0, 0));
        assert_eq!(stat.ctime, stat.mtime);
        assert!(!stat.is_invalid());
        assert_eq!(client.get_data("/persistent").await.unwrap(), (b"data".to_vec(), stat));

        let (stat, _) = client.create("/ephemeral", b"", &EPHEMERAL).await.unwrap();
        assert_eq!(stat.ephemeral_owner, session);

        // The sequence counts every child that the parent has ever got.
        client.create("/persistent/any", b"", &PERSISTENT).await.unwrap();
        let (stat, first) = client.create("/persistent/p-", b"", &SEQUENTIAL).await.unwrap();
        assert_eq!((stat.ephemeral_owner, first.to_string().as_str()), (0, "0000000001"));
        let (stat, second) = client.create("/persistent/e-", b"", &EPHEMERAL_SEQUENTIAL).await.unwrap();
        assert_eq!((stat.ephemeral_owner, second.to_string().as_str()), (session, "0000000002"));
        client.delete("/persistent/any", None).await.unwrap();
        // A name that ends in "/" is only the sequence.
        let (_, third) = client.create("/persistent/", b"", &SEQUENTIAL).await.unwrap();
        assert_eq!(third.into_i64(), 3);
        let children = sorted(client.list_children("/persistent").await.unwrap());
        assert_eq!(children, ["0000000003", "e-0000000002", "p-0000000001"]);

        let (stat, _) = client.create("/container", b"", &CONTAINER).await.unwrap();
        assert_eq!(stat.ephemeral_owner, 0, "a container doesn't show its mark");
        let (stat, _) =
            client.create("/ttl", b"", &PERSISTENT.with_ttl(Duration::from_secs(3600))).await.unwrap();
        assert_eq!(stat.ephemeral_owner, 0, "nor does a znode with a time to live");
        let (_, sequence) =
            client.create("/ttl-", b"", &SEQUENTIAL.with_ttl(Duration::from_secs(3600))).await.unwrap();
        assert!(client.check_stat(&format!("/ttl-{sequence}")).await.unwrap().is_some());

        // As clients for servers before 3.5 ask: the answer has no stat.
        let old = connector().with_server_version(3, 4, 14).connect(&place.address()).await.unwrap();
        let (stat, _) = old.create("/old", b"", &PERSISTENT).await.unwrap();
        assert!(stat.is_invalid());
        assert!(client.check_stat("/old").await.unwrap().is_some());

        client.mkdir("/a/b/c", &PERSISTENT).await.unwrap();
        client.mkdir("/a/b/c", &PERSISTENT).await.expect("a directory that exists is as good");
        assert!(client.check_stat("/a/b/c").await.unwrap().is_some());
    })
    .await;
}

#[tokio::test]
async fn refuses_what_is_wrong() {
    soon("the scenario", async {
        let place = Place::new().await;
        let client = &place.client;
        client.mkdir("/parent/child", &PERSISTENT).await.unwrap();
        client.create("/ephemeral", b"", &EPHEMERAL).await.unwrap();

        let create =
            async |path: &str, options: &CreateOptions<'_>| client.create(path, b"", options).await.map(drop);
        assert_eq!(create("/parent", &PERSISTENT).await, Err(Error::NodeExists));
        assert_eq!(create("/nowhere/child", &PERSISTENT).await, Err(Error::NoNode));
        assert_eq!(create("/ephemeral/child", &PERSISTENT).await, Err(Error::NoChildrenForEphemerals));
        let acls = [Acl::new(Permission::ALL, AuthId::new("nonsense", "anyone"))];
        assert_eq!(
            create("/invalid", &CreateMode::Persistent.with_acls(Acls::new(&acls))).await,
            Err(Error::InvalidAcl)
        );
        // Nobody is authenticated, so "the creator" is nobody.
        assert_eq!(
            create("/invalid", &CreateMode::Persistent.with_acls(Acls::creator_all())).await,
            Err(Error::InvalidAcl)
        );
        assert!(matches!(create("/a//b", &PERSISTENT).await, Err(Error::BadArguments(_))));
        assert!(matches!(create("/", &PERSISTENT).await, Err(Error::BadArguments(_))));

        assert_eq!(client.delete("/nowhere", None).await, Err(Error::NoNode));
        assert_eq!(client.delete("/parent", None).await, Err(Error::NotEmpty));
        assert_eq!(client.delete("/parent/child", Some(1)).await, Err(Error::BadVersion));
        assert_eq!(client.set_data("/nowhere", b"", None).await, Err(Error::NoNode));
        assert_eq!(client.set_data("/parent", b"", Some(7)).await, Err(Error::BadVersion));
        assert_eq!(client.get_data("/nowhere").await, Err(Error::NoNode));
        assert_eq!(client.check_stat("/nowhere").await, Ok(None));
        assert_eq!(client.list_children("/nowhere").await, Err(Error::NoNode));
        assert_eq!(client.get_children("/nowhere").await, Err(Error::NoNode));
        assert_eq!(client.get_acl("/nowhere").await, Err(Error::NoNode));
        assert_eq!(client.set_acl("/nowhere", &Acls::anyone_all(), None).await, Err(Error::NoNode));
        assert_eq!(client.get_and_watch_data("/nowhere").await.map(drop), Err(Error::NoNode));
        assert_eq!(client.list_and_watch_children("/nowhere").await.map(drop), Err(Error::NoNode));
        assert_eq!(client.get_and_watch_children("/nowhere").await.map(drop), Err(Error::NoNode));
        assert_eq!(client.sync("/nowhere").await, Ok(()), "sync doesn't ask whether the path exists");
    })
    .await;
}

#[tokio::test]
async fn reads_what_was_written() {
    soon("the scenario", async {
        let place = Place::new().await;
        let client = &place.client;

        let (created, _) = client.create("/node", b"one", &PERSISTENT).await.unwrap();
        let stat = client.set_data("/node", b"three", Some(0)).await.unwrap();
        assert_eq!((stat.version, stat.data_length), (1, 5));
        assert!(stat.mzxid > created.mzxid);
        assert_eq!((stat.czxid, stat.pzxid, stat.ctime), (created.czxid, created.pzxid, created.ctime));
        assert_eq!(client.get_data("/node").await.unwrap(), (b"three".to_vec(), stat));
        assert_eq!(client.check_stat("/node").await.unwrap(), Some(stat));

        let stat = client.set_data("/node", b"", None).await.unwrap();
        assert_eq!((stat.version, stat.data_length), (2, 0));
        assert_eq!(client.get_data("/node").await.unwrap().0, b"");
        let large = vec![7; 900 * 1024];
        client.set_data("/node", &large, None).await.unwrap();
        assert_eq!(client.get_data("/node").await.unwrap().0, large);

        for child in ["/node/b", "/node/a", "/node/a/x"] {
            client.create(child, b"", &PERSISTENT).await.unwrap();
        }
        client.create("/node/ephemeral", b"", &EPHEMERAL).await.unwrap();
        assert_eq!(sorted(client.list_children("/node").await.unwrap()), ["a", "b", "ephemeral"]);
        let (children, stat) = client.get_children("/node").await.unwrap();
        assert_eq!(
            (sorted(children), stat.num_children, stat.cversion),
            (vec!["a".into(), "b".into(), "ephemeral".into()], 3, 3)
        );
        assert!(stat.pzxid > stat.mzxid, "children move the pzxid and nothing else");
        assert_eq!(client.count_descendants_number("/node").await.unwrap(), 4);
        assert_eq!(client.list_ephemerals("/node").await.unwrap(), ["/node/ephemeral"]);
        assert_eq!(client.list_ephemerals("/node/a").await.unwrap(), Vec::<String>::new());

        client.delete("/node/b", Some(0)).await.unwrap();
        let (_, stat) = client.get_children("/node").await.unwrap();
        assert_eq!((stat.num_children, stat.cversion), (2, 4), "a deletion counts as a change too");
    })
    .await;
}

#[tokio::test]
async fn keeps_the_order_of_requests() {
    soon("the scenario", async {
        let place = Place::new().await;
        let client = &place.client;
        client.create("/node", b"", &PERSISTENT).await.unwrap();

        // All are sent before the first answer is awaited; each read sees exactly the writes before it.
        let mut answers = Vec::new();
        for number in 0..100 {
            let written = client.set_data("/node", number.to_string().as_bytes(), Some(number));
            answers.push((number, written, client.get_data("/node")));
        }
        let synced = client.sync("/node");
        for (number, written, read) in answers {
            let stat = written.await.unwrap();
            assert_eq!(stat.version, number + 1);
            assert_eq!(read.await.unwrap(), (number.to_string().into_bytes(), stat));
        }
        synced.await.unwrap();

        // Another session sees it after a sync.
        let other = place.another_client().await;
        other.sync("/node").await.unwrap();
        assert_eq!(other.get_data("/node").await.unwrap().0, b"99");
    })
    .await;
}

#[tokio::test]
async fn writes_several_things_or_none() {
    soon("the scenario", async {
        let place = Place::new().await;
        let client = &place.client;
        client.create("/gone", b"", &PERSISTENT).await.unwrap();
        client.create("/kept", b"", &PERSISTENT).await.unwrap();

        let mut writer = client.new_multi_writer();
        writer.add_check_version("/kept", 0).unwrap();
        writer.add_create("/new", b"data", &PERSISTENT).unwrap();
        writer.add_create("/new/item-", b"", &SEQUENTIAL).unwrap();
        writer.add_create("/new/ephemeral", b"", &EPHEMERAL).unwrap();
        writer.add_create("/new/container", b"", &CONTAINER).unwrap();
        writer.add_create("/new/ttl", b"", &PERSISTENT.with_ttl(Duration::from_secs(3600))).unwrap();
        writer.add_set_data("/kept", b"changed", Some(0)).unwrap();
        // Earlier members are visible to later ones.
        writer.add_check_version("/kept", 1).unwrap();
        writer.add_delete("/gone", None).unwrap();
        let results = writer.commit().await.unwrap();
        assert_eq!(results.len(), 9);
        assert_eq!(results[0], MultiWriteResult::Check);
        let paths: Vec<&str> = results
            .iter()
            .filter_map(|result| match result {
                MultiWriteResult::Create { path, stat } => {
                    assert!(!is_current() || !stat.is_invalid(), "a create in a multi answers with a stat");
                    Some(path.as_str())
                }
                _ => None,
            })
            .collect();
        assert_eq!(paths, ["/new", "/new/item-0000000000", "/new/ephemeral", "/new/container", "/new/ttl"]);
        let MultiWriteResult::SetData { stat: set } = &results[6] else { panic!("{:?}", results[6]) };
        assert_eq!(set.version, 1);
        assert_eq!(results[8], MultiWriteResult::Delete);
        assert_eq!(client.check_stat("/gone").await.unwrap(), None);
        let created = client.check_stat("/new").await.unwrap().unwrap();
        assert_eq!(created.czxid, set.mzxid, "one multi is one zxid");

        // One that fails: nothing of it happens, and the answer says which.
        writer.add_create("/never", b"", &PERSISTENT).unwrap();
        writer.add_check_version("/kept", 5).unwrap();
        writer.add_delete("/new", None).unwrap();
        let error = writer.commit().await.unwrap_err();
        assert_eq!(error, MultiWriteError::OperationFailed { index: 1, source: Error::BadVersion });
        assert_eq!(client.check_stat("/never").await.unwrap(), None);

        writer.add_delete("/kept", None).unwrap();
        writer.abort();
        assert_eq!(writer.commit().await.unwrap(), [], "an aborted writer has nothing to do");

        let mut guarded = client.new_check_writer("/kept", Some(1)).unwrap();
        guarded.add_check_version("/new", 0).unwrap();
        guarded.add_create("/guarded", b"", &PERSISTENT).unwrap();
        guarded.add_set_data("/guarded", b"1", None).unwrap();
        guarded.add_delete("/guarded", Some(1)).unwrap();
        assert_eq!(guarded.commit().await.unwrap().len(), 4, "the guard itself isn't counted");
        let mut guarded = client.new_check_writer("/kept", Some(0)).unwrap();
        guarded.add_delete("/kept", None).unwrap();
        assert_eq!(
            guarded.commit().await.unwrap_err(),
            CheckWriteError::CheckFailed { source: Error::BadVersion }
        );
        let mut guarded = client.new_check_writer("/kept", None).unwrap();
        guarded.add_delete("/nowhere", None).unwrap();
        let error = guarded.commit().await.unwrap_err();
        assert_eq!(error, CheckWriteError::OperationFailed { index: 0, source: Error::NoNode });

        let mut reader = client.new_multi_reader();
        reader.add_get_data("/kept").unwrap();
        reader.add_get_children("/new").unwrap();
        reader.add_get_data("/nowhere").unwrap();
        reader.add_get_data("/new").unwrap();
        let results = reader.commit().await.unwrap();
        let [
            MultiReadResult::Data { data, stat },
            MultiReadResult::Children { children },
            MultiReadResult::Error { err: Error::NoNode },
            MultiReadResult::Data { data: after_error, .. },
        ] = results.as_slice()
        else {
            panic!("{results:?}")
        };
        assert_eq!((data.as_slice(), stat.version), (b"changed".as_slice(), 1));
        assert_eq!(sorted(children.clone()), ["container", "ephemeral", "item-0000000000", "ttl"]);
        assert_eq!(after_error, b"data", "a failed member doesn't stop a multi of reads");
        reader.add_get_data("/kept").unwrap();
        reader.abort();
        assert!(reader.commit().await.unwrap().is_empty());
    })
    .await;
}

#[tokio::test]
async fn fires_each_watch_once() {
    soon("the scenario", async {
        let place = Place::new().await;
        let client = &place.client;
        let other = place.another_client().await;

        let (stat, created) = client.check_and_watch_stat("/node").await.unwrap();
        assert_eq!(stat, None);
        let (created_stat, _) = other.create("/node", b"", &PERSISTENT).await.unwrap();
        let event = soon("created", created.changed()).await;
        assert_event(&event, EventType::NodeCreated, "/node", created_stat.czxid);

        let (_, _, data) = client.get_and_watch_data("/node").await.unwrap();
        let (stat, exists) = client.check_and_watch_stat("/node").await.unwrap();
        assert_eq!(stat, Some(created_stat));
        let set = other.set_data("/node", b"1", None).await.unwrap();
        assert_event(&soon("data", data.changed()).await, EventType::NodeDataChanged, "/node", set.mzxid);
        assert_event(&soon("exists", exists.changed()).await, EventType::NodeDataChanged, "/node", set.mzxid);

        let (children, list) = client.list_and_watch_children("/node").await.unwrap();
        assert!(children.is_empty());
        let (_, stat, get) = client.get_and_watch_children("/node").await.unwrap();
        assert_eq!(stat.num_children, 0);
        let (child, _) = other.create("/node/child", b"", &PERSISTENT).await.unwrap();
        assert_event(
            &soon("list", list.changed()).await,
            EventType::NodeChildrenChanged,
            "/node",
            child.czxid,
        );
        assert_event(&soon("get", get.changed()).await, EventType::NodeChildrenChanged, "/node", child.czxid);

        // A deletion reaches the watches of the znode and the child watch of its parent.
        let (_, _, data) = client.get_and_watch_data("/node/child").await.unwrap();
        let (_, inside) = client.list_and_watch_children("/node/child").await.unwrap();
        let (_, list) = client.list_and_watch_children("/node").await.unwrap();
        other.delete("/node/child", None).await.unwrap();
        let (_, parent) = other.get_children("/node").await.unwrap();
        assert_event(
            &soon("data", data.changed()).await,
            EventType::NodeDeleted,
            "/node/child",
            parent.pzxid,
        );
        assert_event(
            &soon("inside", inside.changed()).await,
            EventType::NodeDeleted,
            "/node/child",
            parent.pzxid,
        );
        assert_event(
            &soon("list", list.changed()).await,
            EventType::NodeChildrenChanged,
            "/node",
            parent.pzxid,
        );

        // A watch that was given up says nothing; one that is set afterwards does.
        let (_, _, given_up) = client.get_and_watch_data("/node").await.unwrap();
        drop(given_up);
        let (_, _, data) = client.get_and_watch_data("/node").await.unwrap();
        let first = other.set_data("/node", b"2", None).await.unwrap();
        other.set_data("/node", b"3", None).await.unwrap();
        assert_event(&soon("data", data.changed()).await, EventType::NodeDataChanged, "/node", first.mzxid);

        // An event comes before the answer that shows its change.
        let (_, _, data) = client.get_and_watch_data("/node").await.unwrap();
        let written = client.set_data("/node", b"4", None);
        let event = soon("data", data.changed()).await;
        let stat = written.await.unwrap();
        assert_event(&event, EventType::NodeDataChanged, "/node", stat.mzxid);
    })
    .await;
}

#[tokio::test]
async fn reports_every_change_to_persistent_watches() {
    soon("the scenario", async {
        let place = Place::new().await;
        let client = &place.client;
        let other = place.another_client().await;

        // On a path that doesn't exist yet.
        let mut node = client.watch("/node", AddWatchMode::Persistent).await.unwrap();
        let mut tree = client.watch("/", AddWatchMode::PersistentRecursive).await.unwrap();

        let (created, _) = other.create("/node", b"", &PERSISTENT).await.unwrap();
        let first = other.set_data("/node", b"1", None).await.unwrap();
        let second = other.set_data("/node", b"2", None).await.unwrap();
        let (child, _) = other.create("/node/child", b"", &PERSISTENT).await.unwrap();
        let grandchild = other.set_data("/node/child", b"1", None).await.unwrap();
        other.delete("/node/child", None).await.unwrap();
        let (_, gone) = other.get_children("/node").await.unwrap();
        other.delete("/node", None).await.unwrap();

        use EventType::{NodeChildrenChanged, NodeCreated, NodeDataChanged, NodeDeleted};
        for (event_type, zxid) in [
            (NodeCreated, created.czxid),
            (NodeDataChanged, first.mzxid),
            (NodeDataChanged, second.mzxid),
            (NodeChildrenChanged, child.czxid),
            (NodeChildrenChanged, gone.pzxid),
        ] {
            assert_event(&soon("an event of the znode", node.changed()).await, event_type, "/node", zxid);
        }
        let last = soon("the last event of the znode", node.changed()).await;
        assert_eq!((last.event_type, last.path.as_str()), (NodeDeleted, "/node"));

        for (event_type, path, zxid) in [
            (NodeCreated, "/node", created.czxid),
            (NodeDataChanged, "/node", first.mzxid),
            (NodeDataChanged, "/node", second.mzxid),
            (NodeCreated, "/node/child", child.czxid),
            (NodeDataChanged, "/node/child", grandchild.mzxid),
            (NodeDeleted, "/node/child", gone.pzxid),
        ] {
            assert_event(&soon("an event of the tree", tree.changed()).await, event_type, path, zxid);
        }
        let last = soon("the last event of the tree", tree.changed()).await;
        assert_eq!((last.event_type, last.path.as_str()), (NodeDeleted, "/node"));

        // Dropping takes the watch away at the server; setting it again begins anew.
        drop(node);
        let mut node = client.watch("/node", AddWatchMode::Persistent).await.unwrap();
        let (created, _) = other.create("/node", b"", &PERSISTENT).await.unwrap();
        assert_event(&soon("the new watch", node.changed()).await, NodeCreated, "/node", created.czxid);
    })
    .await;
}

#[tokio::test]
async fn lets_in_who_is_authorised() {
    soon("the scenario", async {
        let place = Place::new().await;
        let client = &place.client;
        let stranger = place.another_client().await;

        client.auth("digest", b"super:test").await.unwrap();
        let users = client.list_auth_users().await.unwrap();
        assert!(users.contains(&AuthUser::new("digest", "super")), "{users:?}");
        assert!(users.iter().any(|user| user.scheme() == "ip"), "every client has its address: {users:?}");
        assert!(!stranger.list_auth_users().await.unwrap().contains(&AuthUser::new("digest", "super")));

        client
            .create("/mine", b"secret", &CreateMode::Persistent.with_acls(Acls::creator_all()))
            .await
            .unwrap();
        let mine = Acl::new(Permission::ALL, AuthId::new("digest", "super:D/InIHSb7yEEbrWz8b9l71RjZJU="));
        let (acl, stat) = client.get_acl("/mine").await.unwrap();
        assert_eq!(acl, std::slice::from_ref(&mine), "\"the creator\" becomes its identity");
        assert_eq!(stat.aversion, 0);
        assert_eq!(stranger.get_data("/mine").await, Err(Error::NoAuth));
        assert_eq!(stranger.set_data("/mine", b"", None).await, Err(Error::NoAuth));
        assert_eq!(stranger.list_children("/mine").await, Err(Error::NoAuth));
        assert_eq!(stranger.create("/mine/child", b"", &PERSISTENT).await.map(drop), Err(Error::NoAuth));
        assert_eq!(stranger.set_acl("/mine", &Acls::anyone_all(), None).await, Err(Error::NoAuth));
        let mut writer = stranger.new_multi_writer();
        writer.add_set_data("/mine", b"", None).unwrap();
        let error = writer.commit().await.unwrap_err();
        assert_eq!(error, MultiWriteError::OperationFailed { index: 0, source: Error::NoAuth });
        let mut reader = stranger.new_multi_reader();
        reader.add_get_data("/mine").unwrap();
        let results = reader.commit().await.unwrap();
        assert!(matches!(results.as_slice(), [MultiReadResult::Error { err: Error::NoAuth }]), "{results:?}");
        // The right to delete is the parent's.
        stranger.delete("/mine", None).await.unwrap();

        client
            .create("/mine", b"secret", &CreateMode::Persistent.with_acls(Acls::creator_all()))
            .await
            .unwrap();
        let readable = [mine.clone(), Acl::new(Permission::READ, AuthId::anyone())];
        assert_eq!(client.set_acl("/mine", &readable, Some(9)).await, Err(Error::BadVersion));
        let stat = client.set_acl("/mine", &readable, Some(0)).await.unwrap();
        assert_eq!((stat.aversion, stat.version), (1, 0));
        assert_eq!(stranger.get_data("/mine").await.unwrap().0, b"secret");
        assert_eq!(stranger.set_data("/mine", b"", None).await, Err(Error::NoAuth));
        client.create("/open", b"", &CreateMode::Persistent.with_acls(Acls::anyone_read())).await.unwrap();
        assert_eq!(
            client.set_data("/open", b"", None).await,
            Err(Error::NoAuth),
            "read and no more, for its creator too"
        );
        assert_eq!(
            stranger.get_acl("/open").await.unwrap().0,
            [Acl::new(Permission::READ, AuthId::anyone())],
            "a list without secrets is shown to all"
        );

        // The same identity in another session, given with the connection.
        let again = connector().with_auth("digest", b"super:test").connect(&place.address()).await.unwrap();
        assert_eq!(again.set_data("/mine", b"mine too", None).await.unwrap().version, 1);
        // Authentication that fails ends the session, and only that one.
        let failing = place.another_client().await;
        assert_eq!(failing.auth("nonsense", b"x").await, Err(Error::AuthFailed));
        assert_eq!(failing.get_data("/open").await, Err(Error::AuthFailed));
        assert!(failing.state().is_terminated());
        assert!(client.get_data("/open").await.is_ok());
    })
    .await;
}

#[tokio::test]
async fn hides_the_rest_of_the_tree_behind_a_chroot() {
    soon("the scenario", async {
        let place = Place::new().await;
        let whole = &place.client;
        assert_eq!(whole.path(), place.root);
        let part = whole.clone().chroot(format!("{}/part", place.root)).unwrap();
        assert_eq!(part.path(), format!("{}/part", place.root));
        assert!(whole.clone().chroot("no/path").is_err());

        // The chroot itself isn't created by connecting to it.
        assert_eq!(part.create("/node", b"", &PERSISTENT).await.map(drop), Err(Error::NoNode));
        assert_eq!(part.mkdir("/node", &PERSISTENT).await, Err(Error::NoNode));
        whole.create("/part", b"root", &PERSISTENT).await.unwrap();

        let mut events = part.watch("/", AddWatchMode::PersistentRecursive).await.unwrap();
        let (_, list) = part.list_and_watch_children("/").await.unwrap();
        let (stat, sequence) = part.create("/node-", b"", &EPHEMERAL_SEQUENTIAL).await.unwrap();
        let node = format!("/node-{sequence}");
        assert_event(&soon("the tree", events.changed()).await, EventType::NodeCreated, &node, stat.czxid);
        assert_event(
            &soon("the list", list.changed()).await,
            EventType::NodeChildrenChanged,
            "/",
            stat.czxid,
        );
        assert_eq!(part.get_data("/").await.unwrap().0, b"root");
        assert_eq!(part.list_ephemerals("/").await.unwrap(), std::slice::from_ref(&node));
        assert!(whole.check_stat(&format!("/part{node}")).await.unwrap().is_some());

        let connected = connector().connect(&format!("{}/part", place.address())).await.unwrap();
        assert_eq!(connected.path(), format!("{}/part", place.root));
        connected.sync("/").await.unwrap();
        assert_eq!(connected.check_stat(&node).await.unwrap(), Some(stat));
    })
    .await;
}

#[tokio::test]
async fn keeps_sessions_and_ends_them() {
    soon("the scenario", async {
        let place = Place::new().await;
        let client = &place.client;
        assert_eq!(client.state(), SessionState::SyncConnected);
        assert_eq!(
            client.session_timeout(),
            Duration::from_secs(30),
            "what was asked for is within the bounds"
        );
        assert_eq!(client.session().id(), client.session_id());
        assert!(!client.session().is_readonly());
        let impatient = Client::connector()
            .with_session_timeout(Duration::from_millis(1))
            .connect(&place.address())
            .await
            .unwrap();
        assert!(impatient.session_timeout() > Duration::from_millis(1), "two ticks is the least");
        assert_ne!(impatient.session_id(), client.session_id());

        // A detached session outlives its client, and is taken up again with all that belongs to it.
        let first = connector().with_detached().connect(&place.address()).await.unwrap();
        first.create("/ephemeral", b"", &EPHEMERAL).await.unwrap();
        let mut state = first.state_watcher();
        let session = first.into_session();
        while !soon("the client goes", state.changed()).await.is_terminated() {}
        assert_eq!(state.peek_state(), SessionState::Closed);
        assert!(client.check_stat("/ephemeral").await.unwrap().is_some(), "its session is still there");
        let second = connector().with_session(session.clone()).connect(&place.address()).await.unwrap();
        assert_eq!(second.session_id(), session.id());
        assert_eq!(second.list_ephemerals("/").await.unwrap(), ["/ephemeral"]);

        // Another client that takes up the session takes it away: its connection is closed at once. (The events of a watch
        // are queued; a state watcher shows only the latest state, and both clients connect again until one gives up.)
        let mut events = second.watch("/", AddWatchMode::Persistent).await.unwrap();
        let third = connector()
            .with_detached()
            .with_session(session.clone())
            .connect(&place.address())
            .await
            .unwrap();
        assert_eq!(third.session_id(), session.id());
        let event = soon("the connection breaks", events.changed()).await;
        assert_eq!((event.event_type, event.session_state), (EventType::Session, SessionState::Disconnected));
        close(third).await;
        drop(events);

        let (_, gone) = client.check_and_watch_stat("/ephemeral").await.unwrap();
        let mut state = second.state_watcher();
        while second.state() != SessionState::SyncConnected {
            soon("the client connects again", state.changed()).await;
        }
        close(second).await;
        assert_eq!(soon("its ephemerals go", gone.changed()).await.event_type, EventType::NodeDeleted);
        let late = connector().with_session(session).connect(&place.address()).await;
        assert_eq!(late.map(drop), Err(Error::SessionExpired), "a session that was closed can't be taken up");

        // A session whose client is silent expires, not before its time, and no write of it is done after that.
        let silent = Client::connector()
            .with_session_timeout(Duration::from_secs(2))
            .with_detached()
            .connect(&place.address())
            .await
            .unwrap();
        silent.create("/silent", b"", &EPHEMERAL).await.unwrap();
        let (stat, gone) = client.check_and_watch_stat("/silent").await.unwrap();
        assert_eq!(stat.map(|stat| stat.ephemeral_owner), Some(silent.session_id().0));
        let session = silent.into_session();
        assert_eq!(soon("the session expires", gone.changed()).await.event_type, EventType::NodeDeleted);
        let late = connector().with_session(session).connect(&place.address()).await;
        assert_eq!(late.map(drop), Err(Error::SessionExpired));

        // A client that would also take a read-only server gets a full session from this one.
        let content = connector().with_readonly(true).connect(&place.address()).await.unwrap();
        assert_eq!(content.state(), SessionState::SyncConnected);
        let patient = connector()
            .with_connection_timeout(Duration::from_secs(20))
            .connect(&place.address())
            .await
            .unwrap();
        patient.sync("/").await.unwrap();

        // Nobody listens on the port of this listener once it is gone.
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let nobody = listener.local_addr().unwrap();
        drop(listener);
        let refused = connector().with_fail_eagerly().connect(&nobody.to_string()).await;
        assert_eq!(refused.map(drop), Err(Error::NoHosts));
        let other =
            connector().with_fail_eagerly().connect(&format!("{nobody},{}", place.address())).await.unwrap();
        other.sync("/").await.unwrap();
        assert!(Client::connect(&place.server.address).await.is_ok());
    })
    .await;
}

#[tokio::test]
async fn removes_what_has_outlived_its_use() {
    soon("the scenario", async {
        let place = Place::new().await;
        let client = &place.client;

        client.create("/container", b"", &CONTAINER).await.unwrap();
        client.create("/container/child", b"", &PERSISTENT).await.unwrap();
        client.create("/unused", b"", &CONTAINER).await.unwrap();
        client.create("/short", b"", &PERSISTENT.with_ttl(Duration::from_millis(1))).await.unwrap();
        client.create("/long", b"", &PERSISTENT.with_ttl(Duration::from_secs(3600))).await.unwrap();
        client.create("/parent", b"", &PERSISTENT.with_ttl(Duration::from_millis(1))).await.unwrap();
        client.create("/parent/child", b"", &PERSISTENT).await.unwrap();

        // The short one may be gone before the watch is set.
        if let (Some(_), gone) = client.check_and_watch_stat("/short").await.unwrap() {
            assert_eq!(
                soon("the time to live ends", gone.changed()).await.event_type,
                EventType::NodeDeleted
            );
        }
        let (stat, gone) = client.check_and_watch_stat("/container").await.unwrap();
        assert!(stat.is_some(), "a container with a child stays");
        client.delete("/container/child", None).await.unwrap();
        assert_eq!(soon("the empty container goes", gone.changed()).await.event_type, EventType::NodeDeleted);

        assert!(
            client.check_stat("/unused").await.unwrap().is_some(),
            "a container that was never used stays"
        );
        assert!(client.check_stat("/long").await.unwrap().is_some());
        if let (Some(_), gone) = client.check_and_watch_stat("/parent").await.unwrap() {
            client.delete("/parent/child", None).await.unwrap();
            assert_eq!(
                soon("the childless parent goes", gone.changed()).await.event_type,
                EventType::NodeDeleted
            );
        } else {
            panic!("a znode with children outlives its time");
        }
    })
    .await;
}

#[tokio::test]
async fn shows_the_configuration_of_the_ensemble() {
    soon("the scenario", async {
        let place = Place::new().await;
        let client = &place.client;

        let (config, stat) = client.get_config().await.unwrap();
        let (watched, same, changed) = client.get_and_watch_config().await.unwrap();
        assert_eq!((config, stat), (watched, same));
        drop(changed);

        let update = EnsembleUpdate::Incremental {
            joinings: ["server.9=127.0.0.1:1:2;3"].iter().copied(),
            leavings: [].iter().copied(),
        };
        assert_eq!(
            client.update_ensemble(update, None).await,
            Err(Error::ReconfigDisabled),
            "it is off unless switched on"
        );
        let update = EnsembleUpdate::New { ensemble: ["server.9=127.0.0.1:1:2;3"].iter().copied() };
        assert_eq!(client.update_ensemble(update, Some(1)).await, Err(Error::ReconfigDisabled));
    })
    .await;
}

#[tokio::test]
async fn locks() {
    soon("the scenario", async {
        let place = Place::new().await;
        let acls = Acls::anyone_all();
        let (first, second) = (place.another_client().await, place.another_client().await);

        let prefix = || LockPrefix::new_curator("/locks/curator", "lock-").unwrap();
        assert_eq!(
            first.lock(prefix(), b"", acls).await.map(drop),
            Err(Error::NoNode),
            "without options nothing is made"
        );
        let options = LockOptions::new(acls).with_ancestor_options(PERSISTENT).unwrap();
        let held = first.lock(prefix(), b"first", options.clone()).await.unwrap();
        assert!(held.lock_path().starts_with("/locks/curator/_c_"), "{}", held.lock_path());
        assert_eq!(first.get_data(held.lock_path()).await.unwrap().0, b"first");
        assert_eq!(held.client().session_id(), first.session_id());

        // The second waits; the first goes on to write under its lock.
        let waiting = {
            let (second, options) = (second.clone(), options.clone());
            tokio::spawn(async move {
                second.lock(prefix(), b"second", options).await.map(|held| held.into_owned())
            })
        };
        let (stat, _) = held.create("/guarded", b"", &PERSISTENT).await.unwrap();
        assert!(!is_current() || !stat.is_invalid());
        assert_eq!(held.create("/guarded-", b"", &SEQUENTIAL).await.unwrap().1.into_i64(), 2);
        assert_eq!(held.set_data("/guarded", b"1", Some(0)).await.unwrap().version, 1);
        let mut writer = held.new_check_writer();
        writer.add_set_data("/guarded", b"2", None).unwrap();
        writer.commit().await.unwrap();
        assert!(!waiting.is_finished(), "the lock is held");
        drop(held);

        let held = soon("the second gets the lock", waiting).await.unwrap().unwrap();
        assert_eq!(held.client().session_id(), second.session_id());
        assert_eq!(held.set_data("/guarded", b"3", None).await.unwrap().version, 3);
        // The lock is taken away: nothing can be written under it any more.
        first.delete(held.lock_path(), None).await.unwrap();
        assert_eq!(held.create("/late", b"", &PERSISTENT).await.map(drop), Err(Error::RuntimeInconsistent));
        assert_eq!(held.set_data("/guarded", b"4", None).await, Err(Error::RuntimeInconsistent));
        assert_eq!(held.delete("/guarded", None).await, Err(Error::RuntimeInconsistent));
        let mut writer = held.new_check_writer();
        writer.add_delete("/guarded", None).unwrap();
        assert_eq!(
            writer.commit().await.unwrap_err(),
            CheckWriteError::CheckFailed { source: Error::NoNode }
        );
        drop(held);

        // The other two ways of naming: as the Java election recipe and the Java lock recipe.
        let prefix = LockPrefix::new_shared("/locks/shared/n-").unwrap();
        let held = first.lock(prefix, b"", options.clone()).await.unwrap();
        assert!(held.lock_path().starts_with("/locks/shared/n-"));
        held.delete("/guarded", None).await.unwrap();
        drop(held);
        let prefix =
            LockPrefix::new_custom(format!("/locks/custom/x-{}-", first.session_id()), "x-").unwrap();
        let held = first.lock(prefix, b"", options).await.unwrap().into_owned();
        let path = held.lock_path().to_owned();
        let (_, released) = second.check_and_watch_stat(&path).await.unwrap();
        drop(held);
        assert_eq!(soon("the lock is released", released.changed()).await.event_type, EventType::NodeDeleted);

        // Locks of a session that ends are free.
        let names: BTreeSet<String> = second.list_children("/locks").await.unwrap().into_iter().collect();
        assert_eq!(names, ["curator", "custom", "shared"].map(str::to_owned).into());
        let prefix = LockPrefix::new_shared("/locks/shared/n-").unwrap();
        std::mem::forget(first.lock(prefix, b"", acls).await.unwrap());
        let waiting = tokio::spawn(async move {
            let prefix = LockPrefix::new_shared("/locks/shared/n-").unwrap();
            second.lock(prefix, b"", acls).await.map(drop)
        });
        close(first).await;
        soon("the waiter gets the lock", waiting).await.unwrap().unwrap();
    })
    .await;
}

//! Every example, run against a server: each asserts what it claims.

mod server;

use std::collections::BTreeSet;
use std::time::Duration;

use server::{PATIENCE, Server};
use zookeeper_client::Client;

/// One test an example: the scene holds its claims, in time, and leaves nothing behind.
macro_rules! examples {
    ($($name:ident: $file:literal, $root:literal;)*) => {$(
        // `main` only finds the address; `demo` is the example.
        #[allow(dead_code)]
        #[path = $file]
        mod $name;

        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $name() {
            play($root, async |server: String| $name::demo(&server).await).await;
        }
    )*};
}

examples! {
    barrier: "../examples/barrier.rs", "example-barrier-";
    config: "../examples/config.rs", "example-config-";
    leader_election: "../examples/leader_election.rs", "example-leader-";
    lock: "../examples/lock.rs", "example-lock-";
    membership: "../examples/membership.rs", "example-membership-";
    naming: "../examples/naming.rs", "example-naming-";
    progress: "../examples/progress.rs", "example-progress-";
    queue: "../examples/queue.rs", "example-queue-";
    service_registry: "../examples/service_registry.rs", "example-registry-";
    shared_lock: "../examples/shared_lock.rs", "example-shared-lock-";
}

async fn play<E: std::fmt::Display>(root: &str, demo: impl AsyncFnOnce(String) -> Result<(), E>) {
    let server = Server::shared();
    let before = roots(&server, root).await;
    match tokio::time::timeout(PATIENCE, demo(server.address.clone())).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => panic!("{error}"),
        Err(_) => panic!("not done after {PATIENCE:?}"),
    }
    assert_eq!(roots(&server, root).await, before, "the example cleans up");
}

/// The roots that this example has made, now or in earlier runs that failed.
async fn roots(server: &Server, root: &str) -> BTreeSet<String> {
    let client =
        Client::connector().with_session_timeout(Duration::from_secs(30)).connect(&server.address).await;
    let names = client.expect("the server answers").list_children("/").await.expect("the root can be listed");
    names.into_iter().filter(|name| name.starts_with(root)).collect()
}

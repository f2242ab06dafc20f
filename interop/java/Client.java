import java.util.ArrayList;
import java.util.Arrays;
import java.util.Collections;
import java.util.HashSet;
import java.util.List;
import java.util.Set;
import java.util.concurrent.BlockingQueue;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.LinkedBlockingQueue;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicInteger;
import org.apache.zookeeper.AddWatchMode;
import org.apache.zookeeper.AsyncCallback;
import org.apache.zookeeper.CreateMode;
import org.apache.zookeeper.KeeperException;
import org.apache.zookeeper.KeeperException.Code;
import org.apache.zookeeper.Op;
import org.apache.zookeeper.OpResult;
import org.apache.zookeeper.Transaction;
import org.apache.zookeeper.WatchedEvent;
import org.apache.zookeeper.Watcher;
import org.apache.zookeeper.Watcher.Event.EventType;
import org.apache.zookeeper.Watcher.Event.KeeperState;
import org.apache.zookeeper.ZooDefs.Ids;
import org.apache.zookeeper.ZooDefs.Perms;
import org.apache.zookeeper.ZooKeeper;
import org.apache.zookeeper.data.ACL;
import org.apache.zookeeper.data.Id;
import org.apache.zookeeper.data.Stat;

/** Apache's Java client against a server: every call of its API, every answer checked. Argument: HOST:PORT. */
public class Client {
    static final int SESSION_TIMEOUT = 10_000;
    static final int WAIT_SECONDS = 20;
    static String address;

    /** A handle that can go away without ending its session, as a process does that dies. */
    static class Leaving extends ZooKeeper {
        Leaving(String where, int timeout, Watcher watcher) throws Exception {
            super(where, timeout, watcher);
        }

        void vanish() {
            cnxn.disconnect();
        }
    }

    /** A handle with its events in order. */
    static class Handle implements Watcher, AutoCloseable {
        final BlockingQueue<WatchedEvent> events = new LinkedBlockingQueue<>();
        final CountDownLatch connected = new CountDownLatch(1);
        final CountDownLatch expired = new CountDownLatch(1);
        final AtomicInteger connections = new AtomicInteger();
        final ZooKeeper zk;

        Handle(String where) throws Exception {
            zk = new Leaving(where, SESSION_TIMEOUT, this);
            check(connected.await(WAIT_SECONDS, TimeUnit.SECONDS), "connected to " + where);
        }

        Handle(String where, long session, byte[] password) throws Exception {
            zk = new ZooKeeper(where, SESSION_TIMEOUT, this, session, password);
        }

        @Override
        public void process(WatchedEvent event) {
            if (event.getType() != EventType.None) {
                events.add(event);
            } else if (event.getState() == KeeperState.SyncConnected) {
                connections.incrementAndGet();
                connected.countDown();
            } else if (event.getState() == KeeperState.Expired) {
                expired.countDown();
            }
        }

        void expect(EventType type, String path) throws Exception {
            WatchedEvent event = events.poll(WAIT_SECONDS, TimeUnit.SECONDS);
            check(event != null && event.getType() == type && path.equals(event.getPath()),
                "wanted " + type + " " + path + ", got " + event);
        }

        @Override
        public void close() throws Exception {
            zk.close();
        }
    }

    interface Call {
        void run() throws Exception;
    }

    static void check(boolean condition, String what) {
        if (!condition) {
            throw new AssertionError(what);
        }
    }

    static void refused(Code code, Call call) throws Exception {
        try {
            call.run();
        } catch (KeeperException e) {
            check(e.code() == code, "wanted " + code + ", got " + e.code() + " on " + e.getPath());
            return;
        }
        throw new AssertionError("wanted " + code + ", but it was done");
    }

    static byte[] bytes(String text) {
        return text.getBytes();
    }

    static void nodes() throws Exception {
        try (Handle h = new Handle(address)) {
            ZooKeeper zk = h.zk;
            check(zk.create("/j", bytes("one"), Ids.OPEN_ACL_UNSAFE, CreateMode.PERSISTENT).equals("/j"), "create");
            Stat stat = new Stat();
            check(Arrays.equals(zk.getData("/j", false, stat), bytes("one")) && stat.getVersion() == 0, "getData");
            check(zk.setData("/j", bytes("two"), 0).getVersion() == 1, "setData");
            refused(Code.BADVERSION, () -> zk.setData("/j", null, 0));
            check(zk.setData("/j", null, 1).getDataLength() == 0 && zk.getData("/j", false, null) == null, "null data");
            check(zk.setData("/j", new byte[0], -1).getVersion() == 3 && zk.getData("/j", false, null).length == 0, "empty data");
            refused(Code.NODEEXISTS, () -> zk.create("/j", null, Ids.OPEN_ACL_UNSAFE, CreateMode.PERSISTENT));
            refused(Code.NONODE, () -> zk.create("/none/x", null, Ids.OPEN_ACL_UNSAFE, CreateMode.PERSISTENT));
            check(zk.exists("/none", false) == null, "exists");
            String first = zk.create("/j/s-", null, Ids.OPEN_ACL_UNSAFE, CreateMode.PERSISTENT_SEQUENTIAL);
            zk.delete(first, 0);
            String second = zk.create("/j/s-", null, Ids.OPEN_ACL_UNSAFE, CreateMode.EPHEMERAL_SEQUENTIAL, stat);
            check(first.equals("/j/s-0000000000") && second.equals("/j/s-0000000001"), first + " " + second);
            check(stat.getEphemeralOwner() == zk.getSessionId(), "the owner in create2's Stat");
            refused(Code.NOCHILDRENFOREPHEMERALS,
                () -> zk.create(second + "/x", null, Ids.OPEN_ACL_UNSAFE, CreateMode.PERSISTENT));
            refused(Code.NOTEMPTY, () -> zk.delete("/j", -1));
            check(zk.getChildren("/j", false, stat).equals(List.of("s-0000000001")) && stat.getNumChildren() == 1
                && stat.getCversion() == 3, "getChildren with Stat " + stat);
            check(zk.getEphemerals().equals(List.of(second)) && zk.getEphemerals("/x").isEmpty(), "getEphemerals");
            zk.create("/j/box", null, Ids.OPEN_ACL_UNSAFE, CreateMode.CONTAINER);
            zk.create("/j/ttl", null, Ids.OPEN_ACL_UNSAFE, CreateMode.PERSISTENT_WITH_TTL, stat, 300_000);
            check(stat.getEphemeralOwner() == 0, "a TTL node has no owner");
            check(zk.create("/j/ttl-", null, Ids.OPEN_ACL_UNSAFE, CreateMode.PERSISTENT_SEQUENTIAL_WITH_TTL, stat, 300_000)
                .equals("/j/ttl-0000000004"), "sequential TTL node");
            check(zk.getAllChildrenNumber("/j") == 4, "getAllChildrenNumber");
            check(zk.whoAmI().stream().anyMatch(who -> who.getAuthScheme().equals("ip")), "whoAmI");
            zk.getConfig(false, stat);
        }
    }

    static void bigNode() throws Exception {
        try (Handle h = new Handle(address)) {
            byte[] big = new byte[1_000_000];
            Arrays.fill(big, (byte) 'b');
            h.zk.create("/big", big, Ids.OPEN_ACL_UNSAFE, CreateMode.PERSISTENT);
            check(Arrays.equals(h.zk.getData("/big", false, null), big), "a megabyte comes back");
            h.zk.delete("/big", -1);
        }
    }

    static void containersAndTtl() throws Exception {
        try (Handle h = new Handle(address)) {
            h.zk.create("/reap", null, Ids.OPEN_ACL_UNSAFE, CreateMode.PERSISTENT);
            h.zk.create("/reap/box", null, Ids.OPEN_ACL_UNSAFE, CreateMode.CONTAINER);
            h.zk.create("/reap/never", null, Ids.OPEN_ACL_UNSAFE, CreateMode.CONTAINER);
            h.zk.create("/reap/box/x", null, Ids.OPEN_ACL_UNSAFE, CreateMode.PERSISTENT);
            h.zk.exists("/reap/box", true);
            h.zk.delete("/reap/box/x", -1);
            h.expect(EventType.NodeDeleted, "/reap/box");
            h.zk.create("/reap/ttl", null, Ids.OPEN_ACL_UNSAFE, CreateMode.PERSISTENT_WITH_TTL, null, 200);
            if (h.zk.exists("/reap/ttl", true) != null) {
                h.expect(EventType.NodeDeleted, "/reap/ttl");
            }
            check(h.zk.exists("/reap/never", false) != null, "a container that never had a child stays");
        }
    }

    static void watches() throws Exception {
        try (Handle h = new Handle(address); Handle other = new Handle(address)) {
            ZooKeeper zk = h.zk;
            zk.create("/w", null, Ids.OPEN_ACL_UNSAFE, CreateMode.PERSISTENT);
            zk.getData("/w", true, null);
            zk.getChildren("/w", true);
            check(zk.exists("/w/late", true) == null, "exists");
            other.zk.setData("/w", bytes("1"), -1);
            h.expect(EventType.NodeDataChanged, "/w");
            other.zk.setData("/w", bytes("2"), -1);
            other.zk.create("/w/late", null, Ids.OPEN_ACL_UNSAFE, CreateMode.PERSISTENT);
            h.expect(EventType.NodeCreated, "/w/late");
            h.expect(EventType.NodeChildrenChanged, "/w");
            zk.getData("/w/late", true, null);
            zk.getChildren("/w/late", true);
            zk.exists("/w/late", true);
            other.zk.delete("/w/late", -1);
            h.expect(EventType.NodeDeleted, "/w/late");

            zk.addWatch("/w", AddWatchMode.PERSISTENT);
            other.zk.setData("/w", bytes("3"), -1);
            other.zk.setData("/w", bytes("4"), -1);
            other.zk.create("/w/a", null, Ids.OPEN_ACL_UNSAFE, CreateMode.PERSISTENT);
            other.zk.setData("/w/a", null, -1); // not its business
            h.expect(EventType.NodeDataChanged, "/w");
            h.expect(EventType.NodeDataChanged, "/w");
            h.expect(EventType.NodeChildrenChanged, "/w");
            // Not removeWatches with a watcher: that asks the server only whether there is one, and leaves it there.
            zk.removeAllWatches("/w", Watcher.WatcherType.Any, false);
            h.expect(EventType.PersistentWatchRemoved, "/w");

            zk.addWatch("/w", AddWatchMode.PERSISTENT_RECURSIVE);
            other.zk.create("/w/a/deep", null, Ids.OPEN_ACL_UNSAFE, CreateMode.PERSISTENT);
            other.zk.setData("/w/a/deep", null, -1);
            other.zk.multi(List.of(Op.delete("/w/a/deep", -1), Op.delete("/w/a", -1)));
            h.expect(EventType.NodeCreated, "/w/a/deep");
            h.expect(EventType.NodeDataChanged, "/w/a/deep");
            h.expect(EventType.NodeDeleted, "/w/a/deep");
            h.expect(EventType.NodeDeleted, "/w/a");
            zk.removeAllWatches("/w", Watcher.WatcherType.Any, false);
            h.expect(EventType.PersistentWatchRemoved, "/w");
            refused(Code.NOWATCHER, () -> zk.removeAllWatches("/w", Watcher.WatcherType.Any, false));
            other.zk.setData("/w", null, -1);
            check(h.events.poll(200, TimeUnit.MILLISECONDS) == null, "no event without a watch");
        }
    }

    static void multi() throws Exception {
        try (Handle h = new Handle(address)) {
            ZooKeeper zk = h.zk;
            List<OpResult> results = zk.multi(List.of(
                Op.create("/m", null, Ids.OPEN_ACL_UNSAFE, CreateMode.PERSISTENT),
                Op.create("/m/s-", null, Ids.OPEN_ACL_UNSAFE, CreateMode.PERSISTENT_SEQUENTIAL),
                Op.create("/m/s-", null, Ids.OPEN_ACL_UNSAFE, CreateMode.EPHEMERAL_SEQUENTIAL),
                Op.create("/m/box", null, Ids.OPEN_ACL_UNSAFE, CreateMode.CONTAINER),
                Op.create("/m/ttl", null, Ids.OPEN_ACL_UNSAFE, CreateMode.PERSISTENT_WITH_TTL, 300_000),
                Op.setData("/m", bytes("x"), 0), Op.check("/m", 1), Op.delete("/m/ttl", 0)));
            check(((OpResult.CreateResult) results.get(1)).getPath().equals("/m/s-0000000000"), "first number");
            check(((OpResult.CreateResult) results.get(2)).getPath().equals("/m/s-0000000001"), "second number");
            check(((OpResult.SetDataResult) results.get(5)).getStat().getVersion() == 1, "setData in a multi");
            Stat box = zk.exists("/m/box", false);
            check(box.getCzxid() == zk.exists("/m", false).getCzxid(), "one zxid for a multi");
            try {
                zk.multi(List.of(Op.delete("/m/box", -1), Op.check("/m", 9), Op.delete("/m/s-0000000000", -1)));
                check(false, "a failing multi was done");
            } catch (KeeperException.BadVersionException e) {
                List<OpResult> all = e.getResults();
                check(((OpResult.ErrorResult) all.get(0)).getErr() == 0
                    && ((OpResult.ErrorResult) all.get(1)).getErr() == Code.BADVERSION.intValue()
                    && ((OpResult.ErrorResult) all.get(2)).getErr() == Code.RUNTIMEINCONSISTENCY.intValue(), "" + all);
            }
            check(zk.exists("/m/box", false) != null, "nothing of a failed multi is done");
            Transaction transaction = zk.transaction();
            transaction.setData("/m", null, -1).create("/m/t", null, Ids.OPEN_ACL_UNSAFE, CreateMode.PERSISTENT);
            check(transaction.commit().size() == 2, "transaction");
            results = zk.multi(List.of(Op.getData("/m"), Op.getChildren("/m"), Op.getData("/m/none")));
            check(results.get(0) instanceof OpResult.GetDataResult
                && ((OpResult.GetChildrenResult) results.get(1)).getChildren().size() == 4
                && ((OpResult.ErrorResult) results.get(2)).getErr() == Code.NONODE.intValue(), "multi of reads");
            check(zk.multi(List.<Op>of()).isEmpty(), "an empty multi");
        }
    }

    static void auth() throws Exception {
        try (Handle h = new Handle(address); Handle other = new Handle(address)) {
            refused(Code.INVALIDACL, () -> h.zk.create("/auth", null, Ids.CREATOR_ALL_ACL, CreateMode.PERSISTENT));
            h.zk.addAuthInfo("digest", bytes("me:pw"));
            h.zk.create("/auth", bytes("secret"), Ids.CREATOR_ALL_ACL, CreateMode.PERSISTENT);
            refused(Code.NOAUTH, () -> other.zk.getData("/auth", false, null));
            refused(Code.NOAUTH, () -> other.zk.create("/auth/x", null, Ids.OPEN_ACL_UNSAFE, CreateMode.PERSISTENT));
            refused(Code.NOAUTH, () -> other.zk.setACL("/auth", Ids.OPEN_ACL_UNSAFE, -1));
            Stat stat = new Stat();
            List<ACL> acl = h.zk.getACL("/auth", stat);
            check(acl.size() == 1 && acl.get(0).getId().getScheme().equals("digest"), "" + acl);
            List<ACL> readable = new ArrayList<>(acl);
            readable.add(new ACL(Perms.READ, new Id("world", "anyone")));
            check(h.zk.setACL("/auth", readable, 0).getAversion() == 1, "setACL");
            refused(Code.BADVERSION, () -> h.zk.setACL("/auth", readable, 0));
            check(Arrays.equals(other.zk.getData("/auth", false, null), bytes("secret")), "now readable");
            check(other.zk.getACL("/auth", null).stream().anyMatch(a -> a.getId().getId().equals("me:x")), "hash is masked");
            other.zk.addAuthInfo("digest", bytes("super:test"));
            other.zk.setData("/auth", bytes("super"), -1);
            check(other.zk.whoAmI().stream().anyMatch(who -> who.getAuthScheme().equals("super")), "whoAmI says super");
            refused(Code.INVALIDACL, () -> h.zk.create("/x", null,
                Collections.singletonList(new ACL(Perms.ALL, new Id("nonsense", "x"))), CreateMode.PERSISTENT));
        }
    }

    static void chroot() throws Exception {
        try (Handle h = new Handle(address)) {
            h.zk.create("/root", null, Ids.OPEN_ACL_UNSAFE, CreateMode.PERSISTENT);
            try (Handle inner = new Handle(address + "/root")) {
                inner.zk.exists("/x", true);
                check(inner.zk.create("/x", null, Ids.OPEN_ACL_UNSAFE, CreateMode.EPHEMERAL).equals("/x"), "path in a chroot");
                inner.expect(EventType.NodeCreated, "/x");
                check(inner.zk.getChildren("/", false).equals(List.of("x")), "children in a chroot");
                check(h.zk.exists("/root/x", false) != null, "path outside of it");
                check(inner.zk.getEphemerals().size() == 1, "ephemerals in a chroot");
            }
        }
    }

    static void sessions() throws Exception {
        try (Handle watcher = new Handle(address)) {
            watcher.zk.create("/session", null, Ids.OPEN_ACL_UNSAFE, CreateMode.PERSISTENT);
            Handle first = new Handle(address);
            first.zk.create("/session/e", null, Ids.OPEN_ACL_UNSAFE, CreateMode.EPHEMERAL);
            first.zk.exists("/session/none", true);
            long session = first.zk.getSessionId();
            byte[] password = first.zk.getSessionPasswd();

            // A second handle takes the session over; the first would take it back if it lived.
            ((Leaving) first.zk).vanish();
            try (Handle second = new Handle(address, session, password)) {
                check(second.connected.await(WAIT_SECONDS, TimeUnit.SECONDS), "session taken over");
                check(second.zk.getSessionId() == session, "the same session");
                check(second.zk.getEphemerals().equals(List.of("/session/e")), "its ephemerals are there");
                // A wrong password is refused, and the session lives on.
                byte[] wrong = password.clone();
                wrong[3] ^= 1;
                try (Handle thief = new Handle(address, session, wrong)) {
                    check(thief.expired.await(WAIT_SECONDS, TimeUnit.SECONDS), "wrong password");
                }
                watcher.zk.exists("/session/e", true);
                check(watcher.zk.exists("/session/e", false) != null, "the ephemeral lives on");
            }
            // Closing the second handle ended the session.
            watcher.expect(EventType.NodeDeleted, "/session/e");
            try (Handle late = new Handle(address, session, password)) {
                check(late.expired.await(WAIT_SECONDS, TimeUnit.SECONDS), "a closed session can't be taken up");
            }
        }
    }

    static void pipelining() throws Exception {
        final int count = 5000;
        try (Handle h = new Handle(address)) {
            ZooKeeper zk = h.zk;
            zk.create("/p", null, Ids.OPEN_ACL_UNSAFE, CreateMode.PERSISTENT);
            CountDownLatch done = new CountDownLatch(3 * count);
            List<String> wrong = Collections.synchronizedList(new ArrayList<>());
            AtomicInteger next = new AtomicInteger();
            Set<String> names = Collections.synchronizedSet(new HashSet<>());
            for (int i = 0; i < count; i++) {
                final int number = i;
                zk.setData("/p", bytes("" + i), i, (AsyncCallback.StatCallback) (rc, path, ctx, stat) -> {
                    if (rc != 0 || stat.getVersion() != number + 1 || next.getAndIncrement() != 2 * number) {
                        wrong.add("setData " + number + ": " + rc);
                    }
                    done.countDown();
                }, null);
                zk.getData("/p", false, (rc, path, ctx, data, stat) -> {
                    if (rc != 0 || !new String(data).equals("" + number) || next.getAndIncrement() != 2 * number + 1) {
                        wrong.add("getData " + number + ": " + rc);
                    }
                    done.countDown();
                }, null);
                zk.create("/p/n-", null, Ids.OPEN_ACL_UNSAFE, CreateMode.PERSISTENT_SEQUENTIAL, (rc, path, ctx, name) -> {
                    if (rc != 0 || !name.equals(String.format("/p/n-%010d", number)) || !names.add(name)) {
                        wrong.add("create " + number + ": " + rc + " " + name);
                    }
                    done.countDown();
                }, null);
            }
            check(done.await(120, TimeUnit.SECONDS), "pipelined requests are answered");
            check(wrong.isEmpty(), "pipelined answers: " + wrong.stream().limit(3).toList());
            CountDownLatch synced = new CountDownLatch(1);
            zk.sync("/p", (rc, path, ctx) -> {
                if (rc == 0 && path.equals("/p")) {
                    synced.countDown();
                }
            }, null);
            check(synced.await(WAIT_SECONDS, TimeUnit.SECONDS), "sync");
            check(zk.getChildren("/p", false).size() == count, "all children");
        }
    }

    public static void main(String[] args) throws Exception {
        address = args[0];
        nodes();
        bigNode();
        containersAndTtl();
        watches();
        multi();
        auth();
        chroot();
        sessions();
        pipelining();
        System.out.println("Java client: all answers as expected");
        System.exit(0);
    }
}

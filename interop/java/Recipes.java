import java.util.ArrayList;
import java.util.Collections;
import java.util.List;
import java.util.concurrent.BlockingQueue;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.LinkedBlockingQueue;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicInteger;
import org.apache.curator.framework.CuratorFramework;
import org.apache.curator.framework.CuratorFrameworkFactory;
import org.apache.curator.framework.recipes.atomic.DistributedAtomicLong;
import org.apache.curator.framework.recipes.barriers.DistributedDoubleBarrier;
import org.apache.curator.framework.recipes.cache.ChildData;
import org.apache.curator.framework.recipes.cache.CuratorCache;
import org.apache.curator.framework.recipes.cache.CuratorCacheListener;
import org.apache.curator.framework.recipes.leader.LeaderLatch;
import org.apache.curator.framework.recipes.locks.InterProcessMutex;
import org.apache.curator.framework.recipes.locks.InterProcessReadWriteLock;
import org.apache.curator.framework.recipes.locks.InterProcessSemaphoreV2;
import org.apache.curator.framework.recipes.nodes.PersistentNode;
import org.apache.curator.retry.ExponentialBackoffRetry;
import org.apache.curator.retry.RetryOneTime;
import org.apache.zookeeper.CreateMode;

/** Curator's recipes against a server. Argument: HOST:PORT. */
public class Recipes {
    static final int WAIT_SECONDS = 30;
    static String address;

    static void check(boolean condition, String what) {
        if (!condition) {
            throw new AssertionError(what);
        }
    }

    static CuratorFramework client() {
        CuratorFramework client = CuratorFrameworkFactory.builder().connectString(address).namespace("recipes")
            .sessionTimeoutMs(10_000).connectionTimeoutMs(10_000).retryPolicy(new ExponentialBackoffRetry(100, 5)).build();
        client.start();
        return client;
    }

    /** A lock lets one in at a time, across clients. */
    static void mutex() throws Exception {
        ExecutorService pool = Executors.newFixedThreadPool(5);
        AtomicInteger inside = new AtomicInteger();
        AtomicInteger entered = new AtomicInteger();
        List<String> wrong = Collections.synchronizedList(new ArrayList<>());
        for (int i = 0; i < 5; i++) {
            pool.submit(() -> {
                try (CuratorFramework client = client()) {
                    InterProcessMutex mutex = new InterProcessMutex(client, "/mutex");
                    for (int round = 0; round < 10; round++) {
                        check(mutex.acquire(WAIT_SECONDS, TimeUnit.SECONDS), "lock");
                        if (inside.incrementAndGet() != 1) {
                            wrong.add("two inside");
                        }
                        entered.incrementAndGet();
                        inside.decrementAndGet();
                        mutex.release();
                    }
                } catch (Throwable e) {
                    wrong.add(e.toString());
                }
            });
        }
        pool.shutdown();
        check(pool.awaitTermination(2 * WAIT_SECONDS, TimeUnit.SECONDS), "lockers finish");
        check(wrong.isEmpty() && entered.get() == 50, "mutex: " + wrong);
    }

    static void locks() throws Exception {
        try (CuratorFramework one = client(); CuratorFramework two = client()) {
            InterProcessReadWriteLock a = new InterProcessReadWriteLock(one, "/rw");
            InterProcessReadWriteLock b = new InterProcessReadWriteLock(two, "/rw");
            check(a.readLock().acquire(WAIT_SECONDS, TimeUnit.SECONDS), "read lock");
            check(b.readLock().acquire(WAIT_SECONDS, TimeUnit.SECONDS), "second read lock");
            check(!b.writeLock().acquire(100, TimeUnit.MILLISECONDS), "a write lock beside a read lock");
            a.readLock().release();
            b.readLock().release();
            check(b.writeLock().acquire(WAIT_SECONDS, TimeUnit.SECONDS), "write lock");
            b.writeLock().release();
            InterProcessSemaphoreV2 semaphore = new InterProcessSemaphoreV2(one, "/semaphore", 2);
            check(semaphore.acquire(2, WAIT_SECONDS, TimeUnit.SECONDS) != null, "both leases");
            check(new InterProcessSemaphoreV2(two, "/semaphore", 2).acquire(200, TimeUnit.MILLISECONDS) == null, "third lease");
        }
    }

    static void leader() throws Exception {
        List<CuratorFramework> clients = new ArrayList<>();
        List<LeaderLatch> latches = new ArrayList<>();
        for (int i = 0; i < 3; i++) {
            clients.add(client());
            latches.add(new LeaderLatch(clients.get(i), "/leader", "candidate-" + i));
            latches.get(i).start();
        }
        for (int left = 3; left > 0; left--) {
            LeaderLatch leader = null;
            long deadline = System.nanoTime() + TimeUnit.SECONDS.toNanos(WAIT_SECONDS);
            while (leader == null && System.nanoTime() < deadline) {
                leader = latches.stream().filter(LeaderLatch::hasLeadership).findFirst().orElse(null);
                Thread.sleep(5);
            }
            check(leader != null, "somebody leads");
            check(latches.stream().filter(LeaderLatch::hasLeadership).count() == 1, "one leader");
            int index = latches.indexOf(leader);
            // Every other time the leader vanishes with its whole session.
            if (left % 2 == 0) {
                leader.close();
            } else {
                clients.get(index).close();
            }
            latches.remove(index);
            clients.remove(index);
        }
    }

    static void expect(BlockingQueue<String> events, String wanted) throws Exception {
        String got = events.poll(WAIT_SECONDS, TimeUnit.SECONDS);
        check(wanted.equals(got), "cache: wanted " + wanted + ", got " + got);
    }

    static void cache() throws Exception {
        try (CuratorFramework writer = client(); CuratorFramework reader = client()) {
            writer.create().creatingParentContainersIfNeeded().forPath("/cache/a", "1".getBytes());
            BlockingQueue<String> events = new LinkedBlockingQueue<>();
            CountDownLatch initialized = new CountDownLatch(1);
            CuratorCache cache = CuratorCache.build(reader, "/cache");
            cache.listenable().addListener(CuratorCacheListener.builder()
                .forCreates(node -> events.add("created " + node.getPath()))
                .forChanges((old, node) -> events.add("changed " + node.getPath() + " " + new String(node.getData())))
                .forDeletes(node -> events.add("deleted " + node.getPath()))
                .forInitialized(initialized::countDown).build());
            cache.start();
            check(initialized.await(WAIT_SECONDS, TimeUnit.SECONDS), "the cache fills");
            events.clear();
            // One change at a time: the cache reads after it hears, and would miss what is gone again by then.
            writer.setData().forPath("/cache/a", "2".getBytes());
            expect(events, "changed /cache/a 2");
            writer.create().forPath("/cache/a/deep", "x".getBytes());
            expect(events, "created /cache/a/deep");
            writer.delete().forPath("/cache/a/deep");
            expect(events, "deleted /cache/a/deep");
            check(new String(cache.get("/cache/a").map(ChildData::getData).orElseThrow()).equals("2"), "cached data");
            cache.close();
        }
    }

    static void others() throws Exception {
        try (CuratorFramework one = client(); CuratorFramework two = client()) {
            DistributedAtomicLong counter = new DistributedAtomicLong(one, "/counter", new RetryOneTime(10));
            for (int i = 0; i < 20; i++) {
                check(counter.increment().succeeded(), "increment");
            }
            check(new DistributedAtomicLong(two, "/counter", new RetryOneTime(10)).get().postValue() == 20, "counter");

            PersistentNode node = new PersistentNode(one, CreateMode.EPHEMERAL, false, "/persistent", "here".getBytes());
            node.start();
            check(node.waitForInitialCreate(WAIT_SECONDS, TimeUnit.SECONDS), "persistent node");
            CountDownLatch deleted = new CountDownLatch(1);
            two.checkExists().usingWatcher((org.apache.zookeeper.Watcher) event -> deleted.countDown()).forPath("/persistent");
            two.delete().forPath("/persistent");
            check(deleted.await(WAIT_SECONDS, TimeUnit.SECONDS), "deletion seen");
            long deadline = System.nanoTime() + TimeUnit.SECONDS.toNanos(WAIT_SECONDS);
            while (two.checkExists().forPath("/persistent") == null && System.nanoTime() < deadline) {
                Thread.sleep(10);
            }
            check(two.checkExists().forPath("/persistent") != null, "the persistent node comes back");
            node.close();

            Thread second = new Thread(() -> {
                try {
                    DistributedDoubleBarrier barrier = new DistributedDoubleBarrier(two, "/barrier", 2);
                    barrier.enter();
                    barrier.leave();
                } catch (Exception e) {
                    throw new AssertionError(e);
                }
            });
            second.start();
            DistributedDoubleBarrier barrier = new DistributedDoubleBarrier(one, "/barrier", 2);
            check(barrier.enter(WAIT_SECONDS, TimeUnit.SECONDS) && barrier.leave(WAIT_SECONDS, TimeUnit.SECONDS), "barrier");
            second.join();
        }
    }

    public static void main(String[] args) throws Exception {
        address = args[0];
        mutex();
        locks();
        leader();
        cache();
        others();
        System.out.println("Curator: all recipes work");
        System.exit(0);
    }
}

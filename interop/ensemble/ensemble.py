"""Ensembles of real processes: they elect, serve, survive kill -9, and nothing acknowledged is lost.

    ensemble.py [--only NAME[,NAME...]] [--rounds N] [--seed S] [--keep] [server-command...]

The given server (the release build) forms ensembles of its own and with Apache's. Writers journal in memory what was
acknowledged to them, go on through whichever server answers, and audit at the end; then all servers have to show the
same tree, node by node, and no digest that differs.
"""

import argparse
import os
import random
import signal
import socket
import statistics
import struct
import sys
import threading
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
import ensembles  # noqa: E402
import server as servers  # noqa: E402
import wire  # noqa: E402

ROOT = "/e"
TROUBLE = (OSError, EOFError, wire.Closed, struct.error)


class Failed(Exception):
    pass


def demand(condition, message):
    if not condition:
        raise Failed(message)


class Writer(threading.Thread):
    """Sets its own znode to 1, 2, 3, ... and creates one below it for each tenth number; goes to another server, with the
    same session, whenever one fails it."""

    def __init__(self, number, ensemble, seed, pause=0.0):
        super().__init__(daemon=True)
        self.number, self.ensemble, self.pause = number, ensemble, pause
        self.rng = random.Random(f"{seed}/{number}")
        self.path = f"{ROOT}/w{number}"
        self.tried = self.acknowledged = 0
        self.created = []
        self.at = []  # when each write was acknowledged
        self.moves = self.sessions_lost = 0
        self.session = self.password = None
        self.last_zxid = 0
        self.ended = False
        self.error = None

    def connect(self):
        members = [m for m in self.ensemble if m.running()]
        if not members:
            return None
        member = self.rng.choice(members)
        connection = member.connect(3.0)
        if self.session is None:
            shake = connection.connect(20000)
            demand(shake.session != 0, f"server {member.number} gives no session")
        else:
            shake = connection.connect(20000, self.session, self.password, self.last_zxid)
            self.moves += 1
            if shake.session == 0:
                self.sessions_lost += 1
                self.session = None
                connection.drop()
                return None
        self.session, self.password = shake.session, shake.password
        return connection

    def run(self):
        connection = None
        try:
            while not self.ended:
                try:
                    if connection is None:
                        connection = self.connect()
                        if connection is None:
                            time.sleep(0.01)
                            continue
                    self.write(connection)
                    if self.pause:
                        time.sleep(self.pause)
                except TROUBLE:
                    if connection is not None:
                        connection.drop()
                    connection = None
                    time.sleep(0.001)
            if connection is not None:
                connection.drop()
        except Exception as error:  # noqa: BLE001: it is told by the main thread
            self.error = error

    def write(self, connection):
        value = max(self.tried, self.acknowledged) + 1
        self.tried = value
        reply = connection.set(self.path, str(value).encode())
        demand(reply.err == wire.OK, f"{self.path}: set is answered {reply.err}")
        self.last_zxid = max(self.last_zxid, reply.zxid)
        self.acknowledged = value
        self.at.append(time.monotonic())
        read = connection.get(self.path)
        demand(read.err == wire.OK and int(read.body["data"]) == value, f"{self.path}: {value} written, {read} read")
        if value % 10 == 0:
            path = f"{self.path}/n{value}"
            reply = connection.create(path, b"x")
            demand(reply.err == wire.OK, f"{path}: create is answered {reply.err}")
            self.last_zxid = max(self.last_zxid, reply.zxid)
            self.created.append(path)


class Load:
    """Some writers, from their start to the audit."""

    def __init__(self, ensemble, seed, writers=4, pause=0.0, through=None):
        self.ensemble = ensemble
        member = through or ensemble.leader()
        with_retry(lambda: self.plant(member, writers))
        self.writers = [Writer(n, ensemble, seed, pause) for n in range(writers)]
        for writer in self.writers:
            writer.start()

    @staticmethod
    def plant(member, writers):
        connection = member.session()
        for path in [ROOT] + [f"{ROOT}/w{n}" for n in range(writers)]:
            demand(connection.create(path, b"0").err in (wire.OK, wire.NODE_EXISTS), f"{path} can't be created")
        connection.close_session()

    def check(self):
        for writer in self.writers:
            if writer.error is not None:
                raise writer.error

    def acknowledged(self):
        return sum(w.acknowledged for w in self.writers)

    def wait(self, more, wait=30.0):
        """Until so many more writes were acknowledged."""
        goal, deadline = self.acknowledged() + more, time.monotonic() + wait
        while self.acknowledged() < goal:
            self.check()
            demand(time.monotonic() < deadline, f"{more} writes take longer than {wait} s")
            time.sleep(0.002)

    def first_after(self, at, wait=30.0):
        """Seconds from `at` to the next acknowledged write that was begun by then or later."""
        deadline = time.monotonic() + wait
        while time.monotonic() < deadline:
            self.check()
            later = [t for w in self.writers for t in w.at[-3:] if t > at]
            if later:
                return min(later) - at
            time.sleep(0.0005)
        raise Failed(f"no write is acknowledged within {wait} s")

    def end(self):
        for writer in self.writers:
            writer.ended = True
        for writer in self.writers:
            writer.join(30)
            demand(not writer.is_alive(), f"writer {writer.number} hangs")
        self.check()

    def audit(self, members):
        """What was acknowledged is there, on each of the members."""
        for member in members:
            connection = member.session()
            demand(connection.call(wire.SYNC, wire.string("/")).err == wire.OK, "sync fails")
            for writer in self.writers:
                value = int(connection.get(writer.path).body["data"])
                demand(writer.acknowledged <= value <= writer.tried,
                       f"server {member.number}: {writer.path} is {value}, acknowledged {writer.acknowledged}, tried {writer.tried}")
                there = {f"{writer.path}/{name}" for name in connection.children(writer.path).body["children"]}
                lost = [path for path in writer.created if path not in there]
                demand(not lost, f"server {member.number}: acknowledged and lost: {lost[:5]}")
            connection.close_session()
        demand(sum(w.sessions_lost for w in self.writers) == 0, "sessions were lost that reconnected in time")


def with_retry(do, wait=20.0):
    deadline = time.monotonic() + wait
    while True:
        try:
            return do()
        except TROUBLE:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.01)


def tree_of(member):
    """Every znode with its data, ACL and stat, but for those that each server makes by itself."""
    connection = member.session()
    demand(connection.call(wire.SYNC, wire.string("/")).err == wire.OK, "sync fails")
    tree, due = {}, ["/"]
    while due:
        path = due.pop()
        if path == "/zookeeper/config":
            continue
        node = connection.get(path)
        acl = connection.call(wire.GET_ACL, wire.string(path))
        children = sorted(connection.children(path).body["children"])
        stat = dict(node.body["stat"])
        tree[path] = (node.body["data"], repr(acl.body["acl"]), stat, tuple(children))
        due += [("" if path == "/" else path) + "/" + name for name in children]
    connection.drop()
    return tree


def equal_trees(members, wait=20.0):
    """All members show the same tree: sessions that end meanwhile get a moment."""
    deadline = time.monotonic() + wait
    while True:
        first, *rest = [(m, tree_of(m)) for m in members]
        differing = [(m, path) for m, tree in rest for path in set(tree) | set(first[1]) if tree.get(path) != first[1].get(path)]
        if not differing:
            break
        member, path = differing[0]
        both = f"{first[1].get(path)} on {first[0].number}, {dict([(m.number, t) for m, t in rest])[member.number].get(path)} on {member.number}"
        demand(time.monotonic() < deadline, f"{len(differing)} znodes differ, {path}: {both}")
        time.sleep(0.2)
    for member in members:
        mismatches = member.monitor().get("zk_digest_mismatches_count", "0")
        demand(mismatches == "0", f"server {member.number} counts {mismatches} digests that differ")
    return len(first[1])


class Scenario:
    def __init__(self, command, options):
        self.command, self.options = command, options
        self.apache = [servers.APACHE]
        self.said = []

    def say(self, text):
        self.said.append(text)

    def ensemble(self, commands, **rest):
        self.current = ensembles.Ensemble(commands, name="ensemble", **rest)
        return self.current


def serve(s):
    """Three voters and an observer: everything through everyone."""
    e = s.ensemble([s.command] * 4, observers=(4,))
    leader = e.start()
    modes = sorted(m.mode() for m in e)
    demand(modes == ["follower", "follower", "leader", "observer"], f"modes are {modes}")
    connections = {m.number: m.session(6000) for m in e}
    for number, connection in connections.items():
        path = f"/s{number}"
        demand(connection.create(path, b"x").err == wire.OK, f"create through {number}")
        demand(connection.create(f"/eph{number}", b"", flags=1).err == wire.OK, f"ephemeral through {number}")
        demand(connection.get(path).body["data"] == b"x", f"own write through {number}")
        demand(connection.create(path, b"x").err == wire.NODE_EXISTS, f"the error reaches the client of {number}")
        ops = [(wire.CREATE, wire.create_record(f"{path}/a")), (wire.DELETE, wire.string("/none") + wire.i32(-1))]
        connection.multi(ops)
        demand(connection.exists(f"{path}/a").err == wire.NO_NODE, f"half of a multi through {number}")
    for number, connection in connections.items():
        demand(connection.call(wire.SYNC, wire.string("/")).err == wire.OK, f"sync through {number}")
        for other in connections:
            demand(connection.get(f"/s{other}").err == wire.OK, f"{number} lacks what was written through {other}")
        for member in e:
            config = connection.get("/zookeeper/config").body["data"].decode()
            demand(f"server.{member.number}=" in config and config.endswith("version=0"), f"config of {number}: {config!r}")
    # A watch at one server hears of a write at another.
    watcher, writer = connections[4], connections[leader.number]
    watcher.get("/s1", watch=True)
    demand(writer.set("/s1", b"y").err == wire.OK, "set")
    demand(wait_for(lambda: (watcher.ping(), watcher.events)[1]), "the observer's watch hears nothing")
    # A session moves: the same one, on each server in turn, and the old connection is closed.
    one = connections[1]
    session, password = one.handshake.session, one.handshake.password
    for member in e:
        moved = member.connect()
        shake = moved.connect(6000, session, password, 0)
        demand(shake.session == session, f"session {session:#x} does not move to {member.number}: {shake.session:#x}")
        demand(moved.set("/s1", b"z").err == wire.OK, f"a write of the moved session through {member.number}")
        last = moved
    # Sessions that nobody keeps end, with their ephemerals; the others stay.
    for number in (2, 3, 4):
        connections[number].drop()
    def ephemerals():
        last.ping()
        return [n for n in (1, 2, 3, 4) if last.exists(f"/eph{n}").err == wire.OK]
    demand(wait_for(lambda: ephemerals() == [1], 20.0), f"ephemerals left: {ephemerals()}")
    monitor = leader.monitor()
    demand(monitor["zk_server_state"] == "leader" and "zk_peer_state" in monitor, f"mntr of the leader: {monitor}")
    last.close_session()
    s.say(f"{equal_trees(list(e))} znodes equal on 4 servers")


def wait_for(what, wait=10.0):
    deadline = time.monotonic() + wait
    while time.monotonic() < deadline:
        result = what()
        if result:
            return result
        time.sleep(0.02)
    return None


def failover(s):
    """kill -9 of the leader under load, again and again."""
    e = s.ensemble([s.command] * 3)
    e.start()
    load = Load(e, s.options.seed)
    took = []
    for _ in range(s.options.rounds):
        load.wait(50)
        leader = e.leader()
        at = time.monotonic()
        leader.kill()
        took.append(load.first_after(time.monotonic()) * 1000)
        leader.spawn()
        e.wait_serving(e)
    load.wait(50)
    load.end()
    load.audit(e)
    median, worst = statistics.median(took), max(took)
    s.say(f"{len(took)} times from kill -9 of the leader to the next acknowledged write: median {median:.0f} ms, worst {worst:.0f} ms;"
          f" {load.acknowledged()} writes, {equal_trees(list(e))} znodes equal")
    demand(median <= 150, f"the median is {median:.0f} ms: {[round(t) for t in took]}")
    demand(worst <= 1000, f"the worst is {worst:.0f} ms: {[round(t) for t in took]}")


def killing(s):
    """kill -9 of followers and of all at once, and a server that loses its disk."""
    e = s.ensemble([s.command] * 4, observers=(4,), config={"snapCount": 500})
    e.start()
    load = Load(e, s.options.seed)
    rng = random.Random(s.options.seed)
    for round_ in range(s.options.rounds):
        load.wait(100)
        if round_ % 3 == 2:
            e.stop()
            for member in e:
                member.spawn()
        else:
            victim = rng.choice([m for m in e if m.mode() != "leader"])
            victim.kill()
            load.wait(50)
            if round_ % 3 == 1:
                victim.wipe()
            victim.spawn()
        e.wait_serving(e)
    load.wait(50)
    load.end()
    load.audit(e)
    s.say(f"{s.options.rounds} rounds, {load.acknowledged()} writes, {equal_trees(list(e))} znodes equal")


def minority(s):
    """A minority acknowledges nothing, and comes back."""
    e = s.ensemble([s.command] * 3)
    leader = e.start()
    load = Load(e, s.options.seed)
    load.wait(50)
    followers = [m for m in e if m is not leader]
    for member in followers:
        member.kill()
    demand(wait_for(lambda: leader.mode() is None, 30.0), "a leader without a quorum goes on")
    before = load.acknowledged()
    time.sleep(1.0)
    demand(load.acknowledged() == before, "a minority acknowledges writes")
    for member in followers:
        member.spawn()
    e.wait_serving(e)
    load.wait(50)
    load.end()
    load.audit(e)
    s.say(f"{load.acknowledged()} writes, {equal_trees(list(e))} znodes equal")


def hand_over(s):
    """A rolling restart by SIGTERM under load."""
    e = s.ensemble([s.command] * 3)
    e.start()
    load = Load(e, s.options.seed, writers=6)
    load.wait(100)
    for member in list(e) + [e.leader()]:
        demand(member.stop() == 0, f"server {member.number} does not stop in order: {member.process.returncode}")
        load.wait(20)
        member.spawn()
        e.wait_serving(e)
    load.end()
    load.audit(e)
    times = sorted(t for w in load.writers for t in w.at)
    gap = max(b - a for a, b in zip(times, times[1:])) * 1000
    s.say(f"longest gap in writes {gap:.0f} ms; {load.acknowledged()} writes, {equal_trees(list(e))} znodes equal")


def strangers(s):
    """Bad input on the peer ports: the servers live, the quorum is undisturbed."""
    e = s.ensemble([s.command] * 3)
    leader = e.start()
    load = Load(e, s.options.seed, pause=0.002)
    load.wait(50)
    rng = random.Random(s.options.seed)
    hello = struct.pack(">qqi", -65536, 1, 9) + b"1.2.3.4:5"
    # Whole and well-formed, but of nobody that is configured: who claims to be a member can only be told by authentication.
    packet = struct.pack(">iqi", 11, 0, 20) + struct.pack(">qiq", 99, 0x10000, 0) + struct.pack(">i", -1)
    vote = struct.pack(">iqqqqii", 0, 9, 1 << 60, 1 << 60, 1 << 30, 2, 0)
    stuff = [
        b"", b"\0", b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"ruok", b"\xff" * 64, b"\x16\x03\x01\x02\0\x01\0" * 20, hello[:10],
        struct.pack(">qqi", -65536, 99, 9) + b"1.2.3.4:5",  # nobody of that id is configured
        struct.pack(">qqi", -65536, 1, 1 << 30), struct.pack(">qqi", -65535, 1, -1), struct.pack(">q", 77),
        packet[:20], packet[:16] + b"\0" * 3, struct.pack(">iqi", 11, 0, 0x7fffffff), struct.pack(">iqi", 2, 1, -1) + struct.pack(">i", -1),
        packet + packet, packet + struct.pack(">iqii", 18, 0, -1, -1), struct.pack(">iqii", 99, 0, -1, -1),
        struct.pack(">iqii", 11, -1, -1, 0x7fffffff) + b"\0" * 1000, bytes(rng.randrange(256) for _ in range(100000)),
        struct.pack(">qqi", -65536, 99, 9) + b"1.2.3.4:5" + struct.pack(">i", len(vote)) + vote,
    ]
    held = []
    for member in e:
        _, quorum, election, _ = e.lines[f"server.{member.number}"].split(":")
        for port in (int(quorum), int(election)):
            for junk in stuff:
                with socket.create_connection(("127.0.0.1", port), 5) as connection:
                    try:
                        connection.sendall(junk)
                    except OSError:
                        pass
            # Callers that say nothing and hang on.
            held += [socket.create_connection(("127.0.0.1", port), 5) for _ in range(50)]
    load.wait(100)
    demand(leader.mode() == "leader", "another server leads")
    time.sleep(1.0)
    load.wait(100)
    for connection in held:
        connection.close()
    for member in e:
        demand(member.running(), f"server {member.number} is gone: {member.tail()}")
    demand(leader.mode() == "leader", "another server leads")
    load.end()
    load.audit(e)
    demand(sum(w.moves for w in load.writers) == 0, "clients had to reconnect")
    s.say(f"{6 * len(stuff)} strangers and {len(held)} that said nothing; {load.acknowledged()} writes, no other leader")


def laggard(s):
    """A follower that stands still under load neither fills the leader's memory nor holds up the others, and comes back."""
    e = s.ensemble([s.command] * 3, config={"tickTime": 2000, "syncLimit": 30})
    leader = e.start()
    followers = [m for m in e if m is not leader]
    load = Load(e, s.options.seed, writers=1, through=leader)
    load.wait(20)
    before = leader.memory()
    os.kill(followers[0].process.pid, signal.SIGSTOP)
    # Half a gigabyte of proposals, twice what may wait for it.
    connection, blob = leader.session(), bytes(1000000)
    demand(connection.create("/blob", blob).err == wire.OK, "create")
    for _ in range(540):
        demand(connection.set("/blob", blob).err == wire.OK, "set")
    grown = (leader.memory() - before) >> 20
    demand("cut off" in leader.tail(200), f"it was not cut off:\n{leader.tail(30)}")
    demand(grown < 700, f"the leader grew by {grown} MiB")
    os.kill(followers[0].process.pid, signal.SIGCONT)
    came_back = "reading a snapshot is done"
    demand(wait_for(lambda: came_back in followers[0].tail(50)), "it gets no snapshot")
    e.wait_serving(e)
    load.end()
    load.audit(e)
    s.say(f"cut off after 256 MiB, the leader grew by {grown} MiB; {equal_trees(list(e))} znodes equal")


def apache_observer(s):
    """An observer beside Apache: by SNAP and by DIFF, under load, forwarding writes."""
    e = s.ensemble([s.apache, s.apache, s.command], observers=(3,))
    first = [e[1], e[2]]
    for member in first:
        member.spawn()
    e.wait_serving(first)
    load = Load(e, s.options.seed, writers=3, pause=0.002)
    load.wait(200)
    observer = e[3]
    observer.spawn()
    e.wait_serving([observer])
    demand("reading a snapshot is done" in observer.tail(60), f"it did not join by SNAP:\n{observer.tail(60)}")
    forwards(s, e, observer)
    for round_ in range(3):
        load.wait(150)
        observer.kill()
        load.wait(60)
        observer.spawn()
        e.wait_serving([observer])
        forwards(s, e, observer)
    snaps = open(observer.output).read().count("reading a snapshot is done")
    demand(snaps == 1, f"{snaps} snapshots: after kill -9 it should come back by DIFF")
    load.wait(100)
    load.end()
    load.audit(e)
    s.say(f"joined by SNAP, came back 3 times by DIFF; {load.acknowledged()} writes, {equal_trees(list(e))} znodes equal")


def forwards(s, e, member):
    """Writes through one member are seen by it, and by the others after a sync."""
    connection = member.session()
    path = f"/through{member.number}"
    reply = connection.create(path, b"1")
    demand(reply.err in (wire.OK, wire.NODE_EXISTS), f"create through {member.number}: {reply}")
    demand(connection.set(path, b"2").err == wire.OK, f"set through {member.number}")
    demand(connection.get(path).body["data"] == b"2", f"own write through {member.number}")
    for other in e:
        if other.running() and other.mode() is not None:
            elsewhere = other.session()
            demand(elsewhere.call(wire.SYNC, wire.string(path)).err == wire.OK, "sync")
            demand(elsewhere.get(path).body["data"] == b"2", f"{other.number} lacks the write through {member.number}")
            elsewhere.close_session()
    demand(connection.delete(path).err == wire.OK, "delete")
    connection.close_session()


def apache_follower(s):
    """A voter beside two of Apache's, one of which leads: it follows, dies, comes back, and stands in for a dead one."""
    e = s.ensemble([s.command, s.apache, s.apache])
    leader = e.start()
    demand(leader.number != 1, "the smallest id leads a blank ensemble")
    load = Load(e, s.options.seed, writers=3, pause=0.002)
    load.wait(200)
    for _ in range(3):
        e[1].kill()
        load.wait(60)
        e[1].spawn()
        e.wait_serving([e[1]])
        forwards(s, e, e[1])
    # With one of Apache's gone, every write needs ours.
    follower = next(m for m in e if m.mode() == "follower" and m.number != 1)
    follower.kill()
    load.wait(200)
    follower.spawn()
    e.wait_serving(e)
    load.end()
    load.audit(e)
    s.say(f"{load.acknowledged()} writes, {equal_trees(list(e))} znodes equal")


def apache_followers(s):
    """A leader of Apache's followers, killed and replaced, and leading again."""
    e = s.ensemble([s.apache, s.apache, s.command])
    e.start()
    load = Load(e, s.options.seed, writers=3, pause=0.002)
    led = 0
    for _ in range(4):
        load.wait(150)
        leader = e.leader()
        led += leader.number == 3
        leader.kill()
        load.wait(100)
        leader.spawn()
        e.wait_serving(e)
    load.wait(100)
    load.end()
    load.audit(e)
    demand(led > 0, "it never led")
    s.say(f"led {led} of 4 times; {load.acknowledged()} writes, {equal_trees(list(e))} znodes equal")


SCENARIOS = [serve, failover, killing, minority, hand_over, strangers, laggard, apache_observer, apache_follower, apache_followers]


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--only", default="")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--keep", action="store_true", help="leave the directories of a failed scenario")
    options, rest = parser.parse_known_args()
    wanted = set(filter(None, options.only.split(",")))
    unknown = wanted - {f.__name__ for f in SCENARIOS}
    if unknown:
        raise SystemExit(f"no scenario {unknown}; there are {[f.__name__ for f in SCENARIOS]}")
    command = servers.command_from(rest)
    failures = []
    for scenario in SCENARIOS:
        if wanted and scenario.__name__ not in wanted:
            continue
        s = Scenario(command, options)
        s.current = None
        began = time.monotonic()
        try:
            scenario(s)
            print(f"ok   {scenario.__name__:18} {time.monotonic() - began:5.1f} s  {'; '.join(s.said)}", flush=True)
        except Exception as error:  # noqa: BLE001: each failure is told, the next scenario runs
            failures.append(scenario.__name__)
            print(f"FAIL {scenario.__name__:18} {time.monotonic() - began:5.1f} s  {type(error).__name__}: {error}", flush=True)
            for member in s.current or ():
                state = "runs" if member.running() else f"ended with {member.process.returncode}" if member.process else "not started"
                print(f"  -- server {member.number}, {state}\n" + "".join("     " + line for line in member.tail(25).splitlines(True)))
        finally:
            if s.current is not None:
                if scenario.__name__ in failures and options.keep:
                    s.current.stop()
                    print(f"  kept: {s.current.directory}")
                else:
                    s.current.remove()
    if failures:
        raise SystemExit(f"FAILED ensemble: {', '.join(failures)}")
    print("PASS ensemble")


if __name__ == "__main__":
    main()

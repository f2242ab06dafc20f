"""Clients of an ensemble that remember what was acknowledged to them, and the audit of it.

A Load is some Writers, each with its own znode and its own session, and Mayflies, whose sessions die young. While servers
are killed and links are cut they go on through whichever server answers. At the end of a run the audit demands of each
server: what was acknowledged is there, no write was done twice, each session that came back in time is alive with its
ephemeral, and each that was left alone is gone with its own. Then all servers show the same tree, znode by znode, and
the same digests.
"""

import os
import random
import struct
import sys
import threading
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
import wire  # noqa: E402
from scenarios import Failed, demand  # noqa: E402

ROOT = "/e"
TROUBLE = (OSError, EOFError, wire.Closed, struct.error)
# Longer than any fault of the tests, so that a client that reconnects is always in time.
SESSION_MS = 20000


def wait_for(what, wait=10.0):
    """The first true result of `what`, or None after `wait` seconds."""
    deadline = time.monotonic() + wait
    while time.monotonic() < deadline:
        result = what()
        if result:
            return result
        time.sleep(0.02)
    return None


def with_retry(do, wait=20.0):
    deadline = time.monotonic() + wait
    while True:
        try:
            return do()
        except TROUBLE:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.01)


class Writer(threading.Thread):
    """Sets its own znode to 1, 2, 3, ... and creates one below it for each tenth number; goes to another of its members,
    with the same session, whenever one fails it."""

    def __init__(self, number, members, seed, pause=0.0):
        super().__init__(daemon=True)
        self.number, self.members, self.pause = number, list(members), pause
        self.rng = random.Random(f"{seed}/{number}")
        self.path, self.ephemeral = f"{ROOT}/w{number}", f"{ROOT}/alive{number}"
        self.tried = self.acknowledged = 0  # values
        self.acks = []  # (begun, acknowledged) of each set
        self.created = []
        self.moves = 0
        self.session = self.password = None
        self.heard = 0.0  # when the last reply came
        self.last_zxid = 0
        self.ended = False
        self.error = None

    def connect(self):
        members = [m for m in self.members if m.running()]
        if not members:
            return None
        member = self.rng.choice(members)
        connection = member.connect(3.0)
        if self.session is None:
            shake = connection.connect(SESSION_MS)
            demand(shake.session != 0, f"server {member.number} gives no session")
            demand(shake.timeout == SESSION_MS, f"a session of {shake.timeout} ms")
            self.session, self.password = shake.session, shake.password
        else:
            began = time.monotonic()
            shake = connection.connect(SESSION_MS, self.session, self.password, self.last_zxid)
            self.moves += 1
            away = (began - self.heard) * 1000
            demand(shake.session == self.session,
                   f"session {self.session:#x} was lost on server {member.number} after {away:.0f} of {SESSION_MS} ms")
        self.heard = time.monotonic()
        return connection

    def run(self):
        connection, born = None, False
        try:
            while not self.ended:
                try:
                    if connection is None:
                        connection = self.connect()
                        if connection is None:
                            time.sleep(0.01)
                            continue
                    if not born:
                        reply = connection.create(self.ephemeral, b"", flags=1)
                        # It may have been made by a request whose answer was lost.
                        demand(reply.err in (wire.OK, wire.NODE_EXISTS), f"{self.ephemeral}: {reply}")
                        born = True
                    self.write(connection)
                    if self.pause:
                        time.sleep(self.pause)
                except TROUBLE:
                    if connection is not None:
                        connection.drop()
                    connection = None
                    time.sleep(0.001 if len(self.members) > 1 else 0.02)
            if connection is not None:
                connection.drop()
        except Exception as error:  # noqa: BLE001: it is told by the main thread
            self.error = error

    def write(self, connection):
        value = self.tried + 1
        self.tried = value
        begun = time.monotonic()
        reply = connection.set(self.path, str(value).encode())
        demand(reply.err == wire.OK, f"{self.path}: set is answered {reply.err}")
        self.last_zxid = max(self.last_zxid, reply.zxid)
        self.acknowledged = value
        self.heard = time.monotonic()
        self.acks.append((begun, self.heard))
        read = connection.get(self.path)
        demand(read.err == wire.OK and int(read.body["data"]) == value, f"{self.path}: {value} written, {read} read")
        if value % 10 == 0:
            path = f"{self.path}/n{value}"
            reply = connection.create(path, b"x")
            demand(reply.err == wire.OK, f"{path}: create is answered {reply.err}")
            self.last_zxid = max(self.last_zxid, reply.zxid)
            self.created.append(path)


class Mayflies(threading.Thread):
    """Short sessions with an ephemeral each, left alone without a word."""

    def __init__(self, members, seed):
        super().__init__(daemon=True)
        self.members, self.rng = list(members), random.Random(f"{seed}/mayflies")
        self.born, self.ended = 0, False

    def run(self):
        while not self.ended:
            try:
                members = [m for m in self.members if m.running()]
                if members:
                    connection = self.rng.choice(members).connect(3.0)
                    try:
                        connection.connect(1)  # the shortest that the server grants
                        connection.create(f"{ROOT}/mayflies/m{self.born}", b"", flags=1)
                        self.born += 1
                    finally:
                        connection.close()
            except TROUBLE:
                pass
            time.sleep(0.1)


class Load:
    """Writers that go everywhere, with `pinned` also one for each member that goes to no other, and mayflies."""

    def __init__(self, ensemble, seed, writers=4, pause=0.0, through=None, pinned=False, members=None):
        self.members = list(members or ensemble)
        places = [self.members] * writers + ([[m] for m in self.members] if pinned else [])
        with_retry(lambda: self.plant(through or ensemble.leader(), len(places)))
        self.writers = [Writer(n, place, seed, pause) for n, place in enumerate(places)]
        self.roaming, self.pinned = self.writers[:writers], dict(zip([m.number for m in self.members], self.writers[writers:]))
        self.mayflies = Mayflies(self.members, seed)
        for thread in self.writers + [self.mayflies]:
            thread.start()

    @staticmethod
    def plant(member, writers):
        connection = member.session()
        for path in [ROOT, f"{ROOT}/mayflies"] + [f"{ROOT}/w{n}" for n in range(writers)]:
            demand(connection.create(path, b"0").err in (wire.OK, wire.NODE_EXISTS), f"{path} can't be created")
        connection.close_session()

    def check(self):
        for writer in self.writers:
            if writer.error is not None:
                raise writer.error

    def acknowledged(self, writers=None):
        return sum(len(w.acks) for w in writers or self.writers)

    def begun_and_acknowledged(self, since, until=float("inf"), writers=None):
        """(begun, acknowledged) of each write that was both in the given time."""
        return [a for w in writers or self.writers for a in w.acks if a[0] > since and a[1] < until]

    def wait(self, more, wait=30.0, writers=None):
        """Until so many more writes were acknowledged."""
        goal, deadline = self.acknowledged(writers) + more, time.monotonic() + wait
        while self.acknowledged(writers) < goal:
            self.check()
            demand(time.monotonic() < deadline, f"{more} writes take longer than {wait} s")
            time.sleep(0.002)

    def wait_each(self, writers, wait=30.0):
        """Until a write that each of them begins from now on is acknowledged."""
        now = time.monotonic()
        for writer in writers:
            deadline = now + wait
            while not (writer.acks and writer.acks[-1][0] >= now):
                self.check()
                demand(time.monotonic() < deadline, f"writer {writer.number} is answered nothing for {wait} s")
                time.sleep(0.002)

    def first_after(self, at, wait=30.0):
        """Seconds from `at` to the next acknowledgement of a write that was begun after it: others may have been done by then."""
        deadline = time.monotonic() + wait
        while time.monotonic() < deadline:
            self.check()
            later = [acked for w in self.writers for begun, acked in w.acks[-50:] if begun > at]
            if later:
                return min(later) - at
            time.sleep(0.0005)
        raise Failed(f"no write is acknowledged within {wait} s")

    def longest_gap(self, since, until=float("inf")):
        """The longest time without an acknowledged write in the given time, which begins with one or counts from its beginning."""
        times = [since] + sorted(t for w in self.writers for _, t in w.acks if since <= t <= until)
        return max((b - a for a, b in zip(times, times[1:])), default=0.0)

    def end(self):
        threads = self.writers + [self.mayflies]
        for thread in threads:
            thread.ended = True
        for thread in threads:
            thread.join(30)
            demand(not thread.is_alive(), f"{thread} hangs")
        self.check()

    def audit(self, members):
        """What was acknowledged is there, on each of the members."""
        members = list(members)
        # The sessions first, while nobody keeps them alive.
        for member in members:
            connection = synced(member)
            for writer in self.writers:
                reply = connection.exists(writer.ephemeral)
                owner = reply.body["stat"]["ephemeralOwner"] if reply.err == wire.OK else None
                demand(owner == writer.session, f"server {member.number}: {writer.ephemeral} of {writer.session:#x} is {reply}")
            connection.close_session()
        for number, writer in enumerate(self.writers):
            connection = members[number % len(members)].connect()
            shake = connection.connect(SESSION_MS, writer.session, writer.password, writer.last_zxid)
            demand(shake.session == writer.session, f"session {writer.session:#x} can't be had again")
            connection.close_session()
        for member in members:
            connection = synced(member)
            for writer in self.writers:
                self.audit_writer(member, connection, writer)
                demand(connection.exists(writer.ephemeral).err == wire.NO_NODE,
                       f"server {member.number}: {writer.ephemeral} outlives its session")
            connection.close_session()

        def mayflies():
            connection = synced(members[0])
            left = connection.children(f"{ROOT}/mayflies").body["children"]
            connection.close_session()
            return left
        demand(wait_for(lambda: not mayflies(), 60.0), f"ephemerals of sessions that nobody keeps: {mayflies()[:5]}")

    @staticmethod
    def audit_writer(member, connection, writer):
        body = connection.get(writer.path).body
        value, version = int(body["data"]), body["stat"]["version"]
        demand(writer.acknowledged <= value <= writer.tried,
               f"server {member.number}: {writer.path} is {value}, acknowledged {writer.acknowledged}, tried {writer.tried}")
        demand(len(writer.acks) <= version <= writer.tried,
               f"server {member.number}: {writer.path} was set {version} times, acknowledged {len(writer.acks)}, tried {writer.tried}")
        there = {f"{writer.path}/{name}" for name in connection.children(writer.path).body["children"]}
        lost = [path for path in writer.created if path not in there]
        demand(not lost, f"server {member.number}: acknowledged and lost: {lost[:5]}")


def synced(member):
    connection = member.session()
    demand(connection.call(wire.SYNC, wire.string("/")).err == wire.OK, f"server {member.number}: sync fails")
    return connection


def tree_of(member):
    """Every znode with its data, ACL and stat, but for those that each server makes by itself."""
    connection = synced(member)
    tree, due = {}, ["/"]
    while due:
        paths, due = due[:100], due[100:]
        for path in paths:
            connection.post(wire.GET_DATA, wire.string(path) + wire.boolean(False))
            connection.post(wire.GET_ACL, wire.string(path))
            connection.post(wire.GET_CHILDREN2, wire.string(path) + wire.boolean(False))
        for path in paths:
            node, acl, children = connection.next(), connection.next(), connection.next()
            if wire.NO_NODE in (node.err, acl.err, children.err):
                continue  # it went meanwhile; then the trees are read again
            names = sorted(children.body["children"])
            tree[path] = (node.body["data"], repr(acl.body["acl"]), dict(node.body["stat"]), tuple(names))
            below = [("" if path == "/" else path) + "/" + name for name in names]
            due += [p for p in below if p != "/zookeeper/config"]
    connection.drop()
    return tree


def equal_trees(members, wait=20.0, digests=True):
    """All members show the same tree, and no digest differs: sessions that end meanwhile get a moment."""
    deadline = time.monotonic() + wait
    while True:
        first, *rest = [(m, tree_of(m)) for m in members]
        differing = [(m, t, path) for m, t in rest for path in set(t) | set(first[1]) if t.get(path) != first[1].get(path)]
        if not differing:
            break
        member, tree, path = differing[0]
        both = f"{first[1].get(path)} on {first[0].number}, {tree.get(path)} on {member.number}"
        demand(time.monotonic() < deadline, f"{len(differing)} znodes differ, {path}: {both}")
        time.sleep(0.2)
    if digests:
        equal_digests(members)
    return len(first[1])


def equal_digests(members):
    """No two members have different digests of one zxid, and none has met one that was not its own."""
    seen = {}
    for member in members:
        mismatches = member.monitor().get("zk_digest_mismatches_count", "0")
        demand(mismatches == "0", f"server {member.number} counts {mismatches} digests that differ")
        for line in wire.four_letter_word(member.host, member.port, "hash").splitlines():
            zxid, digest = line.split(": ")
            other = seen.setdefault(zxid, (digest, member.number))
            demand(other[0] == digest, f"at {zxid} the digest is {other[0]} on {other[1]}, {digest} on {member.number}")
            seen[zxid] = other
    return len(seen)

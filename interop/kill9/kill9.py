"""kill -9 with an audit: what was acknowledged is there, what wasn't is there whole or not at all, in order.

    kill9.py [--rounds N] [--seed S] [--keep] [server-command...]

Eight writers and a reader work against one server. At a random moment the server is killed with SIGKILL; sometimes it is
killed again while it starts. Then it is started again and audited, the writers take up their sessions, and the next round
begins on the same data. The seed settles what the writers send and when the kills come; what is in flight at the kill is
up to the machine.

What is demanded after each restart:

* A writer's nodes are its own. They look exactly as after some number of its unanswered requests, taken in the order
  they were sent, on top of all answered ones: data, versions, zxids, owners. So nothing acknowledged is missing, no
  multi is half there, nothing unsent or refused appears, and order within a session holds.
* Each session that was open can be taken up with its password, and a closed one can't; a session that nobody takes up
  expires and takes its ephemerals along.
* Sequence numbers and session ids are never given twice; a sequence number is above all those acknowledged before it
  was asked for.
* The server takes back a client that has seen the highest zxid it ever sent, in a reply or in an event, and no version
  that a reader saw is gone: it never showed what it could lose.
"""

import argparse
import os
import random
import sys
import threading
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
import server as servers  # noqa: E402
import wire  # noqa: E402

WRITERS = 8
ROOT = "/k"
SEQUENCE = "/k/seq"
SESSION_TIMEOUT = 30000
# The shortest that a tick of one second allows.
MORTAL_TIMEOUT = 2000
# How long the audit waits for a forgotten session to end, far above timeout and tick.
EXPIRY_WAIT = 30.0
# Nodes a writer holds at most before it deletes some.
NODES = 60
SEQUENCE_NODES = 25
# A version that no node reaches: who checks for it is refused.
NO_VERSION = 2_000_000_000


class AuditError(Exception):
    pass


class Node:
    """What a writer knows of one node; `None` where only the server knows (the writer's request was never answered)."""

    def __init__(self, data, version, owner, czxid=None, mzxid=None):
        self.data, self.version, self.owner, self.czxid, self.mzxid = data, version, owner, czxid, mzxid

    def copy(self):
        return Node(self.data, self.version, self.owner, self.czxid, self.mzxid)

    def agrees(self, data, stat):
        return (self.data == data and self.version == stat["version"] and self.owner == stat["ephemeralOwner"]
                and self.czxid in (None, stat["czxid"]) and self.mzxid in (None, stat["mzxid"]))

    def __repr__(self):
        return f"v{self.version} owner={self.owner:#x} czxid={self.czxid} mzxid={self.mzxid} {self.data[:40]!r}"


class Shared:
    """What all threads of the run know together."""

    def __init__(self):
        self.lock = threading.Lock()
        self.zxid = 0  # the highest zxid that any client saw
        self.suffixes = set()  # sequence numbers ever seen
        self.top_suffix = -1  # the highest acknowledged one
        self.sessions = set()
        self.versions = {}  # path -> highest version that the reader saw
        self.acknowledged = 0

    def saw(self, zxid):
        with self.lock:
            self.zxid = max(self.zxid, zxid)

    def new_session(self, session):
        with self.lock:
            if session in self.sessions:
                raise AuditError(f"session id {session:#x} given twice")
            self.sessions.add(session)


class Writer:
    """One session (after another) writing below its own node, and into the shared sequence."""

    def __init__(self, number, seed, shared, server):
        self.number, self.shared, self.server = number, shared, server
        self.rng = random.Random(f"{seed}/{number}")
        self.base = f"{ROOT}/w{number}"
        self.nodes = {}  # path -> Node, as acknowledged; sequential ones under their tag until their name is known
        self.names = {}  # tag -> path of an acknowledged sequential node
        self.in_doubt = []
        self.serial = 0
        self.timeout = SESSION_TIMEOUT
        self.session = self.password = None
        self.session_closed = []  # (session, password) of sessions whose end was acknowledged
        self.connection = None
        self.error = None
        self.last_zxid = 0
        self.may_be_closed = False  # whether the tree can't tell if the session was closed before the last kill

    # Requests: (kind, ...) tuples; `apply` is the one place that says what they do

    @staticmethod
    def apply(nodes, request, session, zxid=None):
        kind = request[0]
        if kind == "create":
            _, path, data, ephemeral = request
            nodes[path] = Node(data, 0, session if ephemeral else 0, zxid, zxid)
        elif kind == "set":
            _, path, data = request
            node = nodes[path] = nodes[path].copy()
            node.data, node.version, node.mzxid = data, node.version + 1, zxid
        elif kind == "delete":
            del nodes[request[1]]
        elif kind == "sequence":
            nodes[request[1]] = Node(request[1].encode(), 0, 0, zxid, zxid)
        elif kind == "multi":
            if not request[2]:
                for member in request[1]:
                    Writer.apply(nodes, member, session, zxid)
        elif kind == "close":
            for path in [path for path, node in nodes.items() if node.owner == session]:
                del nodes[path]

    def encode(self, request):
        kind = request[0]
        if kind == "create":
            return wire.CREATE, wire.create_record(request[1], request[2], flags=1 if request[3] else 0)
        if kind == "set":
            return wire.SET_DATA, wire.string(request[1]) + wire.buffer(request[2]) + wire.i32(-1)
        if kind == "delete":
            return wire.DELETE, wire.string(self.names.get(request[1], request[1])) + wire.i32(-1)
        if kind == "sequence":
            return wire.CREATE, wire.create_record(SEQUENCE + "/n-", request[1].encode(), flags=2)
        if kind == "multi":
            members = [self.encode(member) for member in request[1]]
            if request[2]:
                members.append((wire.CHECK, wire.string(self.base) + wire.i32(NO_VERSION)))
            return wire.MULTI, wire.multi_record(members)
        return wire.CLOSE_SESSION, b""

    def invent(self, nodes):
        """One request that surely succeeds (or, for one kind of multi, surely fails) on `nodes`."""
        rng = self.rng
        self.serial += 1
        mine = [path for path, node in nodes.items() if path.startswith("/") and path.count("/") == 3]
        sequence = [tag for tag in nodes if not tag.startswith("/") and tag in self.names]
        data = (f"{self.number}:{self.serial}:" + "x" * rng.choice([0, 10, 200, 200, 3000])).encode()
        path = f"{self.base}/n{self.serial}"
        roll = rng.random()
        if len(sequence) > SEQUENCE_NODES:
            return ("delete", rng.choice(sequence))
        if len(mine) > NODES:
            return ("multi", [("delete", victim) for victim in rng.sample(mine, 5)], False)
        if roll < 0.2 or not mine:
            return ("create", path, data, rng.random() < 0.4)
        if roll < 0.4:
            return ("set", self.base, data)
        if roll < 0.55:
            return ("set", rng.choice(mine), data)
        if roll < 0.65:
            return ("delete", rng.choice(mine))
        if roll < 0.8:
            return ("sequence", f"{self.number}:{self.serial}")
        members = [("create", path + "a", data, False), ("create", path + "b", data, rng.random() < 0.5),
                   ("set", self.base, data), ("delete", rng.choice(mine))]
        return ("multi", members, roll > 0.95)

    # The work

    def begin(self):
        self.connection = self.server.connect()
        self.connection.connect(self.timeout)
        self.session, self.password = self.connection.session, self.connection.handshake.password
        self.shared.new_session(self.session)
        self.last_zxid = 0

    def take_up(self):
        """Attaches to the session again; returns whether the server knew it."""
        self.connection = self.server.connect()
        answer = self.connection.connect(self.timeout, self.session, self.password, self.shared.zxid)
        return answer.session == self.session

    def work(self):
        try:
            while True:
                self.burst()
        except (wire.Closed, OSError):
            pass
        except Exception as error:  # a thread's failure is the run's failure
            self.error = error

    def burst(self):
        projected = dict(self.nodes)
        requests = []
        for _ in range(self.rng.choice([1, 1, 2, 4])):
            request = self.invent(projected)
            self.apply(projected, request, self.session)
            requests.append(request)
        if self.rng.random() < 0.01:
            requests.append(("close",))
        with self.shared.lock:
            floor = self.shared.top_suffix
        # In doubt from before the first byte leaves until the reply is here.
        self.in_doubt = list(requests)
        frames = b""
        for request in requests:
            code, record = self.encode(request)
            xid = self.connection.next_xid
            self.connection.next_xid += 1
            self.connection.expected.append((xid, code))
            frames += wire.request(xid, code, record)
        try:
            self.connection.send_raw(frames)
        except wire.Closed:
            pass  # replies to earlier frames may still be there
        while self.in_doubt:
            item = self.connection.next()
            if isinstance(item, wire.Reply):
                self.acknowledge(self.in_doubt[0], item, floor)
                self.in_doubt.pop(0)
        self.connection.log.clear()
        if requests[-1][0] == "close":
            self.session_closed.append((self.session, self.password))
            self.connection.close()
            self.session = None  # until the next one is known, which a kill may prevent
            self.begin()

    def acknowledge(self, request, reply, floor):
        where = f"writer {self.number}: {request[:2]} answered {reply}"
        if reply.err != 0:
            raise AuditError(f"{where}: refused")
        if reply.zxid <= self.last_zxid:
            raise AuditError(f"{where}: zxid not above {self.last_zxid:#x}")
        self.last_zxid = reply.zxid
        self.shared.saw(reply.zxid)
        with self.shared.lock:
            self.shared.acknowledged += 1
        if request[0] == "multi":
            failed = any(err != 0 for _, err, _ in reply.body["results"])
            if failed != request[2]:
                raise AuditError(f"{where}: failed={failed}")
        self.apply(self.nodes, request, self.session, reply.zxid)
        if request[0] == "sequence":
            self.named(request[1], reply.body["path"], floor)
        elif request[0] == "delete":
            self.names.pop(request[1], None)
        elif request[0] == "set" and reply.body["stat"]["version"] != self.nodes[request[1]].version:
            raise AuditError(f"{where}: version should be {self.nodes[request[1]].version}")

    def named(self, tag, path, floor):
        suffix = int(path[len(SEQUENCE + "/n-"):])
        with self.shared.lock:
            if suffix in self.shared.suffixes:
                raise AuditError(f"sequence number {suffix} given twice ({tag})")
            if suffix <= floor:
                raise AuditError(f"sequence number {suffix} ({tag}) is not above {floor}, acknowledged before")
            self.shared.suffixes.add(suffix)
            self.shared.top_suffix = max(self.shared.top_suffix, suffix)
        self.names[tag] = path

    # The audit

    def audit(self, actual, expired):
        """Finds how many of the requests in doubt happened; `actual`: key -> (path, data, stat). `expired`: the session may
        have ended meanwhile."""
        reasons = []
        for count in range(len(self.in_doubt) + 1):
            for session_gone in ((False, True) if expired else (False,)):
                nodes = {key: node.copy() for key, node in self.nodes.items()}
                for request in self.in_doubt[:count]:
                    self.apply(nodes, request, self.session)
                if session_gone:
                    self.apply(nodes, ("close",), self.session)
                reason = self.mismatch(nodes, actual)
                if reason is None:
                    # Requests that leave no trace in the tree may have happened too: the end of a session that owns nothing.
                    whole = {key: node.copy() for key, node in nodes.items()}
                    for request in self.in_doubt[count:]:
                        self.apply(whole, request, self.session)
                    self.may_be_closed = bool(self.in_doubt) and self.in_doubt[-1][0] == "close" and (
                        self.mismatch(whole, actual) is None)
                    self.adopt(nodes, actual, self.in_doubt[:count])
                    return count
                reasons.append(f"    if {count} of {len(self.in_doubt)} in doubt happened: {reason}")
        raise AuditError(f"writer {self.number} (session {self.session:#x}): the tree fits no number of its requests in doubt "
                         f"{[r[:2] for r in self.in_doubt]}\n" + "\n".join(reasons))

    @staticmethod
    def mismatch(nodes, actual):
        for key in nodes.keys() - actual.keys():
            return f"{key} is missing ({nodes[key]})"
        for key in actual.keys() - nodes.keys():
            return f"{key} should not be there ({actual[key][2]})"
        for key, node in nodes.items():
            _, data, stat = actual[key]
            if not node.agrees(data, stat):
                return f"{key} is {data[:40]!r} {stat}, wanted {node}"
        return None

    def adopt(self, nodes, actual, happened):
        """Takes over what only the server knew: zxids, and the names of sequential nodes whose answer never came."""
        self.nodes = nodes
        for key, node in nodes.items():
            path, _, stat = actual[key]
            node.czxid, node.mzxid = stat["czxid"], stat["mzxid"]
            if not key.startswith("/") and key not in self.names:
                self.named(key, path, -1)
        self.names = {tag: path for tag, path in self.names.items() if tag in nodes}
        closed = any(request[0] == "close" for request in happened)
        self.in_doubt = []
        if closed:
            self.session_closed.append((self.session, self.password))
            self.session = None


class Reader:
    """Reads what the writers write and watches all of it; what it saw must survive."""

    def __init__(self, shared, server, seed):
        self.shared, self.server, self.rng, self.error = shared, server, random.Random(f"{seed}/reader"), None

    def work(self):
        try:
            connection = self.server.session(SESSION_TIMEOUT)
            connection.call(wire.ADD_WATCH, wire.string(ROOT) + wire.i32(1))
            while True:
                path = f"{ROOT}/w{self.rng.randrange(WRITERS)}"
                reply = connection.get(path)
                self.shared.saw(reply.zxid)
                if reply.err == 0:
                    version = reply.body["stat"]["version"]
                    if version < self.shared.versions.get(path, 0):
                        raise AuditError(f"{path} went back to version {version}")
                    self.shared.versions[path] = version
                for event in connection.events:
                    self.shared.saw(event.zxid)
                connection.events.clear()
                connection.log.clear()
        except (wire.Closed, OSError):
            pass
        except Exception as error:
            self.error = error


def read_tree(connection):
    """Everything the writers own: key -> (path, data, stat), sequential nodes under the tag that is their data."""
    def read_all(paths):
        out = {}
        for start in range(0, len(paths), 200):
            xids = [connection.post(wire.GET_DATA, wire.string(path) + b"\0") for path in paths[start:start + 200]]
            for path, xid in zip(paths[start:start + 200], xids):
                reply = connection.reply_to(xid)
                if reply.err == 0:  # an expiring session's ephemerals may go meanwhile
                    out[path] = (reply.body["data"], reply.body["stat"])
        return out

    owned = {number: {} for number in range(WRITERS)}
    for number in range(WRITERS):
        base = f"{ROOT}/w{number}"
        names = connection.children(base).body["children"]
        for path, (data, stat) in read_all([base] + [f"{base}/{name}" for name in names]).items():
            owned[number][path] = (path, data, stat)
    names = connection.children(SEQUENCE).body["children"]
    if len(names) != len(set(names)):
        raise AuditError("a name twice among the children of the sequence")
    for path, (data, stat) in read_all([f"{SEQUENCE}/{name}" for name in names]).items():
        number = int(data.split(b":")[0])
        if data.decode() in owned[number]:
            raise AuditError(f"one sequential create made two nodes: {path} and {owned[number][data.decode()][0]}")
        owned[number][data.decode()] = (path, data, stat)
    return owned


def audit(server, writers, shared, mortal):
    try:
        connection = server.session(SESSION_TIMEOUT, last_zxid=shared.zxid)
    except wire.Closed:
        raise AuditError(f"the server refuses a client that has seen zxid {shared.zxid:#x}: it forgot what it showed")
    shared.new_session(connection.session)
    owned = read_tree(connection)
    happened = [writer.audit(owned[writer.number], writer is mortal) for writer in writers]
    for path, version in shared.versions.items():
        stat = connection.exists(path).body["stat"]
        if stat["version"] < version:
            raise AuditError(f"{path} is back at version {stat['version']}, a reader saw {version}")
    for writer in writers:
        if writer is mortal:
            continue
        if writer.session is None:
            writer.begin()
        elif not writer.take_up():
            if not writer.may_be_closed:
                raise AuditError(f"writer {writer.number}: session {writer.session:#x} was alive and is refused")
            writer.session_closed.append((writer.session, writer.password))
            writer.begin()
        for session, password in writer.session_closed[-2:]:
            ghost = server.connect()
            if ghost.connect(SESSION_TIMEOUT, session, password).session != 0:
                raise AuditError(f"session {session:#x} was closed and is taken up again")
            ghost.close()
    if mortal is not None:
        await_expiry(connection, mortal)
    connection.close_session()
    return sum(happened)


def await_expiry(connection, mortal):
    """Nobody takes up the mortal's session: its ephemerals go, then it is unknown."""
    deadline = time.monotonic() + EXPIRY_WAIT
    if mortal.session is not None:
        ephemerals = [path for path, node in mortal.nodes.items() if node.owner == mortal.session]
        connection.socket.settimeout(EXPIRY_WAIT)
        for path in ephemerals:
            while connection.exists(path).err == 0:
                if time.monotonic() > deadline:
                    raise AuditError(f"{path} outlives its session {mortal.session:#x}")
                time.sleep(0.05)
        while True:
            if not mortal.take_up():
                break
            # No ephemeral showed its end, and asking has kept it alive: end it by hand.
            if ephemerals:
                raise AuditError(f"session {mortal.session:#x} lost its ephemerals and is alive")
            mortal.connection.close_session()
        mortal.apply(mortal.nodes, ("close",), mortal.session)
    mortal.timeout = SESSION_TIMEOUT
    mortal.begin()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--keep", action="store_true", help="keep the server's directory after a failure")
    parser.add_argument("command", nargs=argparse.REMAINDER)
    options = parser.parse_args()
    seed = options.seed if options.seed is not None else random.randrange(1 << 32)
    command = servers.command_from([word for word in options.command if word != "--"])
    print(f"kill9: seed {seed}, {options.rounds} rounds", flush=True)
    rng = random.Random(seed)
    # Frequent snapshots, so that kills meet them too.
    server = servers.Server(command, {"tickTime": 1000, "minSessionTimeout": MORTAL_TIMEOUT, "maxSessionTimeout": 60000},
                            ["-Dzookeeper.snapCount=400"], "kill9")
    shared = Shared()
    writers = [Writer(number, seed, shared, server) for number in range(WRITERS)]
    failed = True
    kills = 0
    try:
        server.start()
        setup = server.session()
        shared.new_session(setup.session)
        for path in [ROOT, SEQUENCE] + [writer.base for writer in writers]:
            reply = setup.create(path, b"start")
            if reply.err != 0:
                raise AuditError(f"cannot create {path}: {reply}")
            if path.startswith(ROOT + "/w"):
                writers[int(path[len(ROOT) + 2:])].nodes[path] = Node(b"start", 0, 0, reply.zxid, reply.zxid)
        setup.close_session()
        for writer in writers:
            writer.begin()
        for number in range(options.rounds):
            mortal = writers[rng.randrange(WRITERS)] if number % 4 == 1 else None
            if mortal is not None:
                # A session with the shortest timeout (a restart counts with the one that the session was made with).
                mortal.connection.close_session()
                mortal.apply(mortal.nodes, ("close",), mortal.session)
                mortal.timeout = MORTAL_TIMEOUT
                mortal.begin()
            reader = Reader(shared, server, f"{seed}/{number}")
            threads = [threading.Thread(target=worker.work, daemon=True) for worker in writers + [reader]]
            before = shared.acknowledged
            for thread in threads:
                thread.start()
            time.sleep(rng.choice([rng.uniform(0.02, 0.2), rng.uniform(0.2, 1.5)]))
            server.kill()
            kills += 1
            for thread in threads:
                thread.join(30)
                if thread.is_alive():
                    raise AuditError("a client hangs although its server is gone")
            for worker in writers + [reader]:
                if worker.error is not None:
                    raise worker.error
            in_doubt = sum(len(writer.in_doubt) for writer in writers)
            while rng.random() < 0.25:
                # And again, while it starts.
                try:
                    server.start_and_kill(rng.uniform(0.0, 0.4))
                    kills += 1
                except RuntimeError as error:
                    raise AuditError(f"start after kill -9 failed: {error}")
            started = time.monotonic()
            server.start()
            took = time.monotonic() - started
            happened = audit(server, writers, shared, mortal)
            print(f"  round {number + 1}: {shared.acknowledged - before} acknowledged, {in_doubt} in doubt of which {happened} "
                  f"happened, back in {took:.2f} s" + (", a session expired" if mortal else ""), flush=True)
        if server.stop() not in (0, 143, -15):
            raise AuditError(f"the orderly stop at the end ended with {server.process.returncode}")
        failed = False
        print(f"PASS kill9: {kills} kills, {shared.acknowledged} acknowledged writes, all there")
        return 0
    except (AuditError, RuntimeError, ValueError) as error:
        print(f"FAIL kill9 (seed {seed}): {error}\nserver's last words:\n{server.tail()}")
        return 1
    finally:
        if failed and options.keep:
            server.kill()
            print(f"data kept in {server.directory}")
        else:
            server.remove()


if __name__ == "__main__":
    sys.exit(main())

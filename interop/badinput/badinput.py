"""Bad input over raw sockets: whatever arrives, the server stays up, its memory stays bounded, and others don't notice.

    badinput.py [--only NAME[,NAME]] [--connections N] [server-command...]

While each test runs, a canary client writes and reads through its own session; an error, a lost connection or ten
seconds without an answer there fails the test. At the end the server must have given back the sockets, and must start
again on what it logged meanwhile.
"""

import argparse
import os
import random
import resource
import socket
import struct
import sys
import threading
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
import server as servers  # noqa: E402
import wire  # noqa: E402

MAX_BUFFER = 0xFFFFF
# How far one test may raise the server's resident memory: ten thousand connections at 40 KiB each, or a few hundred
# frames of the largest size, and far less than what an unbounded queue or a believed length would take.
MEMORY_GROWTH = 512 << 20

WRITES = {
    wire.CREATE: wire.create_record("/bad/x", b"data"),
    wire.CREATE2: wire.create_record("/bad/x", b"data"),
    wire.CREATE_CONTAINER: wire.create_record("/bad/x", b"data", flags=4),
    wire.CREATE_TTL: wire.create_record("/bad/x", b"data", flags=5) + wire.i64(1000),
    wire.DELETE: wire.string("/bad/x") + wire.i32(-1),
    wire.SET_DATA: wire.string("/bad/x") + wire.buffer(b"data") + wire.i32(-1),
    wire.SET_ACL: wire.string("/bad/x") + wire.acl(wire.OPEN_ACL) + wire.i32(-1),
}
PATH_OPS = {
    wire.EXISTS: b"\1", wire.GET_DATA: b"\1", wire.GET_CHILDREN: b"\1", wire.GET_CHILDREN2: b"\1", wire.GET_ACL: b"",
    wire.SYNC: b"", wire.GET_ALL_CHILDREN_NUMBER: b"", wire.GET_EPHEMERALS: b"", wire.ADD_WATCH: wire.i32(1),
    wire.CHECK_WATCHES: wire.i32(3), wire.REMOVE_WATCHES: wire.i32(3), wire.DELETE: wire.i32(-1),
    wire.SET_DATA: wire.buffer(b"") + wire.i32(-1), wire.SET_ACL: wire.acl(wire.OPEN_ACL) + wire.i32(-1),
    wire.CREATE: wire.buffer(b"") + wire.acl(wire.OPEN_ACL) + wire.i32(0),
    wire.CREATE2: wire.buffer(b"") + wire.acl(wire.OPEN_ACL) + wire.i32(0),
    wire.CREATE_CONTAINER: wire.buffer(b"") + wire.acl(wire.OPEN_ACL) + wire.i32(4),
}
BAD_PATHS = [None, b"", b"x", b"//", b"/bad/", b"/bad//x", b"/bad/./x", b"/bad/..", b"/bad/\0", b"/bad/\x01", b"/bad/\xff\xfe",
             b"/bad/\xc0\x80", b"/bad/\xed\xa0\x80", b"/bad/\xf0\x9f\x98\x80", b"/bad/\xee\x80\x80", b"/bad/" + b"a" * 100000,
             b"/" * 5000, b"/a" * 5000]


class Failed(Exception):
    pass


def check(condition, what):
    if not condition:
        raise Failed(what)


class Canary:
    """A client that must not notice anything."""

    def __init__(self, server):
        self.server, self.stop, self.worst, self.rounds, self.error = server, False, 0.0, 0, None
        self.connection = server.session(30000)
        self.connection.socket.settimeout(10.0)
        path = f"/canary{self.connection.session:x}"
        self.connection.create(path, b"0")
        self.path = path
        self.thread = threading.Thread(target=self.sing, daemon=True)
        self.thread.start()

    def sing(self):
        try:
            while not self.stop:
                started = time.monotonic()
                data = str(self.rounds).encode()
                if self.connection.set(self.path, data).err != 0 or self.connection.get(self.path).body["data"] != data:
                    raise Failed("the canary reads something else than it wrote")
                self.worst = max(self.worst, time.monotonic() - started)
                self.rounds += 1
                self.connection.log.clear()
                time.sleep(0.01)
        except Exception as error:
            self.error = error

    def end(self):
        self.stop = True
        self.thread.join(30)
        check(not self.thread.is_alive(), "the canary hangs")
        check(self.error is None, f"the canary noticed: {self.error!r}")
        self.connection.delete(self.path)
        self.connection.close_session()


def expect_closed(connection, what, or_reply=False):
    """The server closes the connection without a frame (or after some, where that is fine too)."""
    try:
        while True:
            frame = connection.read_frame()
            check(or_reply, f"{what}: answered with {frame[:40].hex()}")
    except wire.Closed:
        pass
    except TimeoutError:
        raise Failed(f"{what}: neither answered nor closed")


def survives(connection, what):
    check(connection.ping().err == 0, what)


class Tests:
    def __init__(self, server, reference, connections):
        self.server, self.reference, self.connections = server, reference, connections
        self.rng = random.Random(1)

    def frame_lengths(self):
        """Negative and absurd frame lengths close the connection, before and after the handshake; the largest is taken."""
        for length in (-1, -2, -(1 << 31), (1 << 31) - 1, MAX_BUFFER + 1, 1 << 30):
            for handshake in (False, True):
                connection = self.server.session() if handshake else self.server.connect()
                connection.send_raw(wire.i32(length) + b"x" * 100)
                expect_closed(connection, f"frame length {length}, handshake {handshake}")
        for length in range(8):
            connection = self.server.session()
            connection.send_raw(wire.frame(b"\0" * length))
            expect_closed(connection, f"frame of {length} bytes")
        connection = self.server.session()
        overhead = 8 + len(wire.create_record("/bad/big", b""))
        reply = connection.create("/bad/big", b"d" * (MAX_BUFFER - overhead))
        check(reply.err == 0, f"a frame of exactly {MAX_BUFFER} bytes: {reply}")
        check(len(connection.get("/bad/big").body["data"]) == MAX_BUFFER - overhead, "the largest node comes back")
        connection.delete("/bad/big")
        connection.close_session()

    def truncated_handshakes(self):
        """A ConnectRequest cut at each byte (behind a frame length that says so)."""
        whole = wire.connect_record(10000)
        for cut in range(len(whole) - 1):
            connection = self.server.connect()
            connection.send_raw(wire.frame(whole[:cut]))
            expect_closed(connection, f"ConnectRequest of {cut} bytes")
        # 44 bytes are a whole one without the optional flag.
        connection = self.server.connect()
        check(connection.connect(10000, read_only=None).length == 36, "a handshake without the flag is answered without it")
        connection.close_session()

    def nonsense_handshakes(self):
        for record in (wire.i32(7) + wire.i64(0) + wire.i32(1000) + wire.i64(0) + wire.i32(1 << 30) + b"\0" * 17,
                       wire.i32(0) + wire.i64(0) + wire.i32(1000) + wire.i64(0) + wire.i32(-5) + b"\0" * 17,
                       wire.i32(0) + wire.i64(1 << 62) + wire.i32(1000) + wire.i64(0) + wire.buffer(b"\0" * 16) + b"\0"):
            connection = self.server.connect()
            connection.send_raw(wire.frame(record))
            expect_closed(connection, record[:30].hex())
        for session, password in ((1, b""), (-1, None), (1 << 56, b"x" * 1000), (0x7FFFFFFFFFFFFFFF, b"\0" * 16)):
            connection = self.server.connect()
            answer = connection.connect(10000, session, password)
            check((answer.session, answer.timeout) == (0, 0), f"an unknown session {session:#x} was taken up")
            expect_closed(connection, "a refused session")

    def requests_before_handshake(self):
        """What should be a ConnectRequest is read as one."""
        for op, record in list(WRITES.items()) + [(wire.PING, b""), (wire.CLOSE_SESSION, b""), (wire.AUTH, b"\0" * 30)]:
            connection = self.server.connect()
            connection.send_raw(wire.request(1, op, record))
            # A long record can look like a handshake with a huge zxid; it never becomes a session's request.
            expect_closed(connection, f"opcode {op} before the handshake", or_reply=len(record) >= 36)

    def pipelined_behind_handshake(self):
        connection = self.server.connect()
        auth = wire.i32(0) + wire.string("digest") + wire.buffer(b"u:p")
        connection.send_raw(wire.frame(wire.connect_record(10000)) + wire.request(-4, wire.AUTH, auth)
                            + wire.request(-8, wire.SET_WATCHES, wire.i64(0) + wire.strings([]) * 3)
                            + wire.request(1, wire.WHO_AM_I))
        connection.handshake = wire.Handshake(connection.read_frame())
        connection.expected = [(-4, wire.AUTH), (-8, wire.SET_WATCHES), (1, wire.WHO_AM_I)]
        reply = connection.reply_to(1)
        check(("digest", "u") in reply.body["ids"], f"requests pipelined behind the handshake: {connection.log}")
        connection.next_xid = 2
        connection.close_session()

    def every_opcode(self):
        """Each opcode with no body, with nulls, with zeros and with noise: an answer or a close, never silence."""
        bodies = [b"", b"\xff" * 4, b"\xff" * 64, b"\0" * 64, self.rng.randbytes(100), b"\x7f" * 64]
        for op in list(range(-13, 30)) + list(range(98, 112)) + [1000, -1000, (1 << 31) - 1, -(1 << 31)]:
            if op == wire.CREATE_SESSION and self.reference:
                continue  # answered by a second handshake
            for body in bodies:
                connection = self.server.session(10000)
                connection.send_raw(wire.request(1, op, body) + wire.request(wire.PING_XID, wire.PING))
                try:
                    while wire.Reader(connection.read_frame()).i32() != wire.PING_XID:
                        pass
                except wire.Closed:
                    pass
                except TimeoutError:
                    raise Failed(f"opcode {op} with body {body[:20].hex()}: silence")
                connection.close()

    def undecodable_writes(self):
        """Each write cut at each byte: -5, the connection lives, and no zxid is spent."""
        connection = self.server.session()
        for op, record in WRITES.items():
            for cut in range(len(record)):
                before = connection.ping().zxid
                reply = connection.call(op, record[:cut])
                check(reply.err == wire.MARSHALLING_ERROR, f"{wire.OP_NAMES[op]} cut at {cut}: {reply}")
                if not self.reference:
                    # The canary writes too: the zxid may move, but never by this request's doing.
                    check(reply.zxid >= before, f"{wire.OP_NAMES[op]} cut at {cut}: zxid went back")
        connection.log.clear()
        connection.close_session()

    def quiet_undecodable_writes(self):
        """The same without anybody else writing: the zxid must stand still."""
        connection = self.server.session()
        before = connection.ping().zxid
        for op, record in WRITES.items():
            for cut in (0, 3, len(record) // 2, len(record) - 1):
                check(connection.call(op, record[:cut]).err == wire.MARSHALLING_ERROR, f"{wire.OP_NAMES[op]} cut at {cut}")
        after = connection.ping().zxid
        check(after == before or self.reference, f"undecodable writes moved the zxid from {before:#x} to {after:#x}")
        connection.close_session()

    def absurd_lengths_inside(self):
        """Counts and lengths that promise far more than the frame holds: refused, and never believed."""
        connection = self.server.session()
        for n in ((1 << 31) - 1, 1 << 30, 100_000_000, -2, -(1 << 31)):
            length = wire.i32(n)
            for op, record in (
                (wire.CREATE, length + b"/x"),
                (wire.CREATE, wire.string("/bad/y") + length + b"x"),
                (wire.CREATE, wire.string("/bad/y") + wire.buffer(b"") + length),
                (wire.SET_ACL, wire.string("/bad") + length),
                (wire.SET_WATCHES, wire.i64(0) + length),
                (wire.SET_WATCHES2, wire.i64(0) + wire.strings([]) * 4 + length),
                (wire.MULTI, wire.i32(1) + b"\0" + wire.i32(-1) + length),
                (wire.GET_DATA, length),
            ):
                try:
                    reply = connection.call(op, record)
                    # A negative count of a vector reads as no elements, so some of these are whole.
                    check(reply.err < 0 or n < 0, f"{wire.OP_NAMES[op]} with length {n}: {reply}")
                except wire.Closed:
                    connection = self.server.session()
        deep = (wire.i32(wire.CHECK) + b"\0" + wire.i32(-1) + wire.string("/") + wire.i32(-1)) * 40000
        reply = connection.call(wire.MULTI, deep[:MAX_BUFFER - 2000] + b"\0")
        check(reply.err != 0, "a multi that ends in the middle")
        many = wire.multi_record([(wire.CHECK, wire.string("/") + wire.i32(-1))] * 30000)
        check(len(connection.multi([(wire.CHECK, wire.string("/") + wire.i32(-1))] * 30000).body["results"]) == 30000,
              f"a multi of 30,000 checks ({len(many)} bytes)")
        connection.close_session()

    def bad_paths(self):
        connection = self.server.session(10000)
        for path in BAD_PATHS:
            for op, rest in PATH_OPS.items():
                if path is None and op == wire.SYNC and self.reference:
                    continue
                connection.call(op, wire.string(path) + rest)
        survives(connection, "after bad paths")
        connection.log.clear()
        connection.close_session()

    def refused_from_clients(self):
        """Requests that only a server makes, or that contradict themselves."""
        if self.reference:
            return
        connection = self.server.session()
        connection.create("/bad/kept")
        connection.post(wire.DELETE_CONTAINER, wire.buffer(b"/bad/kept"))
        try:
            check(connection.next().err != 0, "deleteContainer from a client was obeyed")
        except wire.Closed:
            pass
        connection.close()
        connection = self.server.session()
        check(connection.exists("/bad/kept").err == 0, "deleteContainer from a client was obeyed")
        reply = connection.call(wire.CREATE_TTL, wire.create_record("/bad/t", flags=0) + wire.i64(-1))
        check(reply.err == wire.BAD_ARGUMENTS, f"createTTL without TTL mode and with a negative ttl: {reply}")
        connection.delete("/bad/kept")
        connection.close_session()

    def half_open(self):
        """Connections that say nothing, half a word, half a frame, or vanish with a reset in the middle."""
        held = []
        for what in (b"", b"\0", b"\0\0\0", wire.frame(wire.connect_record(10000))[:20], b"ru", b"\0\x0f\xff\xff" + b"x" * 5000):
            for _ in range(50):
                connection = self.server.connect()
                connection.send_raw(what)
                held.append(connection)
        for _ in range(100):
            connection = self.server.session(4000)
            connection.post(wire.CREATE, wire.create_record("/bad/e", flags=3))
            connection.send_raw(wire.request(2, wire.CREATE, WRITES[wire.CREATE])[:20])
            connection.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            connection.close()
        for _ in range(20):
            connection = self.server.session(4000)
            for _ in range(50):
                connection.post(wire.GET_CHILDREN2, wire.string("/") + b"\0")
            connection.drop()
        for connection in held:
            connection.close()

    def slow_reader(self):
        """Asks for far more than it reads: the server may hold it back or drop it, not hold it all in memory."""
        setup = self.server.session()
        setup.create("/bad/large", b"d" * 900_000)
        count = 60 if self.reference else 2000
        slow = self.server.session(30000)
        slow.socket.settimeout(2.0)
        frames = b"".join(wire.request(1 + i, wire.GET_DATA, wire.string("/bad/large") + b"\0") for i in range(count))
        try:
            slow.send_raw(frames)
        except (TimeoutError, wire.Closed):
            pass
        highest = 0
        for _ in range(20):
            highest = max(highest, self.server.memory())
            survives(setup, "beside a slow reader")
            time.sleep(0.1)
        check(highest < self.baseline + MEMORY_GROWTH, f"a slow reader costs {highest - self.baseline >> 20} MiB")
        slow.socket.settimeout(20.0)
        read = 0
        try:
            while read < count:
                slow.read_frame()
                read += 1
        except wire.Closed:
            pass
        print(f"    slow reader got {read} of {count} replies", flush=True)
        slow.close()
        setup.delete("/bad/large")
        setup.close_session()

    def slow_writers(self):
        """Frames that come byte by byte."""
        connections = [self.server.session(30000) for _ in range(20)]
        frame = wire.request(1, wire.GET_DATA, wire.string("/") + b"\0")
        for byte in frame:
            for connection in connections:
                connection.send_raw(bytes([byte]))
        for connection in connections:
            connection.expected.append((1, wire.GET_DATA))
            check(connection.reply_to(1).err == 0, "a request that came byte by byte")
            connection.next_xid = 2
            connection.close_session()

    def port_probes(self):
        for _ in range(300):
            self.server.connect().close()
        hello = bytes.fromhex("16030100c8010000c40303") + self.rng.randbytes(200)
        for probe in (hello, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"\r\n\r\n", b"SSH-2.0-x\r\n", b"xxxx", b"QUIT", b"rqld", b"lsnr",
                      b"\x00", b"\xff\xf4\xff\xfd", self.rng.randbytes(1000)):
            connection = self.server.connect(3.0)
            connection.send_raw(probe)
            try:
                while connection.socket.recv(65536):
                    pass
            except OSError:
                pass  # nothing within three seconds is fine: a frame may be pending
            connection.close()
        connection = self.server.connect()
        for byte in b"ruok":
            connection.send_raw(bytes([byte]))
            time.sleep(0.01)
        check(connection.socket.recv(100) == b"imok", "ruok byte by byte")
        connection.close()
        connection = self.server.session()
        connection.send_raw(b"ruok")
        expect_closed(connection, "a four-letter word behind a handshake")

    def handshake_storm(self):
        """Handshakes whose senders are gone before the answer."""
        for _ in range(500):
            connection = self.server.connect()
            connection.send_raw(wire.frame(wire.connect_record(4000)))
            connection.close()

    def idle_connections(self):
        """Many idle sessions: connected, pinged once, closed."""
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        count = min(self.connections, hard - 300)
        before = self.server.memory()
        held = []
        greeting = wire.frame(wire.connect_record(60000))
        started = time.monotonic()
        while len(held) < count:
            block = []
            for _ in range(min(500, count - len(held))):
                block.append(self.server.connect(60.0))
                block[-1].send_raw(greeting)
            for connection in block:
                connection.handshake = wire.Handshake(connection.read_frame())
                check(connection.session != 0, "a session refused")
            held += block
        check(len({connection.session for connection in held}) == count, "session ids are not unique")
        for connection in held:
            connection.post(wire.PING, xid=wire.PING_XID)
        for connection in held:
            check(connection.next().err == 0, "a ping among idle connections")
        growth = self.server.memory() - before
        print(f"    {count} idle sessions in {time.monotonic() - started:.1f} s, {growth / count / 1024:.1f} KiB each", flush=True)
        check(growth < MEMORY_GROWTH, f"{count} idle connections cost {growth >> 20} MiB")
        for connection in held:
            connection.send_raw(wire.request(1, wire.CLOSE_SESSION))
        for connection in held:
            connection.close()

    ALL = ["frame_lengths", "truncated_handshakes", "nonsense_handshakes", "requests_before_handshake",
           "pipelined_behind_handshake", "every_opcode", "undecodable_writes", "quiet_undecodable_writes",
           "absurd_lengths_inside", "bad_paths", "refused_from_clients", "half_open", "slow_reader", "slow_writers",
           "port_probes", "handshake_storm", "idle_connections"]
    # These compare zxids across requests and must be alone.
    ALONE = {"quiet_undecodable_writes"}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default=",".join(Tests.ALL))
    parser.add_argument("--connections", type=int, default=10000)
    parser.add_argument("command", nargs=argparse.REMAINDER)
    options = parser.parse_args()
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    command = servers.command_from([word for word in options.command if word != "--"])
    reference = command[0] == servers.APACHE
    server = servers.Server(command, {"maxSessionTimeout": 60000, "clientPortListenBacklog": 1024}, ["-Dzookeeper.extendedTypesEnabled=true"], "badinput")
    tests = Tests(server, reference, options.connections)
    failures = 0
    try:
        server.start()
        setup = server.session()
        setup.create("/bad")
        setup.close_session()
        files = server.open_files()
        for name in options.only.split(","):
            canary = None
            tests.baseline = server.memory()
            started = time.monotonic()
            try:
                canary = None if name in Tests.ALONE else Canary(server)
                getattr(tests, name)()
                note = ""
                if canary is not None:
                    canary.end()
                    note = f", canary {canary.rounds} rounds, worst {canary.worst * 1000:.0f} ms"
                grown = server.memory() - tests.baseline
                check(grown < MEMORY_GROWTH, f"memory grew by {grown >> 20} MiB")
                print(f"  ok {name} ({time.monotonic() - started:.1f} s, {grown / (1 << 20):+.0f} MiB{note})", flush=True)
            except (Failed, wire.Closed, OSError, ValueError, EOFError, RuntimeError) as error:
                failures += 1
                print(f"  FAILED {name}: {error!r}", flush=True)
                if canary is not None:
                    canary.stop = True
                if not server.outlived():
                    print(f"  the server died ({server.process.returncode}):\n{server.tail()}")
                    server.start()
        deadline = time.monotonic() + 30
        while server.open_files() > files + 10 and time.monotonic() < deadline:
            time.sleep(0.2)
        if server.open_files() > files + 10:
            failures += 1
            print(f"  FAILED sockets: {files} open files before, {server.open_files()} after all is closed")
        server.stop()
        server.start()
        connection = server.session()
        if connection.exists("/bad").err != 0:
            failures += 1
            print("  FAILED restart: /bad is gone")
        print("  ok restart on what was logged", flush=True)
    except RuntimeError as error:
        failures += 1
        print(f"  FAILED: {error}")
    finally:
        server.remove()
    print("PASS badinput" if failures == 0 else f"FAIL badinput: {failures} failures")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())

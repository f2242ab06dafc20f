"""A server that the system refuses something: io_uring, locked memory, direct I/O, room on the disk.

    faults.py [--only NAME[,NAME]] [--rounds N] [server-command...]

Each test starts its own server. The refusals of the kernel come from `refused`, the full disk is a small file system
mounted for the test (as root, or with sudo that asks for no password).
"""

import argparse
import ctypes
import os
import platform
import re
import subprocess
import sys
import threading
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "..", "lib"))
import disks  # noqa: E402
import server as servers  # noqa: E402
import wire  # noqa: E402

REFUSED = os.path.join(HERE, "refused")
KILL9 = os.path.join(HERE, "..", "run-kill9.sh")
# What a write is answered while the log has no room.
NOT_READ_ONLY = -119

# Room for the segments in use and in preparation (64 MiB each), and little more.
DISK_MIB = 400
# A value as large as the default jute.maxbuffer lets through, so that a segment fills quickly.
VALUE = 900_000
SESSION_MS = 4000
# The server looks for room every second, and then has a segment to prepare: "by itself, soon".
RECOVERY_S = 15.0


class Failed(Exception):
    pass


def check(condition, what):
    if not condition:
        raise Failed(what)


def said(server):
    """The one line in which the server tells how it writes its log."""
    with open(server.output, errors="replace") as file:
        lines = [line.split("log device ", 1)[1].strip() for line in file if "log device " in line]
    check(lines, f"the server does not say how it writes its log:\n{server.tail()}")
    return lines[-1]


def io_uring_works():
    """Whether this machine lets its programs have io_uring at all; containers often don't."""
    if platform.machine() not in ("x86_64", "aarch64"):
        return False
    libc = ctypes.CDLL(None, use_errno=True)
    descriptor = libc.syscall(425, 4, ctypes.create_string_buffer(256))
    if descriptor >= 0:
        os.close(descriptor)
    return descriptor >= 0


# How the log is written -------------------------------------------------------------------------------------------

def serves_and_survives(command, wanted, config=None):
    """Starts, says `wanted` (a regular expression) of its log device, serves, and has after a kill -9 what it had before."""
    server = servers.Server(command, config, name="faults")
    try:
        server.start()
        check(re.match(wanted, said(server)), f"wanted {wanted!r}, the server says {said(server)!r}")
        session = server.session()
        check(session.create("/kept", b"0").err == 0, "the first create failed")
        for number in range(1, 51):
            reply = session.set("/kept", str(number).encode())
            check(reply.err == 0, f"write {number} failed: {reply}")
        server.kill()
        server.start()
        check(re.match(wanted, said(server)), f"after a restart the server says {said(server)!r}")
        body = server.session().get("/kept").body
        check(body["data"] == b"50" and body["stat"]["version"] == 50, f"after kill -9: {body}")
        check(server.stop() in (0, 143, -15), f"the orderly stop ended with {server.process.returncode}")
        return said(server)
    finally:
        server.remove()


def kill9(command, rounds):
    """The audit after kills under load."""
    done = subprocess.run([KILL9, "--rounds", str(rounds), "--seed", "1", *command], stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, text=True, timeout=120)
    check(done.returncode == 0, f"kill9 with {' '.join(command)}:\n{done.stdout[-3000:]}")


def does_not_start(command, words):
    """Exits, and its last words tell why."""
    server = servers.Server(command, name="faults")
    try:
        server.spawn()
        try:
            status = server.process.wait(20)
        except subprocess.TimeoutExpired:
            raise Failed(f"the server runs although {words} was demanded and refused")
        check(status > 0, f"the server ended with status {status}")
        last = server.tail(1)
        check(words in last, f"its last words don't tell of {words}: {last!r}")
        return last.strip()
    finally:
        server.remove()


def io_uring_refused(options):
    command = [REFUSED, "--io-uring", "--", *options.server]
    line = serves_and_survives(command, r"pwritev2 .*; uring refused: .*(not permitted|os error 1\b)")
    kill9(command, options.rounds)
    return line


def io_uring_demanded(options):
    return does_not_start([REFUSED, "--io-uring", "--", *options.server, "-Dfalconer.walBackend=uring"], "uring")


def memory_not_lockable(options):
    """Registered buffers and the rings themselves count as locked memory; whether that is refused is the kernel's affair."""
    command = [REFUSED, "--memlock", "0", "--", *options.server]
    line = serves_and_survives(command, r"uring .*|pwritev2 .*; uring refused: ")
    kill9(command, options.rounds)
    return line


def direct_refused(options):
    command = [REFUSED, "--direct", "--", *options.server]
    line = serves_and_survives(command, r"buffered .*; uring refused: .*; pwritev2 refused: ")
    kill9(command, options.rounds)
    return line


def backend(kind):
    def run(options):
        if kind == "uring" and not io_uring_works():
            return does_not_start([*options.server, "-Dfalconer.walBackend=uring"], "uring")
        line = serves_and_survives(options.server, rf"{kind} [^;]*$", {"falconer.walBackend": kind})
        kill9([*options.server, f"-Dfalconer.walBackend={kind}"], options.rounds)
        return line
    return run


# A full disk ------------------------------------------------------------------------------------------------------

class ServerOn(servers.Server):
    """A server whose data lie on the small disk, and what it says beside it: there it can be said when the disk is full."""

    def __init__(self, disk, command, config):
        super().__init__(command, config, directory=disk.base)
        self.disk = disk

    @property
    def data(self):
        return os.path.join(self.disk.path, "data")


class Keeper:
    """A client with the shortest session: it pings and reads, and neither may ever fail or wait."""

    def __init__(self, server):
        self.connection = server.session(SESSION_MS)
        self.connection.socket.settimeout(5.0)
        check(self.connection.create("/alive", b"", flags=1).err == 0, "no ephemeral could be created")
        self.session, self.rounds, self.stop, self.error = self.connection.session, 0, False, None
        self.thread = threading.Thread(target=self.work, daemon=True)
        self.thread.start()

    def work(self):
        try:
            while not self.stop:
                self.connection.call(wire.PING, xid=wire.PING_XID)
                reply = self.connection.get("/alive")
                check(reply.err == 0 and reply.body["stat"]["ephemeralOwner"] == self.session, f"a read failed: {reply}")
                self.rounds += 1
                time.sleep(0.1)
        except Exception as error:  # noqa: BLE001: whatever it is, the test must fail with it
            self.error = error

    def check(self):
        check(self.error is None, f"a client that pings and reads noticed: {self.error!r}")

    def end(self):
        self.stop = True
        self.thread.join(10)
        self.check()


class Log:
    """What was acknowledged of one znode's values."""

    def __init__(self, connection):
        self.connection, self.acknowledged, self.last = connection, 0, b""
        check(connection.create("/big", b"").err == 0, "the znode could not be created")

    def write(self, size):
        value = b"%d:" % (self.acknowledged + 1) + b"x" * size
        reply = self.connection.set("/big", value)
        if reply.err == 0:
            self.acknowledged, self.last = self.acknowledged + 1, value
        else:
            check(reply.err == NOT_READ_ONLY, f"write {self.acknowledged + 1} was answered with {reply.err}")
        return reply.err == 0

    def audit(self, connection):
        body = connection.get("/big").body
        check(body["stat"]["version"] == self.acknowledged and body["data"] == self.last,
              f"{self.acknowledged} writes acknowledged, the server has {body['stat']['version']}: {body['data'][:20]}")


def write_until_refused(log):
    most = 2 * (DISK_MIB << 20) // VALUE
    for _ in range(most):
        if not log.write(VALUE):
            return
    raise Failed(f"{most} writes of {VALUE} bytes were taken, more than the disk holds")


def await_room(log):
    """Writes are taken again without anybody's help."""
    started = time.monotonic()
    while not log.write(10):
        check(time.monotonic() - started < RECOVERY_S, f"writes are still refused {RECOVERY_S} s after there is room")
        time.sleep(0.1)
    return time.monotonic() - started


def disk_full(options):
    disk = disks.SmallDisk(DISK_MIB)
    config = {"tickTime": 1000, "minSessionTimeout": SESSION_MS}
    server = ServerOn(disk, options.server, config)
    try:
        server.start()
        log = Log(server.session(60000))
        keeper = Keeper(server)
        disk.fill()
        write_until_refused(log)
        # Longer than the session would live without its pings, and than the server looks for room.
        until = time.monotonic() + 2 * SESSION_MS / 1000
        refused = 0
        while time.monotonic() < until:
            keeper.check()
            check(not log.write(10), "a write was taken although the disk is full")
            reply = log.connection.create("/more", b"")
            check(reply.err == NOT_READ_ONLY, f"a create was answered with {reply.err}")
            log.audit(log.connection)
            refused += 2
            time.sleep(0.05)
        check("disk is full" in server.tail(), f"the server does not say that the disk is full:\n{server.tail()}")
        disk.empty()
        took = await_room(log)
        check("has room again" in server.tail(), f"the server does not say that there is room:\n{server.tail()}")
        log.audit(log.connection)
        keeper.end()
        keeper.connection.socket.close()

        # Full again, and killed: what was acknowledged is there once there is room, if not before.
        disk.fill()
        write_until_refused(log)
        server.kill()
        disk.fill()
        server.spawn()
        try:
            status = server.process.wait(5)
            check(status > 0 and re.search("[Ss]pace|full", server.tail(1)), f"status {status}: {server.tail(1)!r}")
            start = "says so and does not start"
        except subprocess.TimeoutExpired:
            start = "starts"
            server.kill()
        disk.empty()
        server.start()
        again = server.session(60000, last_zxid=0)
        log.audit(again)
        log.connection = again
        check(log.write(10), "the first write after the restart was refused")
        return (f"{disk.kind}: {log.acknowledged} writes acknowledged, {refused} refused with -119, {keeper.rounds} pings and "
                f"reads meanwhile, writes again after {took:.1f} s; killed while full it {start}")
    finally:
        if server.process is not None:
            server.kill()
        if options.verbose:
            print(server.tail(60))
        disk.remove()


TESTS = {
    "io-uring-refused": io_uring_refused,
    "io-uring-demanded": io_uring_demanded,
    "memory-not-lockable": memory_not_lockable,
    "direct-refused": direct_refused,
    "backend-uring": backend("uring"),
    "backend-pwritev2": backend("pwritev2"),
    "backend-buffered": backend("buffered"),
    "disk-full": disk_full,
}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", help=f"comma separated: {', '.join(TESTS)}")
    parser.add_argument("--rounds", type=int, default=5, help="kill -9 rounds per way of writing")
    parser.add_argument("--verbose", action="store_true")
    parser.add_argument("server", nargs=argparse.REMAINDER)
    options = parser.parse_args()
    options.server = servers.command_from([word for word in options.server if word != "--"])
    names = options.only.split(",") if options.only else list(TESTS)
    servers.end_in_order()
    failed, not_run = [], []
    for name in names:
        started = time.monotonic()
        try:
            what = TESTS[name](options)
            print(f"  ok   {name} ({time.monotonic() - started:.1f} s): {what}", flush=True)
        except disks.NotHere as error:
            print(f"NOT RUN {name}: {error}", flush=True)
            not_run.append(name)
        except (Failed, RuntimeError, OSError, ValueError, subprocess.TimeoutExpired) as error:
            print(f"  FAIL {name}: {error}", flush=True)
            failed.append(name)
    print(f"FAIL faults: {', '.join(failed)}" if failed else f"PASS faults: {len(names) - len(not_run)} tests")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())

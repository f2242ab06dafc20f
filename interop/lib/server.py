"""Starts, kills and watches one server process for the tests.

A server command is a list of words that understands `falconerd`'s usage: `COMMAND [-Dname=value ...] zoo.cfg`. The
default is the release build; `interop/apache` has the same usage and runs the Debian package's server.
"""

import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time

import wire

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
FALCONERD = os.path.join(ROOT, "target", "release", "falconerd")
APACHE = os.path.join(ROOT, "interop", "apache")


def command_from(words):
    """The server command from a test's own arguments: nothing = the release build, one file = that program."""
    command = list(words) or [FALCONERD]
    command[0] = os.path.abspath(shutil.which(command[0]) or command[0])
    if not os.path.exists(command[0]):
        raise SystemExit(f"no server program at {command[0]} (build it: cargo build --release -p server)")
    return command


_given = set()


def free_port():
    """A port that nobody listens on, below those that the system gives to outgoing connections: one of these could have it
    while its server is down, or a caller of the dead server could reach itself."""
    try:
        with open("/proc/sys/net/ipv4/ip_local_port_range") as file:
            below = int(file.read().split()[0])
    except OSError:
        below = 32768
    for _ in range(1000):
        port = random.randrange(10000, below) if below > 11000 else 0
        with socket.socket() as s:
            try:
                s.bind(("127.0.0.1", port))
            except OSError:
                continue
            port = s.getsockname()[1]
        if port not in _given:
            _given.add(port)
            return port
    raise RuntimeError("no free port")


def end_in_order():
    """Whoever ends a test that takes too long gets what it mounted and started taken away, as when it fails."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))


class Server:
    """One server with its own directory under the system's temporary one."""

    def __init__(self, command, config=None, flags=(), name="server", directory=None):
        self.command, self.flags = command, list(flags)
        self.directory = directory or tempfile.mkdtemp(prefix=f"falconer-interop-{name}-")
        self.host, self.port = "127.0.0.1", free_port()
        self.config = {"tickTime": 2000, "maxClientCnxns": 0, "4lw.commands.whitelist": "*", "admin.enableServer": "false"}
        self.config.update(config or {})
        self.process = None

    @property
    def data(self):
        return os.path.join(self.directory, "data")

    @property
    def output(self):
        return os.path.join(self.directory, "output.log")

    def spawn(self):
        os.makedirs(self.directory, exist_ok=True)
        os.makedirs(self.data, exist_ok=True)
        path = os.path.join(self.directory, "zoo.cfg")
        with open(path, "w") as file:
            entries = dict(self.config, dataDir=self.data, clientPort=self.port, clientPortAddress=self.host)
            file.writelines(f"{key}={value}\n" for key, value in entries.items())
        with open(self.output, "ab") as out:
            self.process = subprocess.Popen(self.command + self.flags + [path], stdout=out, stderr=out,
                                            stdin=subprocess.DEVNULL, cwd=self.directory)

    def start(self, wait=60.0):
        """Starts the process and waits until it serves."""
        self.spawn()
        deadline = time.monotonic() + wait
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                raise RuntimeError(f"the server exited with {self.process.returncode}:\n{self.tail()}")
            try:
                if "Mode:" in wire.four_letter_word(self.host, self.port, "srvr", 2.0):
                    return self
            except OSError:
                pass
            time.sleep(0.02)
        raise RuntimeError(f"the server did not serve within {wait} s:\n{self.tail()}")

    def start_and_kill(self, after):
        """Starts the process and kills it `after` seconds later, wherever its start has come to."""
        self.spawn()
        try:
            self.process.wait(after)
            raise RuntimeError(f"the server exited with {self.process.returncode}:\n{self.tail()}")
        except subprocess.TimeoutExpired:
            self.kill()

    def running(self):
        return self.process is not None and self.process.poll() is None

    def outlived(self):
        """Whether the server runs on after a failed test; a dying process gets a moment to be gone."""
        try:
            self.process.wait(1.0)
            return False
        except subprocess.TimeoutExpired:
            return True

    def kill(self):
        """kill -9, and wait until the process is gone."""
        if self.running():
            os.kill(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def stop(self, wait=20.0):
        """An orderly stop; returns the exit status."""
        if self.running():
            self.process.terminate()
            try:
                self.process.wait(wait)
            except subprocess.TimeoutExpired:
                self.kill()
                raise RuntimeError(f"the server did not stop within {wait} s of SIGTERM")
        return self.process.returncode

    def wipe(self):
        """Stops without ceremony and forgets the data."""
        if self.process is not None:
            self.kill()
        shutil.rmtree(self.data, ignore_errors=True)

    def remove(self):
        if self.process is not None:
            self.kill()
        shutil.rmtree(self.directory, ignore_errors=True)

    def tail(self, lines=20):
        try:
            with open(self.output, errors="replace") as file:
                return "".join(file.readlines()[-lines:])
        except OSError:
            return ""

    def memory(self):
        """Resident bytes of the process."""
        with open(f"/proc/{self.process.pid}/status") as file:
            for line in file:
                if line.startswith("VmRSS:"):
                    return int(line.split()[1]) * 1024
        raise RuntimeError("no VmRSS")

    def open_files(self):
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))

    def connect(self, timeout=10.0):
        return wire.Connection(self.host, self.port, timeout)

    def session(self, timeout=30000, **rest):
        connection = self.connect()
        connection.connect(timeout, **rest)
        return connection

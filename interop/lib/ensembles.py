"""Several servers that form an ensemble on one machine, each its own process with its own directory."""

import os
import shutil
import tempfile
import time

import networks
import server as servers
import wire


class Member(servers.Server):
    """One server of an ensemble; the rest of its configuration is the same on all of them."""

    def __init__(self, number, command, place, directory, config):
        self.number, self.disk = number, None
        host, port, prefix = place
        super().__init__(prefix + command, config, directory=os.path.join(directory, f"server{number}"))
        self.host, self.port = host, port

    @property
    def data(self):
        """On the disk that the server was given, if it was: then its other files lie beside it."""
        return os.path.join(self.disk or self.directory, "data")

    def spawn(self):
        os.makedirs(self.data, exist_ok=True)
        with open(os.path.join(self.data, "myid"), "w") as file:
            file.write(f"{self.number}\n")
        super().spawn()

    def mode(self):
        """leader, follower, observer; None while it serves nobody or is down."""
        try:
            for line in wire.four_letter_word(self.host, self.port, "srvr", 2.0).splitlines():
                if line.startswith("Mode: "):
                    return line[6:].strip()
        except OSError:
            pass
        return None

    def monitor(self):
        text = wire.four_letter_word(self.host, self.port, "mntr", 5.0)
        return dict(line.split("\t", 1) for line in text.splitlines() if "\t" in line)


class Ensemble:
    """`commands`: for each server its command; a server's number is its place, from 1. `observers`: numbers."""

    def __init__(self, commands, observers=(), config=None, name="ensemble", network=None):
        self.directory = tempfile.mkdtemp(prefix=f"falconer-interop-{name}-")
        self.config = {"tickTime": 1000, "initLimit": 10, "syncLimit": 5}
        self.config.update(config or {})
        self.network = network or networks.Loopback()
        self.roles = {n: "observer" if n in observers else "participant" for n in range(1, len(commands) + 1)}
        self.network.lay(self.roles)
        self.members = {}
        for number, command in enumerate(commands, 1):
            config = dict(self.config, **self.network.lines(number))
            self.members[number] = Member(number, command, self.network.place(number), self.directory, config)

    def __getitem__(self, number):
        return self.members[number]

    def __iter__(self):
        return iter(self.members.values())

    def voters(self):
        return [m for n, m in self.members.items() if self.roles[n] == "participant"]

    def observers(self):
        return [m for n, m in self.members.items() if self.roles[n] == "observer"]

    def start(self, wait=60.0):
        for member in self:
            member.spawn()
        return self.wait_serving(self, wait)

    def wait_serving(self, members, wait=60.0):
        """Until each of the members serves; returns the leader among all."""
        deadline = time.monotonic() + wait
        left = list(members)
        while left:
            if time.monotonic() > deadline:
                tails = "".join(f"--- server {m.number}\n{m.tail()}" for m in left)
                raise RuntimeError(f"servers {[m.number for m in left]} serve nobody after {wait} s:\n{tails}")
            for member in left:
                if not member.running():
                    raise RuntimeError(f"server {member.number} exited with {member.process.returncode}:\n{member.tail()}")
            left = [m for m in left if m.mode() is None]
            time.sleep(0.005)
        return self.leader(wait)

    def leader(self, wait=30.0, among=None):
        deadline = time.monotonic() + wait
        while time.monotonic() < deadline:
            leaders = [m for m in among or self if m.running() and m.mode() == "leader"]
            if leaders:
                return leaders[0]
            time.sleep(0.005)
        raise RuntimeError(f"nobody leads after {wait} s")

    def have_lead(self, member, leads=True):
        """Has the member lead, or not, by restarting whoever does."""
        for _ in range(10):
            leader = self.leader()
            if (leader is member) == leads:
                return
            leader.stop()
            self.leader(among=[m for m in self.voters() if m is not leader])
            leader.spawn()
            self.wait_serving(self)
        raise RuntimeError(f"server {member.number} {'never leads' if leads else 'always leads'}")

    def stop(self):
        for member in self:
            if member.process is not None:
                member.kill()

    def remove(self):
        self.stop()
        self.network.remove()
        shutil.rmtree(self.directory, ignore_errors=True)

"""Several servers that form an ensemble on one machine, each its own process with its own directory."""

import os
import shutil
import tempfile
import time

import server as servers
import wire


class Member(servers.Server):
    """One server of an ensemble; the rest of its configuration is the same on all of them."""

    def __init__(self, number, command, lines, directory, config, flags=()):
        super().__init__(command, config, flags, directory=os.path.join(directory, f"server{number}"))
        self.number, self.lines = number, lines

    def spawn(self):
        os.makedirs(self.data, exist_ok=True)
        with open(os.path.join(self.data, "myid"), "w") as file:
            file.write(f"{self.number}\n")
        self.config.update(self.lines)
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

    def __init__(self, commands, observers=(), config=None, name="ensemble"):
        self.directory = tempfile.mkdtemp(prefix=f"falconer-interop-{name}-")
        self.config = {"tickTime": 1000, "initLimit": 10, "syncLimit": 5}
        self.config.update(config or {})
        self.lines, self.members = {}, {}
        for number, command in enumerate(commands, 1):
            role = "observer" if number in observers else "participant"
            quorum, election = servers.free_port(), servers.free_port()
            self.lines[f"server.{number}"] = f"127.0.0.1:{quorum}:{election}:{role}"
        for number, command in enumerate(commands, 1):
            self.members[number] = Member(number, command, self.lines, self.directory, dict(self.config))

    def __getitem__(self, number):
        return self.members[number]

    def __iter__(self):
        return iter(self.members.values())

    def voters(self):
        return [m for n, m in self.members.items() if self.lines[f"server.{n}"].endswith(":participant")]

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

    def leader(self, wait=30.0):
        deadline = time.monotonic() + wait
        while time.monotonic() < deadline:
            leaders = [m for m in self if m.running() and m.mode() == "leader"]
            if leaders:
                return leaders[0]
            time.sleep(0.005)
        raise RuntimeError(f"nobody leads after {wait} s")

    def stop(self):
        for member in self:
            if member.process is not None:
                member.kill()

    def remove(self):
        self.stop()
        shutil.rmtree(self.directory, ignore_errors=True)

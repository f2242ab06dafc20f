"""The network between the servers of an ensemble: where each one listens, and links that are cut and healed.

    Loopback     all servers on 127.0.0.1; nothing can be cut
    Namespaces   each server in a network namespace of its own, this process is the router between them: what is cut is
                 dropped without a word, as on a broken cable. Needs namespaces, as root or as an ordinary user
    Proxies      all servers on 127.0.0.1, one proxy for each link and direction of dialling: what is cut stays in the proxy

A cut has a direction: nothing goes from one server to another, the other way stays open. Clients are never cut off: they
reach every server, so that they can try to write through one that has lost the others.
"""

import ctypes
import json
import os
import subprocess
import sys
import time

import server as servers

CLIENT, QUORUM, ELECTION = 2181, 2888, 3888
CLONE_NEWUSER, CLONE_NEWNET, CLONE_NEWNS = 0x10000000, 0x40000000, 0x00020000
LINKS = os.path.join(os.path.dirname(os.path.abspath(__file__)), "links.py")


class Loopback:
    kind = "loopback"

    def place(self, number):
        """(host, client port, words before the server's command) of a server."""
        return "127.0.0.1", servers.free_port(), []

    def lay(self, roles):
        """Gives the servers {number: role} their peer ports."""
        self.roles = roles
        self.ports = {n: (servers.free_port(), servers.free_port()) for n in roles}

    def address(self, viewer, number):
        """Where `viewer` reaches the peer ports of a server."""
        return "127.0.0.1:%d:%d" % self.ports[number]

    def lines(self, viewer):
        """The server lines of `viewer`'s configuration."""
        return {f"server.{n}": f"{self.address(viewer, n)}:{role}" for n, role in self.roles.items()}

    def cut(self, source, target):
        raise NotImplementedError("loopback has no links that can be cut")

    def remove(self):
        pass


class Cuttable(Loopback):
    """What networks have in common whose links can be cut."""

    def __init__(self):
        self.gone = set()  # directed links that are cut: (from, to)

    def cut(self, source, target):
        if source != target and (source, target) not in self.gone:
            self.gone.add((source, target))
            self.change(source, target, True)

    def part(self, groups):
        """Servers of different groups hear nothing of each other any more."""
        for group in groups:
            for other in groups:
                if group is not other:
                    for a in group:
                        for b in other:
                            self.cut(a, b)

    def heal(self):
        for source, target in sorted(self.gone):
            self.change(source, target, False)
        self.gone.clear()


class Namespaces(Cuttable):
    kind = "a network namespace for each server"
    entered = None  # why this process is no router, or "" when it is

    @classmethod
    def enter(cls):
        """Makes this process the router, in a network namespace of its own, before it has threads. "" or why that can't be."""
        if cls.entered is None:
            cls.entered = cls.try_to_enter()
        return cls.entered

    @staticmethod
    def try_to_enter():
        libc = ctypes.CDLL(None, use_errno=True)
        user, group = os.getuid(), os.getgid()
        flags = CLONE_NEWNET if user == 0 else CLONE_NEWUSER | CLONE_NEWNET | CLONE_NEWNS
        # What can't be undone is tried out in a child.
        trial = ["unshare", "-n"] if user == 0 else ["unshare", "-r", "-n", "-m"]
        commands = ("ip link set lo up && ip link add va type veth peer name vb && ip rule add from 10.77.1.2 to 10.77.2.2 blackhole"
                    " && echo 1 > /proc/sys/net/ipv4/ip_forward && unshare -n true && exec nsenter -t $$ -n true")
        try:
            done = subprocess.run([*trial, "sh", "-c", commands], capture_output=True, text=True, timeout=20)
        except (OSError, subprocess.TimeoutExpired) as error:
            return str(error)
        if done.returncode != 0:
            return done.stderr.strip().replace("\n", "; ") or f"status {done.returncode}"
        if libc.unshare(flags) != 0:
            return os.strerror(ctypes.get_errno())
        if user != 0:
            for name, text in (("setgroups", "deny"), ("uid_map", f"0 {user} 1"), ("gid_map", f"0 {group} 1")):
                with open(f"/proc/self/{name}", "w") as file:
                    file.write(text)
        run("ip", "link", "set", "lo", "up")
        with open("/proc/sys/net/ipv4/ip_forward", "w") as file:
            file.write("1")
        return ""

    def __init__(self):
        super().__init__()
        self.holders = {}  # each keeps a namespace alive, and ends with this process

    @staticmethod
    def host(number):
        return f"10.77.{number}.2"

    def place(self, number):
        holder = subprocess.Popen(["unshare", "-n", "cat"], stdin=subprocess.PIPE)
        self.holders[number] = holder
        own = os.readlink("/proc/self/ns/net")
        deadline = time.monotonic() + 10
        while os.readlink(f"/proc/{holder.pid}/ns/net") == own:
            if holder.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"no network namespace for server {number}")
            time.sleep(0.001)
        inside = ["nsenter", "-t", str(holder.pid), "-n", "--"]
        run("ip", "link", "add", f"v{number}", "type", "veth", "peer", "name", "eth0", "netns", str(holder.pid))
        run("ip", "addr", "add", f"10.77.{number}.1/24", "dev", f"v{number}")
        run("ip", "link", "set", f"v{number}", "up")
        run(*inside, "ip", "link", "set", "lo", "up")
        run(*inside, "ip", "addr", "add", f"{self.host(number)}/24", "dev", "eth0")
        run(*inside, "ip", "link", "set", "eth0", "up")
        run(*inside, "ip", "route", "add", "default", "via", f"10.77.{number}.1")
        return self.host(number), CLIENT, inside

    def lay(self, roles):
        self.roles = roles

    def address(self, viewer, number):
        return f"{self.host(number)}:{QUORUM}:{ELECTION}"

    def change(self, source, target, cut):
        run("ip", "rule", "add" if cut else "del", "from", self.host(source), "to", self.host(target), "blackhole")

    def remove(self):
        self.heal()
        for number, holder in self.holders.items():
            subprocess.run(["ip", "link", "del", f"v{number}"], stderr=subprocess.DEVNULL)
            holder.stdin.close()
            holder.wait()


class Proxies(Cuttable):
    kind = "a proxy for each link"

    def lay(self, roles):
        super().lay(roles)
        self.through = {}  # (viewer, number) → the two ports of the proxy between them
        links = []
        for viewer in roles:
            for number in roles:
                if viewer != number:
                    ports = (servers.free_port(), servers.free_port())
                    self.through[viewer, number] = ports
                    links += [(viewer, number, port, target) for port, target in zip(ports, self.ports[number])]
        self.process = subprocess.Popen([sys.executable, LINKS, json.dumps(links)], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                        text=True)
        self.hear()

    def hear(self):
        answer = self.process.stdout.readline()
        if answer != "ok\n":
            raise RuntimeError(f"the proxy of the links says {answer!r}")

    def address(self, viewer, number):
        return "127.0.0.1:%d:%d" % (self.ports[number] if viewer == number else self.through[viewer, number])

    def change(self, source, target, cut):
        self.process.stdin.write(f"{'cut' if cut else 'join'} {source} {target}\n")
        self.process.stdin.flush()
        self.hear()

    def remove(self):
        self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()


def run(*command):
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip()}")


def cuttable(wanted="auto"):
    """(a network whose links can be cut, one line that says which it is)."""
    if wanted != "proxies":
        why_not = Namespaces.enter()
        if why_not == "":
            return Namespaces(), Namespaces.kind
        if wanted == "namespaces":
            raise RuntimeError(f"network namespaces are refused: {why_not}")
        return Proxies(), f"{Proxies.kind} (network namespaces are refused: {why_not})"
    return Proxies(), Proxies.kind

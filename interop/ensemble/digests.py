"""A follower whose state is silently another one than that of the others: it is found out, stops, and comes back with theirs."""

import os
import re
import shutil
import subprocess
import urllib.request
import zlib

import server as servers
import wire
from clients import Load, demand, equal_trees

PATH, RIGHT, WRONG = "/digests", b"the right value", b"the wrong value"


def snapshot_of(member):
    """(zxid, bytes) of a snapshot in Apache's format, from the admin interface."""
    with open(member.output) as file:
        port = re.findall(r"the admin interface is on http://127\.0\.0\.1:(\d+)", file.read())[-1]
    request = urllib.request.Request(f"http://127.0.0.1:{port}/commands/snapshot", headers={"Authorization": "digest super:any"})
    with urllib.request.urlopen(request, timeout=30) as reply:
        return int(reply.headers["last_zxid"], 16), reply.read()


def changed(snapshot):
    """The snapshot with another value in it and sums that fit: only the digest tells."""
    demand(snapshot.count(RIGHT) == 1, "the value is in the snapshot once")
    def is_seal(at):
        return int.from_bytes(snapshot[at:at + 8], "big") == zlib.adler32(snapshot[:at])
    seals = [m.start() - 8 for m in re.finditer(rb"\x00\x00\x00\x01/", snapshot) if is_seal(m.start() - 8)]
    demand(seals, "the snapshot has sums")
    out = bytearray(snapshot.replace(RIGHT, WRONG))
    for at in seals:
        out[at:at + 8] = zlib.adler32(out[:at]).to_bytes(8, "big")
    return bytes(out)


def replace(member, zxid, snapshot):
    """The member's directory becomes one of Apache's with this snapshot, which its next start takes over."""
    for name in ("log", "snapshot", "version-2"):
        shutil.rmtree(os.path.join(member.data, name), ignore_errors=True)
    os.remove(os.path.join(member.data, "superblock"))
    home = os.path.join(member.data, "version-2")
    os.mkdir(home)
    with open(os.path.join(home, f"snapshot.{zxid:x}"), "wb") as file:
        file.write(snapshot)
    for name in ("acceptedEpoch", "currentEpoch"):
        with open(os.path.join(home, name), "w") as file:
            file.write(str(zxid >> 32))


def wrong_state(s):
    """A follower with one wrong value is stopped by the word of the others, and takes their state at its next start."""
    config = {"snapCount": 400, "admin.enableServer": "true", "admin.serverPort": 0}
    e = s.ensemble([s.command] * 3, config=config)
    leader = e.start()
    connection = leader.session()
    demand(connection.create(PATH, RIGHT).err == wire.OK, "create")
    connection.close_session()
    load = Load(e, s.options.seed)
    load.wait(3000)
    doubts = [m.number for m in e if "digest of this server's state" in m.tail(1000)]
    demand(not doubts, f"{doubts} doubt states that are right")
    victim = next(m for m in e if m is not leader)
    zxid, snapshot = snapshot_of(victim)
    victim.stop()
    replace(victim, zxid, changed(snapshot))
    victim.spawn()
    try:
        status = victim.process.wait(30)
    except subprocess.TimeoutExpired:
        demand(False, f"it goes on:\n{victim.tail()}")
    demand(status == 26 and "differs from the one that a majority has" in victim.tail(200), f"it ends with {status}:\n{victim.tail()}")
    load.wait(300)
    demand(all(m.running() for m in e if m is not victim), "the others go on")
    alone = servers.Server(victim.command, directory=victim.directory)
    alone.spawn()
    demand(alone.process.wait(30) == 24, f"alone it serves a state that counts for nothing:\n{alone.tail()}")
    victim.spawn()
    e.wait_serving(e)
    demand("counts for nothing" in victim.tail(200), f"its own history counts:\n{victim.tail()}")
    load.wait(300)
    load.end()
    load.audit(e)
    # What it counted at its start was its own, wrong state.
    s.say(f"stopped with 26 and back with {equal_trees(list(e), digests=False)} equal znodes; {load.acknowledged()} writes")

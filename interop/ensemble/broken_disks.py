"""Servers of an ensemble whose disk is slow or full."""

import statistics
import time

import disks
import wire
from clients import Load, demand, equal_trees, wait_for, with_retry

# How much longer each durable write takes, s: some hundred times what it should.
SLOW = 0.2
# Room for the segments in use and in preparation (64 MiB each), and little more.
SMALL_MIB = 400
VALUE = bytes(900_000)
# So many of them are written to the others while the disk is full: more bytes than a server may have in flight.
MORE = 100

# What servers tell.
FULL = "disk is full"
SLOW_LOG = "this server's log has been slow"
HANDS_OVER = "leadership is handed over: this server's log is full"


def latency(load, writers, since):
    """The median of what was acknowledged since then, in seconds."""
    return statistics.median(b - a for w in writers for a, b in w.acks if a >= since)


def slow_disk(s):
    """A disk becomes slow, of a follower and then of the leader, which hands over."""
    slow = [disks.SlowDisk() for _ in range(3)]
    try:
        e = s.ensemble([d.prefix + s.command + d.flags for d in slow])
        leader = e.start()
        load = Load(e, s.options.seed, writers=3, pinned=True)
        load.wait_each(load.writers)

        follower = next(m for m in e if m is not leader)
        slow[follower.number - 1].set(SLOW)
        # A follower shows only what it has on stable storage, so its own clients wait for its disk; nobody else does.
        load.wait_each([load.pinned[follower.number]])
        since = time.monotonic()
        elsewhere = [load.pinned[m.number] for m in e if m is not follower]
        load.wait(100, writers=elsewhere)
        load.wait_each(load.writers)
        others, own = latency(load, elsewhere, since), latency(load, [load.pinned[follower.number]], since)
        demand(others < own / 2, f"clients of the others wait {others * 1000:.0f} ms for a follower's disk")
        demand(own >= SLOW, f"the follower shows after {own * 1000:.0f} ms what its disk has after {SLOW * 1000:.0f} ms")
        demand(leader.mode() == "leader", "another server leads, since a follower's disk is slow")
        slow[follower.number - 1].set(0.0)
        load.wait_each(load.writers)

        slow[leader.number - 1].set(SLOW)
        since = time.monotonic()
        # Everybody waits for its disk, for as long as it takes it to be sure; then another one leads.
        rest = [m for m in e if m is not leader]
        demand(wait_for(lambda: any(m.mode() == "leader" for m in rest), 60.0), "it leads on, slow as its disk is")
        took = time.monotonic() - since
        elsewhere = [load.pinned[m.number] for m in rest]
        load.wait_each(load.writers, wait=60.0)
        gap = load.longest_gap(since)
        since = time.monotonic()
        load.wait(100, writers=elsewhere)
        after = latency(load, elsewhere, since)
        demand(after < SLOW / 2, f"clients of the others wait {after * 1000:.0f} ms for the disk of one that has handed over")
        demand(said(leader, SLOW_LOG) == 1, f"it hands over without a word:\n{leader.tail(60)}")
        slow[leader.number - 1].set(0.0)
        load.wait_each(load.writers)
        load.end()
        load.audit(e)
        s.say(f"each durable write {SLOW * 1000:.0f} ms longer on a follower: clients of the others {others * 1000:.1f} ms;"
              f" on the leader: another one leads after {took:.1f} s, longest gap {gap * 1000:.0f} ms, then {after * 1000:.1f} ms;"
              f" {load.acknowledged()} writes, {equal_trees(list(e))} znodes equal")
        # What waits for the slow disk first, and then for the election: nobody waits for a limit.
        limit = e.config["tickTime"] * e.config["syncLimit"] / 1000
        demand(gap < limit, f"nobody could write for {gap:.1f} s")
    finally:
        if s.current is not None:
            s.current.stop()
        for disk in slow:
            disk.remove()


def full_disk(s):
    """A follower's disk becomes full; the others go on, and it comes back when there is room."""
    disk = disks.SmallDisk(SMALL_MIB)
    try:
        e = s.ensemble([s.command] * 3)
        victim = e[3]
        victim.disk = disk.path
        e.start()
        load = Load(e, s.options.seed, writers=3, pause=0.002, members=[e[1], e[2]])
        load.wait_each(load.writers)
        e.have_lead(victim, False)
        told = fill(e, victim, disk, load)
        load.end()
        load.audit(e)
        s.say(f"{disk.kind}: {told}; {load.acknowledged()} writes, {equal_trees(list(e))} znodes equal")
    finally:
        if s.current is not None:
            s.current.stop()
        disk.remove()


def fill(e, victim, disk, load):
    """Fills its disk and demands service of the others, then of all when there is room again."""
    marks = said(victim, FULL)
    disk.fill()
    blob = f"/blob{marks}"
    full_at = None
    for number in range(300):
        # Writes that it can't log any more are no reason to wait for it, however much they are.
        if full_at is None and (said(victim, FULL) > marks or not victim.running()):
            full_at = number
        if full_at is not None and number == full_at + MORE:
            break
        with_retry(lambda: put(e[1 + number % 2], blob))
    else:
        demand(False, f"{300 * len(VALUE)} bytes were written, and its disk is not full:\n{victim.tail()}")
    load.wait_each(load.writers)
    since = time.monotonic()
    load.wait(100)
    waited = latency(load, load.writers, since)
    disk.empty()
    how = "goes on without it"
    if not victim.running():
        how = f"ends with {victim.process.returncode}"
        victim.spawn()
    e.wait_serving(e)
    demand(wait_for(lambda: with_retry(lambda: put(victim, blob)) == wire.OK, 30.0), "writes are refused though its disk has room")
    load.wait_each(load.writers)
    return f"{how}, clients of the others wait {waited * 1000:.1f} ms"


def full_leader(s):
    """The leader's disk becomes full; another one leads, and the full one follows when there is room."""
    disk = disks.SmallDisk(SMALL_MIB)
    try:
        e = s.ensemble([s.command] * 3)
        victim = e[3]
        victim.disk = disk.path
        e.start()
        e.have_lead(victim)
        rest = [m for m in e if m is not victim]
        disk.fill()
        full_at, written = None, 0
        for number in range(300):
            code = with_retry(lambda: put(rest[number % 2], "/blob"))
            written += code == wire.OK
            if full_at is None and said(victim, FULL):
                full_at = time.monotonic()
            if full_at is not None and code == wire.OK and any(m.mode() == "leader" for m in rest):
                break
        else:
            demand(False, f"{written} values were written, and it leads on:\n{victim.tail()}")
        took = time.monotonic() - full_at
        demand(said(victim, HANDS_OVER) == 1, f"it did not hand over:\n{victim.tail()}")
        limit = e.config["tickTime"] * e.config["syncLimit"] / 1000
        load = Load(e, s.options.seed, writers=3, members=rest)
        load.wait(100)
        disk.empty()
        e.wait_serving(e)
        demand(victim.mode() == "follower", f"it is {victim.mode()} when there is room again")
        load.wait_each(load.writers)
        load.end()
        load.audit(e)
        s.say(f"{disk.kind}: another one leads and writes {took:.1f} s after the leader's disk is full; {load.acknowledged()} writes,"
              f" {equal_trees(list(e))} znodes equal")
        demand(took < limit, f"nobody could write for {took:.1f} s")
    finally:
        if s.current is not None:
            s.current.stop()
        disk.remove()


def put(member, path):
    """Writes the large value through one server; returns the error code."""
    connection = member.session()
    connection.create(path, b"")
    reply = connection.set(path, VALUE)
    connection.close_session()
    return reply.err


def said(member, what):
    """How often its log has that."""
    with open(member.output, errors="replace") as file:
        return file.read().count(what)

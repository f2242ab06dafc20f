"""Ensembles of real processes: they elect, serve, survive what is done to them, and nothing acknowledged is lost.

    ensemble.py [--only NAME[,NAME...]] [--rounds N] [--partition-rounds N] [--links KIND] [--seed S] [--keep] [server-command...]

The given server (the release build) forms ensembles of its own and with Apache's. Clients write meanwhile and audit at the
end (clients.py); what is done to servers is here, to links in partitions.py, to disks in broken_disks.py, to the peer ports
in strangers.py; kinds of sessions are in sessions.py.
"""

import argparse
import os
import random
import signal
import statistics
import sys
import time
import traceback

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
import disks  # noqa: E402
import ensembles  # noqa: E402
import networks  # noqa: E402
import server as servers  # noqa: E402
import wire  # noqa: E402
from broken_disks import full_disk, full_leader, slow_disk  # noqa: E402
from clients import Failed, Load, demand, equal_trees, wait_for  # noqa: E402
from digests import wrong_state  # noqa: E402
from failover import kills, rolling_restart  # noqa: E402
from partitions import partitions  # noqa: E402
from scenarios import chosen  # noqa: E402
from sessions import local_sessions, read_only  # noqa: E402
from strangers import strangers  # noqa: E402


class Scenario:
    def __init__(self, command, options):
        self.command, self.options, self.current = command, options, None
        self.apache = [servers.APACHE]
        self.said = []

    def say(self, text):
        self.said.append(text)

    def network(self):
        """(a network whose links can be cut, which one it is)."""
        return networks.cuttable(self.options.links)

    def ensemble(self, commands, **rest):
        self.current = ensembles.Ensemble(commands, name="ensemble", **rest)
        return self.current


def serve(s):
    """Three voters and an observer: everything through everyone."""
    e = s.ensemble([s.command] * 4, observers=(4,))
    leader = e.start()
    modes = sorted(m.mode() for m in e)
    demand(modes == ["follower", "follower", "leader", "observer"], f"modes are {modes}")
    connections = {m.number: m.session(6000) for m in e}
    for number, connection in connections.items():
        path = f"/s{number}"
        demand(connection.create(path, b"x").err == wire.OK, f"create through {number}")
        demand(connection.create(f"/eph{number}", b"", flags=1).err == wire.OK, f"ephemeral through {number}")
        demand(connection.get(path).body["data"] == b"x", f"own write through {number}")
        demand(connection.create(path, b"x").err == wire.NODE_EXISTS, f"the error reaches the client of {number}")
        ops = [(wire.CREATE, wire.create_record(f"{path}/a")), (wire.DELETE, wire.string("/none") + wire.i32(-1))]
        connection.multi(ops)
        demand(connection.exists(f"{path}/a").err == wire.NO_NODE, f"half of a multi through {number}")
    for number, connection in connections.items():
        demand(connection.call(wire.SYNC, wire.string("/")).err == wire.OK, f"sync through {number}")
        for other in connections:
            demand(connection.get(f"/s{other}").err == wire.OK, f"{number} lacks what was written through {other}")
        for member in e:
            config = connection.get("/zookeeper/config").body["data"].decode()
            demand(f"server.{member.number}=" in config and config.endswith("version=0"), f"config of {number}: {config!r}")
    # A watch at one server hears of a write at another.
    watcher, writer = connections[4], connections[leader.number]
    watcher.get("/s1", watch=True)
    demand(writer.set("/s1", b"y").err == wire.OK, "set")
    demand(wait_for(lambda: (watcher.ping(), watcher.events)[1]), "the observer's watch hears nothing")
    # A session moves: the same one, on each server in turn, and the old connection is closed.
    one = connections[1]
    session, password = one.handshake.session, one.handshake.password
    for member in e:
        moved = member.connect()
        shake = moved.connect(6000, session, password, 0)
        demand(shake.session == session, f"session {session:#x} does not move to {member.number}: {shake.session:#x}")
        demand(moved.set("/s1", b"z").err == wire.OK, f"a write of the moved session through {member.number}")
        last = moved
    # Sessions that nobody keeps end, with their ephemerals; the others stay.
    for number in (2, 3, 4):
        connections[number].drop()
    def ephemerals():
        last.ping()
        return [n for n in (1, 2, 3, 4) if last.exists(f"/eph{n}").err == wire.OK]
    demand(wait_for(lambda: ephemerals() == [1], 20.0), f"ephemerals left: {ephemerals()}")
    monitor = leader.monitor()
    demand(monitor["zk_server_state"] == "leader" and "zk_peer_state" in monitor, f"mntr of the leader: {monitor}")
    last.close_session()
    s.say(f"{equal_trees(list(e))} znodes equal on 4 servers")


def failover(s):
    """kill -9 of the leader under load, again and again."""
    e = s.ensemble([s.command] * 3)
    e.start()
    load = Load(e, s.options.seed)
    took = [t * 1000 for t in kills(e, load, s.options.rounds)]
    load.wait(300)
    load.end()
    load.audit(e)
    median, worst = statistics.median(took), max(took)
    s.say(f"{len(took)} times from kill -9 of the leader to the next acknowledged write: median {median:.0f} ms, worst {worst:.0f} ms;"
          f" {load.acknowledged()} writes, {equal_trees(list(e))} znodes equal")
    # run-failover.sh measures; here nobody may have waited for a time-out, the shortest of which is a tick.
    tick = e.config["tickTime"]
    demand(median < tick, f"a fail-over takes {median:.0f} ms, longer than a tick: {[round(t) for t in took]}")


def killing(voters):
    def scenario(s):
        e = s.ensemble([s.command] * (voters + 1), observers=(voters + 1,), config={"snapCount": 500})
        e.start()
        load = Load(e, s.options.seed)
        rng = random.Random(f"{s.options.seed}/{voters}")
        deeds = [followers, everybody, wiped, leader_and_observer]
        for round_ in range(s.options.rounds):
            load.wait(100)
            victims, wipe = deeds[round_ % len(deeds)](e, rng)
            for member in victims:
                member.kill()
            if len(victims) < len(list(e)):
                load.wait(50)
            for member in victims:
                if wipe:
                    member.wipe()
                member.spawn()
            e.wait_serving(e)
        load.wait(300)
        load.end()
        load.audit(e)
        s.say(f"{s.options.rounds} rounds, {load.acknowledged()} writes, {equal_trees(list(e))} znodes equal")
    scenario.__name__ = f"killing{voters}"
    scenario.__doc__ = f"{voters} voters and an observer: kill -9 of as many as can be missed, of all at once, and a server that loses its disk."
    return scenario


def followers(e, rng):
    return rng.sample([m for m in e.voters() if m is not e.leader()], (len(e.voters()) - 1) // 2), False


def everybody(e, rng):
    return list(e), False


def wiped(e, rng):
    return [rng.choice([m for m in e if m is not e.leader()])], True


def leader_and_observer(e, rng):
    return e.observers() + [e.leader()], False


def minority(s):
    """A minority acknowledges nothing, and comes back."""
    e = s.ensemble([s.command] * 3)
    leader = e.start()
    load = Load(e, s.options.seed)
    load.wait(50)
    followers = [m for m in e if m is not leader]
    for member in followers:
        member.kill()
    gone = time.monotonic()
    demand(wait_for(lambda: leader.mode() is None, 30.0), "a leader without a quorum goes on")
    time.sleep(1.0)
    wrong = load.begun_and_acknowledged(gone)
    demand(not wrong, f"a minority acknowledged {len(wrong)} writes")
    for member in followers:
        member.spawn()
    e.wait_serving(e)
    load.wait(50)
    load.end()
    load.audit(e)
    s.say(f"{load.acknowledged()} writes, {equal_trees(list(e))} znodes equal")


def hand_over(s):
    """A rolling restart by SIGTERM under load."""
    e = s.ensemble([s.command] * 3)
    e.start()
    load = Load(e, s.options.seed, writers=6)
    gap = rolling_restart(e, load, 1)[0] * 1000
    load.wait(300)
    load.end()
    load.audit(e)
    s.say(f"longest gap in writes {gap:.0f} ms; {load.acknowledged()} writes, {equal_trees(list(e))} znodes equal")
    # As above: who waits for a leader that has gone waits for syncLimit ticks.
    limit = e.config["tickTime"] * e.config["syncLimit"]
    demand(gap < limit, f"nobody could write for {gap:.0f} ms")


def laggard(s):
    """A follower that stands still under load neither fills the leader's memory nor holds up the others, and comes back."""
    e = s.ensemble([s.command] * 3, config={"tickTime": 2000, "syncLimit": 30})
    leader = e.start()
    followers = [m for m in e if m is not leader]
    load = Load(e, s.options.seed, writers=1, through=leader)
    load.wait(20)
    before = leader.memory()
    os.kill(followers[0].process.pid, signal.SIGSTOP)
    # Half a gigabyte of proposals, twice what may wait for it.
    connection, blob = leader.session(), bytes(1000000)
    demand(connection.create("/blob", blob).err == wire.OK, "create")
    for _ in range(540):
        demand(connection.set("/blob", blob).err == wire.OK, "set")
    grown = (leader.memory() - before) >> 20
    demand("cut off" in leader.tail(200), f"it was not cut off:\n{leader.tail(30)}")
    demand(grown < 700, f"the leader grew by {grown} MiB")
    os.kill(followers[0].process.pid, signal.SIGCONT)
    came_back = "reading a snapshot is done"
    demand(wait_for(lambda: came_back in followers[0].tail(50)), "it gets no snapshot")
    e.wait_serving(e)
    load.end()
    load.audit(e)
    s.say(f"cut off after 256 MiB, the leader grew by {grown} MiB; {equal_trees(list(e))} znodes equal")


def apache_observer(s):
    """An observer beside Apache: by SNAP and by DIFF, under load, forwarding writes."""
    e = s.ensemble([s.apache, s.apache, s.command], observers=(3,))
    first = [e[1], e[2]]
    for member in first:
        member.spawn()
    e.wait_serving(first)
    load = Load(e, s.options.seed, writers=3, pause=0.002)
    load.wait(200)
    observer = e[3]
    observer.spawn()
    e.wait_serving([observer])
    demand("reading a snapshot is done" in observer.tail(60), f"it did not join by SNAP:\n{observer.tail(60)}")
    forwards(s, e, observer)
    for round_ in range(3):
        load.wait(150)
        observer.kill()
        load.wait(60)
        observer.spawn()
        e.wait_serving([observer])
        forwards(s, e, observer)
    snaps = open(observer.output).read().count("reading a snapshot is done")
    demand(snaps == 1, f"{snaps} snapshots: after kill -9 it should come back by DIFF")
    load.wait(100)
    load.end()
    load.audit(e)
    s.say(f"joined by SNAP, came back 3 times by DIFF; {load.acknowledged()} writes, {equal_trees(list(e))} znodes equal")


def forwards(s, e, member):
    """Writes through one member are seen by it, and by the others after a sync."""
    connection = member.session()
    path = f"/through{member.number}"
    reply = connection.create(path, b"1")
    demand(reply.err in (wire.OK, wire.NODE_EXISTS), f"create through {member.number}: {reply}")
    demand(connection.set(path, b"2").err == wire.OK, f"set through {member.number}")
    demand(connection.get(path).body["data"] == b"2", f"own write through {member.number}")
    for other in e:
        if other.running() and other.mode() is not None:
            elsewhere = other.session()
            demand(elsewhere.call(wire.SYNC, wire.string(path)).err == wire.OK, "sync")
            demand(elsewhere.get(path).body["data"] == b"2", f"{other.number} lacks the write through {member.number}")
            elsewhere.close_session()
    demand(connection.delete(path).err == wire.OK, "delete")
    connection.close_session()


def apache_follower(s):
    """A voter beside two of Apache's, one of which leads: it follows, dies, comes back, and stands in for a dead one."""
    e = s.ensemble([s.command, s.apache, s.apache])
    leader = e.start()
    demand(leader.number != 1, "the smallest id leads a blank ensemble")
    load = Load(e, s.options.seed, writers=3, pause=0.002)
    load.wait(200)
    for _ in range(3):
        e[1].kill()
        load.wait(60)
        e[1].spawn()
        e.wait_serving([e[1]])
        forwards(s, e, e[1])
    # With one of Apache's gone, every write needs ours.
    follower = next(m for m in e if m.mode() == "follower" and m.number != 1)
    follower.kill()
    load.wait(200)
    follower.spawn()
    e.wait_serving(e)
    load.end()
    load.audit(e)
    s.say(f"{load.acknowledged()} writes, {equal_trees(list(e))} znodes equal")


def apache_followers(s):
    """A leader of Apache's followers, killed and replaced, and leading again."""
    e = s.ensemble([s.apache, s.apache, s.command])
    e.start()
    load = Load(e, s.options.seed, writers=3, pause=0.002)
    led = 0
    for _ in range(4):
        load.wait(150)
        leader = e.leader()
        led += leader.number == 3
        leader.kill()
        load.wait(100)
        leader.spawn()
        e.wait_serving(e)
    load.wait(100)
    load.end()
    load.audit(e)
    demand(led > 0, "it never led")
    s.say(f"led {led} of 4 times; {load.acknowledged()} writes, {equal_trees(list(e))} znodes equal")


SCENARIOS = [serve, failover, killing(3), killing(5), minority, hand_over, partitions(3), partitions(5), slow_disk, full_disk, full_leader, strangers,
             laggard, apache_observer, apache_follower, apache_followers, local_sessions, read_only, wrong_state]


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--only", default="")
    parser.add_argument("--rounds", type=int, default=10, help="kills in each scenario that kills")
    parser.add_argument("--partition-rounds", type=int, default=1, help="how often each way of cutting links has its turn")
    parser.add_argument("--links", choices=["auto", "namespaces", "proxies"], default="auto", help="what partitions are made with")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--keep", action="store_true", help="leave the directories of a failed scenario")
    options, rest = parser.parse_known_args()
    scenarios = chosen(SCENARIOS, options.only)
    command = servers.command_from(rest)
    if options.links != "proxies":
        # Before there are threads.
        networks.Namespaces.enter()
    servers.end_in_order()
    failures = []
    for scenario in scenarios:
        s = Scenario(command, options)
        began = time.monotonic()
        try:
            scenario(s)
            print(f"ok   {scenario.__name__:18} {time.monotonic() - began:5.1f} s  {'; '.join(s.said)}", flush=True)
        except disks.NotHere as error:
            print(f"NOT RUN {scenario.__name__}: {error}", flush=True)
        except Exception as error:  # noqa: BLE001: each failure is told, the next scenario runs
            failures.append(scenario.__name__)
            print(f"FAIL {scenario.__name__:18} {time.monotonic() - began:5.1f} s  {type(error).__name__}: {error}", flush=True)
            if not isinstance(error, Failed):
                traceback.print_exc()
            for member in s.current or ():
                state = "runs" if member.running() else f"ended with {member.process.returncode}" if member.process else "not started"
                print(f"  -- server {member.number}, {state}\n" + "".join("     " + line for line in member.tail(25).splitlines(True)))
        finally:
            if s.current is not None:
                if scenario.__name__ in failures and options.keep:
                    s.current.stop()
                    print(f"  kept: {s.current.directory}")
                else:
                    s.current.remove()
    if failures:
        raise SystemExit(f"FAILED ensemble: {', '.join(failures)}")
    print("PASS ensemble")


if __name__ == "__main__":
    main()

"""How long nobody can write: after kill -9 of the leader, at a planned hand-over, during a rolling restart.

    failover.py [--rounds N] [--seed S] [--only KIND,...]

Three servers on the loopback address with the default tick (2000 ms), six clients that write without a pause and go to
another server as soon as theirs fails them. What is measured is what they see. Plays Apache's servers and the given ones
(the release build) in turns, the same way, audits both, and prints a table.
"""

import argparse
import os
import statistics
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
import ensembles  # noqa: E402
import server as servers  # noqa: E402
from clients import Load, demand, equal_trees  # noqa: E402

WRITERS = 6
DEFAULTS = {"tickTime": 2000, "initLimit": 10, "syncLimit": 5}


def kills(e, load, rounds):
    """Seconds from kill -9 of the leader to the next acknowledged write, each time."""
    took = []
    for _ in range(rounds):
        load.wait_each(load.writers, 60.0)
        leader = e.leader()
        leader.kill()
        took.append(load.first_after(time.monotonic(), 60.0))
        leader.spawn()
        e.wait_serving(e)
    return took


def hand_overs(e, load, rounds):
    """The longest time without an acknowledged write around each SIGTERM of the leader, in seconds."""
    took = []
    for _ in range(rounds):
        load.wait_each(load.writers, 60.0)
        leader = e.leader()
        since = time.monotonic()
        leader.stop()
        load.first_after(time.monotonic(), 60.0)
        took.append(load.longest_gap(since))
        leader.spawn()
        e.wait_serving(e)
    return took


def rolling_restart(e, load, rounds):
    """The longest time without an acknowledged write while every server is restarted, the leader last, in seconds."""
    took = []
    for _ in range(rounds):
        load.wait_each(load.writers, 60.0)
        since = time.monotonic()
        leader = e.leader()
        for member in [m for m in e if m is not leader] + [leader]:
            status = member.stop()
            demand(status in (0, 143, -15), f"server {member.number} does not stop in order: {status}")
            load.wait_each(load.writers, 60.0)
            member.spawn()
            e.wait_serving(e)
        load.wait_each(load.writers, 60.0)
        took.append(load.longest_gap(since))
    return took


KINDS = {
    "kill -9 of the leader": (kills, 1),
    "hand-over (SIGTERM of the leader)": (hand_overs, 1),
    "rolling restart": (rolling_restart, 0.3),
}


def measure(command, rounds, seed, kinds):
    """{kind: times}, of a fresh ensemble."""
    e = ensembles.Ensemble([command] * 3, config=DEFAULTS, name="failover")
    try:
        e.start()
        load = Load(e, seed, writers=WRITERS, pause=0.0)
        load.wait(500)
        took = {kind: KINDS[kind][0](e, load, max(1, round(rounds * KINDS[kind][1]))) for kind in kinds}
        load.end()
        load.audit(e)
        # Apache 3.8.0 counts digests that differ after a restart though the trees are equal.
        equal_trees(list(e), digests=command[0] != servers.APACHE)
        return took
    finally:
        e.remove()


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=10, help="kills and hand-overs; rolling restarts are a third of it")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", default="", help=f"some of: {', '.join(KINDS)}")
    options, rest = parser.parse_known_args()
    kinds = list(filter(None, options.only.split(","))) or list(KINDS)
    if not set(kinds) <= set(KINDS):
        parser.error(f"--only takes some of: {', '.join(KINDS)}")
    servers.end_in_order()
    sides = {"Apache": [servers.APACHE], "Falconer": servers.command_from(rest)}
    took = {}
    for kind in kinds:
        for name, command in sides.items():
            took[name, kind] = measure(command, options.rounds, options.seed, [kind])[kind]
            print(f"{name}, {kind}: {' '.join(f'{t * 1000:.0f}' for t in took[name, kind])} ms", flush=True)
    print("\n| longest time without an acknowledged write | | times | median | worst |\n|---|---|---|---|---|")
    for kind in kinds:
        for name in sides:
            times = [t * 1000 for t in took[name, kind]]
            print(f"| {kind} | {name} | {len(times)} | {statistics.median(times):.0f} ms | {max(times):.0f} ms |")


if __name__ == "__main__":
    main()

"""Links between servers that are cut: whole, one way, and so that nobody has a majority."""

import random
import time

from clients import Load, demand, equal_digests, equal_trees, wait_for


class Cut:
    """What a fault has cut. `silent`: the members that may acknowledge nothing until it is healed. `leader`: whether
    another one has to lead meanwhile (None: nobody can, False: the same goes on)."""

    def __init__(self, silent, leader):
        self.silent, self.leader = silent, leader


def others(e, *members):
    return [m for m in e if m not in members]


def leader_alone(e, rng):
    """The leader hears nobody and nobody hears it."""
    leader = e.leader()
    e.network.part([[leader.number], [m.number for m in others(e, leader)]])
    return Cut([leader], True), leader


def leader_deaf(e, rng):
    """The leader hears nobody, the others hear it: also its votes, which are the best if its id is the highest."""
    leader = e.voters()[-1]
    e.have_lead(leader)
    for member in others(e, leader):
        e.network.cut(member.number, leader.number)
    return Cut([leader], True), leader


def leader_mute(e, rng):
    """Nobody hears the leader, it hears the others."""
    leader = e.leader()
    for member in others(e, leader):
        e.network.cut(leader.number, member.number)
    return Cut([leader], True), leader


def minority_alone(e, rng):
    """As many followers as are no majority, and the observers, have only each other."""
    leader = e.leader()
    followers = [m for m in e.voters() if m is not leader]
    minority = rng.sample(followers, (len(e.voters()) - 1) // 2) + e.observers()
    e.network.part([[m.number for m in minority], [m.number for m in others(e, *minority)]])
    return Cut(minority, False), leader


def link_of_follower(e, rng):
    """A follower and the leader lose each other, both still have all the others."""
    leader = e.leader()
    follower = rng.choice([m for m in e.voters() if m is not leader])
    e.network.part([[leader.number], [follower.number]])
    return Cut([follower], False), leader


def nobody_has_a_majority(e, rng):
    """Groups of which none is a majority."""
    leader = e.leader()
    size = (len(e.voters()) - 1) // 2
    voters = [m.number for m in e.voters()]
    rng.shuffle(voters)
    groups = [voters[i:i + size] for i in range(0, len(voters), size)]
    groups[0] += [m.number for m in e.observers()]
    e.network.part(groups)
    return Cut(list(e), None), leader


FAULTS = [leader_alone, leader_deaf, leader_mute, minority_alone, link_of_follower, nobody_has_a_majority]


def partitions(voters):
    def scenario(s):
        network, kind = s.network()
        # Servers notice what is cut after syncLimit ticks, which no standstill of the machine should take; sessions outlive
        # that by far.
        config = {"tickTime": 500, "syncLimit": 5, "initLimit": 20, "maxSessionTimeout": 60000}
        e = s.ensemble([s.command] * (voters + 1), observers=(voters + 1,), config=config, network=network)
        e.start()
        load = Load(e, s.options.seed, writers=3, pause=0.005, pinned=True)
        load.wait_each(load.writers)
        rng = random.Random(f"{s.options.seed}/{voters}")
        gaps = {}
        for round_ in range(s.options.partition_rounds):
            for fault in rng.sample(FAULTS, len(FAULTS)) if round_ else FAULTS:
                gap = one(e, load, rng, fault)
                gaps[fault.__name__] = max(gaps.get(fault.__name__, 0.0), gap)
        load.wait(300)
        load.end()
        load.audit(e)
        writes, znodes = load.acknowledged(), equal_trees(list(e))
        s.say(f"{kind}: {s.options.partition_rounds} × {len(FAULTS)} faults; longest time without a write:"
              f" {', '.join(f'{name} {gap:.1f} s' for name, gap in gaps.items() if gap)}; {writes} writes,"
              f" {znodes} znodes and {equal_digests(list(e))} digests equal")
    scenario.__name__ = f"partitions{voters}"
    scenario.__doc__ = f"{voters} voters and an observer, whose links are cut and healed."
    return scenario


def one(e, load, rng, fault):
    """Cuts, demands what must hold meanwhile, heals; returns how long nothing was acknowledged, in seconds."""
    try:
        return survive(e, load, rng, fault)
    except Exception as error:
        raise type(error)(f"{fault.__name__}: {error}") from error


def survive(e, load, rng, fault):
    cut, before = fault(e, rng)
    at = time.monotonic()
    rest = [m for m in e if m not in cut.silent]
    silent = [load.pinned[m.number] for m in cut.silent]
    if cut.leader is not None:
        # The majority serves, with the leader that it should have.
        load.wait_each([load.pinned[m.number] for m in rest])
        leader = e.leader(among=rest)
        demand((leader is not before) == cut.leader, f"{before.number} led before, now {leader.number} does")
        # The silent one is given up (syncLimit), and so is a vote for one that can't be reached, which nobody waits for as for a slow
        # synchronisation (initLimit).
        took, limit = time.monotonic() - at, e.config["tickTime"] * e.config["initLimit"] / 1000
        demand(took < limit, f"the majority serves after {took:.1f} s only, as long as initLimit")
    # Who is cut off notices, and sends its clients away.
    for member in cut.silent:
        demand(wait_for(lambda: member.mode() is None, 30.0), f"server {member.number} goes on as {member.mode()}")
    if cut.leader is None:
        time.sleep(1.0)
    else:
        load.wait(50, writers=load.roaming)
    healed = time.monotonic()
    # What was begun before the cut may have had its majority by then.
    wrong = load.begun_and_acknowledged(at, healed, silent)
    demand(not wrong, f"{len(wrong)} writes were acknowledged without a majority, the first {wrong[:1]}, cut at {at}")
    gap = load.longest_gap(at, healed) if cut.leader is not None else 0.0
    e.network.heal()
    e.wait_serving(e)
    load.wait_each(load.writers)
    return gap

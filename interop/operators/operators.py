"""What operators see and do of an ensemble: who is ready, and a restore of all of it.

    operators.py [--only NAME[,NAME...]] [--keep] [server-command...]

The given server (the release build) forms ensembles of three, and of three and an observer.
"""

import argparse
import http.client
import json
import os
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
import ensembles  # noqa: E402
import server as servers  # noqa: E402
import wire  # noqa: E402

MAY = {"Authorization": "digest a:b"}


class Failed(Exception):
    pass


def demand(condition, message):
    if not condition:
        raise Failed(message)


def wait_for(what, wait=30.0):
    deadline = time.monotonic() + wait
    while True:
        found = what()
        if found:
            return found
        demand(time.monotonic() < deadline, f"{what.__doc__ or what} did not come about within {wait} s")
        time.sleep(0.02)


class Answer:
    def __init__(self, response):
        self.status, self.body = response.status, response.read()
        self.headers = dict(response.getheaders())

    def json(self):
        return json.loads(self.body)


def ask(member, path, method="GET", body=None, headers=None, timeout=60.0):
    connection = http.client.HTTPConnection("127.0.0.1", member.config["admin.serverPort"], timeout=timeout)
    try:
        connection.request(method, path, body=body, headers=headers or {})
        return Answer(connection.getresponse())
    finally:
        connection.close()


def form(command, count=3, observer=True):
    """An ensemble with an admin interface on each member; the last one observes, if `observer`."""
    total = count + observer
    base = {"admin.enableServer": "true", "admin.serverAddress": "127.0.0.1", "admin.rateLimiterIntervalInMS": 0}
    observers = (total,) if observer else ()
    e = ensembles.Ensemble([command] * total, observers=observers, config=base, name="operators")
    for member in e:
        member.config["admin.serverPort"] = servers.free_port()
        if member.number in observers:
            member.config["peerType"] = "observer"
    return e


def write_state(member):
    session = member.session()
    for i in range(50):
        session.create(f"/n{i}", b"value %d" % i)
    session.create("/n0/child", b"")
    session.set("/n1", b"second")
    session.close_session()


def state(member):
    """Data and versions of all znodes outside /zookeeper."""
    found = {}
    session = member.session()

    def visit(path):
        reply = session.get(path)
        if reply.err == 0:
            data, stat = reply.body["data"], reply.body["stat"]
            found[path] = (data, stat["version"], stat["czxid"], stat["mzxid"])
            for child in session.children(path).body["children"]:
                if path != "/" or child != "zookeeper":
                    visit(path.rstrip("/") + "/" + child)

    session.call(wire.SYNC, wire.string("/"))
    visit("/")
    session.close_session()
    return found


def comes_to(member, wanted, view=lambda found: found):
    """Waits until a member shows the state; one that is on its way there serves nobody, and cuts connections."""
    deadline = time.monotonic() + 30.0
    while True:
        try:
            found = view(state(member))
        except (OSError, EOFError, wire.Closed) as error:
            found = error
        if found == wanted:
            return
        demand(time.monotonic() < deadline, f"server {member.number} shows another state: {found}")
        time.sleep(0.02)


def readiness(s):
    e = s.ensemble(observer=False)
    leader = e.start()
    write_state(leader)
    rest = [m for m in e if m is not leader]
    demand(all(ask(m, "/readyz").status == 200 for m in e), "all are ready")
    # Without a quorum.
    leader.kill()
    rest[0].kill()
    last = rest[1]

    def unready():
        """a member without a quorum says that it is not ready"""
        return ask(last, "/readyz").status == 503

    wait_for(unready)
    found = ask(last, "/readyz").json()
    demand(found["ready"] is False and "quorum" in found["reason"], f"{found}")
    demand(ask(last, "/livez").status == 200, "alive all the same")
    demand("not currently serving" in ask(last, "/commands/server_stats").json()["error"], "commands say so")
    demand(ask(last, "/commands/ruok").json()["error"] is not None, "ruok needs a server")
    demand(ask(last, "/commands/zabstate").json()["zabstate"] == "election", "zabstate during the election")
    demand(ask(last, "/commands/monitor").status == 200, "monitor needs no server")
    demand(ask(last, "/metrics").status == 200, "metrics")
    demand(ask(last, "/commands/restore", "POST", b"x", MAY).json()["error"] is not None, "no restore now")
    # A member that comes back says how far its start has got, and is ready once it serves.
    rest[0].spawn()
    wait_for(lambda: last.mode() is not None)
    wait_for(lambda: ask(last, "/readyz").status == 200 and ask(rest[0], "/readyz").status == 200)
    s.say("503 with the reason while there is no quorum, 200 behind it")


def restore(s):
    e = s.ensemble()
    leader = e.start()
    write_state(leader)
    follower = next(m for m in e if m is not leader and m.number != 4)
    before = state(leader)
    taken = ask(follower, "/commands/snapshot", headers=MAY)
    demand(taken.status == 200, f"{taken.status}")
    session = leader.session()
    session.set("/n1", b"third")
    session.delete("/n2")
    session.create("/later", b"")
    refused = ask(follower, "/commands/restore", "POST", taken.body, MAY)
    demand(refused.status == 409 and f"server {leader.number}" in refused.json()["error"], f"{refused.json()}")
    demand(ask(leader, "/commands/restore", "POST", taken.body[:-3], MAY).status == 500, "a truncated body")
    demand(state(leader) != before, "it changes nothing")
    began = time.monotonic()
    answer = ask(leader, "/commands/restore", "POST", taken.body, MAY)
    demand(answer.status == 200, f"{answer.status} {answer.body}")
    took = time.monotonic() - began
    last = answer.json()["last_zxid"]
    for member in e:
        comes_to(member, before)
    session = e.leader().session()
    reply = session.create("/behind", b"")
    demand(reply.err == 0 and reply.zxid > last, "life goes on behind it")
    for member in e:
        member.kill()
    e.start()
    for member in e:
        found = state(member)
        demand(found.pop("/behind", None) is not None and found == before, f"server {member.number} after kill -9")
        demand(member.monitor()["zk_digest_mismatches_count"] == "0", "digests")
    # Another ensemble, whose zxids are far behind those of the snapshot: seeded.
    for member in e:
        member.kill()
    e.start()
    final = ask(e.leader(), "/commands/snapshot", headers=MAY).body
    other = s.ensemble(observer=False)
    fresh = other.start()
    demand(ask(fresh, "/commands/restore", "POST", final, MAY).status == 200, "seeding")
    values = lambda found: {path: entry[:2] for path, entry in found.items() if path != "/behind"}  # noqa: E731
    for member in other:
        comes_to(member, values(before), values)
    for member in other:
        member.kill()
    other.start()
    demand(all(len(state(m)) == len(before) + 1 for m in other), "seeded, after kill -9")
    s.say(f"restored in {took * 1000:.0f} ms, on all four, also after kill -9 of all")


SCENARIOS = [readiness, restore]


class Scenario:
    def __init__(self, command):
        self.command, self.said, self.ensembles = command, [], []

    def say(self, text):
        self.said.append(text)

    def ensemble(self, **rest):
        made = form(self.command, **rest)
        self.ensembles.append(made)
        return made


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--only", default="")
    parser.add_argument("--keep", action="store_true", help="leave the directories of a failed scenario")
    options, rest = parser.parse_known_args()
    wanted = set(filter(None, options.only.split(",")))
    unknown = wanted - {f.__name__ for f in SCENARIOS}
    if unknown:
        raise SystemExit(f"no scenario {unknown}; there are {[f.__name__ for f in SCENARIOS]}")
    command = servers.command_from(rest)
    failures = []
    for scenario in SCENARIOS:
        if wanted and scenario.__name__ not in wanted:
            continue
        s = Scenario(command)
        began = time.monotonic()
        try:
            scenario(s)
            print(f"ok   {scenario.__name__:12} {time.monotonic() - began:5.1f} s  {'; '.join(s.said)}", flush=True)
        except Exception as error:  # noqa: BLE001: each failure is told, the next scenario runs
            failures.append(scenario.__name__)
            print(f"FAIL {scenario.__name__:12} {time.monotonic() - began:5.1f} s  {type(error).__name__}: {error}", flush=True)
            for member in [m for e in s.ensembles for m in e]:
                print(f"  -- server {member.number}\n" + "".join("     " + line for line in member.tail(25).splitlines(True)))
        finally:
            for e in s.ensembles:
                if scenario.__name__ in failures and options.keep:
                    e.stop()
                    print(f"  kept: {e.directory}")
                else:
                    e.remove()
    if failures:
        raise SystemExit(f"FAILED operators: {', '.join(failures)}")
    print("PASS operators")


if __name__ == "__main__":
    main()

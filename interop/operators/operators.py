"""What operators see and do of an ensemble: the admin interface of its members, the tools, stalls, who is ready, a restore.

    operators.py [--only NAME[,NAME...]] [--keep] [server-command...]

The given server (the release build) forms ensembles of three, and of three and an observer. What is demanded of the commands
was seen of an ensemble of Apache ZooKeeper 3.8.0 with the same four members.
"""

import argparse
import http.client
import json
import os
import signal
import subprocess
import sys
import threading
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
import ensembles  # noqa: E402
import server as servers  # noqa: E402
import wire  # noqa: E402
from scenarios import chosen, demand  # noqa: E402

MAY = {"Authorization": "digest a:b"}
FALCONER = os.path.join(servers.ROOT, "target", "release", "falconer")


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


def form(command, count=3, observer=True, config=None):
    """An ensemble with an admin interface on each member; the last one observes, if `observer`."""
    total = count + observer
    base = {"admin.enableServer": "true", "admin.serverAddress": "127.0.0.1", "admin.rateLimiterIntervalInMS": 0}
    base.update(config or {})
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


# What Apache 3.8.0's members answer (observed), where the answer does not depend on the release: the names of the fields, by
# role. A value of None: whatever it is.
LEADER = ["is_leader", "leader_id", "leader_ip", "command", "error"]
ZABSTATE = ["myid", "is_leader", "quorum_address", "election_address", "client_address", "voting", "last_zxid", "zab_epoch",
            "zab_counter", "zabstate", "command", "error"]
VIEW = {"server_addresses", "election_addresses", "client_address", "learner_type"}
STATS = ["version", "read_only", "server_stats", "client_response"]
BY_ROLE = {
    "leader": {"learners", "synced_followers", "synced_non_voting_followers", "synced_observers", "pending_syncs",
               "leader_uptime", "last_proposal_size", "max_proposal_size", "min_proposal_size", "quorum_size"},
    "follower": {"synced_observers", "quorum_size"},
    "observer": {"quorum_size"},
}
OBSERVER = {"remote_socket_address", "sid", "established", "queued_packets", "queued_packets_size", "packets_received",
            "packets_sent", "requests", "last_zxid"}


def check_member(member, leader):
    """Fields and values of the commands about an ensemble."""
    get = lambda name: ask(member, f"/commands/{name}").json()  # noqa: E731
    here = member.number == leader.number
    role = "leader" if here else "observer" if member.number == 4 else "follower"
    found = get("leader")
    demand(list(found) == LEADER, f"leader: {list(found)}")
    demand((found["is_leader"], found["leader_id"], found["leader_ip"]) == (here, leader.number, "127.0.0.1"), f"{found}")
    found = get("zabstate")
    demand(list(found) == ZABSTATE, f"zabstate: {list(found)}")
    demand((found["myid"], found["is_leader"], found["voting"], found["zabstate"])
           == (member.number, here, role != "observer", "broadcast"), f"{found}")
    demand(int(found["last_zxid"], 16) == found["zab_epoch"] << 32 | found["zab_counter"] and found["zab_epoch"] > 0, f"{found}")
    view = get("voting_view")["current_config"]
    demand(sorted(view) == ["1", "2", "3"] and all(set(v) == VIEW for v in view.values()), f"{view}")
    demand(view["1"]["server_addresses"][0].startswith("127.0.0.1:") and view["1"]["learner_type"] == "participant", f"{view}")
    demand(get("configuration")["server_id"] == member.number, "server_id")
    found = get("observers")
    demand(list(found) == ["synced_observers", "observers", "command", "error"], f"{found}")
    if here:
        demand(found["synced_observers"] == 1 and len(found["observers"]) == 1, f"{found}")
        demand(set(found["observers"][0]) == OBSERVER and found["observers"][0]["sid"] == 4, f"{found}")
    found = get("server_stats")
    wanted = STATS + (["proposal_stats"] if here else []) + ["node_count", "command", "error"]
    demand(list(found) == wanted, f"server_stats of a {role}: {list(found)}")
    demand(found["server_stats"]["server_state"] == role, f"{found['server_stats']}")
    if here:
        demand(set(found["proposal_stats"]) == {"last_buffer_size", "min_buffer_size", "max_buffer_size"}, f"{found}")
        demand(found["proposal_stats"]["max_buffer_size"] > 0, f"{found}")
    found = get("monitor")
    demand(found["server_state"] == role, found["server_state"])
    doing = {"leader": "leading", "follower": "following", "observer": "observing"}[role]
    demand(found["peer_state"] == f"{doing} - broadcast", f"{found.get('peer_state')}")
    for key in BY_ROLE[role]:
        demand(key in found, f"a {role} lacks {key}")
    demand(found["quorum_size"] == 3, f"{found['quorum_size']}")
    if here:
        demand((found["learners"], found["synced_followers"], found["synced_observers"]) == (3, 2, 1), f"{found}")
    else:
        demand("learners" not in found, "only a leader has learners")
    demand(found["looking_count"] >= 1 and found["cnt_election_time"] >= 1, "it has looked for a leader")
    if role == "follower":
        demand(found["cnt_follower_sync_time"] >= 1, "it was synchronised")
        demand(found["learner_proposal_received_count"] > 0 and found["learner_commit_received_count"] > 0, "proposals")
    demand(found["commit_count"] >= 50, f"commit_count of a {role}: {found['commit_count']}")
    demand(found["cnt_unavailable_time"] >= 1, "it was unavailable before it served")
    if here:
        demand(found["cnt_quorum_ack_latency"] >= 50 and found["cnt_leader_unavailable_time"] >= 1, "leader's times")
        others = [n for n in (1, 2, 3) if n != member.number]
        demand(all(found[f"cnt_{n}_ack_latency"] >= 50 for n in others), f"{[k for k in found if 'ack_latency' in k]}")
        # A proposal and its COMMIT for each write; an observer gets INFORM alone. Nothing stands still here.
        for n, least in [(n, 100) for n in others] + [(4, 50)]:
            demand(found[f"cnt_{n}_learner_handler_qp_size"] >= least, f"packets for {n}: {found[f'cnt_{n}_learner_handler_qp_size']}")
            demand(found[f"cnt_{n}_learner_handler_qp_time_ms"] >= least and f"p99_{n}_learner_handler_qp_time_ms" in found,
                   f"their times: {found[f'cnt_{n}_learner_handler_qp_time_ms']}")
    else:
        demand(not any("learner_handler" in key for key in found), "only a leader has learners")


def fields(s):
    e = s.ensemble()
    leader = e.start()
    write_state(leader)
    for member in e:
        wait_for(lambda: ask(member, "/readyz").status == 200)
        demand(len(state(member)) >= 51, "the observer and the followers show what was written")
        check_member(member, leader)
        page = ask(member, "/metrics").body.decode()
        demand("\nquorum_size 3.0" in page, "Prometheus")
        demand("NaN" not in page, "NaN")
        for stage in ("append", "persist", "commit", "apply"):
            count = float(page.split(f'falconer_stage_seconds_count{{stage="{stage}"}} ')[1].split("\n")[0])
            demand(count >= 50, f"server {member.number} counted {count} records in the stage {stage}")
    page = ask(leader, "/metrics").body.decode()
    for name in ("ack_latency", "learner_handler_qp_size", "learner_handler_qp_time_ms"):
        demand(f'\n{name}{{key="' in page, f"{name} by server")
    live = ask(leader, "/api/live").json()
    demand(sorted(m["id"] for m in live["members"]) == [1, 2, 3, 4] and all(m["ok"] for m in live["members"]), f"{live['members']}")
    refused = ask(leader, "/commands/orst")
    demand(refused.status == 401, f"orst without a credential: {refused.status}")
    demand(ask(leader, "/commands/orst", headers=MAY).json()["error"] is None, "orst")
    s.say("four members, each with Apache's fields for its role, and its times by stage")


def falconer(*arguments):
    found = subprocess.run([FALCONER, *arguments], capture_output=True, text=True, timeout=60)
    demand(found.returncode in (0, 1), f"{arguments}: {found.returncode} {found.stderr}")
    return found.stdout


def tools(s):
    """status, doctor and the shell's top see all of it through one member, whose four-letter words tell little."""
    e = s.ensemble(config={"4lw.commands.whitelist": "srvr"})
    for member in e:
        for other in e:
            member.config[f"server.{other.number}"] += f";127.0.0.1:{other.port}"
    leader = e.start()
    write_state(leader)
    ports = ",".join(str(m.config["admin.serverPort"]) for m in e)
    one = f"127.0.0.1:{next(iter(e)).port}"
    found = json.loads(falconer("status", "-s", one, "--admin", ports, "--json"))
    demand(len(found["servers"]) == 4 and all(x["state"] == "serving" for x in found["servers"]), f"{found}")
    demand(sorted(x["id"] for x in found["servers"]) == [1, 2, 3, 4], f"{[x['id'] for x in found['servers']]}")
    demand(all(x["live"]["backend"] and x["monitor"]["znode_count"] > 50 for x in found["servers"]), "monitor and page of each")
    demand(all(len(x["live"]["stage_times"]) == 9 for x in found["servers"]), "times by stage")
    text = falconer("status", "-s", one, "--admin", ports, "-l", "-t")
    for wanted in ("4 of 4 servers serve", f"127.0.0.1:{leader.port} leads", "observer", "persist", "log and disk", "/n0", "verdict"):
        demand(wanted in text, f"status lacks {wanted}: {text}")
    less = json.loads(falconer("status", "-s", one, "--admin", str(servers.free_port()), "--json"))
    demand(len(less["servers"]) == 1 and less["servers"][0]["live"] is None, "without the admin port it is one server")
    checks = {f["check"] for f in json.loads(falconer("doctor", "-s", one, "--admin", ports, "--json"))["findings"]}
    demand({"log-backend", "server-up", "one-leader"} <= checks, f"{checks}")
    # A line for each event, and one for the command.
    said = falconer("shell", "-s", f"127.0.0.1:{leader.port}", "--json", "top", "-a", str(leader.config["admin.serverPort"]))
    [top] = [line for line in map(json.loads, said.splitlines()) if line.get("command") == "top"]
    demand(any(n["name"] == "/n0" and "outstanding" in n for n in top["namespaces"]), f"{top}")
    demand(top["clients"][0]["address"] == "127.0.0.1" and top["top_sessions"], f"{top}")
    # A member that serves nobody says why on its admin port.
    for member in e:
        if member is not leader:
            member.kill()
    lonely = f"127.0.0.1:{leader.port}"

    def told():
        """status tells that the last member has no quorum, and why"""
        found = json.loads(falconer("status", "-s", lonely, "--admin", ports, "--json"))["servers"]
        return len(found) == 1 and found[0]["state"] == "not serving" and "quorum" in (found[0]["why"] or "")

    wait_for(told)
    s.say("status, doctor and top show four members through the admin port of one")


class Load:
    """Clients that write, and one that reads, each in a thread of its own."""

    def __init__(self, member, name):
        self.stop, self.threads = False, []
        for work in (lambda x: x.set(name, b"more"), lambda x: x.set(name, b"less"), lambda x: x.get("/")):
            session = member.session(timeout=20000)
            session.create(name)
            self.threads.append(threading.Thread(target=self.run, args=(session, work), daemon=True))
        for thread in self.threads:
            thread.start()

    def run(self, session, work):
        try:
            while not self.stop:
                work(session)
        except (OSError, EOFError, wire.Closed):
            pass

    def end(self):
        self.stop = True
        for thread in self.threads:
            thread.join(20)


def stalls(s):
    """What requests waited for is named: the followers by their leader, the leader by its followers."""
    e = s.ensemble(observer=False)
    leader = e.start()
    others = [m for m in e if m is not leader]
    warnings = lambda member: ask(member, "/api/live").json()["warnings"]  # noqa: E731

    def stop(members, seconds=1.5):
        for member in members:
            member.process.send_signal(signal.SIGSTOP)
        time.sleep(seconds)
        for member in members:
            member.process.send_signal(signal.SIGCONT)

    load = Load(leader, "/by-the-leader")
    try:
        stop(others)

        def followers_named():
            """the leader puts the wait down to its followers"""
            return any(": a peer: " in w and any(f"server {m.number} (" in w for m in others) for w in warnings(leader))

        wait_for(followers_named)
    finally:
        load.end()
    demand(all(m.mode() is not None for m in e), "nobody was given up")
    load = Load(others[0], "/by-a-follower")
    try:
        stop([leader])

        def leader_named():
            """a follower puts the wait down to its leader"""
            return any(f": a peer: writes waited for server {leader.number}, which leads" in w for w in warnings(others[0]))

        wait_for(leader_named)
    finally:
        load.end()

    def owned():
        """the leader says of itself that it was not run"""
        return any("this process was not run for" in w for w in warnings(leader))

    wait_for(owned)
    s.say("followers and leader that stood still for 1.5 s are named by those who waited")


def readiness(s):
    e = s.ensemble(observer=False)
    leader = e.start()
    write_state(leader)
    rest = [m for m in e if m is not leader]
    reader = rest[0]
    reader.flags = ["-Dreadonlymode.enabled=true"]
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
    # A server that serves readers without a quorum is not ready; what Apache's commands show of it is no member of an ensemble.
    last.kill()

    def reads_only():
        """a member without a quorum serves readers"""
        return reader.mode() == "read-only"

    wait_for(reads_only)
    found = ask(reader, "/readyz")
    demand(found.status == 503 and "may read" in found.json()["reason"] and found.json()["state"] == "read-only", f"{found.body}")
    get = lambda name: ask(reader, f"/commands/{name}").json()  # noqa: E731
    demand(get("is_read_only")["read_only"] is True and get("server_stats")["read_only"] is True, "it says that it is read-only")
    demand(get("zabstate")["zabstate"] == "" and get("zabstate")["voting"] is False, f"{get('zabstate')}")
    demand(get("voting_view")["current_config"] == {} and get("leader")["error"] is not None, f"{get('leader')}")
    demand(any("may read" in w for w in ask(reader, "/api/live").json()["warnings"]), "its page warns")
    demand(ask(reader, "/commands/restore", "POST", b"x", MAY).json()["error"] is not None, "no restore there")
    s.say("503 with the reason while there is no quorum, also from a server that serves readers; 200 behind it")


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


SCENARIOS = [fields, tools, stalls, readiness, restore]


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
    scenarios = chosen(SCENARIOS, options.only)
    command = servers.command_from(rest)
    failures = []
    for scenario in scenarios:
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

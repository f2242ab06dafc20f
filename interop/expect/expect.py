"""What clients see of 3.9.5 where older Apache versions differ, and of time: checked for itself, without a second server.

    expect.py [server-command...]

Every row of the side-by-side exceptions (`sidebyside/exceptions.py`) has its counterpart here, so that what that
comparison lets pass is demanded somewhere. The Debian package's 3.8.0 fails the checks marked `since 3.9` or `since
3.8.x`; that is what they are for.
"""

import os
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
import server as servers  # noqa: E402
import wire  # noqa: E402

MIN_TIMEOUT = 2000
TICK = 500


class Wrong(Exception):
    pass


def want(got, wanted, what):
    if got != wanted:
        raise Wrong(f"{what}: got {got}, wanted {wanted}")


def path(value):
    return wire.string(value)


def settled_events(connection):
    """All events up to now: a ping's reply stands behind them."""
    connection.ping()
    events, connection.events = connection.events, []
    return [(wire.EVENT_NAMES.get(e.kind, e.kind), e.path) for e in events]


def event_carries_the_zxid_of_its_change(s, base):
    """since 3.9.0"""
    one, two = s.session(), s.session()
    one.create(base)
    one.get(base, watch=True)
    change = two.set(base, b"x").zxid
    one.ping()
    want([e.zxid for e in one.events], [change], "zxid of an event")
    one.events.clear()
    one.call(wire.SET_WATCHES, wire.i64(0) + wire.strings([base]) + wire.strings([]) * 2, xid=wire.SET_WATCHES_XID)
    want([e.zxid for e in one.events], [-1], "zxid of an event that setWatches makes up for")


def exists_asks_for_read(s, base):
    """since 3.8.4 and 3.9.2"""
    one, two = s.session(), s.session()
    one.create(base, entries=[(30, "world", "anyone")])
    want(two.exists(base, watch=True).err, wire.NO_AUTH, "exists without READ")
    one.call(wire.SET_ACL, path(base) + wire.acl(wire.OPEN_ACL) + wire.i32(-1))
    one.set(base, b"x")
    want(settled_events(two), [], "a refused exists leaves no watch")


def events_are_filtered_by_read(s, base):
    """since 3.8.4 and 3.9.2"""
    one, two = s.session(), s.session()
    one.create(base)
    two.get(base, watch=True)
    one.call(wire.SET_ACL, path(base) + wire.acl([(30, "world", "anyone")]) + wire.i32(-1))
    one.set(base, b"x")
    want(settled_events(two), [], "an event about an unreadable node")
    one.call(wire.SET_ACL, path(base) + wire.acl(wire.OPEN_ACL) + wire.i32(-1))
    one.set(base, b"y")
    want(settled_events(two), [], "the filtered event used the watch up")


def undecodable_writes_take_no_zxid(s, base):
    """since 3.9.0"""
    one = s.session()
    before = one.ping().zxid
    want(one.call(wire.CREATE, b"\0\0\0\5/ab").err, wire.MARSHALLING_ERROR, "an undecodable create")
    want(one.ping().zxid, before, "zxid after an undecodable create")
    want(one.call(wire.MULTI, b"\0\0\0\1\0").err, wire.MARSHALLING_ERROR, "an undecodable multi")
    want(one.ping().zxid, before + 1, "zxid after an undecodable multi")
    want(one.delete("/none/x").zxid, before + 2, "a failed write takes a zxid")


def watches_are_checked_exactly(s, base):
    """since 3.9.0"""
    one, two = s.session(), s.session()

    def check(connection, where, kind, op=wire.CHECK_WATCHES):
        return connection.call(op, path(where) + wire.i32(kind)).err

    one.create(base)
    one.call(wire.ADD_WATCH, path(base) + wire.i32(1))
    want([check(one, base, kind) for kind in (1, 2, 3, 4, 5)],
         [wire.NO_WATCHER, wire.NO_WATCHER, 0, wire.NO_WATCHER, 0], "kinds of a recursive watch")
    want(check(one, base + "/x", 3), wire.NO_WATCHER, "a recursive watch of an ancestor")
    want(check(two, base, 3), wire.NO_WATCHER, "another client's watch")
    one.call(wire.ADD_WATCH, path(base) + wire.i32(0))
    want([check(one, base, kind) for kind in (4, 5)], [0, 0], "both persistent kinds on one path")
    want(check(one, base, 1, wire.REMOVE_WATCHES), wire.NO_WATCHER, "removing a child watch that is not there")
    want(check(one, base, 5, wire.REMOVE_WATCHES), 0, "removing the recursive watch")
    want([check(one, base, kind) for kind in (4, 5)], [0, wire.NO_WATCHER], "what is left")


def watch_modes_are_a_set(s, base):
    """since 3.9.0"""
    one, two = s.session(), s.session()
    one.create(base)
    two.call(wire.ADD_WATCH, path(base) + wire.i32(0))
    two.get(base, watch=True)
    one.set(base, b"1")
    one.set(base, b"2")
    want(settled_events(two), [("NodeDataChanged", base)] * 2, "a standard watch beside a persistent one")
    two.get(base, watch=True)
    want(two.call(wire.REMOVE_WATCHES, path(base) + wire.i32(4)).err, 0, "removing the persistent one")
    one.set(base, b"3")
    one.set(base, b"4")
    want(settled_events(two), [("NodeDataChanged", base)], "the standard one stays")


def creates_in_a_multi_answer_with_stat(s, base):
    """since 3.8.2"""
    one = s.session()
    reply = one.multi([
        (wire.CREATE, wire.create_record(base)), (wire.CREATE2, wire.create_record(base + "/a", b"abc")),
        (wire.CREATE_CONTAINER, wire.create_record(base + "/b", flags=4)),
        (wire.CREATE_TTL, wire.create_record(base + "/c", flags=5) + wire.i64(600000))])
    results = reply.body["results"]
    want([kind for kind, _, _ in results], [wire.CREATE] + [wire.CREATE2] * 3, "types of the results")
    for (_, _, body), length in zip(results[1:], (3, 0, 0)):
        stat = body["stat"]
        want((stat["czxid"], stat["mzxid"], stat["pzxid"]), (reply.zxid,) * 3, "zxids in the Stat")
        want((stat["ephemeralOwner"], stat["dataLength"], stat["version"]), (0, length, 0), "the rest of the Stat")


def malformed_members_fail_the_multi(s, base):
    """since 3.9.0"""
    one = s.session()
    before = one.create(base).zxid
    first = (wire.SET_DATA, path(base) + wire.buffer(b"new") + wire.i32(-1))
    for what, op, flags, entries, zxids in (
            ("unknown flags", wire.CREATE, 9, wire.OPEN_ACL, 1),
            ("no ACL list", wire.CREATE, 0, None, 0),
            ("unknown flags and no ACL list", wire.CREATE2, -1, None, 1),
            ("flags of a TTL", wire.CREATE, 5, wire.OPEN_ACL, 1),
            ("flags of a TTL", wire.CREATE_CONTAINER, 6, wire.OPEN_ACL, 1),
            ("flags of a TTL and no ACL list", wire.CREATE2, 6, None, 0)):
        record = wire.create_record(base + "/x", flags=flags, entries=entries)
        want(one.multi([first, (op, record)]).err, wire.MARSHALLING_ERROR, f"a multi with {what}")
        before += zxids
        want(one.ping().zxid, before, f"zxid after a multi with {what}")
    want(one.get(base).body["data"], b"", "nothing of it was done")


def flags_speak_in_a_multi(s, base):
    one = s.session()
    one.create(base)

    def kind(op, flags, more=b""):
        (result,) = one.multi([(op, wire.create_record(base + "/x", flags=flags) + more)]).body["results"]
        one.delete(base + "/x")
        return result[0]

    want(kind(wire.CREATE_CONTAINER, 0), wire.CREATE2, "createContainer with plain flags")
    want(kind(wire.CREATE, 4), wire.CREATE2, "a create with a container's flags")
    want(kind(wire.CREATE_TTL, 5, wire.i64(1000000)), wire.CREATE2, "createTTL")
    want(kind(wire.CREATE_TTL, 0, wire.i64(77)), wire.CREATE, "createTTL with plain flags")


def the_configuration_counts_from_zero(s, base):
    """on a server alone"""
    stat = s.session().get("/zookeeper/config").body["stat"]
    want((stat["version"], stat["aversion"]), (0, -1), "versions of the configuration's znode")


def check_outside_a_multi_is_refused(s, base):
    """since 3.8.1"""
    one = s.session()
    one.post(wire.CHECK, path("/") + wire.i32(-1))
    reply = one.next()
    want((reply.err, reply.zxid), (wire.UNIMPLEMENTED, -1), "check outside a multi")
    try:
        one.next()
        raise Wrong("the connection stays open")
    except wire.Closed:
        pass


def addresses_of_version_six_are_acls(s, base):
    """since 3.9"""
    one = s.session()
    for who in ("::1", "fe80::/10"):
        want(one.create(base + who.replace("/", "-").replace(":", "."), entries=[(31, "ip", who)]).err, 0, f"ACL ip:{who}")


def sessions_expire_late_never_early(s, base):
    watcher, mortal = s.session(), s.session(MIN_TIMEOUT)
    want(mortal.handshake.timeout, MIN_TIMEOUT, "the negotiated timeout")
    mortal.create(base, flags=1)
    mortal.create(base + "-child-of-another", flags=1)
    watcher.exists(base, watch=True)
    watcher.exists(base + "-child-of-another", watch=True)
    touched = time.monotonic()
    mortal.ping()
    id_and_password = mortal.session, mortal.handshake.password
    watcher.socket.settimeout(30)
    watcher.next()
    silent = time.monotonic() - touched
    if silent < MIN_TIMEOUT / 1000:
        raise Wrong(f"a session of {MIN_TIMEOUT} ms expired after {silent * 1000:.0f} ms of silence")
    want(len(settled_events(watcher)), 2, "events of an expired session's ephemerals")
    try:
        mortal.next()
        raise Wrong("an expired session's connection got a frame")
    except wire.Closed:
        pass
    again = s.connect()
    want(again.connect(10000, *id_and_password).session, 0, "taking up an expired session")
    # One that pings lives on.
    lively = s.session(MIN_TIMEOUT)
    lively.create(base, flags=1)
    for _ in range(8):
        time.sleep(MIN_TIMEOUT / 1000 / 3)
        lively.ping()
    want(watcher.exists(base).err, 0, "a session that pings")
    lively.close_session()
    want(watcher.exists(base).err, wire.NO_NODE, "a closed session's ephemeral")


def a_wrong_password_harms_nobody(s, base):
    one, two = s.session(), s.session()
    one.create(base, flags=1)
    want(s.connect().connect(10000, one.session, b"\1" * 16).session, 0, "a wrong password")
    want(two.exists(base).err, 0, "the ephemeral behind it")
    again = s.connect()
    want(again.connect(10000, one.session, one.handshake.password).session, one.session, "the right password")


def an_event_precedes_the_reply_that_shows_it(s, base):
    one, two = s.session(), s.session()
    one.create(base)
    for number in range(200):
        two.get(base, watch=True)
        two.log.clear()
        one.post(wire.SET_DATA, path(base) + wire.buffer(str(number).encode()) + wire.i32(-1))
        while True:
            reply = two.get(base)
            if reply.body["data"] == str(number).encode():
                break
        want(sum(isinstance(item, wire.Event) for item in two.log), 1, "events before the reply that shows the change")
        while one.expected:
            one.next()
        two.events.clear()


def events_of_a_multi_come_in_order(s, base):
    one, two = s.session(), s.session()
    one.create(base)
    two.call(wire.ADD_WATCH, path(base) + wire.i32(1))
    one.multi([(wire.CREATE, wire.create_record(base + "/a")), (wire.SET_DATA, path(base) + wire.buffer(b"1") + wire.i32(-1)),
               (wire.CREATE, wire.create_record(base + "/a/b")), (wire.DELETE, path(base + "/a/b") + wire.i32(-1))])
    want(settled_events(two), [("NodeCreated", base + "/a"), ("NodeDataChanged", base), ("NodeCreated", base + "/a/b"),
                               ("NodeDeleted", base + "/a/b")], "events of a multi")


def four_letter_words_answer(s, base):
    words = {word: wire.four_letter_word(s.host, s.port, word) for word in ("srvr", "stat", "ruok", "mntr", "conf", "isro", "wchs")}
    want(words["ruok"], "imok", "ruok")
    want(words["isro"], "rw", "isro")
    for word in ("srvr", "stat"):
        lines = words[word].splitlines()
        if not lines[0].startswith("Zookeeper version: ") or "Mode: standalone" not in lines:
            raise Wrong(f"{word} says {words[word]!r}")
    names = {line.split("\t")[0] for line in words["mntr"].splitlines()}
    for name in ("zk_version", "zk_server_state", "zk_znode_count", "zk_watch_count", "zk_ephemerals_count", "zk_num_alive_connections",
                 "zk_outstanding_requests", "zk_packets_received", "zk_packets_sent", "zk_avg_latency", "zk_max_latency"):
        if name not in names:
            raise Wrong(f"mntr has no {name}")
    if f"clientPort={s.port}" not in words["conf"].splitlines():
        raise Wrong(f"conf says {words['conf']!r}")


CHECKS = [event_carries_the_zxid_of_its_change, exists_asks_for_read, events_are_filtered_by_read,
          undecodable_writes_take_no_zxid, watches_are_checked_exactly, watch_modes_are_a_set,
          creates_in_a_multi_answer_with_stat, malformed_members_fail_the_multi, flags_speak_in_a_multi,
          the_configuration_counts_from_zero, check_outside_a_multi_is_refused,
          addresses_of_version_six_are_acls, sessions_expire_late_never_early, a_wrong_password_harms_nobody,
          an_event_precedes_the_reply_that_shows_it, events_of_a_multi_come_in_order, four_letter_words_answer]


def main():
    command = servers.command_from(sys.argv[1:])
    s = servers.Server(command, {"tickTime": TICK, "minSessionTimeout": MIN_TIMEOUT, "maxSessionTimeout": 60000},
                       ["-Dzookeeper.extendedTypesEnabled=true"], "expect")
    failures = 0
    try:
        s.start()
        for number, check in enumerate(CHECKS):
            since = f" ({check.__doc__})" if check.__doc__ else ""
            try:
                check(s, f"/expect{number}")
                print(f"  ok {check.__name__}", flush=True)
            except (Wrong, wire.Closed, OSError, ValueError, EOFError, KeyError) as error:
                failures += 1
                print(f"  FAILED {check.__name__}{since}: {error!r}", flush=True)
                if not s.outlived():
                    print(f"  the server died:\n{s.tail()}")
                    s.start()
    except RuntimeError as error:
        failures += 1
        print(f"  FAILED: {error}")
    finally:
        s.remove()
    print("PASS expect" if failures == 0 else f"FAIL expect: {failures} of {len(CHECKS)}")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())

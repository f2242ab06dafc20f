"""Sessions that one server knows, and a server without a quorum: the same clients have to be told the same, step by step, by an
ensemble of the given server, by Apache's, and by one of both.
"""

import wire
from clients import demand, wait_for


class Transcript(list):
    """What a client was told, step by step, in words that are the same on every run."""

    def note(self, *what):
        self.append(" ".join(str(w) for w in what))

    def attempt(self, label, do):
        """Notes what `do` returns, or that the connection was closed instead."""
        try:
            self.note(label, do())
        except (wire.Closed, ConnectionError):
            self.note(label, "closed")


def resumes(member, connection):
    """Whether the session of `connection` can be resumed at `member`."""
    again = member.connect()
    shake = again.connect(6000, connection.handshake.session, connection.handshake.password, 0)
    again.drop()
    return shake.session == connection.handshake.session


def end(connection, *members):
    """Ends a session where it lives: its end by time-out would be a txn at a time that differs."""
    for m in members:
        c = m.connect()
        if c.connect(6000, connection.handshake.session, connection.handshake.password).session == connection.handshake.session:
            demand(c.close_session().err == wire.OK, "the session can't be closed")
            return
        c.drop()
    demand(False, "the session lives nowhere")


def codes(reply):
    """The errors in a multi's reply, with that of its head."""
    return [reply.err] + [body.get("err", 0) for _, _, body in reply.body.get("results", [])]


def play_local(e, upgrading):
    """Local sessions through a leader, a follower and an observer."""
    leader = e.leader()
    follower = next(m for m in e if m.mode() == "follower")
    t = Transcript()
    setup = e[4].session(6000)
    demand(setup.create("/l").err == wire.OK, "create")
    setup.close_session()
    for role, m, other in (("leader", leader, follower), ("follower", follower, e[4]), ("observer", e[4], leader)):
        c = m.session(6000)
        t.note(role, "made here", c.handshake.session >> 56 == m.number, c.handshake.timeout, c.handshake.read_only)
        made = c.create(f"/l/{role}", b"x")
        t.note(role, "create", made.err)
        t.note(role, "resumed elsewhere", resumes(other, c))
        if upgrading:
            created = c.create(f"/l/{role}-e", b"x", flags=1)
            t.note(role, "ephemeral", created.err, "zxids", created.zxid - made.zxid)
            owner = c.get(f"/l/{role}-e").body["stat"]["ephemeralOwner"]
            t.note(role, "owner", owner == c.handshake.session)
            again = c.create(f"/l/{role}-f", b"x", flags=1)
            t.note(role, "another", again.err, "zxids", again.zxid - created.zxid)
            t.note(role, "resumed elsewhere", resumes(other, c))
        else:
            for op in (wire.CREATE, wire.CREATE2):
                reply = c.call(op, wire.create_record(f"/l/{role}-e", flags=1))
                t.note(role, "ephemeral", op, reply.err, "zxids", reply.zxid - made.zxid)
                made = reply
            ops = [(wire.CREATE, wire.create_record(f"/l/{role}-{n}", flags=f)) for n, f in (("m", 0), ("n", 1), ("o", 0))]
            t.note(role, "multi", codes(c.multi(ops)))
            t.note(role, "container", c.call(wire.CREATE_CONTAINER, wire.create_record(f"/l/{role}-c", flags=1)).err)
        sessions = [line for line in wire.four_letter_word(m.host, m.port, "dump").splitlines() if "Session" in line and "(" in line]
        t.note(role, "dump", [line.split(" (")[0].split("(")[0] for line in sessions[:2]])
        t.note(role, "local", m.monitor()["zk_local_sessions"])
        # A local session outlives its connection; a moved one does not live here.
        one = m.session(6000)
        one.drop()
        t.note(role, "resumed here", resumes(m, one))
        last = m.session(6000)
        asked = [last.post(wire.CREATE, wire.create_record(f"/l/{role}-{n}")) for n in (1, 2)]
        t.note(role, "pipelined", [last.reply_to(xid).err for xid in asked], "closed", last.close_session().err)
        t.note(role, "resumed after its end", resumes(m, last))
        c.drop()
        end(c, other, m)
    return t


def play_read_only(e):
    """One of three servers is left alone, serves whoever only wants to read, and finds its quorum again."""
    everywhere = e[1].session(20000)
    demand(everywhere.create("/g", b"x", flags=1).err == wire.OK, "an ephemeral makes it global")
    t = Transcript()
    others = [e[2], e[3]]
    for m in others:
        m.kill()
    demand(wait_for(lambda: e[1].mode() == "read-only", 30.0), f"server 1 is not read-only: {e[1].tail()}")
    alone = e[1]
    for flag in (None, False):
        t.attempt(f"read only {flag}", lambda: alone.connect().connect(6000, read_only=flag).length)
    t.attempt("ahead", lambda: alone.connect().connect(6000, last_zxid=1 << 60, read_only=True).length)
    h = everywhere.handshake
    t.attempt("global", lambda: alone.connect().connect(6000, h.session, h.password, 0, read_only=True).length)
    c = alone.connect()
    h = c.connect(6000, read_only=True)
    t.note("handshake", h.timeout, h.read_only, h.length, h.session >> 56)
    stranger = (9 << 56) | 5
    t.note("stranger", vars_of(alone.connect().connect(6000, stranger, wire.session_password(stranger), 0, read_only=True)))
    zxid = c.get("/").zxid
    for label, op, record in (
        ("create", wire.CREATE, wire.create_record("/r")), ("create2", wire.CREATE2, wire.create_record("/r", flags=1)),
        ("container", wire.CREATE_CONTAINER, wire.create_record("/r")), ("garbage", wire.CREATE, b"\0\0"),
        ("delete", wire.DELETE, wire.string("/g") + wire.i32(-1)), ("set", wire.SET_DATA, wire.string("/g") + wire.buffer(b"y") + wire.i32(-1)),
        ("multi", wire.MULTI, wire.multi_record([(wire.CREATE, wire.create_record("/r"))])),
        ("sync", wire.SYNC, wire.string("/")), ("bad sync", wire.SYNC, b""),
    ):
        reply = c.call(op, record)
        t.note(label, reply.err, reply.zxid - zxid, len(reply.extra))
    t.note("read", c.get("/g", watch=True).body["data"], c.exists("/none").err, sorted(c.children("/").body["children"]))
    t.note("ping", c.ping().err)
    t.note("isro", wire.four_letter_word(alone.host, alone.port, "isro"))
    srvr = wire.four_letter_word(alone.host, alone.port, "srvr").splitlines()
    t.note(srvr[1], *(line for line in srvr if line.startswith("Mode")))
    monitor = alone.monitor()
    t.note(monitor["zk_server_state"], monitor.get("zk_peer_state"), monitor["zk_local_sessions"], "quorum_size" in str(monitor))
    t.note("membership" in wire.four_letter_word(alone.host, alone.port, "conf"))
    one = alone.connect()
    one.connect(6000, read_only=True)
    t.note("closed", one.close_session().err)
    for m in others:
        m.spawn()
    e.wait_serving(e)
    demand(wait_for(lambda: alone.mode() not in (None, "read-only"), 30.0), "the quorum is not back")
    t.attempt("afterwards", lambda: c.ping().err)
    t.note("its session", vars_of(alone.connect().connect(6000, h.session, h.password, 0, read_only=True)))
    t.note("isro", wire.four_letter_word(alone.host, alone.port, "isro"))
    again = alone.connect().connect(6000, read_only=True)
    t.note("read-write", again.read_only, again.length)
    return t


def vars_of(shake):
    return (shake.timeout, shake.session, shake.password, shake.read_only, shake.length)


def beside_apache(s, play, servers_, observers, config, flags=()):
    """The same clients are told the same by an ensemble of ours, by Apache's, and by one of both."""
    told = {}
    for name, commands in (("ours", [s.command] * servers_), ("Apache's", [s.apache] * servers_),
                           ("both", ([s.command, s.apache, s.apache, s.command])[:servers_])):
        e = s.ensemble(commands, observers=observers, config=config)
        for member in e:
            member.flags = list(flags)
        e.start()
        told[name] = play(e)
        e.remove()
    for name in ("ours", "both"):
        differing = [(a, b) for a, b in zip(told["Apache's"], told[name]) if a != b]
        demand(not differing and len(told[name]) == len(told["Apache's"]), f"{name}: Apache's says, it says: {differing}")
    return len(told["ours"])


def local_sessions(s):
    """Local sessions, with and without their upgrade, through each role; as Apache's, and in an ensemble of both."""
    steps = 0
    for upgrading in (False, True):
        config = {"localSessionsEnabled": "true", "localSessionsUpgradingEnabled": str(upgrading).lower()}
        steps += beside_apache(s, lambda e: play_local(e, upgrading), 4, (4,), config)
    s.say(f"{steps} steps told the same by ours, by Apache's, and by both together")


def read_only(s):
    """A server that is cut off from its quorum; as Apache's, and with Apache's for the others."""
    config = {"localSessionsEnabled": "true", "localSessionsUpgradingEnabled": "true"}
    steps = beside_apache(s, play_read_only, 3, (), config, flags=["-Dreadonlymode.enabled=true"])
    s.say(f"{steps} steps told the same by ours, by Apache's, and beside Apache's")

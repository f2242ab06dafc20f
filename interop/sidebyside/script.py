"""Makes the script of one side-by-side run from a seed: a list of steps, each a plain dict (one JSON line in a trace).

A step names everything that it needs, so any subset of a script is a script: that is what lets a failing one be shrunk.
Steps on a slot that holds no connection are skipped by both servers alike.

What two Apache servers would not answer alike is never generated; the reasons stand where the choice is made.
"""

import random

import wire

SLOTS = 4

# Paths below /o are readable by everybody, whatever else their ACL says; only those below /r get ACLs without READ. A
# watch set by `exists` on an unreadable node is set by some Apache versions and refused by others, so `exists` with a
# watch stays within /o.
TOPS = ["/o1", "/o2", "/r1", "/r2", "/q1"]
NAMES = ["a", "a", "a", "b", "b", "c", "s", "s0000000000", "s0000000001", "s0000000003", "..."]

# Null paths are left to the tests of bad input: no client sends them, and what they get is an accident.
BAD_PATHS = ["", "o1", "/", "//", "/o1/", "/o1//a", "/o1/./a", "/o1/..", "/o1/a\0b", "/o1/a\x01", "/o1/\x85", "/o1/\ue000",
             "/o1/\U0001f600", "/o1/\u2028", "/nowhere/x", "/nowhere/\x01", "/zookeeper", "/zookeeper/config",
             "/zookeeper/quota", "/zookeeper/none", "hex:2f6f312fff", "hex:2f6f312fc328"]

CREDENTIALS = ["u1:p1", "u2:p2"]
SUPER = "super:admin"
SUPER_DIGEST = wire.digest_id(SUPER)

GOOD_ACLS = [
    wire.OPEN_ACL,
    [(1, "world", "anyone")],
    [(1, "world", "anyone"), (31, "digest", wire.digest_id("u1:p1"))],
    [(1, "world", "anyone"), (30, "auth", "")],
    [(5, "world", "anyone"), (16, "ip", "127.0.0.1")],
    [(31, "world", "anyone"), (31, "world", "anyone")],
    [(31, "world", "anyone"), (64, "world", "anyone")],
    [(3, "world", "anyone"), (31, "ip", "127.0.0.0/8")],
]
CLOSED_ACLS = [
    [(31, "digest", wire.digest_id("u1:p1"))],
    [(1, "digest", wire.digest_id("u2:p2")), (16, "world", "anyone")],
    [(31, "auth", "ignored")],
    [(30, "world", "anyone")],
    [(0, "world", "anyone")],
    [(64, "world", "anyone")],
    [(31, "ip", "10.1.0.0/16")],
    [(31, "ip", "127.0.0.1")],
    [(6, "world", "anyone"), (9, "digest", wire.digest_id("u1:p1")), (16, "ip", "127.0.0.1/32")],
]
BAD_ACLS = [
    None, [], [(31, "world", "foo")], [(31, "digest", "nocolon")], [(31, "digest", "a:b:c")], [(31, "what", "x")],
    [(31, "ip", "300.1.1.1")], [(31, "ip", "127.0.0.1/33")], [(31, "ip", "127.0.0.1/x")], [(31, "sasl", "somebody")],
    [(31, "x509", "CN=x")], [(31, "super", "")], [(31, None, "x")], [(31, "", "")],
]

DATA = [None, "", "00", "68656c6c6f", "ff" * 100]


def path_class(slot, path):
    """Which one kind of watch this slot may set on this path: 0 standard, 1 persistent, 2 persistent recursive.

    Older Apache versions keep one watch mode for each client and path, newer ones a set; with one kind for each pair
    both behave alike.
    """
    h = slot * 7
    for ch in str(path):
        h = (h * 31 + ord(ch)) & 0xFFFF
    return h % 3


class Generator:
    def __init__(self, seed):
        self.rng = random.Random(seed)
        # What the slots most likely are while the script plays; only so that few steps meet a slot without a connection.
        self.attached = [False] * SLOTS
        self.has_session = [False] * SLOTS

    # Arguments

    def path(self, tops=TOPS):
        depth = self.rng.choice([1, 2, 2, 2, 2, 3])
        return "/".join([self.rng.choice(tops)] + [self.rng.choice(NAMES[:4] if level == 2 else NAMES)
                                                   for level in range(2, depth + 1)])

    def any_path(self, tops=TOPS):
        return self.rng.choice(BAD_PATHS) if self.rng.random() < 0.08 else self.path(tops)

    def acl(self, path):
        roll = self.rng.random()
        if roll < 0.08:
            return self.rng.choice(BAD_ACLS)
        if roll < 0.55:
            return wire.OPEN_ACL
        if path is not None and path.startswith("/r") and len(path) > 3:
            return self.rng.choice(GOOD_ACLS + CLOSED_ACLS)
        return self.rng.choice(GOOD_ACLS)

    def data(self):
        return "61" * self.rng.randrange(20000) if self.rng.random() < 0.02 else self.rng.choice(DATA)

    def version(self):
        return self.rng.choice([-1, -1, -1, -1, 0, 0, 1, 2, 3, -2])

    # Requests: dicts with "op" and the record's fields

    def create(self, in_multi=False):
        rng = self.rng
        path = self.any_path()
        op = rng.choice(["create", "create", "create", "create2", "createContainer", "createTTL"])
        request = {"op": op, "path": path, "data": self.data(), "acl": self.acl(path)}
        if op == "createContainer":
            # Other flags with this opcode name a node kind that the opcode contradicts; only the opcode counts, and
            # what else happens isn't defined.
            request["flags"] = rng.choice([4, 4, 4, 4, 0, 5, 7])
        elif op == "createTTL":
            request["flags"] = rng.choice([5, 5, 5, 6, 6, 0, 3, 9])
            request["ttl"] = rng.choice([1000000, 5000000, (1 << 40) - 1, 1 << 40, 0, -1, 77])
            if request["flags"] not in (5, 6):
                request["ttl"] = abs(request["ttl"])  # the contradiction "no TTL mode, negative ttl" is refused elsewhere
        else:
            request["flags"] = rng.choice([0, 0, 0, 0, 1, 1, 2, 2, 3, 4, 5, 6, 7, -1] if rng.random() < 0.2
                                          else [0, 0, 0, 0, 1, 1, 2, 3])
            if request["flags"] == 4:
                request["path"] = self.path(["/o1"])
        if in_multi and rng.random() < 0.9 and request["acl"] is None:
            request["acl"] = wire.OPEN_ACL
        return request

    def single_write(self, in_multi=False):
        roll = self.rng.random()
        path = self.any_path()
        if roll < 0.5:
            return self.create(in_multi)
        if roll < 0.7:
            return {"op": "delete", "path": path, "version": self.version()}
        return {"op": "setData", "path": path, "data": self.data(), "version": self.version()}

    def multi(self):
        rng = self.rng
        ops = []
        for _ in range(rng.choice([0, 1, 2, 2, 3, 3, 4, 6])):
            if rng.random() < 0.2:
                ops.append({"op": "check", "path": self.any_path(), "version": self.version()})
            else:
                ops.append(self.single_write(in_multi=True))
        if rng.random() < 0.03:
            ops.insert(rng.randrange(len(ops) + 1), rng.choice([
                {"op": "getData", "path": "/o1", "watch": False},
                {"op": "setACL", "path": "/o1", "acl": wire.OPEN_ACL, "version": -1},
                {"op": "sync", "path": "/"}]))
        return {"op": "multi", "ops": ops}

    def multi_read(self):
        rng = self.rng
        ops = [{"op": rng.choice(["getData", "getChildren"]), "path": self.any_path(), "watch": rng.random() < 0.3}
               for _ in range(rng.choice([0, 1, 2, 3, 5]))]
        if rng.random() < 0.04:
            ops.append({"op": "delete", "path": "/o1/a", "version": -1})
        return {"op": "multiRead", "ops": ops}

    def read(self, slot):
        rng = self.rng
        op = rng.choice(["exists", "getData", "getChildren", "getChildren2", "exists", "getData", "getChildren2", "getACL",
                         "getEphemerals", "getAllChildrenNumber", "whoAmI", "ping", "sync", "multiRead"])
        if op == "multiRead":
            return self.multi_read()
        if op in ("whoAmI", "ping"):
            return {"op": op}
        if op == "getEphemerals":
            return {"op": op, "path": rng.choice([None, "", "/", "/o1", "/o", "/r1/a", " "])}
        path = self.any_path() if rng.random() < 0.9 else rng.choice(["/", "/zookeeper", "/zookeeper/config",
                                                                       "/zookeeper/quota/q1/zookeeper_stats"])
        if op in ("getACL", "getAllChildrenNumber", "sync"):
            return {"op": op, "path": path}
        watch = rng.random() < 0.4 and path_class(slot, path) == 0
        if op == "exists" and not (path or "").startswith("/o"):
            watch = False
        return {"op": op, "path": path, "watch": watch}

    def watch_request(self, slot):
        rng = self.rng
        path = self.any_path()
        roll = rng.random()
        kind = path_class(slot, path)
        if roll < 0.35:
            if rng.random() < 0.05:
                return {"op": "addWatch", "path": path, "mode": rng.choice([2, -1, 7])}
            while path_class(slot, path) == 0:
                path = self.path()
            return {"op": "addWatch", "path": path, "mode": path_class(slot, path) - 1}
        if roll < 0.5:
            return {"op": "checkWatches", "path": path, "type": rng.choice([1, 2, 3, 1, 2, 3, 4, 5, 0, 6, -1])}
        if roll < 0.7:
            # The exact kinds 1 and 2 on a persistent watch, and 4 and 5 at all, depend on the version.
            return {"op": "removeWatches", "path": path, "type": 3 if kind else rng.choice([1, 2, 3, 0, 6])}
        lists = {name: [p for p in (self.path(["/o1", "/o2"] if name == "exist" else TOPS)
                                    for _ in range(rng.randrange(4))) if path_class(slot, p) == want]
                 for name, want in (("data", 0), ("exist", 0), ("child", 0), ("persistent", 1), ("recursive", 2))}
        if rng.random() < 0.05:
            # A missing list is refused; what Apache does about the other lists before it notices is an accident.
            lists = {name: [] for name in lists}
            lists["data"] = None
        if roll < 0.85:
            lists.pop("persistent"), lists.pop("recursive")
            return {"op": "setWatches", "back": rng.choice([0, 1, 3, 10, 100, 1 << 40]), **lists}
        return {"op": "setWatches2", "back": rng.choice([0, 1, 3, 10, 100, 1 << 40]), **lists}

    def undecodable(self, slot):
        """A request whose body ends early, or says nonsense about its own lengths."""
        rng = self.rng
        inner = rng.choice([self.create, self.single_write, self.multi, lambda: self.read(slot),
                            lambda: self.watch_request(slot)])()
        if rng.random() < 0.6:
            return {"op": "raw", "of": inner, "cut": rng.random()}
        # The last one decodes as a read that sets a watch: on a path of its own, since 3.8 mixes kinds differently.
        return {"op": "raw", "of": inner, "body": rng.choice(["", "00", "7fffffff41", "80000000", "fffffffe",
                                                             "00000003" "2f7a7a" "ffff"])}

    def quota(self):
        """Requests about /q1's quota: refusals compare with counts that Apache keeps behind the pipeline's back, so these
        and all others below /q1 travel alone."""
        base = "/zookeeper/quota/q1"
        text = self.rng.choice(["count=3,bytes=-1", "count=-1,bytes=40", "count=2,bytes=10=;byteHardLimit=60;countHardLimit=5",
                                "count=-1,bytes=-1=;byteHardLimit=-1;countHardLimit=4"]).encode().hex()
        return self.rng.choice([
            {"op": "create", "path": base, "data": None, "acl": wire.OPEN_ACL, "flags": 0},
            {"op": "create", "path": base + "/zookeeper_limits", "data": text, "acl": wire.OPEN_ACL, "flags": 0},
            {"op": "create", "path": base + "/zookeeper_stats", "data": b"count=0,bytes=0".hex(), "acl": wire.OPEN_ACL,
             "flags": 0},
            {"op": "setData", "path": base + "/zookeeper_limits", "data": text, "version": -1},
            {"op": "getData", "path": base + "/zookeeper_stats", "watch": False},
            {"op": "getData", "path": base + "/zookeeper_limits", "watch": False},
            {"op": "delete", "path": base + "/zookeeper_limits", "version": -1},
            {"op": "delete", "path": base + "/zookeeper_stats", "version": -1},
        ])

    def lonely(self, slot):
        """Requests that end a batch: auth and SASL are answered when they are read and so overtake others, and whether
        requests pipelined behind a setACL see the old ACL is chance in Apache."""
        rng = self.rng
        roll = rng.random()
        if roll < 0.45:
            path = self.any_path(["/r1", "/r2", "/o1"])
            return {"op": "setACL", "path": path, "acl": self.acl(path), "version": self.version()}
        if roll < 0.7:
            return {"op": "auth", "scheme": "digest", "auth": rng.choice(CREDENTIALS + [SUPER, "nocolon", "u1:wrong"])}
        if roll < 0.75:
            return {"op": "auth", "scheme": "ip", "auth": ""}
        if roll < 0.8:
            return {"op": "sasl", "token": ""}
        if roll < 0.87:
            return {"op": "reconfig", "joining": rng.choice([None, "server.2=127.0.0.1:1:2:participant;3"]),
                    "leaving": rng.choice([None, "1"]), "members": None, "config": -1}
        return self.quota()

    # Steps

    def batch(self, slot):
        rng = self.rng
        requests = []
        for _ in range(rng.choice([1, 1, 1, 2, 3, 5, 8, 12])):
            roll = rng.random()
            if roll < 0.42:
                requests.append(self.single_write())
            elif roll < 0.52:
                requests.append(self.multi())
            elif roll < 0.80:
                requests.append(self.read(slot))
            elif roll < 0.95:
                requests.append(self.watch_request(slot))
            elif roll < 0.98:
                requests.append(self.undecodable(slot))
            else:
                requests.append({"op": "raw", "of": self.read(slot), "tail": "00ff17"})
        if len(requests) > 1:
            requests = [r for r in requests if "/q1" not in repr(r)]
        return {"do": "batch", "slot": slot, "requests": requests}

    def open(self, slot):
        rng = self.rng
        seen = rng.choice(["zero", "zero", "last", "last", "ahead"])
        self.attached[slot] = self.has_session[slot] = seen != "ahead"
        return {"do": "open", "slot": slot, "timeout": rng.choice([300000, 400000, 1, 0, -5, 100000000]),
                "read_only": rng.choice([False, False, True, None]), "seen": seen,
                "password": rng.choice(["00" * 16, "00" * 16, None, "", "01"])}

    def attach(self, slot):
        rng = self.rng
        step = {"do": "attach", "slot": slot, "timeout": rng.choice([200000, 300000]),
                "password": rng.choice(["right", "right", "right", "right", "wrong", "short", "null"]),
                "seen": rng.choice(["zero", "zero", "last", "last", "ahead"])}
        self.attached[slot] = step["password"] == "right" and step["seen"] != "ahead"
        return step

    def step(self):
        rng = self.rng
        slot = rng.randrange(SLOTS)
        if not self.attached[slot]:
            return self.attach(slot) if self.has_session[slot] and rng.random() < 0.8 else self.open(slot)
        roll = rng.random()
        if roll < 0.002:
            return {"do": "attach_unknown", "session": rng.choice([1, 0x1234567800000000, -1])}
        if roll < 0.03:
            self.attached[slot] = False
            return {"do": "drop", "slot": slot}
        if roll < 0.035:
            return {"do": "steal", "slot": slot}
        if roll < 0.05:
            # The session is remembered: attaching to a closed one is refused.
            self.attached[slot] = False
            return {"do": "close", "slot": slot}
        if roll < 0.06:
            self.attached[slot] = False
            request = rng.choice([
                {"op": "unknown", "code": rng.choice([0, -1, 10, 23, 99, 108, 1000, -2, -12])},
                {"op": "check", "path": "/o1", "version": -1},
                {"op": "auth", "scheme": rng.choice(["sasl", "what", "world", ""]), "auth": "x"},
            ])
            return {"do": "fatal", "slot": slot, "request": request}
        if roll < 0.22:
            return {"do": "batch", "slot": slot, "requests": [self.lonely(slot)]}
        return self.batch(slot)

    def script(self, length):
        steps = [{"do": "open", "slot": slot, "timeout": 300000, "read_only": False, "seen": "zero", "password": "00" * 16}
                 for slot in range(SLOTS)]
        steps += [{"do": "batch", "slot": 0, "requests": [
            {"op": "create", "path": top, "data": "", "acl": wire.OPEN_ACL, "flags": 0} for top in TOPS]}]
        self.attached = [True] * SLOTS
        self.has_session = [True] * SLOTS
        # Restricted ACLs go to children of /r1 and /r2, never to the tops: a script must not lock itself out.
        requests = 0
        while requests < length:
            step = self.step()
            requests += len(step.get("requests", [0]))
            if step.get("requests") != []:
                steps.append(step)
        return steps

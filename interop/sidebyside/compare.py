"""Brings what two servers answered to a common form and finds the first difference."""

import time
from collections import Counter

import exceptions
import wire
from play import End

# How far a server's clock may stand from ours before the times in a Stat count as wrong.
CLOCK_SLACK_MS = 60_000


class Difference(Exception):
    def __init__(self, step_index, step, what):
        super().__init__(what)
        self.step_index, self.step, self.what = step_index, step, what


class Context:
    """What a comparison carries from step to step: how zxids, sessions and times correspond."""

    def __init__(self, players):
        self.left, self.right = players
        self.extra = []  # left zxids that have no partner on the right
        self.times = ({}, {})  # zxid -> time, for each side in its own numbering
        self.zxids_of_step = (0, 0)
        self.used = Counter()
        self.outcomes = Counter()  # (request, outcome) as seen by the right side, to judge what a script reaches

    def to_right(self, zxid):
        """The right side's number for a left zxid."""
        return zxid if zxid <= 0 else zxid - sum(1 for extra in self.extra if extra <= zxid)

    def left_takes_extra_zxid(self, zxid):
        self.extra.append(zxid)

    # Normalised items: plain dicts, left zxids in the right side's numbering

    def stat(self, side, stat):
        stat = dict(stat)
        player = (self.left, self.right)[side]
        for zxid, when in (("czxid", "ctime"), ("mzxid", "mtime")):
            # A change's time is its transaction's: one time for each zxid, near the present, zero for the built-in nodes.
            known = self.times[side].setdefault(stat[zxid], stat[when])
            if known != stat[when]:
                raise ValueError(f"{when} {stat[when]} for zxid {stat[zxid]:#x}, whose time was {known} before")
            if stat[zxid] > 0 and abs(stat[when] - time.time() * 1000) > CLOCK_SLACK_MS + 600_000:
                raise ValueError(f"{when} {stat[when]} is not near the present")
            del stat[when]
        if side == 0:
            for name in ("czxid", "mzxid", "pzxid"):
                stat[name] = self.to_right(stat[name])
        owner = stat["ephemeralOwner"]
        if owner:
            stat["ephemeralOwner"] = player.sessions.get(owner, f"unknown {owner:#x}")
        return stat

    def body(self, side, body):
        out = {}
        for name, value in body.items():
            if name == "stat":
                value = self.stat(side, value)
            elif name in ("children", "paths", "ids", "acl") and value is not None:
                value = sorted(value, key=repr)  # unordered in Apache
            elif name == "results":
                value = [{"type": kind, "err": err, "body": self.body(side, inner)} for kind, err, inner in value]
            elif name == "path" and value is None:
                value = ""  # the echo of a null path
            elif isinstance(value, bytes):
                value = value.hex()
            out[name] = value
        return out

    def item(self, side, item):
        if isinstance(item, End):
            return {"end": item.how} if item.how == "closed" else {"end": item.how, "detail": item.detail}
        if isinstance(item, wire.Handshake):
            player = (self.left, self.right)[side]
            good = item.password == (wire.session_password(item.session) if item.session else b"\0" * 16)
            return {"handshake": player.sessions.get(item.session, "unknown") if item.session else "refused",
                    "timeout": item.timeout, "protocol": item.protocol, "readOnly": item.read_only,
                    "password": "derived" if good else item.password.hex(), "length": item.length}
        zxid = self.to_right(item.zxid) if side == 0 else item.zxid
        if isinstance(item, wire.Event):
            return {"event": wire.EVENT_NAMES.get(item.kind, item.kind), "state": item.state, "path": item.path,
                    "zxid": zxid}
        # Some versions leave a failed multiRead's half-built results behind the error; every client ignores them.
        extra = b"" if item.op == wire.MULTI_READ and item.err != wire.OK else item.extra
        return {"op": wire.OP_NAMES.get(item.op, item.op), "xid": item.xid, "zxid": zxid, "err": item.err,
                "raw_zxid": item.zxid, "body": self.body(side, item.body), "extra": extra.hex()}

    def step(self, index, step, left, right, started_at):
        """Raises `Difference` at the first item that differs and that no exception names."""
        self.zxids_of_step = (started_at, self.right.zxid)
        if set(left) != set(right):
            raise Difference(index, step, f"slots that saw something: {sorted(left)} | {sorted(right)}")
        own = step.get("slot", -1)
        for slot in [own] + sorted(set(left) - {own}):
            if slot in left:
                self.items(index, step, slot, left[slot], right[slot])

    def items(self, index, step, slot, left, right):
        requests = self.requests_of(step) if slot == step.get("slot") else None
        if step["do"] == "fatal" and step["request"]["op"] == "check" and requests is not None:
            a = [self.safe(0, item, index, step) for item in left]
            b = [self.safe(1, item, index, step) for item in right]
            if exceptions.top_level_check(a, b):
                self.used["top_level_check"] += 1
                # Its zxid on the left: the ping behind it shows it.
                zxid = left[-1].zxid
                if self.to_right(zxid) == self.right.zxid + 1:
                    self.left_takes_extra_zxid(zxid)
                return
        if step["do"] in ("close",):
            # Which ephemeral of an ending session goes first is unspecified.
            left, right = self.events_sorted(left), self.events_sorted(right)
        replies = 0
        for a_raw, b_raw in zip(left, right):
            a, b = self.safe(0, a_raw, index, step), self.safe(1, b_raw, index, step)
            request = {"op": "none"}
            if isinstance(a_raw, wire.Reply) and requests is not None:
                request = requests[replies] if replies < len(requests) else request
                replies += 1
            self.count(request, b)
            if self.same(a, b):
                continue
            if step["do"] == "close" and a.get("end") == "silent" and b == {"end": "closed"}:
                continue  # Apache now and then leaves the connection of a closed session open
            row = next((row for row in exceptions.TABLE if self.accepts(row, request, a, b)), None)
            if row is None:
                where = f"slot {slot}" + (f", request {replies - 1} {request}" if request["op"] != "none" else "")
                raise Difference(index, step, f"{where}\n  left  {self.show(a)}\n  right {self.show(b)}"
                                 f"\n  in: {self.fields(a, b)}")
            self.used[row.__name__] += 1
        if len(left) != len(right):
            longer, side = (left, "left") if len(left) > len(right) else (right, "right")
            rest = [self.safe(0 if side == "left" else 1, i, index, step) for i in longer[min(len(left), len(right)):]]
            raise Difference(index, step, f"slot {slot}: only on the {side}: {[self.show(i) for i in rest]}")

    @staticmethod
    def requests_of(step):
        if step["do"] == "batch":
            return step["requests"]
        return [step["request"]] if step["do"] == "fatal" else []

    def accepts(self, row, request, a, b):
        if ("event" in a) != (row is exceptions.event_zxid) or ("event" in a) != ("event" in b):
            return False
        return ("event" in a or ("op" in a and "op" in b and a["op"] == b["op"])) and row(request, a, b, self)

    def count(self, request, b):
        if "event" in b:
            self.outcomes["event", b["event"]] += 1
        elif "handshake" in b:
            self.outcomes["handshake", "refused" if b["handshake"] == "refused" else "taken"] += 1
        elif "end" in b:
            self.outcomes["connection", " ".join([b["end"], b.get("detail", "")])] += 1
        else:
            name = "raw " + request["of"]["op"] if request["op"] == "raw" else b["op"]
            failed = next((r["err"] for r in b["body"].get("results", []) if r["err"] not in (0, -2)), None)
            self.outcomes[name, b["err"] if failed is None else f"0[{failed}]"] += 1

    @staticmethod
    def events_sorted(items):
        events = sorted((i for i in items if isinstance(i, wire.Event)), key=lambda e: (e.path, e.kind))
        return events + [i for i in items if not isinstance(i, wire.Event)]

    def safe(self, side, item, index, step):
        try:
            return self.item(side, item)
        except ValueError as error:
            raise Difference(index, step, f"{('left', 'right')[side]}: {error}") from error

    @staticmethod
    def same(a, b):
        return {k: v for k, v in a.items() if k != "raw_zxid"} == {k: v for k, v in b.items() if k != "raw_zxid"}

    @staticmethod
    def fields(a, b):
        out = []
        for key in sorted(set(a) | set(b)):
            if key != "raw_zxid" and a.get(key) != b.get(key):
                out.append(key)
        return ", ".join(out)

    @staticmethod
    def show(item):
        text = repr({k: v for k, v in item.items() if k not in ("raw_zxid",) and v not in ("", {})})
        return text if len(text) < 1500 else text[:1500] + "…"

"""Plays one step against one server and returns what every slot saw, in the order of the wire."""

import wire

_CODES = wire.OPS


def path_of(value):
    """A path as written in a script: text, nothing, or `hex:` and bytes that are no UTF-8."""
    if value is not None and value.startswith("hex:"):
        return bytes.fromhex(value[4:])
    return value


def data_of(value):
    return None if value is None else bytes.fromhex(value)


def encode(request, back):
    """(opcode, record) of a script's request; `back(n)` is this server's name for "n zxids ago"."""
    op = request["op"]
    if op == "unknown":
        return request["code"], b""
    if op == "raw":
        code, record = encode(request["of"], back)
        if "cut" in request:
            record = record[:int(len(record) * request["cut"])]
        elif "tail" in request:
            record += bytes.fromhex(request["tail"])
        else:
            record = bytes.fromhex(request["body"])
        return code, record
    code = _CODES[op]
    path = path_of(request.get("path"))
    if op in ("create", "create2", "createContainer", "createTTL"):
        record = wire.create_record(path, data_of(request["data"]), request["acl"], request["flags"])
        if op == "createTTL":
            record += wire.i64(request["ttl"])
    elif op in ("delete", "check"):
        record = wire.string(path) + wire.i32(request["version"])
    elif op in ("exists", "getData", "getChildren", "getChildren2"):
        record = wire.string(path) + wire.boolean(request["watch"])
    elif op == "setData":
        record = wire.string(path) + wire.buffer(data_of(request["data"])) + wire.i32(request["version"])
    elif op in ("getACL", "sync", "getEphemerals", "getAllChildrenNumber"):
        record = wire.string(path)
    elif op == "setACL":
        record = wire.string(path) + wire.acl(request["acl"]) + wire.i32(request["version"])
    elif op in ("multi", "multiRead"):
        record = wire.multi_record([encode(sub, back) for sub in request["ops"]])
    elif op == "reconfig":
        record = (wire.string(request["joining"]) + wire.string(request["leaving"]) + wire.string(request["members"])
                  + wire.i64(request["config"]))
    elif op in ("checkWatches", "removeWatches"):
        record = wire.string(path) + wire.i32(request["type"])
    elif op == "addWatch":
        record = wire.string(path) + wire.i32(request["mode"])
    elif op in ("setWatches", "setWatches2"):
        names = ("data", "exist", "child") + (("persistent", "recursive") if op == "setWatches2" else ())
        record = wire.i64(back(request["back"])) + b"".join(
            wire.strings(None if request[name] is None else [path_of(p) for p in request[name]]) for name in names)
    elif op == "auth":
        record = wire.i32(0) + wire.string(request["scheme"]) + wire.buffer(request["auth"].encode())
    elif op == "sasl":
        record = wire.buffer(bytes.fromhex(request["token"]))
    elif op in ("whoAmI", "ping"):
        record = b""
    else:
        raise ValueError(f"script names an unknown request {op}")
    return code, record


def xid_of(request, running):
    op = request["of"]["op"] if request["op"] == "raw" else request["op"]
    return {"ping": wire.PING_XID, "auth": wire.AUTH_XID, "setWatches": wire.SET_WATCHES_XID,
            "setWatches2": wire.SET_WATCHES_XID}.get(op, running)


class End:
    """The connection ended (`how` = closed), or nothing came in time (silent), or nonsense came (garbled)."""

    def __init__(self, how, detail=""):
        self.how, self.detail = how, detail

    def __repr__(self):
        return f"End({self.how} {self.detail})"


class Slot:
    def __init__(self):
        self.connection = None
        self.session = 0
        self.password = b""
        self.generation = 0  # how many sessions this slot has had


class Player:
    def __init__(self, server, slots):
        self.server = server
        self.slots = [Slot() for _ in range(slots)]
        self.sessions = {}  # session id -> "s<slot>.<generation>", the name both servers share
        self.zxid = 0  # the largest zxid seen in any reply

    def forget(self):
        for slot in self.slots:
            if slot.connection:
                slot.connection.close()

    def seen(self, which):
        return {"zero": 0, "last": self.zxid, "ahead": self.zxid + 1000}[which]

    def read(self, slot, until):
        """Appends to the slot's log what arrives until `until(item)` or the connection's end; returns that end."""
        connection = slot.connection
        if connection is None:
            return End("closed")
        try:
            while True:
                item = connection.next()
                if isinstance(item, wire.Reply):
                    self.zxid = max(self.zxid, item.zxid)
                if until(item):
                    return None
        except wire.Closed:
            end = End("closed")
        except TimeoutError:
            end = End("silent", f"no answer to {[wire.OP_NAMES.get(op, op) for _, op in connection.expected]}")
        except (ValueError, EOFError, OverflowError) as error:
            end = End("garbled", str(error))
        connection.log.append(end)
        connection.close()
        slot.connection = None
        return end

    def take(self, connection):
        items, connection.log = connection.log, []
        return items

    def handshake(self, slot, timeout, session=0, password=b"\0" * 16, last_zxid=0, read_only=False):
        """A new connection for the slot, and what the handshake brought."""
        connection = self.server.connect()
        try:
            answer = connection.connect(timeout, session, password, last_zxid, read_only)
        except wire.Closed:
            return [End("closed")]
        except TimeoutError:
            return [End("silent")]
        if answer.session == 0:
            try:
                connection.read_frame()
                return [answer, End("garbled", "a frame behind the refusal")]
            except wire.Closed:
                return [answer, End("closed")]
            except TimeoutError:
                return [answer, End("silent", "refused but not closed")]
        slot.connection = connection
        return [answer]

    def step(self, step, back):
        """Plays the step; returns {slot number: [items]} (slot -1: a connection that belongs to none)."""
        do, number = step["do"], step.get("slot", -1)
        slot = self.slots[number] if number >= 0 else Slot()
        before = [s.connection for s in self.slots]
        out = []
        if do == "open":
            if slot.connection:
                return {}
            out = self.handshake(slot, step["timeout"], 0, data_of(step["password"]), self.seen(step["seen"]),
                                 step["read_only"])
            if slot.connection:
                slot.session, slot.password = out[0].session, out[0].password
                slot.generation += 1
                self.sessions[slot.session] = f"s{number}.{slot.generation}"
        elif do == "attach":
            if slot.connection or not slot.session:
                return {}
            password = {"right": slot.password, "wrong": b"\x01" * 16, "short": b"\x01", "null": None}[step["password"]]
            out = self.handshake(slot, step["timeout"], slot.session, password, self.seen(step["seen"]))
        elif do == "attach_unknown":
            out = self.handshake(Slot(), 30000, step["session"], wire.session_password(step["session"]))
        elif do == "steal":
            if not slot.connection:
                return {}
            old = slot.connection
            out = self.handshake(slot, 300000, slot.session, slot.password)
            thief, slot.connection = slot.connection, old
            self.read(slot, lambda item: False)
            out = self.take(old) + out
            slot.connection = thief
        elif not slot.connection:
            return {}
        elif do == "drop":
            slot.connection.drop()
            slot.connection = None
        elif do == "close":
            connection = slot.connection
            connection.post(wire.CLOSE_SESSION)
            self.read(slot, lambda item: isinstance(item, wire.Reply))
            connection.socket.settimeout(2.0)
            self.read(slot, lambda item: False)
            out = self.take(connection)
        elif do == "fatal":
            connection = slot.connection
            code, record = encode(step["request"], back)
            connection.post(code, record, xid_of(step["request"], None))
            if code == wire.CHECK:
                # The one request that some versions execute without an answer: a ping's reply stands for it.
                try:
                    connection.post(wire.PING, xid=wire.PING_XID)
                except wire.Closed:
                    pass
                self.read_loosely(slot)
            else:
                self.read(slot, lambda item: False)
            out = self.take(connection)
            if slot.connection:
                connection.drop()
                slot.connection = None
        elif do == "batch":
            connection = slot.connection
            burst = bytearray()
            for request in step["requests"]:
                code, record = encode(request, back)
                xid = xid_of(request, None)
                if xid is None:
                    xid, connection.next_xid = connection.next_xid, connection.next_xid + 1
                connection.expected.append((xid, code))
                burst += wire.request(xid, code, record)
            try:
                connection.send_raw(bytes(burst))
            except wire.Closed:
                pass
            self.read(slot, lambda item: not connection.expected)
            out = self.take(connection)
        else:
            raise ValueError(f"script names an unknown step {do}")
        result = {number: out}
        self.settle(number, result)
        for other, connection in enumerate(before):
            if other != number and connection is not None and self.slots[other].connection is None:
                result.setdefault(other, []).append(End("closed"))
        return result

    def read_loosely(self, slot):
        connection = slot.connection
        try:
            while True:
                reader = wire.Reader(connection.read_frame())
                xid, zxid, err = reader.i32(), reader.i64(), reader.i32()
                if xid == wire.EVENT_XID:
                    connection.log.append(wire.Event(zxid, reader.i32(), reader.i32(), reader.string()))
                    continue
                self.zxid = max(self.zxid, zxid)
                op = wire.PING if xid == wire.PING_XID else wire.CHECK
                connection.log.append(wire.Reply(xid, zxid, err, op, reader.rest()))
                if op == wire.PING:
                    return
        except wire.Closed:
            connection.log.append(End("closed"))
        except TimeoutError:
            connection.log.append(End("silent"))
        connection.close()
        slot.connection = None

    def settle(self, number, result):
        """Pings on all other slots: the events of this step precede the pings' replies."""
        others = [(i, s) for i, s in enumerate(self.slots) if i != number and s.connection]
        for _, slot in others:
            try:
                slot.connection.post(wire.PING, xid=wire.PING_XID)
            except wire.Closed:
                pass
        for i, slot in others:
            connection = slot.connection
            self.read(slot, lambda item: isinstance(item, wire.Reply) and item.op == wire.PING)
            result[i] = self.take(connection)

"""ZooKeeper's client protocol, byte for byte, over a plain blocking socket.

No client library stands between a test and the server here, so a test can send what no library would send (a bad flag, a
truncated body, requests before the handshake's answer) and sees everything that arrives, events and replies in their
order on the wire. What the records look like is Apache's `zookeeper.jute`.
"""

import base64
import hashlib
import re
import socket
import struct

# Opcodes.
(CREATE, DELETE, EXISTS, GET_DATA, SET_DATA, GET_ACL, SET_ACL, GET_CHILDREN, SYNC) = range(1, 10)
PING, GET_CHILDREN2, CHECK, MULTI, CREATE2, RECONFIG, CHECK_WATCHES, REMOVE_WATCHES = 11, 12, 13, 14, 15, 16, 17, 18
CREATE_CONTAINER, DELETE_CONTAINER, CREATE_TTL, MULTI_READ = 19, 20, 21, 22
AUTH, SET_WATCHES, SASL, GET_EPHEMERALS, GET_ALL_CHILDREN_NUMBER, SET_WATCHES2, ADD_WATCH, WHO_AM_I = range(100, 108)
CREATE_SESSION, CLOSE_SESSION = -10, -11

OP_NAMES = {
    CREATE: "create", DELETE: "delete", EXISTS: "exists", GET_DATA: "getData", SET_DATA: "setData", GET_ACL: "getACL",
    SET_ACL: "setACL", GET_CHILDREN: "getChildren", SYNC: "sync", PING: "ping", GET_CHILDREN2: "getChildren2",
    CHECK: "check", MULTI: "multi", CREATE2: "create2", RECONFIG: "reconfig", CHECK_WATCHES: "checkWatches",
    REMOVE_WATCHES: "removeWatches", CREATE_CONTAINER: "createContainer", DELETE_CONTAINER: "deleteContainer",
    CREATE_TTL: "createTTL", MULTI_READ: "multiRead", AUTH: "auth", SET_WATCHES: "setWatches", SASL: "sasl",
    GET_EPHEMERALS: "getEphemerals", GET_ALL_CHILDREN_NUMBER: "getAllChildrenNumber", SET_WATCHES2: "setWatches2",
    ADD_WATCH: "addWatch", WHO_AM_I: "whoAmI", CREATE_SESSION: "createSession", CLOSE_SESSION: "closeSession",
}
OPS = {name: code for code, name in OP_NAMES.items()}

# Error codes that the tests speak about.
OK, RUNTIME_INCONSISTENCY, MARSHALLING_ERROR, UNIMPLEMENTED, BAD_ARGUMENTS = 0, -2, -5, -6, -8
NO_NODE, NO_AUTH, BAD_VERSION, NO_CHILDREN_FOR_EPHEMERALS, NODE_EXISTS, NOT_EMPTY = -101, -102, -103, -108, -110, -111
SESSION_EXPIRED, INVALID_ACL, AUTH_FAILED, NO_WATCHER = -112, -114, -115, -121

EVENT_XID, PING_XID, AUTH_XID, SET_WATCHES_XID = -1, -2, -4, -8
EVENT_NAMES = {1: "NodeCreated", 2: "NodeDeleted", 3: "NodeDataChanged", 4: "NodeChildrenChanged"}

OPEN_ACL = [(31, "world", "anyone")]
STAT_FIELDS = ("czxid", "mzxid", "ctime", "mtime", "version", "cversion", "aversion", "ephemeralOwner", "dataLength",
               "numChildren", "pzxid")
_STAT = struct.Struct(">qqqqiiiqiiq")

# What a client takes in one frame before it calls the stream broken; far above any reply of the tests.
MAX_FRAME = 64 << 20


class Closed(Exception):
    """The server closed (or reset) the connection."""


# Encoding ---------------------------------------------------------------------------------------------------------

def i32(value):
    return struct.pack(">i", value)


def i64(value):
    return struct.pack(">q", value)


def boolean(value):
    return b"\x01" if value else b"\x00"


def buffer(value):
    return i32(-1) if value is None else i32(len(value)) + value


def string(value):
    """A ustring; `bytes` pass unchanged, so that malformed UTF-8 can be sent."""
    return buffer(value.encode() if isinstance(value, str) else value)


def vector(items, encode):
    return i32(-1) if items is None else i32(len(items)) + b"".join(encode(item) for item in items)


def strings(items):
    return vector(items, string)


def acl(entries):
    return vector(entries, lambda e: i32(e[0]) + string(e[1]) + string(e[2]))


def digest_id(credential):
    """The digest scheme's id of `user:password`."""
    user = credential.split(":", 1)[0]
    return user + ":" + base64.b64encode(hashlib.sha1(credential.encode()).digest()).decode()


def create_record(path, data=b"", entries=OPEN_ACL, flags=0):
    return string(path) + buffer(data) + acl(entries) + i32(flags)


def multi_record(ops):
    """`ops`: (opcode, record) pairs."""
    return b"".join(i32(op) + b"\x00" + i32(-1) + record for op, record in ops) + i32(-1) + b"\x01" + i32(-1)


def frame(payload):
    return i32(len(payload)) + payload


def request(xid, op, record=b""):
    return frame(i32(xid) + i32(op) + record)


def connect_record(timeout, session=0, password=b"\0" * 16, last_zxid=0, read_only=False):
    """`read_only=None` leaves the flag out, as clients older than 3.4 do."""
    head = i32(0) + i64(last_zxid) + i32(timeout) + i64(session) + buffer(password)
    return head if read_only is None else head + boolean(read_only)


def session_password(session):
    """The password that ZooKeeper derives from a session's id (java.util.Random, four draws)."""
    mask = (1 << 48) - 1
    state = ((session ^ 0xB3415C00) ^ 0x5DEECE66D) & mask
    out = b""
    for _ in range(4):
        state = (state * 0x5DEECE66D + 0xB) & mask
        out += struct.pack("<I", (state >> 16) & 0xFFFFFFFF)
    return out


# Decoding ---------------------------------------------------------------------------------------------------------

def is_text(value):
    try:
        value.decode("utf-8", "surrogatepass")
        return True
    except UnicodeDecodeError:
        return False


class Reader:
    """Reads a received record; running past the end raises `struct.error` or `EOFError`."""

    def __init__(self, data):
        self.data, self.at = data, 0

    def take(self, n):
        if n < 0 or self.at + n > len(self.data):
            raise EOFError(f"record of {len(self.data)} bytes ends before {self.at}+{n}")
        self.at += n
        return self.data[self.at - n:self.at]

    def i32(self):
        return struct.unpack(">i", self.take(4))[0]

    def i64(self):
        return struct.unpack(">q", self.take(8))[0]

    def boolean(self):
        return self.take(1) != b"\0"

    def buffer(self):
        n = self.i32()
        return None if n == -1 else self.take(n)

    def string(self):
        """Text. Servers may echo a supplementary character as two surrogates and malformed bytes as U+FFFD or as they
        came; all of these read the same here."""
        value = self.buffer()
        if value is None:
            return None
        text = value.decode("utf-8", "surrogatepass") if is_text(value) else value.decode("utf-8", "replace")
        return re.sub("\ufffd+", "\ufffd", text.encode("utf-16", "surrogatepass").decode("utf-16", "replace"))

    def strings(self):
        n = self.i32()
        return None if n == -1 else [self.string() for _ in range(n)]

    def acl(self):
        return [(self.i32(), self.string(), self.string()) for _ in range(self.i32())]

    def stat(self):
        return dict(zip(STAT_FIELDS, _STAT.unpack(self.take(68))))

    def rest(self):
        return self.take(len(self.data) - self.at)


def read_results(reader):
    """The results of a multi or multiRead: (type, header error, body) triples."""
    results = []
    while True:
        kind, done, err = reader.i32(), reader.boolean(), reader.i32()
        if done:
            return results
        body = {}
        if kind == -1:
            body["err"] = reader.i32()
        elif kind == CREATE:
            body["path"] = reader.string()
        elif kind == CREATE2:
            body["path"] = reader.string()
            body["stat"] = reader.stat()
        elif kind == SET_DATA:
            body["stat"] = reader.stat()
        elif kind == GET_CHILDREN:
            body["children"] = reader.strings()
        elif kind == GET_DATA:
            body["data"] = reader.buffer()
            body["stat"] = reader.stat()
        results.append((kind, err, body))


def decode_body(op, reader):
    """The body of a successful reply to `op` as a dict of named fields."""
    if op in (CREATE, SYNC):
        return {"path": reader.string()}
    if op in (CREATE2, CREATE_CONTAINER, CREATE_TTL):
        return {"path": reader.string(), "stat": reader.stat()}
    if op in (EXISTS, SET_DATA, SET_ACL):
        return {"stat": reader.stat()}
    if op in (GET_DATA, RECONFIG):
        return {"data": reader.buffer(), "stat": reader.stat()}
    if op == GET_ACL:
        return {"acl": reader.acl(), "stat": reader.stat()}
    if op == GET_CHILDREN:
        return {"children": reader.strings()}
    if op == GET_CHILDREN2:
        return {"children": reader.strings(), "stat": reader.stat()}
    if op in (MULTI, MULTI_READ):
        return {"results": read_results(reader)}
    if op == GET_EPHEMERALS:
        return {"paths": reader.strings()}
    if op == GET_ALL_CHILDREN_NUMBER:
        return {"count": reader.i32()}
    if op == ADD_WATCH:
        return {"zero": reader.i32()}
    if op == WHO_AM_I:
        return {"ids": [(reader.string(), reader.string()) for _ in range(reader.i32())]}
    if op == SASL:
        return {"token": reader.buffer()}
    return {}


class Reply:
    """One reply frame. `body` is decoded for a success, and raw bytes behind `extra` for whatever else was there."""

    def __init__(self, xid, zxid, err, op, payload):
        self.xid, self.zxid, self.err, self.op = xid, zxid, err, op
        self.body, self.extra = {}, b""
        reader = Reader(payload)
        if err == OK:
            self.body = decode_body(op, reader)
        self.extra = reader.rest()

    def __repr__(self):
        return f"Reply({OP_NAMES.get(self.op, self.op)} xid={self.xid} zxid={self.zxid:#x} err={self.err} {self.body})"


class Event:
    def __init__(self, zxid, kind, state, path):
        self.zxid, self.kind, self.state, self.path = zxid, kind, state, path

    def __repr__(self):
        return f"Event({EVENT_NAMES.get(self.kind, self.kind)} {self.path} zxid={self.zxid:#x})"


class Handshake:
    def __init__(self, payload):
        reader = Reader(payload)
        self.protocol, self.timeout, self.session, self.password = (
            reader.i32(), reader.i32(), reader.i64(), reader.buffer())
        self.read_only = reader.boolean() if reader.at < len(payload) else None
        self.length = len(payload)


class Connection:
    """One TCP connection. Nothing is answered, pinged or repaired behind the test's back."""

    def __init__(self, host, port, timeout=10.0):
        self.socket = socket.create_connection((host, port), timeout)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.received = bytearray()
        self.handshake = None
        self.expected = []  # (xid, op) of requests without a reply yet
        self.events = []  # events in their order, taken by the test
        self.log = []  # replies and events in their common order
        self.next_xid = 1

    # Bytes

    def send_raw(self, data):
        try:
            self.socket.sendall(data)
        except (BrokenPipeError, ConnectionResetError) as error:
            raise Closed(str(error)) from error

    def read_frame(self):
        """The next frame's payload; `Closed` at the end of the stream, `TimeoutError` when nothing comes."""
        while True:
            if len(self.received) >= 4:
                (n,) = struct.unpack_from(">i", self.received)
                if not 0 <= n <= MAX_FRAME:
                    raise ValueError(f"frame length {n} from the server")
                if len(self.received) >= 4 + n:
                    payload = bytes(self.received[4:4 + n])
                    del self.received[:4 + n]
                    return payload
            try:
                chunk = self.socket.recv(65536)
            except (ConnectionResetError, BrokenPipeError) as error:
                raise Closed(str(error)) from error
            if not chunk:
                raise Closed(f"end of stream, {len(self.received)} bytes of a frame received")
            self.received += chunk

    def close(self):
        """Ends the TCP connection without ending the session."""
        self.socket.close()

    def drop(self):
        """Ends the TCP connection and waits until the server has noticed, so that its watches are gone there.

        Apache now and then lets a half-closed connection lie, so the wait ends after a second."""
        try:
            self.socket.settimeout(1.0)
            self.socket.shutdown(socket.SHUT_WR)
            while self.socket.recv(65536):
                pass
        except OSError:
            pass
        self.socket.close()

    # Handshake

    def connect(self, timeout=30000, session=0, password=b"\0" * 16, last_zxid=0, read_only=False):
        self.send_raw(frame(connect_record(timeout, session, password, last_zxid, read_only)))
        self.handshake = Handshake(self.read_frame())
        return self.handshake

    @property
    def session(self):
        return self.handshake.session

    # Requests

    def post(self, op, record=b"", xid=None):
        """Sends a request and returns its xid; its reply is read by `next` or `reply_to`."""
        if xid is None:
            xid, self.next_xid = self.next_xid, self.next_xid + 1
        self.expected.append((xid, op))
        self.send_raw(request(xid, op, record))
        return xid

    def next(self):
        """The next reply or event."""
        reader = Reader(self.read_frame())
        xid, zxid, err = reader.i32(), reader.i64(), reader.i32()
        if xid == EVENT_XID:
            item = Event(zxid, reader.i32(), reader.i32(), reader.string())
            self.events.append(item)
        else:
            if not self.expected:
                raise ValueError(f"reply to xid {xid} that nobody asked for")
            # An auth reply may overtake requests still in the pipeline; everything else comes in order.
            index = next((i for i, (x, _) in enumerate(self.expected) if x == xid), 0) if xid == AUTH_XID else 0
            want, op = self.expected.pop(index)
            if want != xid:
                raise ValueError(f"reply to xid {xid} where {want} ({OP_NAMES.get(op, op)}) is due")
            item = Reply(xid, zxid, err, op, reader.rest())
        self.log.append(item)
        return item

    def reply_to(self, xid):
        """Reads up to the reply to `xid`; what comes before stays in `log`."""
        while True:
            item = self.next()
            if isinstance(item, Reply) and item.xid == xid:
                return item

    def call(self, op, record=b"", xid=None):
        return self.reply_to(self.post(op, record, xid))

    # The common requests by name

    def create(self, path, data=b"", entries=OPEN_ACL, flags=0):
        return self.call(CREATE, create_record(path, data, entries, flags))

    def get(self, path, watch=False):
        return self.call(GET_DATA, string(path) + boolean(watch))

    def exists(self, path, watch=False):
        return self.call(EXISTS, string(path) + boolean(watch))

    def set(self, path, data, version=-1):
        return self.call(SET_DATA, string(path) + buffer(data) + i32(version))

    def delete(self, path, version=-1):
        return self.call(DELETE, string(path) + i32(version))

    def children(self, path, watch=False):
        return self.call(GET_CHILDREN2, string(path) + boolean(watch))

    def ping(self):
        return self.call(PING, xid=PING_XID)

    def multi(self, ops):
        return self.call(MULTI, multi_record(ops))

    def close_session(self):
        reply = self.call(CLOSE_SESSION)
        self.socket.close()
        return reply


def four_letter_word(host, port, word, timeout=5.0):
    with socket.create_connection((host, port), timeout) as s:
        s.sendall(word.encode())
        out = b""
        while chunk := s.recv(65536):
            out += chunk
        return out.decode()

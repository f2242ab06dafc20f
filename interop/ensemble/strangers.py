"""Strangers on the peer ports: clients, scanners, garbage. The servers live, and the quorum is undisturbed."""

import random
import socket
import struct
import time

import wire
from clients import Load, demand, wait_for

MIB = 1 << 20
# What a server may grow by while strangers talk to it; the load itself makes it grow a little.
GROWN = 64 * MIB
HELLO, ADDRESS = -65536, b"1.2.3.4:5"  # the election port's handshake: version, id, length, address


def bad_input(rng):
    """(name, bytes) of what is sent on each peer port."""
    hello = struct.pack(">qqi", HELLO, 1, len(ADDRESS)) + ADDRESS
    # Whole and well-formed, but of nobody that is configured: who claims to be a member can only be told by authentication.
    packet = struct.pack(">iqi", 11, 0, 20) + struct.pack(">qiq", 99, 0x10000, 0) + struct.pack(">i", -1)
    vote = struct.pack(">iqqqqii", 0, 9, 1 << 60, 1 << 60, 1 << 30, 2, 0)
    nobody = struct.pack(">qqi", HELLO, 99, len(ADDRESS)) + ADDRESS
    session = wire.frame(wire.connect_record(6000))
    return [
        ("nothing", b""), ("one byte", b"\0"), ("HTTP", b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"), ("a four-letter word", b"ruok"),
        ("ones", b"\xff" * 64), ("zeros", bytes(4096)), ("TLS", b"\x16\x03\x01\x02\0\x01\0" * 20),
        ("a client's handshake", session),
        ("a client's session", session + wire.request(1, wire.CREATE, wire.create_record("/stranger"))),
        ("a client's old handshake", wire.frame(wire.connect_record(6000, read_only=None))),
        ("half a hello", hello[:10]), ("a hello of nobody", nobody), ("a hello with a huge address", struct.pack(">qqi", HELLO, 1, 1 << 30)),
        ("a hello with an address of -1", struct.pack(">qqi", HELLO + 1, 1, -1)), ("an old hello of nobody", struct.pack(">q", 77)),
        ("a vote of nobody", nobody + struct.pack(">i", len(vote)) + vote), ("a huge vote", nobody + struct.pack(">i", 0x7fffffff)),
        ("a vote of -1 bytes", nobody + struct.pack(">i", -1)),
        ("a packet of nobody, half", packet[:20]), ("a short packet", packet[:16] + b"\0" * 3),
        ("a packet with huge data", struct.pack(">iqi", 11, 0, 0x7fffffff) + bytes(MIB)),
        ("a proposal out of order", struct.pack(">iqi", 2, 1, -1) + struct.pack(">i", -1)), ("a packet twice", packet + packet),
        ("a packet of nobody, then an epoch", packet + struct.pack(">iqii", 18, 0, -1, -1)), ("no such packet", struct.pack(">iqii", 99, 0, -1, -1)),
        ("huge credentials", struct.pack(">iqii", 11, -1, -1, 0x7fffffff) + bytes(1000)),
        ("noise", rng.randbytes(100_000)), ("much noise", rng.randbytes(8 * MIB)),
    ]


def send(address, data):
    """Sends as much as the server takes, and hangs up."""
    with socket.create_connection(address, 5) as connection:
        connection.settimeout(1.0)
        try:
            connection.sendall(data)
        except OSError:
            pass


def strangers(s):
    """Bad input on the peer ports: the servers live, the quorum is undisturbed, memory is bounded."""
    e = s.ensemble([s.command] * 3)
    leader = e.start()
    load = Load(e, s.options.seed, pause=0.002)
    load.wait_each(load.writers)
    before = {m: (m.memory(), m.open_files()) for m in e}
    rng = random.Random(s.options.seed)
    stuff = bad_input(rng)
    ports = [(m.host, port) for m in e for port in e.network.ports[m.number]]
    held = []
    try:
        for address in ports:
            for _, data in stuff:
                send(address, data)
            # Callers that say nothing, or stop in the middle, and hang on; and one that has much more to say than it says.
            for number in range(50):
                connection = socket.create_connection(address, 5)
                held.append(connection)
                connection.sendall(stuff[number % len(stuff)][1][:8])
        # A scanner opens and closes.
        for _ in range(200):
            for address in ports:
                socket.create_connection(address, 5).close()
        load.wait(100)
        demand(leader.mode() == "leader", "another server leads")
        until = time.monotonic() + 2.0
        while time.monotonic() < until:
            for connection in held[::10]:
                try:
                    connection.send(b"\0")
                except OSError:
                    pass
            time.sleep(0.05)
        for member in e:
            demand(member.running(), f"server {member.number} is gone: {member.tail()}")
            grown = member.memory() - before[member][0]
            demand(grown < GROWN, f"server {member.number} grew by {grown // MIB} MiB")
    finally:
        for connection in held:
            connection.close()
    demand(wait_for(lambda: all(m.open_files() <= before[m][1] + 20 for m in e), 30.0),
           f"descriptors stay open: {[(before[m][1], m.open_files()) for m in e]}")
    load.wait(100)
    demand(leader.mode() == "leader", "another server leads")
    moves = sum(w.moves for w in load.writers)
    demand(moves == 0, f"clients had to reconnect {moves} times")
    grown = max(m.memory() - before[m][0] for m in e) // MIB
    load.end()
    load.audit(e)
    connection = leader.session()
    demand(connection.exists("/stranger").err == wire.NO_NODE, "a client was served on a peer port")
    connection.close_session()
    s.say(f"{len(ports)} ports × {len(stuff)} kinds of input and 200 scans, {len(held)} that hang on; no server grew by more than"
          f" {grown + 1} MiB; {load.acknowledged()} writes, no other leader, no client noticed")

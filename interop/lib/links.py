"""Proxies for the links between the servers of an ensemble, all of them in one process.

    links.py '[[from, to, port, target port], ...]'

Listens on each port of 127.0.0.1 and passes on what comes to the target port. Standard input takes commands: `cut A B`
(nothing goes from server A to server B any more, neither bytes nor the end of a stream; it stays here until the link is
joined), `join A B`; each is answered `ok` when it is in effect. Ends with its input.
"""

import json
import selectors
import socket
import sys

# What one direction of a connection holds that its target does not take; as much again waits in the sockets.
HELD = 1 << 20


class Way:
    """One direction of a connection: what is read from `source` goes to `target`."""

    def __init__(self, link, source, target):
        self.link, self.source, self.target = link, source, target
        self.held = bytearray()
        self.ended = self.told = False  # the source has ended; the target has been told


class Connection:
    """A connection that one server dialled to another, and what the proxy dialled for it."""

    def __init__(self, dialler, server, port, caller):
        self.dialler, self.server, self.port, self.caller = dialler, server, port, caller
        self.callee = None
        self.ways = []

    def sockets(self):
        return [s for s in (self.caller, self.callee) if s is not None]


class Links:
    def __init__(self, links):
        self.selector = selectors.DefaultSelector()
        self.cut = set()
        self.connections = set()
        self.masks = {}
        for dialler, server, port, target in links:
            listener = socket.socket()
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(("127.0.0.1", port))
            listener.listen(64)
            listener.setblocking(False)
            self.selector.register(listener, selectors.EVENT_READ, (self.accept, (dialler, server, target)))
        self.selector.register(sys.stdin, selectors.EVENT_READ, (self.command, None))

    def run(self):
        print("ok", flush=True)
        while True:
            for key, mask in self.selector.select():
                do, what = key.data
                if do == self.move:
                    do(what)
                else:
                    do(key.fileobj, what)

    def command(self, stdin, _):
        words = stdin.readline().split()
        if not words:
            sys.exit(0)
        link = (int(words[1]), int(words[2]))
        (self.cut.add if words[0] == "cut" else self.cut.discard)(link)
        for connection in list(self.connections):
            if {connection.dialler, connection.server} == set(link):
                self.move(connection)
        print("ok", flush=True)

    def accept(self, listener, link):
        try:
            caller, _ = listener.accept()
        except OSError:
            return
        dialler, server, port = link
        connection = Connection(dialler, server, port, caller)
        caller.setblocking(False)
        caller.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.connections.add(connection)
        self.move(connection)

    def is_cut(self, connection, both=False):
        there, back = (connection.dialler, connection.server), (connection.server, connection.dialler)
        return there in self.cut or (both and back in self.cut)

    def move(self, connection):
        """Does what can be done for a connection, and waits for what can be next."""
        try:
            if connection.callee is None:
                # A connection needs both ways to come about.
                if self.is_cut(connection, both=True):
                    return self.watch(connection.caller, 0, connection)
                callee = socket.create_connection(("127.0.0.1", connection.port), 5)
                callee.setblocking(False)
                callee.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                connection.callee = callee
                there, back = (connection.dialler, connection.server), (connection.server, connection.dialler)
                connection.ways = [Way(there, connection.caller, callee), Way(back, callee, connection.caller)]
            for way in connection.ways:
                if way.link not in self.cut:
                    self.pump(way)
        except OSError:
            # Reset or refused: the other side hears of it too, unless it can't.
            return self.close(connection)
        if all(way.told for way in connection.ways):
            return self.close(connection)
        masks = dict.fromkeys(connection.sockets(), 0)
        for way in connection.ways:
            if way.link not in self.cut:
                if not way.ended and len(way.held) < HELD:
                    masks[way.source] |= selectors.EVENT_READ
                if way.held:
                    masks[way.target] |= selectors.EVENT_WRITE
        for stream, mask in masks.items():
            self.watch(stream, mask, connection)

    @staticmethod
    def pump(way):
        try:
            while not way.ended and len(way.held) < HELD:
                piece = way.source.recv(1 << 16)
                way.ended = not piece
                way.held += piece
                if len(piece) < 1 << 16:
                    break
        except BlockingIOError:
            pass
        try:
            while way.held:
                del way.held[:way.target.send(way.held)]
        except BlockingIOError:
            pass
        if way.ended and not way.held and not way.told:
            way.told = True
            way.target.shutdown(socket.SHUT_WR)

    def watch(self, stream, mask, connection):
        known = self.masks.get(stream)
        if known == (mask or None):
            return
        if not mask:
            self.selector.unregister(stream)
            del self.masks[stream]
        else:
            register = self.selector.register if known is None else self.selector.modify
            register(stream, mask, (self.move, connection))
            self.masks[stream] = mask

    def close(self, connection):
        self.connections.discard(connection)
        for stream in connection.sockets():
            self.watch(stream, 0, connection)
            stream.close()


if __name__ == "__main__":
    Links(json.loads(sys.argv[1])).run()

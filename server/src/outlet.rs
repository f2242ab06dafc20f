//! The way out to one socket: bytes wait here, and whoever has put some in writes out what the socket takes.

use crate::limits;
use mio::net::TcpStream;
use parking_lot::Mutex;
use std::io::{ErrorKind, Write};
use std::net::{Shutdown, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// A socket with the bytes that wait for it. Nobody holds it locked while it waits for anything.
pub struct Outlet {
    stream: TcpStream,
    peer: SocketAddr,
    out: Mutex<OutBuf>,
    /// It is cut when more bytes than this wait.
    max: usize,
    /// The last request says goodbye, or the server does: close when the outbox has drained.
    close_after_flush: AtomicBool,
    /// The socket has been shut down.
    cut: AtomicBool,
    /// What has left.
    pub sent: Sent,
}

/// What a socket took.
#[derive(Default)]
pub struct Sent {
    /// Bytes, since the connection began.
    pub bytes: AtomicU64,
    /// Bytes of the last flush.
    pub last: AtomicU64,
    /// Bytes of the largest flush.
    pub max: AtomicU64,
    /// Bytes of what was appended last.
    pub appended: AtomicU64,
}

impl Sent {
    /// One thread at a time writes to a socket: plain loads and stores count right.
    fn flushed(&self, bytes: u64) {
        self.bytes.store(self.bytes.load(Ordering::Relaxed).wrapping_add(bytes), Ordering::Relaxed);
        self.last.store(bytes, Ordering::Relaxed);
        if bytes > self.max.load(Ordering::Relaxed) {
            self.max.store(bytes, Ordering::Relaxed);
        }
    }
}

/// Bytes on their way.
#[derive(Default)]
struct OutBuf {
    bytes: Vec<u8>,
    /// A buffer to swap in, so that a busy connection allocates nothing.
    spare: Vec<u8>,
    /// A thread is writing a buffer that it took away.
    writing: bool,
    /// The socket became writable while `writing`.
    again: bool,
    /// The socket is full: the owner flushes when it is writable again.
    blocked: bool,
    /// Bytes of the buffer that was taken away.
    taken: usize,
}

/// What a flush led to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Flush {
    /// Everything has left, or somebody else is at it.
    Done,
    /// The socket is full.
    Blocked,
    /// The connection is broken, or was to be closed when drained.
    Closed,
}

impl Outlet {
    /// The way out to `stream`, which is cut when `max` bytes wait for it.
    pub fn new(stream: TcpStream, peer: SocketAddr, max: usize) -> Outlet {
        Outlet {
            stream,
            peer,
            out: Mutex::default(),
            max,
            close_after_flush: AtomicBool::new(false),
            cut: AtomicBool::new(false),
            sent: Sent::default(),
        }
    }

    /// The socket, for its owner to read.
    pub fn stream(&self) -> impl std::io::Read {
        &self.stream
    }

    /// Lets `fill` append bytes, unless the connection is cut.
    pub fn append_with(&self, fill: &mut dyn FnMut(&mut Vec<u8>)) {
        if self.is_cut() {
            return;
        }
        let mut out = self.out.lock();
        let before = out.bytes.len();
        fill(&mut out.bytes);
        self.sent.appended.store((out.bytes.len() - before) as u64, Ordering::Relaxed);
        if out.bytes.len() > self.max {
            // Somebody who does not read while events and replies pour in would cost memory without end.
            drop(out);
            tracing::warn!(peer = %self.peer, "cut off: it does not read what it is sent");
            self.cut();
        }
    }

    /// Bytes that have not left yet.
    pub fn unsent(&self) -> usize {
        let out = self.out.lock();
        out.bytes.len() + out.taken
    }

    /// Whether the connection ends as soon as what was written to it has left.
    pub fn is_closing(&self) -> bool {
        self.close_after_flush.load(Ordering::Acquire)
    }

    /// Closes the connection once everything written to it has left.
    pub fn close_when_flushed(&self) {
        self.close_after_flush.store(true, Ordering::Release);
    }

    /// Whether the connection has been cut off.
    pub fn is_cut(&self) -> bool {
        self.cut.load(Ordering::Acquire)
    }

    /// Cuts the connection off; its owner sees the end and cleans up.
    pub fn cut(&self) {
        // Once: each shutdown raises events, and an event must not lead to the next shutdown.
        if !self.cut.swap(true, Ordering::AcqRel) {
            // A socket that is gone already is what we want.
            let _ = self.stream.shutdown(Shutdown::Both);
        }
    }

    /// Writes what there is to the socket. The outbox is unlocked while the kernel copies, so that whoever has
    /// an event for this connection never waits for its socket.
    pub fn flush(&self) -> Flush {
        let mut out = self.out.lock();
        if out.writing {
            return Flush::Done;
        }
        if out.blocked {
            return Flush::Blocked;
        }
        while !out.bytes.is_empty() {
            let spare = std::mem::take(&mut out.spare);
            let mut bytes = std::mem::replace(&mut out.bytes, spare);
            out.writing = true;
            out.taken = bytes.len();
            drop(out);
            let (written, end) = self.write_out(&bytes);
            self.sent.flushed(written as u64);
            out = self.out.lock();
            out.writing = false;
            out.taken = 0;
            if written == bytes.len() {
                bytes.clear();
                if bytes.capacity() <= limits::OUTBOX_KEEP {
                    out.spare = bytes;
                }
                continue;
            }
            bytes.drain(..written);
            bytes.extend_from_slice(&out.bytes);
            out.bytes = bytes;
            match end {
                ErrorKind::WouldBlock if std::mem::take(&mut out.again) => {}
                ErrorKind::WouldBlock => {
                    out.blocked = true;
                    return Flush::Blocked;
                }
                _ => {
                    drop(out);
                    self.cut();
                    return Flush::Closed;
                }
            }
        }
        drop(out);
        if self.is_closing() {
            self.cut();
            return Flush::Closed;
        }
        Flush::Done
    }

    /// The owner has seen that the socket takes bytes again.
    pub fn on_writable(&self) -> Flush {
        let mut out = self.out.lock();
        if out.writing {
            out.again = true;
            return Flush::Done;
        }
        out.blocked = false;
        drop(out);
        self.flush()
    }

    fn write_out(&self, bytes: &[u8]) -> (usize, ErrorKind) {
        let mut written = 0;
        while written < bytes.len() {
            match (&self.stream).write(&bytes[written..]) {
                Ok(0) => return (written, ErrorKind::WriteZero),
                Ok(n) => written += n,
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) => return (written, e.kind()),
            }
        }
        (written, ErrorKind::Other)
    }
}

//! A server that answers at once and stores nothing: what the client and the network alone cost.
//!
//! The difference between a run against it and a run against a server is the server. One thread per
//! connection, blocking: the shortest way from a request to its reply.

use super::wire;
use proto::client::{
    self, ConnectRequest, ConnectResponse, MultiOp, MultiResult, OpCode, RequestHeader, WriteOp,
};
use proto::jute::{Put, Reader, begin_frame, end_frame};
use proto::{SessionId, Stat, Xid, Zxid};
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::thread;

/// The bytes read at once.
const READ_BUFFER: usize = 64 << 10;
/// The longest frame that is taken, as in a real server.
const FRAME_MAX: usize = 1 << 20;
/// The length of the value that every getData gets.
const VALUE_LEN: usize = 100;

/// What decides the error code of each answer, 0 for success.
pub type Verdict = dyn Fn(OpCode) -> i32 + Send + Sync;

/// A listening mirror.
pub struct Mirror {
    listener: TcpListener,
    verdict: Arc<Verdict>,
    counter: Arc<AtomicI64>,
}

impl std::fmt::Debug for Mirror {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Mirror({:?})", self.listener)
    }
}

impl Mirror {
    /// Listens on `address`; every answer has the error code that `verdict` gives.
    ///
    /// # Errors
    /// When the address can't be listened on.
    pub fn listen(address: &str, verdict: Arc<Verdict>) -> io::Result<Mirror> {
        Ok(Mirror { listener: TcpListener::bind(address)?, verdict, counter: Arc::default() })
    }

    /// Where it listens.
    ///
    /// # Errors
    /// When the system does not tell.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Serves until the process ends.
    ///
    /// # Errors
    /// When no more connections can be accepted.
    pub fn serve(&self) -> io::Result<()> {
        loop {
            let (stream, _) = self.listener.accept()?;
            let (verdict, counter) = (self.verdict.clone(), self.counter.clone());
            // A connection that ends, well or badly, concerns only its client.
            thread::Builder::new()
                .name("mirror".into())
                .spawn(move || drop(converse(stream, &*verdict, &counter)))?;
        }
    }
}

fn converse(mut stream: TcpStream, verdict: &Verdict, counter: &AtomicI64) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut buffer = vec![0; READ_BUFFER];
    let mut input = Vec::new();
    let mut out = Vec::new();
    let mut connected = false;
    loop {
        let n = stream.read(&mut buffer)?;
        if n == 0 {
            return Ok(());
        }
        input.extend_from_slice(&buffer[..n]);
        let mut at = 0;
        let mut closing = false;
        while let Some(len) = input.get(at..at + 4) {
            let len = u32::from_be_bytes([len[0], len[1], len[2], len[3]]) as usize;
            if len > FRAME_MAX {
                return Err(io::Error::from(io::ErrorKind::InvalidData));
            }
            let Some(frame) = input.get(at + 4..at + 4 + len) else { break };
            at += 4 + len;
            if connected {
                closing |= answer(frame, verdict, counter, &mut out).ok_or(io::ErrorKind::InvalidData)?;
            } else {
                greet(frame, counter, &mut out).ok_or(io::ErrorKind::InvalidData)?;
                connected = true;
            }
        }
        input.drain(..at);
        stream.write_all(&out)?;
        out.clear();
        if closing {
            return Ok(());
        }
    }
}

fn greet(frame: &[u8], counter: &AtomicI64, out: &mut Vec<u8>) -> Option<()> {
    let request = ConnectRequest::decode(frame).ok()?;
    ConnectResponse {
        timeout_ms: request.timeout_ms,
        session: SessionId(1 + counter.fetch_add(1, Ordering::Relaxed)),
        password: [0; 16],
        read_only: request.read_only.map(|_| false),
    }
    .encode_frame(out);
    Some(())
}

/// Answers one request; true when it was the last one of its session.
fn answer(frame: &[u8], verdict: &Verdict, counter: &AtomicI64, out: &mut Vec<u8>) -> Option<bool> {
    let mut r = Reader::new(frame);
    let head = RequestHeader::decode(&mut r).ok()?;
    let op = OpCode::from_wire(head.op)?;
    let err = verdict(op);
    let at = begin_frame(out);
    client::put_reply_header(out, head.xid, Zxid::from_u64(1), err);
    if err == 0 {
        match op {
            OpCode::SetData => Stat::default().encode(out),
            OpCode::GetData => {
                out.put_buffer(Some(&[b'v'; VALUE_LEN]));
                Stat::default().encode(out);
            }
            OpCode::GetChildren => out.put_count(0),
            OpCode::Create => {
                let Ok(WriteOp::Create(create)) = WriteOp::decode(op, &mut r)? else { return None };
                let sequential =
                    client::CreateMode::from_flags(create.flags).is_some_and(|m| m.is_sequential());
                match sequential {
                    true => out.put_str(&format!(
                        "{}{:010}",
                        create.path,
                        counter.fetch_add(1, Ordering::Relaxed)
                    )),
                    false => out.put_str(&create.path),
                }
            }
            OpCode::Multi => {
                let Ok(WriteOp::Multi(ops)) = WriteOp::decode(op, &mut r)? else { return None };
                for op in ops {
                    match op {
                        MultiOp::Create(c) => MultiResult::Create(c.path.into_owned().into()),
                        MultiOp::Delete { .. } => MultiResult::Delete,
                        MultiOp::SetData { .. } => MultiResult::SetData(Stat::default()),
                        MultiOp::Check { .. } => MultiResult::Check,
                    }
                    .encode(out);
                }
                wire::put_multi_tail(out);
            }
            // Everything else that a load sends is answered by a bare head.
            _ => {}
        }
    }
    end_frame(out, at);
    Some(op == OpCode::CloseSession && head.xid != Xid::PING)
}

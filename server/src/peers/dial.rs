//! Connecting: by a thread for each dial, since a name may take long to resolve.

use super::{Message, Peers};
use proto::ServerId;
use std::io;
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::sync::Arc;
use std::time::Duration;

/// What a connection is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Purpose {
    /// The election port of this server.
    Election(ServerId),
    /// The quorum port of this server.
    Quorum(ServerId),
}

/// How a dial ended.
pub(crate) struct Dialled {
    pub purpose: Purpose,
    pub result: io::Result<(TcpStream, SocketAddr)>,
}

/// Tries the addresses one after the other, each name with all that it stands for now; `timeout` bounds each try.
pub(crate) fn start(peers: Arc<Peers>, purpose: Purpose, addresses: Vec<(String, u16)>, timeout: Duration) {
    let told = peers.clone();
    let run = move || {
        let result = connect(&addresses, timeout);
        if let Err(e) = &result {
            tracing::debug!(?purpose, ?addresses, "a dial has failed: {e}");
        }
        told.tell(Message::Dialled(Dialled { purpose, result }));
    };
    // Without a thread to spare the dial has failed.
    if let Err(e) = std::thread::Builder::new().name("dial".into()).spawn(run) {
        peers.tell(Message::Dialled(Dialled { purpose, result: Err(e) }));
    }
}

fn connect(addresses: &[(String, u16)], timeout: Duration) -> io::Result<(TcpStream, SocketAddr)> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, "there is no address to call");
    for (host, port) in addresses {
        match (host.as_str(), *port).to_socket_addrs() {
            Err(e) => last = e,
            Ok(resolved) => {
                for address in resolved {
                    match TcpStream::connect_timeout(&address, timeout) {
                        Ok(stream) => return Ok((stream, address)),
                        Err(e) => last = e,
                    }
                }
            }
        }
    }
    Err(last)
}

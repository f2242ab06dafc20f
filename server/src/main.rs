//! `falconerd [ZOO_CFG]`: a ZooKeeper server.

use std::process::ExitCode;

fn main() -> ExitCode {
    server::command::run(std::env::args().skip(1).collect())
}

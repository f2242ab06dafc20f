//! Several servers in virtual time: machines with the real engine, disks that lose what was not written, a network that
//! breaks. After each event: replicas agree at equal zxids, a zxid stands for one txn, an epoch has one leader,
//! nothing is shown that is not durable.

mod basics;
mod digests;
mod local;
mod random;
mod read_only;
mod world;

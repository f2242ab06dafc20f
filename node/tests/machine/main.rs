//! One server in virtual time: the machine with the real engine, a disk that is as slow as a test wants, and
//! clients that keep their gates as the server does.

mod containers;
mod epochs;
mod order;
mod random;
mod sessions;
mod world;

//! The tree as its users see it: txns in, replies and events and walks out.

mod apply;
mod reads;
mod replay;
mod walks;
mod watches;
mod world;

//! What the server says of itself: a number that tools parse as Apache's 3.9.5, Falconer's own behind it.

/// The number alone.
pub const FULL_NUMBER: &str = concat!("3.9.5-falconer-", env!("CARGO_PKG_VERSION"));

/// When this version was made, in the form that tools expect.
pub const BUILT: &str = "2026-11-20 00:00 UTC";

/// Number and date.
pub const FULL: &str =
    concat!("3.9.5-falconer-", env!("CARGO_PKG_VERSION"), ", built on 2026-11-20 00:00 UTC");

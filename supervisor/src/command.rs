//! The programs in the one binary.

pub mod svc;
pub mod svok;
pub mod svstat;

//! The filters between a connection and the dialogue: they drive the pure checks with the resolver.

pub mod rblsmtpd;
pub mod spf;

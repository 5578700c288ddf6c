//! The actors of the mailtree mail host.

pub mod answer;
pub mod service;
pub mod wire;

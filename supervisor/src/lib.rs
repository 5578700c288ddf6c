//! supervisor

pub mod command;
pub mod control;
pub mod signals;
pub mod service;
pub mod status;
pub mod supervise;
pub mod svscan;

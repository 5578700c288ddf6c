//! The harness of the black-box tests: a host in a home of its own, clients, peers, DNS, disks that lose power.
//!
//! Nothing here waits for luck: every wait names a condition and a limit, and says what was missing.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test harness fails by panicking")]

pub mod bench;
pub mod certificate;
pub mod chance;
pub mod clamd;
pub mod dialogue;
pub mod disk;
pub mod dns;
pub mod host;
pub mod letter;
pub mod load;
pub mod local;
pub mod local_users;
pub mod maildir;
pub mod odd_dns;
pub mod old_host;
pub mod peer;
pub mod postfix;
pub mod probe;
pub mod proxy;
pub mod qmail;
pub mod rbldnsd;
pub mod rspamd;
pub mod sick;
pub mod smtp;
pub mod spamd;
pub mod spf_dns;
pub mod spf_suite;
pub mod stranger;
pub mod wait;

/// Makes each function of a journal that is on (`true`) or off two tests, in modules `journal_on` and `journal_off`.
#[macro_export]
macro_rules! with_and_without_journal {
    ($($name:ident),+ $(,)?) => {
        mod journal_on {
            $(#[test] fn $name() { super::$name(true); })+
        }
        mod journal_off {
            $(#[test] fn $name() { super::$name(false); })+
        }
    };
}

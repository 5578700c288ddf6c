//! Databases and the files they are made from: what is written is read back, and no file harms its reader.

#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise")]

use mailtree_protocols::assign::{self, Assignment, Controlled, Pattern};
use mailtree_protocols::cdb::{Cdb, CdbMake, Error};
use mailtree_protocols::tcprules::{self, Client};
use mailtree_protocols::vpasswd::{self, Entry};
use proptest::collection::vec;
use proptest::prelude::*;

type Records = Vec<(Vec<u8>, Vec<u8>)>;

fn make(records: &Records) -> Vec<u8> {
    let mut make = CdbMake::new();
    for (key, data) in records {
        make.add(key, data).unwrap();
    }
    make.finish()
}

/// Any result is right, a panic is not.
fn observe<T, E>(result: Result<T, E>) {
    std::hint::black_box(result.is_ok());
}

/// Reads everything that can be read.
fn walk(bytes: &[u8]) {
    let Ok(cdb) = Cdb::new(bytes) else { return };
    // A record takes 8 bytes or more, so a damaged file has no more of them than fit.
    assert!(cdb.iter().count() <= bytes.len() / 8 + 1);
    for key in [&b""[..], b"a", b"joe", b"!joe\0"] {
        if let Ok(Some(data)) = cdb.find(key) {
            assert!(data.len() <= bytes.len());
        }
    }
    observe(assign::lookup(&cdb, b"joe-list"));
    observe(vpasswd::lookup(&cdb, b"joe"));
    for ip in ["192.0.2.1", "2001:db8::1"] {
        let client = Client { info: Some(b"joe"), ip: ip.parse().unwrap(), host: Some(b"a.example") };
        observe(tcprules::lookup(&cdb, &client));
    }
}

/// A database of one record `a` whose file has other numbers at some places.
fn damaged(numbers: &[(usize, u32)]) -> Vec<u8> {
    let mut bytes = make(&vec![(b"a".to_vec(), b"xy".to_vec())]);
    for &(at, number) in numbers {
        bytes[at..at + 4].copy_from_slice(&number.to_le_bytes());
    }
    bytes
}

#[test]
fn the_layout_byte_by_byte() {
    // Hash of "a" is (5381 * 33) ^ 97: table 0xc4, of two slots.
    let bytes = make(&vec![(b"a".to_vec(), b"xy".to_vec())]);
    let hash: u32 = (5381 * 33) ^ 97;
    let table = (hash & 255) as usize;
    assert_eq!(bytes.len(), 2048 + 8 + 1 + 2 + 16);
    for n in 0..256 {
        let position: u32 = if n <= table { 2059 } else { 2075 };
        let slots: u32 = if n == table { 2 } else { 0 };
        assert_eq!(bytes[n * 8..n * 8 + 8], [position.to_le_bytes(), slots.to_le_bytes()].concat(), "{n}");
    }
    assert_eq!(bytes[2048..2059], *b"\x01\0\0\0\x02\0\0\0axy");
    let used = [hash.to_le_bytes(), 2048_u32.to_le_bytes()].concat();
    let slots = if (hash >> 8).is_multiple_of(2) { [used, vec![0; 8]] } else { [vec![0; 8], used] };
    assert_eq!(bytes[2059..], slots.concat());
}

#[test]
fn an_empty_database() {
    let bytes = CdbMake::new().finish();
    assert_eq!(bytes.len(), 2048);
    let cdb = Cdb::new(&bytes).unwrap();
    assert_eq!((cdb.find(b""), cdb.iter().count()), (Ok(None), 0));
}

#[test]
fn hostile_files() {
    assert!(matches!(Cdb::new(b""), Err(Error::Short { len: 0 })));
    assert!(matches!(Cdb::new(vec![0; 2047]), Err(Error::Short { len: 2047 })));
    assert!(matches!(Cdb::new(vec![0xff; 4096]), Err(Error::Beyond { .. })));
    // A table without an empty slot whose slots all point to a record of 4 GiB.
    let mut bytes = make(&(0..50).map(|n: u8| (vec![n], vec![n])).collect());
    for n in 0..256 {
        bytes[n * 8..n * 8 + 4].copy_from_slice(&2048_u32.to_le_bytes());
        bytes[n * 8 + 4..n * 8 + 8].copy_from_slice(&20_u32.to_le_bytes());
    }
    bytes[2048..].fill(0xff);
    let cdb = Cdb::new(&bytes).unwrap();
    assert!(cdb.find(b"a").is_ok_and(|found| found.is_none()) || cdb.find(b"a").is_err());
    walk(&bytes);
}

/// Where `a` is in [`damaged`]: its pair at the start, its record, its table.
const PAIR: usize = 0xc4 * 8;
const RECORD: usize = 2048;
const TABLE: usize = 2059;

#[test]
fn numbers_beyond_the_file() {
    // Its hash begins the search at the second slot.
    let used = TABLE + 8;
    assert_eq!(Cdb::new(damaged(&[])).unwrap().find(b"a"), Ok(Some(&b"xy"[..])));
    for (damage, what) in [
        (vec![(PAIR, 2060)], "a table"),
        (vec![(PAIR, u32::MAX)], "a table"),
        (vec![(PAIR + 4, 3)], "a table"),
        (vec![(PAIR + 4, u32::MAX)], "a table"),
        (vec![(PAIR, u32::MAX), (PAIR + 4, u32::MAX)], "a table"),
        (vec![(used + 4, 2068)], "a record"),
        (vec![(used + 4, u32::MAX)], "a record"),
        (vec![(RECORD, 20)], "a key"),
        (vec![(RECORD, u32::MAX)], "a key"),
        (vec![(RECORD + 4, 19)], "data"),
        (vec![(RECORD + 4, u32::MAX)], "data"),
        (vec![(RECORD, u32::MAX), (RECORD + 4, u32::MAX)], "a key"),
    ] {
        let bytes = damaged(&damage);
        walk(&bytes);
        let error = match Cdb::new(&bytes) {
            Err(error) => error,
            Ok(cdb) => cdb.find(b"a").unwrap_err(),
        };
        assert!(matches!(error, Error::Beyond { what: found, .. } if found == what), "{damage:?}: {error}");
    }
}

#[test]
fn tables_without_an_end() {
    // Both slots are used and none is the one: the search goes round once.
    let hash = (5381 * 33) ^ 97;
    let other = [(TABLE, hash ^ 0x100), (TABLE + 4, 2048), (TABLE + 8, hash ^ 0x100), (TABLE + 12, 2048)];
    assert_eq!(Cdb::new(damaged(&other)).unwrap().find(b"a"), Ok(None));
    // Both slots have its hash and lead to a record with another key.
    let mut same = vec![(TABLE, hash), (TABLE + 4, 2048), (TABLE + 8, hash), (TABLE + 12, 2048)];
    same.push((RECORD, 2));
    same.push((RECORD + 4, 1));
    let bytes = damaged(&same);
    let cdb = Cdb::new(&bytes).unwrap();
    assert_eq!(cdb.find(b"a"), Ok(None));
    assert_eq!(cdb.iter().collect::<Vec<_>>(), [Ok((&b"ax"[..], &b"y"[..]))]);
}

fn field() -> impl Strategy<Value = Vec<u8>> {
    vec(any::<u8>().prop_filter("not in a field", |b| !b":\n\0".contains(b)), 0..20)
}

fn assignment() -> impl Strategy<Value = Assignment> {
    let pattern = (any::<bool>(), field())
        .prop_map(|(exact, key)| if exact { Pattern::Exact(key) } else { Pattern::Prefix(key) });
    (pattern, field(), any::<u32>(), any::<u32>(), field(), field(), field()).prop_map(
        |(pattern, user, uid, gid, home, dash, ext)| Assignment {
            pattern,
            controlled: Controlled { user, uid, gid, home, dash, ext },
        },
    )
}

fn entry() -> impl Strategy<Value = Entry> {
    let name = vec(prop::sample::select(b"abcXYZ019.-_+".to_vec()), 1..20);
    let clear = prop::option::of(field());
    (name, field(), any::<u32>(), any::<u32>(), field(), field(), field(), clear).prop_map(
        |(name, password, uid, flags, gecos, dir, quota, clear)| Entry {
            name,
            password,
            uid,
            flags,
            gecos,
            dir,
            quota,
            clear,
        },
    )
}

/// The rule of qmail-lspawn without a database: exact, then the longest prefix.
fn expected(assignments: &[Assignment], local: &[u8]) -> Option<Controlled> {
    let lower = local.to_ascii_lowercase();
    let exact =
        |a: &&Assignment| matches!(&a.pattern, Pattern::Exact(key) if key.to_ascii_lowercase() == lower);
    if let Some(found) = assignments.iter().find(exact) {
        return Some(found.controlled.clone());
    }
    (0..=local.len()).rev().find_map(|end| {
        let prefix =
            |a: &&Assignment| matches!(&a.pattern, Pattern::Prefix(key) if key.to_ascii_lowercase() == lower[..end]);
        assignments.iter().find(prefix).map(|found| {
            let mut controlled = found.controlled.clone();
            controlled.ext.extend_from_slice(&local[end..]);
            controlled
        })
    })
}

proptest! {
    #[test]
    fn cdb_round_trip(records in vec((vec(any::<u8>(), 0..8), vec(any::<u8>(), 0..40)), 0..200)) {
        let cdb = Cdb::new(make(&records)).unwrap();
        let read: Records = cdb.iter().map(|record| record.unwrap()).map(|(k, d)| (k.to_vec(), d.to_vec())).collect();
        prop_assert_eq!(&read, &records);
        for (key, _) in &records {
            let first = records.iter().find(|(other, _)| other == key).map(|(_, data)| data.as_slice());
            prop_assert_eq!(cdb.get(key), first);
        }
        prop_assert_eq!(cdb.get(b"a key of nobody"), None);
    }

    #[test]
    fn of_records_with_one_key_the_first_is_found(
        records in vec((prop::sample::select(vec![&b""[..], b"a", b"b"]), any::<[u8; 2]>()), 0..50),
    ) {
        let records: Records = records.into_iter().map(|(key, data)| (key.to_vec(), data.to_vec())).collect();
        let cdb = Cdb::new(make(&records)).unwrap();
        for key in [&b""[..], b"a", b"b", b"c"] {
            let first = records.iter().find(|(other, _)| other == key).map(|(_, data)| data.as_slice());
            prop_assert_eq!(cdb.find(key), Ok(first));
        }
        prop_assert_eq!(cdb.iter().count(), records.len());
    }

    #[test]
    fn a_damaged_database_harms_nobody(
        records in vec((vec(any::<u8>(), 0..4), vec(any::<u8>(), 0..10)), 0..30),
        damage in vec((any::<prop::sample::Index>(), any::<u8>()), 0..30),
        cut in any::<prop::sample::Index>(),
    ) {
        let mut bytes = make(&records);
        for (at, byte) in damage {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        walk(&bytes);
        walk(&bytes[..cut.index(bytes.len())]);
    }

    #[test]
    fn assign_round_trip(assignments in vec(assignment(), 0..20)) {
        prop_assert_eq!(assign::parse(&assign::format(&assignments)), Ok(assignments));
    }

    #[test]
    fn assign_lookup_follows_the_rule(
        keys in vec((any::<bool>(), "[aB-]{0,4}"), 0..12),
        locals in vec("[Ab-]{0,6}", 1..20),
    ) {
        let assignments: Vec<Assignment> = keys.into_iter().zip(1..).map(|((exact, key), uid)| Assignment {
            pattern: if exact { Pattern::Exact(key.into_bytes()) } else { Pattern::Prefix(key.into_bytes()) },
            controlled: Controlled {
                user: b"u".to_vec(), uid, gid: 1, home: b"/".to_vec(), dash: b"-".to_vec(), ext: b"e".to_vec(),
            },
        }).collect();
        let users = Cdb::new(assign::compile(&assignments).unwrap()).unwrap();
        for local in locals {
            let found = assign::lookup(&users, local.as_bytes()).unwrap();
            prop_assert_eq!(found, expected(&assignments, local.as_bytes()), "{}", local);
        }
    }

    #[test]
    fn vpasswd_round_trip(entries in vec(entry(), 0..20)) {
        let mut sorted = entries.clone();
        sorted.sort_by(|a, b| a.name.cmp(&b.name));
        prop_assert_eq!(vpasswd::parse(&vpasswd::format(&entries)), Ok(sorted.clone()));
        let users = Cdb::new(vpasswd::compile(&entries).unwrap()).unwrap();
        for entry in sorted.iter().filter(|entry| entry.name == entry.name.to_ascii_lowercase()) {
            let first = sorted.iter().find(|other| other.name == entry.name).cloned();
            prop_assert_eq!(vpasswd::lookup(&users, &entry.name), Ok(first));
        }
    }

    #[test]
    fn any_bytes_are_read_without_harm(bytes in vec(any::<u8>(), 0..300)) {
        observe(assign::parse(&bytes));
        observe(vpasswd::parse(&bytes));
        observe(mailtree_protocols::tcprules::parse(&bytes));
        observe(mailtree_protocols::smtproutes::SmtpRoutes::default().add(&bytes));
        observe(mailtree_protocols::virtualdomains::VirtualDomains::default().add(&bytes));
    }
}

//! Constant databases: any bytes do no harm to whoever reads them, and what was written comes back.
//!
//! The first byte of the input says what it is: bytes of a file, `users/assign`, `vpasswd`, or a database that is made
//! and then damaged: records between 0xff, key and data between 0xfe, the damages in front.

#![no_main]

use std::net::IpAddr;

use libfuzzer_sys::fuzz_target;
use mailtree_protocols::assign::{self, Pattern};
use mailtree_protocols::cdb::{Cdb, CdbMake};
use mailtree_protocols::simscan::log::Versions;
use mailtree_protocols::simscan::simcontrol::Simcontrol;
use mailtree_protocols::tcprules::{self, Client};
use mailtree_protocols::vpasswd;

fuzz_target!(|data: &[u8]| {
    let Some((kind, data)) = data.split_first() else { return };
    match kind & 3 {
        0 => {
            // Shorter than its 256 pairs it would be refused at once.
            let mut bytes = data.to_vec();
            bytes.resize(data.len().max(2048), 0);
            read(&bytes, &[b"", b"a", data]);
            read(data, &[]);
        }
        1 => assignments(data),
        2 => users(data),
        _ => records(data),
    }
});

/// Asks for everything in every way.
fn read(bytes: &[u8], keys: &[&[u8]]) {
    let Ok(cdb) = Cdb::new(bytes) else { return };
    let records = cdb.iter().count();
    assert!(records <= bytes.len() / 8, "records out of nothing");
    assert!(
        cdb.iter().take(records.saturating_sub(1)).all(|record| record.is_ok()),
        "something behind damage"
    );
    for key in keys {
        assert_eq!(cdb.get(key), cdb.find(key).ok().flatten());
        let text = std::str::from_utf8(key).unwrap_or_default();
        let ip = text.parse().unwrap_or(IpAddr::from([10, 0, 0, 1]));
        let clients = [(Some(*key), None), (None, Some(*key)), (None, None)];
        for (info, host) in clients {
            if let Ok(Some(hit)) = tcprules::lookup(&cdb, &Client { info, ip, host }) {
                assert!(hit.variables.len() <= tcprules::VARIABLES_MAX);
            }
        }
        let local = key.strip_prefix(b"!").unwrap_or(key);
        let local = local.strip_suffix(b"\0").unwrap_or(local);
        let local = &local[..local.len().min(900)];
        assign::lookup(&cdb, local).ok();
        assign::domain(&cdb, local.strip_suffix(b"-").unwrap_or(local)).ok();
        if let Ok(Some(entry)) = vpasswd::lookup(&cdb, key) {
            assert_eq!(vpasswd::Entry::from_record(&entry.name, &entry.record()), Ok(entry));
        }
    }
    if let Ok(control) = Simcontrol::read(&cdb) {
        assert!(control.evaluate(b"a@b.c", keys.iter().copied()).keys.len() <= 8);
    }
    let Versions { clamav, spam, .. } = Versions::read("1.4", &cdb);
    assert!([clamav, spam].into_iter().flatten().all(|text| !text.chars().any(char::is_control)));
}

fn records(data: &[u8]) {
    let mut parts = data.split(|&b| b == 0xff);
    let damages = parts.next().unwrap_or_default();
    let records: Vec<(&[u8], &[u8])> = parts
        .map(|part| {
            let end = part.iter().position(|&b| b == 0xfe).unwrap_or(part.len());
            (&part[..end], part.get(end + 1..).unwrap_or_default())
        })
        .collect();
    let mut make = CdbMake::new();
    for (key, data) in &records {
        make.add(key, data).expect("a record that fits");
    }
    let mut bytes = make.finish();
    let cdb = Cdb::new(&bytes).expect("a database");
    assert!(cdb.iter().map(|record| record.expect("a record")).eq(records.iter().copied()));
    for (key, _) in &records {
        let first = records.iter().find(|record| record.0 == *key).map(|record| record.1);
        assert_eq!(cdb.find(key), Ok(first));
        let longer = [key, &b"\xff"[..]].concat();
        assert_eq!(cdb.find(&longer), Ok(None));
    }
    // A place and what stands there then; or what is left of the file.
    let keys: Vec<_> = records.iter().take(8).map(|record| record.0).collect();
    let (damages, _) = damages.as_chunks::<4>();
    for &[what, high, low, value] in damages.iter().take(16) {
        let at = usize::from(u16::from_be_bytes([high, low])) % bytes.len().max(1);
        match what & 3 {
            0 => bytes.truncate(at),
            1 => bytes.iter_mut().skip(at).take(1).for_each(|byte| *byte = value),
            2 => bytes.iter_mut().skip(at).take(4).for_each(|byte| *byte = value),
            // The pairs of the keys' tables and the lengths of the first records are hit more often.
            _ => bytes.iter_mut().skip(2048 + at % 64).take(1).for_each(|byte| *byte = value),
        }
    }
    read(&bytes, &keys);
}

fn assignments(text: &[u8]) {
    let Ok(assignments) = assign::parse(text) else { return };
    assert_eq!(assign::parse(&assign::format(&assignments)).as_ref(), Ok(&assignments));
    let bytes = assign::compile(&assignments).expect("assignments that compile");
    let cdb = Cdb::new(&bytes).expect("a database");
    for assignment in assignments.iter().take(16) {
        let (Pattern::Exact(local) | Pattern::Prefix(local)) = &assignment.pattern;
        let upper = [local.to_ascii_uppercase().as_slice(), b"X-y"].concat();
        for local in [local.as_slice(), &upper, &local[..local.len() / 2]] {
            let is = |own: &[u8], other: &[u8]| own.eq_ignore_ascii_case(other);
            let exact =
                assignments.iter().find(|it| matches!(&it.pattern, Pattern::Exact(own) if is(own, local)));
            let prefix = (0..=local.len()).rev().find_map(|end| {
                let is = |own: &[u8]| is(own, &local[..end]);
                let it =
                    assignments.iter().find(|it| matches!(&it.pattern, Pattern::Prefix(own) if is(own)))?;
                Some((it, end))
            });
            let mut expected = exact.map(|it| it.controlled.clone());
            if let (None, Some((it, end))) = (&expected, prefix) {
                let mut controlled = it.controlled.clone();
                controlled.ext.extend_from_slice(&local[end..]);
                expected = Some(controlled);
            }
            assert_eq!(assign::lookup(&cdb, local), Ok(expected));
        }
    }
}

fn users(text: &[u8]) {
    let Ok(entries) = vpasswd::parse(text) else { return };
    let mut sorted = entries.clone();
    sorted.sort_by(|a, b| a.name.cmp(&b.name));
    assert_eq!(vpasswd::parse(&vpasswd::format(&entries)).as_ref(), Ok(&sorted));
    let bytes = vpasswd::compile(&entries).expect("users that compile");
    let cdb = Cdb::new(&bytes).expect("a database");
    for entry in entries.iter().take(16) {
        let lower = entry.name.to_ascii_lowercase();
        let expected = entries.iter().find(|other| other.name == lower).cloned();
        assert_eq!(vpasswd::lookup(&cdb, &entry.name), Ok(expected));
    }
}

use proptest::prelude::*;

use super::batch::{self, Builder, HEADER};
use super::replay::{Fate, Finished, Replay};
use super::segment::{Head, Header, scan};
use super::*;
use crate::queue::MessageId;

const KEY: Key = Key(*b"0123456789abcdef");

fn header(generation: u64, first: u64, key: Key) -> Header {
    Header {
        number: 3,
        generation,
        first: Lsn(first),
        serial: Serial(9),
        journal: [1; 16],
        boot: [2; 16],
        key,
    }
}

fn encode(key: Key, generation: u64, lsn: u64, synced: u64, records: &[Record]) -> Vec<u8> {
    let mut builder = Builder::default();
    for record in records {
        builder.push(record).unwrap();
    }
    let header = batch::Header { generation, lsn: Lsn(lsn), synced: Lsn(synced) };
    let bytes = builder.finish(&key, &header).to_vec();
    assert_eq!(bytes.len(), builder.padded_len());
    bytes
}

fn accept(serial: u64, recipients: usize, body: &[u8]) -> Record {
    Record::Accept(Accept {
        serial: Serial(serial),
        id: MessageId(serial + 100),
        pool: 7,
        birth: 1_700_000_000_000_000,
        uid: 1000,
        qp: 4242,
        sender: b"a@x.test".to_vec(),
        recipients: vec![b"b@y.test".to_vec(); recipients],
        properties: vec![(b"ENVID".to_vec(), b"x".to_vec())],
        body: body.into(),
    })
}

fn done(serial: u64, recipient: u32) -> Record {
    Record::Done { serial: Serial(serial), recipient, outcome: Outcome::Delivered { maildirs: Vec::new() } }
}

fn in_maildir(serial: u64, recipient: u32) -> Record {
    Record::Done { serial: Serial(serial), recipient, outcome: Outcome::Delivered { maildirs: vec![file()] } }
}

fn file() -> MaildirFile {
    MaildirFile {
        dir: b"/home/b/Maildir".to_vec(),
        name: b"1.2.x".to_vec(),
        head: b"Delivered-To: b\n".to_vec(),
        mount: 56,
    }
}

fn ended(serial: u64) -> Record {
    Record::Ended { serial: Serial(serial) }
}

fn void(first: u64, last: u64) -> Record {
    Record::Void { first: Lsn(first), last: Lsn(last) }
}

/// Batches as LSN, synced, records.
fn replay(needed: u64, durable: u64, batches: &[(u64, u64, &[Record])]) -> Finished {
    let mut replay = Replay::new(Lsn(needed), Lsn(durable));
    for (lsn, synced, records) in batches {
        replay.batch(Lsn(*lsn), Lsn(*synced), false, records.to_vec());
    }
    replay.finish()
}

/// Those that have not ended.
fn serials(finished: &Finished) -> Vec<u64> {
    finished.messages.iter().filter(|message| !message.ended).map(|message| message.accept.serial.0).collect()
}

fn span(first: u64, last: u64) -> Span {
    Span { first: Lsn(first), last: Lsn(last) }
}

#[test]
fn a_message_lives_until_it_is_written_or_ended() {
    let finished = replay(
        1,
        1,
        &[
            (1, 0, &[accept(1, 1, b"one"), accept(2, 2, b"two")]),
            (2, 1, &[accept(3, 1, b"three"), done(2, 1)]),
            (3, 2, &[Record::Written { serial: Serial(1) }, ended(3), done(77, 0), ended(78), done(2, 9)]),
            (4, 2, &[Record::Bounced { serial: Serial(2), qp: 5 }]),
        ],
    );
    assert_eq!(serials(&finished), [2]);
    let message = &finished.messages[0];
    // Something may have been written of it.
    assert!(finished.messages[1].ended);
    assert_eq!(message.lsn, Lsn(1));
    assert_eq!(message.recipients, [Fate::Open, Fate::Done]);
    assert_eq!(message.bounced, Some(5));
    assert_eq!(&*message.accept.body, b"two");
    assert_eq!((finished.serial, finished.lsn), (Serial(3), Lsn(4)));
    assert!(finished.damaged.is_empty() && finished.unsynced.is_empty());
}

#[test]
fn messages_come_back_in_the_order_in_which_they_were_accepted() {
    let finished =
        replay(1, 1, &[(1, 0, &[accept(9, 1, b""), accept(4, 1, b"")]), (2, 0, &[accept(5, 1, b"")])]);
    assert_eq!(serials(&finished), [9, 4, 5]);
}

#[test]
fn a_maildir_is_in_doubt_until_a_checkpoint_says_it_is_durable() {
    let batches: &[(u64, u64, &[Record])] =
        &[(1, 0, &[accept(1, 1, b"")]), (2, 1, &[in_maildir(1, 0)]), (3, 2, &[ended(1)])];
    let finished = replay(1, 2, batches);
    let doubt = Fate::InDoubt { maildirs: vec![file()], same_boot: false };
    assert_eq!(finished.messages[0].recipients, [doubt]);
    assert!(finished.messages[0].ended);
    let durable = replay(1, 3, batches);
    assert!(durable.messages[0].ended);
    assert_eq!(durable.messages[0].recipients, [Fate::Done]);
    // The same, not ended.
    assert_eq!(replay(1, 3, &batches[..2]).messages[0].recipients, [Fate::Done]);

    let mut same = Replay::new(Lsn(1), Lsn(1));
    same.batch(Lsn(1), Lsn(0), false, vec![accept(1, 2, b""), in_maildir(1, 0)]);
    same.batch(Lsn(2), Lsn(0), true, vec![in_maildir(1, 1)]);
    let fates = &same.finish().messages[0].recipients;
    assert!(matches!(fates[0], Fate::InDoubt { same_boot: false, .. }));
    assert!(matches!(fates[1], Fate::InDoubt { same_boot: true, .. }));
}

#[test]
fn the_last_outcome_of_a_recipient_counts() {
    let failed = |serial| Record::Done {
        serial: Serial(serial),
        recipient: 0,
        outcome: Outcome::Failed { paragraph: b"no".to_vec() },
    };
    let finished = replay(1, 1, &[(1, 0, &[accept(1, 1, b""), in_maildir(1, 0), failed(1)])]);
    assert_eq!(finished.messages[0].recipients, [Fate::Failed(b"no".to_vec())]);
}

#[test]
fn nothing_in_a_refused_batch_counts() {
    // 2 is forwarded as 3 and ended; all of that is refused.
    let finished = replay(
        1,
        1,
        &[
            (1, 0, &[accept(1, 1, b""), accept(2, 1, b"")]),
            (2, 1, &[ended(1)]),
            (3, 1, &[accept(3, 1, b""), done(2, 0)]),
            (4, 1, &[ended(2)]),
            (5, 1, &[void(2, 4)]),
            (6, 5, &[accept(4, 1, b"")]),
        ],
    );
    assert_eq!(serials(&finished), [1, 2, 4]);
    assert_eq!(finished.messages[1].recipients, [Fate::Open]);
    assert_eq!(finished.serial, Serial(4));
}

#[test]
fn a_void_that_is_not_behind_its_batches_takes_nothing_durable_away() {
    let finished = replay(1, 1, &[(1, 0, &[accept(1, 1, b"")]), (2, 1, &[]), (3, 2, &[void(1, 2)])]);
    assert_eq!(serials(&finished), [1]);
}

#[test]
fn an_end_whose_reason_may_be_lost_does_not_count() {
    let parent: &[Record] = &[accept(1, 1, b"")];
    let lost = replay(1, 1, &[(1, 0, parent), (3, 1, &[ended(1)])]);
    assert_eq!(serials(&lost), [1]);
    assert!(!lost.messages[0].ended);
    assert_eq!((lost.unsynced, lost.damaged), (vec![span(2, 2)], vec![]));
    // What is missing before the message or behind its end is no reason.
    assert!(replay(1, 1, &[(2, 0, parent), (3, 1, &[ended(1)]), (5, 1, &[])]).messages[0].ended);
    // A start saw that it was missing, and the end came after that.
    let seen = replay(1, 1, &[(1, 0, parent), (3, 1, &[]), (4, 1, &[void(2, 2)]), (5, 4, &[ended(1)])]);
    assert!(seen.messages[0].ended);
    // The end came before that.
    let seen = replay(1, 1, &[(1, 0, parent), (3, 1, &[ended(1)]), (4, 3, &[void(2, 2)]), (5, 4, &[])]);
    assert_eq!(serials(&seen), [1]);
    // Writing a message out needs no reason.
    let written = replay(1, 1, &[(1, 0, parent), (3, 1, &[Record::Written { serial: Serial(1) }])]);
    assert!(written.messages.is_empty());
}

#[test]
fn what_was_durable_and_is_missing_is_damage() {
    let finished = replay(1, 1, &[(3, 2, &[]), (5, 2, &[]), (9, 7, &[]), (11, 7, &[])]);
    assert_eq!(finished.damaged, [span(1, 2), span(4, 4), span(6, 7)]);
    assert_eq!(finished.unsynced, [span(8, 8), span(10, 10)]);
    let finished = replay(1, 1, &[(1, 0, &[]), (5, 1, &[void(2, 3)]), (6, 5, &[])]);
    assert_eq!(finished.damaged, [span(4, 4)]);
    let finished = replay(4, 1, &[(4, 3, &[])]);
    assert!(finished.damaged.is_empty());

    let mut replay = Replay::new(Lsn(1), Lsn(1));
    replay.batch(Lsn(1), Lsn(0), true, Vec::new());
    replay.malformed(Lsn(2));
    let finished = replay.finish();
    assert_eq!((finished.damaged, finished.lsn), (vec![span(2, 2)], Lsn(2)));
}

#[test]
fn a_segment_tells_which_batches_are_before_it() {
    let mut replay = Replay::new(Lsn(1), Lsn(1));
    replay.segment(Lsn(1), Serial(0));
    replay.batch(Lsn(1), Lsn(0), true, Vec::new());
    replay.segment(Lsn(4), Serial(12));
    let finished = replay.finish();
    assert_eq!((finished.lsn, finished.serial), (Lsn(3), Serial(12)));
    assert_eq!(finished.unsynced, [span(2, 3)]);
}

#[test]
fn the_last_checkpoint_of_a_batch_is_found() {
    let checkpoint = |needed, durable| Record::Checkpoint { needed: Lsn(needed), durable: Lsn(durable) };
    let bytes = encode(KEY, 1, 1, 0, &[checkpoint(1, 2), accept(1, 1, b"x"), checkpoint(3, 4), ended(1)]);
    assert_eq!(batch::decode(&KEY, 1, &bytes).unwrap().checkpoint(), Some((Lsn(3), Lsn(4))));
    let bytes = encode(KEY, 1, 1, 0, &[accept(1, 1, b"x")]);
    assert_eq!(batch::decode(&KEY, 1, &bytes).unwrap().checkpoint(), None);
}

#[test]
fn heads_are_told_apart() {
    let head = header(5, 9, KEY);
    let page = head.encode();
    assert_eq!(Header::decode(&page), Head::Good(head));
    assert_eq!(Header::decode(&[0; PAGE]), Head::Unused);
    assert_eq!(Header::decode(&page[..PAGE - 1]), Head::Foreign);
    assert_eq!(Header::decode(&[b'x'; PAGE]), Head::Foreign);
    for len in 1..8 {
        let mut cut = [0; PAGE];
        cut[..len].copy_from_slice(&page[..len]);
        assert_eq!(Header::decode(&cut), Head::Torn);
        cut[PAGE - 1] = 1;
        assert_eq!(Header::decode(&cut), Head::Foreign);
    }
    let mut newer = page;
    newer[8..12].copy_from_slice(&2_u32.to_le_bytes());
    assert_eq!(Header::decode(&newer), Head::Torn, "the version has a checksum of its own");
    let crc = crc32c::crc32c(&newer[..12]);
    newer[12..16].copy_from_slice(&crc.to_le_bytes());
    assert_eq!(Header::decode(&newer), Head::Version(2));
    for at in 8..96 {
        let mut torn = page;
        torn[at] ^= 1;
        assert_eq!(Header::decode(&torn), Head::Torn, "{at}");
    }
}

/// A segment of these parts; `None` is a page of zeros.
fn segment(header: &Header, parts: &[Option<Vec<u8>>]) -> Vec<u8> {
    let mut bytes = header.encode().to_vec();
    for part in parts {
        bytes.extend(part.as_deref().unwrap_or(&[0; PAGE]));
    }
    bytes
}

fn found(header: &Header, bytes: &[u8]) -> Vec<u64> {
    scan(header, bytes).batches.iter().map(|(_, batch)| batch.header.lsn.0).collect()
}

#[test]
fn a_scan_goes_on_behind_what_is_bad() {
    let head = header(2, 10, KEY);
    let two = accept(1, 1, &[b'x'; 5000]);
    let bytes = segment(
        &head,
        &[
            Some(encode(KEY, 2, 10, 9, std::slice::from_ref(&two))),
            None,
            Some(encode(KEY, 2, 12, 9, &[ended(1)])),
            Some(encode(KEY, 2, 13, 9, &[ended(1)])),
            None,
        ],
    );
    let seen = scan(&head, &bytes);
    let at: Vec<usize> = seen.batches.iter().map(|(at, _)| *at).collect();
    assert_eq!(at, [PAGE, 4 * PAGE, 5 * PAGE]);
    assert_eq!(seen.missing, [span(11, 11)]);
    assert_eq!((seen.bad.len(), &seen.bad[0]), (1, &(3 * PAGE..4 * PAGE)));
    assert_eq!(seen.end, 6 * PAGE);
    assert_eq!(seen.batches[0].1.records().unwrap(), [two]);
}

#[test]
fn batches_of_another_generation_or_key_or_place_are_not_taken() {
    let head = header(2, 10, KEY);
    for (other, taken) in [
        (encode(KEY, 2, 11, 9, &[ended(1)]), true),
        (encode(KEY, 1, 11, 9, &[ended(1)]), false),
        (encode(Key([9; 16]), 2, 11, 9, &[ended(1)]), false),
        (encode(KEY, 2, 10, 9, &[ended(1)]), false),
        (encode(KEY, 2, 9, 9, &[ended(1)]), false),
        // No twelfth batch can begin on the second page behind the header.
        (encode(KEY, 2, 12, 9, &[ended(1)]), false),
    ] {
        let bytes = segment(&head, &[Some(encode(KEY, 2, 10, 9, &[ended(1)])), Some(other)]);
        assert_eq!(found(&head, &bytes).len() == 2, taken);
    }
}

#[test]
fn a_batch_inside_a_body_is_not_taken() {
    let head = header(2, 10, KEY);
    // Somebody who guessed all but the key, and somebody who even knows it: only a torn batch is looked into.
    for (key, taken) in [(Key([0; 16]), false), (KEY, true)] {
        let forged = encode(key, 2, 11, 9, &[ended(1)]);
        let len = HEADER + accept(1, 1, b"").encoded_len();
        let mut body = vec![b'x'; PAGE - len];
        body.extend(forged);
        let mut bytes = segment(&head, &[Some(encode(KEY, 2, 10, 9, &[accept(1, 1, &body)]))]);
        assert_eq!(found(&head, &bytes), [10]);
        bytes[PAGE + 60] ^= 1;
        assert_eq!(!found(&head, &bytes).is_empty(), taken, "the body is where the test wants it");
    }
}

#[test]
fn what_is_no_record_is_named() {
    let mut bytes = encode(KEY, 1, 7, 0, &[ended(1)]);
    let len = u32::from_le_bytes(bytes[4..8].try_into().unwrap()) as usize;
    let seal = |bytes: &mut Vec<u8>| {
        let crc = crc32c::crc32c_append(crc32c::crc32c(&KEY.0[8..]), &bytes[HEADER..HEADER + len]);
        bytes[36..40].copy_from_slice(&crc.to_le_bytes());
        let crc = crc32c::crc32c_append(crc32c::crc32c(&KEY.0[..8]), &bytes[..HEADER - 4]);
        bytes[HEADER - 4..HEADER].copy_from_slice(&crc.to_le_bytes());
    };
    seal(&mut bytes);
    assert!(batch::decode(&KEY, 1, &bytes).unwrap().records().is_ok());
    for (at, value) in [(32, 2), (32, 0), (HEADER, 7), (HEADER, 9), (HEADER + 3, 255), (HEADER + 4, b'?')] {
        let mut bytes = bytes.clone();
        bytes[at] = value;
        seal(&mut bytes);
        let error = batch::decode(&KEY, 1, &bytes).unwrap().records().unwrap_err();
        assert_eq!(error.to_string(), "batch 7 holds what is no record", "{at}");
    }
}

#[test]
fn a_builder_can_be_used_again() {
    let mut builder = Builder::default();
    builder.push(&accept(1, 1, b"first")).unwrap();
    let head = |lsn| batch::Header { generation: 1, lsn: Lsn(lsn), synced: Lsn(0) };
    builder.finish(&KEY, &head(1));
    builder.push(&ended(1)).unwrap();
    let both = builder.finish(&KEY, &head(2)).to_vec();
    assert_eq!(both, encode(KEY, 1, 2, 0, &[accept(1, 1, b"first"), ended(1)]));
    builder.clear();
    assert!(builder.is_empty());
    builder.push(&ended(2)).unwrap();
    assert_eq!(builder.finish(&KEY, &head(3)), encode(KEY, 1, 3, 0, &[ended(2)]));
}

fn bytes() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(any::<u8>(), 0..60)
}

fn record() -> impl Strategy<Value = Record> {
    let accept = (
        any::<[u64; 5]>(),
        any::<u32>(),
        bytes(),
        prop::collection::vec(bytes(), 0..4),
        prop::collection::vec((bytes(), bytes()), 0..3),
        prop::collection::vec(any::<u8>(), 0..9000),
    )
        .prop_map(|(n, uid, sender, recipients, properties, body)| {
            Record::Accept(Accept {
                serial: Serial(n[0]),
                id: MessageId(n[1]),
                pool: n[2],
                birth: n[3],
                uid,
                qp: n[4],
                sender,
                recipients,
                properties,
                body: body.into(),
            })
        });
    let file = (bytes(), bytes(), bytes(), any::<u64>()).prop_map(|(dir, name, head, mount)| MaildirFile {
        dir,
        name,
        head,
        mount,
    });
    let outcome = prop_oneof![
        prop::collection::vec(file, 0..3).prop_map(|maildirs| Outcome::Delivered { maildirs }),
        bytes().prop_map(|paragraph| Outcome::Failed { paragraph }),
    ];
    prop_oneof![
        accept,
        (any::<u64>(), any::<u32>(), outcome).prop_map(|(serial, recipient, outcome)| Record::Done {
            serial: Serial(serial),
            recipient,
            outcome
        }),
        any::<[u64; 2]>().prop_map(|[serial, qp]| Record::Bounced { serial: Serial(serial), qp }),
        any::<u64>().prop_map(|serial| Record::Written { serial: Serial(serial) }),
        any::<u64>().prop_map(|serial| Record::Ended { serial: Serial(serial) }),
        any::<[u64; 2]>().prop_map(|[a, b]| Record::Checkpoint { needed: Lsn(a), durable: Lsn(b) }),
        any::<[u64; 2]>().prop_map(|[a, b]| Record::Void { first: Lsn(a), last: Lsn(b) }),
    ]
}

proptest! {
    #[test]
    fn what_is_written_is_read(records in prop::collection::vec(record(), 0..6), lsn in any::<u64>(), synced in any::<u64>()) {
        let bytes = encode(KEY, 3, lsn, synced, &records);
        let len: usize = records.iter().map(Record::encoded_len).sum();
        prop_assert_eq!(bytes.len(), (HEADER + len).next_multiple_of(PAGE));
        let batch = batch::decode(&KEY, 3, &bytes).unwrap();
        prop_assert_eq!(batch.header, batch::Header { generation: 3, lsn: Lsn(lsn), synced: Lsn(synced) });
        prop_assert_eq!(batch.records().unwrap(), records);
    }

    #[test]
    fn what_is_cut_or_changed_is_not_accepted(
        records in prop::collection::vec(record(), 1..4),
        cut in any::<prop::sample::Index>(),
        at in any::<prop::sample::Index>(),
        flip in 1..=255_u8,
    ) {
        let bytes = encode(KEY, 3, 5, 4, &records);
        let covered = HEADER + records.iter().map(Record::encoded_len).sum::<usize>();
        prop_assert!(batch::decode(&KEY, 3, &bytes[..cut.index(covered)]).is_none());
        let mut changed = bytes;
        changed[at.index(covered)] ^= flip;
        prop_assert!(batch::decode(&KEY, 3, &changed).is_none());
    }

    #[test]
    fn any_bytes_can_be_looked_at(mut noise in prop::collection::vec(any::<u8>(), 0..3 * PAGE), whole in any::<bool>()) {
        if whole && noise.len() >= 8 {
            noise[..8].copy_from_slice(b"mtjournl");
        }
        let head = header(1, 1, KEY);
        prop_assert!(!matches!(Header::decode(&noise), Head::Good(_)));
        prop_assert!(scan(&head, &noise).batches.is_empty());
        // Behind a header that is ours too.
        let records = Record::decode_any(&noise);
        prop_assert!(records.is_none_or(|record| record.encoded_len() == noise.len()));
    }

    #[test]
    fn any_records_can_be_replayed(
        batches in prop::collection::vec((0..30_u64, 0..30_u64, prop::collection::vec(record(), 0..3)), 0..12),
        needed in any::<u64>(),
        durable in 0..30_u64,
    ) {
        let mut replay = Replay::new(Lsn(needed % 8), Lsn(durable));
        for (lsn, synced, records) in batches {
            replay.batch(Lsn(lsn), Lsn(synced), false, records);
        }
        let finished = replay.finish();
        for pair in finished.damaged.windows(2) {
            prop_assert!(pair[0].last < pair[1].first);
        }
    }
}

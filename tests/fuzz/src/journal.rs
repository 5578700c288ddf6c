//! A segment of the journal, its checksums in order and what they cover anything: whatever is in it, a start reads it, and what
//! is read is written as it was.

#![no_main]

use libfuzzer_sys::fuzz_target;
use mailtree_protocols::journal::batch::{self, Builder};
use mailtree_protocols::journal::replay::Replay;
use mailtree_protocols::journal::segment::{self, Head, Header};
use mailtree_protocols::journal::{Key, Lsn, PAGE, Serial};

const KEY: Key = Key([7; 16]);

/// A batch around `payload`, as its bytes say: `[synced, records]` first.
fn batch(lsn: u64, payload: &[u8]) -> Vec<u8> {
    let (numbers, payload) = payload.split_at(payload.len().min(2));
    let synced = u64::from(numbers.first().copied().unwrap_or(0));
    let records = u32::from(numbers.get(1).copied().unwrap_or(0));
    let mut bytes = Vec::from(*b"mtb\x01");
    bytes.extend_from_slice(&(payload.len() as u32).to_le_bytes());
    for number in [1, lsn, synced] {
        bytes.extend_from_slice(&number.to_le_bytes());
    }
    bytes.extend_from_slice(&records.to_le_bytes());
    let seed = crc32c::crc32c(&KEY.0[8..]);
    bytes.extend_from_slice(&crc32c::crc32c_append(seed, payload).to_le_bytes());
    bytes.extend_from_slice(&[0; 4]);
    let seed = crc32c::crc32c(&KEY.0[..8]);
    bytes.extend_from_slice(&crc32c::crc32c_append(seed, &bytes).to_le_bytes());
    assert_eq!(bytes.len(), batch::HEADER);
    bytes.extend_from_slice(payload);
    bytes.resize(bytes.len().next_multiple_of(PAGE), 0);
    bytes
}

fuzz_target!(|data: &[u8]| {
    // As anything at all it may be a head, or none.
    let _ = Header::decode(data);
    let _ = batch::decode(&KEY, 1, data);

    let head = Header {
        number: 0,
        generation: 1,
        first: Lsn(1),
        serial: Serial(0),
        journal: [1; 16],
        boot: [2; 16],
        key: KEY,
    };
    let mut bytes = head.encode().to_vec();
    assert_eq!(Header::decode(&bytes), Head::Good(head));
    // `~` is the end of a batch, `!~` of one that is torn.
    for (lsn, text) in (1..).zip(data.split_inclusive(|byte| *byte == b'~')) {
        let text = text.strip_suffix(b"~").unwrap_or(text);
        let (payload, torn) = match text.strip_suffix(b"!") {
            Some(payload) => (payload, true),
            None => (text, false),
        };
        let mut written = batch(lsn, payload);
        written[0] ^= u8::from(torn);
        bytes.extend_from_slice(&written);
    }
    let scan = segment::scan(&head, &bytes);
    let mut replay = Replay::new(Lsn(1), Lsn(0));
    replay.segment(head.first, head.serial);
    for (at, batch) in &scan.batches {
        let lsn = batch.header.lsn;
        let _ = batch.checkpoint();
        match batch.records() {
            Ok(records) => {
                let mut builder = Builder::default();
                for record in &records {
                    builder.push(record).expect("it was in a batch");
                }
                if !records.is_empty() {
                    assert_eq!(builder.finish(&KEY, &batch.header), &bytes[*at..*at + batch.padded_len()]);
                }
                replay.batch(lsn, batch.header.synced, false, records);
            }
            Err(_) => replay.malformed(lsn),
        }
    }
    let finished = replay.finish();
    for message in finished.messages {
        assert_eq!(message.accept.recipients.len(), message.recipients.len());
    }
});

//! Files of the queue that something else may have written: read without harm, and what is read is written as it was.

#![no_main]

use libfuzzer_sys::fuzz_target;
use mailtree_protocols::envelope::{self, Envelope};

fuzz_target!(|data: &[u8]| {
    if let Ok(read) = Envelope::parse(data)
        && let Ok(written) = read.to_bytes()
    {
        assert_eq!(Envelope::parse(&written), Ok(read));
    }
    if let Ok(sender) = envelope::parse_info(data)
        && let Ok(written) = envelope::info(&sender)
    {
        assert_eq!(written, data);
    }
    if let Ok((recipients, wrong)) = envelope::parse_channel(data) {
        for recipient in &recipients {
            let at = usize::try_from(recipient.offset).expect("an offset in the file");
            assert_eq!(data[at], if recipient.done { b'D' } else { b'T' });
            assert!(data[at + 1..].starts_with(&recipient.address));
            assert!(!recipient.address.contains(&0));
        }
        let again = recipients.iter().map(|recipient| (&*recipient.address, recipient.done));
        if let Ok(written) = envelope::channel(again)
            && wrong.is_none()
        {
            assert_eq!(written, data);
        }
    }
});

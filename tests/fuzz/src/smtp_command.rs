//! Bytes of a client: the same replies, events and bodies however they are cut, and never a state that breaks a promise.

#![no_main]

mod host;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Some((&[flags, ref cuts @ ..], input)) = data.split_first_chunk::<5>() else { return };
    let policy = host::policy(if flags & 1 == 0 { 0 } else { 20 });
    let open = if flags & 2 == 0 { host::Answer::Fair } else { host::Answer::Temporary };
    let mut whole = host::Host::new(policy.clone());
    whole.answers.open = open;
    whole.feed(input);
    let mut pieces = host::Host::new(policy);
    pieces.answers.open = open;
    pieces.feed_in_pieces(input, cuts);
    assert_eq!(whole.out, pieces.out);
    assert_eq!(whole.events, pieces.events);
    host::check_replies(&whole.out);
});

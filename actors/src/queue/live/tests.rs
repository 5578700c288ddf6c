//! The table by itself.

use mailtree_protocols::envelope::Envelope;
use mailtree_protocols::journal::Serial;

use super::super::disk::spare::Spare;
use super::*;

const ID: MessageId = MessageId(11);
const BIRTH: u64 = 9_000_000;

fn envelope(recipients: &[&str]) -> Envelope {
    let recipients = recipients.iter().map(|one| one.as_bytes().to_vec()).collect();
    Envelope { uid: 1, qp: 2, sender: b"a@x".to_vec(), recipients }
}

/// A table with one message in the journal, known to the scheduler.
fn journalled(recipients: &[&str]) -> Live {
    let live = Live::default();
    let backing = Backing::Journal { serial: Serial(5), lsn: Lsn(7), spare: Spare { number: 3, id: ID } };
    let mut entry = Entry::new(backing, 9_000_000, 100, envelope(recipients));
    entry.body = Some(b"Subject: x\n\nx\n"[..].into());
    live.insert([(ID, entry)]);
    live
}

fn route(address: &[u8]) -> (Channel, Vec<u8>) {
    match address.ends_with(b"@here") {
        true => (Channel::Local, [b"here-", address].concat()),
        false => (Channel::Remote, address.to_vec()),
    }
}

fn arrived(live: &Live) -> NewMessage {
    match live.arrivals(10, &route).remove(0) {
        Arrival::Message(message) => message,
        Arrival::Place(id) => panic!("{id} is to be placed"),
    }
}

fn settled(channel: Channel, done: &[(u64, Option<&str>)]) -> Settled {
    let done = done.iter().map(|(at, text)| (*at, text.map(|text| text.as_bytes().to_vec()))).collect();
    Settled { id: ID, channel, done, finished: false, retry: None }
}

fn copies() -> Vec<MaildirFile> {
    vec![MaildirFile {
        dir: b"/home/bob/Maildir".to_vec(),
        name: b"1.M2P3Q4.x".to_vec(),
        head: Vec::new(),
        mount: 7,
    }]
}

#[test]
fn a_recipient_is_called_as_in_the_file_he_may_come_to_stand_in() {
    let live = journalled(&["b@here", "c@there", "d@here"]);
    let message = arrived(&live);
    let offsets: Vec<_> = message.local.iter().map(|one| one.offset).collect();
    let Leaving { place, .. } = live.leave(ID).unwrap();
    let Content::Preprocessed { channels: [(local, _), _], .. } = place.content else { panic!() };
    let listed = local.iter().map(|(address, done)| (&**address, *done));
    let bytes = mailtree_protocols::envelope::channel(listed).unwrap();
    let (read, _) = mailtree_protocols::envelope::parse_channel(&bytes).unwrap();
    assert_eq!(offsets, read.iter().map(|one| one.offset).collect::<Vec<_>>());
    assert_eq!(message.remote.len(), 1);
    assert!(live.arrivals(10, &route).is_empty(), "told once");
}

#[test]
fn a_message_is_needed_until_its_copies_are_durable() {
    let live = journalled(&["b@here"]);
    let message = arrived(&live);
    let (noted, record) =
        live.delivered((ID, BIRTH), (Channel::Local, message.local[0].offset), copies()).unwrap();
    assert!(matches!(record, Record::Done { recipient: 0, serial: Serial(5), .. }));
    // Its report says the same again.
    assert!(
        matches!(live.settle(&settled(Channel::Local, &[(0, None)])), Settling::Noted(none) if none.is_empty())
    );
    assert!(matches!(live.end(ID, false), Ending::Noted(Record::Ended { serial: Serial(5) }, false)));
    assert!(live.forget_ended(ID).is_none());
    assert_eq!(live.needed(), Some(Lsn(7)));
    assert!(live.leaving(Duration::ZERO, 0).is_empty());
    assert!(live.durable(noted).is_some());
    assert_eq!((live.needed(), live.len()), (None, 0));
}

#[test]
fn a_copy_that_cannot_be_made_durable_is_no_delivery() {
    // Known by nobody any more: it arrives again.
    let live = journalled(&["b@here"]);
    arrived(&live);
    let (noted, _) = live.delivered((ID, BIRTH), (Channel::Local, 0), copies()).unwrap();
    drop(live.end(ID, false));
    live.lost(noted);
    let again = arrived(&live);
    assert!(again.again && !again.local[0].done);
    // Known: the scheduler is told, and what it says of that delivery comes too late.
    let live = journalled(&["b@here", "c@there"]);
    arrived(&live);
    let (noted, _) = live.delivered((ID, BIRTH), (Channel::Local, 0), copies()).unwrap();
    live.lost(noted);
    drop(live.settle(&settled(Channel::Local, &[(0, None)])));
    assert_eq!(live.reopened(), [(ID, Channel::Local)]);
    assert!(!live.recipients(ID, Channel::Local).unwrap()[0].done);
    // Ended in between: it does not.
    let live = journalled(&["b@here"]);
    arrived(&live);
    let (noted, _) = live.delivered((ID, BIRTH), (Channel::Local, 0), copies()).unwrap();
    live.lost(noted);
    assert!(matches!(live.end(ID, false), Ending::Reopened));
    assert_eq!(arrived(&live).local.len(), 1);
}

#[test]
fn while_a_message_is_written_out_nothing_is_noted_of_it() {
    let live = journalled(&["b@here"]);
    arrived(&live);
    assert_eq!(live.leaving(Duration::ZERO, 0), [ID]);
    assert!(live.leaving(Duration::from_secs(60), 10).is_empty(), "young, and not too many");
    assert!(live.leave(ID).is_some() && live.leave(ID).is_none());
    assert!(live.delivered((ID, BIRTH), (Channel::Local, 0), copies()).is_none());
    assert!(matches!(live.settle(&settled(Channel::Local, &[(0, None)])), Settling::Busy));
    assert!(matches!(live.end(ID, false), Ending::Busy) && live.is_writing(ID));
    live.stayed(ID);
    assert!(matches!(live.settle(&settled(Channel::Local, &[(0, None)])), Settling::Noted(_)));
    live.left(ID);
    assert!(matches!(live.settle(&settled(Channel::Local, &[(0, None)])), Settling::Files));
}

#[test]
fn what_was_written_out_unheard_of_is_not_forgotten() {
    let live = journalled(&["b@here"]);
    arrived(&live);
    // The scheduler died; the next one has not heard of it yet.
    live.announce_all();
    assert!(live.leave(ID).is_some() && live.arrivals(10, &route).is_empty());
    live.left(ID);
    assert_eq!(live.surfaced(), [ID]);
}

#[test]
fn failures_are_kept_for_the_bounce_and_the_file() {
    let live = journalled(&["b@here", "c@there"]);
    arrived(&live);
    let Settling::Noted(records) = live.settle(&settled(Channel::Remote, &[(0, Some("<c@there>:\nno\n\n"))]))
    else {
        panic!()
    };
    assert!(matches!(&records[..], [Record::Done { outcome: Outcome::Failed { .. }, recipient: 1, .. }]));
    assert_eq!(live.bounce(ID).unwrap(), b"<c@there>:\nno\n\n");
    let Leaving { place, .. } = live.leave(ID).unwrap();
    let Content::Preprocessed { channels: [_, (remote, _)], bounce, .. } = place.content else { panic!() };
    assert!(remote[0].1 && !bounce.is_empty());
}

#[test]
fn whoever_has_failed_and_is_in_no_bounce_is_left_where_there_is_no_file_for_a_bounce() {
    let live = journalled(&["b@here", "c@there", "d@there"]);
    arrived(&live);
    drop(live.settle(&settled(Channel::Local, &[(0, None)])));
    drop(live.settle(&settled(Channel::Remote, &[(0, Some("no\n"))])));
    let entry = |live: &Live| {
        live.lock().entries.get_mut(&ID).unwrap().routed = false;
        let Content::Todo(envelope) = live.leave(ID).unwrap().place.content else { panic!() };
        live.stayed(ID);
        Envelope::parse(&envelope).unwrap().recipients
    };
    assert_eq!(entry(&live), [b"c@there".to_vec(), b"d@there".to_vec()]);
    live.bounced(ID);
    assert_eq!(entry(&live), [b"d@there".to_vec()]);
}

#[test]
fn without_a_journal_a_message_to_several_is_placed_first() {
    for (recipients, first) in [(&["b@here"][..], false), (&["b@here", "c@there"], true)] {
        let live = Live::default();
        live.insert([(ID, Entry::new(Backing::Todo, 9_000_000, 100, envelope(recipients)))]);
        let arrival = live.arrivals(10, &route).remove(0);
        assert_eq!(matches!(arrival, Arrival::Place(ID)), first);
    }
}

#[test]
fn what_is_being_accepted_is_not_found_as_well() {
    let live = Live::default();
    let entry = || Entry::new(Backing::Todo, 9_000_000, 100, envelope(&["b@here"]));
    live.expect(ID);
    live.found(ID, entry());
    assert!(live.knows(ID) && live.arrivals(10, &route).is_empty());
    live.unexpect(ID);
    live.found(ID, entry());
    live.found(ID, entry());
    assert_eq!(live.arrivals(10, &route).len(), 1);
}

#[test]
fn a_new_scheduler_hears_of_everything_again() {
    let live = journalled(&["b@here", "c@there"]);
    arrived(&live);
    drop(live.settle(&settled(Channel::Local, &[(0, None)])));
    live.announce_all();
    let again = arrived(&live);
    assert!(again.again && again.local[0].done && !again.remote[0].done);
}

/// A table with one message in S4 for two, of which the scheduler has been told that it is to be placed.
fn to_be_placed() -> Live {
    let live = Live::default();
    live.insert([(ID, Entry::new(Backing::Todo, 9_000_000, 100, envelope(&["b@here", "c@there"])))]);
    assert!(matches!(live.arrivals(10, &route)[..], [Arrival::Place(ID)]));
    live
}

#[test]
fn a_message_that_is_written_out_before_it_is_placed_is_not_forgotten() {
    let live = to_be_placed();
    live.leave(ID).unwrap();
    assert!(live.placing(ID).is_none());
    live.left(ID).unwrap();
    assert!(live.placing(ID).is_none());
    assert_eq!(live.surfaced(), [ID]);
}

#[test]
fn a_message_that_is_placed_is_told_of_once() {
    let live = to_be_placed();
    assert_eq!(live.placing(ID).unwrap().id, ID);
    assert!(live.placing(ID).is_none());
    live.leave(ID).unwrap();
    live.left(ID).unwrap();
    assert!(!live.unplaced(ID) && live.surfaced().is_empty());
}

#[test]
fn a_message_that_cannot_be_placed_is_placed_later() {
    let live = to_be_placed();
    live.placing(ID).unwrap();
    live.leave(ID).unwrap();
    live.stayed(ID);
    assert!(live.unplaced(ID));
    assert_eq!(live.placing(ID).unwrap().local.len(), 1);
}

#[test]
fn a_delivery_that_outlives_its_message_says_nothing_of_the_next_one_with_its_number() {
    let live = journalled(&["b@here"]);
    arrived(&live);
    assert!(live.delivered((ID, BIRTH - 1), (Channel::Local, 0), copies()).is_none());
    assert!(live.delivered((ID, BIRTH), (Channel::Local, 0), copies()).is_some());
}

#[test]
fn what_was_removed_is_not_delivered_again_when_a_copy_is_lost() {
    let live = journalled(&["b@here", "d@here"]);
    arrived(&live);
    let (noted, _) = live.delivered((ID, BIRTH), (Channel::Local, 0), copies()).unwrap();
    assert!(matches!(live.end(ID, true), Ending::Noted(..)));
    live.lost(noted);
    assert!(live.arrivals(10, &route).is_empty() && live.reopened().is_empty());
    assert!(live.forget_ended(ID).is_some());
}

#[test]
fn no_checkpoint_vouches_for_a_copy_that_was_lost() {
    let live = journalled(&["b@here"]);
    arrived(&live);
    let (noted, _) = live.delivered((ID, BIRTH), (Channel::Local, 0), copies()).unwrap();
    assert_eq!(live.doubt(), None);
    let Some(Record::Done { outcome: Outcome::Delivered { maildirs }, .. }) = live.doubted(noted, copies())
    else {
        panic!()
    };
    assert_eq!(maildirs[0].mount, DOUBTED);
    live.lost(noted);
    assert_eq!(live.doubt(), Some(Lsn(7)));
    assert!(live.delivered((ID, BIRTH), (Channel::Local, 0), copies()).is_none(), "made durable by itself");
    live.reopened();
    live.recipients(ID, Channel::Local).unwrap();
    live.settle(&settled(Channel::Local, &[(0, None)]));
    assert_eq!(live.doubt(), None);
}

#[test]
fn a_number_that_is_given_out_again_before_its_old_message_is_gone_stays_with_the_new_one() {
    let live = to_be_placed();
    assert!(matches!(live.end(ID, true), Ending::Files));
    // The files are gone, and with them the inode; another message gets it before that is said here.
    live.insert([(ID, Entry::new(Backing::Todo, 10_000_000, 200, envelope(&["x@here"])))]);
    live.remove_ended(ID);
    assert_eq!(arrived(&live).bytes, 200);
    live.end(ID, true);
    live.remove_ended(ID);
    assert!(!live.knows(ID));
}

#[test]
fn the_journal_knows_a_message_until_what_was_written_of_it_is_gone() {
    let live = journalled(&["b@here", "c@there"]);
    arrived(&live);
    live.leave(ID).unwrap();
    live.stayed(ID);
    let (noted, _) = live.delivered((ID, BIRTH), (Channel::Local, 0), copies()).unwrap();
    assert!(matches!(live.end(ID, true), Ending::Noted(_, true)));
    // A checkpoint comes between the note that it has ended and the end of its files.
    assert!(live.durable(noted).is_none());
    assert_eq!(live.needed(), Some(Lsn(7)));
    assert!(matches!(live.end(ID, true), Ending::Noted(_, true)), "they could not be removed the first time");
    live.removed_leftover(ID);
    assert!(matches!(live.end(ID, true), Ending::Over));
    assert!(live.forget_ended(ID).is_some());
    assert_eq!(live.needed(), None);
}

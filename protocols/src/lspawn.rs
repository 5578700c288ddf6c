//! What qmail-send's spawner and the process that delivers with users' rights say to each other, packet by packet, as
//! qmail-send and qmail-lspawn do: fields that end in NUL. No field holds one.

use crate::queue::{Dir, MessageId};
use crate::report::Class;

/// Longest packet in bytes: two addresses as long as the queue takes them, and numbers.
pub const MAX: usize = 8192;

/// Packets of one answer, at most: a `.qmail` file has no more addresses.
pub const MAX_PACKETS: usize = 1 << 17;

/// A delivery that is asked for. The message comes along as an open file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// The message.
    pub id: MessageId,
    /// When it was accepted, in microseconds since 1970.
    pub birth: u64,
    /// What the queue calls the recipient.
    pub record: u64,
    /// It may have been begun before.
    pub again: bool,
    /// What was delivered before could not be synced.
    pub doubted: bool,
    /// Reverse-path.
    pub sender: Vec<u8>,
    /// Rewritten address.
    pub recipient: Vec<u8>,
}

/// What is asked of the spawner.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Order {
    /// A delivery.
    Deliver(Request),
    /// The open file that comes along is in this directory of the queue: it gets its owner and group.
    Give(Dir),
    /// It gets this time of change, in microseconds since 1970.
    SetMtime(u64),
}

/// What comes back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// The delivery has begun.
    Begun,
    /// The message is to go on to this address as well; only before a success.
    Forward(Vec<u8>),
    /// The reverse-path of the message that goes on.
    Sender(Vec<u8>),
    /// The address in Delivered-To.
    DeliveredTo(Vec<u8>),
    /// What became of it: the end.
    Report(Class, Vec<u8>),
}

/// A packet that says nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a packet of the spawner's that cannot be read")]
pub struct Mangled;

impl Order {
    /// As a packet. `None`: it is too long, or an address holds a NUL.
    #[must_use]
    pub fn encode(&self) -> Option<Vec<u8>> {
        match self {
            Self::Deliver(request) => request.encode(),
            Self::Give(dir) => Some(format!("g{}\0", dir.name()).into_bytes()),
            Self::SetMtime(micros) => Some(format!("m{micros}\0").into_bytes()),
        }
    }

    /// Reads a packet.
    ///
    /// # Errors
    /// [`Mangled`].
    pub fn decode(packet: &[u8]) -> Result<Self, Mangled> {
        let (&kind, rest) = packet.split_first().ok_or(Mangled)?;
        let rest = rest.strip_suffix(b"\0").ok_or(Mangled)?;
        match kind {
            b'd' => Request::decode(rest).map(Self::Deliver),
            b'g' => {
                let dir = Dir::ALL.into_iter().find(|dir| dir.name().as_bytes() == rest);
                dir.map(Self::Give).ok_or(Mangled)
            }
            b'm' => number(rest).map(Self::SetMtime).ok_or(Mangled),
            _ => Err(Mangled),
        }
    }
}

fn number(field: &[u8]) -> Option<u64> {
    std::str::from_utf8(field).ok()?.parse().ok()
}

impl Request {
    fn encode(&self) -> Option<Vec<u8>> {
        let Self { id, birth, record, again, doubted, sender, recipient } = self;
        let flags = u8::from(*again) | u8::from(*doubted) << 1;
        let mut packet = format!("d{}\0{birth}\0{record}\0{flags}\0", id.0).into_bytes();
        for address in [sender, recipient] {
            if address.contains(&0) {
                return None;
            }
            packet.extend_from_slice(address);
            packet.push(0);
        }
        (packet.len() <= MAX).then_some(packet)
    }

    fn decode(fields: &[u8]) -> Result<Self, Mangled> {
        let fields: Vec<&[u8]> = fields.split(|byte| *byte == 0).collect();
        let &[id, birth, record, flags, sender, recipient] = fields.as_slice() else { return Err(Mangled) };
        let flags = number(flags).filter(|flags| *flags < 4).ok_or(Mangled)?;
        Ok(Self {
            id: MessageId(number(id).ok_or(Mangled)?),
            birth: number(birth).ok_or(Mangled)?,
            record: number(record).ok_or(Mangled)?,
            again: flags & 1 != 0,
            doubted: flags & 2 != 0,
            sender: sender.to_vec(),
            recipient: recipient.to_vec(),
        })
    }
}

impl Answer {
    /// As a packet; what is longer than one is cut.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let (kind, text): (u8, &[u8]) = match self {
            Self::Begun => (b'b', b""),
            Self::Forward(address) => (b'f', address),
            Self::Sender(address) => (b's', address),
            Self::DeliveredTo(address) => (b't', address),
            Self::Report(Class::Success, text) => (b'K', text),
            Self::Report(Class::Deferral, text) => (b'Z', text),
            Self::Report(Class::Failure, text) => (b'D', text),
        };
        let mut packet = vec![kind];
        packet.extend_from_slice(&text[..text.len().min(MAX - 1)]);
        packet
    }

    /// Reads a packet. It may come from whoever has the rights of the user.
    ///
    /// # Errors
    /// [`Mangled`].
    pub fn decode(packet: &[u8]) -> Result<Self, Mangled> {
        let (&kind, text) = packet.split_first().ok_or(Mangled)?;
        let text = text.to_vec();
        let is_address = !text.contains(&0);
        match kind {
            b'b' if text.is_empty() => Ok(Self::Begun),
            b'f' if is_address => Ok(Self::Forward(text)),
            b's' if is_address => Ok(Self::Sender(text)),
            b't' if is_address => Ok(Self::DeliveredTo(text)),
            b'K' => Ok(Self::Report(Class::Success, text)),
            b'Z' => Ok(Self::Report(Class::Deferral, text)),
            b'D' => Ok(Self::Report(Class::Failure, text)),
            _ => Err(Mangled),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request() -> Request {
        Request {
            id: MessageId(93_049),
            birth: 12_345_678,
            record: 7,
            again: true,
            doubted: false,
            sender: b"".to_vec(),
            recipient: "bob@ä.test".as_bytes().to_vec(),
        }
    }

    #[test]
    fn requests_come_as_they_were_sent() {
        let doubted = Request { again: false, doubted: true, sender: b"a b@c".to_vec(), ..request() };
        let deliver = [request(), doubted].map(Order::Deliver);
        for order in deliver.into_iter().chain([Order::Give(Dir::Mess), Order::SetMtime(17)]) {
            assert_eq!(Order::decode(&order.encode().unwrap()), Ok(order));
        }
        assert_eq!(Request { sender: b"a\0b".to_vec(), ..request() }.encode(), None);
        assert_eq!(Request { sender: vec![b'a'; MAX], ..request() }.encode(), None);
    }

    #[test]
    fn answers_come_as_they_were_sent() {
        for answer in [
            Answer::Begun,
            Answer::Forward(b"a@b".to_vec()),
            Answer::Sender(b"".to_vec()),
            Answer::DeliveredTo(b"c@d".to_vec()),
            Answer::Report(Class::Success, b"did 1+0+0\n".to_vec()),
            Answer::Report(Class::Deferral, vec![0, 255]),
            Answer::Report(Class::Failure, vec![]),
        ] {
            assert_eq!(Answer::decode(&answer.encode()), Ok(answer));
        }
        assert_eq!(Answer::Report(Class::Success, vec![b'x'; MAX]).encode().len(), MAX);
    }

    #[test]
    fn what_is_mangled_is_refused() {
        for packet in [
            &b""[..],
            b"\x00",
            b"1\x002\x003\x000\x00\x00",
            b"1\x002\x003\x004\x00a\x00b\x00",
            b"1\x002\x00x\x000\x00a\x00b\x00",
            b"1\x002\x003\x000\x00a\x00b",
            b"1\x002\x003\x000\x00a\x00b\x00c\x00",
        ] {
            let packet = [b"d", packet].concat();
            assert_eq!(Order::decode(&packet), Err(Mangled), "{}", packet.escape_ascii());
        }
        for packet in [&b""[..], b"g", b"gmess", b"gpid\x00", b"g../mess\x00", b"m\x00", b"m-1\x00", b"x\x00"]
        {
            assert_eq!(Order::decode(packet), Err(Mangled), "{}", packet.escape_ascii());
        }
        for packet in [&b""[..], b"bx", b"fa\x00b", b"k", b"\x00"] {
            assert_eq!(Answer::decode(packet), Err(Mangled), "{}", packet.escape_ascii());
        }
    }
}

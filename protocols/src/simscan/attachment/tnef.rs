//! TNEF: the attachments of a winmail.dat (MS-OXTNEF). A stream that is cut off is read as far as it goes.

use super::TooComplex;
use super::mapi::{Property, Reader, properties};

/// The beginning of a stream (MS-OXTNEF 2.1.3.1).
pub(super) const SIGNATURE: &[u8] = &[0x78, 0x9f, 0x3e, 0x22];

/// Signature and key.
const HEADER: usize = 6;

/// The identifiers of attributes without their types (MS-OXTNEF 2.1.3.2).
mod id {
    pub(super) const ATTACH_REND_DATA: u16 = 0x9002;
    pub(super) const ATTACH_TITLE: u16 = 0x8010;
    pub(super) const ATTACH_DATA: u16 = 0x800f;
    pub(super) const ATTACH_TRANSPORT_FILENAME: u16 = 0x9001;
    pub(super) const ATTACHMENT: u16 = 0x9005;
}

/// Something in a stream.
#[derive(Debug)]
pub(super) enum Item<'a> {
    /// What follows is of another attachment.
    Attachment,
    /// A property of the attachment; those of attributes are told as if they were MAPI's.
    Property(Property<'a>),
}

/// Hands over the attachments.
///
/// # Errors
/// That of `found`.
pub(super) fn read<'a>(
    stream: &'a [u8],
    found: &mut dyn FnMut(Item<'a>) -> Result<(), TooComplex>,
) -> Result<(), TooComplex> {
    let mut rest = Reader(stream.get(HEADER..).unwrap_or_default());
    while let Some((id, data)) = attribute(&mut rest) {
        match id {
            id::ATTACH_REND_DATA => found(Item::Attachment)?,
            id::ATTACH_TITLE | id::ATTACH_TRANSPORT_FILENAME => {
                found(Item::Property(Property::Filename(String::from_utf8_lossy(data).into_owned())))?;
            }
            id::ATTACH_DATA => found(Item::Property(Property::Data(data)))?,
            id::ATTACHMENT => properties(data, &mut |property| found(Item::Property(property)))?,
            _ => {}
        }
    }
    Ok(())
}

/// Level, identifier, type, length, data, checksum (MS-OXTNEF 2.1.3.3).
fn attribute<'a>(rest: &mut Reader<'a>) -> Option<(u16, &'a [u8])> {
    rest.take(1)?;
    let (id, _) = (rest.u16()?, rest.u16()?);
    let length = rest.size()?;
    let data = rest.take_most(length);
    rest.take_most(2);
    Some((id, data))
}

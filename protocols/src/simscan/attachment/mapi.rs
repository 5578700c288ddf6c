//! The properties of an attachment in TNEF, as far as they name or hold a file (MS-OXTNEF 2.1.3.4; MS-OXCMSG 2.2.2).

use super::TooComplex;
use crate::simscan::names::utf16;

/// A property of interest.
#[derive(Debug)]
pub(super) enum Property<'a> {
    /// `PidTagAttachFilename`, a name in eight and three letters.
    Filename(String),
    /// `PidTagAttachLongFilename` or the path of a file.
    LongFilename(String),
    /// `PidTagDisplayName`.
    DisplayName(String),
    /// `PidTagAttachDataBinary`.
    Data(&'a [u8]),
    /// `PidTagAttachDataObject` without the identifier of its interface: for a message another stream.
    Object(&'a [u8]),
}

/// The identifier of an interface, and that of a property with a name.
const GUID: usize = 16;

/// Values of several numbers or texts.
const MULTIPLE: u16 = 0x1000;

/// Hands over the properties; what cannot be read ends them.
pub(super) fn properties<'a>(
    list: &'a [u8],
    found: &mut dyn FnMut(Property<'a>) -> Result<(), TooComplex>,
) -> Result<(), TooComplex> {
    let mut rest = Reader(list);
    // Their number says nothing that their end does not.
    rest.take(4);
    while let Some((kind, id)) = head(&mut rest) {
        let Some(size) = size(kind & !MULTIPLE) else { break };
        // A value of fixed size has no number of values unless there may be several.
        let single = kind & MULTIPLE == 0 && size != Size::Counted;
        let Some(count) = (if single { Some(1) } else { rest.size() }) else { break };
        for _ in 0..count {
            let value = match size {
                Size::Fixed(size) => rest.take(size),
                Size::Counted => rest.counted(),
            };
            let Some(value) = value else { return Ok(()) };
            if let Some(property) = property(kind, id, value) {
                found(property)?;
            }
        }
    }
    Ok(())
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Size {
    /// With its padding.
    Fixed(usize),
    /// The size stands before the value.
    Counted,
}

/// The size of a value of this type (MS-OXCDATA 2.11.1).
fn size(kind: u16) -> Option<Size> {
    Some(match kind {
        0x02 | 0x03 | 0x04 | 0x0a | 0x0b => Size::Fixed(4),
        0x05 | 0x06 | 0x07 | 0x14 | 0x40 => Size::Fixed(8),
        0x48 => Size::Fixed(16),
        0x0d | 0x1e | 0x1f | 0x102 => Size::Counted,
        _ => return None,
    })
}

/// Type and identifier; a name is skipped.
fn head(rest: &mut Reader<'_>) -> Option<(u16, u16)> {
    let (kind, id) = (rest.u16()?, rest.u16()?);
    if id >= 0x8000 {
        rest.take(GUID)?;
        match rest.size()? {
            0 => rest.take(4)?,
            _ => rest.counted()?,
        };
    }
    Some((kind, id))
}

fn property(kind: u16, id: u16, value: &[u8]) -> Option<Property<'_>> {
    let text = || match kind & !MULTIPLE {
        0x1f => Some(utf16(value)),
        0x1e => Some(String::from_utf8_lossy(value).into_owned()),
        _ => None,
    };
    match id {
        0x3704 => text().map(Property::Filename),
        0x3707 | 0x3708 | 0x370d => text().map(Property::LongFilename),
        0x3001 => text().map(Property::DisplayName),
        0x3701 if kind == 0x0d => value.get(GUID..).map(Property::Object),
        0x3701 => Some(Property::Data(value)),
        _ => None,
    }
}

/// Bytes still to be read, numbers little-endian.
#[derive(Debug)]
pub(super) struct Reader<'a>(pub(super) &'a [u8]);

impl<'a> Reader<'a> {
    pub(super) fn take(&mut self, size: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(size)?;
        self.0 = rest;
        Some(taken)
    }

    /// As much as there is.
    pub(super) fn take_most(&mut self, size: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(size.min(self.0.len()));
        self.0 = rest;
        taken
    }

    pub(super) fn u16(&mut self) -> Option<u16> {
        Some(u16::from_le_bytes(*self.take(2)?.first_chunk()?))
    }

    /// A number of bytes or of values.
    pub(super) fn size(&mut self) -> Option<usize> {
        usize::try_from(u32::from_le_bytes(*self.take(4)?.first_chunk()?)).ok()
    }

    /// A value with its size before it and padded to four bytes.
    fn counted(&mut self) -> Option<&'a [u8]> {
        let size = self.size()?;
        let value = self.take(size)?;
        self.take_most(size.wrapping_neg() % 4);
        Some(value)
    }
}

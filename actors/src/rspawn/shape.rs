//! What must be known of a message before it is sent.

use std::io;

use crate::queue::Body;

/// Its shape.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Shape {
    /// Bytes on the wire: each LF counts as two.
    pub(super) size: u64,
    /// Some byte is above 127.
    pub(super) eight_bit: bool,
}

/// Reads through the message.
pub(super) fn shape(body: &Body) -> io::Result<Shape> {
    let mut shape = Shape::default();
    let (mut at, mut chunk) = (0, Vec::new());
    loop {
        body.read_at(at, &mut chunk)?;
        if chunk.is_empty() {
            return Ok(shape);
        }
        at += chunk.len() as u64;
        shape.size += (chunk.len() + memchr::memchr_iter(b'\n', &chunk).count()) as u64;
        shape.eight_bit |= !chunk.is_ascii();
    }
}

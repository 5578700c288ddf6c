//! What must be known of a message before it is sent.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

/// Its shape.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Shape {
    /// Bytes on the wire: each LF counts as two.
    pub(super) size: u64,
    /// Some byte is above 127.
    pub(super) eight_bit: bool,
}

/// Reads through the message.
pub(super) fn shape(path: &Path) -> io::Result<Shape> {
    let mut file = File::open(path)?;
    let mut chunk = vec![0; 64 * 1024];
    let mut shape = Shape { size: 0, eight_bit: false };
    loop {
        let read = file.read(&mut chunk)?;
        if read == 0 {
            return Ok(shape);
        }
        let part = &chunk[..read];
        shape.size += (read + part.iter().filter(|byte| **byte == b'\n').count()) as u64;
        shape.eight_bit |= !part.is_ascii();
    }
}

//! CRC-32C.

/// A checksum that grows.
#[derive(Debug, Clone, Copy, Default)]
pub struct Crc(u32);

impl Crc {
    /// Adds bytes.
    pub fn add(&mut self, bytes: &[u8]) {
        self.0 = crc32c::crc32c_append(self.0, bytes);
    }

    /// Of all that was added.
    #[must_use]
    pub fn value(self) -> u32 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_castagnolis() {
        let mut crc = Crc::default();
        crc.add(b"12345");
        crc.add(b"6789");
        assert_eq!(crc.value(), 0xE306_9283);
    }
}

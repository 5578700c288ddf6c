//! Names in a Maildir.

/// A name that no other delivery uses: time, process, delivery and host; `,S=` tells the size to those who count quota
/// (Maildir++). `seconds` and `micros` are the time, `pid` the process, `delivery` a number unique in it, `size` bytes.
#[must_use]
pub fn name(seconds: u64, micros: u32, pid: u32, delivery: u64, host: &str, size: u64) -> String {
    // A slash or a colon in the host's name would end the name (cr.yp.to/proto/maildir.html).
    let host = host.replace('/', "\\057").replace(':', "\\072");
    format!("{seconds}.M{micros}P{pid}Q{delivery}.{host},S={size}")
}

#[cfg(test)]
mod tests {
    #[test]
    fn names_tell_delivery_and_size() {
        assert_eq!(super::name(12, 34, 56, 78, "mx.test", 90), "12.M34P56Q78.mx.test,S=90");
        assert_eq!(super::name(1, 2, 3, 4, "a/b:c", 5), "1.M2P3Q4.a\\057b\\072c,S=5");
    }
}

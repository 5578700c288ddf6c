//! Whose message it is that a `.qmail` file sends on: the list's own owner gets its bounces (dot-qmail.5).

/// The reverse-path of what is sent on from `local`@`host`.
///
/// `owner` says whether `.qmail-EXT-owner` exists, `default` whether `.qmail-EXT-owner-default` does; neither is asked for a
/// message whose bounces go to nobody. With both, every recipient gets a reverse-path of his own (VERP).
///
/// # Errors
/// Those of `owner` and `default`.
pub fn newsender<E>(
    sender: &[u8],
    (local, host): (&[u8], &[u8]),
    owner: impl FnOnce() -> Result<bool, E>,
    default: impl FnOnce() -> Result<bool, E>,
) -> Result<Vec<u8>, E> {
    if matches!(sender, b"" | b"#@[]") || !owner()? {
        return Ok(sender.to_vec());
    }
    Ok(match default()? {
        true => [local, b"-owner-@", host, b"-@[]"].concat(),
        false => [local, b"-owner@", host].concat(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_owner_of_a_list_gets_its_bounces() {
        let of = |sender: &str, owner, default| {
            let asked = |answer: Option<bool>| move || answer.ok_or("not to be asked");
            let found = newsender(sender.as_bytes(), (b"ml", b"x.test"), asked(owner), asked(default));
            String::from_utf8(found.unwrap()).unwrap()
        };
        assert_eq!(of("a@b", Some(false), None), "a@b");
        assert_eq!(of("a@b", Some(true), Some(false)), "ml-owner@x.test");
        assert_eq!(of("a@b", Some(true), Some(true)), "ml-owner-@x.test-@[]");
        assert_eq!(of("", None, None), "");
        assert_eq!(of("#@[]", None, None), "#@[]");
    }
}

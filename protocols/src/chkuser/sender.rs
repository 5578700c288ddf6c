//! Whether a sender can be one.

use super::event::Event;
use super::format;
use super::settings::{Settings, Start};
use super::{Mx, Step};
use crate::address;

/// Checks the reverse-path of MAIL; `mx` is the answer to an earlier [`Step::Mx`].
pub fn check(settings: &Settings, sender: &[u8], smtputf8: bool, mx: Option<Mx>) -> Step {
    let event = if settings.mustauth {
        Event::MustAuth
    } else if sender.is_empty() {
        Event::NullSender
    } else if settings.start == Start::Never || !settings.check_sender {
        Event::AnySender
    } else if settings.doublebounce && sender == b"#@[]" {
        Event::DoubleBounce
    } else {
        let (local, domain) = address::split(sender);
        let domain = domain.unwrap_or_default();
        if settings.sender_format && !format::is_well_formed(local, domain, smtputf8) {
            Event::SenderFormat
        } else if !settings.sender_mx {
            Event::SenderAccepted
        } else {
            match mx {
                None => return Step::Mx(domain.to_ascii_lowercase()),
                Some(Mx::Found) => Event::SenderAccepted,
                Some(Mx::NotFound) => Event::SenderMx,
                Some(Mx::Temporary) => Event::SenderMxTemporary,
            }
        }
    };
    Step::Done(event)
}

#[cfg(test)]
mod tests {
    use super::super::settings::tests::settings;
    use super::*;

    #[test]
    fn the_order_of_the_checks() {
        use Event::*;
        let (off, on) = ("RELAYCLIENT=", "CHKUSER_START=DOMAIN");
        for (variables, sender, mx, expected) in [
            ("CHKUSER_MUSTAUTH=1", "", None, MustAuth),
            ("CHKUSER_MUSTAUTH=1 RELAYCLIENT=", "", None, NullSender),
            (off, "", None, NullSender),
            (off, "bad address", None, AnySender),
            (on, "", None, NullSender),
            ("CHKUSER_START=ALWAYS CHKUSER_SENDER_NOCHECK_VARIABLE=X X=", "bad address", None, AnySender),
            ("CHKUSER_START=ALWAYS CHKUSER_DOUBLEBOUNCE=1", "#@[]", None, DoubleBounce),
            (on, "#@[]", None, SenderFormat),
            (on, "nodomain", None, SenderFormat),
            (on, "a@b", Some(Mx::Found), SenderFormat),
            (on, "a@b.example", Some(Mx::Found), SenderAccepted),
            (on, "a@b.example", Some(Mx::NotFound), SenderMx),
            (on, "a@b.example", Some(Mx::Temporary), SenderMxTemporary),
            ("CHKUSER_START=DOMAIN CHKUSER_SENDER_MX_NOCHECK=1", "a@b.example", None, SenderAccepted),
        ] {
            let step = check(&settings(variables), sender.as_bytes(), false, mx);
            assert_eq!(step, Step::Done(expected), "{variables} {sender}");
        }
        let step = check(&settings(on), b"A@B.Example", false, None);
        assert_eq!(step, Step::Mx(b"b.example".to_vec()));
        let nocheck = settings("CHKUSER_START=DOMAIN CHKUSER_SENDER_FORMAT_NOCHECK=1");
        assert_eq!(check(&nocheck, b"bad address", false, None), Step::Mx(Vec::new()));
    }
}

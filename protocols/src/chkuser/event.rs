//! Every outcome of chkuser: its two words in the log and what the client is told (chkuser.c, chkuser_settings.h).

use crate::reply::Refusal;

/// An outcome.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// The recipient exists, or its domain is no virtual one.
    FoundRecipient,
    /// chkuser is off, and the domain is in rcpthosts.
    AnyRecipient,
    /// The domain's `.qmail-default` takes everything.
    AnyRecipientOfDomain,
    /// RELAYCLIENT is set, the domain is not in rcpthosts.
    Relaying,
    /// The domain is not in rcpthosts.
    NotRelaying,
    /// No such recipient.
    NoRecipient,
    /// This recipient has reached `CHKUSER_RCPTLIMIT`.
    MaxRecipients,
    /// `CHKUSER_WRONGRCPTLIMIT` is reached. chkuser defines it and never says it: see [`Self::InvalidThreshold`].
    MaxInvalidRecipients,
    /// A recipient without a domain.
    NoDomain,
    /// The recipient is not well formed.
    RcptFormat,
    /// The recipient's domain takes no mail.
    RcptMx,
    /// Nobody can say whether the recipient's domain takes mail.
    RcptMxTemporary,
    /// Nobody can say whether the recipient exists.
    NoAuthResource,
    /// `CHKUSER_MUSTAUTH`: this client may not send.
    MustAuth,
    /// The mailbox is full.
    OverQuota,
    /// A recipient after a limit was reached.
    Intrusion,
    /// `CHKUSER_RCPTLIMIT` is reached: said beside the refusal.
    RcptThreshold,
    /// `CHKUSER_WRONGRCPTLIMIT` is reached: said beside the refusal.
    InvalidThreshold,
    /// The sender is well formed and its domain takes mail.
    SenderAccepted,
    /// Senders are not checked.
    AnySender,
    /// The null sender.
    NullSender,
    /// `#@[]`, with `CHKUSER_DOUBLEBOUNCE`.
    DoubleBounce,
    /// The sender is not well formed.
    SenderFormat,
    /// The sender's domain takes no mail.
    SenderMx,
    /// Nobody can say whether the sender's domain takes mail.
    SenderMxTemporary,
}

impl Event {
    /// Title and description in the log.
    pub const fn words(self) -> (&'static str, &'static str) {
        match self {
            Self::FoundRecipient => ("accepted rcpt", "found existing recipient"),
            Self::AnyRecipient => ("accepted any rcpt", "accepted any recipient for any rcpt domain"),
            Self::AnyRecipientOfDomain => ("accepted any rcpt", "accepted any recipient for this domain"),
            Self::Relaying => ("relaying rcpt", "client allowed to relay"),
            Self::NotRelaying => ("rejected relaying", "client not allowed to relay"),
            Self::NoRecipient => ("rejected rcpt", "not existing recipient"),
            Self::MaxRecipients => ("rejected rcpt", "max number of recipients"),
            Self::MaxInvalidRecipients => ("rejected rcpt", "max number of invalid recipients"),
            // chkuser logs nothing of an address without a domain; a refusal without a line helps nobody.
            Self::NoDomain | Self::RcptFormat => ("rejected rcpt", "invalid rcpt address format"),
            Self::RcptMx => ("rejected rcpt", "invalid rcpt MX domain"),
            Self::RcptMxTemporary => ("rejected rcpt", "temporary DNS problem"),
            Self::NoAuthResource => ("no auth resource", "no auth resource available"),
            Self::MustAuth => ("must auth", "sender not authenticated/authorized"),
            Self::OverQuota => ("mbx overquota", "rcpt mailbox is overquota"),
            Self::Intrusion => ("rejected intrusion", "rcpt ignored, session over intrusion threshold"),
            Self::RcptThreshold => ("intrusion threshold", "max number of allowed rcpt"),
            Self::InvalidThreshold => ("intrusion threshold", "max number of allowed invalid rcpt"),
            Self::SenderAccepted => ("accepted sender", "sender accepted"),
            Self::AnySender => ("accepted sender", "accepted any sender always"),
            Self::NullSender => ("accepted sender", "accepted null sender always"),
            Self::DoubleBounce => ("accepted doublebounce", "accepted qmail doublebounce #@[]"),
            Self::SenderFormat => ("rejected sender", "invalid sender address format"),
            Self::SenderMx => ("rejected sender", "invalid sender MX domain"),
            Self::SenderMxTemporary => ("rejected sender", "temporary DNS problem"),
        }
    }

    /// What the client is told; `None` where mail is taken. The enhanced code is in front whether or not the client said
    /// EHLO.
    pub const fn refusal(self) -> Option<Refusal> {
        let refusal = Refusal::enhanced_first;
        Some(match self {
            Self::NoRecipient => refusal(550, 1, 1, "sorry, no mailbox here by that name (chkuser)"),
            Self::NoAuthResource => {
                refusal(451, 3, 0, "system temporary unavailable, try again later (chkuser)")
            }
            Self::OverQuota => refusal(552, 2, 2, "sorry, recipient mailbox is full (chkuser)"),
            Self::MaxRecipients => refusal(
                550,
                5,
                3,
                "sorry, reached maximum number of recipients allowed in one session (chkuser)",
            ),
            Self::MaxInvalidRecipients => {
                refusal(550, 5, 3, "sorry, you are violating our security policies (chkuser)")
            }
            Self::NoDomain => refusal(550, 1, 2, "sorry, you must specify a domain (chkuser)"),
            Self::RcptFormat => refusal(553, 1, 3, "sorry, rcpt syntax not allowed (chkuser)"),
            Self::RcptMx => refusal(550, 1, 2, "sorry, can't find a valid MX for rcpt domain (chkuser)"),
            Self::SenderFormat => refusal(553, 1, 7, "sorry, sender syntax not allowed (chkuser)"),
            Self::SenderMx => refusal(550, 1, 8, "sorry, can't find a valid MX for sender domain (chkuser)"),
            Self::Intrusion => refusal(550, 7, 1, "sorry, you are violating our security policies (chkuser)"),
            Self::NotRelaying => {
                refusal(553, 7, 1, "sorry, that domain isn't in my list of allowed rcpthosts (chkuser)")
            }
            Self::RcptMxTemporary | Self::SenderMxTemporary => {
                refusal(451, 4, 0, "DNS temporary failure (chkuser)")
            }
            Self::MustAuth => refusal(530, 7, 0, "Authentication required (chkuser)"),
            Self::FoundRecipient
            | Self::AnyRecipient
            | Self::AnyRecipientOfDomain
            | Self::Relaying
            | Self::RcptThreshold
            | Self::InvalidThreshold
            | Self::SenderAccepted
            | Self::AnySender
            | Self::NullSender
            | Self::DoubleBounce => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wire_shows_each_reply_as_chkuser_wrote_it() {
        for (event, expected) in [
            (Event::NoRecipient, "550 5.1.1 sorry, no mailbox here by that name"),
            (Event::NoAuthResource, "451 4.3.0 system temporary unavailable, try again later"),
            (Event::OverQuota, "552 5.2.2 sorry, recipient mailbox is full"),
            (
                Event::MaxRecipients,
                "550 5.5.3 sorry, reached maximum number of recipients allowed in one session",
            ),
            (Event::MaxInvalidRecipients, "550 5.5.3 sorry, you are violating our security policies"),
            (Event::NoDomain, "550 5.1.2 sorry, you must specify a domain"),
            (Event::RcptFormat, "553 5.1.3 sorry, rcpt syntax not allowed"),
            (Event::RcptMx, "550 5.1.2 sorry, can't find a valid MX for rcpt domain"),
            (Event::RcptMxTemporary, "451 4.4.0 DNS temporary failure"),
            (Event::SenderFormat, "553 5.1.7 sorry, sender syntax not allowed"),
            (Event::SenderMx, "550 5.1.8 sorry, can't find a valid MX for sender domain"),
            (Event::SenderMxTemporary, "451 4.4.0 DNS temporary failure"),
            (Event::Intrusion, "550 5.7.1 sorry, you are violating our security policies"),
            (Event::NotRelaying, "553 5.7.1 sorry, that domain isn't in my list of allowed rcpthosts"),
            (Event::MustAuth, "530 5.7.0 Authentication required"),
        ] {
            for enhanced in [false, true] {
                let mut out = Vec::new();
                event.refusal().unwrap().write(enhanced, &mut out);
                assert_eq!(String::from_utf8(out).unwrap(), format!("{expected} (chkuser)\r\n"));
            }
        }
    }
}

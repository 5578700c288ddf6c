//! The words for a result, and the `Received-SPF` field that carries them (qmail-smtpd's SPF patch; RFC 7208 9.1).

use std::net::IpAddr;

use super::text::{printable, word};
use super::{Client, Outcome, SpfResult};

/// The line to put above `Received:`, with its newline; less than 998 bytes.
///
/// `Received-SPF: RESULT (HOST: TEXT) client-ip=IP; envelope-from=S;`, and `helo=H;` when HELO was checked.
#[must_use]
pub fn received_spf(client: &Client<'_>, outcome: &Outcome) -> String {
    let identity = if client.identity().is_helo {
        format!("helo={}", word(client.helo))
    } else {
        format!("envelope-from={}", word(client.sender))
    };
    format!(
        "Received-SPF: {} ({}: {}) client-ip={}; {identity};\n",
        outcome.result,
        word(client.receiver.as_bytes()),
        comment(client, outcome.result, &outcome.domain, outcome.problem.as_deref().unwrap_or("unknown")),
        client.ip.to_canonical(),
    )
}

/// What a result means, as a sentence without parentheses.
pub(super) fn comment(client: &Client<'_>, result: SpfResult, domain: &str, problem: &str) -> String {
    let ip: IpAddr = client.ip.to_canonical();
    let identity = client.identity();
    let sender = word(&[identity.local, b"@", identity.domain].concat());
    let domain = word(domain.as_bytes());
    let problem: String = printable(problem.as_bytes(), 100)
        .chars()
        .map(|c| if "()\\;\"".contains(c) { '?' } else { c })
        .collect();
    match result {
        SpfResult::Pass => format!("{sender} designates {ip} as permitted sender"),
        SpfResult::Fail => format!("{sender} does not designate {ip} as permitted sender"),
        SpfResult::Softfail => {
            format!("transitioning {sender} does not designate {ip} as permitted sender")
        }
        SpfResult::Neutral => format!("{ip} is neither permitted nor denied by {sender}"),
        SpfResult::None => format!("domain at {domain} does not designate permitted sender hosts"),
        SpfResult::Temperror => format!("error in processing during lookup of {domain}: {problem}"),
        SpfResult::Permerror => problem,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(result: SpfResult, problem: Option<&str>) -> Outcome {
        Outcome {
            result,
            domain: "a.example".into(),
            matched: None,
            explanation: None,
            problem: problem.map(str::to_owned),
        }
    }

    fn client<'a>(sender: &'a [u8], helo: &'a [u8]) -> Client<'a> {
        Client { ip: "::ffff:192.0.2.1".parse().unwrap(), helo, sender, receiver: "mx.test", now: 0 }
    }

    #[test]
    fn the_field_is_qmails() {
        for (result, problem, text) in [
            (SpfResult::Pass, None, "pass (mx.test: x@a.example designates 192.0.2.1 as permitted sender)"),
            (
                SpfResult::Fail,
                None,
                "fail (mx.test: x@a.example does not designate 192.0.2.1 as permitted sender)",
            ),
            (
                SpfResult::Softfail,
                None,
                "softfail (mx.test: transitioning x@a.example does not designate 192.0.2.1 as permitted sender)",
            ),
            (
                SpfResult::Neutral,
                None,
                "neutral (mx.test: 192.0.2.1 is neither permitted nor denied by x@a.example)",
            ),
            (
                SpfResult::None,
                None,
                "none (mx.test: domain at a.example does not designate permitted sender hosts)",
            ),
            (SpfResult::Permerror, Some("a (b)"), "permerror (mx.test: a ?b?)"),
            (
                SpfResult::Temperror,
                Some("timeout"),
                "temperror (mx.test: error in processing during lookup of a.example: timeout)",
            ),
        ] {
            assert_eq!(
                received_spf(&client(b"x@a.example", b"h.example"), &outcome(result, problem)),
                format!("Received-SPF: {text} client-ip=192.0.2.1; envelope-from=x@a.example;\n")
            );
        }
        assert_eq!(
            received_spf(&client(b"", b"h.example"), &outcome(SpfResult::Pass, None)),
            "Received-SPF: pass (mx.test: postmaster@h.example designates 192.0.2.1 as permitted sender) \
             client-ip=192.0.2.1; helo=h.example;\n"
        );
    }

    #[test]
    fn a_stranger_writes_no_second_field() {
        let evil = "e\r\nBcc: x@y.example\n\n)(;\"\\\0\t \u{e9}".repeat(100);
        let long = format!("{evil}@{evil}");
        for (sender, helo) in [(long.as_bytes(), evil.as_bytes()), (b"".as_slice(), evil.as_bytes())] {
            for result in [
                SpfResult::Pass,
                SpfResult::Softfail,
                SpfResult::None,
                SpfResult::Temperror,
                SpfResult::Permerror,
            ] {
                let mut outcome = outcome(result, Some(&evil));
                outcome.domain.clone_from(&evil);
                let client = Client { receiver: &evil, ..client(sender, helo) };
                let field = received_spf(&client, &outcome);
                let line = field.strip_suffix('\n').unwrap();
                assert!(line.bytes().all(|b| matches!(b, 32..=126)), "{line}");
                assert!(line.len() < 998, "{}", line.len());
                assert_eq!(line.matches([';', '(', ')']).count(), 4, "{line}");
            }
        }
    }
}

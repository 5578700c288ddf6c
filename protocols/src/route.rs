//! Which channel a recipient takes, and under which address (qmail-send, rewrite).

use crate::domains::Domains;
use crate::queue::Channel;
use crate::virtualdomains::VirtualDomains;

/// A recipient as it goes into the files `local` and `remote`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Routed {
    /// The channel.
    pub channel: Channel,
    /// The rewritten address.
    pub address: Vec<u8>,
}

/// Rewrites a recipient: without `@` it gets `@envnoathost`; while its domain is in `percenthack`, `user%fqdn@domain`
/// becomes `user@fqdn`; then `locals` and `virtualdomains` decide, and what is in neither is remote.
pub fn route(
    recipient: &[u8],
    locals: &Domains,
    virtualdomains: &VirtualDomains,
    percenthack: &Domains,
    envnoathost: &[u8],
) -> Routed {
    let mut address = recipient.to_vec();
    let mut at = match memchr::memrchr(b'@', &address) {
        Some(at) => at,
        None => {
            address.push(b'@');
            address.extend_from_slice(envnoathost);
            recipient.len()
        }
    };
    // Each turn shortens the address.
    while percenthack.contains(&address[at + 1..]) {
        let Some(percent) = memchr::memrchr(b'%', &address[..at]) else { break };
        address.truncate(at);
        address[percent] = b'@';
        at = percent;
    }
    // A percent sign may have stood before another `@`, and `envnoathost` may hold one.
    let at = memchr::memrchr(b'@', &address).unwrap_or(at);
    if locals.contains(&address[at + 1..]) {
        return Routed { channel: Channel::Local, address };
    }
    match virtualdomains.prepend(&address, at) {
        Some(prepend) => Routed { channel: Channel::Local, address: [prepend, b"-", &address].concat() },
        None => Routed { channel: Channel::Remote, address },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn recipients_and_their_channels() {
        let locals: Domains = ["host.example", "local.example"].into_iter().collect();
        let percenthack: Domains = ["hack.example", "host.example"].into_iter().collect();
        let mut virtualdomains = VirtualDomains::default();
        for line in ["v.example:v.example", "boss@w.example:boss", ".sub.example:sub", "x.sub.example:"] {
            virtualdomains.add(line.as_bytes()).unwrap();
        }
        use Channel::{Local, Remote};
        for (recipient, channel, address) in [
            ("joe", Local, "joe@host.example"),
            ("", Local, "@host.example"),
            ("joe@LOCAL.example", Local, "joe@LOCAL.example"),
            ("joe@v.example", Local, "v.example-joe@v.example"),
            ("Joe@V.Example", Local, "v.example-Joe@V.Example"),
            ("boss@w.example", Local, "boss-boss@w.example"),
            ("joe@w.example", Remote, "joe@w.example"),
            ("joe@a.sub.example", Local, "sub-joe@a.sub.example"),
            ("joe@sub.example", Remote, "joe@sub.example"),
            ("joe@x.sub.example", Remote, "joe@x.sub.example"),
            ("joe@a.x.sub.example", Local, "sub-joe@a.x.sub.example"),
            ("joe%local.example@hack.example", Local, "joe@local.example"),
            ("joe%far.example@hack.example", Remote, "joe@far.example"),
            ("joe%far.example%hack.example@HACK.example", Remote, "joe@far.example"),
            ("joe%far.example", Remote, "joe@far.example"),
            ("joe@hack.example", Remote, "joe@hack.example"),
            ("joe%far.example@other.example", Remote, "joe%far.example@other.example"),
            ("a%b@c%d@hack.example", Remote, "a%b@c@d"),
            ("a@b@local.example", Local, "a@b@local.example"),
            ("joe@", Remote, "joe@"),
        ] {
            let routed = route(recipient.as_bytes(), &locals, &virtualdomains, &percenthack, b"host.example");
            assert_eq!(
                (routed.channel, routed.address.as_slice()),
                (channel, address.as_bytes()),
                "{recipient}"
            );
        }
    }
}

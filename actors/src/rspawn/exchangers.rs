//! Which addresses take mail for a domain, in the order in which they are tried (qmail-remote; RFC 5321 5.1).

use std::net::IpAddr;
use std::time::Duration;

use mailtree_protocols::address;
use mailtree_protocols::report::{Class, Report, safe};
use mailtree_protocols::smtproutes::{RelayHost, Route};
use rand::seq::SliceRandom;
use tokio::time::Instant;

use super::ipme::is_me;
use crate::resolver::{Failure, Mx, Resolver};

/// Addresses that are tried for one delivery.
const MAX_ADDRESSES: usize = 32;

/// Exchangers that are looked up side by side, the best first. Whoever names more is not asked for them.
const MAX_NAMES: usize = 16;

/// How long it may take to find all addresses of a destination: its delivery holds a place of concurrencyremote meanwhile.
const FINDING: Duration = Duration::from_secs(60);

/// The addresses for `domain`, best first, and the port if `smtproutes` names one.
pub(super) async fn addresses(
    resolver: &Resolver,
    domain: &[u8],
    route: &Route,
) -> Result<(Vec<IpAddr>, Option<u16>), Report> {
    let deadline = Instant::now() + FINDING;
    match route {
        Route::Relay { host, port } => {
            let mut addresses = match host {
                RelayHost::Address(ip) => vec![*ip],
                RelayHost::Name(name) => lookup(resolver, name, deadline).await?,
            };
            if addresses.is_empty() {
                return Err(no_exchanger());
            }
            addresses.truncate(MAX_ADDRESSES);
            Ok((addresses, *port))
        }
        Route::Unknown { cause } => {
            Err(Report::deferral(format!("The route to {} is not known: {cause}. (#4.3.5)\n", safe(domain))))
        }
        Route::Mx => exchangers(resolver, domain, deadline).await.map(|addresses| (addresses, None)),
    }
}

async fn exchangers(resolver: &Resolver, domain: &[u8], deadline: Instant) -> Result<Vec<IpAddr>, Report> {
    if let Some(ip) = address::literal(domain) {
        return if is_me(ip) { Err(best_is_me()) } else { Ok(vec![ip]) };
    }
    let name = String::from_utf8(domain.to_vec()).map_err(|_| no_host(domain))?;
    let mut mx =
        in_time(deadline, resolver.mx(&name)).await.map_err(|failure| no_answer(&failure, domain))?;
    if let [Mx { host, .. }] = &*mx
        && host.is_empty()
    {
        return Err(Report::failure("Domain does not accept mail (null MX). (#5.1.10)\n"));
    }
    mx.retain(|mx| !mx.host.is_empty());
    if mx.is_empty() {
        // RFC 5321 5.1: the domain is its own exchanger.
        mx.push(Mx { preference: 0, host: name.clone() });
    }
    in_order(&mut mx);
    mx.truncate(MAX_NAMES);
    let asked = mx.iter().map(|mx| lookup(resolver, &mx.host, deadline));
    let answers = futures_util::future::join_all(asked).await;
    let mut found: Vec<(u16, IpAddr)> = Vec::new();
    let (mut trouble, mut me) = (None, None);
    for (Mx { preference, .. }, answer) in mx.into_iter().zip(answers) {
        if me.is_some_and(|me| preference >= me) || found.len() >= MAX_ADDRESSES {
            break;
        }
        match answer {
            Ok(addresses) => {
                for ip in addresses {
                    if is_me(ip) {
                        me = Some(preference);
                    }
                    found.push((preference, ip));
                }
            }
            // An exchanger that cannot be found does not keep the others from being tried.
            Err(report) if report.class == Class::Deferral => trouble = Some(report),
            Err(report) => trouble = trouble.or(Some(report)),
        }
    }
    let any = !found.is_empty();
    if let Some(me) = me {
        found.retain(|(preference, _)| *preference < me);
    }
    match (found.is_empty(), any, trouble) {
        (false, ..) => Ok(found.into_iter().map(|(_, ip)| ip).take(MAX_ADDRESSES).collect()),
        // A better one than this host may be there and cannot be asked for now.
        (true, _, Some(report)) if report.class == Class::Deferral => Err(report),
        (true, true, _) => Err(best_is_me()),
        (true, false, Some(report)) => Err(report),
        (true, false, None) => Err(no_exchanger()),
    }
}

/// By preference, in random order among equals.
fn in_order(mx: &mut [Mx]) {
    mx.shuffle(&mut rand::rng());
    mx.sort_by_key(|mx| mx.preference);
}

async fn lookup(resolver: &Resolver, host: &str, deadline: Instant) -> Result<Vec<IpAddr>, Report> {
    let addresses = in_time(deadline, resolver.addresses(host)).await;
    addresses.map_err(|failure| no_answer(&failure, host.as_bytes()))
}

/// The answer, if it comes before `deadline`.
async fn in_time<T>(
    deadline: Instant,
    asked: impl Future<Output = Result<T, Failure>>,
) -> Result<T, Failure> {
    let answer = tokio::time::timeout_at(deadline, asked).await;
    answer.unwrap_or_else(|_| Err(Failure::Temporary("no answer in time".into())))
}

fn no_answer(failure: &Failure, host: &[u8]) -> Report {
    match failure {
        Failure::NoName => no_host(host),
        Failure::Temporary(cause) => {
            tracing::debug!(cause, "qmail-remote: lookup failed");
            Report::deferral("CNAME lookup failed temporarily. (#4.4.3)\n")
        }
    }
}

fn no_host(host: &[u8]) -> Report {
    Report::failure(format!("Sorry, I couldn't find any host named {}. (#5.1.2)\n", safe(host)))
}

fn no_exchanger() -> Report {
    Report::failure("Sorry, I couldn't find a mail exchanger or IP address. (#5.4.4)\n")
}

fn best_is_me() -> Report {
    Report::failure(
        "Sorry. Although I'm listed as a best-preference MX or A for that host,\n\
         it isn't in my control/locals file, so I don't treat it as local. (#5.4.6)\n",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equals_are_tried_in_random_order_behind_the_better_ones() {
        let mx = |preference, host: &str| Mx { preference, host: host.into() };
        let mut seen = [0, 0];
        for _ in 0..200 {
            let mut list = vec![mx(20, "c"), mx(10, "a"), mx(5, "best"), mx(10, "b")];
            in_order(&mut list);
            let order: Vec<&str> = list.iter().map(|mx| &*mx.host).collect();
            match &*order {
                ["best", "a", "b", "c"] => seen[0] += 1,
                ["best", "b", "a", "c"] => seen[1] += 1,
                other => panic!("{other:?}"),
            }
        }
        assert!(seen[0] > 20 && seen[1] > 20, "{seen:?}");
    }
}

//! check_host() (RFC 7208 4 and 5) and the explanation (6.2), over a map of answers.

use std::collections::HashMap;
use std::net::IpAddr;

use super::header::comment;
use super::macros::{Letter, MacroString};
use super::options::Options;
use super::record::{Directive, MAX_RECORD, Mechanism, Prefixes, Record};
use super::text::{domain_name, printable};
use super::{Answer, Client, Identity, MAX_EXPLANATION, MAX_QUESTIONS, Outcome, Question, SpfResult};

/// Terms that ask DNS, in one check (RFC 7208 4.6.4).
const MAX_LOOKUPS: usize = 10;
/// Answers without records, in one check (RFC 7208 4.6.4).
const MAX_VOIDS: usize = 2;
/// Names of one MX answer, and names of the client that are looked at (RFC 7208 4.6.4).
const MAX_HOSTS: usize = 10;

/// Why an evaluation does not go on.
enum Stop {
    Ask(Question),
    Temporary(String),
    Permanent(String),
}

/// What a record gives.
struct Found {
    result: SpfResult,
    matched: Option<String>,
    /// The `exp=` of the record that decided, and its domain.
    exp: Option<(MacroString, String)>,
}

/// One run over the answers.
pub(super) struct Evaluation<'a> {
    client: &'a Client<'a>,
    identity: Identity<'a>,
    ip: IpAddr,
    answers: &'a HashMap<Question, Answer>,
    cost: Cost,
    questions: usize,
    /// Names of the client whose addresses contain its own.
    validated: Option<Vec<String>>,
}

#[derive(Default)]
struct Cost {
    lookups: usize,
    voids: usize,
}

impl Found {
    const fn without_match(result: SpfResult) -> Self {
        Self { result, matched: None, exp: None }
    }

    fn by(directive: &Directive) -> Self {
        Self { result: directive.result, matched: Some(directive.text.clone()), exp: None }
    }
}

impl<'a> Evaluation<'a> {
    pub(super) fn new(client: &'a Client<'a>, answers: &'a HashMap<Question, Answer>) -> Self {
        let (identity, ip) = (client.identity(), client.ip.to_canonical());
        Self { client, identity, ip, answers, cost: Cost::default(), questions: 0, validated: None }
    }

    /// The outcome, or the question without whose answer there is none.
    pub(super) fn outcome(&mut self, options: &Options) -> Result<Outcome, Question> {
        // Domain literals and U-labels are not names (RFC 7208 4.3).
        let in_name = |b: &u8| b.is_ascii_alphanumeric() || b"-_.".contains(b);
        let domain = domain_name(self.identity.domain).filter(|_| self.identity.domain.iter().all(in_name));
        let found =
            domain.as_deref().map_or(Ok(Found::without_match(SpfResult::None)), |it| self.top(it, options));
        let domain = domain.unwrap_or_else(|| printable(self.identity.domain, 255));
        let (found, problem) = match found {
            Ok(found) => (found, None),
            Err(Stop::Ask(question)) => return Err(question),
            Err(Stop::Temporary(problem)) => (Found::without_match(SpfResult::Temperror), Some(problem)),
            Err(Stop::Permanent(problem)) => (Found::without_match(SpfResult::Permerror), Some(problem)),
        };
        let Found { result, matched, exp } = found;
        let explanation = match result {
            SpfResult::Pass | SpfResult::Temperror | SpfResult::Permerror => None,
            _ => match self.explanation(result, exp, &domain, options) {
                Ok(text) => Some(text),
                Err(Stop::Ask(question)) => return Err(question),
                Err(_) => Some(comment(self.client, result, &domain, "")),
            },
        };
        let problem = problem.map(|problem| printable(problem.as_bytes(), MAX_EXPLANATION));
        Ok(Outcome { result, domain, matched, explanation, problem })
    }

    /// The sender's own record, or the guess in its stead, with the local rules.
    fn top(&mut self, domain: &str, options: &Options) -> Result<Found, Stop> {
        if let Some(record) = self.record(domain)? {
            return self.evaluate(&record, &options.rules, domain);
        }
        let guess = options.guess.clone().unwrap_or_default();
        match self.evaluate(&guess, &options.rules, domain) {
            Ok(found) if found.matched.is_some() => Ok(found),
            Err(Stop::Ask(question)) => Err(Stop::Ask(question)),
            // A guess that fails says nothing about the sender.
            Ok(_) | Err(_) => Ok(Found::without_match(SpfResult::None)),
        }
    }

    fn check_host(&mut self, domain: &str) -> Result<Found, Stop> {
        match self.record(domain)? {
            Some(record) => self.evaluate(&record, &[], domain),
            None => Ok(Found::without_match(SpfResult::None)),
        }
    }

    /// The one SPF record of a domain (RFC 7208 4.4, 4.5).
    fn record(&mut self, domain: &str) -> Result<Option<Record>, Stop> {
        let texts = match self.ask(Question::Txt(domain.to_owned()))? {
            Answer::Txt(texts) => texts,
            Answer::NoName => return Ok(None),
            _ => return Err(unanswered("TXT", domain)),
        };
        let mut records = texts.iter().filter(|text| Record::is_spf(text));
        match (records.next(), records.next()) {
            (None, _) => Ok(None),
            (Some(text), None) => match Record::parse(text) {
                Ok(record) => Ok(Some(record)),
                Err(error) => Err(Stop::Permanent(format!("SPF record of {domain}: {error}"))),
            },
            (Some(_), Some(_)) => Err(Stop::Permanent(format!("{domain} has several SPF records"))),
        }
    }

    fn evaluate(&mut self, record: &Record, rules: &[Directive], domain: &str) -> Result<Found, Stop> {
        let is_all = |directive: &Directive| directive.mechanism == Mechanism::All;
        let all = record.directives.iter().position(is_all).unwrap_or(record.directives.len());
        let (before, rest) = record.directives.split_at(all);
        let with_exp = |directive: &Directive| {
            let exp = record.exp.clone().map(|exp| (exp, domain.to_owned()));
            Found { exp, ..Found::by(directive) }
        };
        if let Some(directive) = self.first_match(before, domain)? {
            return Ok(with_exp(directive));
        }
        // The limits are the domain's; what the local rules cost is not its fault.
        let cost = std::mem::take(&mut self.cost);
        if let Some(directive) = self.first_match(rules, domain)? {
            return Ok(Found::by(directive));
        }
        self.cost = cost;
        if let Some(directive) = self.first_match(rest, domain)? {
            return Ok(with_exp(directive));
        }
        let Some(redirect) = &record.redirect else {
            return Ok(Found::without_match(SpfResult::Neutral));
        };
        self.count_lookup()?;
        let target = self.name(redirect, domain)?;
        match target.as_deref().map(|target| self.check_host(target)).transpose()? {
            Some(found) if found.result != SpfResult::None => Ok(found),
            _ => Err(Stop::Permanent(format!(
                "redirect of {domain} leads to {}, which has no SPF record",
                target.as_deref().unwrap_or("no name")
            ))),
        }
    }

    fn first_match<'d>(
        &mut self,
        directives: &'d [Directive],
        domain: &str,
    ) -> Result<Option<&'d Directive>, Stop> {
        for directive in directives {
            if self.matches(&directive.mechanism, domain)? {
                return Ok(Some(directive));
            }
        }
        Ok(None)
    }

    /// RFC 7208 5. A target that is no name matches nothing.
    fn matches(&mut self, mechanism: &Mechanism, domain: &str) -> Result<bool, Stop> {
        match mechanism {
            Mechanism::All => Ok(true),
            Mechanism::Ip4(network, prefix) => {
                Ok(covers((*network).into(), Prefixes { ip4: *prefix, ip6: 128 }, self.ip))
            }
            Mechanism::Ip6(network, prefix) => {
                Ok(covers((*network).into(), Prefixes { ip4: 32, ip6: *prefix }, self.ip))
            }
            Mechanism::Include(spec) => {
                self.count_lookup()?;
                let Some(target) = self.name(spec, domain)? else {
                    return Err(Stop::Permanent(format!("include of {domain} leads to no name")));
                };
                match self.check_host(&target)?.result {
                    SpfResult::Pass => Ok(true),
                    SpfResult::None => {
                        Err(Stop::Permanent(format!("{target} is included but has no SPF record")))
                    }
                    _ => Ok(false),
                }
            }
            Mechanism::A(spec, prefixes) => {
                self.count_lookup()?;
                let Some(target) = self.target(spec.as_ref(), domain)? else { return Ok(false) };
                self.host_covers(&target, *prefixes)
            }
            Mechanism::Mx(spec, prefixes) => {
                self.count_lookup()?;
                let Some(target) = self.target(spec.as_ref(), domain)? else { return Ok(false) };
                let hosts = match self.ask(Question::Mx(target.clone()))? {
                    Answer::Mx(hosts) => &**hosts,
                    Answer::NoName => &[],
                    _ => return Err(unanswered("MX", &target)),
                };
                if hosts.len() > MAX_HOSTS {
                    return Err(Stop::Permanent(format!(
                        "{target} has more than {MAX_HOSTS} mail exchangers"
                    )));
                }
                self.count_void(hosts.is_empty())?;
                for name in hosts.iter().filter_map(|(_, name)| domain_name(name.as_bytes())) {
                    if self.host_covers(&name, *prefixes)? {
                        return Ok(true);
                    }
                }
                Ok(false)
            }
            Mechanism::Ptr(spec) => {
                self.count_lookup()?;
                let Some(target) = self.target(spec.as_ref(), domain)? else { return Ok(false) };
                Ok(self.validated()?.iter().any(|name| is_within(name, &target)))
            }
            Mechanism::Exists(spec) => {
                self.count_lookup()?;
                let Some(target) = self.name(spec, domain)? else { return Ok(false) };
                Ok(!self.addresses(Question::Addresses4(target))?.is_empty())
            }
        }
    }

    /// Whether one of a host's addresses covers the client's.
    fn host_covers(&mut self, host: &str, prefixes: Prefixes) -> Result<bool, Stop> {
        let addresses = self.addresses(self.address_question(host))?;
        Ok(addresses.iter().any(|&address| covers(address, prefixes, self.ip)))
    }

    /// For addresses of the client's own family.
    fn address_question(&self, host: &str) -> Question {
        match self.ip {
            IpAddr::V4(_) => Question::Addresses4(host.to_owned()),
            IpAddr::V6(_) => Question::Addresses6(host.to_owned()),
        }
    }

    fn addresses(&mut self, question: Question) -> Result<&'a [IpAddr], Stop> {
        let addresses = match self.ask(question.clone())? {
            Answer::Addresses(addresses) => &**addresses,
            Answer::NoName => &[],
            _ => match question {
                Question::Addresses4(name) => return Err(unanswered("A", &name)),
                Question::Addresses6(name) => return Err(unanswered("AAAA", &name)),
                _ => return Err(unanswered("address", "host")),
            },
        };
        self.count_void(addresses.is_empty())?;
        Ok(addresses)
    }

    /// The client's names that are its own (RFC 7208 5.5). The client writes these records, not the domain: neither
    /// failures nor voids count, and names past the tenth are not looked at.
    fn validated(&mut self) -> Result<Vec<String>, Stop> {
        if let Some(names) = &self.validated {
            return Ok(names.clone());
        }
        let Answer::Ptr(names) = self.ask(Question::Ptr(self.ip))? else { return Ok(Vec::new()) };
        let mut validated = Vec::new();
        for name in names.iter().take(MAX_HOSTS).filter_map(|name| domain_name(name.as_bytes())) {
            if let Answer::Addresses(addresses) = self.ask(self.address_question(&name))?
                && addresses.contains(&self.ip)
            {
                validated.push(name);
            }
        }
        self.validated = Some(validated.clone());
        Ok(validated)
    }

    fn ask(&mut self, question: Question) -> Result<&'a Answer, Stop> {
        self.questions += 1;
        if self.questions > MAX_QUESTIONS {
            return Err(Stop::Permanent(format!("takes more than {MAX_QUESTIONS} DNS questions")));
        }
        self.answers.get(&question).ok_or(Stop::Ask(question))
    }

    fn count_lookup(&mut self) -> Result<(), Stop> {
        self.cost.lookups += 1;
        if self.cost.lookups <= MAX_LOOKUPS {
            return Ok(());
        }
        Err(Stop::Permanent(format!("more than {MAX_LOOKUPS} mechanisms and redirects ask DNS")))
    }

    fn count_void(&mut self, void: bool) -> Result<(), Stop> {
        self.cost.voids += usize::from(void);
        if self.cost.voids <= MAX_VOIDS {
            return Ok(());
        }
        Err(Stop::Permanent(format!("more than {MAX_VOIDS} DNS questions without an answer")))
    }

    fn target(&mut self, spec: Option<&MacroString>, domain: &str) -> Result<Option<String>, Stop> {
        match spec {
            Some(spec) => self.name(spec, domain),
            None => Ok(Some(domain.to_owned())),
        }
    }

    fn name(&mut self, spec: &MacroString, domain: &str) -> Result<Option<String>, Stop> {
        spec.name(|letter| self.value(letter, domain))
    }

    /// RFC 7208 7.2
    fn value(&mut self, letter: Letter, domain: &str) -> Result<Vec<u8>, Stop> {
        Ok(match letter {
            Letter::Sender => [self.identity.local, b"@", self.identity.domain].concat(),
            Letter::LocalPart => self.identity.local.to_vec(),
            Letter::SenderDomain => self.identity.domain.to_vec(),
            Letter::Domain => domain.into(),
            Letter::Ip => match self.ip {
                IpAddr::V4(ip) => ip.to_string().into(),
                IpAddr::V6(ip) => {
                    let nibbles = format!("{:032X}", ip.to_bits());
                    nibbles.as_bytes().chunks(1).collect::<Vec<_>>().join(&b'.')
                }
            },
            Letter::ValidatedName => {
                let names = self.validated()?;
                let best = names.iter().find(|name| *name == domain);
                let best = best.or_else(|| names.iter().find(|name| is_within(name, domain)));
                best.or(names.first()).map_or("unknown", |name| name).into()
            }
            Letter::Family => if self.ip.is_ipv4() { "in-addr" } else { "ip6" }.into(),
            Letter::Helo => self.client.helo.to_vec(),
            Letter::ReadableIp => self.ip.to_string().into(),
            Letter::Receiver => self.client.receiver.into(),
            Letter::Time => self.client.now.to_string().into(),
        })
    }

    /// The domain's own words for a fail, else the local ones.
    fn explanation(
        &mut self,
        result: SpfResult,
        exp: Option<(MacroString, String)>,
        domain: &str,
        options: &Options,
    ) -> Result<String, Stop> {
        if result == SpfResult::Fail
            && let Some((spec, of)) = exp
            && let Some(text) = self.fetched_explanation(&spec, &of)?
        {
            return Ok(text);
        }
        match &options.explanation {
            Some(text) => self.expanded(text, domain),
            None => Ok(comment(self.client, result, domain, "")),
        }
    }

    /// RFC 7208 6.2: whatever is wrong with it, it is as if there were none.
    fn fetched_explanation(&mut self, spec: &MacroString, domain: &str) -> Result<Option<String>, Stop> {
        let Some(target) = self.name(spec, domain)? else { return Ok(None) };
        let text = match self.ask(Question::Txt(target))? {
            Answer::Txt(texts) => match &**texts {
                [text] if (1..=MAX_RECORD).contains(&text.len()) => text,
                _ => return Ok(None),
            },
            _ => return Ok(None),
        };
        MacroString::parse(text).map(|text| self.expanded(&text, domain)).transpose()
    }

    fn expanded(&mut self, text: &MacroString, domain: &str) -> Result<String, Stop> {
        let text = text.text(MAX_EXPLANATION, |letter| self.value(letter, domain))?;
        Ok(printable(&text, MAX_EXPLANATION))
    }
}

fn unanswered(kind: &str, name: &str) -> Stop {
    Stop::Temporary(format!("no answer to the {kind} question for {name}"))
}

fn is_within(name: &str, domain: &str) -> bool {
    name.strip_suffix(domain).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
}

/// Whether the network around `address` contains `ip`; never across families.
fn covers(address: IpAddr, prefixes: Prefixes, ip: IpAddr) -> bool {
    match (address, ip) {
        (IpAddr::V4(address), IpAddr::V4(ip)) => {
            let mask = u32::MAX.checked_shl(32_u32.saturating_sub(prefixes.ip4.into())).unwrap_or(0);
            (address.to_bits() ^ ip.to_bits()) & mask == 0
        }
        (IpAddr::V6(address), IpAddr::V6(ip)) => {
            let mask = u128::MAX.checked_shl(128_u32.saturating_sub(prefixes.ip6.into())).unwrap_or(0);
            (address.to_bits() ^ ip.to_bits()) & mask == 0
        }
        _ => false,
    }
}

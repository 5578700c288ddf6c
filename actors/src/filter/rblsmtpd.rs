//! rblsmtpd's questions: every list at once, decided in order.

use std::net::{IpAddr, Ipv4Addr};

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use mailtree_protocols::rblsmtpd::decision::{Decision, Options, decide};
use mailtree_protocols::rblsmtpd::selftest::{Family, Verdict, questions};
use mailtree_protocols::rblsmtpd::source::{Answer, Lookup, Record, Source};

use crate::resolver::{self, Failure, Question, Resolver};

/// What the lists say of a client, as soon as it is certain.
pub async fn ask(options: &Options, client: IpAddr, resolver: &Resolver) -> Decision {
    let mut answers: Vec<Option<Answer>> = vec![None; options.sources.len()];
    let mut asked: FuturesUnordered<_> = options
        .sources
        .iter()
        .enumerate()
        .map(|(n, source)| async move { (n, listed(source, &source.query(client), client, resolver).await) })
        .collect();
    loop {
        if let Some(decision) = decide(options, &answers) {
            return decision;
        }
        let Some((n, answer)) = asked.next().await else { return Decision::Undecided };
        note(&options.sources[n], &answer);
        answers[n] = Some(answer);
    }
}

/// Whether the list does what RFC 5782 5 asks of every list.
pub async fn test(source: &Source, resolver: &Resolver) -> Verdict {
    let of = async |family: Family| {
        let [there, not_there] = questions(source, family);
        let (there, not_there) = tokio::join!(
            listed(source, &there, family.listed(), resolver),
            listed(source, &not_there, family.unlisted(), resolver),
        );
        Verdict::of(family, &there, &not_there)
    };
    match of(Family::V4).await {
        Verdict::Empty(ip) => match of(Family::V6).await {
            Verdict::Works => Verdict::Works,
            _ => Verdict::Empty(ip),
        },
        verdict => verdict,
    }
}

async fn listed(source: &Source, name: &str, client: IpAddr, resolver: &Resolver) -> Answer {
    let a = async {
        looked_up(resolver.ask(Question::A(name.to_owned())).await, |answer| match answer {
            resolver::Answer::Addresses(found) => found.into_iter().filter_map(v4).collect(),
            _ => Vec::new(),
        })
    };
    let txt = async {
        if !source.records().contains(&Record::Txt) {
            return Lookup::Records(Vec::new());
        }
        looked_up(resolver.ask(Question::Txt(name.to_owned())).await, |answer| match answer {
            resolver::Answer::Txt(texts) => texts,
            _ => Vec::new(),
        })
    };
    let (a, txt) = tokio::join!(a, txt);
    source.answer(client, &a, &txt)
}

fn looked_up<T>(
    asked: Result<resolver::Answer, Failure>,
    records: impl FnOnce(resolver::Answer) -> Vec<T>,
) -> Lookup<T> {
    match asked {
        Ok(answer) => Lookup::Records(records(answer)),
        Err(Failure::NoName) => Lookup::NoName,
        Err(Failure::Temporary(_)) => Lookup::Failed,
    }
}

fn v4(ip: IpAddr) -> Option<Ipv4Addr> {
    match ip {
        IpAddr::V4(v4) => Some(v4),
        IpAddr::V6(_) => None,
    }
}

/// Makes the series of a list, so that they are there before its first answer.
pub fn known(source: &Source) {
    for result in ["listed", "not-listed", "odd", "failed"] {
        count(source.shown(), result, 0);
    }
}

fn note(source: &Source, answer: &Answer) {
    let base = source.shown();
    let result = match answer {
        Answer::Listed(_) => "listed",
        Answer::NotListed => "not-listed",
        Answer::Odd(ip) => {
            tracing::warn!(base, "rblsmtpd: warning: {base} answers {ip}, which is no listing");
            "odd"
        }
        Answer::Failed => "failed",
    };
    count(base, result, 1);
}

fn count(base: String, result: &'static str, more: u64) {
    metrics::counter!("mailtree_rblsmtpd_answers_total", "source" => base, "result" => result)
        .increment(more);
}

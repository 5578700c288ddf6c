//! SPF's questions: one after the other, as the record asks for them (RFC 7208 4.6.4).

use std::collections::HashMap;
use std::time::Duration;

use mailtree_protocols::spf::{self, Answer, Client, Options, Outcome, Question, Step};
use tokio::time::Instant;

use crate::resolver::{self, Failure, Resolver};

/// A check that takes longer ends with temperror (RFC 7208 4.6.4: at least 20 seconds).
const LONGEST: Duration = Duration::from_secs(60);

/// What the records of the sender's domain say of the client.
pub async fn check(client: &Client<'_>, options: &Options, resolver: &Resolver) -> Outcome {
    let end = Instant::now() + LONGEST;
    let mut answers = HashMap::new();
    loop {
        let question = match spf::check(client, options, &answers) {
            Step::Done(outcome) => {
                let result = outcome.result.as_str();
                metrics::counter!("mailtree_spf_results_total", "result" => result).increment(1);
                return outcome;
            }
            Step::Ask(question) => question,
        };
        let answer = if Instant::now() < end { ask(&question, resolver).await } else { Answer::Failed };
        answers.insert(question, answer);
    }
}

async fn ask(question: &Question, resolver: &Resolver) -> Answer {
    let asked = match question.clone() {
        Question::Txt(name) => resolver::Question::Txt(name),
        Question::Addresses4(name) => resolver::Question::A(name),
        Question::Addresses6(name) => resolver::Question::Aaaa(name),
        Question::Mx(name) => resolver::Question::Mx(name),
        Question::Ptr(ip) => resolver::Question::Ptr(ip),
    };
    match resolver.ask(asked).await {
        Ok(resolver::Answer::Txt(texts)) => Answer::Txt(texts),
        Ok(resolver::Answer::Addresses(addresses)) => Answer::Addresses(addresses),
        Ok(resolver::Answer::Mx(hosts)) => {
            Answer::Mx(hosts.into_iter().map(|mx| (mx.preference, mx.host)).collect())
        }
        Ok(resolver::Answer::Ptr(names)) => Answer::Ptr(names),
        Err(Failure::NoName) => Answer::NoName,
        Err(Failure::Temporary(_)) => Answer::Failed,
    }
}

//! SPF against the official suite of RFC 7208.

use std::collections::HashMap;

use mailtree_protocols::spf::{Client, MAX_QUESTIONS, Options, Outcome, Step, check};
use mailtree_tests::spf_suite::{Case, Scenario, scenarios};

fn run(scenario: &Scenario, case: &Case) -> Outcome {
    let options = Options::new("", "", "DEFAULT").unwrap();
    let client = Client {
        ip: case.host,
        helo: case.helo.as_bytes(),
        sender: case.mailfrom.as_bytes(),
        receiver: "receiver.example",
        now: 0,
    };
    let mut answers = HashMap::new();
    for _ in 0..=MAX_QUESTIONS {
        match check(&client, &options, &answers) {
            Step::Done(outcome) => return outcome,
            Step::Ask(question) => {
                let answer = scenario.answer(&question);
                answers.insert(question, answer);
            }
        }
    }
    panic!("no end: {case:?}");
}

#[test]
fn every_case_of_the_suite() {
    let scenarios = scenarios();
    let cases: Vec<_> =
        scenarios.iter().flat_map(|it| it.tests.iter().map(move |(name, case)| (it, name, case))).collect();
    assert_eq!(cases.len(), 203);
    let wrong: Vec<String> = cases
        .into_iter()
        .filter_map(|(scenario, name, case)| {
            let outcome = run(scenario, case);
            let right = case.result.each().any(|result| result == outcome.result.as_str())
                && case.explanation.as_ref().is_none_or(|text| outcome.explanation.as_ref() == Some(text));
            (!right).then(|| {
                let (result, explanation) = (&case.result, &case.explanation);
                format!(
                    "{} / {name}: {result:?} {explanation:?} expected\n  {outcome:?}",
                    scenario.description
                )
            })
        })
        .collect();
    assert!(wrong.is_empty(), "{} wrong\n{}", wrong.len(), wrong.join("\n"));
}

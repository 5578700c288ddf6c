//! What the Prometheus endpoint says.

use std::time::Duration;

use mailtree_tests::host::{Host, PATIENCE, Setup, free_port};
use mailtree_tests::letter::letter;
use mailtree_tests::probe::get;
use mailtree_tests::wait::wait_until;

#[test]
fn every_series_exists_from_the_start() {
    let host = Host::start();
    let metrics = host.metrics();
    let names = [
        "mailtree_smtpd_connections_total",
        "mailtree_smtpd_replies_total",
        "mailtree_queue_accepted_messages_total",
        "mailtree_queue_accepted_bytes_total",
        "mailtree_queue_commit_seconds_count",
        "mailtree_queue_commit_seconds_sum",
        "mailtree_queue_commit_seconds_bucket",
        "mailtree_queue_messages",
        "mailtree_deliveries_total",
        "mailtree_service_restarts_total",
        "mailtree_permits_in_use",
        "mailtree_permits_limit",
    ];
    let missing: Vec<_> = names.into_iter().filter(|name| !metrics.has(name)).collect();
    assert!(missing.is_empty(), "{missing:?} of {:#?}", metrics.0.keys());
    for class in ["2", "3", "4", "5"] {
        let label = format!("class=\"{class}");
        assert!(
            metrics
                .0
                .keys()
                .any(|series| series.starts_with("mailtree_smtpd_replies_total") && series.contains(&label)),
            "class {class}"
        );
    }
    for channel in ["local", "remote"] {
        assert_eq!(
            metrics
                .series("mailtree_deliveries_total")
                .keys()
                .filter(|series| series.contains(channel))
                .count(),
            3,
            "{channel}"
        );
    }
    for row in host.status() {
        let label = format!("service={}", row["service"]);
        assert!(
            metrics.0.keys().any(
                |series| series.starts_with("mailtree_service_restarts_total") && series.contains(&label)
            ),
            "{label}"
        );
    }
}

#[test]
fn the_numbers_follow_the_mail() {
    let closed = free_port("127.0.0.1");
    let host =
        Setup::new().control("smtproutes", &format!("far.test:[127.0.0.1]:{}\n", closed.port())).start();
    for number in 0..3 {
        host.send("sender@mx.test", &["bob@mx.test"], &letter(&format!("count{number}"), 1000));
    }
    host.send("sender@mx.test", &["x@far.test"], &letter("deferred", 1000));
    host.send("sender@mx.test", &["nobody@mx.test"], &letter("bounced", 1000));
    host.maildir("sender").wait(1, PATIENCE);
    host.wait_log("delivery *: deferral: *");
    wait_until("the numbers", Duration::from_secs(10), || {
        let metrics = host.metrics();
        let sum = |name: &str, labels: &[&str]| metrics.sum(name, labels);
        sum("mailtree_smtpd_connections_total", &[]) == 5.0
            // The bounce is the sixth message.
            && sum("mailtree_queue_accepted_messages_total", &[]) == 6.0
            && sum("mailtree_queue_accepted_bytes_total", &[]) > 6000.0
            && sum("mailtree_queue_commit_seconds_count", &[]) >= 1.0
            && sum("mailtree_queue_messages", &["preprocessed"]) == 1.0
            && sum("mailtree_deliveries_total", &["local", "success"]) == 4.0
            && sum("mailtree_deliveries_total", &["local", "failure"]) == 1.0
            && sum("mailtree_deliveries_total", &["remote", "defer"]) == 1.0
            && sum("mailtree_permits_in_use", &[]) == 0.0
            && sum("mailtree_smtpd_replies_total", &["2"]) > 20.0
    });
    assert_eq!(host.metrics().sum("mailtree_smtpd_replies_total", &["class=\"3"]), 5.0);
}

#[test]
fn permits_show_while_they_are_held() {
    let host = Setup::new().control("concurrencyincoming", "7\n").start();
    let held: Vec<_> = (0..3).map(|_| host.smtp()).collect();
    wait_until("three permits", PATIENCE, || {
        host.metrics().series("mailtree_permits_in_use").values().any(|value| *value == 3.0)
    });
    assert!(host.metrics().series("mailtree_permits_limit").values().any(|value| *value == 7.0));
    drop(held);
    wait_until("no permits", PATIENCE, || {
        host.metrics().series("mailtree_permits_in_use").values().all(|value| *value == 0.0)
    });
}

#[test]
fn restarts_are_counted() {
    let host = Host::start();
    host.ask(&["svc", "-k", "resolver"]);
    wait_until("a restart in the metrics", PATIENCE, || {
        host.metrics().sum("mailtree_service_restarts_total", &["service=\"resolver\""]) == 1.0
    });
}

#[test]
fn other_paths_are_not_there() {
    let host = Host::start();
    assert!(get(host.listens("metrics"), "/nothing").is_err());
}

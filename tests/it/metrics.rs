//! What the Prometheus endpoint says.

use std::io::{Read, Write};
use std::time::{Duration, Instant};

use mailtree_tests::host::{Host, PATIENCE, Setup, free_port};
use mailtree_tests::letter::letter;
use mailtree_tests::probe::{Metrics, descriptors, get, get_over};
use mailtree_tests::smtp::{dial, dial_from};
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
        "mailtree_tls_certificate_not_after_timestamp_seconds",
        "mailtree_queue_oldest_message_age_seconds",
    ];
    let missing: Vec<_> = names.into_iter().filter(|name| !metrics.has(name)).collect();
    assert!(missing.is_empty(), "{missing:?} of {:#?}", metrics.0.keys());
    let version = format!("version=\"{}\"", env!("CARGO_PKG_VERSION"));
    assert_eq!(metrics.sum("mailtree_build_info", &[&version]), 1.0);
    for (name, label, values) in [
        ("mailtree_auth_attempts_total", "result", &["success", "refused", "throttled"][..]),
        ("mailtree_smtpd_tls_handshakes_total", "result", &["ok", "failed"]),
        ("mailtree_spf_results_total", "result", &["pass", "temperror"]),
        ("mailtree_spp_plugin_runs_total", "section", &["connection", "quit"]),
        ("mailtree_simscan_scans_total", "scanner", &["clamav", "spam"]),
        ("mailtree_queue_messages", "state", &["journal", "bouncing"]),
    ] {
        for value in values {
            let label = format!("{label}=\"{value}\"");
            let found = metrics.series(name).into_keys().any(|series| series.contains(&label));
            assert!(found, "{name} with {label}");
        }
    }
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
            && sum("mailtree_queue_oldest_message_age_seconds", &[]) >= 1.0
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

/// Readers that do not read, as many as there are descriptors and more.
#[test]
fn readers_that_do_not_read_take_nothing_from_the_mail() {
    let few = ["sh", "-c", "ulimit -n 200; exec \"$0\" \"$@\""];
    let host = Setup::new().under(&few).start();
    let metrics = host.listens("metrics");
    let before = descriptors(host.pid());
    let begin = Instant::now();
    let mut readers: Vec<_> = (0..400)
        .map(|_| {
            let mut reader = dial(metrics).unwrap();
            // It may be closed already. A request that does not end.
            drop(reader.write_all(b"GET /metrics HTTP/1.1\r\n"));
            reader
        })
        .collect();
    host.send("sender@mx.test", &["bob@mx.test"], &letter("beside", 1000));
    host.maildir("bob").wait(1, PATIENCE);
    let now = descriptors(host.pid());
    // Sixteen connections, and what the queue holds open for mail to come, at most half of all.
    assert!(now < before + 16 + 100, "{now} descriptors, {before} before");
    // Another host's scrape is not kept waiting by those.
    let page = get_over(dial_from("127.0.0.2", metrics).unwrap(), "/metrics").unwrap();
    let found = Metrics::parse(&page);
    assert!(found.sum("mailtree_metrics_connections_total", &["per-ip"]) >= 396.0 - 8.0, "{page}");
    // All are closed in the end, and then this one is answered.
    for reader in &mut readers {
        let read = reader.read(&mut [0; 1024]);
        assert!(
            read.as_ref().is_ok_and(|read| *read == 0)
                || read.is_err_and(|error| { error.kind() == std::io::ErrorKind::ConnectionReset })
        );
    }
    assert!(begin.elapsed() < Duration::from_secs(25), "{:?}", begin.elapsed());
    wait_until("an answer", PATIENCE, || get(metrics, "/metrics").is_ok());
}

mod needs_promtool {
    use std::process::{Command, Stdio};

    use super::*;

    /// Fails on whatever promtool says of a page.
    fn check(page: &str) {
        let mut promtool = Command::new("promtool");
        promtool.args(["check", "metrics"]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = promtool.stderr(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(page.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        let said = [output.stdout, output.stderr].concat();
        assert!(said.is_empty() && output.status.success(), "{}", String::from_utf8_lossy(&said));
    }

    #[test]
    fn promtool_has_nothing_to_say() {
        let closed = free_port("127.0.0.1");
        let host = Setup::new()
            .smtpd(
                "environment: {\"SMTPAUTH\": \"\", \"CHKUSER_START\": \"ALWAYS\"}, auth_in_clear: true, \
                 per_ip: 2, unlimited: [], rblsmtpd: [\"-r\", \"list.test\"]",
            )
            .control("smtproutes", &format!("far.test:[127.0.0.1]:{}\n", closed.port()))
            .control("spfbehavior", "3\n")
            .start();
        check(&get(host.listens("metrics"), "/metrics").unwrap());
        host.send("sender@mx.test", &["bob@mx.test"], &letter("one", 1000));
        host.send("sender@mx.test", &["x@far.test"], &letter("two", 1000));
        for password in ["wrong", "secret-of-the-test"] {
            let mut client = host.smtp();
            client.say("EHLO client.test", 250);
            let response = mailtree_tests::dialogue::base64(format!("\0bob@mx.test\0{password}").as_bytes());
            client.say(&format!("AUTH PLAIN {response}"), if password == "wrong" { 535 } else { 235 });
        }
        if let Ok(mut tls) = mailtree_tests::dialogue::Dialogue::starttls(host.address().get(), &[]) {
            tls.say("NOOP", 250);
        }
        let held: Vec<_> = (0..3).map(|_| dial(host.address().get()).unwrap()).collect();
        host.wait_log("tcpserver: *dropping *too many from 127.0.0.1");
        drop(held);
        host.maildir("bob").wait(1, PATIENCE);
        host.wait_log("delivery *: deferral: *");
        let page = get(host.listens("metrics"), "/metrics").unwrap();
        check(&page);
        let metrics = Metrics::parse(&page);
        for (name, label) in [
            ("mailtree_auth_attempts_total", "refused"),
            ("mailtree_auth_attempts_total", "success"),
            ("mailtree_smtpd_connections_total", "per-ip"),
            ("mailtree_deliveries_total", "deferral"),
        ] {
            assert!(metrics.sum(name, &[label]) > 0.0, "{name} {label}: {page}");
        }
        // promtool says nothing of a metric that it does not see: all have been described.
        let described = |name: &str| page.contains(&format!("# HELP {name} "));
        let typed = page.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next());
        let bare: Vec<_> = typed.filter(|name| !described(name)).collect();
        assert!(bare.is_empty(), "without HELP: {bare:?}");
    }
}

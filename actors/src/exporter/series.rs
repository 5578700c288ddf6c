//! Every metric of the host: its kind, what it says, and the series that are there from the start because everybody knows
//! their labels. The names follow Prometheus's conventions: base units, `_total` for what only grows.

use mailtree_protocols::simscan::log::Scanner;
use mailtree_protocols::spf::SpfResult;
use mailtree_protocols::spp::Section;
use metrics::{counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram};

/// What only grows.
const COUNTERS: [(&str, &str); 21] = [
    (
        "mailtree_auth_attempts_total",
        "Attempts to log in, by result; a slowed one counts again when it is decided.",
    ),
    ("mailtree_bounces_total", "Bounces, by kind."),
    ("mailtree_deliveries_total", "Delivery attempts, by channel and result."),
    (
        "mailtree_journal_lost_records_total",
        "Notes of deliveries that could not be written into the journal.",
    ),
    ("mailtree_log_lines_dropped_total", "Log lines dropped because the log was full."),
    ("mailtree_metrics_connections_total", "Connections for metrics, by what became of them."),
    ("mailtree_pool_refused_jobs_total", "Work refused because a user's file system does not answer."),
    ("mailtree_qmail_queue_total", "Processes that handed mail in, by the answer they got."),
    ("mailtree_queue_accepted_bytes_total", "Bytes of the messages made durable."),
    ("mailtree_queue_accepted_messages_total", "Messages made durable."),
    ("mailtree_queue_written_out_messages_total", "Messages written from the journal into qmail's files."),
    ("mailtree_rblsmtpd_answers_total", "Answers of DNS lists, by list and result."),
    ("mailtree_resolver_lookups_total", "DNS lookups, by result."),
    ("mailtree_service_restarts_total", "Restarts of a service since the host was started."),
    ("mailtree_simscan_scans_total", "Scans of messages, by scanner and result."),
    ("mailtree_smtpd_connections_total", "SMTP connections, by service and verdict."),
    ("mailtree_smtpd_replies_total", "SMTP replies sent, by first digit of the code."),
    ("mailtree_smtpd_tls_handshakes_total", "TLS handshakes of SMTP clients, by result."),
    ("mailtree_spf_results_total", "SPF checks, by result."),
    ("mailtree_spp_plugin_runs_total", "Runs of qmail-spp's plugins, by section and result."),
    ("mailtree_unheard_answers_total", "Answers whose asker had gone."),
];

/// What rises and falls.
const GAUGES: [(&str, &str); 16] = [
    ("mailtree_build_info", "Always 1; the label has the version."),
    ("mailtree_journal_segments", "Segments of the journal in use."),
    ("mailtree_permits_in_use", "Permits in use, by what they count."),
    ("mailtree_permits_limit", "Permits there are, by what they count."),
    ("mailtree_pool_stuck_threads", "Threads that wait for a file system that does not answer."),
    ("mailtree_pool_threads", "Threads for users' file systems."),
    ("mailtree_queue_free_bytes", "Free bytes in the file system of the queue."),
    ("mailtree_queue_free_inodes", "Free inodes in the file system of the queue."),
    ("mailtree_queue_messages", "Messages in the queue, by state."),
    (
        "mailtree_queue_oldest_message_age_seconds",
        "Age of the oldest message in the queue; 0 when it is empty.",
    ),
    ("mailtree_rblsmtpd_list_works", "Whether a DNS list passed its self-test."),
    ("mailtree_resolver_cache_bytes", "Bytes of DNS answers that are kept."),
    ("mailtree_service_up", "Whether a service is up."),
    (
        "mailtree_tls_certificate_name_matches",
        "Whether a certificate is for the host that it is used for; NaN once it is gone.",
    ),
    (
        "mailtree_tls_certificate_not_after_timestamp_seconds",
        "When a certificate expires, in seconds since 1970; NaN once it is gone.",
    ),
    (
        "mailtree_tls_certificate_not_before_timestamp_seconds",
        "When a certificate begins to be valid, in seconds since 1970; NaN once it is gone.",
    ),
];

/// What is spread.
const HISTOGRAMS: [(&str, &str); 6] = [
    ("mailtree_journal_batch_records", "Records of the journal made durable together."),
    ("mailtree_journal_batch_seconds", "Time to make a batch of records of the journal durable."),
    ("mailtree_queue_batch_operations", "Disk operations made durable together."),
    ("mailtree_queue_batch_seconds", "Time for a batch of disk operations."),
    ("mailtree_queue_commit_seconds", "Time to make a message durable."),
    ("mailtree_queue_write_out_seconds", "Time to write messages from the journal into qmail's files."),
];

/// Describes every metric, and makes the series whose labels are known.
pub(super) fn describe() {
    for (name, help) in COUNTERS {
        describe_counter!(name, help);
    }
    for (name, help) in GAUGES {
        describe_gauge!(name, help);
    }
    for (name, help) in HISTOGRAMS {
        describe_histogram!(name, help);
        drop(histogram!(name));
    }
    gauge!("mailtree_build_info", "version" => env!("CARGO_PKG_VERSION")).set(1.0);
    for name in [
        "mailtree_journal_lost_records_total",
        "mailtree_log_lines_dropped_total",
        "mailtree_queue_accepted_bytes_total",
        "mailtree_queue_accepted_messages_total",
        "mailtree_queue_written_out_messages_total",
        "mailtree_unheard_answers_total",
    ] {
        counter!(name).absolute(0);
    }
    for name in [
        "mailtree_journal_segments",
        "mailtree_queue_oldest_message_age_seconds",
        "mailtree_resolver_cache_bytes",
    ] {
        gauge!(name).set(0.0);
    }
    for pool in ["delivery", "users"] {
        counter!("mailtree_pool_refused_jobs_total", "pool" => pool).absolute(0);
        gauge!("mailtree_pool_stuck_threads", "pool" => pool).set(0.0);
        gauge!("mailtree_pool_threads", "pool" => pool).set(0.0);
    }
    let auth = ["success", "refused", "denied", "throttled", "slowed", "busy"];
    by("mailtree_auth_attempts_total", "result", &auth);
    by("mailtree_bounces_total", "kind", &["single", "double", "triple"]);
    by("mailtree_metrics_connections_total", "verdict", &["ok", "per-ip"]);
    by("mailtree_resolver_lookups_total", "result", &["found", "no-name", "failed"]);
    by("mailtree_smtpd_replies_total", "class", &["2", "3", "4", "5"]);
    by("mailtree_smtpd_tls_handshakes_total", "result", &["ok", "failed"]);
    by("mailtree_spf_results_total", "result", &SpfResult::ALL.map(SpfResult::as_str));
    for channel in ["local", "remote"] {
        for result in ["success", "deferral", "failure"] {
            counter!("mailtree_deliveries_total", "channel" => channel, "result" => result).absolute(0);
        }
    }
    for scanner in Scanner::ALL.map(Scanner::as_str) {
        for result in ["found", "clean", "failed"] {
            counter!("mailtree_simscan_scans_total", "scanner" => scanner, "result" => result).absolute(0);
        }
    }
    for section in Section::ALL.map(Section::name) {
        for result in ["ok", "refused", "failed"] {
            counter!("mailtree_spp_plugin_runs_total", "section" => section, "result" => result).absolute(0);
        }
    }
    for state in ["journal", "preprocessed", "local", "remote", "bouncing"] {
        gauge!("mailtree_queue_messages", "state" => state).set(0.0);
    }
}

fn by(name: &'static str, label: &'static str, values: &[&'static str]) {
    for value in values {
        counter!(name, label => *value).absolute(0);
    }
}

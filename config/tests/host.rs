//! `host.ron`: what is read, what is refused, and what the refusal says.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use mailtree_config::Origin;
use mailtree_config::host::{Host, LogFormat, LogLevel, Scanner, Service, Smtpd};

fn parse(text: &str) -> Result<Host, String> {
    Host::parse(Path::new("/home"), text).map_err(|error| error.to_string())
}

fn smtpd(host: &Host, name: &str) -> Smtpd {
    match host.services.iter().find(|(other, _)| other == name) {
        Some((_, Service::Smtpd(smtpd))) => smtpd.clone(),
        other => panic!("{name}: {other:?}"),
    }
}

#[test]
fn an_empty_file_is_the_default() {
    let host = parse("()").unwrap();
    let default = Host::default();
    assert_eq!(
        (host.log, host.grace, host.services, host.queue, host.resolver, host.remote),
        (default.log, default.grace, default.services, default.queue, default.resolver, default.remote)
    );
}

#[test]
fn every_field() {
    let host = parse(
        r#"
// a comment
( qmail_home: "/var/qmail", vpopmail_home: "vpop",
  log: (format: json, level: "debug"),
  grace: "1m",
  services: {
    "smtpd": smtpd(listen: ["127.0.0.1:2525", "[::1]:2525"], concurrency: 7, per_ip: 3,
                   unlimited: ["10.0.0.0/8"], recipients: 100, rules: "rules.cdb"),
    "smtpd2": smtpd(listen: ["127.0.0.1:0"], concurrency: None),
    "smtpd3": smtpd(listen: ["127.0.0.1:0"], concurrency: Some(9), unlimited: []),
    "metrics": metrics(listen: "127.0.0.1:0"),
  },
  queue: (receiving: 5, receiving_bytes: "2GiB", free_bytes: 123, free_inodes: 0, disk_threads: 1),
  resolver: (servers: ["127.0.0.1:5300", "::1"], deadline: "2s", in_flight: 9),
  remote: (port: 2600, outgoing_ip: "192.0.2.1"),
  scanners: (clamd: "/run/clamd.sock", rspamd: "127.0.0.1:11333", rspamd_password: "control/rspamd"),
)"#,
    )
    .unwrap();
    assert_eq!((host.log.format, host.log.level), (LogFormat::Json, LogLevel::Debug));
    assert_eq!(host.grace, Duration::from_secs(60));
    let names: Vec<&str> = host.services.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["smtpd", "smtpd2", "smtpd3", "metrics"]);
    let first = smtpd(&host, "smtpd");
    assert_eq!((first.listen.len(), first.concurrency, first.per_ip, first.recipients), (2, Some(7), 3, 100));
    assert!(first.unlimited[0].contains("10.1.2.3".parse().unwrap()));
    assert_eq!(smtpd(&host, "smtpd2").concurrency, None);
    assert_eq!((smtpd(&host, "smtpd3").concurrency, smtpd(&host, "smtpd3").unlimited), (Some(9), vec![]));
    assert_eq!((host.queue.receiving_bytes, host.queue.free_bytes), (2 << 30, 123));
    let servers: Vec<SocketAddr> = ["127.0.0.1:5300", "[::1]:53"].map(|text| text.parse().unwrap()).into();
    assert_eq!(host.resolver.servers, servers);
    assert_eq!((host.remote.port, host.remote.outgoing_ip), (2600, Some("192.0.2.1".parse().unwrap())));
    assert_eq!(host.scanners.clamd, Scanner::Unix("/run/clamd.sock".into()));
    assert_eq!(host.scanners.rspamd, Some(Scanner::Tcp("127.0.0.1:11333".parse().unwrap())));
    assert_eq!(host.scanners.rspamd_password.as_deref(), Some(Path::new("control/rspamd")));
    let paths = host.paths();
    assert_eq!(paths.control, Path::new("/var/qmail/control"));
    assert_eq!(paths.domains, Path::new("/home/vpop/domains"));
    assert_eq!(paths.control_socket(), Path::new("/home/run/control.sock"));
    assert_eq!(host.resolve(&first.rules), Path::new("/home/rules.cdb"));
}

#[test]
fn a_home_of_its_own_keeps_short_paths() {
    let paths = parse("()").unwrap().paths();
    assert_eq!(
        (paths.queue.as_path(), paths.alias.as_path()),
        (Path::new("/home/queue"), Path::new("/home/alias"))
    );
}

#[test]
fn refusals_name_place_field_and_what_is_allowed() {
    for (text, parts) in [
        ("(", &["host.ron:1:"][..]),
        ("(grase: \"20s\")", &["host.ron:1:", "grase", "`grace`"]),
        ("(\n  grace: 20)", &["host.ron:2:", "grace"]),
        (
            "(\n  grace: \"20 parsecs\")",
            &["host.ron:2:", ": grace: ", "\"20 parsecs\"", "allowed: 0s to 3600s"],
        ),
        ("(\n  grace: \"2h\")", &["host.ron:2:", ": grace: ", "\"2h\"", "allowed: 0s to 3600s"]),
        ("(log: (format: xml))", &["host.ron:1:", ": log.format: ", "xml", "`classic`", "`json`"]),
        ("(log: (level: \"loud\"))", &[": log.level: ", "\"loud\"", "\"warn\""]),
        (
            "(services: {\n\"smtpd\": smtpd(listen: [\"127.0.0.1:2525\"],\n concurrency: 70000)})",
            &["host.ron:3:", ": services.smtpd.concurrency: ", "70000", "allowed: 1 to 65000"],
        ),
        (
            "(scanners: (rspamd: \"localhost\"))",
            &[": scanners.rspamd: ", "\"localhost\"", "allowed: an address and a port"],
        ),
        (
            "(services: {\n\"smtpd\": smtpd(\n checkpassword: [\"/bin/true\"])})",
            &[
                "host.ron:3:",
                ": services.smtpd.checkpassword: \"/bin/true\" says yes to every password; allowed: ",
                "[\"/bin/checkpassword\", \"true\"]",
            ],
        ),
        ("(services: {\"smtpd\": smtpd(per_ip: 0)})", &[": services.smtpd.per_ip: ", "allowed: 1 to 65000"]),
        (
            "(services: {\"smtpd\": smtpd(per_ip: -1)})",
            &[": services.smtpd.per_ip: ", "-1", "allowed: 1 to 65000"],
        ),
        (
            "(services: {\"smtpd\": smtpd(listen: [])})",
            &[": services.smtpd.listen: ", "allowed: one address or more"],
        ),
        (
            "(services: {\"smtpd\": smtpd(listen: [\"localhost:25\"])})",
            &[": services.smtpd.listen: ", "\"localhost:25\"", "allowed: an address and a port"],
        ),
        (
            "(services: {\"smtpd\": smtpd(unlimited: [\"1.2.3.4/40\"])})",
            &["\"1.2.3.4/40\"", "allowed: an address"],
        ),
        ("(services: {\"x\": pop4d(listen: \"127.0.0.1:1\")})", &["pop4d", "`smtpd`", "`metrics`"]),
        ("(services: {\"queue\": metrics()})", &["\"queue\" is a service that every host has"]),
        ("(services: {\"../x\": metrics()})", &["\"../x\" is not the name of a service"]),
        ("(services: {\"m\": metrics(), \"m\": metrics()})", &["\"m\" stands here twice"]),
        (
            "(services: {\"a\": metrics(listen: \"0.0.0.0:25\"),\n\"b\": smtpd(listen: [\"127.0.0.1:25\"])})",
            &["host.ron:2:", ": services.b.listen: ", "127.0.0.1:25 clashes with 0.0.0.0:25 of services.a"],
        ),
        ("(queue: (receiving_bytes: \"2GB\"))", &[": queue.receiving_bytes: ", "\"2GB\"", "\"64MiB\""]),
        ("(queue: (disk_threads: 0))", &[": queue.disk_threads: ", "allowed: 1 to 64"]),
        ("(resolver: (servers: [\"dns\"]))", &[": resolver.servers: ", "\"dns\"", "\"9.9.9.9\""]),
        ("(remote: (port: 0))", &[": remote.port: ", "allowed: 1 to 65535"]),
        ("(remote: (outgoing_ip: \"x\"))", &[": remote.outgoing_ip: ", "\"192.0.2.1\""]),
        ("(qmail_home: \"\")", &[": qmail_home: ", "allowed: a path"]),
    ] {
        let error = parse(text).expect_err(text);
        for part in parts {
            assert!(error.contains(part), "{text}\n{error}\nlacks {part}");
        }
    }
}

#[test]
fn ports_that_the_system_chooses_do_not_clash() {
    parse("(services: {\"a\": metrics(listen: \"127.0.0.1:0\"), \"b\": smtpd(listen: [\"127.0.0.1:0\"])})")
        .unwrap();
}

#[test]
fn every_setting_has_its_origin() {
    let host = parse("(\n grace: \"5s\",\n services: {\"in\": smtpd(\n per_ip: 4)})").unwrap();
    let settings = host.settings();
    for (name, value, line) in [
        ("grace", "5s", Some(2)),
        ("services.in.per_ip", "4", Some(4)),
        ("services.in.listen", "127.0.0.1:2525", None),
        ("services.in.concurrency", "control/concurrencyincoming", None),
        ("queue.free_bytes", "67108864", None),
        ("log.level", "info", None),
    ] {
        let setting =
            settings.iter().find(|setting| setting.name == name).unwrap_or_else(|| panic!("{name}"));
        let origin = line.map_or(Origin::Default, |line| Origin::File("/home/host.ron".into(), Some(line)));
        assert_eq!((setting.value.as_str(), &setting.origin), (value, &origin), "{name}");
    }
}

#[test]
fn files_that_are_no_text() {
    let home = tempfile::tempdir().unwrap();
    let load = || Host::load(home.path()).expect_err("refused");
    let missing = load();
    assert!(!missing.is_temporary() && missing.to_string().contains("unable to read"), "{missing}");
    let path = home.path().join("host.ron");
    std::fs::write(&path, b"(\n grace: \"\xff\")").unwrap();
    assert!(load().to_string().ends_with("host.ron:2: not UTF-8"), "{}", load());
    std::fs::write(&path, vec![b' '; (1 << 20) + 1]).unwrap();
    assert!(load().to_string().contains("too long"));
    std::fs::write(&path, "(".repeat(100_000)).unwrap();
    load();
    std::fs::remove_file(&path).unwrap();
    std::fs::create_dir(&path).unwrap();
    assert!(load().is_temporary());
}

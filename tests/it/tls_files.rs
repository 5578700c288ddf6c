//! The files TLS is made of: certificates by name, new ones without a restart, bad ones, and certificates of clients.

mod needs_openssl {
    use std::fs;
    use std::net::SocketAddr;
    use std::path::Path;

    use mailtree_tests::certificate::Workshop;
    use mailtree_tests::dialogue::Dialogue;
    use mailtree_tests::host::{Host, PATIENCE, Setup};
    use mailtree_tests::wait::wait_until;

    /// Whose certificate a client gets that asks for `host`, or for nobody.
    fn shown(address: SocketAddr, host: Option<&str>) -> String {
        let args = host.map_or(vec!["-noservername"], |host| vec!["-servername", host]);
        let mut client = Dialogue::starttls(address, &args).unwrap();
        let told = client.end();
        let line = told.lines().find_map(|line| line.strip_prefix("Peer certificate: CN = "));
        line.unwrap_or_else(|| panic!("{told}")).to_owned()
    }

    /// Puts a file in the place of another at once.
    fn replace(path: &Path, text: &str) {
        let new = path.with_extension("new");
        fs::write(&new, text).unwrap();
        fs::rename(new, path).unwrap();
    }

    #[test]
    fn each_name_has_its_own_certificate() {
        let (setup, workshop) = (Setup::new(), Workshop::new());
        let certs = setup.home().join("control/servercerts");
        for name in ["one.test", "two.test"] {
            fs::create_dir_all(certs.join(name)).unwrap();
            fs::write(certs.join(name).join("servercert.pem"), workshop.host(name, "ec")).unwrap();
        }
        let host = setup.start();
        let address = host.address().get();
        for (asked, expected) in [
            (Some("one.test"), "one.test"),
            (Some("TWO.test"), "two.test"),
            (Some("three.test"), "mx.test"),
            (None, "mx.test"),
        ] {
            assert_eq!(shown(address, asked), expected, "{asked:?}");
        }
        host.run(&["check"]).expect(0);
    }

    #[test]
    fn a_new_certificate_needs_no_restart_and_a_bad_one_changes_nothing() {
        let (host, workshop) = (Host::start(), Workshop::new());
        let (address, pid) = (host.address().get(), host.pid());
        let file = host.home().join("control/servercert.pem");
        assert_eq!(shown(address, None), "mx.test");
        let mut talking = Dialogue::starttls(address, &[]).unwrap();
        replace(&file, &workshop.host("new.test", "ec"));
        wait_until("the new certificate", PATIENCE, || shown(address, None) == "new.test");
        let mismatched = workshop.authority("a.test") + &workshop.text("new.test.key");
        for (bad, why) in [
            ("junk\n".to_owned(), "no certificate"),
            (workshop.authority("keyless.test"), "a certificate without a private key"),
            (mismatched, "the private key does not belong to the first certificate"),
        ] {
            replace(&file, &bad);
            let line = format!("alert: tls: {}: {why}", file.display());
            wait_until(&line, PATIENCE, || {
                assert_eq!(shown(address, None), "new.test", "{why}");
                host.log_lines().contains(&line)
            });
            assert_eq!(shown(address, None), "new.test", "{why}");
        }
        replace(&file, &workshop.host("newer.test", "ec"));
        wait_until("the newer certificate", PATIENCE, || shown(address, None) == "newer.test");
        talking.say("NOOP", 250);
        assert_eq!(host.pid(), pid);
        assert!(host.is_up("smtpd"));
    }

    /// As certbot renews: one file after the other, behind symbolic links.
    #[test]
    fn a_pair_of_files_is_swapped_when_both_are_new() {
        let (setup, workshop) = (Setup::new(), Workshop::new());
        let control = setup.home().join("control");
        let live = |name: &str, days| {
            let (certificate, key) = workshop.pair(name, days);
            let [chain, private] =
                ["fullchain.pem", "privkey.pem"].map(|end| workshop.path(&format!("{name}-{end}")));
            fs::write(&chain, certificate).unwrap();
            fs::write(&private, key).unwrap();
            (chain, private)
        };
        let link = |to: &Path, name: &str| {
            let new = control.join(format!("{name}.new"));
            std::os::unix::fs::symlink(to, &new).unwrap();
            fs::rename(new, control.join(name)).unwrap();
        };
        let (chain, key) = live("one.test", 30);
        link(&chain, "servercert.pem");
        link(&key, "serverkey.pem");
        let host = setup.start();
        let address = host.address().get();
        assert_eq!(shown(address, None), "one.test");
        let (chain, key) = live("two.test", 30);
        link(&chain, "servercert.pem");
        let (cert_file, key_file) = (control.join("servercert.pem"), control.join("serverkey.pem"));
        let half = format!(
            "alert: tls: {}: the private key in {} does not belong to the first certificate",
            cert_file.display(),
            key_file.display()
        );
        let told = || host.log_lines().iter().filter(|line| **line == half).count();
        wait_until("the half of a pair to be told", PATIENCE, || {
            assert_eq!(shown(address, None), "one.test");
            told() > 0
        });
        assert_eq!(shown(address, None), "one.test");
        link(&key, "serverkey.pem");
        wait_until("the new pair", PATIENCE, || shown(address, None) == "two.test");
        assert_eq!(told(), 1);
        // In the same file again.
        fs::remove_file(&cert_file).unwrap();
        fs::remove_file(&key_file).unwrap();
        replace(&cert_file, &workshop.host("three.test", "ec"));
        wait_until("the certificate in one file", PATIENCE, || shown(address, None) == "three.test");
    }

    #[test]
    fn a_certificate_that_ends_soon_or_is_for_another_is_told_everywhere() {
        let (setup, workshop) = (Setup::new(), Workshop::new());
        let gauge = |host: &Host, name: &str| {
            let name = format!("mailtree_tls_certificate_{name}");
            host.metrics().sum(&name, &["certificate=\"servercert.pem\""])
        };
        let seconds = || std::time::UNIX_EPOCH.elapsed().unwrap().as_secs_f64();
        let (certificate, key) = workshop.pair("other.test", 13);
        let file = setup.home().join("control/servercert.pem");
        setup.write();
        let well = setup.run(&["check"]).expect(0).stdout;
        assert!(well.ends_with("check: all is well\n"), "{well}");
        replace(&file, &(certificate + &key));
        fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
        setup.give(&file);
        let ran = setup.run(&["check"]).expect(0);
        let misnamed = "control/servercert.pem: the certificate is not for mx.test, but for: other.test";
        let soon = "control/servercert.pem: the certificate expires at ";
        for told in [misnamed, soon] {
            let warning = |line: &str| line.starts_with("mailtree check: warning: ") && line.contains(told);
            assert!(ran.stderr.lines().any(warning), "{told}: {}", ran.stderr);
        }
        assert!(ran.stdout.ends_with("check: 2 warnings\n"), "{}", ran.stdout);
        let host = setup.start();
        host.wait_log(&format!("tls: warning: *{misnamed}"));
        host.wait_log(&format!("tls: warning: *{soon}*"));
        assert_eq!(gauge(&host, "name_matches"), 0.0);
        let left = gauge(&host, "not_after_timestamp_seconds") - seconds();
        assert!((12.9 * 86_400.0..13.1 * 86_400.0).contains(&left), "{left}");
        assert!(gauge(&host, "not_before_timestamp_seconds") <= seconds());
        let begin = std::time::Instant::now();
        wait_until("a few looks at the files", PATIENCE, || {
            shown(host.address().get(), None);
            begin.elapsed().as_secs_f64() > 2.5
        });
        let (certificate, key) = workshop.pair("mx.test", 100);
        replace(&file, &(certificate + &key));
        wait_until("the gauges of the new certificate", PATIENCE, || {
            shown(host.address().get(), None);
            gauge(&host, "name_matches") == 1.0
        });
        assert!(gauge(&host, "not_after_timestamp_seconds") - seconds() > 99.0 * 86_400.0);
        // Nothing is told twice, though each session looks.
        let count = |told: &str| host.log_lines().iter().filter(|line| line.contains(told)).count();
        assert_eq!((count(misnamed), count(soon)), (1, 1), "{}", host.log_tail());
    }

    #[test]
    fn check_names_bad_certificates() {
        let (setup, workshop) = (Setup::new(), Workshop::new());
        setup.write();
        setup.run(&["check"]).expect(0);
        let certificate = workshop.authority("one.test");
        workshop.authority("other.test");
        let key = workshop.text("other.test.key");
        let control = setup.home().join("control");
        fs::create_dir_all(control.join("servercerts/named.test")).unwrap();
        for name in ["servercert.pem", "servercerts/named.test/servercert.pem"] {
            let file = control.join(name);
            let good = fs::read_to_string(&file).unwrap_or_else(|_| workshop.host("named.test", "ec"));
            for (text, why) in [
                (certificate.clone(), "a certificate without a private key"),
                (certificate.clone() + &key, "the private key does not belong to the first certificate"),
                (workshop.expired("past.test"), "the certificate expired at "),
                (key.clone(), "no certificate"),
            ] {
                replace(&file, &text);
                let ran = setup.run(&["check"]);
                let named = format!("{}: {why}", file.display());
                assert!(ran.stderr.lines().any(|line| line.contains(&named)), "{named}: {}", ran.stderr);
                assert_eq!(ran.code, Some(100), "{named}");
                assert!(!ran.stderr.contains("PRIVATE KEY"), "{}", ran.stderr);
            }
            replace(&file, &good);
            let ran = setup.run(&["check"]);
            assert_eq!(ran.code, Some(0), "{}", ran.stderr);
        }
    }

    #[test]
    fn a_certificate_that_expired_is_told_and_used() {
        let setup = Setup::new();
        let pem = Workshop::new().expired("past.test");
        let host = setup.control("servercert.pem", &pem).start();
        assert_eq!(shown(host.address().get(), None), "past.test");
        host.wait_log("tls: warning: */control/servercert.pem: the certificate expired at *");
    }

    #[test]
    fn owners_of_listed_certificates_may_relay() {
        let workshop = Workshop::new();
        let setup = Setup::new()
            .control("clientca.pem", &workshop.authority("ours"))
            .control("tlsclients", "# relays\nRelay@far.test\n")
            .smtpd("proxies: []");
        workshop.authority("theirs");
        workshop.client("listed", "ours", "relay@far.test");
        workshop.client("unlisted", "ours", "other@far.test");
        workshop.client("unknown", "theirs", "relay@far.test");
        fs::write(setup.home().join("tcp.smtp"), ":allow\n").unwrap();
        setup.write();
        setup.run(&["qmailctl", "cdb"]).expect(0);
        let host = setup.start();
        let relay = |name: Option<&str>, version: &str| {
            let mut args = vec![version.to_owned()];
            for (option, end) in [("-cert", "crt"), ("-key", "key")] {
                let file = name.map(|name| workshop.path(&format!("{name}.{end}")).display().to_string());
                args.extend(file.into_iter().flat_map(|file| [option.to_owned(), file]));
            }
            let args: Vec<_> = args.iter().map(String::as_str).collect();
            let mut client = Dialogue::starttls(host.address().get(), &args).unwrap();
            client.say("EHLO client.test", 250);
            client.relay_code()
        };
        for version in ["-tls1_2", "-tls1_3"] {
            assert_eq!(relay(Some("listed"), version), 250, "{version}");
            assert_eq!(relay(Some("unlisted"), version), 553, "{version}");
            assert_eq!(relay(Some("unknown"), version), 553, "{version}");
            assert_eq!(relay(None, version), 553, "{version}");
        }
        host.wait_log(
            "qmail-smtpd: pid * no valid cert for gatewaying from 127.0.0.1: email address not in my list of tlsclients",
        );
        // A name taken off the list relays no more, without a restart.
        host.control("tlsclients", "nobody@far.test\n");
        wait_until("the shorter list", PATIENCE, || relay(Some("listed"), "-tls1_3") == 553);
    }
}

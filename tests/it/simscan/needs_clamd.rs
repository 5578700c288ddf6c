//! With the real clamd.

use mailtree_tests::clamd::{Clamd, VIRUS, eicar};

use super::*;

/// The virus as an attachment, and deep within parts of parts.
fn ill() -> [String; 2] {
    let part = format!(
        "Content-Type: application/octet-stream; name=x.com\nContent-Transfer-Encoding: base64\n\n{}\n",
        base64(eicar().as_bytes())
    );
    let deep = format!(
        "Content-Type: multipart/mixed; boundary=b2\n\n--b2\nContent-Type: multipart/related; boundary=b3\n\n--b3\n{part}\n--b3--\n\n--b2--\n"
    );
    [with_part(&part), with_part(&deep)]
}

fn both(clamd: &Clamd) -> [String; 2] {
    [clamd.socket().display().to_string(), clamd.port().to_string()]
}

#[test]
fn check_finds_it() {
    let clamd = Clamd::start();
    let setup = setup(":clam=yes\n", &format!("clamd: \"{}\"", clamd.port()));
    setup.write();
    let said = setup.run(&["check"]).stdout;
    assert!(said.contains(&format!("scanners.clamd: {} answers", clamd.port())), "{said}");
}

#[test]
fn a_virus_is_refused_by_its_name() {
    let clamd = Clamd::start();
    for address in both(&clamd) {
        let dir = tempfile::tempdir().unwrap();
        mailtree_tests::maildir::open_to_all(dir.path());
        let scanners = format!("clamd: \"{address}\", quarantine: Some(\"{}\")", dir.path().display());
        let host = setup(":clam=yes\n", &scanners).start();
        for text in ill() {
            assert_eq!(
                answer(&host, &text),
                format!("554 5.7.1 Your email was rejected because it contains the {VIRUS} virus"),
                "{text}"
            );
        }
        let line = format!("simscan:[P]:VIRUS:T:{VIRUS}:127.0.0.1:sender@mx.test:bob@mx.test");
        let logged = || said(&host).iter().filter(|said| **said == line).count();
        wait_until(&format!("twice {line}"), PATIENCE, || logged() == 2);
        assert_eq!(quarantined(dir.path()).len(), 2);
        assert!(answer(&host, &letter("well", 100_000)).starts_with("250 "));
        assert_eq!(host.maildir("bob").wait(1, PATIENCE).len(), 1);
        let metrics = host.metrics();
        for (result, count) in [("found", 2.0), ("clean", 1.0)] {
            let labels = ["scanner=\"clamav\"", &format!("result=\"{result}\"")];
            assert_eq!(metrics.sum("mailtree_simscan_scans_total", &labels), count);
        }
    }
}

#[test]
fn clamd_goes_and_comes_again() {
    let mut clamd = Clamd::start();
    let host = setup(":clam=yes\n", &format!("clamd: \"{}\"", clamd.port())).start();
    assert!(answer(&host, "Subject: x\n\nx\n").starts_with("250 "));
    clamd.stop();
    assert_eq!(answer(&host, "Subject: x\n\nx\n"), TEMPORARY);
    clamd.again();
    assert!(answer(&host, "Subject: x\n\nx\n").starts_with("250 "));
    host.maildir("bob").wait(2, PATIENCE);
}

#[test]
fn more_than_clamd_takes_is_refused_for_good() {
    let clamd = Clamd::start();
    let host = setup(":clam=yes\n", &format!("clamd: \"{}\"", clamd.port()));
    let host = host.control("databytes", "0\n").start();
    for _ in 0..3 {
        assert_eq!(answer(&host, &letter("too-large", 32_000_000)), TOO_LARGE);
    }
    host.wait_log("simscan:[*]: warning: clamav: clamd: INSTREAM size limit exceeded. ERROR; refused");
    assert!(answer(&host, "Subject: x\n\nx\n").starts_with("250 "));
}

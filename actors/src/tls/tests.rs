use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_rustls::rustls::version;

use super::testing::{Authority, BOTH, Client, meet};
use super::*;

/// A control directory with these files.
fn control(files: &[(&str, &str)]) -> TempDir {
    let directory = tempfile::tempdir().unwrap();
    for (name, contents) in files {
        write(directory.path(), name, contents);
    }
    directory
}

fn write(control: &Path, name: &str, contents: &str) {
    let path = control.join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, contents).unwrap();
}

fn load(control: &TempDir) -> Tls {
    Tls::new(Arc::new(Control::new(control.path())))
}

/// Whether a client that asks for `host` gets a certificate for it.
async fn serves(tls: &Tls, authority: &Authority, host: &str) -> bool {
    let client = Client { trusts: authority, host, identity: None, versions: BOTH };
    client.meets(tls.current().unwrap()).await.1
}

#[test]
fn no_certificate_is_no_tls() {
    let authority = Authority::new();
    assert!(load(&control(&[])).current().is_none());
    assert!(load(&control(&[("servercert.pem", "junk")])).current().is_none());
    let named = ("servercerts/a.example/servercert.pem", &*authority.identity(&["a.example"]));
    assert!(load(&control(&[named])).current().is_none());
}

/// As certbot leaves it, one file after the other.
#[tokio::test]
async fn a_pair_of_files_is_taken_together_or_not_at_all() {
    let authority = Authority::new();
    let pair = |names: &[&str]| {
        let pem = authority.identity(names);
        let at = pem.find("-----BEGIN PRIVATE").unwrap();
        (pem[..at].to_owned(), pem[at..].to_owned())
    };
    let (certificate, key) = pair(&["one.example", "named.example"]);
    for dir in ["", "servercerts/named.example/"] {
        let name = |file: &str| format!("{dir}{file}");
        let control = control(&[
            ("servercert.pem", &authority.identity(&["other.example"])),
            (&name("servercert.pem"), &certificate),
            (&name("serverkey.pem"), &key),
        ]);
        let tls = load(&control);
        let host = if dir.is_empty() { "one.example" } else { "named.example" };
        assert!(serves(&tls, &authority, host).await, "{dir}");
        let (new_certificate, new_key) = pair(&["two.example"]);
        let (first, second) = if dir.is_empty() {
            (("servercert.pem", new_certificate), ("serverkey.pem", new_key))
        } else {
            (("serverkey.pem", new_key), ("servercert.pem", new_certificate))
        };
        write(control.path(), &name(first.0), &first.1);
        tls.reload();
        assert!(serves(&tls, &authority, host).await, "{dir}: half of a pair was taken");
        write(control.path(), &name(second.0), &second.1);
        tls.reload();
        assert!(!serves(&tls, &authority, host).await, "{dir}: the new pair was not taken");
    }
}

#[tokio::test]
async fn a_handshake_tells_what_was_agreed() {
    let authority = Authority::new();
    let control = control(&[("servercert.pem", &authority.identity(&["mail.example.org"]))]);
    let tls = load(&control);
    let table: [(&[_], _, _); 2] = [
        (&[&version::TLS13], "TLSv1.3", "TLS_AES_256_GCM_SHA384"),
        (&[&version::TLS12], "TLSv1.2", "ECDHE-ECDSA-AES256-GCM-SHA384"),
    ];
    for (versions, protocol, cipher) in table {
        let client = Client { trusts: &authority, host: "Mail.example.org", identity: None, versions };
        let (accepted, trusted) = client.meets(tls.current().unwrap()).await;
        let accepted = accepted.unwrap();
        assert!(trusted);
        assert_eq!((accepted.protocol, accepted.cipher), (protocol, cipher));
        assert_eq!(accepted.sni.as_deref(), Some("mail.example.org"));
        assert_eq!((accepted.verified, accepted.client_email, accepted.no_relay), (false, None, None));
    }
}

#[tokio::test]
async fn each_host_has_its_own_certificate() {
    let authority = Authority::new();
    let named =
        |host: &str, name: &str| (format!("servercerts/{host}/servercert.pem"), authority.identity(&[name]));
    let files = [
        ("servercert.pem".to_owned(), authority.identity(&["mail.example.org", "other.example"])),
        named("a.example.org", "a.example.org"),
        named("*.example.org", "*.example.org"),
        named("Upper.example.org", "upper.example.org"),
        ("servercerts/bad.example.org/servercert.pem".to_owned(), "junk".to_owned()),
    ];
    let control = control(&files.each_ref().map(|(name, contents)| (&**name, &**contents)));
    let tls = load(&control);
    let table = [
        ("a.example.org", true),
        ("A.EXAMPLE.org", true),
        ("upper.example.org", true),
        ("b.example.org", true),
        // Its own is bad: the wildcard does.
        ("bad.example.org", true),
        ("other.example", true),
        // The wildcard is one label, and comes before what servercert.pem says.
        ("b.c.example.org", false),
        ("example.org", false),
        ("mail.example.org", true),
        ("nowhere.example", false),
    ];
    for (host, expected) in table {
        assert_eq!(serves(&tls, &authority, host).await, expected, "{host}");
    }
}

#[tokio::test]
async fn a_changed_file_is_read_and_a_bad_one_changes_nothing() {
    let authority = Authority::new();
    let control = control(&[
        ("servercert.pem", &*authority.identity(&["one.example"])),
        ("servercerts/named.example/servercert.pem", &*authority.identity(&["named.example"])),
    ]);
    let loaded = Instant::now();
    let tls = load(&control);
    let first = tls.current().unwrap();
    write(control.path(), "servercert.pem", &authority.identity(&["two.example"]));
    let same = Arc::ptr_eq(&first, &tls.current().unwrap());
    assert!(same || loaded.elapsed() >= LOOK, "looked at more than once a second");
    tokio::time::sleep(LOOK).await;
    assert!(serves(&tls, &authority, "two.example").await);
    tokio::time::sleep(LOOK).await;
    let second = tls.current().unwrap();
    assert!(!Arc::ptr_eq(&first, &second));

    for name in ["servercert.pem", "servercerts/named.example/servercert.pem"] {
        write(control.path(), name, "-----BEGIN CERTIFICATE-----\n");
    }
    tls.reload();
    assert!(serves(&tls, &authority, "two.example").await);
    assert!(serves(&tls, &authority, "named.example").await);

    write(control.path(), "servercert.pem", &authority.identity(&["three.example"]));
    fs::remove_dir_all(control.path().join("servercerts")).unwrap();
    tls.reload();
    assert!(serves(&tls, &authority, "three.example").await);
    assert!(!serves(&tls, &authority, "named.example").await);

    fs::remove_file(control.path().join("servercert.pem")).unwrap();
    tls.reload();
    assert!(tls.current().is_none());
}

#[tokio::test]
async fn only_a_verified_certificate_that_is_listed_may_relay() {
    let (authority, stranger) = (Authority::new(), Authority::new());
    let base = [
        ("servercert.pem", authority.identity(&["mail.example.org"])),
        ("clientca.pem", authority.pem()),
        ("tlsclients", "# relays\nRelay@example.org \n".to_owned()),
    ];
    let crl = ("clientcrl.pem", authority.revoking(&[7], 4096));
    let plain = control(&base.each_ref().map(|(name, contents)| (*name, &**contents)));
    let revoking =
        control(&[&base[0], &base[1], &base[2], &crl].map(|(name, contents)| (*name, &**contents)));
    let stale = ("clientcrl.pem", authority.revoking(&[7], 2021));
    let stale = control(&[&base[0], &base[1], &base[2], &stale].map(|(name, contents)| (*name, &**contents)));

    let good = authority.client(7, &[], Some("relay@example.org"));
    let alternative =
        authority.client(8, &["first@example.org", "relay@EXAMPLE.org"], Some("other@example.org"));
    let unlisted = authority.client(9, &["first@example.org"], None);
    let nameless = authority.client(10, &[], None);
    let unknown = stranger.client(7, &["relay@example.org"], Some("relay@example.org"));
    let server = authority.identity_between(&["mail.example.org"], 2020, 2021);

    let not_listed = Some("email address not in my list of tlsclients");
    let table: [(&TempDir, Option<&str>, _, _); 10] = [
        (&plain, None, (false, None, false), None),
        (&plain, Some(&good), (true, Some("relay@example.org"), true), None),
        (&plain, Some(&alternative), (true, Some("relay@EXAMPLE.org"), true), None),
        (&plain, Some(&unlisted), (true, Some("first@example.org"), false), not_listed),
        (&plain, Some(&nameless), (true, None, false), Some("contains no email address")),
        (&plain, Some(&unknown), (false, None, false), Some("")),
        (&plain, Some(&server), (false, None, false), Some("")),
        (&revoking, Some(&alternative), (true, Some("relay@EXAMPLE.org"), true), None),
        (&revoking, Some(&good), (false, None, false), Some("")),
        (&stale, Some(&alternative), (false, None, false), Some("")),
    ];
    for (number, (control, identity, expected, no_relay)) in table.into_iter().enumerate() {
        for versions in [&[&version::TLS13], &[&version::TLS12]] {
            let client = Client { trusts: &authority, host: "mail.example.org", identity, versions };
            let accepted = client.meets(load(control).current().unwrap()).await.0.unwrap();
            let found = (accepted.verified, accepted.client_email.as_deref(), accepted.relay);
            assert_eq!(found, expected, "{number}: {:?}", accepted.no_relay);
            match no_relay {
                // The words are the verifier's.
                Some("") => assert!(accepted.no_relay.is_some_and(|text| !text.is_empty()), "{number}"),
                no_relay => assert_eq!(accepted.no_relay.as_deref(), no_relay, "{number}"),
            }
        }
    }
}

#[tokio::test]
async fn a_resumed_session_is_verified_again() {
    let authority = Authority::new();
    let control = control(&[
        ("servercert.pem", &*authority.identity(&["mail.example.org"])),
        ("clientca.pem", &*authority.pem()),
        ("tlsclients", "relay@example.org"),
    ]);
    let context = load(&control).current().unwrap();
    let identity = authority.client(7, &["relay@example.org"], None);
    for versions in [&[&version::TLS13], &[&version::TLS12]] {
        let client =
            Client { trusts: &authority, host: "mail.example.org", identity: Some(&identity), versions };
        let config = client.config();
        for resumed in [false, true] {
            let accepted = meet(Arc::clone(&config), client.host, Arc::clone(&context)).await.0.unwrap();
            let kind = accepted.stream.get_ref().1.handshake_kind().unwrap();
            assert_eq!(kind == rustls::HandshakeKind::Resumed, resumed, "{kind:?}");
            assert!(accepted.relay);
        }
    }
}

#[tokio::test]
async fn tlsserverciphers_narrows_what_is_spoken() {
    let authority = Authority::new();
    let servercert = authority.identity(&["mail.example.org"]);
    let tls12: &[_] = &[&version::TLS12];
    let table = [
        ("ECDHE-ECDSA-CHACHA20-POLY1305:AES256-SHA", tls12, Some("ECDHE-ECDSA-CHACHA20-POLY1305")),
        ("ECDHE-ECDSA-CHACHA20-POLY1305", BOTH, Some("TLS_AES_256_GCM_SHA384")),
        ("TLS_AES_128_GCM_SHA256", BOTH, Some("TLS_AES_128_GCM_SHA256")),
        ("TLS_AES_128_GCM_SHA256", tls12, None),
        // Nothing there is: TLS 1.3 alone.
        ("RC4-SHA", tls12, None),
        ("RC4-SHA", BOTH, Some("TLS_AES_256_GCM_SHA384")),
    ];
    for (ciphers, versions, expected) in table {
        let control = control(&[("servercert.pem", &*servercert), ("tlsserverciphers", ciphers)]);
        let client = Client { trusts: &authority, host: "mail.example.org", identity: None, versions };
        let accepted = client.meets(load(&control).current().unwrap()).await.0;
        assert_eq!(accepted.ok().map(|accepted| accepted.cipher), expected, "{ciphers}");
    }
}

/// A ClientHello of an older version, that offers what these versions had and TLS 1.2's suites.
fn hello(version: [u8; 2]) -> Vec<u8> {
    let mut body = version.to_vec();
    body.extend([7; 32]);
    body.extend([0, 0, 8, 0xc0, 0x2f, 0xc0, 0x2b, 0xc0, 0x13, 0x00, 0x2f, 1, 0]);
    // supported_groups and signature_algorithms.
    let extensions = [0, 10, 0, 4, 0, 2, 0, 23, 0, 13, 0, 4, 0, 2, 4, 3];
    body.extend([0, extensions.len() as u8]);
    body.extend(extensions);
    let mut hello = vec![22, 3, 1, 0, body.len() as u8 + 4, 1, 0, 0, body.len() as u8];
    hello.extend(body);
    hello
}

#[tokio::test]
async fn older_versions_are_refused() {
    let authority = Authority::new();
    let control = control(&[("servercert.pem", &*authority.identity(&["mail.example.org"]))]);
    let tls = load(&control);
    for version in [[3, 0], [3, 1], [3, 2]] {
        let (mut near, far) = tokio::io::duplex(16 * 1024);
        near.write_all(&hello(version)).await.unwrap();
        let failure = accept(far, tls.current().unwrap(), Duration::from_secs(10)).await.err().unwrap();
        assert!(matches!(failure, Failure::Handshake(_)), "{failure}");
        let mut answer = Vec::new();
        near.read_to_end(&mut answer).await.unwrap();
        // A fatal alert: protocol_version.
        assert_eq!((answer[0], &answer[5..]), (21, [2, 70].as_slice()), "{version:?}");
    }
    // The same hello of TLS 1.2 is answered: it is the version that was refused.
    let (mut near, far) = tokio::io::duplex(16 * 1024);
    near.write_all(&hello([3, 3])).await.unwrap();
    let answering = accept(far, tls.current().unwrap(), Duration::from_secs(1));
    let mut answer = [0; 1];
    let (failure, read) = tokio::join!(answering, near.read_exact(&mut answer));
    read.unwrap();
    assert_eq!((failure.err(), answer), (Some(Failure::Deadline), [22]));
}

#[tokio::test]
async fn a_handshake_ends_in_time_and_with_its_client() {
    let authority = Authority::new();
    let control = control(&[("servercert.pem", &*authority.identity(&["mail.example.org"]))]);
    let context = load(&control).current().unwrap();
    let (_silent, far) = tokio::io::duplex(1024);
    let failure = accept(far, Arc::clone(&context), Duration::from_millis(50)).await.err();
    assert_eq!(failure, Some(Failure::Deadline));
    let (near, far) = tokio::io::duplex(1024);
    drop(near);
    let failure = accept(far, Arc::clone(&context), Duration::from_secs(10)).await.err();
    assert!(matches!(failure, Some(Failure::Lost(_))), "{failure:?}");
    let (mut near, far) = tokio::io::duplex(1024);
    near.write_all(b"MAIL FROM:<a@example.org>\r\n").await.unwrap();
    let failure = accept(far, context, Duration::from_secs(10)).await.err();
    assert!(matches!(failure, Some(Failure::Handshake(_))), "{failure:?}");
}

#[test]
fn a_bad_file_of_client_certificates_keeps_what_was_known() {
    let authority = Authority::new();
    let control = control(&[
        ("servercert.pem", &*authority.identity(&["mail.example.org"])),
        ("clientca.pem", &*authority.pem()),
        ("tlsclients", "relay@example.org"),
    ]);
    let tls = load(&control);
    write(control.path(), "clientca.pem", "junk");
    write(control.path(), "tlsclients", "other@example.org");
    tls.reload();
    let context = tls.current().unwrap();
    assert!(context.clients.is_some());
    assert!(context.tlsclients.contains("other@example.org"));
    fs::remove_file(control.path().join("clientca.pem")).unwrap();
    tls.reload();
    assert!(tls.current().unwrap().clients.is_none());
}

use super::*;

/// A host with `v.example`, which is `other.example` too, `w.example`, `z.example`, and the local domain `host.example` with the account
/// sys.
struct Host;

const V: &str = "/v";

fn controlled(home: &str, dash: &str, ext: &[u8]) -> Option<Controlled> {
    let (home, dash, ext) = (home.into(), dash.into(), ext.to_vec());
    Some(Controlled { user: Vec::new(), uid: 1, gid: 1, home, dash, ext })
}

impl Facts for Host {
    fn controlled(&self, address: &[u8]) -> Result<Option<Controlled>, Unavailable> {
        let (local, domain) = address::split(address);
        Ok(match (domain.unwrap(), local) {
            (b"v.example" | b"other.example", _) => controlled(V, "-", local),
            (b"w.example", _) => controlled("/w", "-", local),
            (b"z.example", _) => controlled("/z", "-", local),
            (b"host.example", b"sys") => controlled("/home/sys", "", b""),
            (b"host.example", _) if local.starts_with(b"sys-") => controlled("/home/sys", "-", &local[4..]),
            (b"host.example", _) => controlled("/alias", "-", local),
            (b"broken.example", _) => return Err(Unavailable("broken".to_owned())),
            _ => None,
        })
    }

    fn instructions(&self, home: &[u8], file: &[u8]) -> Result<Option<Vec<Instruction>>, Unavailable> {
        let text: &[u8] = match (home, file) {
            (b"/v", b".qmail-info") => b"&max@v.example\n&joe@v.example\n",
            (b"/v", b".qmail-joe-list") => b"&max@v.example\n",
            (b"/v", b".qmail-first:last") => b"Joe@Other.Example\n",
            (b"/v", b".qmail-news-default") => b"joe@v.example\n",
            (b"/v", b".qmail-box") => b"/v/joe/Maildir/\n",
            (b"/v", b".qmail-program") => b"|deliver joe@v.example\n",
            (b"/v", b".qmail-chain") => b"&info@v.example\n",
            (b"/v", b".qmail-loop") => b"&loop@v.example\n&pool@v.example\n",
            (b"/v", b".qmail-pool") => b"&loop@v.example\n",
            (b"/v", b".qmail-far") => b"&joe@far.example\n",
            (b"/v", b".qmail-edited") => return Err(Unavailable("edited".to_owned())),
            (b"/v", b".qmail-default") => b"| vdelivermail '' bounce-no-mailbox\n",
            (b"/w", b".qmail-default") => b"| /home/vpopmail/bin/vdelivermail '' joe@v.example\n",
            (b"/z", b".qmail-default") => b"| vdelivermail '' zoe\n",
            (b"/alias", b".qmail-root") => b"&joe@v.example\n",
            (b"/v", many) if many.starts_with(b".qmail-many") => {
                // Each leads to the next.
                let number: u32 = std::str::from_utf8(&many[11..]).unwrap().parse().unwrap();
                let next = if number == 0 { "joe".to_owned() } else { format!("many{}", number - 1) };
                return Ok(Some(vec![Instruction::Forward(format!("{next}@v.example").into_bytes())]));
            }
            _ => return Ok(None),
        };
        Ok(Some(dotqmail::parse(text).unwrap()))
    }

    fn user(&self, home: &[u8], name: &[u8]) -> Result<Option<Entry>, Unavailable> {
        let known: &[&[u8]] = match home {
            b"/v" => &[b"joe", b"max", b"a", b"a-b", b"joe-jr"],
            b"/w" => &[b"boss"],
            b"/z" => &[b"zoe", b"zac"],
            _ => &[],
        };
        let line = format!("{0}:x:1:0:g:{1}/{0}:NOQUOTA", name.escape_ascii(), home.escape_ascii());
        Ok(known.contains(&name).then(|| Entry::parse(line.as_bytes()).unwrap()))
    }
}

#[test]
fn what_mail_comes_to_him_is_his() {
    for (login, sender, expected) in [
        ("joe@v.example", "", true),
        ("joe@v.example", "joe@v.example", true),
        ("joe@v.example", "Joe@V.Example", true),
        ("joe@v.example", "joe@other.example", true),
        ("joe@other.example", "joe@v.example", true),
        ("joe@v.example", "max@v.example", false),
        ("joe@v.example", "max@other.example", false),
        ("joe@v.example", "joe", false),
        ("joe@v.example", "joe@", false),
        ("joe@v.example", "#@[]", false),
        ("joe@v.example", "joe@far.example", false),
        ("joe@v.example", "joe@w.example", true),
        ("zoe@z.example", "anything@z.example", true),
        ("zac@z.example", "anything@z.example", false),
        // Extensions, but for what is another's.
        ("joe@v.example", "joe-shop@v.example", true),
        ("joe@v.example", "Joe-Shop-1@other.example", true),
        ("joe@v.example", "joe-jr@v.example", false),
        ("joe@v.example", "joe-jr-x@v.example", false),
        ("joe-jr@v.example", "joe-jr-x@v.example", false),
        ("joe@v.example", "joe-list@v.example", false),
        ("max@v.example", "joe-list@v.example", true),
        ("a@v.example", "a-b-c@v.example", false),
        ("a@v.example", "a-c@v.example", true),
        ("joe@v.example", "joe-x@w.example", true),
        ("joe@v.example", "joe+x@v.example", false),
        ("joe@v.example", "joes@v.example", false),
        ("joe@v.example", "joe---------------------------@v.example", false),
        // Aliases.
        ("joe@v.example", "info@v.example", true),
        ("joe@v.example", "INFO@Other.example", true),
        ("max@v.example", "info@v.example", true),
        ("a@v.example", "info@v.example", false),
        ("joe@v.example", "first.last@v.example", true),
        ("joe@v.example", "news-1@v.example", true),
        ("joe@v.example", "news@v.example", false),
        ("joe@v.example", "box@v.example", true),
        ("max@v.example", "box@v.example", false),
        ("joe@v.example", "program@v.example", false),
        ("joe@v.example", "chain@v.example", true),
        ("joe@v.example", "loop@v.example", false),
        ("joe@v.example", "far@v.example", false),
        ("joe@v.example", "many10@v.example", true),
        ("joe@v.example", "many100@v.example", false),
        ("joe@v.example", "root@host.example", true),
        ("joe@v.example", "nobody@host.example", false),
        ("joe@v.example", "a/../x@v.example", false),
        // Whoever gets what nobody else does.
        ("joe@v.example", "anything@w.example", true),
        ("joe@v.example", "boss@w.example", false),
        ("joe@v.example", "boss-x@w.example", false),
        ("max@v.example", "anything@w.example", false),
        ("max@v.example", "anything@v.example", false),
        // An account of the system, and one that only a checkpassword program knows.
        ("sys@host.example", "sys-list@host.example", true),
        ("sys@host.example", "joe@v.example", false),
        ("joe@far.example", "joe@far.example", true),
        ("joe@far.example", "far@v.example", false),
        ("joe@far.example", "max@far.example", false),
    ] {
        let found = is_his(login.as_bytes(), sender.as_bytes(), &Host);
        assert_eq!(found, Ok(expected), "{sender} of {login}");
    }
}

#[test]
fn what_cannot_be_looked_up_is_not_decided() {
    for sender in ["x@broken.example", "edited@v.example"] {
        assert!(is_his(b"joe@v.example", sender.as_bytes(), &Host).is_err(), "{sender}");
    }
    // His own address needs no file.
    assert_eq!(is_his(b"joe@broken.example", b"JOE@broken.example", &Host), Ok(true));
}

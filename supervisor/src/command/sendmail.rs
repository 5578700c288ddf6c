//! `sendmail`, `mailq`, `newaliases` and `datemail`: the command line of sendmail, as qmail's sendmail reads it and with
//! what today's callers write besides.

mod bs;

use std::ffi::OsString;
use std::io::{self, Read as _};
use std::path::Path;
use std::process::ExitCode;

use mailtree_protocols::inject::getopt::{Getopt, Unknown};

use super::qmail_inject::{self, Overlay, inject, stdin, words};
use super::qmail_qread;
use crate::control::{AskError, Reply, Request, ask};
use crate::failure::Failure;

const USAGE: &str = "sendmail: usage: sendmail [ -t ] [ -fsender ] [ -Fname ] [ -bp ] [ -bs ] [ arg ... ]";

/// Those of qmail's sendmail, and then options of other sendmails that change nothing here.
const LETTERS: &str = "vimte:f:p:o:B:F:EJxb:N:R:V:r:O:q:h:L:X:C:d:A:GUnI";

/// What a command line asks for.
#[derive(Debug, PartialEq, Eq)]
enum Order {
    /// To inject, with these words for qmail-inject and this environment.
    Inject(Vec<Vec<u8>>, Overlay),
    /// To list the queue.
    Mailq,
    /// To speak SMTP.
    Smtp,
    /// To try what waits in the queue.
    Flush,
    Newaliases,
}

/// `sendmail`.
pub(super) fn run(home: &Path, arguments: &[OsString]) -> ExitCode {
    main(home, "sendmail", arguments, &[])
}

/// `mailq`.
pub(super) fn mailq(home: &Path, arguments: &[OsString]) -> ExitCode {
    main(home, "mailq", arguments, &[])
}

/// `newaliases`.
pub(super) fn newaliases(home: &Path, arguments: &[OsString]) -> ExitCode {
    main(home, "newaliases", arguments, &[])
}

/// `datemail`: sendmail with the date of this place on top.
pub(super) fn datemail(home: &Path, arguments: &[OsString]) -> ExitCode {
    main(home, "sendmail", arguments, &qmail_inject::date())
}

/// `top` goes before what is read.
fn main(home: &Path, name: &str, arguments: &[OsString], top: &[u8]) -> ExitCode {
    match read(name, &words(arguments)) {
        Ok(Order::Inject(words, overlay)) => {
            inject(home, &words, &overlay, io::Cursor::new(top).chain(stdin()))
        }
        Ok(Order::Mailq) => qmail_qread::run(home),
        Ok(Order::Smtp) => bs::run(home),
        Ok(Order::Flush) => flush(home),
        Ok(Order::Newaliases) => {
            errln!("sendmail: fatal: please use fastforward/newaliases instead");
            ExitCode::from(100)
        }
        Err(unknown) => {
            if let Some(Unknown(text)) = unknown {
                errln!("{name}: {text}");
            }
            errln!("{USAGE}");
            ExitCode::from(100)
        }
    }
}

/// What the words ask for; `Err(None)`: something that there is not.
fn read(name: &str, words: &[Vec<u8>]) -> Result<Order, Option<Unknown>> {
    let mut getopt = Getopt::new(words, LETTERS);
    let (mut header, mut sender, mut full_name, mut order) = (false, None, None, None);
    while let Some(option) = getopt.next_optional(b"qd") {
        match option.map_err(Some)? {
            (b't', _) => header = true,
            (b'f' | b'r', address) => sender = Some(without_brackets(address)),
            (b'F', name) => full_name = Some(name),
            // Sony NEWS-OS: what follows is an argument that may be missing.
            (b'E' | b'J', _) => getopt.skip_word(),
            // A daemon with an interval is another host's.
            (b'q', _) => order = order.or(Some(Order::Flush)),
            (b'I', _) => order = Some(Order::Newaliases),
            (b'b', mode) => match mode.first() {
                Some(b'm') => (),
                Some(b'p') => order = Some(Order::Mailq),
                Some(b's') => order = Some(Order::Smtp),
                Some(b'i') => order = Some(Order::Newaliases),
                _ => return Err(None),
            },
            _ => (),
        }
    }
    match (order, name) {
        (Some(order), _) => return Ok(order),
        (None, "mailq") => return Ok(Order::Mailq),
        (None, "newaliases") => return Ok(Order::Newaliases),
        _ => (),
    }
    let mut overlay = Overlay::new();
    let mut inject: Vec<Vec<u8>> = vec![if header { b"-H".to_vec() } else { b"-a".to_vec() }];
    if let Some(sender) = sender {
        inject.extend([b"-f".to_vec(), sender.to_vec()]);
        as_sender(sender, &mut overlay);
    }
    if let Some(name) = full_name {
        overlay.retain(|(over, _)| !matches!(*over, "QMAILNAME" | "MAILNAME"));
        overlay.extend([("QMAILNAME", None), ("MAILNAME", Some(name.to_vec()))]);
    }
    inject.push(b"--".to_vec());
    inject.extend_from_slice(getopt.rest());
    Ok(Order::Inject(inject, overlay))
}

/// `<address>`, as some programs have it: `<>` is the sender of bounces.
fn without_brackets(address: &[u8]) -> &[u8] {
    address.strip_prefix(b"<").and_then(|rest| rest.strip_suffix(b">")).unwrap_or(address)
}

/// Whose mail it is is also who wrote it, if it does not say so; the user's own name is not his.
fn as_sender(sender: &[u8], overlay: &mut Overlay) {
    if sender.is_empty() {
        return;
    }
    overlay.extend(["QMAILNAME", "MAILNAME", "NAME", "QMAILHOST", "MAILHOST"].map(|name| (name, None)));
    match memchr::memrchr(b'@', sender) {
        Some(at) => {
            overlay.retain(|(name, _)| *name != "QMAILHOST");
            overlay.extend([
                ("QMAILHOST", Some(sender[at + 1..].to_vec())),
                ("QMAILUSER", Some(sender[..at].to_vec())),
            ]);
        }
        None => overlay.push(("QMAILUSER", Some(sender.to_vec()))),
    }
}

/// Tells qmail-send to try everything now.
fn flush(home: &Path) -> ExitCode {
    let request = Request::Svc { service: "send".to_owned(), letters: "a".to_owned() };
    let failure = match ask(home, &request) {
        Ok(Reply::Done) => return ExitCode::SUCCESS,
        Ok(other) => Failure::temporary(format!("unable to tell qmail-send: {other:?}")),
        Err(AskError::Io(error)) if error.kind() == io::ErrorKind::PermissionDenied => {
            Failure::permanent("only the host's own user may do that")
        }
        Err(error) => Failure::temporary(format!("unable to tell qmail-send: {error}")),
    };
    failure.report("sendmail")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// qmail-inject's words and the environment, or the order.
    fn said(line: &[&str]) -> String {
        said_of("sendmail", line)
    }

    fn said_of(name: &str, line: &[&str]) -> String {
        let words: Vec<_> = line.iter().map(|word| word.as_bytes().to_vec()).collect();
        match read(name, &words) {
            Ok(Order::Inject(words, mut overlay)) => {
                overlay.retain(|(_, value)| value.is_some());
                let words: Vec<_> = words.iter().map(|word| String::from_utf8_lossy(word)).collect();
                let set: Vec<_> = overlay
                    .iter()
                    .map(|(name, value)| {
                        format!("{name}={}", String::from_utf8_lossy(value.as_deref().unwrap_or_default()))
                    })
                    .collect();
                format!("{} {}", words.join(" "), set.join(" ")).trim().to_owned()
            }
            Ok(order) => format!("{order:?}"),
            Err(Some(Unknown(text))) => text,
            Err(None) => "usage".to_owned(),
        }
    }

    #[test]
    fn command_lines_are_read_as_their_callers_mean_them() {
        let sender = "QMAILHOST=h.i QMAILUSER=u";
        for (line, expected) in [
            // qmail's own.
            (&["bob"][..], "-a -- bob"),
            (&["-t"], "-H --"),
            (&["-ti"], "-H --"),
            (&["-oi", "-t"], "-H --"),
            (&["-t", "extra"], "-H -- extra"),
            (&["-fu@h.i", "bob"], &format!("-a -f u@h.i -- bob {sender}")),
            (&["-f", "user", "bob"], "-a -f user -- bob QMAILUSER=user"),
            (&["-FFull", "bob"], "-a -- bob MAILNAME=Full"),
            (&["-i", "--", "-dash"], "-a -- -dash"),
            (&["-oem", "-odb", "-om", "bob"], "-a -- bob"),
            (&["-v", "-x", "-m", "-e", "q", "bob"], "-a -- bob"),
            (&["-bm", "bob"], "-a -- bob"),
            (&["-B8BITMIME", "-p", "SMTP:host", "-Eabc", "-J", "bob"], "-a -- bob"),
            (&["bob", "-t"], "-a -- bob -t"),
            (&["-bz"], "usage"),
            (&["-bd", "-q15m"], "usage"),
            (&["-f"], "option requires an argument -- f"),
            (&["-Z"], "illegal option -- Z"),
            (&["-bp"], "Mailq"),
            (&["-bs"], "Smtp"),
            // What others write.
            (&["-t", "-i", "-fu@h.i"], &format!("-H -f u@h.i -- {sender}")),
            (&["-i", "-r", "u@h.i", "bob"], &format!("-a -f u@h.i -- bob {sender}")),
            (&["-f", "u@h.i", "-F", "A B", "bob"], &format!("-a -f u@h.i -- bob {sender} MAILNAME=A B")),
            (&["-FCronDaemon", "-i", "-B8BITMIME", "-oem", "root"], "-a -- root MAILNAME=CronDaemon"),
            (
                &["-oem", "-oi", "-f", "u@h.i", "-N", "failure,delay", "-R", "hdrs", "--", "bob"],
                &format!("-a -f u@h.i -- bob {sender}"),
            ),
            (&["-f", "<>", "bob"], "-a -f  -- bob"),
            (&["-f", "", "bob"], "-a -f  -- bob"),
            (&["-f<u@h.i>", "bob"], &format!("-a -f u@h.i -- bob {sender}")),
            (
                &["-O", "DeliveryMode=b", "-OQueueLA=8", "-V", "id", "-G", "-U", "-n", "-L", "tag", "bob"],
                "-a -- bob",
            ),
            (&["-Ac", "-h", "5", "-X", "/dev/null", "-C", "/x", "bob"], "-a -- bob"),
            (&["-d0.1", "bob"], "-a -- bob"),
            (&["-q"], "Flush"),
            (&["-q30m"], "Flush"),
            (&["-bi"], "Newaliases"),
            (&["-I"], "Newaliases"),
        ] {
            assert_eq!(said(line), expected, "{line:?}");
        }
        assert_eq!(said_of("mailq", &["-v"]), "Mailq");
        assert_eq!(said_of("newaliases", &[]), "Newaliases");
        // The user's own name and host are not the sender's.
        let Ok(Order::Inject(_, overlay)) = read("sendmail", &[b"-fu".to_vec()]) else { panic!() };
        for name in ["QMAILNAME", "MAILNAME", "NAME", "QMAILHOST", "MAILHOST"] {
            assert!(overlay.contains(&(name, None)), "{name}");
        }
    }
}

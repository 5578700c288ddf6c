//! The help of the commands: examples and exit codes, in one form for all.

use std::borrow::Cow;
use std::io::IsTerminal as _;
use std::process::ExitCode;

use clap::CommandFactory as _;
use mailtree_protocols::visible::visible_lines;

use super::Cli;

/// Exit codes of a command that has no others.
const CODES: &[(&str, &str)] = &[
    ("0", "done"),
    ("100", "cannot be done until somebody mends something: a wrong argument, a bad file"),
    ("111", "cannot be done now: the host is down, the system refused"),
];

/// Exit codes of what injects.
const INJECTED: &[(&str, &str)] = &[
    ("0", "queued"),
    ("100", "the message is not one, or was refused for good"),
    ("111", "it could not be queued now"),
];

/// A command's examples, and the exit codes that are not [`CODES`].
struct Help {
    name: &'static str,
    examples: &'static [&'static str],
    codes: &'static [(&'static str, &'static str)],
}

const fn help(name: &'static str, examples: &'static [&'static str]) -> Help {
    Help { name, examples, codes: CODES }
}

const HELPS: &[Help] = &[
    help("up", &["mailtree up", "mailtree --home /srv/mailtree up --hold"]),
    help(
        "init",
        &["mailtree --home /srv/mailtree init --me mx.example.org --listen 0.0.0.0 --port-offset 0"],
    ),
    help(
        "adopt",
        &[
            "mailtree --home /etc/mailtree adopt --dry-run",
            "mailtree --home new adopt --root copy --port-offset 20000",
        ],
    ),
    Help {
        name: "check",
        examples: &["mailtree check", "mailtree check --changed", "mailtree check --json"],
        codes: &[
            ("0", "all is well, or there are warnings only"),
            ("100", "something is wrong"),
            ("111", "nothing is known to be wrong, but something could not be read"),
        ],
    },
    help(
        "explain",
        &[
            "mailtree explain ip 192.0.2.1 --from alice@example.org",
            "mailtree explain rcpt bob@example.org --json",
        ],
    ),
    Help {
        name: "svc",
        examples: &["mailtree svc -t smtpd", "svc -d /service/qmail-smtpd"],
        codes: &[
            ("0", "all were told; a service that could not be is a warning"),
            ("100", "no such letter"),
            ("111", "not used"),
        ],
    },
    Help {
        name: "svstat",
        examples: &["mailtree svstat", "svstat /service/qmail-smtpd", "mailtree svstat --json"],
        codes: &[
            ("0", "shown, whatever the state"),
            ("100", "a wrong argument"),
            ("111", "the tree was to be shown, and the host is down"),
        ],
    },
    Help {
        name: "svok",
        examples: &["svok smtpd && echo up"],
        codes: &[("0", "its supervise runs"), ("100", "it does not"), ("111", "that cannot be told")],
    },
    help(
        "queue",
        &[
            "mailtree queue list",
            "mailtree queue show 10026864",
            "mailtree queue remove 10026864",
            "mailtree queue retry",
        ],
    ),
    Help {
        name: "qmail-queue",
        examples: &["printf 'Fme@example.org\\0Tbob@example.org\\0\\0' > e; qmail-queue < message 1< e"],
        codes: &[
            ("0", "queued"),
            ("11", "an address is too long"),
            ("31", "refused for good (any of 11 to 40)"),
            ("51", "out of memory"),
            ("52", "it took too long"),
            ("53", "write error, or the disk is full"),
            ("54", "message or envelope could not be read"),
            ("55", "host.ron could not be read"),
            ("61", "there is no home"),
            ("62", "no host runs, and the queue is not for this user (62 to 66)"),
            ("71", "the host refuses the message for now"),
            ("72", "the host did not take the connection"),
            ("74", "the connection to the host broke"),
            ("91", "the envelope is none"),
        ],
    },
    Help {
        name: "qmail-inject",
        examples: &[
            "qmail-inject < message",
            "qmail-inject -n < message",
            "qmail-inject -f me@example.org bob < message",
        ],
        codes: INJECTED,
    },
    Help {
        name: "sendmail",
        examples: &[
            "sendmail -t -i < message",
            "sendmail -f me@example.org bob@example.org < message",
            "sendmail -bs",
        ],
        codes: INJECTED,
    },
    help("mailq", &["mailq"]),
    Help {
        name: "newaliases",
        examples: &["newaliases"],
        codes: &[("0", "not used"), ("100", "always"), ("111", "not used")],
    },
    Help { name: "datemail", examples: &["datemail -t < message"], codes: INJECTED },
    Help { name: "mailsubj", examples: &["mailsubj 'disk is full' root < df.txt"], codes: INJECTED },
    Help {
        name: "qmail-qmqpc",
        examples: &["QMAILQUEUE=bin/qmail-qmqpc qmail-inject < message"],
        codes: &[
            ("0", "a server has it"),
            ("31", "a server refused it for good"),
            ("54", "message or envelope could not be read"),
            ("55", "control/qmqpservers could not be read, or names nobody"),
            ("61", "there is no home"),
            ("71", "a server refused it for now"),
            ("72", "no server took the connection in time"),
            ("73", "no server took the connection"),
            ("74", "the connection broke"),
            ("91", "the envelope is none"),
        ],
    },
    Help {
        name: "qmail-qmqpd",
        examples: &["tcpserver -x qmqp.cdb 192.0.2.1 628 qmail-qmqpd"],
        codes: &[
            ("0", "the client was answered, or has gone"),
            ("100", "it spoke no QMQP"),
            ("111", "no queue"),
        ],
    },
    help("qmail-qread", &["qmail-qread | grep alice@example.org"]),
    help("qmail-qstat", &["qmail-qstat"]),
    Help {
        name: "forward",
        examples: &["|forward bob@example.org carol@example.org"],
        codes: &[
            ("0", "queued"),
            ("100", "refused for good, or not called by qmail-local"),
            ("111", "not now"),
        ],
    },
    Help {
        name: "bouncesaying",
        examples: &[
            "|bouncesaying 'Nobody reads this.'",
            "|bouncesaying 'No spam.' grep -q '^X-Spam-Flag: YES'",
        ],
        codes: &[
            ("0", "the program does not agree: the next line"),
            ("100", "the message bounces"),
            ("111", "not now"),
        ],
    },
    Help {
        name: "condredirect",
        examples: &["|condredirect spam@example.org grep -q '^X-Spam-Flag: YES'"],
        codes: &[
            ("0", "the program does not agree: the next line"),
            ("99", "redirected: no more lines"),
            ("100", "refused for good"),
            ("111", "not now"),
        ],
    },
    Help {
        name: "except",
        examples: &["|condredirect bob@example.org except grep -q '^X-Spam-Flag: YES'"],
        codes: &[("0", "the program does not agree"), ("100", "it does"), ("111", "not now")],
    },
    Help {
        name: "preline",
        examples: &["|preline procmail", "|preline -f maildrop"],
        codes: &[
            ("0", "done; all codes are the program's, but"),
            ("100", "it cannot be run"),
            ("111", "it crashed, did not read the message to its end, or cannot be run now"),
        ],
    },
    Help {
        name: "predate",
        examples: &["predate sendmail -t < letter"],
        codes: &[
            ("0", "done; all codes are the program's, but"),
            ("100", "no program was named"),
            ("111", "it crashed, or cannot be run"),
        ],
    },
    Help {
        name: "qreceipt",
        examples: &["|qreceipt bob@example.org"],
        codes: &[
            ("0", "sent, or nobody asked"),
            ("100", "the field cannot be read, or the receipt is refused for good"),
            ("111", "not now"),
        ],
    },
    Help {
        name: "qbiff",
        examples: &["|qbiff"],
        codes: &[("0", "always"), ("100", "not used"), ("111", "not used")],
    },
    Help {
        name: "maildirmake",
        examples: &["maildirmake ~/Maildir"],
        codes: &[("0", "made"), ("100", "no name"), ("111", "not made")],
    },
    Help {
        name: "maildir2mbox",
        examples: &["MAILDIR=~/Maildir MAIL=~/mbox MAILTMP=~/mbox.tmp maildir2mbox"],
        codes: &[
            ("0", "done; unread and read messages are in $MAIL"),
            ("100", "not used"),
            ("111", "not done; nothing is lost"),
        ],
    },
    Help {
        name: "mbox2maildir",
        examples: &["mbox2maildir ~/mbox ~/Maildir"],
        codes: &[
            ("0", "all messages are in the Maildir; the mbox file stays"),
            ("100", "that is no mbox file"),
            ("111", "not done; again, it goes on where it ended"),
        ],
    },
    help("qmail-newmrh", &["qmail-newmrh"]),
    Help {
        name: "qmail-newu",
        examples: &["qmail-newu"],
        codes: &[
            ("0", "done"),
            ("100", "not used"),
            ("111", "users/assign is bad or missing, or users/cdb could not be written"),
        ],
    },
    Help {
        name: "qmail-pw2u",
        examples: &["getent passwd | qmail-pw2u -/ -c+ > users/assign.new"],
        codes: &[
            ("0", "printed"),
            ("100", "no such option"),
            ("111", "there is no user alias, or something could not be read"),
        ],
    },
    Help {
        name: "qmailctl",
        examples: &["qmailctl stat", "qmailctl cdb", "qmailctl help"],
        codes: &[
            ("0", "done"),
            ("1", "no such subcommand"),
            ("100", "a bad file"),
            ("111", "a database could not be made, or the queue not read"),
        ],
    },
    help("tcprules", &["tcprules tcp.smtp.cdb tcp.smtp.tmp < tcp.smtp"]),
    help("tcprulescheck", &["TCPREMOTEIP=192.0.2.1 tcprulescheck tcp.smtp.cdb"]),
    help("vadddomain", &["vadddomain -r example.org", "vadddomain -e boss@example.org example.org"]),
    help(
        "vadduser",
        &[
            "vadduser alice@example.org",
            "vadduser -r alice@example.org",
            "vadduser alice@example.org < password",
        ],
    ),
    help("relocate", &["mailtree --home /tmp/copy relocate /srv/host /tmp/copy --dry-run"]),
    help("links", &["mailtree --home /srv/mailtree links /usr/local/bin"]),
    help(
        "completions",
        &[
            "mailtree completions bash > /etc/bash_completion.d/mailtree",
            "mailtree completions fish | source",
        ],
    ),
    help("man", &["mailtree man /usr/local/share/man/man1"]),
];

/// What programs of others answer to wrong arguments, word for word.
const USAGES: &[(&str, &str)] = &[
    ("svok", "svok: usage: svok service"),
    ("tcprules", "tcprules: usage: tcprules rules.cdb rules.tmp"),
    ("tcprulescheck", "tcprulescheck: usage: tcprulescheck rules.cdb"),
];

/// The command line with all its help.
pub(super) fn command() -> clap::Command {
    HELPS.iter().fold(Cli::command(), |command, Help { name, examples, codes }| {
        let mut text = String::from("EXAMPLES\n");
        examples.iter().for_each(|example| text.push_str(&format!("  {example}\n")));
        text.push_str("\nEXIT CODES\n");
        codes.iter().for_each(|(code, meaning)| text.push_str(&format!("  {code:<4}{meaning}\n")));
        let text = text.trim_end().to_owned();
        command.mut_subcommand(name, |command| after(command, &text))
    })
}

fn after(command: clap::Command, text: &str) -> clap::Command {
    let command = command.after_help(text.to_owned());
    command.mut_subcommands(|below| after(below, text))
}

/// Prints what clap has to say, help or error, to `words`, the arguments.
pub(super) fn report(error: &clap::Error, name: Option<&str>) -> ExitCode {
    if !error.use_stderr() {
        let text = error.render();
        let text = if std::io::stdout().is_terminal() { text.ansi().to_string() } else { text.to_string() };
        crate::output::raw(text.as_bytes());
        return ExitCode::SUCCESS;
    }
    match USAGES.iter().find(|(usage, _)| Some(*usage) == name) {
        Some((_, usage)) => errln!("{usage}"),
        None => {
            let text = error.render().to_string();
            match visible_lines(&text) {
                // Nothing could be said of a standard error that is closed.
                Cow::Borrowed(_) => error.print().unwrap_or_default(),
                Cow::Owned(shown) => errln!("{}", shown.trim_end()),
            }
        }
    }
    ExitCode::from(100)
}

/// Prints the help of a command that reads its arguments itself.
pub(super) fn print(name: &str) -> ExitCode {
    let mut command = command();
    command.build();
    if let Some(command) = command.find_subcommand_mut(name) {
        crate::output::raw(command.render_long_help().to_string().as_bytes());
    }
    ExitCode::SUCCESS
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_has_examples_and_exit_codes() {
        for command in command().get_subcommands().filter(|command| !command.is_hide_set()) {
            let text = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            assert!(
                text.starts_with("EXAMPLES\n") && text.contains("EXIT CODES\n  0 "),
                "{}",
                command.get_name()
            );
        }
    }
}

//! What nothing in `host.ron` corresponds to.

use mailtree_protocols::runscript::{Kind, Tcpserver, Word};

use super::Decision;

impl Decision<'_> {
    /// Rows for options and programs that have no field.
    pub(super) fn others(&mut self, tcpserver: &Tcpserver) {
        if let Some(name) = tcpserver.options.value('l').filter(|name| name.text != "0") {
            let text = format!("tcpserver -l {}", name.text);
            self.ignored(&text, "the log has the name in control/me");
        }
        if tcpserver.ident() {
            self.ignored("tcpserver -r", "no client is asked for its ident: most never answer");
        }
        if tcpserver.options.last("bB").is_some_and(|letter| letter == 'B') {
            self.not_yet("tcpserver -B", "a text before the greeting");
        }
        if tcpserver.options.last("S").is_some() {
            self.not_yet("tcpserver -S", "a limit of a network");
        }
        if tcpserver.options.last("X") == Some('X') {
            self.ignored("tcpserver -X", "without its rules nobody is let in");
        }
        for letter in tcpserver.unknown() {
            self.not_yet(&format!("tcpserver -{letter}"), "no option of a tcpserver that is known");
        }
        let service = self.service;
        let mut accounts = Vec::new();
        if tcpserver.options.last("ugU").is_some() {
            accounts.push("tcpserver -u -g".to_owned());
        }
        for program in &service.script.chain {
            match &program.kind {
                Kind::Account(account) => accounts.push(format!("account {}", account.text)),
                Kind::Softlimit(limits) => {
                    // chpst has letters for more than limits.
                    let limits = limits.iter().filter(|(letter, _)| "acdflmoprst".contains(*letter));
                    let limits = limits.map(|(letter, value)| {
                        format!("-{letter} {}", value.map_or("", |value| value.text.as_str()))
                    });
                    let text = format!("softlimit {}", limits.collect::<Vec<_>>().join(" "));
                    self.not_yet(
                        &text,
                        "one process serves all; host.ron's programs: (memory: …) limits programs",
                    );
                }
                Kind::Other(words) => self.stranger(program.path.base(), words),
                _ => (),
            }
        }
        for account in accounts {
            self.not_yet(&account, "the host runs as who starts it; files get the owners of the old host");
        }
    }

    fn stranger(&mut self, program: &str, words: &[Word]) {
        let arguments: Vec<&str> = words.iter().map(|word| word.text.as_str()).collect();
        let text = format!("{program} {}", arguments.join(" "));
        match program {
            "setlock" | "pgrphack" | "fghack" | "nohup" | "nice" | "ionice" | "exec" | "command" => {
                self.ignored(text.trim_end(), "of no use here");
            }
            "fixcrio" => self.ignored("fixcrio", "a bare LF is refused, whoever sends it"),
            "recordio" => {
                self.not_yet("recordio", "a record of sessions; log: (level: \"debug\") shows some")
            }
            "greylite" => self.not_yet("greylite", "greylisting"),
            "spamdyke" => self.not_yet(text.trim_end(), "spamdyke and what its configuration says"),
            _ => self.not_yet(text.trim_end(), "a program in front of qmail-smtpd that is not known"),
        }
    }
}

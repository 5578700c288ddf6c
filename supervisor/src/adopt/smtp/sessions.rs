//! What sessions find: environment, AUTH, TLS.

use mailtree_protocols::auth::checkpassword::approver;
use mailtree_protocols::runscript::{Kind, Word};
use mailtree_protocols::variable::{self, Fate};

use super::Decision;
use crate::adopt::ron::{list, quoted};
use crate::adopt::users;

impl Decision<'_> {
    /// The environment, AUTH and TLS.
    pub(super) fn sessions(&mut self, wrapped: bool) {
        let service = self.service;
        let (mut checkpassword, mut argued) = (Vec::new(), false);
        for program in &service.script.chain {
            match &program.kind {
                Kind::QmailSmtpd { checkpassword: words, .. } => checkpassword.clone_from(words),
                Kind::Envdir(dir) => {
                    let text = format!("envdir {}", dir.text);
                    self.not_yet(&text, "its variables are not read: put them into environment in host.ron");
                }
                _ => (),
            }
        }
        if let Some(approver) = self.approver(&checkpassword) {
            let why = format!(
                "{approver} says yes to every password: everybody could send to everywhere; nobody can log in until \
                 checkpassword in host.ron names a program that asks"
            );
            let words: Vec<&str> = checkpassword.iter().map(|word| word.text.as_str()).collect();
            self.not_yet(&format!("checkpassword {}", words.join(" ")), &why);
            checkpassword.clear();
        }
        let mut environment: Vec<(String, String)> = Vec::new();
        for (name, word) in &service.script.environment {
            match (variable::fate(name), word.known()) {
                (Fate::OfTheScript, _) => (),
                (Fate::Obeyed | Fate::Stranger, Some(value)) => {
                    environment.push((name.clone(), value.to_owned()));
                }
                (Fate::Obeyed | Fate::Stranger, None) => {
                    let text = format!("`{}` is not known; set it in environment in host.ron", word.text);
                    self.not_yet(name, &text);
                }
                (Fate::NotYet(why), _) => self.not_yet(&format!("{name}={}", word.text), why),
            }
        }
        let smtpd = self.old.qmail.join("bin/qmail-smtpd");
        let binary = self.old.look(&smtpd).unwrap_or_default();
        let says = |text: &str| memmem(&binary, text.as_bytes());
        let has =
            |environment: &[(String, String)], name: &str| environment.iter().any(|(own, _)| own == name);
        let mut from = "the script's environment".to_owned();
        if !checkpassword.is_empty() && service.script.variable("SMTPAUTH").is_none() && !says("SMTPAUTH") {
            // A qmail-smtpd that does not know the variable offers AUTH whenever it has a program to ask.
            environment.push(("SMTPAUTH".to_owned(), String::new()));
            argued = true;
        }
        if checkpassword.is_empty() && has(&environment, "SMTPAUTH") {
            environment.retain(|(name, _)| name != "SMTPAUTH");
            self.ignored("SMTPAUTH", "there is no checkpassword program to ask: nobody could log in");
        }
        if wrapped && !has(&environment, "SMTPS") {
            environment.push(("SMTPS".to_owned(), "1".to_owned()));
            from.push_str(", and TLS in front of qmail-smtpd");
        }
        if says("chkuser") && !environment.iter().any(|(name, _)| name.starts_with("CHKUSER_")) {
            environment.push(("CHKUSER_START".to_owned(), "DOMAIN".to_owned()));
            from.push_str(", and a qmail-smtpd with chkuser");
        }
        if argued {
            from.push_str(", and a checkpassword program");
        }
        if !environment.is_empty() {
            let pairs =
                environment.iter().map(|(name, value)| format!("{}: {}", quoted(name), quoted(value)));
            let value = format!("{{{}}}", pairs.collect::<Vec<_>>().join(", "));
            self.set("environment", &value, &from);
        }
        let offered =
            environment.iter().find(|(name, _)| name == "SMTPAUTH").map(|(_, value)| value.as_str());
        let tls = has(&environment, "SMTPS") || has(&environment, "FORCETLS");
        if tls {
            self.certificate();
        }
        if offered.is_some_and(|value| value != "-") && !tls {
            self.set("auth_in_clear", "true", "AUTH without TLS, as before; better is false");
        }
        self.checkpassword(&checkpassword);
    }

    /// The program by which the words approve every password; one that is only a link to such a program is one, too.
    fn approver(&self, words: &[Word]) -> Option<String> {
        let mut texts: Vec<String> = words.iter().map(|word| word.text.clone()).collect();
        approver(&texts).or_else(|| {
            let first = texts.first_mut().filter(|first| first.starts_with('/'))?;
            *first = self.old.follow(&self.old.at(&*first)).to_string_lossy().into_owned();
            approver(&texts)
        })
    }

    fn checkpassword(&mut self, words: &[Word]) {
        let Some(program) = words.first() else { return };
        if program.base() == "vchkpw" && !users::elsewhere(self.old) {
            let (what, from) = (format!("{} vchkpw", self.name), format!("{}: qmail-smtpd", self.from));
            return self.report.taken(what, from, "built in: the users of vpasswd");
        }
        let known: Option<Vec<&str>> = words.iter().map(Word::known).collect();
        let Some(known) = known else {
            return self.not_yet("checkpassword", "not known; set checkpassword in host.ron");
        };
        let path = |word: &str| match word {
            word if word.starts_with('/') => {
                let here = self.old.at(word);
                // A program of the system, such as /bin/true, need not be in a copy.
                if here.exists() { here.to_string_lossy().into_owned() } else { word.to_owned() }
            }
            word => word.to_owned(),
        };
        let words: Vec<String> = known.into_iter().map(path).collect();
        self.set("checkpassword", &list(&words), "qmail-smtpd's arguments");
    }

    /// A service that speaks TLS needs `servercert.pem`; a TLS wrapper may have a certificate of its own.
    fn certificate(&mut self) {
        let variable = |name: &str| self.service.script.variable(name).and_then(Word::known);
        let stunnel = self.service.stunnel.as_ref();
        let setting = |name: &str| stunnel.and_then(|own| own.get(name));
        let own = self.old.control().join("servercert.pem");
        let cert = variable("CERTFILE").or_else(|| setting("cert")).map(|cert| self.old.at(cert));
        let cert = cert.filter(|cert| *cert != own);
        let key = variable("KEYFILE").or_else(|| setting("key")).map(|key| self.old.at(key));
        match (cert, own.exists()) {
            (Some(cert), true) => {
                let text = format!("certificate {}", cert.display());
                self.ignored(&text, "there is one certificate for all services: control/servercert.pem");
            }
            (None, true) => (),
            (Some(cert), false) => {
                let key = key.map(|key| format!("{} ", key.display())).unwrap_or_default();
                let step = format!("cat {key}{} > {}", cert.display(), own.display());
                self.report.next(format!("{step}   # key and certificate, for TLS"));
            }
            (None, false) => {
                let own = own.display();
                self.not_yet("TLS", &format!("{own} is missing: it takes no mail"));
                self.report.next(format!("put key and certificate into {own}"));
            }
        }
    }
}

fn memmem(text: &[u8], wanted: &[u8]) -> bool {
    text.windows(wanted.len()).any(|window| window == wanted)
}

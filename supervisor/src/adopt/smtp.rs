//! A service of SMTP: what its run script becomes in `host.ron`.

use std::net::SocketAddr;
use std::path::PathBuf;

use mailtree_protocols::rblsmtpd::arguments::Arguments;
use mailtree_protocols::runscript::{Kind, Names, Options as Letters, Question, Stunnel, Tcpserver, Word};

use super::ron::{list, quoted};
use super::services::{Role, Service};
use super::toaster::{self, Fate};
use super::{Old, Options, Report, network, shown};

/// The name that rblsmtpd asks when it is given no list; nobody answers there.
const NO_LIST: &str = "rbl.maps.vix.com";

/// tcpserver's own limit of connections.
const CONCURRENCY: usize = 40;

/// The services of SMTP.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub(super) services: Vec<Smtp>,
    /// The compiled rules in force, each once.
    pub(super) rules: Vec<PathBuf>,
}

/// One of them.
#[derive(Debug)]
pub(super) struct Smtp {
    pub(super) name: String,
    /// The run script.
    pub(super) from: String,
    pub(super) listen: Vec<SocketAddr>,
    pub(super) fields: Vec<Field>,
}

/// A field of `host.ron` and where its value comes from.
#[derive(Debug)]
pub(super) struct Field {
    pub(super) ron: String,
    pub(super) from: String,
}

/// Adds what the service becomes.
pub(super) fn decide(
    old: &Old,
    service: &Service,
    options: &Options,
    found: &mut Found,
    report: &mut Report,
) {
    let from = service.run.display().to_string();
    let name = shown(&service.name);
    match service.role {
        Role::Smtp => (),
        Role::Send => {
            report.taken(name, from.clone(), "the services queue and send");
            for program in &service.script.chain {
                if let Kind::QmailStart(words) = &program.kind
                    && let Some(delivery) = words.first()
                {
                    let why = "delivery to system users; it stays in the queue with a text that says so";
                    report.not_yet(format!("default delivery {}", shown(&delivery.text)), from.clone(), why);
                }
            }
            return;
        }
        Role::Pop3 => {
            let why = "POP3; leave this service running: it reads the same Maildirs";
            return report.not_yet(name, from, why);
        }
        Role::Qmail => return report.not_yet(name, from, "leave this service running if it is needed"),
        Role::Other => return report.ignored(name, from, "not of qmail; it goes on as it is"),
    }
    let smtp = Decision { old, service, from, name, fields: Vec::new(), report }.smtp(options, found);
    found.services.extend(smtp);
}

struct Decision<'a> {
    old: &'a Old,
    service: &'a Service,
    from: String,
    name: String,
    fields: Vec<Field>,
    report: &'a mut Report,
}

impl Decision<'_> {
    fn smtp(mut self, options: &Options, found: &mut Found) -> Option<Smtp> {
        let name = field_name(&self.service.name, found);
        let own = Tcpserver::default();
        let tcpserver = self.service.script.tcpserver();
        let listen = match (tcpserver, &self.service.stunnel) {
            (Some(tcpserver), _) => {
                network::listen(self.old, &self.name, tcpserver, options, &self.from, self.report)
            }
            (None, Some(stunnel)) => {
                network::listen(self.old, &self.name, &accepts(stunnel), options, &self.from, self.report)
            }
            (None, None) => {
                self.not_yet("listens", "no tcpserver in the script; add the service to host.ron by hand");
                Vec::new()
            }
        };
        let clash = |one: &Smtp| one.listen.iter().any(|own| listen.contains(own));
        if let Some(other) = found.services.iter().find(|other| clash(other)) {
            let why = format!("the address is that of {}, which is taken", other.from);
            self.not_yet("listens", &why);
            return None;
        }
        let addresses = list(&listen);
        self.set(
            "listen",
            &addresses,
            if options.listen.is_empty() { "tcpserver HOST PORT" } else { "--listen" },
        );
        if listen.is_empty() {
            return None;
        }
        if self.service.script.conditional {
            self.not_yet(
                "condition",
                "the script starts it only under a condition; it is taken as if always",
            );
        }
        let tcpserver = tcpserver.unwrap_or(&own);
        let ssl = self.service.script.chain.iter().any(|own| matches!(own.kind, Kind::Sslserver(_)));
        self.limits(tcpserver, ssl);
        self.rules(tcpserver, found);
        self.names(tcpserver);
        self.rblsmtpd();
        self.sessions(ssl || self.service.stunnel.is_some());
        self.others(tcpserver);
        Some(Smtp { name, from: self.from, listen, fields: self.fields })
    }

    /// A field, and its row.
    fn set(&mut self, field: &str, value: &str, from: &str) {
        self.fields.push(Field { ron: format!("{field}: {value}"), from: from.to_owned() });
        self.report.taken(
            format!("{} {field}", self.name),
            format!("{}: {from}", self.from),
            shown(value).replace('"', ""),
        );
    }

    fn not_yet(&mut self, what: &str, why: &str) {
        self.report.not_yet(format!("{} {}", self.name, shown(what)), self.from.clone(), shown(why));
    }

    fn ignored(&mut self, what: &str, why: &str) {
        self.report.ignored(format!("{} {}", self.name, shown(what)), self.from.clone(), shown(why));
    }

    /// The number that a word is; a row, if it is none.
    fn number(&mut self, what: &str, word: &Word, max: usize) -> Option<usize> {
        let number = word.known().and_then(|text| text.trim().parse().ok());
        let number = number.filter(|number| (1..=max).contains(number));
        if number.is_none() {
            let text = format!("`{}` is not known; allowed: 1 to {max}", word.text);
            self.not_yet(what, &text);
        }
        number
    }

    fn limits(&mut self, tcpserver: &Tcpserver, ssl: bool) {
        let file = self.old.control().join("concurrencyincoming");
        let by_file = |word: &Word| {
            let asked = |asked: &Question| match asked {
                Question::Cat(path) | Question::FirstLine(path) => self.old.at(path) == file,
                _ => false,
            };
            word.asked.iter().any(asked)
        };
        match tcpserver.concurrency() {
            Some(word) if by_file(word) => {
                let from = format!("{}: tcpserver -c", self.from);
                let value = format!("control/concurrencyincoming ({})", shown(&word.text));
                self.report.taken(format!("{} concurrency", self.name), from, value);
            }
            Some(word) => {
                if let Some(number) = self.number("tcpserver -c", word, 65000) {
                    self.set("concurrency", &number.to_string(), "tcpserver -c");
                }
            }
            None if file.exists() => {
                self.set("concurrency", &CONCURRENCY.to_string(), "tcpserver's own limit");
            }
            None => (),
        }
        match tcpserver.per_ip().filter(|_| !ssl) {
            Some(word) => {
                if let Some(number) = self.number("tcpserver -s", word, 65000) {
                    self.set("per_ip", &number.to_string(), "tcpserver -s");
                }
            }
            None => self.set("per_ip", "16", "mailtree; the old host had no limit of an address"),
        }
    }

    fn rules(&mut self, tcpserver: &Tcpserver, found: &mut Found) {
        let Some(word) = tcpserver.rules() else {
            self.report.own_rules = true;
            return self.set(
                "rules",
                &quoted("tcp.smtp.cdb"),
                "mailtree; tcpserver had no -x: all may connect, none relay",
            );
        };
        let Some(path) = word.known().filter(|path| path.starts_with('/')) else {
            return self
                .not_yet("tcpserver -x", &format!("`{}` is not known; set rules in host.ron", word.text));
        };
        let path = self.old.follow(&self.old.at(path));
        self.set("rules", &quoted(&path.to_string_lossy()), "tcpserver -x");
        if !found.rules.contains(&path) {
            found.rules.push(path);
        }
    }

    fn names(&mut self, tcpserver: &Tcpserver) {
        let (value, letter) = match tcpserver.names() {
            Names::Off => ("off", "tcpserver -H"),
            Names::On => ("on", "tcpserver -h"),
            Names::Paranoid => ("paranoid", "tcpserver -p"),
        };
        self.set("reverse_dns", value, letter);
    }

    fn rblsmtpd(&mut self) {
        let service = self.service;
        let mut words: Vec<String> = Vec::new();
        let mut lists = 0;
        let options = service.script.chain.iter().filter_map(|program| match &program.kind {
            Kind::Rblsmtpd(options) => Some(options),
            _ => None,
        });
        let options: Vec<&Letters> = options.collect();
        for (letter, value) in options.iter().flat_map(|options| options.iter()) {
            let mut option = vec![format!("-{letter}")];
            option.extend(value.map(|value| value.text.clone()));
            let unknown = value.is_some_and(|value| value.known().is_none());
            match Arguments::parse(&option) {
                Ok(_) if !unknown => {
                    lists += usize::from(letter == 'r');
                    words.extend(option);
                }
                Ok(_) => self.not_yet(&format!("rblsmtpd {}", option.join(" ")), "not known"),
                Err(error) => self.not_yet(&format!("rblsmtpd {}", option.join(" ")), &error.to_string()),
            }
        }
        if !words.is_empty() {
            self.set("rblsmtpd", &list(&words), "rblsmtpd");
        }
        if !options.is_empty() && lists == 0 {
            self.ignored(NO_LIST, "what rblsmtpd asks without -r; it is gone for years");
        }
    }

    /// The environment, AUTH and TLS.
    fn sessions(&mut self, wrapped: bool) {
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
        if let Some(stunnel) = &service.stunnel {
            let words = stunnel.program().into_iter().skip(1).map(Word::from);
            checkpassword = words.skip_while(|word| !word.text.starts_with('/')).collect();
        }
        let mut environment: Vec<(String, String)> = Vec::new();
        for (name, word) in &service.script.environment {
            match (toaster::variable(name), word.known()) {
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
        if !checkpassword.is_empty() && !has(&environment, "SMTPAUTH") && !says("SMTPAUTH") {
            // A qmail-smtpd that does not know the variable offers AUTH whenever it has a program to ask.
            environment.push(("SMTPAUTH".to_owned(), String::new()));
            argued = true;
        }
        if checkpassword.is_empty() && has(&environment, "SMTPAUTH") {
            environment.retain(|(name, _)| name != "SMTPAUTH");
            self.ignored("SMTPAUTH", "the script names no checkpassword program: nobody could log in");
        }
        if wrapped && !has(&environment, "SMTPS") {
            environment.push(("SMTPS".to_owned(), "1".to_owned()));
            from.push_str(", and TLS in front of qmail-smtpd");
            self.certificate();
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
        if offered.is_some_and(|value| value != "-") && !tls {
            self.set("auth_in_clear", "true", "AUTH without TLS, as before; better is false");
        }
        self.checkpassword(&checkpassword);
    }

    fn checkpassword(&mut self, words: &[Word]) {
        let Some(program) = words.first() else { return };
        if program.base() == "vchkpw" && !super::users::elsewhere(self.old) {
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

    /// The certificate of a TLS wrapper is not where qmail-smtpd's is.
    fn certificate(&mut self) {
        let variable =
            |name: &str| self.service.script.variable(name).and_then(Word::known).map(str::to_owned);
        let setting =
            |name: &str| self.service.stunnel.as_ref().and_then(|own| own.get(name)).map(str::to_owned);
        let cert = variable("CERTFILE").or_else(|| setting("cert"));
        let key = variable("KEYFILE").or_else(|| setting("key"));
        let own = self.old.control().join("servercert.pem");
        let Some(cert) = cert else { return };
        let cert = self.old.at(cert);
        if cert == own && key.is_none() {
            return;
        }
        let key = key.map(|key| format!("{} ", self.old.at(key).display())).unwrap_or_default();
        if own.exists() {
            let text = format!("certificate {}", cert.display());
            return self.ignored(&text, "there is one certificate for all services: control/servercert.pem");
        }
        let step =
            format!("cat {key}{} > {}   # key and certificate, for TLS", cert.display(), own.display());
        self.report.next(shown(&step));
    }

    /// What nothing here corresponds to.
    fn others(&mut self, tcpserver: &Tcpserver) {
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
                    let limits = limits.iter().map(|(letter, value)| {
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

/// A name for `host.ron` that nobody has.
fn field_name(name: &str, found: &Found) -> String {
    let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '_';
    let name: String = name.to_ascii_lowercase().chars().filter(|c| fits(*c)).take(24).collect();
    let name = name.trim_start_matches(['-', '_']);
    let reserved = ["svscan", "log", "resolver", "queue", "users", "send", "control", "metrics", ""];
    let name = if reserved.contains(&name) { format!("smtpd{name}") } else { name.to_owned() };
    let taken = |name: &str| found.services.iter().any(|service| service.name == name);
    let numbered = (2..).map(|n| format!("{name}-{n}"));
    std::iter::once(name.clone()).chain(numbered).find(|name| !taken(name)).unwrap_or_default()
}

/// The address of a stunnel that listens itself.
fn accepts(stunnel: &Stunnel) -> Tcpserver {
    let accept = stunnel.get("accept").unwrap_or_default();
    let (host, port) = accept.rsplit_once(':').unwrap_or(("0", accept));
    Tcpserver { host: host.into(), port: port.into(), ..Tcpserver::default() }
}

fn memmem(text: &[u8], wanted: &[u8]) -> bool {
    text.windows(wanted.len()).any(|window| window == wanted)
}

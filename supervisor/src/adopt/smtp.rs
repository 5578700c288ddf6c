//! A service of SMTP: what its run script becomes in `host.ron`.

mod others;
mod sessions;

use std::net::SocketAddr;
use std::path::PathBuf;

use mailtree_protocols::rblsmtpd::arguments::Arguments;
use mailtree_protocols::runscript::{Kind, Names, Options as Letters, Question, Stunnel, Tcpserver, Word};

use super::ron::{list, quoted};
use super::services::{Role, Service};
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
        self.report.taken(format!("{} {field}", self.name), format!("{}: {from}", self.from), shown(value));
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
}

/// A name for `host.ron` that nobody has.
fn field_name(name: &str, found: &Found) -> String {
    let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '_';
    let name: String = name.to_ascii_lowercase().chars().filter(|c| fits(*c)).take(24).collect();
    let name = name.trim_start_matches(['-', '_']);
    let reserved =
        ["svscan", "log", "resolver", "queue", "users", "send", "control", "inject", "metrics", ""];
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

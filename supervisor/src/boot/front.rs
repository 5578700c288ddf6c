//! What the SMTP sessions of a host share, made from its configuration. `explain` and `check` make it too, and start
//! nothing.

use std::path::Path;
use std::sync::{Arc, Mutex};

use mailtree_actors::cdb_files::CdbFiles;
use mailtree_actors::filter::rblsmtpd;
use mailtree_actors::permit::Permits;
use mailtree_actors::pool::Pool;
use mailtree_actors::program::{Limits, Program};
use mailtree_actors::queue::Queue;
use mailtree_actors::resolver::Resolver;
use mailtree_actors::service::StartError;
use mailtree_actors::simscan::{self, Rspamd, SpamScanner};
use mailtree_actors::smtpd::{self, Smtpd};
use mailtree_actors::tls::Tls;
use mailtree_actors::users::Users;
use mailtree_actors::vpopmail::Vpopmail;
use mailtree_config::Host;
use mailtree_config::control::Control;
use mailtree_config::host::{self, Programs, Scanner, Scanners};
use mailtree_config::regular;
use mailtree_protocols::auth::checkpassword::approver;
use mailtree_protocols::cdb::Cdb;
use mailtree_protocols::rblsmtpd::arguments::Arguments as Rblsmtpd;
use mailtree_protocols::simscan::log::Versions;

/// What all services of SMTP share over all their starts.
#[derive(Clone)]
pub(crate) struct Front {
    pub(crate) controls: Arc<Control>,
    pub(crate) resolver: Resolver,
    pub(crate) tls: Tls,
    pub(crate) users: Users,
    /// users/cdb and tcp.smtp.cdb.
    pub(crate) files: CdbFiles,
    queue: Queue,
    /// Messages scanned at once.
    scanning: Permits,
    /// Programs run at once.
    programs: Permits,
}

impl Front {
    pub(crate) fn new(host: &Host, queue: Queue) -> Self {
        let paths = host.paths();
        let controls = Arc::new(Control::new(&paths.control));
        let files = CdbFiles::default();
        Self {
            users: Users::new(
                Vpopmail::new(Arc::clone(&controls), files.clone(), paths.users.join("cdb"), paths.alias),
                Pool::new("users"),
            ),
            tls: Tls::new(Arc::clone(&controls)),
            controls,
            resolver: Resolver::new(host.resolver.in_flight, host.resolver.deadline),
            files,
            queue,
            scanning: Permits::new("scanners", host.scanners.at_once),
            programs: Permits::new("programs", host.programs.at_once),
        }
    }

    /// What the sessions of one service need.
    pub(crate) fn session(
        &self,
        service: &str,
        smtpd: &host::Smtpd,
        host: &Host,
    ) -> Result<Smtpd, StartError> {
        let rblsmtpd = Rblsmtpd::parse(&smtpd.rblsmtpd)
            .map_err(|error| StartError::Permanent(format!("services.{service}.rblsmtpd: {error}")))?;
        if let Some(approver) = approver_behind(&smtpd.checkpassword) {
            let text = format!(
                "services.{service}.checkpassword: leads to {approver}, which says yes to every password"
            );
            return Err(StartError::Permanent(text));
        }
        let Programs { deadline, memory, .. } = host.programs;
        let checkpassword = smtpd.checkpassword.split_first().map(|(program, arguments)| {
            Program::new(program).arguments(arguments).limits(Limits::memory(memory))
        });
        Ok(Smtpd {
            service: service.to_owned(),
            control: Arc::clone(&self.controls),
            queue: self.queue.clone(),
            resolver: self.resolver.clone(),
            tls: self.tls.clone(),
            users: self.users.clone(),
            recipients: smtpd.recipients,
            rules: host.resolve(&smtpd.rules),
            files: self.files.clone(),
            reverse_dns: smtpd.reverse_dns,
            rblsmtpd,
            environment: smtpd.environment.clone(),
            auth_in_clear: smtpd.auth_in_clear,
            hide_client: smtpd.hide_client,
            sender: smtpd.sender,
            checkpassword,
            simscan: scanners(&host.scanners, host),
            simcontrol: Mutex::default(),
            found: smtpd::Found::default(),
            scanning: self.scanning.clone(),
            programs: (self.programs.clone(), deadline),
            program_memory: memory,
        })
    }
}

/// The program that approves every password and that the first of these words is a link to. By its name such a program is
/// refused where `host.ron` is read.
pub(crate) fn approver_behind(checkpassword: &[String]) -> Option<String> {
    let (first, arguments) = checkpassword.split_first()?;
    let there = std::fs::canonicalize(first).ok()?.to_string_lossy().into_owned();
    let words: Vec<&str> =
        std::iter::once(there.as_str()).chain(arguments.iter().map(String::as_str)).collect();
    approver(&words)
}

/// What a host says about scanning.
pub(crate) fn scanners(scanners: &Scanners, host: &Host) -> simscan::Settings {
    let address = |scanner: &Scanner| match scanner {
        Scanner::Tcp(address) => simscan::Address::Tcp(*address),
        Scanner::Unix(path) => simscan::Address::Unix(path.clone()),
    };
    simscan::Settings {
        clamd: address(&scanners.clamd),
        spam: match &scanners.rspamd {
            Some(scanner) => SpamScanner::Rspamd(Rspamd {
                address: address(scanner),
                password: scanners.rspamd_password.as_ref().map(|path| host.resolve(path)),
            }),
            None => SpamScanner::Spamd(address(&scanners.spamd)),
        },
        deadline: scanners.deadline,
        fail_open: scanners.fail_open,
        drop: false,
        quarantine: scanners.quarantine.as_ref().map(|dir| host.resolve(dir)),
        mime_limit: simscan::MIME_LIMIT,
        versions: versions(&host.paths().control),
    }
}

/// Bytes of `simversions.cdb` that are read: 1 MiB.
const SIMVERSIONS_MAX: u64 = 1 << 20;

/// Ours, and what `control/simversions.cdb` says of the scanners.
fn versions(control: &Path) -> Versions {
    let own = env!("CARGO_PKG_VERSION");
    let read = regular::read(&control.join("simversions.cdb"), SIMVERSIONS_MAX);
    let cdb = read.ok().flatten().and_then(|bytes| Cdb::new(bytes).ok());
    match cdb {
        Some(cdb) => Versions::read(own, &cdb),
        None => Versions { simscan: own.to_owned(), ..Versions::default() },
    }
}

/// Asks every list of a service whether it works (RFC 5782 5), and logs what it says.
pub(crate) async fn test_lists(smtpd: Arc<Smtpd>) {
    smtpd.rblsmtpd.options.sources.iter().for_each(rblsmtpd::known);
    for source in &smtpd.rblsmtpd.options.sources {
        let verdict = rblsmtpd::test(source, &smtpd.resolver).await;
        let (service, base) = (&smtpd.service, source.shown());
        let works = metrics::gauge!("mailtree_rblsmtpd_list_works", "source" => base.clone());
        if verdict.works() {
            works.set(1.0);
            tracing::info!(service, base, "rblsmtpd: {base} works");
        } else {
            works.set(0.0);
            tracing::warn!(service, base, "rblsmtpd: warning: {base} {verdict}");
        }
    }
}

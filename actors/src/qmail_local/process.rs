//! A delivery in a process of its own, which has the rights of the user already and may wait: line by line, as qmail-local.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::time::Duration;

use jiff::Timestamp;
use mailtree_protocols::address;
use mailtree_protocols::lspawn::{Answer, Request};
use mailtree_protocols::qmail_local::{Ended, Envelope};
use mailtree_protocols::report::{Class, Report};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::program::{Limits, Run, Said};
use super::{Did, Home, Letter, Plan, QmailLocal, Step, mbox, sync};
use crate::queue::Body;

/// The directory of the classic programs, and the others.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What a delivery has come to.
pub(crate) struct Outcome {
    /// The address in Delivered-To.
    pub(crate) delivered_to: Vec<u8>,
    /// The reverse-path of what goes on.
    pub(crate) newsender: Vec<u8>,
    /// The addresses it goes on to.
    pub(crate) forwards: Vec<Vec<u8>>,
    /// What it said.
    pub(crate) said: Vec<u8>,
    /// What was done.
    pub(crate) did: Did,
}

impl Outcome {
    /// The answers, the last one a report.
    pub(crate) fn answers(self) -> Vec<Answer> {
        let text = [&*self.said, self.did.to_string().as_bytes()].concat();
        let mut answers = vec![Answer::DeliveredTo(self.delivered_to), Answer::Sender(self.newsender)];
        answers.extend(self.forwards.into_iter().map(Answer::Forward));
        answers.push(Answer::Report(Class::Success, text));
        answers
    }
}

/// Delivers. `waiting` hangs up when nobody waits for it any more.
pub(crate) fn deliver(
    local: &QmailLocal,
    limits: &Limits,
    request: &Request,
    home: &Home,
    message: File,
    waiting: BorrowedFd<'_>,
) -> Result<Outcome, Report> {
    let stdin = message.try_clone().map_err(super::unreadable_mess)?;
    let body = Body::file(message).map_err(super::unreadable_mess)?;
    let plan = local.plan(&request.recipient, &request.sender, home, &body)?;
    Delivery { local, limits, request, home, plan: &plan, body: &body, stdin: &stdin, waiting }.carry_out()
}

struct Delivery<'a> {
    local: &'a QmailLocal,
    limits: &'a Limits,
    request: &'a Request,
    home: &'a Home,
    plan: &'a Plan,
    body: &'a Body,
    stdin: &'a File,
    waiting: BorrowedFd<'a>,
}

impl Delivery<'_> {
    fn carry_out(&self) -> Result<Outcome, Report> {
        let envelope = self.envelope();
        let (ufline, rpline, dtline) = (envelope.ufline(), envelope.rpline(), envelope.dtline());
        let head = [&*rpline, &*dtline].concat();
        let &Request { id, birth, record, again, doubted, .. } = self.request;
        let letter = Letter { id, birth, record, again, doubted, head: &head, body: self.body };
        let mut environment = envelope.variables();
        environment.push(("PATH", PATH.into()));

        let (mut copies, mut counted, mut forwards) = (Vec::new(), Vec::new(), Vec::new());
        let (mut said, mut did) = (Said::default(), Did::default());
        for step in &self.plan.steps {
            did.count(step);
            match step {
                Step::Maildir(target) => {
                    let (copy, sum) = self.local.put_into_maildir(&letter, target, copies.len())?;
                    copies.push(copy);
                    counted.push(sum);
                }
                Step::Mbox(file) => {
                    mbox::append(file, &[&ufline, &rpline, &dtline], self.body, |time| self.rest(time))?;
                }
                Step::Program(command, directory) => {
                    let ended = self.program(command, directory, &environment, &mut said);
                    match ended.map_err(|report| with(&said, report))? {
                        Ended::Well => (),
                        Ended::Last => break,
                        Ended::Hard => return Err(with(&said, Report::failure(""))),
                        Ended::Soft => return Err(with(&said, Report::deferral(""))),
                    }
                }
                Step::Forward(to) => forwards.push(to.clone()),
                Step::Vdelivermail | Step::Vdelivered => (),
            }
        }
        sync(&copies, &counted, again)?;
        let Plan { delivered_to, newsender, .. } = self.plan;
        let (delivered_to, newsender) = (delivered_to.clone(), newsender.clone());
        Ok(Outcome { delivered_to, newsender, forwards, said: said.0, did })
    }

    fn envelope(&self) -> Envelope<'_> {
        use std::os::unix::ffi::OsStrExt;
        let (local, host) = address::split(&self.request.recipient);
        Envelope {
            sender: &self.request.sender,
            newsender: &self.plan.newsender,
            user: &self.home.user,
            home: self.home.dir.as_os_str().as_bytes(),
            local,
            host: host.unwrap_or_default(),
            ext: &self.home.ext,
            default: self.plan.default.as_deref(),
            delivered_to: &self.plan.delivered_to,
            now: Timestamp::now(),
        }
    }

    fn program(
        &self,
        command: &[u8],
        directory: &Path,
        environment: &[(&'static str, Vec<u8>)],
        said: &mut Said,
    ) -> Result<Ended, Report> {
        let run = Run {
            command,
            directory,
            environment,
            message: self.stdin,
            limits: self.limits,
            waiting: self.waiting.as_fd(),
        };
        run.run(said)
    }

    /// Rests; false if nobody waits for the delivery any more.
    fn rest(&self, time: Duration) -> bool {
        let mut fds = [PollFd::from_borrowed_fd(self.waiting, PollFlags::HUP)];
        poll(&mut fds, Timespec::try_from(time).ok().as_ref()).is_ok_and(|ready| ready == 0)
    }
}

/// What programs said comes before the report's own text.
fn with(said: &Said, mut report: Report) -> Report {
    let own = if report.text == "\n" { "" } else { &report.text };
    report.text = format!("{}{own}", String::from_utf8_lossy(&said.0));
    if !report.text.ends_with('\n') && !report.text.is_empty() {
        report.text.push('\n');
    }
    report
}

/// What cannot be read of a request: nothing was begun.
pub(crate) fn unread(error: io::Error) -> Report {
    Report::deferral(format!("Temporary failure in qmail-lspawn: {error}.\n"))
}

//! The process that delivers with the rights of users, as qmail-lspawn: `qmail-lspawn` in the list of processes.
//!
//! Two processes, each of which starts the other anew: the **guard** waits, the **spawner** takes requests and makes a process
//! for each. The guard asks the spawner four times a second whether it lives, and kills one that does not answer. A delivery
//! that has begun needs neither of them. All of them end when the host has gone.
//!
//! Neither looks into a request: that is done in the process made for it, which decides by files of root's whose rights it
//! takes, gives up its own for good, and then reads what the user wrote ([`super::drop_rights`]).

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use mailtree_protocols::lspawn::{Answer, MAX, Order};
use mailtree_protocols::report::{Class, Report};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{RecvFlags, SendFlags};
use rustix::process::{
    Pid, PidfdFlags, Signal, WaitOptions, kill_process, pidfd_open, pidfd_send_signal, set_child_subreaper,
    wait,
};

use super::drop_rights;
use super::fork::{Forked, close_on_exec, end, fork};
use super::packet::{pair, receive, send};
use super::settings::Settings;
use crate::qmail_local;

/// How often the guard asks, and how long an answer may take.
const ASK: Duration = Duration::from_millis(250);

/// Questions in a row without an answer: the spawner hangs.
const SILENT: u32 = 3;

/// Bytes of settings.
const MAX_SETTINGS: u64 = 1 << 20;

/// Deliveries at once; more wait in the socket.
const MAX_DELIVERIES: usize = 512;

/// A process that could not be started is not tried again before this.
const REST: Duration = Duration::from_millis(200);

/// What a delivery may take beside the time of its programs: locks and slow file systems.
const BESIDE: Duration = Duration::from_secs(120);

/// Runs guard and spawner until the host has gone. Standard input is the socket of the host; its first packet brings the
/// settings.
///
/// # Errors
/// When nobody who may has started this.
pub fn run() -> io::Result<()> {
    close_on_exec()?;
    let requests = io::stdin().as_fd().try_clone_to_owned()?;
    let null = File::open("/dev/null")?;
    rustix::stdio::dup2_stdin(&null)?;
    let mut buffer = [0; 64];
    let told = receive(&requests, &mut buffer, RecvFlags::empty())
        .map_err(|error| io::Error::new(error.kind(), format!("only a host starts this: {error}")))?;
    let Some((_, files)) = told else { return Ok(()) };
    let mut files = files.into_iter();
    let file = files.next().ok_or(io::ErrorKind::InvalidData)?;
    // Whoever starts the queue's next host waits for it.
    let lock = files.next();
    let mut text = Vec::new();
    File::from(file).take(MAX_SETTINGS).read_to_end(&mut text)?;
    let settings: Settings = serde_json::from_slice(&text)?;
    block_signals()?;
    set_child_subreaper(Some(rustix::process::getpid())).unwrap_or(());
    let ended = guard(&settings, requests, None);
    settings.queue.hand_back();
    drop(lock);
    ended
}

/// The signals that end a host are the host's: what it ends needs deliveries until then.
fn block_signals() -> io::Result<()> {
    use nix::sys::signal::{SigSet, Signal};
    let mut set = SigSet::empty();
    for signal in
        [Signal::SIGHUP, Signal::SIGINT, Signal::SIGQUIT, Signal::SIGTERM, Signal::SIGPIPE, Signal::SIGTSTP]
    {
        set.add(signal);
    }
    Ok(set.thread_block()?)
}

/// Keeps a spawner alive. One that is there already is `other`.
fn guard(settings: &Settings, requests: OwnedFd, other: Option<(OwnedFd, OwnedFd)>) -> io::Result<()> {
    name("lspawn-guard");
    let mut other = other;
    loop {
        let (pidfd, asking) = match other.take() {
            Some(other) => other,
            None => match start_spawner(settings, &requests) {
                Ok(started) => started,
                // No process and no descriptor for one: later.
                Err(_) if rest(&requests, REST) => continue,
                Err(_) => return Ok(()),
            },
        };
        let mut unanswered = 0;
        loop {
            if unanswered > 0 && is_over(&requests) {
                return Ok(());
            }
            let asked = send(&asking, b"?", &[], SendFlags::DONTWAIT);
            let answered = answered(&asking, &requests, ASK);
            match (asked, answered) {
                (_, Heard::Gone) => break,
                (_, Heard::Host) => return Ok(()),
                (_, Heard::Answer) => {
                    unanswered = 0;
                    if !rest_until(&requests, &asking, ASK) {
                        return Ok(());
                    }
                }
                (_, Heard::Nothing) => unanswered += 1,
            }
            if unanswered >= SILENT {
                pidfd_send_signal(&pidfd, Signal::KILL).unwrap_or(());
                break;
            }
        }
        reap();
    }
}

enum Heard {
    Answer,
    Nothing,
    /// The spawner has gone.
    Gone,
    /// The host has.
    Host,
}

fn answered(asking: &OwnedFd, requests: &OwnedFd, limit: Duration) -> Heard {
    let begun = Instant::now();
    loop {
        let left = limit.saturating_sub(begun.elapsed());
        let mut fds = [PollFd::new(asking, PollFlags::IN), PollFd::new(requests, PollFlags::HUP)];
        match poll(&mut fds, Some(&timespec(left))) {
            Err(_) => continue,
            Ok(0) => return Heard::Nothing,
            Ok(_) => (),
        }
        if !fds[1].revents().is_empty() {
            return Heard::Host;
        }
        let mut buffer = [0; 8];
        return match receive(asking, &mut buffer, RecvFlags::DONTWAIT) {
            Ok(Some(_)) => Heard::Answer,
            _ => Heard::Gone,
        };
    }
}

/// Rests; false when the host has gone. Ends early when the spawner has.
fn rest_until(requests: &OwnedFd, asking: &OwnedFd, time: Duration) -> bool {
    let mut fds = [PollFd::new(requests, PollFlags::HUP), PollFd::new(asking, PollFlags::HUP)];
    poll(&mut fds, Some(&timespec(time))).unwrap_or(0);
    fds[0].revents().is_empty()
}

fn rest(requests: &OwnedFd, time: Duration) -> bool {
    let mut fds = [PollFd::new(requests, PollFlags::HUP)];
    poll(&mut fds, Some(&timespec(time))).is_ok_and(|ready| ready == 0)
}

/// Whether the host has gone.
fn is_over(requests: &OwnedFd) -> bool {
    !rest(requests, Duration::ZERO)
}

fn timespec(time: Duration) -> Timespec {
    Timespec {
        tv_sec: i64::try_from(time.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: i64::from(time.subsec_nanos()),
    }
}

/// A spawner, as its guard holds it: what it is, and where it is asked.
fn start_spawner(settings: &Settings, requests: &OwnedFd) -> io::Result<(OwnedFd, OwnedFd)> {
    let (asking, asked) = pair()?;
    let requests = requests.try_clone()?;
    match fork()? {
        Forked::Child => {
            drop(asking);
            spawner(settings, requests, asked);
            end(0);
        }
        Forked::Parent(child) => Ok((pidfd_open(child, PidfdFlags::empty())?, asking)),
    }
}

/// What the spawner knows of a delivery's process.
struct Running {
    pidfd: OwnedFd,
    begun: Instant,
}

fn spawner(settings: &Settings, requests: OwnedFd, asked: OwnedFd) {
    name("lspawn");
    set_child_subreaper(Some(rustix::process::getpid())).unwrap_or(());
    let mut asked = Some(asked);
    let mut running: HashMap<Pid, Running> = HashMap::new();
    let lifetime = settings.limits.deadline + BESIDE;
    loop {
        let mut fds = vec![];
        let full = running.len() >= MAX_DELIVERIES;
        fds.push(PollFd::new(&requests, if full { PollFlags::HUP } else { PollFlags::IN }));
        if let Some(asked) = &asked {
            fds.push(PollFd::new(asked, PollFlags::IN));
        }
        fds.extend(running.values().map(|one| PollFd::new(&one.pidfd, PollFlags::IN)));
        let watch = (!running.is_empty() || asked.is_none()).then_some(timespec(Duration::from_secs(1)));
        if poll(&mut fds, watch.as_ref()).is_err() {
            continue;
        }
        let (ready, hangs_up) = (!fds[0].revents().is_empty(), fds[0].revents().contains(PollFlags::HUP));
        let question = asked.is_some() && !fds[1].revents().is_empty();
        drop(fds);
        for pid in reap() {
            running.remove(&pid);
        }
        for (pid, one) in &running {
            if one.begun.elapsed() > lifetime {
                kill_process(*pid, Signal::KILL).unwrap_or(());
            }
        }
        if question && asked.as_ref().is_some_and(|asked| !answer(asked)) {
            asked = None;
        }
        if asked.is_none() {
            asked = start_guard(settings, &requests);
        }
        if hangs_up {
            // Deliveries see it by themselves.
            return;
        }
        if !ready {
            continue;
        }
        let mut buffer = vec![0; MAX];
        let Ok(received) = receive(&requests, &mut buffer, RecvFlags::DONTWAIT) else { continue };
        let Some((length, files)) = received else { return };
        if buffer.first() != Some(&b'd') {
            small_order(settings, &buffer[..length], files);
            continue;
        }
        match fork() {
            Ok(Forked::Parent(child)) => {
                if let Ok(pidfd) = pidfd_open(child, PidfdFlags::empty()) {
                    running.insert(child, Running { pidfd, begun: Instant::now() });
                }
            }
            Ok(Forked::Child) => {
                drop((requests, asked, running));
                delivery(settings, &buffer[..length], files);
                end(0);
            }
            // Who asked hears it by the end of its socket.
            Err(_) => drop(files),
        }
    }
}

/// What takes no process of its own.
fn small_order(settings: &Settings, packet: &[u8], files: Vec<OwnedFd>) {
    let Ok([file, answers]) = <[OwnedFd; 2]>::try_from(files) else { return };
    let file = File::from(file);
    let done = match Order::decode(packet) {
        Ok(Order::Give(dir)) => settings.queue.give(&file, dir),
        Ok(Order::SetMtime(micros)) => settings.queue.set_mtime(&file, micros),
        Ok(Order::Deliver(_)) | Err(_) => Err(io::ErrorKind::InvalidData.into()),
    };
    let answer = match done {
        Ok(()) => Answer::Report(Class::Success, Vec::new()),
        Err(error) => Answer::Report(Class::Deferral, error.to_string().into_bytes()),
    };
    // Nobody is waited for.
    send(&answers, &answer.encode(), &[], SendFlags::DONTWAIT).unwrap_or(());
}

/// Answers the guard; false if there is none.
fn answer(asked: &OwnedFd) -> bool {
    let mut buffer = [0; 8];
    matches!(receive(asked, &mut buffer, RecvFlags::DONTWAIT), Ok(Some(_)))
        && send(asked, b"!", &[], SendFlags::DONTWAIT).is_ok()
}

/// A guard for this spawner in place of one that has gone.
fn start_guard(settings: &Settings, requests: &OwnedFd) -> Option<OwnedFd> {
    let (asking, asked) = pair().ok()?;
    let requests = requests.try_clone().ok()?;
    let spawner = pidfd_open(rustix::process::getpid(), PidfdFlags::empty()).ok()?;
    match fork().ok()? {
        Forked::Child => {
            drop(asked);
            drop(guard(settings, requests, Some((spawner, asking))));
            settings.queue.hand_back();
            end(0);
        }
        Forked::Parent(_) => Some(asked),
    }
}

/// Takes leave of every process that has ended.
fn reap() -> Vec<Pid> {
    let mut ended = Vec::new();
    while let Ok(Some((pid, _))) = wait(WaitOptions::NOHANG) {
        ended.push(pid);
    }
    ended
}

/// One delivery, in a process of its own.
fn delivery(settings: &Settings, packet: &[u8], files: Vec<OwnedFd>) {
    let Ok([message, answers]) = <[OwnedFd; 2]>::try_from(files) else { return };
    name("qmail-local");
    rustix::process::setsid().map(drop).unwrap_or(());
    let say = |answer: &Answer| send(&answers, &answer.encode(), &[], SendFlags::empty());
    // Nobody waits any more: nothing is begun.
    if say(&Answer::Begun).is_err() {
        return;
    }
    let request = match Order::decode(packet) {
        Ok(Order::Deliver(request)) => Ok(request),
        Ok(_) | Err(_) => Err(qmail_local::unread(io::ErrorKind::InvalidData.into())),
    };
    let outcome = request.and_then(|request| {
        let local = settings.qmail_local();
        let home = drop_rights::to_deliver(settings, &local, &request.recipient)?;
        qmail_local::deliver(&local, &settings.limits, &request, &home, message.into(), answers.as_fd())
    });
    let answers = match outcome {
        Ok(outcome) => outcome.answers(),
        Err(Report { class, text }) => vec![Answer::Report(class, text.into_bytes())],
    };
    for answer in answers {
        if say(&answer).is_err() {
            return;
        }
    }
}

/// As the list of processes shows this one.
fn name(name: &str) {
    if let Ok(name) = std::ffi::CString::new(name) {
        rustix::thread::set_name(&name).unwrap_or(());
    }
}

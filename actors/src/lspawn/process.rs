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
    let held = Held { requests, _lock: files.next() };
    let mut text = Vec::new();
    File::from(file).take(MAX_SETTINGS).read_to_end(&mut text)?;
    let settings: Settings = serde_json::from_slice(&text)?;
    block_signals()?;
    set_child_subreaper(Some(rustix::process::getpid())).unwrap_or(());
    guard(&settings, held, None);
    Ok(())
}

/// What guard and spawner hold as long as they live, and no delivery.
struct Held {
    requests: OwnedFd,
    /// The queue's, where that is handed back at the end: whoever starts its next host waits for it.
    _lock: Option<OwnedFd>,
}

/// A spawner, as its guard sees it.
struct Watched {
    pidfd: OwnedFd,
    asking: OwnedFd,
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

/// Keeps a spawner alive, and hands the queue back when the host has gone. A spawner that is there already is `watched`.
fn guard(settings: &Settings, held: Held, mut watched: Option<Watched>) {
    name("lspawn-guard");
    loop {
        match watched.take() {
            Some(spawner) if watch(&held.requests, &spawner) => reap().clear(),
            Some(_) => break,
            None => match pair().and_then(|(asking, asked)| Ok((fork()?, asking, asked))) {
                Ok((Forked::Child, asking, asked)) => {
                    drop(asking);
                    spawner(settings, held, asked);
                    end(0);
                }
                Ok((Forked::Parent(child), asking, _)) => {
                    watched =
                        pidfd_open(child, PidfdFlags::empty()).ok().map(|pidfd| Watched { pidfd, asking });
                }
                // No process and no descriptor for one: later.
                Err(_) if matches!(hear(&held.requests, None, REST), Heard::Nothing) => (),
                Err(_) => break,
            },
        }
    }
    settings.queue.hand_back();
}

/// Asks a spawner whether it lives until it has gone, and sees to it that it has when it does not answer: true. False: the host
/// has gone.
fn watch(requests: &OwnedFd, spawner: &Watched) -> bool {
    let mut unanswered = 0;
    while unanswered < SILENT {
        // One that has gone, or has many questions before it, is heard of below.
        send(&spawner.asking, b"?", &[], SendFlags::DONTWAIT).unwrap_or(());
        match hear(requests, Some(&spawner.asking), ASK) {
            Heard::Answer => unanswered = 0,
            Heard::Nothing => unanswered += 1,
            Heard::Gone => return true,
            Heard::Host => return false,
        }
        if unanswered == 0 {
            match hear(requests, Some(&spawner.asking), ASK) {
                Heard::Gone => return true,
                Heard::Host => return false,
                Heard::Answer | Heard::Nothing => (),
            }
        }
    }
    pidfd_send_signal(&spawner.pidfd, Signal::KILL).unwrap_or(());
    true
}

enum Heard {
    Answer,
    Nothing,
    /// The spawner has gone.
    Gone,
    /// The host has.
    Host,
}

/// Waits for the answer of a spawner, if one is asked, and for the end of the host.
fn hear(requests: &OwnedFd, asking: Option<&OwnedFd>, limit: Duration) -> Heard {
    let begun = Instant::now();
    loop {
        let mut fds = vec![PollFd::new(requests, PollFlags::HUP)];
        fds.extend(asking.map(|asking| PollFd::new(asking, PollFlags::IN)));
        match poll(&mut fds, timespec(limit.saturating_sub(begun.elapsed())).as_ref()) {
            Err(_) => continue,
            Ok(0) => return Heard::Nothing,
            Ok(_) if !fds[0].revents().is_empty() => return Heard::Host,
            Ok(_) => (),
        }
        let mut buffer = [0; 8];
        return match asking.map(|asking| receive(asking, &mut buffer, RecvFlags::DONTWAIT)) {
            Some(Ok(Some(_))) => Heard::Answer,
            _ => Heard::Gone,
        };
    }
}

fn timespec(time: Duration) -> Option<Timespec> {
    Timespec::try_from(time).ok()
}

/// What the spawner knows of a delivery's process.
struct Running {
    pidfd: OwnedFd,
    begun: Instant,
}

fn spawner(settings: &Settings, held: Held, asked: OwnedFd) {
    name("lspawn");
    set_child_subreaper(Some(rustix::process::getpid())).unwrap_or(());
    let mut asked = Some(asked);
    let mut running: HashMap<Pid, Running> = HashMap::new();
    let lifetime = settings.limits.deadline + BESIDE;
    loop {
        let mut fds = vec![];
        let full = running.len() >= MAX_DELIVERIES;
        fds.push(PollFd::new(&held.requests, if full { PollFlags::HUP } else { PollFlags::IN }));
        if let Some(asked) = &asked {
            fds.push(PollFd::new(asked, PollFlags::IN));
        }
        fds.extend(running.values().map(|one| PollFd::new(&one.pidfd, PollFlags::IN)));
        let watched = !running.is_empty() || asked.is_none();
        let limit = if watched { timespec(Duration::from_secs(1)) } else { None };
        if poll(&mut fds, limit.as_ref()).is_err() {
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
        if asked.is_none()
            && let Ok((asking, answers)) = pair()
            && let Ok(pidfd) = pidfd_open(rustix::process::getpid(), PidfdFlags::empty())
        {
            match fork() {
                Ok(Forked::Child) => {
                    drop((answers, running));
                    guard(settings, held, Some(Watched { pidfd, asking }));
                    end(0);
                }
                Ok(Forked::Parent(_)) => asked = Some(answers),
                Err(_) => (),
            }
        }
        if hangs_up {
            // Deliveries see it by themselves.
            return;
        }
        if !ready {
            continue;
        }
        let mut buffer = vec![0; MAX];
        let Ok(received) = receive(&held.requests, &mut buffer, RecvFlags::DONTWAIT) else { continue };
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
                drop((held, asked, running));
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

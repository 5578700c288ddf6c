use std::collections::BTreeSet;
use std::io::Read;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use tracing::field::{Field, Visit};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};

use super::*;

const LONG: Duration = Duration::from_secs(20);

fn sh(script: &str) -> Program {
    Program::new("/bin/sh").arguments(["-c", script])
}

/// What descriptor 1 got, and the result.
async fn said(
    program: &Program,
    environment: &Environment,
    deadline: Duration,
) -> (String, Result<ExitStatus, Failure>) {
    let mut file = memory(b"").unwrap();
    let copy = file.try_clone().unwrap().into();
    let result = program.run(environment, vec![FdMapping { parent_fd: copy, child_fd: 1 }], deadline).await;
    let mut text = String::new();
    file.rewind().unwrap();
    file.read_to_string(&mut text).unwrap();
    (text, result)
}

/// Waits until the process has ended; a zombie has, but only what a parent elsewhere should reap may stay one.
async fn gone(pid: &str, reaped: bool) {
    let begin = Instant::now();
    loop {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let state = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
        if state.is_empty() || (!reaped && state.starts_with(" Z")) {
            return;
        }
        assert!(begin.elapsed() < Duration::from_secs(5), "process {pid} is still there:{state}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn the_environment_is_what_is_given_and_a_path() {
    let given =
        [("TCPREMOTEIP", "192.0.2.1"), ("ODD", "$(reboot) `x`\n=y")].map(|(n, v)| (n.into(), v.into()));
    let program = Program::new("/usr/bin/env").arguments(["-0"]);
    let (text, _) = said(&program, &given, LONG).await;
    let seen: BTreeSet<&str> = text.split_terminator('\0').filter(|v| !v.starts_with("_=")).collect();
    let path = format!("PATH={}", std::env::var("PATH").unwrap());
    assert_eq!(seen, BTreeSet::from(["TCPREMOTEIP=192.0.2.1", "ODD=$(reboot) `x`\n=y", &path]));

    let given = [("PATH".into(), "/elsewhere".into())];
    let (text, _) = said(&program, &given, LONG).await;
    assert!(text.split('\0').any(|v| v == "PATH=/elsewhere"), "{text}");
}

#[tokio::test]
async fn the_program_sees_no_descriptors_but_its_own() {
    let _held = (std::net::TcpListener::bind("127.0.0.1:0").unwrap(), File::open("/dev/null").unwrap());
    // Whoever started this process may have left it descriptors that it did not open.
    let inherited = std::fs::read_dir("/proc/self/fdinfo").unwrap().filter_map(|entry| {
        let entry = entry.unwrap();
        let info = std::fs::read_to_string(entry.path()).ok()?;
        let flags = info.lines().find_map(|line| line.strip_prefix("flags:"))?.trim();
        let closed = u32::from_str_radix(flags, 8).unwrap() & 0o2_000_000 != 0;
        if closed { None } else { entry.file_name().into_string().ok() }
    });
    let mut expected: BTreeSet<String> = inherited.collect();
    expected.extend(["0", "1", "2", "6"].map(str::to_owned));

    let mut file = memory(b"").unwrap();
    let descriptors = vec![
        FdMapping { parent_fd: file.try_clone().unwrap().into(), child_fd: 1 },
        FdMapping { parent_fd: File::open("/dev/null").unwrap().into(), child_fd: 6 },
    ];
    // The shell's own list of its descriptors, without the one it lists by.
    let script = "for fd in /proc/$$/fd/*; do test -e \"$fd\" && echo \"${fd##*/}\"; done";
    sh(script).run(&[], descriptors, LONG).await.unwrap();
    let mut text = String::new();
    file.rewind().unwrap();
    file.read_to_string(&mut text).unwrap();
    assert_eq!(text.lines().map(str::to_owned).collect::<BTreeSet<_>>(), expected);
}

#[tokio::test]
async fn limits_arguments_and_directory_are_as_given() {
    let limits = Limits { address_space: 1 << 30, cpu: 17, file_size: 1 << 20, open_files: 33 };
    let script = "ulimit -H -c; ulimit -H -v; ulimit -t; ulimit -f; ulimit -n; pwd; echo \"$1\"";
    let program = Program::new("/bin/sh").arguments(["-c", script, "sh", "a b;'\""]).directory("/usr/bin");
    let (text, result) = said(&program.limits(limits), &[], LONG).await;
    assert_eq!(text, "0\n1048576\n17\n2048\n33\n/usr/bin\na b;'\"\n");
    assert!(result.unwrap().success());
    let endless =
        Limits { address_space: u64::MAX, cpu: u64::MAX, file_size: u64::MAX, open_files: u64::MAX };
    assert!(Program::new("true").limits(endless).run(&[], vec![], LONG).await.unwrap().success());
}

#[tokio::test]
async fn a_program_that_hangs_dies_with_its_children() {
    for trap in ["", "trap '' TERM; "] {
        let begin = Instant::now();
        let program = sh(&format!("{trap}sleep 1000 & echo $! $$; while :; do wait; done"));
        let (pids, result) = said(&program, &[], Duration::from_millis(300)).await;
        let allowed = Duration::from_millis(300);
        assert_eq!(result, Err(Failure::Deadline { program: "/bin/sh".into(), allowed }));
        assert!(begin.elapsed() < allowed + 2 * GRACE);
        let (child, leader) = pids.trim().split_once(' ').unwrap();
        gone(leader, true).await;
        gone(child, false).await;
    }
}

#[tokio::test]
async fn what_a_program_leaves_behind_dies() {
    let (pid, result) = said(&sh("sleep 1000 & echo $!; exit 3"), &[], LONG).await;
    assert_eq!(result.unwrap().code(), Some(3));
    gone(pid.trim(), false).await;
}

#[tokio::test]
async fn a_dropped_future_leaves_no_process() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("pids");
    let program = sh("sleep 1000 & echo $! $$ >pids.new; mv pids.new pids; wait").directory(dir.path());
    let task = tokio::spawn(async move { program.run(&[], vec![], LONG).await });
    while !file.exists() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    task.abort();
    assert!(task.await.unwrap_err().is_cancelled());
    let pids = std::fs::read_to_string(file).unwrap();
    let (child, leader) = pids.trim().split_once(' ').unwrap();
    gone(leader, true).await;
    gone(child, false).await;
}

/// Collects the messages of this thread's events.
#[derive(Clone, Default)]
struct Heard(Arc<Mutex<Vec<String>>>);

impl<S: tracing::Subscriber> Layer<S> for Heard {
    fn on_event(&self, event: &tracing::Event<'_>, _: Context<'_, S>) {
        struct Message(String);
        impl Visit for Message {
            fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
                if field.name() == "message" {
                    self.0 = format!("{value:?}");
                }
            }
        }
        let mut message = Message(String::new());
        event.record(&mut message);
        self.0.lock().unwrap().push(message.0);
    }
}

#[tokio::test]
async fn a_flood_is_read_and_cut() {
    let heard = Heard::default();
    let _guard = tracing::subscriber::set_default(tracing_subscriber::registry().with(heard.clone()));
    let script = "echo out; echo err >&2; yes | head -n 1000000 >&2; printf last; exit 7";
    let status = sh(script).run(&[], vec![], LONG).await.unwrap();
    assert_eq!(status.code(), Some(7));
    let lines = heard.0.lock().unwrap();
    let lines: Vec<&str> = lines.iter().map(String::as_str).filter(|line| !line.is_empty()).collect();
    assert_eq!(lines[..3], ["out", "err", "y"]);
    assert_eq!(lines.last(), Some(&"/bin/sh: 999903 more lines are not logged"));
    assert_eq!(lines.len(), 101);
}

#[tokio::test]
async fn a_line_without_end_is_cut_into_lines() {
    let heard = Heard::default();
    let _guard = tracing::subscriber::set_default(tracing_subscriber::registry().with(heard.clone()));
    sh("yes x | tr -d '\\n' | head -c 2500").run(&[], vec![], LONG).await.unwrap();
    let lengths: Vec<usize> =
        heard.0.lock().unwrap().iter().map(String::len).filter(|len| *len > 0).collect();
    assert_eq!(lengths, [1000, 1000, 500]);
}

#[tokio::test]
async fn what_cannot_start_says_so() {
    let missing = Program::new("/bin/true").directory("/nonexistent").run(&[], vec![], LONG).await;
    assert!(matches!(missing, Err(Failure::Start { .. })), "{missing:?}");
    let twice = ["/dev/null", "/dev/null"]
        .map(|path| FdMapping { parent_fd: File::open(path).unwrap().into(), child_fd: 5 });
    let collision = Program::new("/bin/true").run(&[], twice.into(), LONG).await;
    assert!(matches!(collision, Err(Failure::Start { .. })), "{collision:?}");
    let status = Program::new("/nonexistent").run(&[], vec![], LONG).await.unwrap();
    assert_eq!(status.code(), Some(127));
}

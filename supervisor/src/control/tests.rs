//! The socket from outside, on a real tree.

use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use ractor::concurrency::JoinHandle;
use serde_json::json;

use super::*;
use crate::notify::Manager;
use crate::signals::{Ending, Signals};
use crate::status::Phase;
use crate::svscan::{Options, Tree};

const DEADLINE: Duration = Duration::from_secs(20);

struct Host {
    home: tempfile::TempDir,
    tree: Tree,
    ended: JoinHandle<()>,
}

impl Host {
    async fn up(chaos: bool) -> Self {
        Self::up_in(tempfile::tempdir().unwrap(), chaos).await
    }

    async fn up_in(home: tempfile::TempDir, chaos: bool) -> Self {
        std::fs::create_dir_all(home.path().join("run")).unwrap();
        let tree = Tree::default();
        let queue: Queue = Arc::new(|request| Box::pin(async move { json!({ "asked": request }) }));
        let control = service(home.path().to_owned(), tree.clone(), queue);
        let ended = tree.grow(vec![control], Options { chaos, ..Options::default() }).await.unwrap();
        let rows = tree.ready(DEADLINE).await.unwrap();
        assert_eq!(rows[0].state, Phase::Up, "{:?}", rows[0].reason);
        Self { home, tree, ended }
    }

    fn socket(&self) -> std::path::PathBuf {
        self.home.path().join("run/control.sock")
    }

    async fn ask(&self, request: Request) -> Result<Reply, AskError> {
        let home = self.home.path().to_owned();
        tokio::task::spawn_blocking(move || ask(&home, &request)).await.unwrap()
    }

    async fn raw(&self, request: Vec<u8>) -> String {
        let socket = self.socket();
        tokio::task::spawn_blocking(move || raw(&socket, &request)).await.unwrap()
    }
}

fn raw(socket: &Path, request: &[u8]) -> String {
    let mut stream = UnixStream::connect(socket).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    stream.write_all(request).unwrap();
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    let mut reply = String::new();
    stream.read_to_string(&mut reply).unwrap();
    reply
}

fn svc(service: &str, letters: &str) -> Request {
    Request::Svc { service: service.to_owned(), letters: letters.to_owned() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn questions_and_answers() {
    let host = Host::up(false).await;
    assert_eq!(host.ask(svc("control", "h")).await.unwrap(), Reply::Done);
    assert_eq!(host.ask(svc("ftpd", "h")).await.unwrap(), Reply::Refused(Refusal::Unknown));
    assert!(
        matches!(host.ask(svc("control", "z")).await.unwrap(), Reply::Error(usage) if usage.starts_with("svc options:"))
    );
    let Reply::Services { pid, rows } = host.ask(Request::Svstat {}).await.unwrap() else {
        panic!("no rows")
    };
    assert_eq!(pid, std::process::id());
    assert_eq!(rows.iter().map(|row| row.service.as_str()).collect::<Vec<_>>(), ["control"]);
    let svok = |service: &str| Request::Svok { service: service.to_owned() };
    assert_eq!(host.ask(svok("control")).await.unwrap(), Reply::Done);
    assert_eq!(host.ask(svok("ftpd")).await.unwrap(), Reply::Refused(Refusal::Unknown));
    let chaos = Request::Chaos { service: "control".to_owned(), supervise: false };
    assert_eq!(host.ask(chaos).await.unwrap(), Reply::Refused(Refusal::NoChaos));
    let queue = Request::Queue(json!({ "list": {} }));
    assert_eq!(host.ask(queue).await.unwrap(), Reply::Queue(json!({ "asked": { "list": {} } })));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn socket_is_for_its_owner_alone_and_leaves_nothing_else_behind() {
    let host = Host::up(false).await;
    assert_eq!(std::fs::metadata(host.socket()).unwrap().permissions().mode() & 0o777, 0o600);
    let names: Vec<_> = std::fs::read_dir(host.home.path().join("run"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    assert_eq!(names, ["control.sock"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stop_of_the_socket_itself_is_answered() {
    let host = Host::up(false).await;
    for nth in 1..=5 {
        assert_eq!(host.ask(svc("control", "t")).await.unwrap(), Reply::Done);
        let end = tokio::time::Instant::now() + DEADLINE;
        while host.tree.rows().await.unwrap()[0].restarts < nth {
            assert!(tokio::time::Instant::now() < end, "control did not come back");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_requests_get_an_answer_and_do_no_harm() {
    let host = Host::up(false).await;
    for (request, answer) in [
        (b"\n".to_vec(), "bad request"),
        (b"hello\n".to_vec(), "bad request"),
        (b"\xff\xfe\n".to_vec(), "bad request"),
        (b"{\"svc\":{\"service\":\"control\",\"letters\":\"t\",\"more\":1}}\n".to_vec(), "unknown field"),
        (b"{\"reboot\":{}}\n".to_vec(), "unknown variant"),
        (b"{\"svstat\":{}}".to_vec(), "does not end with a newline"),
        (b"".to_vec(), "does not end with a newline"),
        (vec![b'['; MAX_REQUEST], "does not end with a newline"),
        ([vec![b'['; MAX_REQUEST - 1], b"\n".to_vec()].concat(), "bad request"),
        (vec![b'['; MAX_REQUEST + 1], "request longer than 65536 bytes"),
    ] {
        let reply = host.raw(request.clone()).await;
        assert!(
            reply.contains(answer) && reply.ends_with('\n'),
            "{}: {reply}",
            request[..request.len().min(40)].escape_ascii()
        );
    }
    assert_eq!(host.tree.rows().await.unwrap()[0].restarts, 0);
    assert!(host.raw(b"{\"svstat\":{}}\n".to_vec()).await.starts_with("{\"services\":{\"pid\":"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_that_say_nothing_hold_up_nobody() {
    let host = Host::up(false).await;
    let silent: Vec<_> = (0..100).map(|_| UnixStream::connect(host.socket()).unwrap()).collect();
    assert!(matches!(host.ask(Request::Svstat {}).await, Ok(Reply::Services { .. })));
    // None of them had to end for that.
    for stream in &silent {
        stream.set_nonblocking(true).unwrap();
    }
    let ended = silent
        .iter()
        .filter(|stream| {
            let mut stream: &UnixStream = stream;
            stream.read(&mut [0]).is_ok()
        })
        .count();
    assert_eq!(ended, 0);
    for mut stream in silent {
        stream.set_nonblocking(false).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        let mut said = String::new();
        stream.read_to_string(&mut said).unwrap();
        assert_eq!(said, "{\"error\":\"no request within 2 s\"}\n");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_that_is_killed_hands_its_socket_over() {
    let host = Host::up(false).await;
    let inode = || std::os::unix::fs::MetadataExt::ino(&std::fs::metadata(host.socket()).unwrap());
    let first = inode();
    for nth in 1..=3 {
        assert!(matches!(
            host.tree.svc("control", vec![mailtree_protocols::svc::Letter::Kill]).await,
            Ok(Ok(()))
        ));
        let end = tokio::time::Instant::now() + DEADLINE;
        loop {
            let row = host.tree.rows().await.unwrap().remove(0);
            if row.restarts == nth && row.state == Phase::Up {
                break;
            }
            // A start that found the old socket in its way would say so.
            assert!(row.reason.as_deref().is_none_or(|reason| reason == "killed"), "{row:?}");
            assert!(tokio::time::Instant::now() < end, "control did not come back");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        assert_eq!(inode(), first);
    }
    // One whose name was removed is bound anew.
    std::fs::remove_file(host.socket()).unwrap();
    assert!(matches!(
        host.tree.svc("control", vec![mailtree_protocols::svc::Letter::Kill]).await,
        Ok(Ok(()))
    ));
    let end = tokio::time::Instant::now() + DEADLINE;
    while !matches!(host.ask(Request::Svstat {}).await, Ok(Reply::Services { .. })) {
        assert!(tokio::time::Instant::now() < end, "control did not come back");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_that_say_nothing_end_with_the_service() {
    let host = Host::up(true).await;
    let silent: Vec<_> = (0..40).map(|_| UnixStream::connect(host.socket()).unwrap()).collect();
    assert!(matches!(
        host.tree.svc("control", vec![mailtree_protocols::svc::Letter::Kill]).await,
        Ok(Ok(()))
    ));
    for mut stream in silent {
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        // Those that were not accepted yet are served by the next one.
        let mut said = String::new();
        let ended = stream.read_to_string(&mut said);
        assert!(ended.is_err() || said.is_empty() || said.starts_with("{\"error\":\"no request"), "{said}");
    }
    let end = tokio::time::Instant::now() + DEADLINE;
    while !matches!(host.ask(Request::Svstat {}).await, Ok(Reply::Services { .. })) {
        assert!(tokio::time::Instant::now() < end, "control did not come back");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(host.tree.rows().await.unwrap()[0].restarts, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn socket_of_a_dead_host_is_replaced_and_of_a_living_one_is_not() {
    let host = Host::up(false).await;
    let second = Tree::default();
    let queue: Queue = Arc::new(|request| Box::pin(async move { request }));
    let _ended = second
        .grow(vec![service(host.home.path().to_owned(), second.clone(), queue)], Options::default())
        .await
        .unwrap();
    let row = second.ready(DEADLINE).await.unwrap().remove(0);
    assert_eq!(row.state, Phase::Waiting);
    assert!(row.reason.unwrap().ends_with("run/control.sock: somebody answers there"));
    assert!(second.kill());

    let Host { home, tree, ended } = host;
    assert!(tree.stop());
    tokio::time::timeout(DEADLINE, ended).await.unwrap().unwrap();
    assert!(matches!(ask(home.path(), &Request::Svstat {}), Err(AskError::NotRunning(_))));
    let host = Host::up_in(home, false).await;
    assert!(matches!(host.ask(Request::Svstat {}).await, Ok(Reply::Services { .. })));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn home_may_have_a_longer_path_than_a_socket() {
    let home = tempfile::Builder::new().prefix(&"x".repeat(120)).tempdir().unwrap();
    let host = Host::up_in(home, false).await;
    assert!(matches!(host.ask(Request::Svstat {}).await, Ok(Reply::Services { .. })));
}

#[test]
fn host_that_is_down_is_not_running() {
    let home = tempfile::tempdir().unwrap();
    assert!(matches!(ask(home.path(), &Request::Svstat {}), Err(AskError::NotRunning(_))));
    assert!(matches!(ask(&home.path().join("gone"), &Request::Svstat {}), Err(AskError::NotRunning(_))));
    let long = Request::Queue(json!("x".repeat(MAX_REQUEST)));
    assert!(matches!(ask(home.path(), &long), Err(AskError::TooLong(_))));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn signals_hup_and_then_term() {
    use rustix::process::{Signal, getpid, kill_process};
    let signals = Signals::install().unwrap();
    let Host { home: _home, tree, ended } = Host::up(false).await;
    assert!(matches!(tree.svc("control", mailtree_protocols::svc::letters("dx").unwrap()).await, Ok(Ok(()))));
    let phase = async || tree.rows().await.map(|rows| rows[0].state);
    let end = tokio::time::Instant::now() + DEADLINE;
    while phase().await != Ok(Phase::Left) {
        assert!(tokio::time::Instant::now() < end, "control did not leave");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    let passed = tokio::spawn({
        let tree = tree.clone();
        async move { signals.pass_on(&tree, "send", ended, &Manager::default()).await }
    });
    // ALRM is for a service this host does not have; HUP brings back what left.
    kill_process(getpid(), Signal::ALARM).unwrap();
    kill_process(getpid(), Signal::HUP).unwrap();
    while phase().await != Ok(Phase::Up) {
        assert!(tokio::time::Instant::now() < end, "HUP did not bring it back");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    kill_process(getpid(), Signal::TERM).unwrap();
    let ending = tokio::time::timeout(DEADLINE, passed).await.unwrap().unwrap();
    assert_eq!((ending, ending.exit_code()), (Ending::Stopped, 0));
}

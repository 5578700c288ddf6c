//! The tree with real actors. Times are a fiftieth of the real ones; each wait is for a condition.

use std::fmt::Write as _;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use mailtree_actors::service::{Control, StartError, Started};
use ractor::{Actor, ActorCell, ActorProcessingErr, ActorRef, SupervisionEvent};
use tokio::sync::Notify;

use super::*;
use crate::status::{Phase, Wish};

const DEADLINE: Duration = Duration::from_secs(20);

fn limits() -> Limits {
    Limits {
        apart: Duration::from_millis(20),
        step: Duration::from_millis(20),
        window: Duration::from_secs(60),
        rest: Duration::from_secs(3600),
        long_rest: Duration::from_secs(3600),
        ..Limits::default()
    }
}

async fn wait_until(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let end = tokio::time::Instant::now() + DEADLINE;
    while !condition().await {
        assert!(tokio::time::Instant::now() < end, "not within {DEADLINE:?}: {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// What becomes of a start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Lives,
    FailsInPreStart,
    PanicsInPreStart,
    FailsInPostStart,
    PanicsInPostStart,
    PanicsBeforeItsActor,
    HangsInPreStart,
    HangsAfterItsActor,
    DiesBeforeItIsReported,
    IsMisconfigured,
}

enum Word {
    Heard(Control),
    Fail,
    Panic,
    Stop,
    /// Has a child.
    Bear,
    /// Does not come back from its handler.
    Hang,
}

impl From<Control> for Word {
    fn from(control: Control) -> Self {
        Self::Heard(control)
    }
}

/// A service whose fate is scripted and which counts itself.
struct Probe {
    name: &'static str,
    fate: Box<dyn Fn(usize) -> Fate + Send + Sync>,
    starts: AtomicUsize,
    living: AtomicUsize,
    most_living: AtomicUsize,
    wire: Wire<Word>,
    diary: Diary,
    gate: Option<Notify>,
}

#[derive(Clone, Default)]
struct Diary(Arc<Mutex<String>>);

impl Diary {
    fn write(&self, name: &str, entry: &str) {
        write!(self.0.lock().unwrap(), "{name}:{entry} ").unwrap();
    }

    fn read(&self) -> String {
        self.0.lock().unwrap().trim_end().to_owned()
    }
}

/// One life of a probe's actor; counted until its state is dropped.
struct Life(Arc<Probe>);

impl Life {
    fn of(probe: Arc<Probe>) -> Self {
        let living = probe.living.fetch_add(1, SeqCst) + 1;
        probe.most_living.fetch_max(living, SeqCst);
        Self(probe)
    }
}

impl Drop for Life {
    fn drop(&mut self) {
        self.0.living.fetch_sub(1, SeqCst);
    }
}

struct Body(Fate);

impl Actor for Body {
    type Msg = Word;
    type State = Life;
    type Arguments = Arc<Probe>;

    async fn pre_start(&self, _: ActorRef<Word>, probe: Arc<Probe>) -> Result<Life, ActorProcessingErr> {
        let life = Life::of(probe);
        match self.0 {
            Fate::FailsInPreStart => Err("no bind".into()),
            Fate::PanicsInPreStart => panic!("pre_start panicked"),
            Fate::IsMisconfigured => Err(StartError::Permanent("no such file".to_owned()).into()),
            Fate::HangsInPreStart => std::future::pending().await,
            _ => Ok(life),
        }
    }

    async fn post_start(&self, _: ActorRef<Word>, _: &mut Life) -> Result<(), ActorProcessingErr> {
        match self.0 {
            Fate::FailsInPostStart => Err("post_start failed".into()),
            Fate::PanicsInPostStart => panic!("post_start panicked"),
            _ => Ok(()),
        }
    }

    async fn handle(
        &self,
        myself: ActorRef<Word>,
        word: Word,
        life: &mut Life,
    ) -> Result<(), ActorProcessingErr> {
        match word {
            Word::Heard(control) => life.0.diary.write(life.0.name, &format!("{control:?}")),
            Word::Fail => return Err("handler\nfailed".into()),
            Word::Panic => panic!("handler panicked"),
            Word::Stop => myself.stop(None),
            Word::Bear => {
                Self::spawn_linked(None, Self(Fate::Lives), Arc::clone(&life.0), myself.get_cell()).await?;
            }
            Word::Hang => {
                life.0.diary.write(life.0.name, "hangs");
                std::future::pending::<()>().await;
            }
        }
        Ok(())
    }

    async fn handle_supervisor_evt(
        &self,
        _: ActorRef<Word>,
        _: SupervisionEvent,
        _: &mut Life,
    ) -> Result<(), ActorProcessingErr> {
        Ok(())
    }

    async fn post_stop(&self, _: ActorRef<Word>, life: &mut Life) -> Result<(), ActorProcessingErr> {
        life.0.diary.write(life.0.name, "post_stop");
        Ok(())
    }
}

impl Probe {
    fn new(name: &'static str, fate: impl Fn(usize) -> Fate + Send + Sync + 'static) -> Arc<Self> {
        Self::with(name, fate, Diary::default(), None)
    }

    fn with(
        name: &'static str,
        fate: impl Fn(usize) -> Fate + Send + Sync + 'static,
        diary: Diary,
        gate: Option<Notify>,
    ) -> Arc<Self> {
        Arc::new(Self {
            name,
            fate: Box::new(fate),
            starts: AtomicUsize::new(0),
            living: AtomicUsize::new(0),
            most_living: AtomicUsize::new(0),
            wire: Wire::default(),
            diary,
            gate,
        })
    }

    fn spec(self: &Arc<Self>) -> ServiceSpec {
        let probe = Arc::clone(self);
        ServiceSpec {
            name: self.name.to_owned(),
            start: Arc::new(move |supervise| Box::pin(Arc::clone(&probe).start(supervise))),
            grace: Duration::from_millis(100),
            start_timeout: Duration::from_millis(200),
            normally_down: false,
            troubles: ServiceSpec::untroubled(),
        }
    }

    async fn start(self: Arc<Self>, supervise: ActorCell) -> Result<Started, StartError> {
        let nth = self.starts.fetch_add(1, SeqCst) + 1;
        if let Some(gate) = &self.gate {
            gate.notified().await;
        }
        let fate = (self.fate)(nth);
        assert_ne!(fate, Fate::PanicsBeforeItsActor, "start panicked");
        let (actor, _) = Body::spawn_linked(None, Body(fate), Arc::clone(&self), supervise).await?;
        match fate {
            Fate::HangsAfterItsActor => std::future::pending().await,
            Fate::DiesBeforeItIsReported => {
                actor.kill();
                actor.wait(None).await.unwrap();
            }
            _ => {}
        }
        self.wire.connect(actor.clone());
        Ok(Started::new(actor).listening(vec!["127.0.0.1:25".parse().unwrap()]))
    }

    fn starts(&self) -> usize {
        self.starts.load(SeqCst)
    }

    async fn has_started(&self, times: usize) {
        wait_until(&format!("{} has started {times} times", self.name), async || self.starts() >= times)
            .await;
    }
}

fn once_then_lives(fate: Fate) -> impl Fn(usize) -> Fate + Send + Sync {
    move |nth| if nth == 1 { fate } else { Fate::Lives }
}

async fn grow(probes: &[&Arc<Probe>]) -> (Tree, JoinHandle<()>) {
    let tree = Tree::default();
    let options = Options { limits: limits(), chaos: true };
    let ended = tree.grow(probes.iter().map(|probe| probe.spec()).collect(), options).await.unwrap();
    (tree, ended)
}

async fn row(tree: &Tree, name: &str) -> Row {
    tree.rows().await.unwrap().into_iter().find(|row| row.service == name).unwrap()
}

async fn is(tree: &Tree, name: &str, phase: Phase) {
    wait_until(&format!("{name} is {phase:?}"), async || row(tree, name).await.state == phase).await;
}

async fn svc(tree: &Tree, letters: &str, name: &str) {
    let letters = mailtree_protocols::svc::letters(letters).unwrap();
    assert_eq!(tree.svc(name, letters).await, Ok(Ok(())));
}

#[test]
fn no_profile_aborts_on_panic() {
    // Tests are always built to unwind: for the host itself the profiles speak, and the compile_error of supervise.
    let manifest = include_str!("../../../Cargo.toml");
    let panics: Vec<_> = manifest.lines().filter(|line| line.starts_with("panic")).collect();
    assert_eq!(panics, ["panic = \"unwind\""]);
}

#[tokio::test]
async fn whatever_a_start_dies_of_it_is_tried_again() {
    for (fate, reason) in [
        (Fate::FailsInPreStart, "no bind"),
        (Fate::PanicsInPreStart, "pre_start panicked"),
        (Fate::FailsInPostStart, "post_start failed"),
        (Fate::PanicsInPostStart, "post_start panicked"),
        (Fate::PanicsBeforeItsActor, "start panicked"),
        (Fate::HangsInPreStart, "not started within 200ms"),
        (Fate::HangsAfterItsActor, "not started within 200ms"),
        (Fate::DiesBeforeItIsReported, "killed"),
    ] {
        let probe = Probe::new("probe", once_then_lives(fate));
        let (tree, _ended) = grow(&[&probe]).await;
        probe.has_started(2).await;
        is(&tree, "probe", Phase::Up).await;
        let shown = row(&tree, "probe").await.reason.unwrap_or_default();
        assert!(shown.contains(reason), "{fate:?}: {shown}");
        wait_until("only the second actor lives", async || probe.living.load(SeqCst) == 1).await;
        tree.stop();
    }
}

#[tokio::test]
async fn whatever_a_service_dies_of_it_comes_back() {
    for (word, reason) in
        [(Word::Fail, "handler failed"), (Word::Panic, "handler panicked"), (Word::Stop, "exited")]
    {
        let probe = Probe::new("probe", |_| Fate::Lives);
        let (tree, _ended) = grow(&[&probe]).await;
        is(&tree, "probe", Phase::Up).await;
        assert!(probe.wire.cast(word));
        probe.has_started(2).await;
        is(&tree, "probe", Phase::Up).await;
        let shown = row(&tree, "probe").await;
        assert_eq!((shown.reason.as_deref(), shown.restarts), (Some(reason), 1));
        assert_eq!(shown.listen, ["127.0.0.1:25"]);
        tree.stop();
    }
}

#[tokio::test]
async fn start_that_always_fails_rests_and_others_do_not_notice() {
    let failing = Probe::new("failing", |_| Fate::FailsInPreStart);
    let living = Probe::new("living", |_| Fate::Lives);
    let (tree, _ended) = grow(&[&failing, &living]).await;
    is(&tree, "failing", Phase::Resting).await;
    assert_eq!(failing.starts(), 10);
    assert_eq!((living.starts(), row(&tree, "living").await.state), (1, Phase::Up));
    let shown = row(&tree, "failing").await;
    assert!(shown.wait.is_some_and(|wait| wait > 3000) && shown.pid.is_none(), "{shown:?}");

    svc(&tree, "u", "failing").await;
    failing.has_started(11).await;
}

#[tokio::test]
async fn permanent_failure_waits_for_the_administrator() {
    let probe = Probe::new("probe", |nth| if nth < 3 { Fate::IsMisconfigured } else { Fate::Lives });
    let (tree, _ended) = grow(&[&probe]).await;
    is(&tree, "probe", Phase::Failed).await;
    assert_eq!((probe.starts(), row(&tree, "probe").await.reason.as_deref()), (1, Some("no such file")));
    assert!(tree.hup());
    probe.has_started(2).await;
    is(&tree, "probe", Phase::Failed).await;
    svc(&tree, "u", "probe").await;
    is(&tree, "probe", Phase::Up).await;
}

#[tokio::test]
async fn services_start_one_after_the_other() {
    let diary = Diary::default();
    let first = Probe::with("first", |_| Fate::Lives, diary.clone(), Some(Notify::new()));
    let second = Probe::new("second", |_| Fate::FailsInPreStart);
    let third = Probe::new("third", |_| Fate::Lives);
    let (tree, _ended) = grow(&[&first, &second, &third]).await;
    first.has_started(1).await;
    assert_eq!(tree.rows().await.unwrap().len(), 3);
    assert_eq!((second.starts(), third.starts()), (0, 0));
    first.gate.as_ref().unwrap().notify_one();
    let rows = tree.ready(DEADLINE).await.unwrap();
    assert_eq!((rows[0].state, rows[2].state), (Phase::Up, Phase::Up));
    assert!(second.starts() >= 1);
}

#[tokio::test]
async fn stop_goes_backwards_and_kills_what_outstays_its_grace() {
    let diary = Diary::default();
    let probe = |name| Probe::with(name, |_| Fate::Lives, diary.clone(), None);
    let (first, busy, last) = (probe("first"), probe("busy"), probe("last"));
    let (tree, ended) = grow(&[&first, &busy, &last]).await;
    tree.ready(DEADLINE).await.unwrap();
    assert!(busy.wire.cast(Word::Hang));
    wait_until("busy hangs", async || diary.read() == "busy:hangs").await;
    assert!(tree.stop());
    tokio::time::timeout(DEADLINE, ended).await.unwrap().unwrap();
    assert_eq!(diary.read(), "busy:hangs last:post_stop first:post_stop");
    for probe in [first, busy, last] {
        assert_eq!((probe.starts(), probe.living.load(SeqCst)), (1, 0), "{}", probe.name);
    }
    assert_eq!(tree.rows().await, Err(Unanswered::Down));
}

#[tokio::test]
async fn kill_ends_a_tree_that_is_stopping() {
    let busy = Probe::new("busy", |_| Fate::Lives);
    let tree = Tree::default();
    let spec = ServiceSpec { grace: Duration::from_secs(3600), ..busy.spec() };
    let ended = tree.grow(vec![spec], Options { limits: limits(), chaos: false }).await.unwrap();
    tree.ready(DEADLINE).await.unwrap();
    assert!(busy.wire.cast(Word::Hang));
    wait_until("busy hangs", async || busy.diary.read() == "busy:hangs").await;
    assert!(tree.stop());
    is(&tree, "busy", Phase::Stopping).await;
    assert!(tree.kill());
    tokio::time::timeout(DEADLINE, ended).await.unwrap().unwrap();
    wait_until("its actors are dead", async || busy.living.load(SeqCst) == 0).await;
}

#[tokio::test]
async fn stop_breaks_off_a_start() {
    let hanging = Probe::new("hanging", |_| Fate::HangsInPreStart);
    let tree = Tree::default();
    let spec = ServiceSpec { start_timeout: Duration::from_secs(3600), ..hanging.spec() };
    let ended = tree.grow(vec![spec], Options { limits: limits(), chaos: false }).await.unwrap();
    wait_until("pre_start hangs", async || hanging.living.load(SeqCst) == 1).await;
    assert!(tree.stop());
    tokio::time::timeout(DEADLINE, ended).await.unwrap().unwrap();
    assert_eq!(hanging.living.load(SeqCst), 0);
}

#[tokio::test]
async fn letters_of_svc() {
    let probe = Probe::new("probe", |_| Fate::Lives);
    let (tree, _ended) = grow(&[&probe]).await;
    is(&tree, "probe", Phase::Up).await;

    svc(&tree, "hapc", "probe").await;
    wait_until("controls are heard", async || {
        probe.diary.read() == "probe:Hup probe:Alarm probe:Pause probe:Continue"
    })
    .await;
    svc(&tree, "p", "probe").await;
    assert!(row(&tree, "probe").await.paused);

    for (letter, starts) in [("t", 2), ("k", 3), ("i", 4)] {
        svc(&tree, letter, "probe").await;
        probe.has_started(starts).await;
        is(&tree, "probe", Phase::Up).await;
        assert!(!row(&tree, "probe").await.paused, "a new process is not paused");
    }
    svc(&tree, "d", "probe").await;
    is(&tree, "probe", Phase::Down).await;
    svc(&tree, "o", "probe").await;
    is(&tree, "probe", Phase::Up).await;
    assert_eq!((row(&tree, "probe").await.want, probe.starts()), (Wish::Once, 5));
    assert!(probe.wire.cast(Word::Stop));
    is(&tree, "probe", Phase::Down).await;
    assert_eq!(probe.starts(), 5);

    svc(&tree, "u", "probe").await;
    is(&tree, "probe", Phase::Up).await;
    svc(&tree, "dx", "probe").await;
    is(&tree, "probe", Phase::Left).await;
    wait_until("it cannot be told", async || {
        tree.svc("probe", vec![Letter::Up]).await == Ok(Err(Refusal::NotRunning))
    })
    .await;
    assert_eq!(tree.svc("ftpd", vec![Letter::Up]).await, Ok(Err(Refusal::Unknown)));
    assert!(tree.hup());
    is(&tree, "probe", Phase::Up).await;
}

#[tokio::test]
async fn killed_by_the_administrator_without_end_it_never_rests() {
    let probe = Probe::new("probe", |_| Fate::Lives);
    let (tree, _ended) = grow(&[&probe]).await;
    for nth in 1..=25 {
        is(&tree, "probe", Phase::Up).await;
        assert_eq!(probe.starts(), nth);
        match nth % 3 {
            0 => svc(&tree, "k", "probe").await,
            1 => svc(&tree, "t", "probe").await,
            _ => assert!(matches!(tree.chaos("probe", false).await, Ok(Ok(_)))),
        }
        probe.has_started(nth + 1).await;
    }
    assert_eq!(probe.most_living.load(SeqCst), 1, "two of one service at a time");
}

#[tokio::test]
async fn supervise_that_dies_comes_back_with_its_service() {
    let probe = Probe::new("probe", |_| Fate::Lives);
    let other = Probe::new("other", |_| Fate::Lives);
    let (tree, _ended) = grow(&[&probe, &other]).await;
    tree.ready(DEADLINE).await.unwrap();
    for times in 2..=5 {
        assert!(matches!(tree.chaos("probe", true).await, Ok(Ok(_))));
        probe.has_started(times).await;
        is(&tree, "probe", Phase::Up).await;
    }
    let shown = row(&tree, "probe").await;
    assert_eq!((shown.restarts, shown.reason.as_deref()), (4, Some("supervise died")));
    assert_eq!((probe.most_living.load(SeqCst), other.starts()), (1, 1));
}

#[tokio::test]
async fn supervise_that_dies_keeps_the_wish() {
    let probe = Probe::new("probe", |_| Fate::Lives);
    let (tree, ended) = grow(&[&probe]).await;
    is(&tree, "probe", Phase::Up).await;
    svc(&tree, "d", "probe").await;
    is(&tree, "probe", Phase::Down).await;
    assert!(matches!(tree.chaos("probe", true).await, Ok(Ok(_))));
    wait_until("a new supervise is told", async || {
        tree.svc("probe", vec![Letter::Continue]).await == Ok(Ok(()))
    })
    .await;
    assert_eq!((row(&tree, "probe").await.state, probe.starts()), (Phase::Down, 1));
    assert!(tree.stop());
    tokio::time::timeout(DEADLINE, ended).await.unwrap().unwrap();
}

#[tokio::test]
async fn chaos_needs_permission() {
    let probe = Probe::new("probe", |_| Fate::Lives);
    let tree = Tree::default();
    let _ended = tree.grow(vec![probe.spec()], Options { limits: limits(), chaos: false }).await.unwrap();
    assert_eq!(tree.chaos("probe", false).await, Ok(Err(Refusal::NoChaos)));
    assert_eq!(tree.chaos("probe", true).await, Ok(Err(Refusal::NoChaos)));
}

#[tokio::test]
async fn chaos_reaches_children_of_the_service() {
    let probe = Probe::new("probe", |_| Fate::Lives);
    let (tree, _ended) = grow(&[&probe]).await;
    let (mut roots, mut children) = (0, 0);
    while roots == 0 || children == 0 {
        assert!(roots + children < 200, "{roots} services and {children} children killed");
        is(&tree, "probe", Phase::Up).await;
        if probe.living.load(SeqCst) == 1 {
            assert!(probe.wire.cast(Word::Bear));
        }
        wait_until("it has a child", async || probe.living.load(SeqCst) == 2).await;
        let (starts, root) = (probe.starts(), probe.wire.actor().unwrap().get_id().to_string());
        let victim = tree.chaos("probe", false).await.unwrap().unwrap();
        if victim == root {
            roots += 1;
            probe.has_started(starts + 1).await;
            wait_until("a new one lives", async || probe.living.load(SeqCst) == 1).await;
        } else {
            children += 1;
            wait_until("the child is dead", async || probe.living.load(SeqCst) == 1).await;
            assert_eq!(probe.starts(), starts);
        }
    }
}

#[tokio::test]
async fn two_trees_in_one_process_do_not_meet() {
    let (one, two) = (Probe::new("probe", |_| Fate::Lives), Probe::new("probe", |_| Fate::Lives));
    let (first, _ended) = grow(&[&one]).await;
    let (second, _ended) = grow(&[&two]).await;
    is(&first, "probe", Phase::Up).await;
    is(&second, "probe", Phase::Up).await;
    assert_eq!(ractor::registry::registered(), Vec::<String>::new());
}

#[tokio::test]
async fn two_services_of_one_name_are_refused() {
    let probe = Probe::new("probe", |_| Fate::Lives);
    let refused =
        Tree::default().grow(vec![probe.spec(), probe.spec()], Options::default()).await.unwrap_err();
    assert!(refused.to_string().contains("two services are named probe"), "{refused}");
}

#[tokio::test]
async fn down_file_waits_for_svc() {
    let probe = Probe::new("probe", |_| Fate::Lives);
    let tree = Tree::default();
    let spec = ServiceSpec { normally_down: true, ..probe.spec() };
    let _ended = tree.grow(vec![spec], Options { limits: limits(), chaos: false }).await.unwrap();
    let rows = tree.ready(DEADLINE).await.unwrap();
    assert_eq!((rows[0].svstat().to_string().as_str(), probe.starts()), ("down 0 seconds", 0));
    svc(&tree, "u", "probe").await;
    is(&tree, "probe", Phase::Up).await;
    assert!(row(&tree, "probe").await.svstat().to_string().ends_with("seconds, normally down"));
}

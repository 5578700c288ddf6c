use std::sync::mpsc;

use super::*;

const HEALTHY: u64 = 1;
const SICK: u64 = 2;

/// Work that ends when the sender is dropped.
fn hanging(pool: &Pool, key: Key) -> mpsc::Sender<()> {
    let (hold, held) = mpsc::channel::<()>();
    pool.submit(key, Box::new(move || assert!(held.recv().is_err())));
    hold
}

async fn ends_at_once(pool: &Pool, person: u64) {
    let key = Key { device: HEALTHY, person };
    assert_eq!(pool.run(key, Duration::from_secs(2), || 7).await, Ok(7));
}

#[tokio::test]
async fn a_device_that_hangs_holds_its_own_work_alone() {
    let pool = Pool::new("test");
    let held: Vec<_> = (0..100).map(|person| hanging(&pool, Key { device: SICK, person })).collect();
    ends_at_once(&pool, 1).await;
    // Overdue while some work waits, refused as soon as the device is known to be closed.
    let sick = |person| Key { device: SICK, person };
    let late = pool.run(sick(1000), Duration::from_millis(100), || ()).await;
    assert_eq!(late, Err(Refused::Overdue));
    let refused = pool.run(sick(1001), Duration::from_secs(10), || ()).await;
    assert_eq!(refused, Err(Refused::Stalled));
    let begun = Instant::now();
    assert_eq!(pool.run(sick(1002), Duration::from_secs(10), || ()).await, Err(Refused::Stalled));
    assert!(begun.elapsed() < Duration::from_secs(1), "a closed device is refused at once");
    ends_at_once(&pool, 2).await;
    // Well again.
    drop(held);
    let deadline = Instant::now() + Duration::from_secs(10);
    while pool.run(sick(1003), Duration::from_secs(1), || ()).await.is_err() {
        assert!(Instant::now() < deadline, "never opened again");
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_person_whose_work_is_stuck_is_refused_and_nobody_else_of_the_device() {
    let pool = Pool::new("test");
    let sick = Key { device: HEALTHY, person: 66 };
    let _held: Vec<_> = (0..3).map(|_| hanging(&pool, sick)).collect();
    let begun = Instant::now();
    // Others work on meanwhile.
    while begun.elapsed() < STALL + Duration::from_secs(1) {
        ends_at_once(&pool, 1).await;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(pool.run(sick, Duration::from_secs(10), || ()).await, Err(Refused::Stalled));
    ends_at_once(&pool, 2).await;
}

#[tokio::test]
async fn work_that_panics_is_refused_and_costs_no_thread() {
    let pool = Pool::new("test");
    for person in 0..100 {
        let key = Key { device: HEALTHY, person };
        let ended = pool.run(key, Duration::from_secs(5), || panic!("on purpose")).await;
        assert_eq!(ended, Err::<(), _>(Refused::Stalled));
    }
    ends_at_once(&pool, 1).await;
}

/// Work that comes while a thread that was idle is on its way to other work: nobody waits for the watcher.
#[tokio::test]
async fn work_does_not_wait_for_a_thread_that_others_hold() {
    let pool = Pool::new("test");
    let whole = tokio::time::timeout(Duration::from_secs(10), async {
        for person in 0..100 {
            ends_at_once(&pool, person).await;
            let _held = hanging(&pool, Key { device: SICK, person });
            ends_at_once(&pool, person).await;
        }
    });
    assert!(whole.await.is_ok(), "a tenth of a second each");
}

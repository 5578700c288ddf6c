//! The last release and this version on one home, in turn.

mod needs_last {
    use std::path::Path;

    use mailtree_tests::host::{Host, PATIENCE, Setup, free_port};
    use mailtree_tests::letter::letter;
    use mailtree_tests::peer::{Answer, Peer};
    use mailtree_tests::wait::wait_until;

    /// The last release, which tests/run has built, in place of this version.
    const LAST: [&str; 4] = ["sh", "-c", "shift; exec \"$MAILTREE_LAST\" \"$@\"", "sh"];

    /// A host on `home` with nothing in `host.ron` that is new.
    fn setup(home: &Path) -> Setup {
        Setup::existing(home).field("queue", "()")
    }

    fn deferred(host: &Host, name: &str) {
        host.send("sender@mx.test", &["x@far.test"], &letter(name, 300));
    }

    #[test]
    fn each_takes_the_queue_that_the_other_has_left() {
        let dir = tempfile::tempdir().unwrap();
        let home = dir.path().join("home");
        let closed = free_port("127.0.0.1");
        let route = format!("far.test:[127.0.0.1]:{}\n", closed.port());
        let mut last =
            Setup::at(&home).field("queue", "()").control("smtproutes", &route).under(&LAST).start();
        deferred(&last, "by-the-last");
        last.wait_log("delivery *: deferral: *");
        last.stop();

        let mut this = setup(&home).start();
        assert_eq!(this.ask(&["qmail-qstat"]).lines().next(), Some("messages in queue: 1"));
        deferred(&this, "by-this");
        this.send("sender@mx.test", &["bob@mx.test"], &letter("delivered", 300));
        this.maildir("bob").wait(1, PATIENCE);
        this.wait_log("delivery *: deferral: *");
        this.stop();

        let last = setup(&home).under(&LAST).start();
        assert_eq!(last.ask(&["qmail-qstat"]).lines().next(), Some("messages in queue: 2"));
        let peer = Peer::start(&closed.to_string(), |_, _| Answer::Usual);
        last.ask(&["svc", "-a", "send"]);
        assert_eq!(peer.wait(2, PATIENCE).len(), 2);
        // The last release keeps files of finished messages in pid/.
        wait_until("an empty queue", PATIENCE, || {
            last.ask(&["qmail-qstat"]).lines().next() == Some("messages in queue: 0")
        });
    }
}

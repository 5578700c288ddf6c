use super::*;

const NAME: &str = "1.M2P3Q0.mx.test,S=20";

struct Home(tempfile::TempDir);

impl Home {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn maildir(&self) -> PathBuf {
        self.0.path().join("Maildir")
    }

    fn deliver(&self, text: &str, again: bool) -> io::Result<InMaildir> {
        let body = self.0.path().join("mess");
        fs::write(&body, text).unwrap();
        let body = Body::open(&body).unwrap();
        let maildir = self.maildir();
        super::deliver(&Copy {
            maildir: &maildir,
            within: self.0.path().parent(),
            name: OsStr::new(NAME),
            head: b"Head: x\n",
            body: &body,
            again,
            doubted: false,
        })
    }

    /// What lies in a directory of the Maildir: names and contents.
    fn list(&self, name: &str) -> Vec<(String, String)> {
        let entries = fs::read_dir(self.maildir().join(name)).unwrap().map(Result::unwrap);
        entries
            .map(|entry| {
                let name = entry.file_name().to_str().unwrap().to_owned();
                (name, fs::read_to_string(entry.path()).unwrap())
            })
            .collect()
    }
}

fn one(name: &str, text: &str) -> Vec<(String, String)> {
    vec![(name.to_owned(), text.to_owned())]
}

#[test]
fn missing_directories_are_made_when_the_user_has_one() {
    let home = Home::new();
    home.deliver("hello\n", false).unwrap();
    assert_eq!(home.list("new"), one(NAME, "Head: x\nhello\n"));
    assert!(home.list("tmp").is_empty() && home.list("cur").is_empty());
    fs::remove_dir(home.maildir().join("cur")).unwrap();
    fs::remove_file(home.maildir().join("new").join(NAME)).unwrap();
    home.deliver("hello\n", false).unwrap();
    assert!(home.list("cur").is_empty());
    let gone = Home::new();
    let nobody = gone.0.path().join("nobody/Maildir");
    let body = Body::open(Path::new("/dev/null")).unwrap();
    let copy = Copy {
        maildir: &nobody,
        within: None,
        name: OsStr::new(NAME),
        head: b"",
        body: &body,
        again: false,
        doubted: false,
    };
    assert_eq!(super::deliver(&copy).unwrap_err().kind(), io::ErrorKind::NotFound);
}

#[test]
fn a_delivery_that_is_repeated_is_none() {
    let home = Home::new();
    let first = home.deliver("hello\n", false).unwrap();
    for again in [true, false] {
        let second = home.deliver("hello\n", again).unwrap();
        assert_eq!(second.file, first.file);
        assert_eq!(home.list("new"), one(NAME, "Head: x\nhello\n"));
    }
    // Read by its owner meanwhile.
    let read = format!("{NAME}:2,S");
    fs::rename(home.maildir().join("new").join(NAME), home.maildir().join("cur").join(&read)).unwrap();
    home.deliver("hello\n", true).unwrap();
    assert!(home.list("new").is_empty() && home.list("tmp").is_empty());
    assert_eq!(home.list("cur"), one(&read, "Head: x\nhello\n"));
    let body = Body::open(&home.0.path().join("mess")).unwrap();
    restore(&first.file, &body, true).unwrap();
    restore(&first.file, &body, false).unwrap();
    assert!(home.list("new").is_empty() && home.list("tmp").is_empty());
    assert_eq!(home.list("cur"), one(&read, "Head: x\nhello\n"));
}

#[test]
fn what_its_owner_has_deleted_is_believed_in_the_same_life_of_machine_and_file_system() {
    let home = Home::new();
    let delivered = home.deliver("hello\n", false).unwrap();
    let body = Body::open(&home.0.path().join("mess")).unwrap();
    let path = home.maildir().join("new").join(NAME);
    let lost_elsewhere = MaildirFile { mount: !delivered.file.mount, ..delivered.file.clone() };
    let nobody_knows = MaildirFile { mount: 0, ..delivered.file.clone() };
    for (file, same_boot, again) in [
        (&delivered.file, true, delivered.file.mount == 0),
        (&delivered.file, false, true),
        (&lost_elsewhere, true, true),
        (&nobody_knows, true, true),
    ] {
        drop(fs::remove_file(&path));
        restore(file, &body, same_boot).unwrap();
        assert_eq!(path.exists(), again, "{file:?}");
        assert!(!again || fs::read_to_string(&path).unwrap() == "Head: x\nhello\n");
    }
}

#[test]
fn a_torn_copy_is_made_whole_and_another_file_is_left_alone() {
    for torn in ["", "Head: x\nhe", "Head: x\nhe\0\0\0\0", "\0\0\0\0\0\0\0\0\0\0\0\0\0\0"] {
        for again in [true, false] {
            let home = Home::new();
            let first = home.deliver("hello\n", false).unwrap();
            let path = home.maildir().join("new").join(NAME);
            fs::write(&path, torn).unwrap();
            home.deliver("hello\n", again).unwrap();
            assert_eq!(home.list("new"), one(NAME, "Head: x\nhello\n"), "{torn:?}");
            fs::write(&path, torn).unwrap();
            restore(&first.file, &Body::open(&home.0.path().join("mess")).unwrap(), true).unwrap();
            assert_eq!(home.list("new"), one(NAME, "Head: x\nhello\n"), "{torn:?}");
            assert!(home.list("tmp").is_empty());
        }
    }
    let home = Home::new();
    home.deliver("hello\n", false).unwrap();
    let path = home.maildir().join("new").join(NAME);
    fs::write(&path, "Head: x\nHELLO\n").unwrap();
    home.deliver("hello\n", true).unwrap();
    assert_eq!(home.list("new"), one(NAME, "Head: x\nHELLO\n"));
}

#[test]
fn nothing_is_left_in_tmp_by_a_failure() {
    let home = Home::new();
    home.deliver("hello\n", false).unwrap();
    fs::remove_dir_all(home.maildir().join("new")).unwrap();
    std::os::unix::fs::symlink("/nowhere/at/all", home.maildir().join("new")).unwrap();
    assert!(home.deliver("hello\n", false).is_err());
    assert!(home.list("tmp").is_empty());
}

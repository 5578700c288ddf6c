//! What control files said when they were last in order, until they say something else.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::changes::{Changes, Look};
use crate::error::{Error, Problem};
use crate::read::{Reading, Seen};

/// What one program reads, from which versions of the files.
#[derive(Debug)]
pub(super) struct Kept<T>(Mutex<State<T>>);

#[derive(Debug)]
struct State<T> {
    look: Option<Look>,
    /// Empty: nothing has been read, or it is to be read again.
    seen: Vec<Seen>,
    /// In force. `None`: the files have never been in order.
    good: Option<Arc<T>>,
    /// What is wrong with the files as they are.
    error: Option<Error>,
    /// What is wrong with them and concerns no more than itself.
    warnings: Vec<Problem>,
}

/// Problems of one reading that are said; there may be as many as lines.
const SAID: usize = 20;

/// The files of a directory.
#[derive(Debug)]
pub(super) struct Files {
    pub(super) dir: PathBuf,
    changes: Changes,
    /// What was said to be wrong with them, and still is: several programs read the same file.
    said: Mutex<Vec<Problem>>,
}

impl Files {
    pub(super) fn new(dir: PathBuf) -> Self {
        Self { dir, changes: Changes::default(), said: Mutex::new(Vec::new()) }
    }

    /// Those of `problems` that are news, after a reading that found them.
    fn news(&self, reading: &Reading<'_>, error: bool) -> Vec<Problem> {
        let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        let found = || reading.problems.iter().filter(|_| error).chain(&reading.warnings);
        said.retain(|old| found().any(|problem| problem == old) || !reading.has_read(&old.path));
        let news: Vec<_> = found().filter(|problem| !said.contains(problem)).take(SAID).cloned().collect();
        said.extend(news.iter().cloned());
        news
    }
}

impl<T> Default for Kept<T> {
    fn default() -> Self {
        Self(Mutex::new(State {
            look: None,
            seen: Vec::new(),
            good: None,
            error: None,
            warnings: Vec::new(),
        }))
    }
}

impl<T> Kept<T> {
    /// What is in force. Files that have changed are read once they are whole; what is wrong with them is said once, and what
    /// they said before stays in force.
    ///
    /// # Errors
    /// If they have never been in order.
    pub(super) fn current(&self, files: &Files, read: fn(&mut Reading<'_>) -> T) -> Result<Arc<T>, Error> {
        let mut state = self.lock();
        if state.look.is_some_and(|look| files.changes.hold(look)) {
            return state.in_force();
        }
        // Before the files are looked at: what changes meanwhile is looked at again.
        let look = files.changes.look(&files.dir);
        if !state.seen.is_empty() {
            if state.seen.iter().all(Seen::is_current) {
                state.look = Some(look);
                return state.in_force();
            }
            if state.good.is_some() && state.seen.iter().any(|seen| seen.is_being_written(&files.changes)) {
                return state.in_force();
            }
        }
        state.read(look, files, read);
        state.in_force()
    }

    /// The same, read now whatever is known about them: somebody asks for it.
    ///
    /// # Errors
    /// What is wrong with them as they are; what was in force stays so.
    pub(super) fn anew(&self, files: &Files, read: fn(&mut Reading<'_>) -> T) -> Result<Arc<T>, Error> {
        let mut state = self.lock();
        state.read(files.changes.look(&files.dir), files, read);
        match &state.error {
            Some(error) => Err(error.clone()),
            None => state.in_force(),
        }
    }

    /// What is wrong with the files as they are.
    pub(super) fn problems(&self) -> Vec<Problem> {
        let state = self.lock();
        let problems = state.error.iter().flat_map(|error| &error.problems);
        problems.chain(&state.warnings).cloned().collect()
    }

    fn lock(&self) -> MutexGuard<'_, State<T>> {
        // What is kept is replaced whole, so a panic elsewhere cannot have left half of it.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T> State<T> {
    fn in_force(&self) -> Result<Arc<T>, Error> {
        match (&self.good, &self.error) {
            (Some(good), _) => Ok(Arc::clone(good)),
            (None, Some(error)) => Err(error.clone()),
            // Nothing is asked before something was read.
            (None, None) => Err(Error { problems: Vec::new() }),
        }
    }

    fn read(&mut self, look: Look, files: &Files, read: fn(&mut Reading<'_>) -> T) {
        let mut reading = Reading::new(&files.dir);
        let value = read(&mut reading);
        // Without anything in force whoever asks says what is wrong.
        for problem in files.news(&reading, self.good.is_some()) {
            if reading.problems.contains(&problem) {
                tracing::error!("alert: {problem}; what was there before stays in force");
            } else {
                tracing::warn!("warning: {problem}");
            }
        }
        let Reading { seen, problems, warnings, .. } = reading;
        // A file that could not be read may be readable at the next look without having changed.
        let unreadable = problems.iter().any(|problem| problem.temporary);
        self.seen = if unreadable { Vec::new() } else { seen };
        self.look = Some(look);
        self.warnings = warnings;
        self.error = Error::unless_none(problems, ()).err();
        if self.error.is_none() {
            self.good = Some(Arc::new(value));
        }
    }
}

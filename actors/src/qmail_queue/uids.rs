//! Who has how many connections and messages at once, by user.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Connections of one user that are kept; more are told to come again.
pub(super) const CONNECTIONS: usize = 200;

/// Messages of one user that are taken in at once; more wait.
pub(super) const MESSAGES: usize = 20;

/// The users that are connected now.
#[derive(Clone)]
pub(super) struct Uids {
    users: Arc<Mutex<HashMap<u32, User>>>,
    /// The host's own user.
    own: u32,
}

struct User {
    connections: usize,
    messages: Arc<Semaphore>,
}

/// The right to one connection of a user.
pub(super) struct Connected {
    uids: Uids,
    uid: u32,
    messages: Arc<Semaphore>,
}

impl Uids {
    pub(super) fn new(own: u32) -> Self {
        Self { users: Arc::default(), own }
    }

    /// One more connection of `uid`; none if he has as many as he may. The host's own user is bound by what bounds all.
    pub(super) fn connect(&self, uid: u32) -> Option<Connected> {
        let own = uid == self.own;
        let mut users = self.lock();
        let user = users.entry(uid).or_insert_with(|| User {
            connections: 0,
            messages: Arc::new(Semaphore::new(if own { Semaphore::MAX_PERMITS } else { MESSAGES })),
        });
        if !own && user.connections >= CONNECTIONS {
            return None;
        }
        user.connections += 1;
        Some(Connected { uids: self.clone(), uid, messages: Arc::clone(&user.messages) })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<u32, User>> {
        self.users.lock().unwrap_or_else(PoisonError::into_inner)
    }

    #[cfg(test)]
    fn len(&self) -> usize {
        self.lock().len()
    }
}

impl Connected {
    /// Waits for the right to hand in a message.
    pub(super) async fn message(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.messages).acquire_owned().await.ok()
    }
}

impl Drop for Connected {
    fn drop(&mut self) {
        let mut users = self.uids.lock();
        if let Some(user) = users.get_mut(&self.uid) {
            user.connections -= 1;
            if user.connections == 0 {
                users.remove(&self.uid);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    #[tokio::test]
    async fn a_user_has_his_share_and_others_have_theirs() {
        let uids = Uids::new(1);
        let of_one: Vec<_> = std::iter::from_fn(|| uids.connect(1000)).collect();
        assert_eq!(of_one.len(), CONNECTIONS);
        assert!(uids.connect(1001).is_some());
        let own: Vec<_> = (0..CONNECTIONS + 9).map_while(|_| uids.connect(1)).collect();
        assert_eq!(own.len(), CONNECTIONS + 9);

        let messages: Vec<_> =
            of_one.iter().map_while(|one| one.message().now_or_never().flatten()).collect();
        assert_eq!(messages.len(), MESSAGES);
        let other = uids.connect(1001).unwrap();
        assert!(other.message().now_or_never().is_some());
        drop(messages);
        assert!(of_one[0].message().now_or_never().is_some());
        drop((of_one, own, other));
        assert_eq!(uids.len(), 0);
    }
}

//! Giving up root.

use std::io;

use nix::unistd::{Gid, Uid, getresgid, getresuid, setgroups, setresgid, setresuid, setuid};

/// Makes this process one of this user and these groups, the first of which is its own; there is no way back. All threads
/// change.
///
/// # Errors
/// When it is not root, or still could be.
pub fn become_user(user: Uid, groups: &[Gid]) -> io::Result<()> {
    let group = *groups.first().ok_or(io::ErrorKind::InvalidInput)?;
    setgroups(groups)?;
    setresgid(group, group, group)?;
    setresuid(user, user, user)?;
    let (users, groups) = (getresuid()?, getresgid()?);
    let is_user = users.real == user && users.effective == user && users.saved == user;
    let is_group = groups.real == group && groups.effective == group && groups.saved == group;
    if !is_user || !is_group || user.is_root() || setuid(Uid::from_raw(0)).is_ok() {
        return Err(io::Error::other("unable to give up root"));
    }
    Ok(())
}

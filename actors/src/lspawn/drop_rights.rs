//! With whose rights a delivery goes on, and the way down to them.
//!
//! Whoever has taken over the host may ask for any recipient. So nobody but root's own files say who that is, and where:
//! `users/cdb` counts for other users than the host's own only where the host's user cannot change it. Nobody delivers as root.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use mailtree_protocols::report::Report;
use nix::unistd::{Gid, Uid};
use rustix::process::{DumpableBehavior, geteuid, set_dumpable_behavior};

use super::settings::Settings;
use crate::qmail_local::{Home, QmailLocal, unread};
use crate::rights::become_user;

/// Finds whose delivery it is and gives up every other right, for good. The home is the working directory then.
pub(super) fn to_deliver(settings: &Settings, local: &QmailLocal, recipient: &[u8]) -> Result<Home, Report> {
    let home = match local.assigned(recipient)? {
        Some(home) => home,
        None => local.unassigned(recipient)?,
    };
    let home = home.with_rights()?;
    let own = geteuid();
    if own.is_root() {
        if home.assigned && home.uid != settings.host {
            let path = &settings.users_cdb;
            may_not_change(path, settings.host).map_err(|why| {
                Report::deferral(format!(
                    "{} is not obeyed for other users: {why}. (#4.3.5)\n",
                    path.display()
                ))
            })?;
        }
        if home.uid == 0 || home.gid == 0 {
            return Err(Report::deferral("Not allowed to perform deliveries as root.\n"));
        }
        become_user(Uid::from_raw(home.uid), &[Gid::from_raw(home.gid)]).map_err(unread)?;
    } else if home.uid != own.as_raw() && !owns(&home.dir, own.as_raw()) {
        return Err(Report::deferral(format!(
            "This host does not run as root: it cannot deliver with the rights of uid {}. (#4.3.5)\n",
            home.uid
        )));
    }
    // Nobody with the same rights looks into it.
    set_dumpable_behavior(DumpableBehavior::NotDumpable).unwrap_or(());
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
    std::env::set_current_dir(&home.dir).map_err(|error| {
        Report::deferral(format!("Unable to switch to {}: {error}. (#4.3.0)\n", home.dir.display()))
    })?;
    Ok(home)
}

fn owns(dir: &Path, uid: u32) -> bool {
    fs::metadata(dir).is_ok_and(|meta| meta.uid() == uid)
}

/// Whether a file, and every directory above it, is out of reach for this user. Root can change everything.
fn may_not_change(path: &Path, user: u32) -> Result<(), String> {
    if user == 0 {
        return Ok(());
    }
    let path = fs::canonicalize(path).map_err(|error| error.to_string())?;
    for place in path.ancestors() {
        let meta = fs::symlink_metadata(place).map_err(|error| error.to_string())?;
        let sticky = meta.is_dir() && meta.mode() & 0o1000 != 0;
        if meta.uid() != 0 {
            return Err(format!("{} belongs to uid {}", place.display(), meta.uid()));
        }
        if meta.mode() & 0o022 != 0 && !sticky {
            return Err(format!("{} may be changed by others than root", place.display()));
        }
    }
    Ok(())
}

//! The one place with `unsafe`: a process that goes on as two.

#![expect(unsafe_code, reason = "fork, the end of a forked process, descriptors of unknown origin")]

use std::io;

use rustix::process::Pid;

/// Who goes on behind [`fork`].
pub(crate) enum Forked {
    /// The one that called it, with the number of the new process.
    Parent(Pid),
    /// The new process. It must not return to what the other one does: it [`end`]s, or becomes a program.
    Child,
}

/// Makes a process that is a copy of this one.
///
/// # Errors
/// The system's, and if this process has threads beside those of the allocator: a copy would have their locks, but not them.
pub(crate) fn fork() -> io::Result<Forked> {
    // SAFETY: there is one thread (`assert_alone` at the start, and nothing here starts one), so that no lock is held in the
    // copy by a thread that it does not have. The allocator's own thread is known to the allocator, which handles fork.
    match unsafe { nix::unistd::fork() }? {
        nix::unistd::ForkResult::Parent { child } => Pid::from_raw(child.as_raw())
            .map(Forked::Parent)
            .ok_or_else(|| io::Error::other("no process number")),
        nix::unistd::ForkResult::Child => Ok(Forked::Child),
    }
}

/// Has every descriptor but 0, 1 and 2 closed in programs: also what the program that started this one has left open.
///
/// # Errors
/// The system's.
pub fn close_on_exec() -> io::Result<()> {
    let flags = i32::try_from(nix::libc::CLOSE_RANGE_CLOEXEC).unwrap_or(0);
    // SAFETY: nothing is closed; no memory is touched.
    match unsafe { nix::libc::close_range(3, nix::libc::c_uint::MAX, flags) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Ends a forked process without what the program that it is a copy of would do at its end.
pub(crate) fn end(code: i32) -> ! {
    // SAFETY: `_exit` touches no memory of this process.
    unsafe { nix::libc::_exit(code) }
}

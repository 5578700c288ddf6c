//! What an error of the system is called in djb's programs (error_str.c).

use std::io;

use rustix::io::Errno;

const REASONS: &[(Errno, &str)] = &[
    (Errno::INTR, "interrupted system call"),
    (Errno::NOMEM, "out of memory"),
    (Errno::NOENT, "file does not exist"),
    (Errno::TXTBSY, "text busy"),
    (Errno::IO, "input/output error"),
    (Errno::EXIST, "file already exists"),
    (Errno::TIMEDOUT, "timed out"),
    (Errno::AGAIN, "temporary failure"),
    (Errno::PIPE, "broken pipe"),
    (Errno::PERM, "permission denied"),
    (Errno::ACCESS, "access denied"),
    (Errno::NXIO, "device not configured"),
    (Errno::TOOBIG, "argument list too long"),
    (Errno::NOEXEC, "exec format error"),
    (Errno::BADF, "file descriptor not open"),
    (Errno::DEADLK, "operation would cause deadlock"),
    (Errno::BUSY, "device busy"),
    (Errno::XDEV, "cross-device link"),
    (Errno::NOTDIR, "not a directory"),
    (Errno::ISDIR, "is a directory"),
    (Errno::INVAL, "invalid argument"),
    (Errno::NFILE, "system cannot open more files"),
    (Errno::MFILE, "process cannot open more files"),
    (Errno::FBIG, "file too big"),
    (Errno::NOSPC, "out of disk space"),
    (Errno::SPIPE, "unseekable descriptor"),
    (Errno::ROFS, "read-only file system"),
    (Errno::LOOP, "symbolic link loop"),
    (Errno::NAMETOOLONG, "file name too long"),
    (Errno::NOTEMPTY, "directory not empty"),
    (Errno::DQUOT, "disk quota exceeded"),
    (Errno::STALE, "stale NFS file handle"),
];

/// The reason, in djb's words where he has some.
pub(super) fn reason(error: &io::Error) -> String {
    let errno = Errno::from_io_error(error);
    let found = REASONS.iter().find(|(known, _)| Some(*known) == errno);
    found.map_or_else(|| error.to_string(), |(_, text)| (*text).to_owned())
}

/// Whether trying again may help (error_temp.c).
pub(super) fn is_temporary(error: &io::Error) -> bool {
    Errno::from_io_error(error).is_some_and(|errno| {
        matches!(
            errno,
            Errno::INTR
                | Errno::NOMEM
                | Errno::TXTBSY
                | Errno::IO
                | Errno::TIMEDOUT
                | Errno::AGAIN
                | Errno::DEADLK
                | Errno::BUSY
                | Errno::NFILE
                | Errno::MFILE
                | Errno::FBIG
                | Errno::NOSPC
                | Errno::NETDOWN
                | Errno::NETUNREACH
                | Errno::NETRESET
                | Errno::CONNABORTED
                | Errno::CONNRESET
                | Errno::NOBUFS
                | Errno::TOOMANYREFS
                | Errno::CONNREFUSED
                | Errno::HOSTDOWN
                | Errno::HOSTUNREACH
                | Errno::USERS
                | Errno::DQUOT
                | Errno::STALE
                | Errno::NOLCK
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons() {
        for (errno, text, temporary) in [
            (Errno::NOENT, "file does not exist", false),
            (Errno::ACCESS, "access denied", false),
            (Errno::NOSPC, "out of disk space", true),
            (Errno::NOSYS, "Function not implemented (os error 38)", false),
        ] {
            let error = io::Error::from(errno);
            assert_eq!((reason(&error).as_str(), is_temporary(&error)), (text, temporary), "{errno:?}");
        }
        assert_eq!(reason(&io::Error::other("odd")), "odd");
    }
}

//! `qreceipt`: answers a message that asks for a receipt of its delivery.

use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::process::ExitCode;

use mailtree_protocols::inject::MAX_HEADER;
use mailtree_protocols::inject::fields::header_len;
use mailtree_protocols::inject::receipt::{Asked, asked, message};

use super::{Broken, copy_input, usage};
use crate::qmail_open;

const USAGE: &str = "qreceipt: usage: qreceipt deliveryaddress";

/// `qreceipt deliveryaddress`, to $SENDER.
pub(in super::super) fn run(home: &Path, arguments: &[OsString]) -> ExitCode {
    let (Some(target), Ok(sender)) = (arguments.first(), super::variable("SENDER")) else {
        return usage(USAGE);
    };
    let Ok(header) = read_header() else { return fatal("read error", 111) };
    match asked(&header, target.as_bytes()) {
        Err(field) => {
            let field = String::from_utf8_lossy(&field).into_owned();
            fatal(&format!("unable to parse this: {}", field.trim_end()), 100)
        }
        // Nobody is told of the delivery of a bounce.
        Ok(Some(asked)) if !matches!(&*sender, b"" | b"#@[]") => {
            send(home, &sender, target.as_bytes(), &asked)
        }
        Ok(_) => ExitCode::SUCCESS,
    }
}

/// The header of the message, of which all is read.
fn read_header() -> Result<Vec<u8>, io::Error> {
    let mut header = Vec::new();
    let copied = copy_input(|bytes| {
        let room = MAX_HEADER - header.len();
        header.extend_from_slice(&bytes[..bytes.len().min(room)]);
        Ok(())
    });
    copied.map_err(|(Broken::Input(error) | Broken::Output(error))| error)?;
    header.truncate(header_len(&header));
    Ok(header)
}

fn send(home: &Path, sender: &[u8], target: &[u8], asked: &Asked) -> ExitCode {
    let Ok(mut queue) = qmail_open::open(home) else { return fatal("unable to fork", 111) };
    queue.put(&message(sender, target, asked));
    let mut envelope = queue.from(b"");
    envelope.to(sender);
    match envelope.close() {
        Ok(()) => ExitCode::SUCCESS,
        Err(refusal) if refusal.is_permanent() => fatal("permanent qmail-queue error", 100),
        Err(_) => fatal("temporary qmail-queue error", 111),
    }
}

fn fatal(text: &str, code: u8) -> ExitCode {
    errln!("qreceipt: fatal: {text}");
    ExitCode::from(code)
}

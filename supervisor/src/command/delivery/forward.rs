//! `forward` and `condredirect`: the message to other addresses, through qmail-queue.

use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::process::ExitCode;

use super::{Broken, child, copy_input, reason, usage, variable};
use crate::failure::Failure;
use crate::qmail_open;

/// `forward address ...`, from $NEWSENDER.
pub(in super::super) fn forward(home: &Path, arguments: &[OsString]) -> ExitCode {
    match hand_in(home, "NEWSENDER", arguments) {
        Ok(qp) => {
            errln!("forward: qp {qp}");
            ExitCode::SUCCESS
        }
        Err(failure) => failure.report("forward"),
    }
}

/// `condredirect newaddress program [arg ...]`: if the program agrees, the message goes to the address, from $SENDER, and 99 tells
/// qmail-local to ignore the lines that follow.
pub(in super::super) fn condredirect(home: &Path, arguments: &[OsString]) -> ExitCode {
    let [to, program @ ..] = arguments else { return condredirect_usage() };
    if program.is_empty() {
        return condredirect_usage();
    }
    let redirected = child::agrees(program).and_then(|agrees| {
        if !agrees {
            return Ok(None);
        }
        rustix::fs::seek(io::stdin(), rustix::fs::SeekFrom::Start(0))
            .map_err(|error| Failure::temporary(format!("unable to rewind: {}", reason(&error.into()))))?;
        hand_in(home, "SENDER", std::slice::from_ref(to)).map(Some)
    });
    match redirected {
        Ok(None) => ExitCode::SUCCESS,
        Ok(Some(qp)) => {
            errln!("condredirect: qp {qp}");
            ExitCode::from(99)
        }
        Err(failure) => failure.report("condredirect"),
    }
}

fn condredirect_usage() -> ExitCode {
    usage("condredirect: usage: condredirect newaddress program [ arg ... ]")
}

/// Queues $DTLINE and standard input, from whom the variable names; the number of the qmail-queue.
fn hand_in(home: &Path, sender: &str, recipients: &[OsString]) -> Result<u32, Failure> {
    let sender = variable(sender)?;
    let dtline = variable("DTLINE")?;
    let mut message = qmail_open::open(home)
        .map_err(|error| Failure::temporary(format!("unable to fork: {}", reason(&error))))?;
    let qp = message.qp();
    message.put(&dtline);
    let copied = copy_input(|bytes| {
        message.put(bytes);
        Ok(())
    });
    if let Err(Broken::Input(error) | Broken::Output(error)) = copied {
        return Err(Failure::temporary(format!("unable to read message: {}", reason(&error))));
    }
    let mut envelope = message.from(&sender);
    recipients.iter().for_each(|recipient| envelope.to(recipient.as_bytes()));
    match envelope.close() {
        Ok(()) => Ok(qp),
        Err(refusal) if refusal.is_permanent() => Err(Failure::permanent(refusal.text())),
        Err(refusal) => Err(Failure::temporary(refusal.text())),
    }
}

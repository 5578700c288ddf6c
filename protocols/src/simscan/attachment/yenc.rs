//! yEnc (yEnc-Draft 1.3): files in text of 8 bits, as they are posted to newsgroups.

/// The beginning of the line that begins a file.
pub(super) const BEGIN: &[u8] = b"=ybegin ";

/// The name of the file that begins here: the last parameter, up to the end of the line.
pub(super) fn name(line: &[u8]) -> Option<String> {
    let line = line.strip_prefix(BEGIN)?;
    let at = memchr::memmem::find(line, b" name=")?;
    let (parameters, name) = (&line[..at], line[at + b" name=".len()..].trim_ascii());
    let has = |parameter| memchr::memmem::find(parameters, parameter).is_some();
    (has(b"line=") && has(b"size=") && !name.is_empty()).then(|| String::from_utf8_lossy(name).into_owned())
}

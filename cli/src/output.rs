//! What is printed: text, JSON, and failures.

use std::ffi::OsStr;
use std::io::Write;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};
use vcb_fs::Time;
use vcb_mountd::{Code, Exit, Failure, Outcome};

/// Prints a failure on stderr: what, where, why, and what to do next.
pub fn print_failure(failure: &Failure, json: bool) {
    let text = if json { format!("{}\n", failure_json(failure)) } else { failure_text(failure) };
    let _ = std::io::stderr().write_all(text.as_bytes());
}

/// The text form of a failure.
pub fn failure_text(failure: &Failure) -> String {
    let (place, reason) = failure.place_and_reason();
    let mut text = format!("vcbmount: {failure}\n");
    for (label, part) in [
        ("where", place.as_deref()),
        ("why", reason.as_deref()),
        ("next", Some(failure.next()).filter(|n| !n.is_empty())),
    ] {
        let Some(part) = part else { continue };
        // Causes with several lines (an excerpt of a configuration file) stay readable and aligned.
        let part = part.replace('\n', "\n         ");
        text.push_str(&format!("  {label:>5}: {part}\n"));
    }
    text
}

/// The JSON form of a failure, one object.
pub fn failure_json(failure: &Failure) -> Value {
    let (place, reason) = failure.place_and_reason();
    json!({
        "error": {
            "code": failure.code().to_string(),
            "title": failure.code().title(),
            "exit": failure.code().exit().number(),
            "what": failure.what(),
            "where": place,
            "why": reason,
            "next": failure.next(),
        }
    })
}

/// Standard output, buffered. A reader that has gone away ends the command quietly, as it does for `cat`.
pub struct Out {
    inner: std::io::BufWriter<std::io::StdoutLock<'static>>,
}

impl Out {
    /// Takes standard output for the rest of the command.
    pub fn new() -> Self {
        Out { inner: std::io::BufWriter::with_capacity(1 << 16, std::io::stdout().lock()) }
    }

    /// Writes bytes.
    ///
    /// # Errors
    /// When they cannot be written.
    pub fn bytes(&mut self, bytes: &[u8]) -> Outcome<()> {
        self.inner.write_all(bytes).map_err(failed)
    }

    /// Writes a line.
    ///
    /// # Errors
    /// As [`Out::bytes`].
    pub fn line(&mut self, line: impl std::fmt::Display) -> Outcome<()> {
        writeln!(self.inner, "{line}").map_err(failed)
    }

    /// Writes out what is buffered; must be called last, so that a full disk is not missed.
    ///
    /// # Errors
    /// As [`Out::bytes`].
    pub fn finish(mut self) -> Outcome<Exit> {
        self.inner.flush().map_err(failed)?;
        Ok(Exit::Done)
    }
}

fn failed(err: std::io::Error) -> Failure {
    if err.kind() == std::io::ErrorKind::BrokenPipe {
        std::process::exit(i32::from(Exit::Done.number()));
    }
    Failure::new(Code::Failed, "cannot write to standard output").because(err)
}

/// Adds a name to a JSON object: under `key` when it is UTF-8, else its bytes in base64 under
/// `key_base64`.
pub fn put_name(object: &mut Map<String, Value>, key: &str, name: &[u8]) {
    match std::str::from_utf8(name) {
        Ok(text) => object.insert(key.to_owned(), text.into()),
        Err(_) => object.insert(format!("{key}_base64"), STANDARD.encode(name).into()),
    };
}

/// A name for people: control characters and what is no UTF-8 are escaped, so that a hostile name cannot
/// drive the terminal.
pub fn printable(name: &[u8]) -> String {
    let mut text = String::new();
    for chunk in name.utf8_chunks() {
        for c in chunk.valid().chars() {
            if c.is_control() { text.extend(c.escape_default()) } else { text.push(c) }
        }
        for byte in chunk.invalid() {
            text.push_str(&format!("\\x{byte:02x}"));
        }
    }
    text
}

/// The bytes of an argument.
pub fn arg_bytes(arg: &OsStr) -> &[u8] {
    arg.as_encoded_bytes()
}

/// A time for people, in UTC.
pub fn time_text(time: Time) -> String {
    let (seconds, nanoseconds) = time.unix();
    match jiff::Timestamp::new(seconds, nanoseconds.cast_signed()) {
        Ok(time) => time.strftime("%Y-%m-%d %H:%M:%S").to_string(),
        // NTFS counts further than calendars do.
        Err(_) => format!("{seconds:>19}"),
    }
}

/// A length for people: `512 B`, `1.5 GiB`.
pub fn human_size(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let unit = (bytes.ilog2() / 10).min(6) as usize;
    let value = bytes as f64 / (1u64 << (10 * unit)) as f64;
    format!("{value:.1} {}", UNITS[unit - 1])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_are_no_text_are_kept_in_base64_and_shown_escaped() {
        let mut object = Map::new();
        put_name(&mut object, "name", "é".as_bytes());
        put_name(&mut object, "other", b"a\xed\xa0\x80");
        assert_eq!(Value::Object(object).to_string(), r#"{"name":"é","other_base64":"Ye2ggA=="}"#);
        assert_eq!(printable(b"a\x1b[31m\xff\n"), "a\\u{1b}[31m\\xff\\n");
    }

    #[test]
    fn sizes_read_well() {
        assert_eq!(human_size(1023), "1023 B");
        assert_eq!(human_size(1536), "1.5 KiB");
        assert_eq!(human_size(2 << 40), "2.0 TiB");
        assert_eq!(human_size(u64::MAX), "16.0 EiB");
    }
}

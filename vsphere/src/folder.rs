//! Reading files through the datastore browser (`/folder`), range by range.

use std::fmt::Write as _;
use std::io::Read;
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use ureq::http::{Response, header};

use crate::client::Client;
use crate::error::{Error, Fault, Result};

const METHOD: &str = "GET /folder";

/// Limits how many requests for files are in flight: hosts answer 503 to more than a handful.
pub(crate) struct Gate {
    free: Mutex<usize>,
    wake: Condvar,
}

impl Gate {
    pub(crate) fn new(width: usize) -> Self {
        Gate { free: Mutex::new(width.max(1)), wake: Condvar::new() }
    }

    fn enter(&self) -> Pass<'_> {
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        while *free == 0 {
            free = self.wake.wait(free).unwrap_or_else(PoisonError::into_inner);
        }
        *free -= 1;
        Pass(self)
    }
}

struct Pass<'a>(&'a Gate);

impl Drop for Pass<'_> {
    fn drop(&mut self) {
        *self.0.free.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        self.0.wake.notify_one();
    }
}

/// A file on a datastore, read over HTTPS. Cheap to clone; any number of threads may read.
#[derive(Clone)]
pub struct DatastoreFile {
    client: Arc<Client>,
    /// Path and query, escaped.
    target: String,
    len: u64,
}

impl DatastoreFile {
    /// Opens `path` on the datastore of that name. `datacenter` comes from [`Client::datacenter_path`].
    ///
    /// The file's length is asked for and its first byte read, so that a server which gives no ranges, or
    /// refuses a disk that is in use, is found out now and not in the middle of a backup.
    ///
    /// # Errors
    /// [`Error::is_not_found`], [`Error::is_refused`], or a description of what the server lacks.
    pub fn open(client: Arc<Client>, datacenter: &str, datastore: &str, path: &str) -> Result<Self> {
        let mut target = String::from("/folder");
        for part in path.split('/') {
            target.push('/');
            escape(&mut target, part);
        }
        target.push_str("?dcPath=");
        escape(&mut target, datacenter);
        target.push_str("&dsName=");
        escape(&mut target, datastore);
        let mut file = DatastoreFile { client, target, len: 0 };
        // Still so after repetitions: some servers answer like this to a disk that is in use.
        let explain = |err| match err {
            Error::Http { status: status @ 500, .. } => refused(status),
            err => err,
        };
        let head = file.request(None).map_err(explain)?;
        let length = head.headers().get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
        file.len = length.ok_or_else(|| Error::protocol(METHOD, "the server does not tell the file's length"))?;
        if file.len > 0 {
            file.read_at(&mut [0], 0).map_err(explain)?;
        }
        Ok(file)
    }

    /// Length in bytes.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.len
    }

    /// True when there is nothing to read.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Fills `buf` with the bytes at `offset`, or fails.
    ///
    /// # Errors
    /// A range past the end, a server that answers with other bytes than asked for, or what it says. Lost
    /// answers and 503 are asked for again, as often as the client's settings say.
    pub fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        let Some(last) = (buf.len() as u64).checked_sub(1).and_then(|more| offset.checked_add(more)) else {
            return if buf.is_empty() { Ok(()) } else { Err(Error::protocol(METHOD, "a range past the end")) };
        };
        if last >= self.len {
            return Err(Error::protocol(METHOD, format!("bytes {offset}-{last} pass the end at {}", self.len)));
        }
        let mut attempt = 1;
        loop {
            match self.read_once(buf, offset, last) {
                Err(err) if err.is_transient() && attempt < self.client.retry.attempts => {
                    tracing::debug!(attempt, %err, "reading again");
                    std::thread::sleep(self.client.retry.pause_before(attempt));
                    attempt += 1;
                }
                other => return other,
            }
        }
    }

    fn read_once(&self, buf: &mut [u8], offset: u64, last: u64) -> Result<()> {
        let _pass = self.client.gate.enter();
        let mut response = self.request_once_with_login(Some((offset, last)))?;
        let range = response.headers().get(header::CONTENT_RANGE).and_then(|value| value.to_str().ok());
        if response.status() != 206 {
            return Err(Error::protocol(METHOD, "the server ignores ranges, so that disks cannot be read from it"));
        }
        let expected = format!("bytes {offset}-{last}/{}", self.len);
        if range != Some(&expected) {
            let got = range.unwrap_or_default().to_owned();
            return Err(Error::protocol(METHOD, format!("the server sent '{got}' instead of '{expected}'")));
        }
        let mut body = response.body_mut().with_config().limit(buf.len() as u64 + 1).reader();
        body.read_exact(buf).map_err(|err| self.client.http.failure(METHOD, err.into()))
    }

    /// A request that may be repeated: heads.
    fn request(&self, range: Option<(u64, u64)>) -> Result<Response<ureq::Body>> {
        let mut attempt = 1;
        loop {
            let pass = self.client.gate.enter();
            let result = self.request_once_with_login(range);
            drop(pass);
            match result {
                Err(err) if err.is_transient() && attempt < self.client.retry.attempts => {
                    std::thread::sleep(self.client.retry.pause_before(attempt));
                    attempt += 1;
                }
                other => return other,
            }
        }
    }

    fn request_once_with_login(&self, range: Option<(u64, u64)>) -> Result<Response<ureq::Body>> {
        let seen = self.client.login_number();
        let mut response = self.client.http.file(METHOD, &self.target, range)?;
        if response.status() == 401 {
            tracing::info!("the session has ended, logging in again");
            self.client.log_in(seen)?;
            response = self.client.http.file(METHOD, &self.target, range)?;
        }
        match response.status().as_u16() {
            200 | 206 => Ok(response),
            // A host answers so to a disk that a VM has open for writing.
            status @ (403 | 409 | 423) => Err(refused(status)),
            status => Err(Error::Http { method: METHOD, status }),
        }
    }
}

fn refused(status: u16) -> Error {
    let message = format!("the server does not give out this file (HTTP status {status})");
    Error::Fault { method: METHOD, fault: Fault { kind: "FileLocked".to_owned(), message } }
}

/// Percent-encodes everything that is not unreserved (RFC 3986), byte by byte.
fn escape(out: &mut String, text: &str) {
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
            out.push(char::from(byte));
        } else {
            // Writing to a string cannot fail.
            let _ = write!(out, "%{byte:02X}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_escaped_byte_by_byte() {
        let mut out = String::new();
        escape(&mut out, "my vm/é+&%.vmdk");
        assert_eq!(out, "my%20vm%2F%C3%A9%2B%26%25.vmdk");
    }
}

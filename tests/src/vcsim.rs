//! Starts the vSphere simulator of `tests/vcsim` and talks to its control port.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};

/// A running simulator; it ends when this is dropped, or when the test process does.
pub struct Vcsim {
    child: Child,
    ready: Value,
}

impl Vcsim {
    /// Builds (once) and starts it with `args`, or says why the test skips.
    ///
    /// # Panics
    /// When it cannot be built or started although `go` is here.
    #[must_use]
    pub fn start(args: &[&str]) -> Option<Vcsim> {
        if !vcb_fixtures::need_tool("go") {
            return None;
        }
        let mut child = Command::new(build())
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the simulator starts");
        let mut line = String::new();
        BufReader::new(child.stdout.take().expect("piped")).read_line(&mut line).expect("the simulator answers");
        let ready = serde_json::from_str(&line).expect("the simulator says where it is");
        Some(Vcsim { child, ready })
    }

    /// `address:port` of the API.
    #[must_use]
    pub fn host(&self) -> &str {
        self.text("host")
    }

    /// The one user name.
    #[must_use]
    pub fn user(&self) -> &str {
        self.text("user")
    }

    /// The one password.
    #[must_use]
    pub fn password(&self) -> &str {
        self.text("password")
    }

    /// SHA-256 of the certificate, in hex.
    #[must_use]
    pub fn fingerprint(&self) -> &str {
        self.text("fingerprint")
    }

    /// PEM of the authority that signed the certificate.
    #[must_use]
    pub fn authority(&self) -> &str {
        self.text("authority")
    }

    fn text(&self, key: &str) -> &str {
        self.ready[key].as_str().expect("a string")
    }

    /// VMs with their snapshots and disks, sessions, datastores, requests made so far.
    #[must_use]
    pub fn state(&self) -> Value {
        serde_json::from_str(&self.request("GET", "/state", "")).expect("JSON")
    }

    /// Names of the snapshots of a VM.
    #[must_use]
    pub fn snapshots(&self, vm: &str) -> Vec<String> {
        strings(&self.state()["vms"][vm]["snapshots"])
    }

    /// User agents of the sessions that are logged in.
    #[must_use]
    pub fn sessions(&self) -> Vec<String> {
        strings(&self.state()["sessions"])
    }

    /// The folder that stands for a datastore.
    #[must_use]
    pub fn datastore(&self, name: &str) -> PathBuf {
        PathBuf::from(self.state()["datastores"][name].as_str().expect("a datastore of that name"))
    }

    /// Changes a VM: see `setup` in `control.go`.
    pub fn vm(&self, setup: &Value) {
        self.request("POST", "/vm", &setup.to_string());
    }

    /// Adds a fault: see `rule` in `faults.go`.
    pub fn fault(&self, rule: &Value) {
        self.request("POST", "/fault", &rule.to_string());
    }

    /// Forgets faults and counted requests.
    pub fn reset(&self) {
        self.request("POST", "/reset", "");
    }

    /// Sets the changed areas of a disk: see `changes` in `world.go`.
    pub fn changed(&self, setup: &Value) {
        self.request("POST", "/changed", &setup.to_string());
    }

    /// Sets the free space of a datastore, in bytes.
    pub fn free(&self, datastore: &str, bytes: u64) {
        self.request("POST", "/free", &json!({"datastore": datastore, "free": bytes}).to_string());
    }

    /// Most requests of that method that were served at once since the last reset.
    #[must_use]
    pub fn peak(&self, method: &str) -> u64 {
        self.state()["peak"][method].as_u64().unwrap_or(0)
    }

    /// How often a method was called since the last reset.
    #[must_use]
    pub fn calls(&self, method: &str) -> usize {
        strings(&self.state()["requests"]).iter().filter(|called| *called == method).count()
    }

    /// Takes privileges from the account.
    pub fn deny(&self, privileges: &[&str]) {
        self.request("POST", "/deny", &json!(privileges).to_string());
    }

    /// Puts the server's clock ahead.
    pub fn clock(&self, seconds: i64) {
        self.request("POST", "/clock", &seconds.to_string());
    }

    /// Lets sessions end after so much silence; 0 for never.
    pub fn idle(&self, millis: u64) {
        self.request("POST", "/idle", &millis.to_string());
    }

    /// Ends every session, as when the server is started again.
    pub fn expire(&self) {
        self.request("POST", "/expire", "");
    }

    /// Says what a datastore is: see `describe` in `world.go`.
    pub fn describe(&self, setup: &Value) {
        self.request("POST", "/datastore", &setup.to_string());
    }

    fn request(&self, method: &str, path: &str, body: &str) -> String {
        let mut stream = TcpStream::connect(self.text("control")).expect("the control port");
        stream.set_read_timeout(Some(Duration::from_secs(30))).expect("a time limit");
        let length = body.len();
        write!(
            stream,
            "{method} {path} HTTP/1.0\r\nHost: control\r\nContent-Type: application/json\r\n\
             Content-Length: {length}\r\n\r\n{body}"
        )
        .expect("sent");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("an answer");
        let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
        assert!(head.contains(" 200 "), "{path}: {head}\n{body}");
        body.to_owned()
    }
}

impl Drop for Vcsim {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        let _ = self.child.wait();
    }
}

fn strings(value: &Value) -> Vec<String> {
    value.as_array().into_iter().flatten().filter_map(|item| item.as_str().map(str::to_owned)).collect()
}

/// Builds the simulator into the target folder. Test binaries run side by side: the first builds, the others
/// wait for it.
fn build() -> PathBuf {
    let exe = std::env::current_exe().expect("a test binary has a path");
    let target = exe.ancestors().nth(3).expect("target/profile/deps/test").join("vcsim");
    std::fs::create_dir_all(&target).expect("a folder for the simulator");
    let lock = File::create(target.join("lock")).expect("a lock file");
    lock.lock().expect("the lock");
    let binary = target.join("vcsim");
    let status = Command::new("go")
        .args(["build", "-mod=readonly", "-buildvcs=false", "-o"])
        .arg(&binary)
        .arg(".")
        .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("vcsim"))
        .status()
        .expect("go runs");
    assert!(status.success(), "tests/vcsim does not build");
    binary
}

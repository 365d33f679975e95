//! Servers whose certificates a person has accepted: `trusted.toml` in the state folder.
//!
//! ```toml
//! ["vc.example:443"]
//! fingerprint = "AB:CD:…"
//! accepted = "2026-01-02T03:04:05Z"
//! ```
//!
//! Only `vcbmount trust` writes it. What the configuration says about a server's certificate goes before it. A
//! server that presents another certificate later is refused.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
pub use vcb_vsphere::{Certificate, Fingerprint};

use super::connect::server_failure;
use crate::config::Config;
use crate::failure::{Code, Failure, Outcome};
use crate::sys;

/// Accepted certificates, by `host:port`.
type Servers = BTreeMap<String, Accepted>;

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Accepted {
    /// SHA-256 of the certificate.
    fingerprint: String,
    /// When it was accepted, RFC 3339.
    accepted: String,
}

/// The certificate that a server presents, for a person to compare. It is not trusted by asking for it.
///
/// # Errors
/// [`Code::Config`] for a malformed host, [`Code::Untrusted`] when no certificate could be had.
pub fn certificate(host: &str, limit: Duration) -> Outcome<Certificate> {
    vcb_vsphere::server_certificate(host, limit)
        .map_err(|err| server_failure(format!("cannot get the certificate of {host}"), err))
}

/// The fingerprint that was accepted for `host`.
///
/// # Errors
/// [`Code::State`] when the file cannot be read; [`Code::Config`] for what is no host.
pub fn accepted(state: &Path, host: &str) -> Outcome<Option<String>> {
    let address = address(host)?;
    Ok(read(&file(state))?.remove(&address).map(|accepted| accepted.fingerprint))
}

/// Accepts `certificate` for `host` from now on, in place of an earlier one.
///
/// # Errors
/// [`Code::State`] when the file cannot be written.
pub fn accept(state: &Path, host: &str, certificate: &Certificate) -> Outcome<PathBuf> {
    let path = file(state);
    let mut servers = read(&path)?;
    let fingerprint = certificate.fingerprint.to_string();
    servers.insert(address(host)?, Accepted { fingerprint, accepted: jiff::Timestamp::now().to_string() });
    let failed = || Failure::new(Code::State, format!("cannot write {}", path.display()));
    let text = toml::to_string(&servers).map_err(|err| failed().because(err))?;
    sys::replace_file(&path, text.as_bytes()).map_err(|err| failed().because(err))?;
    Ok(path)
}

/// Puts the accepted fingerprint of the configured server into `config`, when the configuration itself says
/// nothing about its certificate.
///
/// # Errors
/// As [`accepted`].
pub fn apply(config: &mut Config, state: &Path) -> Outcome<()> {
    if let Some(server) = &mut config.vcenter
        && server.fingerprint.is_none()
        && server.ca_file.is_none()
        && !server.host.is_empty()
    {
        server.fingerprint = accepted(state, &server.host)?;
    }
    Ok(())
}

fn file(state: &Path) -> PathBuf {
    state.join("trusted.toml")
}

fn address(host: &str) -> Outcome<String> {
    vcb_vsphere::address(host).map_err(|err| server_failure("that is no server", err))
}

fn read(path: &Path) -> Outcome<Servers> {
    let failed = || Failure::new(Code::State, format!("cannot read {}", path.display()));
    match std::fs::read_to_string(path) {
        Ok(text) => toml::from_str(&text).map_err(|err| failed().because(err)),
        Err(err) if err.kind() == std::io::ErrorKind::NotFound => Ok(Servers::new()),
        Err(err) => Err(failed().because(err)),
    }
}

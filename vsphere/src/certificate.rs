//! What a server's certificate says about itself, for a person to look at. Nothing is decided by it.

use x509_cert::Certificate as Parsed;
use x509_cert::der::Decode;

use crate::tls::Fingerprint;

/// A certificate as a server presents it.
#[derive(Debug, Clone)]
pub struct Certificate {
    /// SHA-256 of the whole certificate.
    pub fingerprint: Fingerprint,
    /// Whom it names, as RFC 4514 writes names; empty when that cannot be read.
    pub subject: String,
    /// Who signed it, likewise.
    pub issuer: String,
    /// From when on it is valid, in UTC; empty when that cannot be read.
    pub not_before: String,
    /// Until when.
    pub not_after: String,
}

impl Certificate {
    /// Reads a certificate in DER form. What cannot be read is left empty: the fingerprint is of the bytes.
    #[must_use]
    pub(crate) fn read(der: &[u8]) -> Self {
        let mut found = Certificate {
            fingerprint: Fingerprint::of(der),
            subject: String::new(),
            issuer: String::new(),
            not_before: String::new(),
            not_after: String::new(),
        };
        match Parsed::from_der(der) {
            Ok(parsed) => {
                let tbs = parsed.tbs_certificate();
                found.subject = printable(&tbs.subject().to_string());
                found.issuer = printable(&tbs.issuer().to_string());
                found.not_before = tbs.validity().not_before.to_string();
                found.not_after = tbs.validity().not_after.to_string();
            }
            Err(err) => tracing::debug!(%err, "the certificate cannot be read"),
        }
        found
    }
}

/// The names come from whoever answers, and go to a terminal.
fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

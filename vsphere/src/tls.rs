//! Whom we trust, and the TLS connector that applies it.
//!
//! ureq's own rustls connector has no way to pin a certificate, so this one is like it but takes a
//! ready `rustls` configuration.

use std::fmt;
use std::io::{Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, ClientConnection, DigitallySignedStruct, RootCertStore, SignatureScheme, StreamOwned};
use sha2::{Digest, Sha256};
use ureq::unversioned::transport::{
    Buffers, ConnectionDetails, Connector, Either, LazyBuffers, NextTimeout, Transport, TransportAdapter,
};

use crate::certificate::Certificate;
use crate::error::{Error, Result};

/// SHA-256 of a certificate, written as 64 hex digits with or without colons.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Fingerprint([u8; 32]);

impl Fingerprint {
    /// Of a certificate in DER form.
    #[must_use]
    pub fn of(certificate: &[u8]) -> Self {
        Fingerprint(Sha256::digest(certificate).into())
    }

    /// Reads the usual spellings: `AB:CD:…`, `abcd…`, with an optional `sha256:` before it.
    ///
    /// # Errors
    /// [`Error::Setting`] when it is not 32 bytes of hex.
    pub fn parse(text: &str) -> Result<Self> {
        let bad = || Error::Setting("a certificate fingerprint is 64 hex digits (SHA-256)".to_owned());
        let text = text.trim();
        let digits = text.get(..7).filter(|head| head.eq_ignore_ascii_case("sha256:")).map_or(text, |_| &text[7..]);
        let digits: Vec<u8> = digits.bytes().filter(|byte| !matches!(byte, b':' | b' ')).collect();
        if digits.len() != 64 {
            return Err(bad());
        }
        let mut bytes = [0; 32];
        for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
            let pair = std::str::from_utf8(pair).map_err(|_| bad())?;
            *byte = u8::from_str_radix(pair, 16).map_err(|_| bad())?;
        }
        Ok(Fingerprint(bytes))
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, byte) in self.0.iter().enumerate() {
            write!(f, "{}{byte:02X}", if index == 0 { "" } else { ":" })?;
        }
        Ok(())
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Which server certificates are accepted.
#[derive(Debug, Clone)]
pub enum Trust {
    /// Those that a certificate authority of this machine has signed for the host's name.
    System,
    /// Those that one of these authorities has signed for the host's name (PEM).
    Authorities(Vec<u8>),
    /// Exactly this one, whatever its name or age: for the certificates that hosts sign themselves.
    Pin(Fingerprint),
    /// Any. The caller must have been told, loudly.
    Anything,
}

impl Trust {
    pub(crate) fn config(&self) -> Result<Arc<ClientConfig>> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .map_err(|err| Error::Setting(format!("TLS cannot be set up: {err}")))?;
        let config = match self {
            Trust::System => {
                let mut roots = RootCertStore::empty();
                let found = rustls_native_certs::load_native_certs();
                let (added, _) = roots.add_parsable_certificates(found.certs);
                if added == 0 {
                    tracing::warn!("this machine has no certificate authorities: no server can be verified");
                }
                builder.with_root_certificates(roots).with_no_client_auth()
            }
            Trust::Authorities(pem) => {
                let mut roots = RootCertStore::empty();
                for certificate in CertificateDer::pem_slice_iter(pem) {
                    let certificate =
                        certificate.map_err(|err| Error::Setting(format!("the authority file is not PEM: {err}")))?;
                    roots
                        .add(certificate)
                        .map_err(|err| Error::Setting(format!("a certificate authority cannot be used: {err}")))?;
                }
                if roots.is_empty() {
                    return Err(Error::Setting("the authority file holds no certificate".to_owned()));
                }
                builder.with_root_certificates(roots).with_no_client_auth()
            }
            Trust::Pin(pin) => builder
                .dangerous()
                .with_custom_certificate_verifier(Arc::new(Leaf { accept: Accept::Pin(*pin), provider }))
                .with_no_client_auth(),
            Trust::Anything => builder
                .dangerous()
                .with_custom_certificate_verifier(Arc::new(Leaf { accept: Accept::Anything, provider }))
                .with_no_client_auth(),
        };
        Ok(Arc::new(config))
    }
}

/// The certificate that `host[:port]` presents, without trusting it: for a person to
/// compare with what the host's own console shows.
///
/// # Errors
/// [`Error::Setting`] for a malformed host, [`Error::Tls`] when no certificate could be had.
pub fn server_certificate(host: &str, limit: Duration) -> Result<Certificate> {
    let failed = |reason: String| Error::Tls { host: host.to_owned(), reason };
    let (name, port) = split_host(host)?;
    let server = ServerName::try_from(name.to_owned()).map_err(|err| failed(err.to_string()))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let seen = Arc::new(Mutex::new(None));
    let config = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|err| failed(err.to_string()))?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Leaf { accept: Accept::Record(seen.clone()), provider }))
        .with_no_client_auth();
    let address = (name, port)
        .to_socket_addrs()
        .map_err(|err| failed(err.to_string()))?
        .next()
        .ok_or_else(|| failed("the name has no address".to_owned()))?;
    let mut stream = TcpStream::connect_timeout(&address, limit).map_err(|err| failed(err.to_string()))?;
    stream.set_read_timeout(Some(limit)).map_err(|err| failed(err.to_string()))?;
    stream.set_write_timeout(Some(limit)).map_err(|err| failed(err.to_string()))?;
    let mut tls = ClientConnection::new(Arc::new(config), server).map_err(|err| failed(err.to_string()))?;
    tls.complete_io(&mut stream).map_err(|err| failed(err.to_string()))?;
    let found = seen.lock().unwrap_or_else(PoisonError::into_inner).take();
    found.ok_or_else(|| failed("the host presented no certificate".to_owned()))
}

/// `host[:port]` as `host:port`, in lower case: one spelling for one server.
///
/// # Errors
/// [`Error::Setting`] for what is no host.
pub fn address(host: &str) -> Result<String> {
    let (name, port) = split_host(host)?;
    let name = name.to_ascii_lowercase();
    Ok(if name.contains(':') { format!("[{name}]:{port}") } else { format!("{name}:{port}") })
}

/// Splits `host[:port]`; brackets around an IPv6 address are dropped, the port is 443 when missing.
pub(crate) fn split_host(host: &str) -> Result<(&str, u16)> {
    let bad = || Error::Setting(format!("'{host}' is not a host name or address with an optional port"));
    let (name, port) = match host.strip_prefix('[') {
        Some(rest) => {
            let (name, rest) = rest.split_once(']').ok_or_else(bad)?;
            (name, rest.strip_prefix(':').or(rest.is_empty().then_some("443")).ok_or_else(bad)?)
        }
        None => host.rsplit_once(':').unwrap_or((host, "443")),
    };
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | ':');
    if name.is_empty() || !name.chars().all(plain) || (name.contains(':') && !host.starts_with('[')) {
        return Err(bad());
    }
    Ok((name, port.parse().map_err(|_| bad())?))
}

#[derive(Debug)]
enum Accept {
    Pin(Fingerprint),
    Record(Arc<Mutex<Option<Certificate>>>),
    Anything,
}

/// Looks at the leaf certificate alone. The handshake's signature is always checked, so that the server
/// has proved to hold the certificate's key.
#[derive(Debug)]
struct Leaf {
    accept: Accept,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Leaf {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let presented = Fingerprint::of(end_entity);
        match &self.accept {
            Accept::Pin(pin) if *pin != presented => {
                return Err(rustls::Error::General(format!(
                    "the certificate is not the pinned one: it has the fingerprint {presented}"
                )));
            }
            Accept::Pin(_) | Accept::Anything => {}
            Accept::Record(seen) => {
                *seen.lock().unwrap_or_else(PoisonError::into_inner) = Some(Certificate::read(end_entity));
            }
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// Wraps connections to `https` addresses in TLS.
pub(crate) struct TlsConnector(pub Arc<ClientConfig>);

impl fmt::Debug for TlsConnector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TlsConnector")
    }
}

impl<In: Transport> Connector<In> for TlsConnector {
    type Out = Either<In, TlsTransport>;

    fn connect(&self, details: &ConnectionDetails<'_>, chained: Option<In>) -> Result<Option<Self::Out>, ureq::Error> {
        let Some(transport) = chained else { return Err(ureq::Error::ConnectionFailed) };
        if !details.needs_tls() || transport.is_tls() {
            return Ok(Some(Either::A(transport)));
        }
        let host = details.uri.host().unwrap_or_default().trim_start_matches('[').trim_end_matches(']');
        let name = ServerName::try_from(host.to_owned()).map_err(|_| ureq::Error::Tls("not a valid host name"))?;
        let mut conn = ClientConnection::new(self.0.clone(), name).map_err(ureq::Error::Rustls)?;
        let mut sock = TransportAdapter::new(transport.boxed(), details.current_time.clone());
        sock.set_timeout(details.timeout);
        conn.complete_io(&mut sock)?;
        let buffers = LazyBuffers::new(details.config.input_buffer_size(), details.config.output_buffer_size());
        Ok(Some(Either::B(TlsTransport { buffers, stream: StreamOwned { conn, sock } })))
    }
}

/// A connection inside TLS.
pub(crate) struct TlsTransport {
    buffers: LazyBuffers,
    stream: StreamOwned<ClientConnection, TransportAdapter>,
}

impl fmt::Debug for TlsTransport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TlsTransport")
    }
}

impl Transport for TlsTransport {
    fn buffers(&mut self) -> &mut dyn Buffers {
        &mut self.buffers
    }

    fn transmit_output(&mut self, amount: usize, timeout: NextTimeout) -> Result<(), ureq::Error> {
        self.stream.get_mut().set_timeout(timeout);
        let output = &self.buffers.output()[..amount];
        self.stream.write_all(output)?;
        Ok(())
    }

    fn await_input(&mut self, timeout: NextTimeout) -> Result<bool, ureq::Error> {
        self.stream.get_mut().set_timeout(timeout);
        let input = self.buffers.input_append_buf();
        let amount = self.stream.read(input)?;
        self.buffers.input_appended(amount);
        Ok(amount > 0)
    }

    fn is_open(&mut self) -> bool {
        self.stream.get_mut().get_mut().is_open()
    }

    fn is_tls(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fingerprints_read_in_every_spelling() {
        let pin = Fingerprint::of(b"a certificate");
        let text = pin.to_string();
        assert_eq!(text.len(), 95);
        for spelling in [text.clone(), text.to_lowercase(), text.replace(':', ""), format!(" SHA256:{text} ")] {
            assert_eq!(Fingerprint::parse(&spelling).unwrap(), pin, "{spelling}");
        }
        for bad in ["", "AB:CD", &text[..94], &text.replace('A', "x").replacen(':', "g", 1), "sha256:é"] {
            assert!(Fingerprint::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn hosts_are_split_and_checked() {
        assert_eq!(split_host("vc.example").unwrap(), ("vc.example", 443));
        assert_eq!(split_host("10.0.0.1:8989").unwrap(), ("10.0.0.1", 8989));
        assert_eq!(address("VC.Example").unwrap(), "vc.example:443");
        assert_eq!(address("[FE80::1]:1").unwrap(), "[fe80::1]:1");
        assert_eq!(split_host("[fe80::1]:1").unwrap(), ("fe80::1", 1));
        assert_eq!(split_host("[fe80::1]").unwrap(), ("fe80::1", 443));
        for bad in ["", ":443", "a b", "user:pw@host", "host/sdk", "host:99999", "fe80::1", "[::1", "[::1]x"] {
            assert!(split_host(bad).is_err(), "{bad}");
        }
    }
}

//! One HTTP exchange: addresses, the session cookie, size caps, and what a failure means.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use ureq::http::{Response, header};
use ureq::unversioned::resolver::DefaultResolver;
use ureq::unversioned::transport::{Connector as _, TcpConnector};
use ureq::{Agent, Body};

use crate::error::{Error, Result};
use crate::secret::Secret;
use crate::tls::{TlsConnector, Trust, address};
use crate::xml;

/// Name of the cookie that carries a vSphere session.
const COOKIE: &str = "vmware_soap_session";

/// Connections to one server, and the cookie of the session on it.
pub(crate) struct Http {
    agent: Agent,
    host: String,
    cookie: Mutex<Option<Secret>>,
}

impl Http {
    pub(crate) fn new(host: &str, trust: &Trust, user_agent: &str, limit: Duration) -> Result<Self> {
        let host = address(host)?;
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .https_only(true)
            .max_redirects(0)
            .proxy(None)
            .user_agent(user_agent)
            .timeout_connect(Some(limit.min(Duration::from_secs(20))))
            .timeout_global(Some(limit))
            .max_idle_connections_per_host(8)
            .build();
        let connector = ().chain(TcpConnector::default()).chain(TlsConnector(trust.config()?));
        let agent = Agent::with_parts(config, connector, DefaultResolver::default());
        Ok(Http { agent, host, cookie: Mutex::new(None) })
    }

    pub(crate) fn host(&self) -> &str {
        &self.host
    }

    pub(crate) fn has_session(&self) -> bool {
        self.cookie.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }

    pub(crate) fn forget_session(&self) {
        *self.cookie.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// Posts a SOAP envelope to `/sdk`; gives status and body.
    pub(crate) fn post(&self, method: &'static str, action: &str, envelope: &str) -> Result<(u16, Vec<u8>)> {
        let mut request = self
            .agent
            .post(format!("https://{}/sdk", self.host))
            .header(header::CONTENT_TYPE, "text/xml; charset=utf-8")
            .header("SOAPAction", action);
        if let Some(cookie) = self.cookie_header() {
            request = request.header(header::COOKIE, cookie.expose());
        }
        let mut response = request.send(envelope).map_err(|err| self.failure(method, err))?;
        self.keep_cookie(&response);
        let status = response.status().as_u16();
        let body = response
            .body_mut()
            .with_config()
            .limit(xml::MAX_BYTES)
            .read_to_vec()
            .map_err(|err| self.failure(method, err))?;
        Ok((status, body))
    }

    /// Asks for a file of the datastore browser: its head, or the bytes `range` (inclusive, as HTTP has it).
    pub(crate) fn file(
        &self,
        method: &'static str,
        path_and_query: &str,
        range: Option<(u64, u64)>,
    ) -> Result<Response<Body>> {
        let url = format!("https://{}{path_and_query}", self.host);
        let mut request = match range {
            None => self.agent.head(url),
            Some((first, last)) => self.agent.get(url).header(header::RANGE, format!("bytes={first}-{last}")),
        };
        if let Some(cookie) = self.cookie_header() {
            request = request.header(header::COOKIE, cookie.expose());
        }
        let response = request.call().map_err(|err| self.failure(method, err))?;
        self.keep_cookie(&response);
        Ok(response)
    }

    /// Turns a failure of the HTTP client into ours.
    pub(crate) fn failure(&self, method: &'static str, err: ureq::Error) -> Error {
        let tls = match &err {
            ureq::Error::Rustls(err) => Some(err.to_string()),
            ureq::Error::Tls(text) => Some((*text).to_owned()),
            ureq::Error::Io(io) => {
                io.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()).map(ToString::to_string)
            }
            ureq::Error::BodyExceedsLimit(limit) => {
                return Error::protocol(method, format!("the answer is larger than {limit} bytes"));
            }
            _ => None,
        };
        match tls {
            Some(reason) => Error::Tls { host: self.host.clone(), reason },
            None => Error::Unreachable { host: self.host.clone(), method, source: Box::new(err) },
        }
    }

    fn cookie_header(&self) -> Option<Secret> {
        let cookie = self.cookie.lock().unwrap_or_else(PoisonError::into_inner);
        cookie.as_ref().map(|value| Secret::new(format!("{COOKIE}={}", value.expose())))
    }

    /// Servers hand out the cookie with the first answer and again when a session begins.
    fn keep_cookie<B>(&self, response: &Response<B>) {
        for value in response.headers().get_all(header::SET_COOKIE) {
            let Ok(text) = value.to_str() else { continue };
            let Some((name, value)) = text.split(';').next().and_then(|pair| pair.split_once('=')) else { continue };
            if name.trim() == COOKIE && !value.is_empty() {
                *self.cookie.lock().unwrap_or_else(PoisonError::into_inner) = Some(Secret::new(value.trim()));
            }
        }
    }
}

//! The session: logging in, calling, logging in again when the server has forgotten us, logging out.

use std::collections::BTreeMap;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::error::{Error, Result};
use crate::fault::point;
use crate::folder::Gate;
use crate::http::Http;
use crate::model::Moref;
use crate::secret::Secret;
use crate::soap::Call;
use crate::tls::Trust;
use crate::xml::Node;

/// How calls that may be repeated are repeated when there was no answer.
#[derive(Debug, Clone, Copy)]
pub struct Retry {
    /// How often a call is made at most; 1 means no repetition.
    pub attempts: u32,
    /// Pause before the first repetition; it doubles with each one, up to 10 s.
    pub pause: Duration,
}

impl Default for Retry {
    fn default() -> Self {
        Retry { attempts: 4, pause: Duration::from_millis(500) }
    }
}

impl Retry {
    pub(crate) fn pause_before(&self, attempt: u32) -> Duration {
        self.pause.saturating_mul(1 << attempt.saturating_sub(1).min(10)).min(Duration::from_secs(10))
    }
}

/// Where to connect, as whom, and how.
#[derive(Debug, Clone)]
pub struct Settings {
    /// `host[:port]` of a vCenter or an ESXi host.
    pub host: String,
    /// User name.
    pub user: String,
    /// Password.
    pub password: Secret,
    /// Which certificates are accepted.
    pub trust: Trust,
    /// How we are named in the server's list of sessions.
    pub user_agent: String,
    /// Longest a single call may take, connecting included.
    pub limit: Duration,
    /// Repetition of calls that got no answer.
    pub retry: Retry,
    /// Most requests for datastore files in flight at once; hosts answer 503 to more than a handful.
    pub file_requests: usize,
}

impl Settings {
    /// The usual values for everything but the address and the account.
    #[must_use]
    pub fn new(host: impl Into<String>, user: impl Into<String>, password: Secret) -> Self {
        Settings {
            host: host.into(),
            user: user.into(),
            password,
            trust: Trust::System,
            user_agent: concat!("vcbmount/", env!("CARGO_PKG_VERSION")).to_owned(),
            limit: Duration::from_secs(120),
            retry: Retry::default(),
            file_requests: 4,
        }
    }
}

/// A session with a vCenter or an ESXi host. It logs out when dropped.
pub struct Client {
    pub(crate) http: Http,
    pub(crate) retry: Retry,
    pub(crate) gate: Gate,
    user: String,
    password: Secret,
    login: Mutex<Login>,
    content: BTreeMap<String, Moref>,
    about: About,
}

/// Which session we are in. `number` counts logins, so that of several threads whose calls were refused
/// only the first logs in again.
#[derive(Default)]
struct Login {
    number: u64,
    key: Option<String>,
}

#[derive(Default)]
struct About {
    full_name: String,
    virtual_center: bool,
}

impl Client {
    /// Connects and logs in.
    ///
    /// # Errors
    /// [`Error::Tls`], [`Error::Unreachable`], or the server's fault; [`Error::is_refused`] tells a wrong
    /// password.
    pub fn connect(settings: &Settings) -> Result<Client> {
        let mut client = Client {
            http: Http::new(&settings.host, &settings.trust, &settings.user_agent, settings.limit)?,
            retry: settings.retry,
            gate: Gate::new(settings.file_requests),
            user: settings.user.clone(),
            password: settings.password.clone(),
            login: Mutex::default(),
            content: BTreeMap::new(),
            about: About::default(),
        };
        let root = Moref::new("ServiceInstance", "ServiceInstance");
        let answer = client.call_without_login(&Call::new("RetrieveServiceContent", &root))?;
        let content =
            answer.child("returnval").ok_or_else(|| Error::protocol("RetrieveServiceContent", "no service content"))?;
        client.content =
            content.children.iter().filter_map(|node| node.moref().map(|object| (node.name.clone(), object))).collect();
        if let Some(about) = content.child("about") {
            client.about = About {
                full_name: about.string("fullName").unwrap_or_default(),
                virtual_center: about.text_of("apiType") == Some("VirtualCenter"),
            };
        }
        client.log_in(0)?;
        Ok(client)
    }

    /// What the server calls itself: product, version and build.
    #[must_use]
    pub fn about(&self) -> &str {
        &self.about.full_name
    }

    /// Whether it is a vCenter rather than a host by itself.
    #[must_use]
    pub fn is_virtual_center(&self) -> bool {
        self.about.virtual_center
    }

    /// Host and port connected to.
    #[must_use]
    pub fn host(&self) -> &str {
        self.http.host()
    }

    /// A managed object of the service content, such as `rootFolder`.
    pub(crate) fn content(&self, name: &str) -> Option<Moref> {
        self.content.get(name).cloned()
    }

    /// Key of the session in the server's list. It names the session and gives no access to it.
    pub(crate) fn session_key(&self) -> Result<String> {
        let login = self.login.lock().unwrap_or_else(PoisonError::into_inner);
        login.key.clone().ok_or_else(|| Error::NotFound("the session".to_owned()))
    }

    fn session_manager(&self) -> Result<Moref> {
        self.content("sessionManager").ok_or_else(|| Error::NotFound("the session manager".to_owned()))
    }

    /// Logs in, unless another thread has done so since login number `seen`.
    pub(crate) fn log_in(&self, seen: u64) -> Result<()> {
        // Held while logging in: the other threads have nothing to do without a session.
        let mut login = self.login.lock().unwrap_or_else(PoisonError::into_inner);
        if login.number != seen {
            return Ok(());
        }
        let manager = self.session_manager()?;
        let call = Call::once("Login", &manager).text("userName", &self.user).text("password", self.password.expose());
        let mut attempt = 1;
        let answer = loop {
            self.http.forget_session();
            let err = match self.call_without_login(&call) {
                Ok(answer) => break answer,
                Err(err) => err,
            };
            // It may have been carried out, and only the rest of the answer lost: that session must not stay, and
            // within it a second login is refused.
            if self.http.has_session()
                && let Err(err) = self.call_without_login(&Call::once("Logout", &manager))
            {
                tracing::debug!(%err, "there was nothing to log out from");
            }
            self.http.forget_session();
            if !err.is_transient() || attempt >= self.retry.attempts {
                return Err(err);
            }
            tracing::warn!(attempt, %err, "no usable answer, logging in again");
            std::thread::sleep(self.retry.pause_before(attempt));
            attempt += 1;
        };
        login.key = answer.child("returnval").and_then(|session| session.string("key"));
        login.number += 1;
        Ok(())
    }

    /// Number of the login that calls made now use.
    pub(crate) fn login_number(&self) -> u64 {
        self.login.lock().unwrap_or_else(PoisonError::into_inner).number
    }

    /// Makes a call, logging in again once when the session has gone.
    pub(crate) fn call(&self, call: Call) -> Result<Node> {
        let seen = self.login_number();
        match self.call_without_login(&call) {
            Err(Error::Fault { fault, .. }) if fault.kind == "NotAuthenticated" => {
                tracing::info!(host = self.http.host(), "the session has ended, logging in again");
                self.log_in(seen)?;
                self.call_without_login(&call)
            }
            other => other,
        }
    }

    fn call_without_login(&self, call: &Call) -> Result<Node> {
        let mut attempt = 1;
        loop {
            let started = Instant::now();
            point("before", call.method);
            let result = self
                .http
                .post(call.method, call.action(), &call.envelope())
                .and_then(|(status, body)| call.answer(status, body));
            point("after", call.method);
            let millis = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
            match &result {
                Ok(_) => tracing::debug!(method = call.method, millis, "answered"),
                Err(err) => tracing::debug!(method = call.method, millis, %err, "failed"),
            }
            match result {
                Err(err) if err.is_transient() && call.repeatable && attempt < self.retry.attempts => {
                    tracing::warn!(method = call.method, attempt, %err, "no usable answer, asking again");
                    std::thread::sleep(self.retry.pause_before(attempt));
                    attempt += 1;
                }
                other => return other,
            }
        }
    }

    /// Asks for the time, which keeps the session from expiring, and gives the server's answer.
    ///
    /// # Errors
    /// What the server says.
    pub fn current_time(&self) -> Result<String> {
        let call = Call::new("CurrentTime", &Moref::new("ServiceInstance", "ServiceInstance"));
        let answer = self.call(call)?;
        answer.string("returnval").ok_or_else(|| Error::protocol("CurrentTime", "no time"))
    }

    /// Ends other sessions whose user agent satisfies `ours`, and gives their number: those that a killed
    /// process has left behind. Needs the privilege `Sessions.TerminateSession`.
    ///
    /// # Errors
    /// What the server says.
    pub fn end_sessions(&self, ours: impl Fn(&str) -> bool) -> Result<usize> {
        let manager = self.session_manager()?;
        let list = self.property(&manager, "sessionList")?;
        let own = self.session_key()?;
        let mut ended = 0;
        for session in list.children.iter().filter(|node| node.name == "UserSession") {
            let (Some(key), Some(agent)) = (session.string("key"), session.string("userAgent")) else { continue };
            if key == own || !ours(&agent) {
                continue;
            }
            match self.call(Call::new("TerminateSession", &manager).text("sessionId", key)) {
                Ok(_) => ended += 1,
                Err(err) if err.is_not_found() => {}
                Err(err) => return Err(err),
            }
        }
        Ok(ended)
    }

    /// Ends the session. Dropping the client does the same and keeps silent about failures.
    ///
    /// # Errors
    /// What the server says.
    pub fn log_out(self) -> Result<()> {
        self.end_session()
    }

    fn end_session(&self) -> Result<()> {
        let mut login = self.login.lock().unwrap_or_else(PoisonError::into_inner);
        if login.key.take().is_none() || !self.http.has_session() {
            return Ok(());
        }
        // Once: a session whose end was not confirmed expires by itself.
        let result = self.call_without_login(&Call::once("Logout", &self.session_manager()?));
        self.http.forget_session();
        match result {
            Err(Error::Fault { fault, .. }) if fault.kind == "NotAuthenticated" => Ok(()),
            other => other.map(drop),
        }
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        if let Err(err) = self.end_session() {
            tracing::debug!(%err, "logging out failed");
        }
    }
}

/// Keeps a session alive from a thread of its own until dropped.
pub struct KeepAlive {
    stop: Arc<(Mutex<bool>, Condvar)>,
    thread: Option<JoinHandle<()>>,
}

impl KeepAlive {
    /// Asks `client` for the time every `interval`. Sessions expire after 30 minutes of silence; ten
    /// minutes leave room for two lost calls.
    #[must_use]
    pub fn start(client: Arc<Client>, interval: Duration) -> Self {
        let stop = Arc::new((Mutex::new(false), Condvar::new()));
        let seen = stop.clone();
        let thread = std::thread::spawn(move || {
            let (stopped, wake) = &*seen;
            let mut guard = stopped.lock().unwrap_or_else(PoisonError::into_inner);
            while !*guard {
                let (next, timeout) = wake.wait_timeout(guard, interval).unwrap_or_else(PoisonError::into_inner);
                guard = next;
                if timeout.timed_out() && !*guard {
                    drop(guard);
                    if let Err(err) = client.current_time() {
                        tracing::warn!(%err, "keeping the session alive failed");
                    }
                    guard = stopped.lock().unwrap_or_else(PoisonError::into_inner);
                }
            }
        });
        KeepAlive { stop, thread: Some(thread) }
    }
}

impl Drop for KeepAlive {
    fn drop(&mut self) {
        *self.stop.0.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.stop.1.notify_all();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::debug!("the keep-alive thread panicked");
        }
    }
}

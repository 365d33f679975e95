//! `doctor`: what on this host would keep a backup from working.

use serde_json::{Value, json};
use vcb_mountd::config::Config;
use vcb_mountd::datastore::Datastores;
use vcb_mountd::lookup;
use vcb_mountd::spec::Spec;
use vcb_mountd::{Exit, Outcome};

use super::luns;
use super::mount::with_proxy;
use crate::context::Context;
use crate::output::Out;
use crate::sys;

/// Clocks that differ by more seconds than this are worth a word.
const MAX_SKEW: i64 = 60;

/// How a check went.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Health {
    /// As it should be.
    Good,
    /// Works, with a limit that the user should know.
    Limited,
    /// Keeps something from working.
    Bad,
}

/// One thing that was looked at.
pub struct Check {
    /// How it went.
    pub health: Health,
    /// What was looked at, and what was found.
    pub found: String,
    /// What to do about it; empty when it is good.
    pub advice: String,
    /// The VMFS volume it is about, for `--json`.
    pub volume: Option<Value>,
}

impl Check {
    /// As it should be.
    pub fn good(found: impl Into<String>) -> Self {
        Check { health: Health::Good, found: found.into(), advice: String::new(), volume: None }
    }

    /// Works, with a limit.
    pub fn limited(found: impl Into<String>, advice: impl Into<String>) -> Self {
        Check { health: Health::Limited, found: found.into(), advice: advice.into(), volume: None }
    }

    /// Does not work.
    pub fn bad(found: impl Into<String>, advice: impl Into<String>) -> Self {
        Check { health: Health::Bad, found: found.into(), advice: advice.into(), volume: None }
    }

    /// With what is known of a volume.
    pub fn about(self, volume: Value) -> Self {
        Check { volume: Some(volume), ..self }
    }
}

/// Makes all checks. It exits with 1 when any is bad.
pub fn run(context: &Context) -> Outcome<Exit> {
    let mut checks = sys::mount_checks();
    checks.push(config_check(context));
    checks.extend(datastore_checks(&context.config));
    checks.extend(luns::checks(&context.config.datastores));
    checks.extend(server_checks(context));
    let mut out = Out::new();
    for check in &checks {
        let word = match check.health {
            Health::Good => "ok",
            Health::Limited => "limited",
            Health::Bad => "BAD",
        };
        if context.json {
            let mut object = json!({ "health": word.to_lowercase(), "found": check.found, "advice": check.advice });
            if let Some(volume) = &check.volume {
                object["volume"] = volume.clone();
            }
            out.line(object)?;
        } else {
            out.line(format_args!("{word:<8} {}", check.found))?;
            if !check.advice.is_empty() {
                out.line(format_args!("         {}", check.advice))?;
            }
        }
    }
    out.finish()?;
    Ok(if checks.iter().any(|check| check.health == Health::Bad) { Exit::Failed } else { Exit::Done })
}

fn config_check(context: &Context) -> Check {
    // Reading it was successful, or this command would not run.
    let read: Vec<String> = Config::files(context.config_file.as_deref())
        .iter()
        .filter(|file| file.exists())
        .map(|file| file.display().to_string())
        .collect();
    if read.is_empty() {
        let usual = Config::files(None).into_iter().next().unwrap_or_default();
        return Check::limited(
            "no configuration file: VMs can be named by path only",
            format!("Write {}; docs/configuration.md has an example.", usual.display()),
        );
    }
    Check::good(format!("configuration: {}", read.join(", ")))
}

/// Whether the configured server lets us in, grants what backups need, and has our time.
fn server_checks(context: &Context) -> Vec<Check> {
    let Some(vcenter) = &context.config.vcenter else { return Vec::new() };
    let host = &vcenter.host;
    let examined = match with_proxy(context, |proxy| proxy.examine()) {
        Ok(examined) => examined,
        Err(failure) => return vec![Check::bad(format!("{failure:?}"), failure.next())],
    };
    let mut checks = vec![Check::good(format!("logged in to {host}: {}", examined.about))];
    let skew = examined.ahead_seconds;
    if skew.abs() > MAX_SKEW {
        let way = if skew > 0 { "ahead of" } else { "behind" };
        checks.push(Check::limited(
            format!("the clock of {host} is {} s {way} this host's", skew.abs()),
            "Set both by NTP: certificates and the times in logs depend on them.",
        ));
    } else {
        checks.push(Check::good(format!("the clocks of {host} and this host agree")));
    }
    if examined.lacking.is_empty() {
        checks.push(Check::good(format!("{} has the privileges that backups need", vcenter.username)));
    }
    for lack in examined.lacking {
        let (on, more) = (lack.examples.join(", "), lack.count - lack.examples.len());
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        let found = format!("{} lacks {} (for {}) on {on}{more}", vcenter.username, lack.privilege, lack.purpose);
        let advice = "Add it to the role of that account; docs/server.md lists all that is needed.";
        checks.push(if lack.needed { Check::bad(found, advice) } else { Check::limited(found, advice) });
    }
    checks
}

fn datastore_checks(config: &Config) -> Vec<Check> {
    let mut checks = Vec::new();
    for datastore in &config.datastores {
        let store = match Datastores::open_one(datastore) {
            Ok(store) => store,
            Err(failure) => {
                checks.push(Check::bad(format!("datastore {}: {failure:?}", datastore.name), failure.next()));
                continue;
            }
        };
        let one = Config { datastores: vec![datastore.clone()], ..Config::default() };
        match lookup::find(&Spec::Any(None), &one) {
            Ok(search) => {
                let found = format!("datastore {}: {}, {} VMs", datastore.name, store.describe(), search.vms.len());
                checks.push(match search.failures.first() {
                    None => Check::good(found),
                    Some(failure) => Check::limited(
                        format!("{found}; {} places cannot be read, the first: {failure:?}", search.failures.len()),
                        failure.next(),
                    ),
                });
            }
            Err(failure) => {
                checks.push(Check::bad(format!("datastore {}: {failure:?}", datastore.name), failure.next()));
            }
        }
    }
    checks
}

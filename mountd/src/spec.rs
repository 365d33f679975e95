//! What a user calls a VM by: `name:web01`, `path:/vms/web01`, `powerstate:on`, …

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use crate::config::LookupMethod;
use crate::datastore::DsPath;
use crate::failure::{Code, Failure, Outcome};

/// A specification of one or more VMs. Its text form is what `list` prints, so every line of a listing can
/// be passed back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Spec {
    /// Display name, exact and case-sensitive.
    Name(String),
    /// BIOS or instance UUID; compared by its hex digits alone.
    Uuid(String),
    /// Managed object id of the server's inventory, `vm-42`.
    Moref(String),
    /// IP address or DNS name of the running guest.
    IpAddr(String),
    /// Every VM (`None`), or those of which any identity equals the text.
    Any(Option<String>),
    /// VMs that are on (`true`) or not.
    PowerState(bool),
    /// A .vmx, .vmdk, .ova or VM folder.
    Path(Place),
}

/// Where something lies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// A path of this host.
    Host(PathBuf),
    /// `[datastore] folder/file`.
    Datastore(DsPath),
}

impl Spec {
    /// Reads a specification. Keys are not case-sensitive. A word without a known key is a path when one
    /// exists under that name or it is written as `[datastore] …`, else it is looked up by `method`.
    ///
    /// # Errors
    /// [`Code::Spec`].
    pub fn parse(text: &str, method: LookupMethod) -> Outcome<Spec> {
        let wrong = |why: String| Failure::new(Code::Spec, format!("'{text}' is no VM specification")).because(why);
        if text.is_empty() {
            return Err(wrong("it is empty".to_owned()));
        }
        if Path::new(text).exists() {
            return Ok(Spec::Path(Place::Host(PathBuf::from(text))));
        }
        if text.starts_with('[') {
            return Ok(Spec::Path(Place::Datastore(text.parse()?)));
        }
        let (key, value) = match text.split_once(':') {
            Some((key, value)) => (key.to_ascii_lowercase(), value),
            None if text.eq_ignore_ascii_case("any") => ("any".to_owned(), ""),
            None => (method_key(method).to_owned(), text),
        };
        let spec = match key.as_str() {
            "any" => Spec::Any(Some(value).filter(|value| !matches!(*value, "" | "*")).map(str::to_owned)),
            "name" => Spec::Name(value.to_owned()),
            "uuid" => Spec::Uuid(value.to_owned()),
            "moref" => Spec::Moref(value.to_owned()),
            "ipaddr" => Spec::IpAddr(value.to_owned()),
            "powerstate" => match value.to_ascii_lowercase().as_str() {
                "on" => Spec::PowerState(true),
                "off" => Spec::PowerState(false),
                _ => return Err(wrong(format!("powerstate is 'on' or 'off', not '{value}'"))),
            },
            "path" if value.starts_with('[') => Spec::Path(Place::Datastore(value.parse()?)),
            "path" => Spec::Path(Place::Host(PathBuf::from(value))),
            _ if looks_like_path(text) => return Err(missing(text)),
            _ => return Err(wrong(format!("'{key}' is no known key{}", nearest(&key)))),
        };
        if value.is_empty() && key != "any" {
            return Err(wrong(format!("nothing follows '{key}:'")));
        }
        if let Spec::Uuid(uuid) = &spec
            && uuid_digits(uuid).is_none()
        {
            return Err(wrong(format!("'{uuid}' has not the 32 hexadecimal digits of a UUID")));
        }
        if looks_like_path(text) && !text.contains(':') {
            return Err(missing(text));
        }
        Ok(spec)
    }

    /// True when it can match any number of VMs, so that a command for one VM must refuse it.
    #[must_use]
    pub fn is_plural(&self) -> bool {
        matches!(self, Spec::Any(None) | Spec::PowerState(_))
    }
}

/// A word with a slash cannot be a name on a datastore; most likely it is a path with a slip of the pen.
fn looks_like_path(text: &str) -> bool {
    text.starts_with(['/', '.', '~']) || text.contains('/')
}

fn missing(text: &str) -> Failure {
    Failure::new(Code::VmNotFound, format!("there is no file or folder '{text}'"))
        .next_step("Check the path, or write name:NAME when it is the name of a VM.")
}

fn method_key(method: LookupMethod) -> &'static str {
    match method {
        LookupMethod::Name => "name",
        LookupMethod::Uuid => "uuid",
        LookupMethod::Moref => "moref",
        LookupMethod::Ipaddr => "ipaddr",
    }
}

fn nearest(key: &str) -> String {
    let known = ["any", "name", "uuid", "moref", "ipaddr", "powerstate", "path"];
    let best = known.into_iter().max_by(|a, b| strsim::jaro_winkler(key, a).total_cmp(&strsim::jaro_winkler(key, b)));
    match best {
        Some(best) if strsim::jaro_winkler(key, best) >= 0.7 => format!("; did you mean '{best}:'?"),
        _ => String::from("; a name with a colon in it is written name:NAME"),
    }
}

/// The 32 hex digits of a UUID in lower case, whatever separates them (`.vmx` files write
/// `56 4d … -… `), or `None` when it is no UUID.
#[must_use]
pub fn uuid_digits(text: &str) -> Option<String> {
    let digits: String = text.chars().filter(|c| !matches!(c, ' ' | '-' | '{' | '}')).collect();
    (digits.len() == 32 && digits.chars().all(|c| c.is_ascii_hexdigit())).then(|| digits.to_ascii_lowercase())
}

/// A UUID in its usual form, `8-4-4-4-12`.
#[must_use]
pub fn uuid_text(text: &str) -> Option<String> {
    let d = uuid_digits(text)?;
    Some(format!("{}-{}-{}-{}-{}", &d[..8], &d[8..12], &d[12..16], &d[16..20], &d[20..]))
}

impl fmt::Display for Spec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Spec::Name(name) => write!(f, "name:{name}"),
            Spec::Uuid(uuid) => write!(f, "uuid:{uuid}"),
            Spec::Moref(id) => write!(f, "moref:{id}"),
            Spec::IpAddr(address) => write!(f, "ipaddr:{address}"),
            Spec::Any(text) => write!(f, "any:{}", text.as_deref().unwrap_or_default()),
            Spec::PowerState(on) => write!(f, "powerstate:{}", if *on { "on" } else { "off" }),
            Spec::Path(place) => write!(f, "path:{place}"),
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::Host(path) => write!(f, "{}", path.display()),
            Place::Datastore(path) => path.fmt(f),
        }
    }
}

impl FromStr for Place {
    type Err = Failure;

    fn from_str(text: &str) -> Outcome<Place> {
        if text.starts_with('[') && !Path::new(text).exists() {
            return Ok(Place::Datastore(text.parse()?));
        }
        Ok(Place::Host(PathBuf::from(text)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Spec {
        Spec::parse(text, LookupMethod::Name).unwrap()
    }

    fn reason(text: &str) -> String {
        let failure = Spec::parse(text, LookupMethod::Name).unwrap_err();
        assert_eq!(failure.code(), Code::Spec);
        failure.place_and_reason().1.unwrap()
    }

    #[test]
    fn keys_are_not_case_sensitive_but_values_are_kept() {
        assert_eq!(parse("Name:Web 01:b"), Spec::Name("Web 01:b".into()));
        assert_eq!(
            parse("UUID:564D0000-0000-0000-0000-00000000000a").to_string(),
            "uuid:564D0000-0000-0000-0000-00000000000a"
        );
        assert_eq!(parse("moref:vm-42"), Spec::Moref("vm-42".into()));
        assert_eq!(parse("ipaddr:web.example"), Spec::IpAddr("web.example".into()));
        assert_eq!(parse("PowerState:ON"), Spec::PowerState(true));
        assert_eq!(parse("path:/no/such"), Spec::Path(Place::Host("/no/such".into())));
        assert_eq!(parse("path:[ds 1] a/b.vmx").to_string(), "path:[ds 1] a/b.vmx");
        assert_eq!(parse("[ds 1] a/b.vmx").to_string(), "path:[ds 1] a/b.vmx");
    }

    #[test]
    fn any_takes_an_optional_argument() {
        assert!(["any", "Any:", "any:*"].iter().all(|text| parse(text) == Spec::Any(None)));
        assert_eq!(parse("any:web01"), Spec::Any(Some("web01".into())));
        assert!(parse("any").is_plural() && !parse("any:web01").is_plural());
    }

    #[test]
    fn a_bare_word_is_an_existing_path_or_looked_up_by_the_configured_method() {
        assert_eq!(parse("/"), Spec::Path(Place::Host("/".into())));
        assert_eq!(parse("web01"), Spec::Name("web01".into()));
        assert_eq!(Spec::parse("10.0.0.1", LookupMethod::Ipaddr).unwrap(), Spec::IpAddr("10.0.0.1".into()));
        assert_eq!(Spec::parse("/no/such/path", LookupMethod::Name).unwrap_err().code(), Code::VmNotFound);
    }

    #[test]
    fn what_is_no_specification_says_why() {
        assert_eq!(reason("nme:web01"), "'nme' is no known key; did you mean 'name:'?");
        assert_eq!(reason("web:01"), "'web' is no known key; a name with a colon in it is written name:NAME");
        assert_eq!(reason("powerstate:maybe"), "powerstate is 'on' or 'off', not 'maybe'");
        assert_eq!(reason("name:"), "nothing follows 'name:'");
        assert_eq!(reason("uuid:123"), "'123' has not the 32 hexadecimal digits of a UUID");
        assert_eq!(reason(""), "it is empty");
    }

    #[test]
    fn uuids_of_vmx_files_compare_equal_to_written_ones() {
        let vmx = "56 4d 0a 1b 2c 3d 4e 5f-60 71 82 93 a4 b5 c6 d7";
        assert_eq!(uuid_text(vmx).unwrap(), "564d0a1b-2c3d-4e5f-6071-8293a4b5c6d7");
        assert_eq!(uuid_digits("{564D0A1B-2C3D-4E5F-6071-8293A4B5C6D7}"), uuid_digits(vmx));
    }
}

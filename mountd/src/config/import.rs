//! Reads VCB's own configuration: `config.js` of the Windows framework and `backuptools.conf` of the
//! service console.
//!
//! Both are taken as lists of assignments, `KEY = "value";` and `KEY=value`. Nothing is executed: a line
//! that is anything else is reported and skipped.

use super::{Config, LookupMethod, Preexisting, SnapshotPolicy, Transport, VCenter};

/// What came out of an import.
pub struct Imported {
    /// The configuration.
    pub config: Config,
    /// The password found in the file. It is handed back by itself because it does not belong into the
    /// configuration but into a file of its own.
    pub password: Option<String>,
    /// What was not carried over, and why.
    pub notes: Vec<String>,
}

/// Reads the text of a `config.js` or `backuptools.conf`.
#[must_use]
pub fn import(text: &str) -> Imported {
    let mut found = Imported { config: Config::default(), password: None, notes: Vec::new() };
    let mut vcenter = VCenter {
        host: String::new(),
        username: String::new(),
        password_file: None,
        ca_file: None,
        fingerprint: None,
        transports: VCenter::default_transports(),
        hold_relocation: false,
    };
    for (index, line) in strip_comments(text).lines().enumerate() {
        let number = index + 1;
        for statement in split_statements(line) {
            match assignment(&statement) {
                Some((key, value)) => take(&mut found, &mut vcenter, number, &key, value),
                None => found.notes.push(format!("line {number}: not an assignment, skipped")),
            }
        }
    }
    if vcenter.host.is_empty() {
        if !vcenter.username.is_empty() {
            found.notes.push("there is a user but no HOST: [vcenter] was left out".to_owned());
        }
    } else {
        found.config.vcenter = Some(vcenter);
    }
    found
}

fn take(found: &mut Imported, vcenter: &mut VCenter, number: usize, key: &str, value: String) {
    let note = |found: &mut Imported, why: &str| found.notes.push(format!("line {number}: {key}: {why}"));
    match key.to_ascii_uppercase().as_str() {
        "HOST" | "VCHOST" => vcenter.host = value,
        "PORT" => {
            if !vcenter.host.is_empty() && !vcenter.host.contains(':') {
                vcenter.host = format!("{}:{value}", vcenter.host);
            } else {
                note(found, "no host before it to add the port to");
            }
        }
        "USERNAME" if value == "__sspi__" => note(found, "logging on as the current Windows user is not supported"),
        "USERNAME" => vcenter.username = value,
        "PASSWORD" => found.password = Some(value).filter(|password| !password.is_empty()),
        "BACKUPROOT" if value.starts_with('/') => found.config.mount.root = Some(value.into()),
        "BACKUPROOT" => note(found, "not a path of this system; set mount.root"),
        "TRANSPORT_MODE" => match value.as_str() {
            "san" => vcenter.transports = vec![Transport::San],
            "nbd" | "nbdssl" | "hotadd" | "cos" => {
                vcenter.transports = vec![Transport::San, Transport::File, Transport::Https];
                note(found, "not available; replaced by san, file, https in this order");
            }
            _ => note(found, "unknown value"),
        },
        "VM_LOOKUP_METHOD" => match value.as_str() {
            "name" => found.config.mount.lookup = LookupMethod::Name,
            "ipaddr" => found.config.mount.lookup = LookupMethod::Ipaddr,
            "uuid" => found.config.mount.lookup = LookupMethod::Uuid,
            "moref" => found.config.mount.lookup = LookupMethod::Moref,
            _ => note(found, "unknown value"),
        },
        "PREEXISTING_MOUNTPOINT" => match preexisting(&value) {
            Some(policy) => found.config.mount.preexisting = policy,
            None => note(found, "unknown value"),
        },
        "PREEXISTING_VCB_SNAPSHOT" | "PREEXISTING_SNAPSHOT" => match preexisting(&value) {
            Some(policy) => found.config.snapshot.preexisting = policy,
            None => note(found, "unknown value"),
        },
        "SNAPSHOT_POLICY" => match value.to_ascii_lowercase().as_str() {
            "automatic" => found.config.snapshot.policy = SnapshotPolicy::Automatic,
            "manual" => found.config.snapshot.policy = SnapshotPolicy::Manual,
            "createonly" => found.config.snapshot.policy = SnapshotPolicy::CreateOnly,
            "deleteonly" => found.config.snapshot.policy = SnapshotPolicy::DeleteOnly,
            _ => note(found, "unknown value"),
        },
        _ => note(found, "not known, skipped"),
    }
}

fn preexisting(value: &str) -> Option<Preexisting> {
    match value.to_ascii_lowercase().as_str() {
        "fail" => Some(Preexisting::Fail),
        "delete" => Some(Preexisting::Delete),
        "reuse" => Some(Preexisting::Reuse),
        _ => None,
    }
}

/// Blanks out `//…`, `/*…*/` and lines that start with `#`, keeping line numbers. Quoted text is left alone.
fn strip_comments(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut quote = None;
    let mut line_start = true;
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match (quote, c) {
            (Some(_), '\\') => {
                out.push(c);
                out.extend(chars.next());
                continue;
            }
            (Some(open), _) if c == open || c == '\n' => quote = None,
            (Some(_), _) => {}
            (None, '"' | '\'') => quote = Some(c),
            (None, '#') if line_start => {
                skip_line(&mut chars);
                continue;
            }
            (None, '/') if chars.peek() == Some(&'/') => {
                skip_line(&mut chars);
                continue;
            }
            (None, '/') if chars.peek() == Some(&'*') => {
                let mut last = ' ';
                for c in chars.by_ref().skip(1) {
                    if c == '\n' {
                        out.push(c);
                    }
                    if last == '*' && c == '/' {
                        break;
                    }
                    last = c;
                }
                continue;
            }
            _ => {}
        }
        line_start = c == '\n' || (line_start && c.is_whitespace());
        out.push(c);
    }
    out
}

fn skip_line(chars: &mut std::iter::Peekable<std::str::Chars<'_>>) {
    while chars.next_if(|c| *c != '\n').is_some() {}
}

/// The statements of a line, split at `;` outside quotes, without blank ones.
fn split_statements(line: &str) -> Vec<String> {
    let mut statements = vec![String::new()];
    let (mut quote, mut escaped) = (None, false);
    for c in line.chars() {
        match quote {
            Some(_) if escaped => escaped = false,
            Some(_) if c == '\\' => escaped = true,
            Some(open) if c == open => quote = None,
            Some(_) => {}
            None if c == ';' => {
                statements.push(String::new());
                continue;
            }
            None if c == '"' || c == '\'' => quote = Some(c),
            None => {}
        }
        if let Some(last) = statements.last_mut() {
            last.push(c);
        }
    }
    statements.retain(|statement| !statement.trim().is_empty());
    statements
}

/// `KEY = value`, where the value is quoted text or one bare word.
fn assignment(statement: &str) -> Option<(String, String)> {
    let statement = statement.trim();
    let statement = statement.strip_prefix("var ").unwrap_or(statement);
    let (key, value) = statement.split_once('=')?;
    let key = key.trim();
    if key.is_empty() || !key.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') {
        return None;
    }
    let value = value.trim();
    let Some(quote @ ('"' | '\'')) = value.chars().next() else {
        return (!value.contains(['(', '{', '+', '='])).then(|| (key.to_owned(), value.to_owned()));
    };
    let inner = value.strip_prefix(quote)?.strip_suffix(quote)?;
    let mut text = String::new();
    let mut chars = inner.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => text.extend(chars.next()),
            c if c == quote => return None,
            c => text.push(c),
        }
    }
    Some((key.to_owned(), text))
}

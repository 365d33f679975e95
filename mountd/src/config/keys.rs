//! The keys that configuration files may hold, and the check that they hold no others.

use toml::de::{DeTable, DeValue};

/// Tables and their keys.
pub(super) const KEYS: &[(&str, &[&str])] = &[
    ("vcenter", &["host", "username", "password_file", "ca_file", "fingerprint", "transports", "hold_relocation"]),
    ("datastore", &["name", "path", "lun", "raw_devices"]),
    (
        "mount",
        &[
            "root",
            "mode",
            "lookup",
            "preexisting",
            "uid",
            "gid",
            "file_mode",
            "dir_mode",
            "allow_other",
            "metafiles",
            "list_acl",
            "replay",
            "cache_mib",
        ],
    ),
    (
        "snapshot",
        &[
            "policy",
            "preexisting",
            "quiesce",
            "quiesce_minutes",
            "task_minutes",
            "min_free_percent",
            "per_datastore",
            "per_host",
        ],
    ),
    ("hooks", &["dir", "timeout_seconds"]),
    ("log", &["file", "format", "level"]),
];

/// Names less alike than this are not worth suggesting.
const ALIKE: f64 = 0.7;

/// What is wrong with the keys of a configuration text.
#[derive(Debug, thiserror::Error, PartialEq)]
pub(super) enum KeyError {
    /// Not TOML.
    #[error("{0}")]
    Syntax(String),
    /// A name that is no table.
    #[error("line {line}: unknown table '{name}'{}", suggestion(near))]
    Table { line: usize, name: String, near: Option<String> },
    /// A name that is no key of its table.
    #[error("line {line}: unknown key '{name}' in [{table}]{}", suggestion(near))]
    Key { line: usize, table: String, name: String, near: Option<String> },
    /// A value where a table belongs.
    #[error("line {line}: '{name}' must be a table")]
    NoTable { line: usize, name: String },
}

fn suggestion(near: &Option<String>) -> String {
    near.as_ref().map(|near| format!("; did you mean '{near}'?")).unwrap_or_default()
}

/// Checks every key of `text`.
pub(super) fn check(text: &str) -> Result<(), KeyError> {
    let root = DeTable::parse(text).map_err(|err| KeyError::Syntax(err.to_string().trim_end().to_owned()))?;
    for (name, value) in root.get_ref() {
        let line = line_of(text, name.span().start);
        let name = name.get_ref().as_ref();
        let Some((_, keys)) = KEYS.iter().find(|(table, _)| *table == name) else {
            let near = nearest(name, KEYS.iter().map(|(table, _)| *table)).or_else(|| home_of(name));
            return Err(KeyError::Table { line, name: name.to_owned(), near });
        };
        match value.get_ref() {
            DeValue::Table(table) => check_table(text, name, table, keys)?,
            DeValue::Array(entries) if name == "datastore" => {
                for entry in entries.iter() {
                    let DeValue::Table(table) = entry.get_ref() else {
                        return Err(KeyError::NoTable { line, name: name.to_owned() });
                    };
                    check_table(text, name, table, keys)?;
                }
            }
            _ => return Err(KeyError::NoTable { line, name: name.to_owned() }),
        }
    }
    Ok(())
}

fn check_table(text: &str, table: &str, content: &DeTable<'_>, keys: &[&str]) -> Result<(), KeyError> {
    for name in content.keys() {
        let line = line_of(text, name.span().start);
        let name = name.get_ref().as_ref();
        if !keys.contains(&name) {
            let near = nearest(name, keys.iter().copied()).or_else(|| home_of(name));
            return Err(KeyError::Key { line, table: table.to_owned(), name: name.to_owned(), near });
        }
    }
    Ok(())
}

fn line_of(text: &str, offset: usize) -> usize {
    1 + text.bytes().take(offset).filter(|byte| *byte == b'\n').count()
}

fn nearest<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> Option<String> {
    let name = name.to_lowercase().replace('-', "_");
    let scored = known.map(|known| (strsim::jaro_winkler(&name, known), known));
    let best = scored.max_by(|a, b| a.0.total_cmp(&b.0))?;
    (best.0 >= ALIKE).then(|| best.1.to_owned())
}

/// For a known key in the wrong place: the place it belongs to.
fn home_of(name: &str) -> Option<String> {
    let (table, _) = KEYS.iter().find(|(_, keys)| keys.contains(&name))?;
    Some(format!("{table}.{name}"))
}

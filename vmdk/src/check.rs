//! Looks through a disk for damage: what opening checks, and everything that reading would come upon.

use std::sync::Arc;

use vcb_block::{Error, Kind, Result};

use crate::cache::Cache;
use crate::disk::{Disk, OpenOptions, chain};
use crate::link::Opener;
use crate::resolve::Resolver;

/// Findings after which the rest is left out: a damaged table has thousands of consequences.
const MAX_FINDINGS: usize = 1000;

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// Worth knowing.
    Note,
    /// Not as it should be, but all bytes can be read.
    Warning,
    /// Bytes are lost, wrong or refused.
    Error,
}

/// One thing that is not as it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// How bad.
    pub severity: Severity,
    /// The file, as the resolver names it.
    pub path: String,
    /// Byte offset in the file, when there is one to point to.
    pub offset: Option<u64>,
    /// What is wrong.
    pub text: String,
}

/// Collects findings about one file after another.
pub(crate) struct Report {
    path: String,
    findings: Vec<Finding>,
}

impl Report {
    pub(crate) fn new() -> Self {
        Report { path: String::new(), findings: Vec::new() }
    }

    /// The file that further findings are about.
    pub(crate) fn about(&mut self, path: &str) {
        path.clone_into(&mut self.path);
    }

    /// True when further findings will be left out.
    pub(crate) fn is_full(&self) -> bool {
        self.findings.len() > MAX_FINDINGS
    }

    pub(crate) fn add(&mut self, severity: Severity, offset: Option<u64>, text: impl Into<String>) {
        let mut finding = Finding { severity, path: self.path.clone(), offset, text: text.into() };
        if self.is_full() || self.findings.contains(&finding) {
            return;
        }
        if self.findings.len() == MAX_FINDINGS {
            finding = Finding { offset: None, text: "further findings are left out".to_owned(), ..finding };
        }
        self.findings.push(finding);
    }

    /// Adds an error that reading met. Its own path and offset win.
    pub(crate) fn error(&mut self, err: &Error) {
        let saved = self.path.clone();
        if let Some(path) = err.file() {
            self.path = path.to_string_lossy().into_owned();
        }
        let mut text = err.kind().to_string();
        let mut next = std::error::Error::source(err);
        while let Some(cause) = next {
            text.push_str(": ");
            text.push_str(&cause.to_string());
            next = cause.source();
        }
        self.add(Severity::Error, err.offset(), text);
        self.path = saved;
    }

    pub(crate) fn finish(mut self) -> Vec<Finding> {
        self.findings.sort_by(|a, b| (&a.path, b.severity, a.offset).cmp(&(&b.path, a.severity, b.offset)));
        self.findings
    }
}

/// Checks `name` and every link below it: descriptors, content IDs, headers, every directory and table, both
/// copies where there are two, grains stored twice, and for stream-optimized extents every grain.
///
/// Time grows with the metadata, and with the whole size of streams. Memory stays within the cache and
/// 64 MiB. An empty list means that nothing was found.
///
/// # Errors
/// When `name` itself cannot be opened at all. Everything else is a finding.
pub fn check(resolver: Arc<dyn Resolver>, name: &str, options: &OpenOptions) -> Result<Vec<Finding>> {
    let mut report = Report::new();
    report.about(&resolver.open("", name)?.name);
    if let Err(err) = Disk::open(Arc::clone(&resolver), name, options) {
        report.error(&err);
    }
    // Then as far as one can get.
    let lenient = OpenOptions { allow_dirty: true, ignore_cid: true, ..options.clone() };
    let cache = options.cache.clone().unwrap_or_else(|| Cache::new(options.cache_budget()));
    let (chain, broken) = chain(&*resolver, name, &lenient);
    if let Some(err) = broken {
        report.error(&err);
    }
    for found in &chain {
        let mut warnings = Vec::new();
        let mut opener = Opener::new(&*resolver, found, &lenient, &cache, &mut warnings);
        for info in &found.descriptor.extents {
            report.about(&found.resolved.name);
            let extent = match opener.open(info) {
                Ok(extent) => extent,
                Err(err) => {
                    report.error(&err);
                    continue;
                }
            };
            if let Some(file) = &info.file
                && !found.single
            {
                report.about(&resolver.open(&found.resolved.name, file).map_or(file.clone(), |file| file.name));
            }
            match extent.check(&mut report) {
                Err(err) if err.kind() == Kind::Io => return Err(err),
                Err(err) => report.error(&err),
                Ok(()) => {}
            }
        }
        if let Err(err) = opener.finish() {
            report.error(&err);
        }
        report.about(&found.resolved.name);
        for warning in warnings {
            report.add(Severity::Warning, None, warning);
        }
    }
    Ok(report.finish())
}

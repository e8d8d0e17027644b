//! The operator's own template, and what takes its place when it is broken.
//!
//! In this order: the operator's file; the last template that worked since the start; the configuration file as it
//! is, if there is one; the built-in template. The file comes before the built-in template because it may be the
//! work of an earlier version of the operator's: going on without the operator's filters could exchange more than
//! was allowed.

use std::{fs, path::PathBuf};

use crate::{
    file::{Fingerprint, fingerprint},
    render::Template,
    state::Problem,
};

/// One thing to try.
#[derive(Debug)]
pub(crate) enum Choice {
    Template(Template),
    /// Nothing can be rendered without risk: leave the file alone.
    KeepFile,
    /// The operator's file is there and cannot be read.
    Unreadable(Problem),
}

#[derive(Debug)]
pub(crate) struct Overrides {
    path: PathBuf,
    seen: Fingerprint,
    /// The last template that worked.
    good: Option<Template>,
}

impl Overrides {
    pub(crate) fn new(path: PathBuf) -> Self {
        Self { path, seen: None, good: None }
    }

    /// What to try, best first.
    pub(crate) fn choices(&mut self, file_exists: bool) -> Vec<Choice> {
        self.seen = fingerprint(&self.path);
        let own = match fs::read_to_string(&self.path) {
            Ok(source) => Choice::Template(Template { name: self.path.display().to_string(), source }),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return vec![Choice::Template(Template::built_in())];
            }
            Err(error) => Choice::Unreadable(Problem::new(self.path.display(), error)),
        };
        let instead = match &self.good {
            Some(good) => Choice::Template(good.clone()),
            None if file_exists => Choice::KeepFile,
            None => Choice::Template(Template::built_in()),
        };
        vec![own, instead]
    }

    /// Remembers a template that came into force.
    pub(crate) fn worked(&mut self, template: Template) {
        self.good = Some(template);
    }

    /// True if the operator's file is another one than before.
    pub(crate) fn changed(&self) -> bool {
        fingerprint(&self.path) != self.seen
    }
}

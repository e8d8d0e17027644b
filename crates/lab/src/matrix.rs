//! Who reaches whom: every container pings every other one, all at the same time.

use std::net::IpAddr;
use std::time::Duration;

use crate::error::Result;
use crate::host::Host;
use crate::ping::reaches;

/// Answers of all containers to all others, one per address.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Matrix {
    names: Vec<String>,
    answers: Vec<Answer>,
}

/// Whether a container got an answer of another one at one of its addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The container that asked.
    pub from: String,
    /// The container that was asked.
    pub to: String,
    /// The address at which it was asked.
    pub address: IpAddr,
    /// Whether it answered.
    pub answered: bool,
}

impl Matrix {
    /// Lets the containers, given with their hosts, ping each other at all their addresses. `limit` is how long an
    /// answer may take; when somebody does not answer, this takes as long.
    ///
    /// # Errors
    /// A container does not run.
    pub fn ask(containers: &[(&Host, &str)], limit: Duration) -> Result<Self> {
        let addresses =
            containers.iter().map(|(host, name)| host.container_addresses(name)).collect::<Result<Vec<_>>>()?;
        let answers = std::thread::scope(|scope| {
            let mut threads = Vec::new();
            for &(host, from) in containers {
                for (&(_, to), addresses) in containers.iter().zip(&addresses).filter(|((_, to), _)| *to != from) {
                    for &address in addresses {
                        threads.push(scope.spawn(move || {
                            let answered = reaches(host, from, address, limit)?;
                            Ok(Answer { from: from.to_owned(), to: to.to_owned(), address, answered })
                        }));
                    }
                }
            }
            let results: Vec<_> = threads.into_iter().map(std::thread::ScopedJoinHandle::join).collect();
            results
                .into_iter()
                .map(|result| result.unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
                .collect::<Result<Vec<_>>>()
        })?;
        Ok(Self { names: containers.iter().map(|(_, name)| (*name).to_owned()).collect(), answers })
    }

    /// Names of the containers in order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.names.iter().map(String::as_str)
    }

    /// All answers, sorted by who asked.
    pub fn answers(&self) -> &[Answer] {
        &self.answers
    }

    /// How many of the addresses of `to` answered `from`, and how many it has.
    pub fn answered(&self, from: &str, to: &str) -> (usize, usize) {
        let pair = || self.answers.iter().filter(|answer| answer.from == from && answer.to == to);
        (pair().filter(|answer| answer.answered).count(), pair().count())
    }
}

//! One change in a large cluster.

use std::time::Duration;

use calico_policy::Engine;
use miette::{Result, miette};

use super::{
    population::{self, LOCAL, LOCAL_ENDPOINTS, REMOTE},
    set, timed,
};
use crate::report::Report;

/// Changes of each sort.
const SAMPLES: usize = 2000;
/// Coprime to the number of endpoints, so that changes hit endpoints far from each other.
const STRIDE: usize = 7919;

/// Measures in a cluster made by [`population::snapshot`] with so many remote endpoints.
pub(super) fn measure(report: &mut Report, mut engine: Engine, endpoints: usize) -> Result<()> {
    let mut times = Times::default();
    for round in 0..SAMPLES {
        let number = round * STRIDE % endpoints;
        // A label set that the endpoint did not have: the next marker label, so that it changes sets.
        times.take(timed(&mut engine, set(population::endpoint(REMOTE, number, number, number + 2))));
    }
    times.report(report, "engine/change_250k/endpoint", "an endpoint elsewhere gets another label set")?;
    for round in 0..SAMPLES {
        let number = round * STRIDE % LOCAL_ENDPOINTS;
        let seed = endpoints + number + round / LOCAL_ENDPOINTS + 2;
        times.take(timed(&mut engine, set(population::endpoint(LOCAL, number, endpoints + number, seed))));
    }
    times.report(
        report,
        "engine/change_250k/local",
        "an endpoint of this host gets other labels, so other policies",
    )?;
    for round in 0..SAMPLES {
        let name = format!("namespace-{}", round % 100);
        let label = ("pcns.stage".to_owned(), format!("stage-{}", round / 100));
        times.silent(timed(&mut engine, set(population::profile(&name, [label]))));
    }
    times.report(report, "engine/change_250k/profile", "a profile of 2,500 endpoints gets other labels")?;
    Ok(())
}

/// Samples of one measure.
#[derive(Default)]
pub(super) struct Times {
    times: Vec<Duration>,
    instructions: usize,
    /// Changes of this sort may be of no consequence for the host.
    silent: bool,
}

impl Times {
    /// A change that must lead to something.
    pub(super) fn take(&mut self, (time, instructions): (Duration, usize)) {
        self.times.push(time);
        self.instructions += instructions;
    }

    /// A change that may lead to nothing.
    pub(super) fn silent(&mut self, sample: (Duration, usize)) {
        self.take(sample);
        self.silent = true;
    }

    /// Reports what was taken since the last report.
    pub(super) fn report(&mut self, report: &mut Report, name: &str, detail: &str) -> Result<()> {
        let Self { times, instructions, silent } = std::mem::take(self);
        if instructions == 0 && !silent {
            return Err(miette!("{name}: the changes changed nothing"));
        }
        report.add_microseconds(name, times, &format!("{detail}; {instructions} instructions in all"));
        Ok(())
    }
}

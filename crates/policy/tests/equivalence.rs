//! The engine equals the oracle, and itself started from scratch, after any changes in any order.

#![allow(clippy::unwrap_used)]

mod common;

use calico_model::Change;
use calico_policy::{
    Engine,
    interpret::Programmed,
    oracle::{self, State},
    packet::{Packet, Verdict},
};
use common::{NODE, Step, aimed, packet, standing, steps};
use proptest::prelude::*;

/// An engine, all that it has told its dataplane, and the oracle's view of the same changes.
struct Run {
    engine: Engine,
    programmed: Programmed,
    state: State,
}

impl Run {
    fn new() -> Self {
        Self { engine: Engine::new(NODE), programmed: Programmed::default(), state: State::new(NODE) }
    }

    fn take(&mut self, step: &Step) -> Result<(), TestCaseError> {
        match step {
            Step::Change(change) => self.change(change.clone()),
            Step::Flush => self.flush()?,
        }
        Ok(())
    }

    fn change(&mut self, change: Change) {
        self.state.apply(&change);
        self.engine.absorb(change);
    }

    /// Every instruction must fit those before it.
    fn flush(&mut self) -> Result<(), TestCaseError> {
        for instruction in self.engine.flush() {
            self.programmed.apply(&instruction).map_err(|violation| TestCaseError::fail(violation.to_string()))?;
        }
        Ok(())
    }

    fn compare(&self, packets: &[Packet]) -> Result<(), TestCaseError> {
        for (at, packet) in packets.iter().enumerate() {
            let packet = &if at % 3 == 0 { packet.clone() } else { aimed(packet, &self.state, (at, at / 3)) };
            let (expected, why) = oracle::verdict(&self.state, packet);
            prop_assert_eq!(self.programmed.verdict(packet), expected, "{:?}: {:?}", packet, why);
        }
        Ok(())
    }
}

/// `PROPTEST_CASES` asks for more.
fn config(cases: u32) -> ProptestConfig {
    let asked = std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok());
    ProptestConfig { cases: asked.unwrap_or(cases), failure_persistence: None, ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(config(200))]

    #[test]
    fn engine_equals_oracle_and_a_fresh_engine(
        (steps, packets) in (steps(), prop::collection::vec(packet(), 30)),
        order in any::<prop::sample::Selector>(),
    ) {
        let mut run = Run::new();
        for step in &steps {
            run.take(step)?;
            if matches!(step, Step::Flush) {
                run.compare(&packets)?;
            }
        }
        run.flush()?;
        run.compare(&packets)?;
        prop_assert!(run.engine.flush().is_empty(), "a flush without changes says nothing");

        let mut left: Vec<_> = standing(&steps).into_iter().collect();
        let mut fresh = Run::new();
        while !left.is_empty() {
            let next = order.select(0..left.len());
            let (key, resource) = left.swap_remove(next);
            fresh.change(Change::Set { key, resource: Box::new(resource) });
        }
        fresh.flush()?;
        prop_assert_eq!(&run.programmed, &fresh.programmed);
        prop_assert_eq!(run.engine.problems(), fresh.engine.problems());
    }

}

proptest! {
    #![proptest_config(config(60))]

    /// Instructions are a function of the changes: nothing random (hash order) reaches them.
    #[test]
    fn equal_changes_give_equal_instructions(steps in steps()) {
        let instructions = || {
            let mut engine = Engine::new(NODE);
            let mut all = Vec::new();
            for step in &steps {
                match step {
                    Step::Change(change) => engine.absorb(change.clone()),
                    Step::Flush => all.push(engine.flush()),
                }
            }
            all.push(engine.flush());
            all
        };
        prop_assert_eq!(instructions(), instructions());
    }

    /// A repeated value is no change.
    #[test]
    fn repetition_says_nothing(steps in steps()) {
        let mut run = Run::new();
        for step in &steps {
            run.take(step)?;
        }
        run.flush()?;
        for (key, resource) in standing(&steps) {
            run.change(Change::Set { key, resource: Box::new(resource) });
            prop_assert_eq!(run.engine.flush(), Vec::new());
        }
    }
}

/// The random clusters must not be so broken that everything is denied anyway.
#[test]
fn the_random_clusters_allow_and_deny() {
    use proptest::{strategy::ValueTree, test_runner::TestRunner};
    let mut runner = TestRunner::deterministic();
    let (mut allowed, mut by_rule, mut total) = (0, 0, 0);
    for _ in 0..200 {
        let mut run = Run::new();
        for step in steps().new_tree(&mut runner).unwrap().current() {
            run.take(&step).unwrap();
        }
        for dice in 0..30 {
            let packet = packet().new_tree(&mut runner).unwrap().current();
            let packet = aimed(&packet, &run.state, (dice, dice / 6));
            let (verdict, why) = oracle::verdict(&run.state, &packet);
            total += 1;
            allowed += usize::from(verdict == Verdict::Allow);
            let is_rule = |step: &oracle::Step| matches!(step.reason, oracle::Reason::Rule { .. });
            by_rule += usize::from(why.steps.iter().any(is_rule));
        }
    }
    assert!(allowed * 20 > total && allowed * 2 < total, "{allowed} of {total} are allowed");
    assert!(by_rule * 8 > total, "{by_rule} of {total} are decided by rules");
}

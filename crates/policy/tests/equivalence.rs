//! The engine equals the oracle, and itself started from scratch, after any changes in any order.

#![allow(clippy::unwrap_used)]

mod common;

use calico_model::{
    Action, Change, Kind, KindName, NetworkPolicySpec, PolicySpec, ProfileSpec, Resource, ResourceKey, Rule,
    WorkloadEndpointSpec,
};
use calico_policy::{
    Engine,
    interpret::Programmed,
    oracle::{self, Reason, State},
    packet::{Hop, Packet, Transport, Verdict},
};
use common::{
    NODE, Step,
    packets::{aimed, interfaces, packet},
    set, standing, steps,
};
use proptest::prelude::*;

/// An engine, all that it has told its dataplane, and the oracle's view of the same changes.
struct Run {
    engine: Engine,
    programmed: Programmed,
    state: State,
}

impl Run {
    fn new() -> Self {
        Self {
            engine: Engine::new(NODE),
            programmed: Programmed { interfaces: interfaces(), ..Programmed::default() },
            state: State { interfaces: interfaces(), ..State::new(NODE) },
        }
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
            let packet = &if at % 4 == 0 { packet.clone() } else { aimed(packet, &self.state, (at, at / 3)) };
            let expected = oracle::flow(&self.state, packet);
            let found = self.programmed.flow(packet);
            let verdicts = |flow: &oracle::Flow| (flow.request.0, flow.reply.as_ref().map(|(verdict, _)| *verdict));
            let context = || format!("{packet:?}\noracle: {expected:?}\nengine: {found:?}");
            prop_assert_eq!(verdicts(&found), verdicts(&expected), "{}", context());
            prop_assert_eq!(self.programmed.seen_source(packet), self.state.seen_source(packet), "{}", context());
            // Not only the same verdict, but for the same reason.
            for (step, same) in expected.request.1.steps.iter().zip(&found.request.1.steps) {
                if matches!(step.reason, Reason::Rule { .. } | Reason::EndOfTier { .. }) {
                    prop_assert_eq!(&same.reason, &step.reason, "{}", context());
                }
            }
        }
        let mut settings = self.state.settings();
        let others = self.programmed.settings.clone();
        settings.nat_outgoing.ports = others.nat_outgoing.ports;
        prop_assert_eq!(settings, others);
        Ok(())
    }
}

/// `PROPTEST_CASES` asks for more.
fn config(cases: u32) -> ProptestConfig {
    let asked = std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok());
    ProptestConfig { cases: asked.unwrap_or(cases), failure_persistence: None, ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(config(120))]

    #[test]
    fn engine_equals_oracle_and_a_fresh_engine(
        (steps, packets) in (steps(), prop::collection::vec(packet(), 24)),
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
            let (_, change) = left.swap_remove(next);
            fresh.change(change);
        }
        fresh.flush()?;
        prop_assert_eq!(&run.programmed, &fresh.programmed);
        prop_assert_eq!(run.engine.problems(), fresh.engine.problems());
    }

}

proptest! {
    #![proptest_config(config(40))]

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
        for change in standing(&steps).into_values() {
            run.change(change);
            prop_assert_eq!(run.engine.flush(), Vec::new());
        }
    }
}

/// The random clusters must not be so broken, or so open, that every packet has the same fate.
#[test]
fn the_random_clusters_decide_in_every_way() {
    use proptest::{strategy::ValueTree, test_runner::TestRunner};
    let mut runner = TestRunner::deterministic();
    let (mut allowed, mut total) = (0, 0);
    let mut reasons: std::collections::BTreeMap<String, usize> = std::collections::BTreeMap::new();
    for _ in 0..300 {
        let mut run = Run::new();
        for step in steps().new_tree(&mut runner).unwrap().current() {
            run.take(&step).unwrap();
        }
        for dice in 0..30 {
            let packet = packet().new_tree(&mut runner).unwrap().current();
            let packet = aimed(&packet, &run.state, (dice, dice / 6));
            let (verdict, why) = oracle::verdict(&run.state, &packet);
            total += 1;
            allowed += usize::from(verdict.is_allow());
            for step in &why.steps {
                let stage = format!("{:?}", step.stage);
                let reason = format!("{:?}", step.reason);
                let word = reason.split([' ', '(']).next().unwrap_or_default();
                let owner = if reason.contains("Profile(") { " of a profile" } else { "" };
                *reasons.entry(format!("{stage} {word}{owner}")).or_default() += 1;
            }
        }
    }
    println!("{allowed} of {total} allowed; {reasons:#?}");
    assert!(allowed * 20 > total && allowed * 2 < total, "{allowed} of {total} are allowed");
    for list in ["Workload", "Normal", "Forward", "Untracked", "PreDnat"] {
        let prefix = format!("Policy({list}, ");
        let of_rules = reasons.iter().filter(|(name, _)| name.starts_with(&prefix) && name.ends_with(" Rule"));
        let by_rule: usize = of_rules.map(|(_, count)| count).sum();
        assert!(by_rule > 0, "no rule of a policy decided in the list {list}: {reasons:#?}");
    }
}

/// Between two flushes a policy is removed and made anew, for the other direction and with other rules.
#[test]
fn a_policy_that_goes_and_comes_back_has_its_new_rules() {
    let mut run = Run::new();
    let policy = |egress: Vec<Rule>| {
        let spec = PolicySpec { egress, ..Default::default() };
        set(Resource::namespaced("blue", "a", NetworkPolicySpec(spec)))
    };
    let open = ProfileSpec { ingress: vec![Rule::of(Action::Allow)], ..Default::default() };
    let spec = WorkloadEndpointSpec {
        node: NODE.into(),
        interface_name: "cali1".into(),
        ip_networks: vec!["10.0.0.1/32".into()],
        profiles: vec!["p1".into()],
        ..Default::default()
    };
    let mut endpoint = Resource::namespaced("blue", "a", spec);
    Kind::set_defaults(&mut endpoint);
    for change in [set(Resource::new("p1", open)), policy(Vec::new()), set(endpoint)] {
        run.change(change);
    }
    run.flush().unwrap();
    run.change(Change::Remove { key: ResourceKey::new(KindName::NetworkPolicy, Some("blue"), "a") });
    run.change(policy(vec![Rule::of(Action::Allow)]));
    run.flush().unwrap();
    let (hop, address) = (Hop::Interface("cali1".into()), "10.0.0.1".parse().unwrap());
    let packet = Packet::new(hop.clone(), hop, address, address, Transport::Other(200));
    assert_eq!(run.programmed.verdict(&packet), Verdict::Allow);
    run.compare(&[packet]).unwrap();
}

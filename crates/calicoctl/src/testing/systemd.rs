//! systemd made of a map of units.

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicU32, Ordering},
    time::SystemTime,
};

use async_trait::async_trait;
use futures::{
    StreamExt,
    stream::{self, BoxStream},
};

use super::FakeRuntime;
use crate::{
    failure::Failure,
    systemd::{Systemd, UNIT, UnitStatus},
};

/// Numbers of invocations.
static NEXT: AtomicU32 = AtomicU32::new(1);

impl FakeRuntime {
    /// Lets systemd run the machine, with these units, `active` or `inactive`.
    pub(crate) fn with_units(&self, units: &[(&str, &str)]) {
        let unit = |active: &str| UnitStatus { active: active.into(), sub: "dead".into(), ..UnitStatus::default() };
        let units = units.iter().map(|(name, active)| ((*name).to_owned(), unit(active))).collect::<BTreeMap<_, _>>();
        *self.units.lock().unwrap() = Some(units);
    }

    pub(crate) fn unit_now(&self, name: &str) -> UnitStatus {
        self.units.lock().unwrap().as_ref().unwrap()[name].clone()
    }

    /// Starts a unit: ours as the script says.
    fn start_unit(&self, name: &str, unit: &mut UnitStatus) {
        unit.invocation = NEXT.fetch_add(1, Ordering::SeqCst).to_string();
        let (lines, goes_on) = self.script.lock().unwrap().clone();
        let is_well = name != UNIT || lines.iter().any(|line| line.contains("started successfully"));
        let (active, sub, exit_code) = if is_well {
            ("active", "running", 0)
        } else if goes_on {
            ("activating", "start", 0)
        } else {
            ("activating", "auto-restart", 1)
        };
        (unit.active, unit.sub, unit.exit_code) = (active.into(), sub.into(), exit_code);
    }
}

#[async_trait]
impl Systemd for FakeRuntime {
    async fn unit(&self, name: &str) -> Result<Option<UnitStatus>, Failure> {
        Ok(self.units.lock().unwrap().as_ref().and_then(|units| units.get(name).cloned()))
    }

    async fn systemctl(&self, words: &[&str]) -> Result<(), Failure> {
        self.note(&format!("systemctl {}", words.join(" ")));
        let words: Vec<&str> = words.iter().copied().filter(|word| !word.starts_with('-')).collect();
        let [verb, name] = words[..] else { panic!("{words:?}") };
        let mut units = self.units.lock().unwrap();
        let unit = units.as_mut().and_then(|units| units.get_mut(name)).expect("the unit was looked for before");
        match verb {
            "start" | "restart" => self.start_unit(name, unit),
            "stop" => "inactive".clone_into(&mut unit.active),
            "enable" => unit.enabled = true,
            "disable" => unit.enabled = false,
            other => panic!("{other}"),
        }
        Ok(())
    }

    fn journal<'a>(&'a self, _unit: &'a str, _since: SystemTime) -> BoxStream<'a, String> {
        let (lines, _) = self.script.lock().unwrap().clone();
        stream::iter(lines.into_iter().map(str::to_owned)).chain(stream::pending()).boxed()
    }

    fn read_settings(&self) -> std::io::Result<Option<String>> {
        Ok(self.settings.lock().unwrap().clone())
    }

    fn write_settings(&self, text: Option<&str>) -> std::io::Result<()> {
        self.note("write_settings");
        *self.settings.lock().unwrap() = text.map(str::to_owned);
        Ok(())
    }

    fn has_stock_bird(&self) -> bool {
        *self.stock_bird.lock().unwrap()
    }
}

//! The service's numbers in Prometheus' text form.
//!
//! What operators alert on: does each process run and do its work, how often did it start again, how many objects does
//! it leave out or govern closed. Numbers that an agent reports itself keep the names that it gives them.

use std::fmt::Write;

use crate::board::{Component, Health};

/// <https://prometheus.io/docs/instrumenting/exposition_formats/>
pub(crate) const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

struct Family {
    name: &'static str,
    kind: &'static str,
    help: &'static str,
    value: fn(&Component) -> u64,
}

const FAMILIES: [Family; 4] = [
    Family {
        name: "calico_component_live",
        kind: "gauge",
        help: "The process runs and answered lately.",
        value: |component| component.live.into(),
    },
    Family {
        name: "calico_component_ready",
        kind: "gauge",
        help: "The process does its work.",
        value: |component| component.ready.into(),
    },
    Family {
        name: "calico_component_restarts_total",
        kind: "counter",
        help: "How often the process was started again.",
        value: |component| component.restarts.into(),
    },
    Family {
        name: "calico_component_problems",
        kind: "gauge",
        help: "Objects that the process leaves out or governs closed; calicoctl status lists them.",
        value: |component| component.problem_count as u64,
    },
];

/// All numbers.
pub(crate) fn text(health: &Health) -> String {
    let mut out = String::new();
    for Family { name, kind, help, value } in FAMILIES {
        let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}");
        for component in &health.components {
            let _ = writeln!(out, "{name}{{component=\"{}\"}} {}", component.name, value(component));
        }
    }
    for (name, value) in health.components.iter().flat_map(|component| &component.gauges).filter(|(n, _)| plain(n)) {
        let _ = writeln!(out, "# TYPE {name} gauge\n{name} {value}");
    }
    out
}

/// A name that cannot break the format.
fn plain(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_lowercase()) && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::time::Instant;

    use super::*;
    use crate::board::Board;
    use calico_model::AgentHealth;

    #[test]
    fn every_component_has_every_number_and_agents_add_their_own() {
        let board = Board::new("h1", &["bird", "felix"], &[]);
        board.started("felix", Some(1));
        board.started("felix", Some(2));
        let gauges = [("felix_active_local_endpoints".to_owned(), 3), ("bad name".to_owned(), 1)].into();
        board.reported("felix", AgentHealth { ready: true, problem_count: 120, gauges, ..AgentHealth::default() });
        let text = text(&board.health(Instant::now()));
        for line in [
            "calico_component_live{component=\"bird\"} 0",
            "calico_component_ready{component=\"felix\"} 1",
            "calico_component_restarts_total{component=\"felix\"} 1",
            "calico_component_problems{component=\"felix\"} 120",
            "# TYPE felix_active_local_endpoints gauge",
            "felix_active_local_endpoints 3",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is missing in\n{text}");
        }
        assert!(!text.contains("bad name"));
    }
}

//! Numbers with names.

use std::time::Duration;

use comfy_table::{Cell, CellAlignment, Table, presets};
use serde::Serialize;

/// All numbers of a run.
#[derive(Default)]
pub(crate) struct Report {
    measures: Vec<Measure>,
}

#[derive(Serialize)]
struct Measure {
    name: String,
    value: f64,
    unit: &'static str,
    n: usize,
    detail: String,
}

impl Report {
    pub(crate) fn add(
        &mut self,
        name: impl Into<String>,
        value: f64,
        unit: &'static str,
        n: usize,
        detail: impl Into<String>,
    ) {
        self.measures.push(Measure { name: name.into(), value, unit, n, detail: detail.into() });
    }

    /// Median and 99th percentile in milliseconds, as `<name>/p50` and `<name>/p99`. Returns the median.
    pub(crate) fn add_times(&mut self, name: &str, times: Vec<Duration>, detail: &str) -> f64 {
        self.add_percentiles(name, times, (1e3, "ms"), detail)
    }

    /// The same in microseconds.
    pub(crate) fn add_microseconds(&mut self, name: &str, times: Vec<Duration>, detail: &str) -> f64 {
        self.add_percentiles(name, times, (1e6, "µs"), detail)
    }

    /// `unit` is how many of it make a second, and its name.
    fn add_percentiles(
        &mut self,
        name: &str,
        mut times: Vec<Duration>,
        unit: (f64, &'static str),
        detail: &str,
    ) -> f64 {
        times.sort_unstable();
        let at = |fraction: f64| {
            let index = ((times.len() as f64 * fraction).ceil() as usize).clamp(1, times.len()) - 1;
            times[index].as_secs_f64() * unit.0
        };
        let (median, tail) = (at(0.50), at(0.99));
        self.add(format!("{name}/p50"), median, unit.1, times.len(), detail);
        self.add(format!("{name}/p99"), tail, unit.1, times.len(), detail);
        median
    }

    pub(crate) fn json(&self) -> String {
        serde_json::to_string_pretty(&self.measures).expect("names and finite numbers serialise")
    }

    pub(crate) fn table(&self) -> Table {
        let mut table = Table::new();
        table.load_style(presets::ASCII_FULL_CONDENSED);
        table.set_header(["measure", "value", "unit", "n", "detail"]);
        for measure in &self.measures {
            table.add_row([
                Cell::new(&measure.name),
                Cell::new(format!("{:.2}", measure.value)).set_alignment(CellAlignment::Right),
                Cell::new(measure.unit),
                Cell::new(measure.n).set_alignment(CellAlignment::Right),
                Cell::new(&measure.detail),
            ]);
        }
        table
    }
}

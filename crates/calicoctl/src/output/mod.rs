//! What a command hands back to be printed: words, tables, and the same facts as JSON or YAML.
//!
//! A command decides *what* is said, this module *how*. Every value has both forms from the start, so `-o json`
//! can never know less than the table.

pub(crate) mod plain;
mod table;

use serde::Serialize;
use serde_json::{Value, json};

use crate::failure::{Exit, Failure};
pub(crate) use table::{Cell, Column, Table};

/// The form of a result.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Format {
    /// Boxes and words for people.
    #[default]
    Table,
    /// One JSON document.
    Json,
    /// One YAML document.
    Yaml,
}

/// The result of a command.
#[derive(Debug, PartialEq)]
pub(crate) struct Output {
    /// For people; ends with a line feed unless empty.
    pub(crate) text: String,
    /// The same for programs.
    pub(crate) data: Value,
    /// What went wrong all the same; told after the rest, on stderr.
    pub(crate) failure: Option<Failure>,
    /// How the process ends.
    pub(crate) exit: Exit,
}

impl Output {
    /// One line for people.
    pub(crate) fn line(line: impl Into<String>) -> Self {
        Self::lines([line.into()])
    }

    /// Several lines for people.
    pub(crate) fn lines(lines: impl IntoIterator<Item = String>) -> Self {
        let lines: Vec<String> = lines.into_iter().collect();
        let text = lines.iter().map(|line| format!("{line}\n")).collect();
        Self { text, data: json!({ "message": lines.join("\n") }), failure: None, exit: Exit::Done }
    }

    /// Words that stand for the same facts as `data`.
    pub(crate) fn of(text: String, data: impl Serialize) -> Self {
        let data = serde_json::to_value(data).expect("results are plain maps with string keys");
        Self { text, data, failure: None, exit: Exit::Done }
    }

    /// The same, and that not all went well.
    pub(crate) fn but(mut self, failure: Failure) -> Self {
        self.failure = Some(failure);
        self
    }

    /// The same with another ending.
    pub(crate) fn exit(mut self, exit: Exit) -> Self {
        self.exit = exit;
        self
    }

    /// What goes to stdout.
    pub(crate) fn render(&self, format: Format) -> String {
        match format {
            Format::Table => self.text.clone(),
            Format::Json => {
                let mut text = serde_json::to_string_pretty(&self.data).expect("a JSON value can be written");
                text.push('\n');
                text
            }
            Format::Yaml => {
                let mut text = serde_saphyr::to_string(&self.data).expect("a JSON value can be written as YAML");
                if !text.ends_with('\n') {
                    text.push('\n');
                }
                text
            }
        }
    }
}

impl From<Table> for Output {
    fn from(table: Table) -> Self {
        Self { text: table.to_string(), data: table.data(), failure: None, exit: Exit::Done }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn sample() -> Output {
        let mut table = Table::new(&[Column::new("Name", "name"), Column::new("Addresses", "addresses")]);
        table.push(vec!["a: b".into(), Cell::lines(["192.168.0.1/32", "fd80::1/128"])]);
        table.into()
    }

    #[test]
    fn yaml_reads_back_as_the_json() {
        let output = sample();
        let yaml: Value = serde_saphyr::from_str(&output.render(Format::Yaml)).unwrap();
        let json: Value = serde_json::from_str(&output.render(Format::Json)).unwrap();
        assert_eq!(yaml, json);
        assert_eq!(json, serde_json::json!([{"name": "a: b", "addresses": ["192.168.0.1/32", "fd80::1/128"]}]));
    }
}

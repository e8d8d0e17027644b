//! The page `vectors/DIFFERENCES.md`: where our verdict is another one than upstream's, on purpose.
//!
//! Its tables are read by the tests, so that no difference exists that is not on the page, and none is on the page that
//! does not exist.

use std::{fs, io, path::Path};

/// In place of a scenario: the row is a class of differences.
pub const CLASS: &str = "*";

/// The page's rows.
#[derive(Debug)]
pub struct Differences {
    /// In the page's order.
    pub rows: Vec<Row>,
}

/// One row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// The scenario's name.
    pub scenario: String,
    /// The probe's words.
    pub probe: String,
    /// What became of it at upstream's.
    pub recorded: String,
    /// What becomes of it here.
    pub ours: String,
    /// Why.
    pub reason: String,
}

impl Differences {
    /// Reads the page of the repository, whichever vectors are played.
    ///
    /// # Errors
    /// It is missing, or a row has not five columns.
    pub fn read() -> io::Result<Self> {
        let path = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../vectors/DIFFERENCES.md"));
        let text =
            fs::read_to_string(path).map_err(|error| io::Error::other(format!("{}: {error}", path.display())))?;
        Self::parse(&text)
    }

    /// Reads a page.
    ///
    /// # Errors
    /// A row has not five columns.
    pub fn parse(text: &str) -> io::Result<Self> {
        let mut rows = Vec::new();
        for line in text.lines().filter(|line| line.starts_with('|')) {
            let cells: Vec<String> =
                line.trim().trim_matches('|').split('|').map(|cell| cell.trim().trim_matches('`').to_owned()).collect();
            let [scenario, probe, recorded, ours, reason] = <[String; 5]>::try_from(cells)
                .map_err(|cells| io::Error::other(format!("not five columns but {}: {line}", cells.len())))?;
            if scenario == "scenario" || scenario.starts_with("---") {
                continue;
            }
            rows.push(Row { scenario, probe, recorded, ours, reason });
        }
        Ok(Self { rows })
    }

    /// The row of a class of differences, by its name.
    pub fn class(&self, name: &str, recorded: &str, ours: &str) -> Option<usize> {
        self.find(CLASS, name, recorded, ours)
    }

    /// The row that a difference is on.
    pub fn find(&self, scenario: &str, words: &str, recorded: &str, ours: &str) -> Option<usize> {
        self.rows.iter().position(|row| {
            row.scenario == scenario && row.recorded == recorded && row.ours == ours && row.probe == words
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn rows_are_read_and_found() {
        let page = "# Page\n\n| scenario | probe | recorded | ours | reason |\n|---|---|---|---|---|\n\
                    | `a-b` | `w0 w1 v4 tcp 80` | allow | drop | because |\n";
        let page = Differences::parse(page).unwrap();
        assert_eq!(page.rows.len(), 1);
        assert_eq!(page.find("a-b", "w0 w1 v4 tcp 80", "allow", "drop"), Some(0));
        for (scenario, words, ours) in
            [("a", "w0 w1 v4 tcp 80", "drop"), ("a-b", "w0 w1 v6 tcp 80", "drop"), ("a-b", "w0 w1 v4 tcp 80", "reject")]
        {
            assert_eq!(page.find(scenario, words, "allow", ours), None);
        }
        assert!(Differences::parse("| a | b |").is_err());
    }
}

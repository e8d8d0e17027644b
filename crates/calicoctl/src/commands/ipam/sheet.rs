//! Tables as upstream draws them since its version 3: headings and words on the left, numbers on the right, no rules
//! between rows.

use std::fmt;

/// A table for people; the facts for programs are made beside it.
pub(super) struct Sheet {
    headings: &'static [&'static str],
    /// From this column on there are numbers.
    numbers_from: usize,
    rows: Vec<Vec<String>>,
}

impl Sheet {
    /// A table of words.
    pub(super) fn of_words(headings: &'static [&'static str]) -> Self {
        Self { headings, numbers_from: headings.len(), rows: Vec::new() }
    }

    /// A table with numbers in all columns from `numbers_from` on.
    pub(super) fn of_numbers(headings: &'static [&'static str], numbers_from: usize) -> Self {
        Self { headings, numbers_from, rows: Vec::new() }
    }

    /// Adds a row, one text per column.
    pub(super) fn push<T: Into<String>>(&mut self, row: impl IntoIterator<Item = T>) {
        let row: Vec<String> = row.into_iter().map(Into::into).collect();
        debug_assert_eq!(row.len(), self.headings.len(), "one text per column");
        self.rows.push(row);
    }
}

impl fmt::Display for Sheet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let length = |text: &str| text.chars().count();
        let widths: Vec<usize> = (0..self.headings.len())
            .map(|n| self.rows.iter().map(|row| length(&row[n])).fold(length(self.headings[n]), usize::max))
            .collect();
        let rule: String = widths.iter().map(|width| format!("+{}", "-".repeat(width + 2))).collect::<String>() + "+";
        writeln!(f, "{rule}")?;
        for (heading, width) in self.headings.iter().zip(&widths) {
            write!(f, "| {heading:<width$} ")?;
        }
        writeln!(f, "|\n{rule}")?;
        for row in &self.rows {
            for (n, (text, width)) in row.iter().zip(&widths).enumerate() {
                if n >= self.numbers_from {
                    write!(f, "| {text:>width$} ")?;
                } else {
                    write!(f, "| {text:<width$} ")?;
                }
            }
            writeln!(f, "|")?;
        }
        writeln!(f, "{rule}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_stand_left_and_numbers_right() {
        let mut sheet = Sheet::of_numbers(&["WHAT", "IPS"], 1);
        sheet.push(["a", "12345"]);
        sheet.push(["longer", "1"]);
        let expected = "\
+--------+-------+
| WHAT   | IPS   |
+--------+-------+
| a      | 12345 |
| longer |     1 |
+--------+-------+
";
        assert_eq!(sheet.to_string(), expected);
    }
}

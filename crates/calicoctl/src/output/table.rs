//! Tables as the classic tool draws them: `+---+` boxes, headings and cells centred.
//!
//! Where the spare width is odd, text of odd length gets the extra blank on its right and text of even length on
//! its left: scripts that cut the columns at fixed places keep working. comfy-table draws the box; the centring is
//! done here because its own puts the extra blank always on the same side.

use std::fmt;

use comfy_table::{CellAlignment, ContentArrangement};
use serde_json::{Map, Value};

/// One column: its heading for people, its key for programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Column {
    heading: Option<&'static str>,
    key: &'static str,
}

impl Column {
    /// A column that is shown.
    pub(crate) const fn new(heading: &'static str, key: &'static str) -> Self {
        Self { heading: Some(heading), key }
    }

    /// A member of the JSON and YAML forms that the table has no room for.
    pub(crate) const fn hidden(key: &'static str) -> Self {
        Self { heading: None, key }
    }
}

/// One field.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Cell {
    /// Words.
    Text(String),
    /// Words for people that stand for another value for programs.
    Both(String, Value),
    /// A list, one element a line.
    Lines(Vec<String>),
    /// A list, its elements joined by commas on one line.
    Commas(Vec<String>),
    /// Nothing: these words for people, `null` for programs.
    Absent(&'static str),
}

impl Cell {
    /// A list, one element a line.
    pub(crate) fn lines<T: Into<String>>(elements: impl IntoIterator<Item = T>) -> Self {
        Self::Lines(elements.into_iter().map(Into::into).collect())
    }

    /// The text, or nothing.
    pub(crate) fn or_absent(text: Option<impl Into<String>>) -> Self {
        text.map_or(Self::Absent(""), |text| Self::Text(text.into()))
    }

    fn text_lines(&self) -> Vec<String> {
        match self {
            Self::Text(text) | Self::Both(text, _) => vec![text.clone()],
            Self::Lines(lines) if lines.is_empty() => vec![String::new()],
            Self::Lines(lines) => lines.clone(),
            Self::Commas(elements) => vec![elements.join(",")],
            Self::Absent(words) => vec![(*words).to_owned()],
        }
    }

    fn value(&self) -> Value {
        match self {
            Self::Text(text) => Value::from(text.as_str()),
            Self::Both(_, value) => value.clone(),
            Self::Lines(elements) | Self::Commas(elements) => Value::from(elements.as_slice()),
            Self::Absent(_) => Value::Null,
        }
    }
}

impl<T: Into<String>> From<T> for Cell {
    fn from(text: T) -> Self {
        Self::Text(text.into())
    }
}

/// Rows under headings.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Table {
    columns: Vec<Column>,
    rows: Vec<Vec<Cell>>,
    left: bool,
}

impl Table {
    /// An empty table.
    pub(crate) fn new(columns: &[Column]) -> Self {
        Self { columns: columns.to_vec(), rows: Vec::new(), left: false }
    }

    /// With headings and cells at the left instead of in the middle.
    pub(crate) fn left(self) -> Self {
        Self { left: true, ..self }
    }

    /// Adds a row, one cell per column.
    pub(crate) fn push(&mut self, row: Vec<Cell>) {
        debug_assert_eq!(row.len(), self.columns.len(), "one cell per column");
        self.rows.push(row);
    }

    /// The rows as an array of objects.
    pub(crate) fn data(&self) -> Value {
        let object = |row: &Vec<Cell>| {
            let members = self.columns.iter().zip(row).map(|(column, cell)| (column.key.to_owned(), cell.value()));
            Value::Object(members.collect::<Map<_, _>>())
        };
        Value::Array(self.rows.iter().map(object).collect())
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown: Vec<usize> = (0..self.columns.len()).filter(|&i| self.columns[i].heading.is_some()).collect();
        let headings: Vec<String> = self.columns.iter().filter_map(|c| c.heading.map(str::to_owned)).collect();
        let rows: Vec<Vec<Vec<String>>> =
            self.rows.iter().map(|row| shown.iter().map(|&i| row[i].text_lines()).collect()).collect();
        let widths: Vec<usize> = (0..shown.len())
            .map(|i| {
                let cells = rows.iter().flat_map(|row| &row[i]).map(|line| width(line)).max().unwrap_or(0);
                cells.max(width(&headings[i]))
            })
            .collect();

        let placed = |text: &str, width: usize| match self.left {
            true => format!("{text:<width$}"),
            false => centred(text, width),
        };
        let mut boxes = comfy_table::Table::new();
        boxes.load_style(BOXES).set_content_arrangement(ContentArrangement::Disabled);
        boxes.set_header(headings.iter().zip(&widths).map(|(heading, &width)| placed(heading, width)));
        for row in &rows {
            boxes.add_row(row.iter().zip(&widths).map(|(lines, &width)| {
                let lines: Vec<String> = lines.iter().map(|line| placed(line, width)).collect();
                comfy_table::Cell::new(lines.join("\n")).set_alignment(CellAlignment::Left)
            }));
        }
        writeln!(f, "{boxes}")
    }
}

const BOXES: comfy_table::TableStyle =
    comfy_table::presets::ASCII_FULL_CONDENSED.header_separator(comfy_table::LineStyle::new('+', '-', '+', '+'));

fn width(text: &str) -> usize {
    text.chars().count()
}

fn centred(text: &str, room: usize) -> String {
    let spare = room - width(text);
    let left = if width(text).is_multiple_of(2) { spare.div_ceil(2) } else { spare / 2 };
    format!("{}{text}{}", " ".repeat(left), " ".repeat(spare - left))
}

#[cfg(test)]
mod tests {
    use super::*;

    const COLUMNS: &[Column] = &[
        Column::new("Hostname", "hostname"),
        Column::new("Bird IPv4", "ipv4"),
        Column::new("AS Num", "as"),
        Column::hidden("secret"),
    ];

    #[test]
    fn drawn_as_the_classic_tool_draws() {
        let mut table = Table::new(COLUMNS);
        table.push(vec!["h1".into(), "10.5.0.1".into(), "64511 (inherited)".into(), Cell::Absent("")]);
        table.push(vec!["h2".into(), "10.5.0.77".into(), "64555".into(), "x".into()]);
        let expected = "\
+----------+-----------+-------------------+
| Hostname | Bird IPv4 |       AS Num      |
+----------+-----------+-------------------+
|    h1    |  10.5.0.1 | 64511 (inherited) |
|    h2    | 10.5.0.77 |       64555       |
+----------+-----------+-------------------+
";
        assert_eq!(table.to_string(), expected);
    }

    #[test]
    fn an_empty_table_is_its_headings_and_a_double_rule() {
        let table = Table::new(&[Column::new("IPv4 CIDR", "cidr"), Column::new("Options", "options")]);
        let expected = "\
+-----------+---------+
| IPv4 CIDR | Options |
+-----------+---------+
+-----------+---------+
";
        assert_eq!(table.to_string(), expected);
    }

    #[test]
    fn at_the_left_where_the_classic_tool_has_it_so() {
        let mut table = Table::new(&[Column::new("Global IPv4 BGP Peer", "peer"), Column::new("AS Num", "as")]).left();
        table.push(vec!["10.0.0.1".into(), "64555".into()]);
        let expected = "\
+----------------------+--------+
| Global IPv4 BGP Peer | AS Num |
+----------------------+--------+
| 10.0.0.1             | 64555  |
+----------------------+--------+
";
        assert_eq!(table.to_string(), expected);
    }

    #[test]
    fn lists_grow_downwards() {
        let mut table = Table::new(&[Column::new("Peers", "peers"), Column::new("Name", "name")]);
        table.push(vec![Cell::lines(["10.0.0.1 as 1", "10.0.0.2 as 65000"]), "x".into()]);
        table.push(vec![Cell::Lines(Vec::new()), Cell::Commas(vec!["a".into(), "b".into()])]);
        let expected = "\
+-------------------+------+
|       Peers       | Name |
+-------------------+------+
|   10.0.0.1 as 1   |  x   |
| 10.0.0.2 as 65000 |      |
|                   | a,b  |
+-------------------+------+
";
        assert_eq!(table.to_string(), expected);
    }
}

//! Tables as upstream's v3 commands draw them: no boxes, columns at fixed places, for eyes and for `awk`.

use std::fmt::Write;

/// Blanks between two columns.
const BETWEEN: usize = 3;
/// No column is narrower, the blanks behind it included.
const NARROWEST: usize = 5;

/// Rows of equally many cells as lines, all columns aligned.
pub(crate) fn table(rows: &[Vec<String>]) -> String {
    let widths = widths(rows);
    rows.iter().map(|row| line(row, &widths)).collect()
}

/// One row; for widths that are known already.
pub(crate) fn line(row: &[String], widths: &[usize]) -> String {
    let mut line = String::new();
    for (cell, width) in row.iter().zip(widths) {
        let room = (width + BETWEEN).max(NARROWEST);
        // A cell that arrives later may be wider than its column.
        let room = room.max(cell.chars().count() + 1);
        let _ = write!(line, "{cell:<room$}");
    }
    line.push('\n');
    line
}

/// The room that each column of `rows` takes.
pub(crate) fn widths(rows: &[Vec<String>]) -> Vec<usize> {
    let mut widths: Vec<usize> = Vec::new();
    for row in rows {
        widths.resize(widths.len().max(row.len()), 0);
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    widths
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_stand_below_their_headings() {
        let rows = [["A", "NODE", "C"], ["x", "host-1", ""], ["longer", "", "y"]];
        let rows: Vec<Vec<String>> =
            rows.iter().map(|row| row.iter().map(|cell| (*cell).to_owned()).collect()).collect();
        let expected = "A        NODE     C    \nx        host-1        \nlonger            y    \n";
        assert_eq!(table(&rows), expected);
    }
}

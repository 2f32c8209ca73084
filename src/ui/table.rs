//! Columns that line up, with two spaces between them and none at the end of a line.

use unicode_width::UnicodeWidthStr;

use super::color::{BOLD, RESET};
use super::escape;

/// On which side a column's cells meet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Align {
    /// Names.
    Left,
    /// Numbers.
    Right,
}

/// Rows of `N` cells under a header. Cells are escaped as they come in.
pub(crate) struct Table<const N: usize> {
    columns: [(&'static str, Align); N],
    rows: Vec<[String; N]>,
}

impl<const N: usize> Table<N> {
    /// A table with these titles and no row.
    pub(crate) fn new(columns: [(&'static str, Align); N]) -> Self {
        Self { columns, rows: Vec::new() }
    }

    /// Adds a row.
    pub(crate) fn row(&mut self, cells: [String; N]) {
        self.rows.push(cells.map(|cell| escape(&cell).into_owned()));
    }

    /// The header and the rows, a line each. A row of nothing but empty cells is an empty line.
    pub(super) fn render(&self, colored: bool) -> String {
        let titles = self.columns.map(|(title, _)| title);
        let mut widths = titles.map(UnicodeWidthStr::width);
        for row in &self.rows {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = (*width).max(cell.width());
            }
        }
        let header = self.line(&widths, &titles);
        let header = if colored { format!("{BOLD}{header}{RESET}") } else { header };
        let rows = self.rows.iter().map(|row| self.line(&widths, &row.each_ref().map(String::as_str)));
        std::iter::once(header).chain(rows).flat_map(|line| [line, "\n".to_owned()]).collect()
    }

    fn line(&self, widths: &[usize; N], cells: &[&str; N]) -> String {
        let mut line = String::new();
        for (column_index, (cell, width)) in cells.iter().zip(widths).enumerate() {
            let padding = " ".repeat(width - cell.width());
            let gap = if column_index == 0 { "" } else { "  " };
            match self.columns[column_index].1 {
                Align::Left => line.extend([gap, *cell, &padding]),
                Align::Right => line.extend([gap, &padding, *cell]),
            }
        }
        line.truncate(line.trim_end().len());
        line
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cells<const N: usize>(row: [&str; N]) -> [String; N] {
        row.map(str::to_owned)
    }

    #[test]
    fn columns_line_up() {
        let mut table = Table::new([("tensor", Align::Left), ("bytes", Align::Right), ("type", Align::Left)]);
        table.row(cells(["norm", "12", "F32"]));
        table.row(cells(["重み", "123456", ""]));
        table.row(cells(["a\x1b[2J\nb", "7", "BF16"]));
        let expected = "\
tensor        bytes  type
norm             12  F32
重み         123456
a\\x1b[2J\\nb       7  BF16
";
        assert_eq!(table.render(false), expected);
    }

    #[test]
    fn only_the_header_is_bold() {
        let mut table = Table::new([("a", Align::Left), ("b", Align::Right)]);
        table.row(cells(["1", "2"]));
        assert_eq!(table.render(true), "\x1b[1ma  b\x1b[0m\n1  2\n");
    }

    #[test]
    fn no_rows() {
        assert_eq!(Table::new([("a", Align::Right), ("bb", Align::Left)]).render(false), "a  bb\n");
    }
}

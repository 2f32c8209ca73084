//! What folding does to a weight: factors or values that stand between the file and whoever reads it.

use std::sync::Arc;

/// A change of a weight that its readers see and its file does not.
#[derive(Clone, Debug, PartialEq)]
pub enum Scaling {
    /// Element `[r, c]` of a matrix is multiplied by `rows[r]` and by `columns[c]`.
    Matrix {
        /// One factor a row.
        rows: Option<Arc<[f32]>>,
        /// One factor a column.
        columns: Option<Arc<[f32]>>,
    },
    /// A vector is replaced.
    Vector(Arc<[f32]>),
}

impl Scaling {
    /// Applies it to rows from `first` on, of `width` columns each.
    pub(super) fn apply(&self, first: usize, width: usize, values: &mut [f32]) {
        match self {
            Self::Vector(new) => values.copy_from_slice(&new[first * width..][..values.len()]),
            Self::Matrix { rows, columns } => {
                for (index, row) in values.chunks_exact_mut(width.max(1)).enumerate() {
                    if let Some(columns) = columns {
                        row.iter_mut().zip(columns.iter()).for_each(|(value, factor)| *value *= factor);
                    }
                    if let Some(rows) = rows {
                        for value in row {
                            *value *= rows[first + index];
                        }
                    }
                }
            }
        }
    }

    /// Adds it to a digest.
    pub(super) fn hash(&self, hasher: &mut blake3::Hasher) {
        let parts = match self {
            Self::Matrix { rows, columns } => [rows.as_deref(), columns.as_deref()],
            Self::Vector(values) => [Some(&values[..]), None],
        };
        for part in parts {
            hasher.update(&(part.map_or(0, <[f32]>::len) as u64).to_le_bytes());
            for value in part.unwrap_or_default() {
                hasher.update(&value.to_le_bytes());
            }
        }
    }

    /// The factors of a matrix's columns.
    #[must_use]
    pub fn columns(&self) -> Option<&[f32]> {
        match self {
            Self::Matrix { columns, .. } => columns.as_deref(),
            Self::Vector(_) => None,
        }
    }

    /// The factor of a matrix's row; 1 where there is none.
    #[must_use]
    pub fn row(&self, row: usize) -> f32 {
        match self {
            Self::Matrix { rows: Some(rows), .. } => rows[row],
            Self::Matrix { rows: None, .. } | Self::Vector(_) => 1.0,
        }
    }

    /// Both, one after the other. A vector's later value is the one that counts.
    #[must_use]
    pub fn then(&self, other: &Self) -> Self {
        let product = |a: &Option<Arc<[f32]>>, b: &Option<Arc<[f32]>>| match (a, b) {
            (Some(a), Some(b)) => Some(a.iter().zip(b.iter()).map(|(a, b)| a * b).collect()),
            (a, b) => a.clone().or_else(|| b.clone()),
        };
        match (self, other) {
            (Self::Matrix { rows: r, columns: c }, Self::Matrix { rows, columns }) => {
                Self::Matrix { rows: product(r, rows), columns: product(c, columns) }
            }
            (_, later) => later.clone(),
        }
    }
}

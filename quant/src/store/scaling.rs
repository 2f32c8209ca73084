//! What stands between the file of a weight and whoever reads it: factors and values of folding, and changes that are added.

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
    /// Something is added to each element, and then more is done.
    Added {
        /// What is added.
        addition: Arc<dyn Addition>,
        /// What is done to the sum.
        then: Option<Box<Scaling>>,
    },
}

/// A change of a weight that is computed when it is read.
pub trait Addition: std::fmt::Debug + Send + Sync {
    /// Adds it to values from element `first` on, row-major.
    fn add(&self, first: usize, values: &mut [f32]);

    /// BLAKE3 of all that decides it.
    fn digest(&self) -> blake3::Hash;
}

impl PartialEq for dyn Addition {
    fn eq(&self, other: &Self) -> bool {
        self.digest() == other.digest()
    }
}

impl Scaling {
    /// Applies it to rows from `first` on, of `width` columns each.
    pub(super) fn apply(&self, first: usize, width: usize, values: &mut [f32]) {
        match self {
            Self::Added { addition, then } => {
                addition.add(first * width, values);
                if let Some(then) = then {
                    then.apply(first, width, values);
                }
            }
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
            Self::Added { addition, then } => {
                hasher.update(addition.digest().as_bytes());
                return then.iter().for_each(|then| then.hash(hasher));
            }
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
            Self::Added { then, .. } => then.as_ref()?.columns(),
            Self::Vector(_) => None,
        }
    }

    /// The factor of a matrix's row; 1 where there is none.
    #[must_use]
    pub fn row(&self, row: usize) -> f32 {
        match self {
            Self::Matrix { rows: Some(rows), .. } => rows[row],
            Self::Added { then: Some(then), .. } => then.row(row),
            Self::Added { then: None, .. } | Self::Matrix { rows: None, .. } | Self::Vector(_) => 1.0,
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
            (Self::Added { addition, then }, later) => {
                let then = then.as_ref().map_or_else(|| later.clone(), |then| then.then(later));
                Self::Added { addition: Arc::clone(addition), then: Some(Box::new(then)) }
            }
            (_, later) => later.clone(),
        }
    }
}

//! Products with dense f32 matrices: out = x * W^T, for many rows of x.
//!
//! A matrix is laid out once in panels of 32 outputs, `[panel][input][32]`, so that the kernel reads it in order and
//! keeps a tile of results in registers: 12 rows by 32 outputs with AVX-512, 3 by 32 with AVX2. Inputs are taken in blocks of
//! [`INPUT_BLOCK`]; a product of one row does not depend on the rows beside it, nor on how many there are.
//!
//! A result is a sum of products in the order of the inputs, fused where the instruction set has it: within
//! `k * eps * sum |x||w|` of the exact value for k inputs, on every table, but not bit-identical between tables.
//!
//! Tile sizes follow the usual account of register blocking (Goto and van de Geijn, "Anatomy of High-Performance Matrix
//! Multiplication", 2008).

#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
mod amx;
#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod scalar;

use crate::table::Kernels;

/// Outputs of a panel.
pub const PANEL: usize = 32;

/// Inputs that are multiplied before results go back to memory: a panel of so many stays in the second cache.
const INPUT_BLOCK: usize = 512;
/// Rows of x that pass over the panels together; their inputs of one block stay in the second cache.
const ROW_BLOCK: usize = 240;

/// Rows of x from which on splitting a panel in two parts is worth its time.
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
const SPLIT_ROWS: usize = 64;

/// One panel times some rows: `x` has `rows` rows of `inputs` values, `x_stride` apart, `panel` is `[inputs][32]`, and the
/// first `outputs` columns of the tile go to `out`, `out_stride` apart.
pub(crate) struct Tile<'a> {
    x: &'a [f32],
    x_stride: usize,
    rows: usize,
    panel: &'a [Lane],
    out: &'a mut [f32],
    out_stride: usize,
    outputs: usize,
    /// Whether results are added to what `out` holds.
    add: bool,
}

type Kernel = fn(&mut Tile<'_>);

/// A matrix W of `outputs` rows and `inputs` columns, laid out for products with it.
///
/// The last panel is filled up with zeros. Memory: 4 bytes an element, outputs rounded up to 32.
#[derive(Clone, Debug, Default)]
pub struct Dense {
    panels: Vec<Lane>,
    outputs: usize,
    inputs: usize,
}

/// What one input contributes to the outputs of a panel, on cache lines of its own: a vector that straddles two lines costs two loads.
#[derive(Clone, Copy, Debug)]
#[repr(align(64))]
pub struct Lane(pub [f32; PANEL]);

/// Rows of values in a slice: row `i` begins at `i * stride`.
#[derive(Clone, Copy, Debug)]
pub struct Rows<'a> {
    /// The values.
    pub values: &'a [f32],
    /// From one row to the next.
    pub stride: usize,
}

/// Rows to write to: row `i` begins at `i * stride`.
#[derive(Debug)]
pub struct RowsMut<'a> {
    /// The values.
    pub values: &'a mut [f32],
    /// From one row to the next.
    pub stride: usize,
}

impl Dense {
    /// A matrix of zeros; the memory of an earlier one is used again.
    pub fn reset(&mut self, outputs: usize, inputs: usize) {
        self.panels.clear();
        self.panels.resize(outputs.div_ceil(PANEL) * inputs, Lane([0.0; PANEL]));
        (self.outputs, self.inputs) = (outputs, inputs);
    }

    /// Rows of W, which are outputs.
    #[must_use]
    pub fn outputs(&self) -> usize {
        self.outputs
    }

    /// Columns of W.
    #[must_use]
    pub fn inputs(&self) -> usize {
        self.inputs
    }

    /// The panels, each with its inputs in order: for filling them side by side. The first gets outputs 0 to 31.
    pub fn panels_mut(&mut self) -> impl ExactSizeIterator<Item = &mut [Lane]> {
        self.panels.chunks_exact_mut(self.inputs.max(1))
    }

    /// Takes the rows of W that follow one after the other.
    ///
    /// # Panics
    /// Unless `rows` holds `outputs` rows of `inputs` values.
    pub fn set_rows(&mut self, rows: Rows<'_>) {
        let (outputs, inputs) = (self.outputs, self.inputs);
        for (index, panel) in self.panels_mut().enumerate() {
            let first = index * PANEL;
            let n = PANEL.min(outputs - first);
            fill_panel(panel, inputs, n, |output| &rows.values[(first + output) * rows.stride..][..inputs]);
        }
    }

    /// Takes W from its transpose: row `i` of `columns` holds the weights of input `i` for every output.
    ///
    /// # Panics
    /// Unless `columns` holds `inputs` rows of `outputs` values.
    pub fn set_columns(&mut self, columns: Rows<'_>) {
        let outputs = self.outputs;
        for (index, panel) in self.panels_mut().enumerate() {
            let first = index * PANEL;
            let n = PANEL.min(outputs - first);
            for (input, to) in panel.iter_mut().enumerate() {
                to.0[..n].copy_from_slice(&columns.values[input * columns.stride + first..][..n]);
            }
        }
    }

    /// out = x * W^T: `n_rows` rows of `inputs` values times every output.
    ///
    /// Cost: two operations a weight and row; reads W once for each 240 rows.
    ///
    /// # Panics
    /// Where `x` or `out` is too short.
    pub fn product(&self, kernels: &Kernels, x: Rows<'_>, n_rows: usize, out: RowsMut<'_>) {
        self.product_part(kernels, x, n_rows, out, self.outputs, self.inputs);
    }

    /// [`Dense::product`] with the first `outputs` rows and the first `inputs` columns of W alone. Values of `out` beyond
    /// `outputs` stay as they are.
    ///
    /// # Panics
    /// Where `x` or `out` is too short, or W has fewer outputs or inputs.
    pub fn product_part(
        &self,
        kernels: &Kernels,
        x: Rows<'_>,
        n_rows: usize,
        out: RowsMut<'_>,
        outputs: usize,
        inputs: usize,
    ) {
        let RowsMut { values: out, stride: out_stride } = out;
        assert!(outputs <= self.outputs && inputs <= self.inputs, "a part of the matrix");
        if n_rows == 0 || outputs == 0 {
            return;
        }
        assert!(x.values.len() >= (n_rows - 1) * x.stride + inputs && inputs <= x.stride, "rows of `x`");
        assert!(out.len() >= (n_rows - 1) * out_stride + outputs && outputs <= out_stride, "rows of `out`");
        if inputs == 0 {
            (0..n_rows).for_each(|row| out[row * out_stride..][..outputs].fill(0.0));
            return;
        }
        #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
        if kernels.splits_products && n_rows >= SPLIT_ROWS {
            let mut out = RowsMut { values: out, stride: out_stride };
            amx::product(x, n_rows, &mut out, (&self.panels, self.inputs), (outputs, inputs));
            return;
        }
        let kernel = kernel(kernels);
        for first_row in (0..n_rows).step_by(ROW_BLOCK) {
            let rows = ROW_BLOCK.min(n_rows - first_row);
            for first_input in (0..inputs).step_by(INPUT_BLOCK) {
                let n_inputs = INPUT_BLOCK.min(inputs - first_input);
                for first in (0..outputs).step_by(PANEL) {
                    let start = first / PANEL * self.inputs + first_input;
                    kernel(&mut Tile {
                        x: &x.values[first_row * x.stride + first_input..],
                        x_stride: x.stride,
                        rows,
                        panel: &self.panels[start..start + n_inputs],
                        out: &mut out[first_row * out_stride + first..],
                        out_stride,
                        outputs: PANEL.min(outputs - first),
                        add: first_input > 0,
                    });
                }
            }
        }
    }
}

/// Writes `n` rows of W into a panel of zeros: `row` gives the inputs of an output. Reads eight inputs of a row at a time, so that
/// lines are used whole on both sides.
///
/// # Panics
/// Where a row is shorter than the panel is long, or `n` is above 32.
pub fn fill_panel<'a>(panel: &mut [Lane], inputs: usize, n: usize, row: impl Fn(usize) -> &'a [f32]) {
    for first in (0..inputs).step_by(8) {
        let last = inputs.min(first + 8);
        for output in 0..n {
            for (to, value) in panel[first..last].iter_mut().zip(&row(output)[first..last]) {
                to.0[output] = *value;
            }
        }
    }
}

/// Whether the machine multiplies bf16 in tiles.
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
pub(crate) fn has_split_products() -> bool {
    amx::is_available()
}

fn kernel(kernels: &Kernels) -> Kernel {
    #[cfg(target_arch = "x86_64")]
    let special = match kernels.name {
        "avx512" => avx512::kernel(),
        "avx2" => avx2::kernel(),
        _ => None,
    };
    #[cfg(not(target_arch = "x86_64"))]
    let special = (kernels.name != "scalar").then_some(scalar::tile as Kernel);
    special.unwrap_or(scalar::tile)
}

impl Tile<'_> {
    /// Checks what the kernels rely on.
    #[inline(always)]
    fn check(&self) {
        let inputs = self.panel.len();
        assert!(self.rows > 0 && (1..=PANEL).contains(&self.outputs), "a tile has rows and up to a panel of outputs");
        assert!(self.x.len() >= (self.rows - 1) * self.x_stride + inputs, "rows of `x` in the tile");
        assert!(self.out.len() >= (self.rows - 1) * self.out_stride + self.outputs, "rows of `out` in the tile");
    }

    /// Stores a row of results.
    #[inline(always)]
    fn put(&mut self, row: usize, results: &[f32; PANEL]) {
        let out = &mut self.out[row * self.out_stride..][..self.outputs];
        if self.add {
            for (out, result) in out.iter_mut().zip(results) {
                *out += *result;
            }
        } else {
            out.copy_from_slice(&results[..self.outputs]);
        }
    }
}

#[cfg(test)]
mod tests;

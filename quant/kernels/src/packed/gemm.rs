//! Dense products, by the `gemm` crate.

#![expect(unsafe_code, reason = "the `gemm` crate takes pointers")]

/// `product[x row][panel row]` = dot product of a row of x and a row of the panel, each `columns` long. On this thread.
///
/// # Panics
/// Unless both hold whole rows, and `product` has a place for each pair.
pub(crate) fn product_of_rows(columns: usize, panel: &[f32], x: &[f32], product: &mut [f32]) {
    let (rows, n) = (panel.len() / columns, x.len() / columns);
    assert_eq!((panel.len(), x.len(), product.len()), (rows * columns, n * columns, rows * n), "whole rows");
    let stride = |elements: usize| isize::try_from(elements).expect("a slice is no longer than isize::MAX");
    let (to, left, right) = (product.as_mut_ptr(), panel.as_ptr(), x.as_ptr());
    // SAFETY: the result is `rows x n` with a column stride of `rows`: the `rows * n` places of `product`. The left side is
    // `rows x columns` with a row stride of `columns`: all of `panel`. The right side is `columns x n` with a column
    // stride of `columns`: all of `x`. Lengths are asserted above, and `product` is borrowed alone.
    unsafe {
        gemm::gemm(
            rows,
            n,
            columns,
            to,
            stride(rows),
            1,
            false,
            left,
            1,
            stride(columns),
            right,
            stride(columns),
            1,
            0.0,
            1.0,
            false,
            false,
            false,
            gemm::Parallelism::None,
        );
    }
}

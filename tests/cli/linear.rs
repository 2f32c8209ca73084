//! Quantized weights of a target as packed matrices: the library's way from a folder to a product.

use reweight::quant::kernels::best;
use reweight::quant::kernels::packed::{Activations, PackedKernels};
use reweight::quant::store::Model;
use reweight::quant::store::weight::{Storage, Weight};

use crate::support::{Cmd, Dir};

/// Checks one weight against its values as a reader sees them; says whether it is quantized.
fn check(weight: &Weight) -> bool {
    let Storage::Packed(packed) = &weight.storage else { return false };
    let (rows, columns) = (weight.rows(), weight.columns());
    let mut expected = vec![0.0; rows * columns];
    weight.read_rows(best(), 0..rows, &mut expected);
    let matrix = packed.to_matrix(best()).expect("a weight of the model has elements");
    for kernels in PackedKernels::supported() {
        let mut values = vec![0.0; rows * columns];
        matrix.dequantize(kernels, 0..rows, &mut values);
        let same = values.iter().zip(&expected).all(|(a, b)| a.to_bits() == b.to_bits());
        assert!(same, "{} on {}+{}", weight.name, kernels.table, kernels.dot);
    }
    let x: Vec<f32> = (0..columns).map(|i| (i as f32 * 0.7).cos()).collect();
    let mut y = vec![0.0; rows];
    matrix.matvec(PackedKernels::best(), Activations::F32, &x, &mut y);
    for (y, row) in y.iter().zip(expected.chunks_exact(columns)) {
        let products = row.iter().zip(&x).map(|(w, x)| f64::from(*w) * f64::from(*x));
        let (exact, sum) = products.fold((0.0, 0.0), |(exact, sum), p| (exact + p, sum + p.abs()));
        let bound = columns as f64 * f64::from(f32::EPSILON) * sum;
        assert!((f64::from(*y) - exact).abs() <= bound, "{}: {y} for {exact}", weight.name);
    }
    true
}

#[test]
fn every_scheme_becomes_a_matrix() {
    for scheme in ["int2-g32", "int3-g64-sym", "int4-g128", "int4-g32-sym", "int5-g64", "int8-channel-sym"] {
        let dir = Dir::new();
        let words = format!("quantize demo target --quiet --method rtn --scheme {scheme}");
        Cmd::new(&words).in_dir(&dir).run().expect_status(0);
        let model = Model::open(&dir.path().join("target")).expect("the target opens");
        let n_quantized = model.weights().iter().filter(|weight| check(weight)).count();
        assert!(n_quantized > 0, "{scheme} quantized nothing");
    }
}

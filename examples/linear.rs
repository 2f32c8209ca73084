//! One linear layer of a quantized model, as inference code would run it.
//!
//! ```text
//! reweight quantize demo /tmp/demo-int4
//! cargo run --release --example linear -- /tmp/demo-int4 [NAME]
//! ```
//!
//! Opens a compressed-tensors folder, packs the codes of one weight (the first quantized one, or NAME) without
//! dequantizing them, multiplies it by a vector with f32 and with int8 activations, and takes the softmax of the result. A product reads the matrix once;
//! its errors are those that `reweight_kernels::packed::Activations` states, here printed beside the product in f64.

#![expect(clippy::print_stdout, reason = "an example prints what it did")]

use std::time::Instant;

use anyhow::{Context, bail};
use reweight::quant::kernels::best;
use reweight::quant::kernels::packed::{Activations, PackedKernels};
use reweight::quant::kernels::softmax::softmax;
use reweight::quant::store::Model;
use reweight::quant::store::weight::{Storage, Weight};

fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args_os().skip(1);
    let folder = arguments.next().context("give a folder that `reweight quantize` wrote")?;
    let name = arguments.next().map(|name| name.to_string_lossy().into_owned());

    let model = Model::open(folder.as_ref())?;
    let is_wanted = |weight: &&Weight| match &name {
        Some(name) => weight.name == *name,
        None => matches!(weight.storage, Storage::Packed(_)),
    };
    let weight = model.weights().iter().find(is_wanted).context("no such weight, or none is quantized")?;
    let Storage::Packed(packed) = &weight.storage else {
        bail!("`{}` is stored as {}, not quantized", weight.name, weight.stored_as());
    };

    // Once, when the model is loaded.
    let start = Instant::now();
    let matrix = packed.to_matrix(best())?;
    println!(
        "{}: {} x {} as {}, {:.3} bits a weight, packed in {:.1} ms",
        weight.name,
        matrix.rows(),
        matrix.columns(),
        weight.stored_as(),
        matrix.bits_per_weight(),
        start.elapsed().as_secs_f64() * 1e3,
    );

    // Once a token.
    let x: Vec<f32> = (0..matrix.columns()).map(|i| (i as f32 * 0.37).sin()).collect();
    let mut y = vec![0.0; matrix.rows()];
    let exact = exact_product(weight, &x);
    for activations in [Activations::F32, Activations::Int8] {
        let start = Instant::now();
        matrix.matvec(PackedKernels::best(), activations, &x, &mut y);
        let seconds = start.elapsed().as_secs_f64();
        let error = y.iter().zip(&exact).map(|(y, exact)| (f64::from(*y) - exact).abs()).fold(0.0, f64::max);
        let most = exact.iter().fold(0.0_f64, |most, y| most.max(y.abs()));
        println!("{activations:?}: {:.1} us, largest error {error:.1e} of results up to {most:.2}", seconds * 1e6);
    }

    // Were these logits.
    let mut probabilities = vec![0.0; y.len()];
    softmax(&y, y.len(), &mut probabilities);
    let likeliest = probabilities.iter().copied().fold(0.0, f32::max);
    println!(
        "softmax: likeliest {likeliest:.4}, in all {:.6}",
        probabilities.iter().map(|p| f64::from(*p)).sum::<f64>()
    );
    Ok(())
}

/// The product of the dequantized weight in f64.
fn exact_product(weight: &Weight, x: &[f32]) -> Vec<f64> {
    let mut row = vec![0.0; weight.columns()];
    let mut product = |index: usize| {
        weight.read_rows(best(), index..index + 1, &mut row);
        row.iter().zip(x).map(|(w, x)| f64::from(*w) * f64::from(*x)).sum()
    };
    (0..weight.rows()).map(&mut product).collect()
}

//! A patch that is switched on, off and rescaled between two products of one packed layer, as inference code would do it.
//!
//! ```text
//! reweight quantize demo /tmp/demo-int4
//! reweight convert demo /tmp/demo-f32 --to f32        (and a tuned one beside it)
//! reweight patch diff /tmp/demo-f32 /tmp/tuned /tmp/tuned.patch --bits 8
//! cargo run --release --example patch_at_run_time -- /tmp/demo-int4 /tmp/tuned.patch
//! ```
//!
//! Packs the codes of the first quantized weight that the patch changes, makes the patch's change a side term, and multiplies with strengths 0,
//! 1 and 0.5. No byte of the weight is touched, so switching costs nothing and strength 0 gives the unpatched product bit for bit.

#![expect(clippy::print_stdout, reason = "an example prints what it did")]

use anyhow::{Context, ensure};
use reweight::quant::kernels::best;
use reweight::quant::kernels::packed::{Activations, PackedKernels};
use reweight::quant::store::Model;
use reweight::quant::store::weight::Storage;
use reweight_patches::adapter;
use reweight_patches::side::SideTerm;

fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args_os().skip(1);
    let folder = arguments.next().context("give a folder that `reweight quantize` wrote")?;
    let patch = arguments.next().context("give a patch file or the folder of an adapter")?;

    // Once, when the model is loaded.
    let model = Model::open(folder.as_ref())?;
    let patch = adapter::open(patch.as_ref(), Some(&model))?;
    let mut changed = model.weights().iter().filter(|weight| patch.entry(&weight.name).is_some());
    let (weight, packed) = changed
        .find_map(|weight| match &weight.storage {
            Storage::Packed(packed) => Some((weight, packed)),
            _ => None,
        })
        .context("the patch changes no quantized weight")?;
    let matrix = packed.to_matrix(best())?;
    let term =
        SideTerm::of(&patch, &weight.name, (matrix.rows(), matrix.columns()))?.context("the patch changes it")?;
    println!("{}: {} x {} as {}", weight.name, matrix.rows(), matrix.columns(), weight.stored_as());

    // Once a token; the strength may be another each time.
    let x: Vec<f32> = (0..matrix.columns()).map(|i| (i as f32 * 0.37).sin()).collect();
    let product = |strength: Option<f32>| {
        let mut y = vec![0.0; matrix.rows()];
        let sides: Vec<_> = strength.iter().map(|&strength| term.side(strength)).collect();
        matrix.matmul_with(PackedKernels::best(), Activations::F32, &sides, &x, &mut y);
        y
    };
    let clean = product(None);
    for strength in [1.0, 0.5, 0.0] {
        let change: Vec<f32> = product(Some(strength)).iter().zip(&clean).map(|(y, clean)| y - clean).collect();
        let length = change.iter().map(|d| f64::from(*d).powi(2)).sum::<f64>().sqrt();
        println!("strength {strength}: |W x + strength D x - W x| = {length:.6}");
        ensure!(strength != 0.0 || length == 0.0, "strength 0 is no change");
    }
    Ok(())
}

//! Side terms of packed products against the change itself, multiplied out in f64.

use std::collections::BTreeMap;
use std::path::Path;

use reweight_patches::packed::{Bits, pack};
use reweight_patches::patch::{self, Change, Entry, Header, Kind};
use reweight_patches::side::SideTerm;
use reweight_patches::{Patch, PatchError};
use reweight_quant::kernels::packed::{Activations, CodedMatrix, PackedKernels, PackedMatrix, Zeros};
use reweight_quant::tensor::Dtype;

const ROWS: usize = 48;
const COLUMNS: usize = 128;

fn values(n: usize, seed: usize) -> Vec<f64> {
    (0..n).map(|index| ((index * 7919 + seed * 104_729) % 2003) as f64 / 1001.5 - 1.0).collect()
}

fn bytes(values: &[f64]) -> Vec<u8> {
    values.iter().flat_map(|&value| (value as f32).to_le_bytes()).collect()
}

/// A patch file of one change of `t.weight`.
fn made(folder: &Path, change: Change, shape: &[usize], parts: &[(&str, Dtype, Vec<usize>, Vec<u8>)]) -> Patch {
    let entry = Entry { name: "t.weight".to_owned(), shape: shape.to_vec(), base_blake3: None, change };
    let header = Header { kind: Kind::Difference, name: "t".to_owned(), notes: BTreeMap::new(), tensors: vec![entry] };
    let laid = parts.iter().map(|(part, dtype, shape, _)| patch::part("t.weight", part, *dtype, shape));
    let laid: Vec<_> = laid.collect();
    let path = folder.join("t.patch");
    patch::write(&path, &header, &laid, |index| Ok(parts[index].3.clone().into())).expect("the patch is written");
    Patch::open(&path).expect("the patch opens")
}

/// y = W x + strength * D x by the kernels against the same in f64.
#[track_caller]
fn agrees(patch: &Patch, change: &[f64], what: &str) {
    let codes: Vec<u8> = (0..ROWS * COLUMNS).map(|index| (index * 31 % 16) as u8).collect();
    let scales: Vec<f32> = (0..ROWS * COLUMNS / 32).map(|index| 0.01 + index as f32 * 1e-5).collect();
    let coded = CodedMatrix {
        rows: ROWS,
        columns: COLUMNS,
        bits: 4,
        group: 32,
        codes: &codes,
        scales: &scales,
        zeros: Zeros::Shared(8.0),
    };
    let matrix = PackedMatrix::new(&coded).expect("it is a matrix");
    let x: Vec<f32> = values(COLUMNS, 3).iter().map(|&value| value as f32).collect();
    let term = SideTerm::of(patch, "t.weight", (ROWS, COLUMNS)).expect("it is a term").expect("it changes that");
    for strength in [1.0_f32, -0.5] {
        let mut y = vec![0.0; ROWS];
        matrix.matmul_with(PackedKernels::best(), Activations::F32, &[term.side(strength)], &x, &mut y);
        for (row, &y) in y.iter().enumerate() {
            let (mut exact, mut size) = (0.0, 0.0);
            for (column, &x) in x.iter().enumerate() {
                let place = row * COLUMNS + column;
                let weight = (f64::from(codes[place]) - 8.0) * f64::from(scales[place / 32]);
                let change = f64::from(strength) * change[place];
                exact += (weight + change) * f64::from(x);
                size += (weight.abs() + change.abs()) * f64::from(x.abs());
            }
            // Sums of 128 terms in f32, twice: n * eps * sum |a||b|, and factors of low rank rounded to f32.
            assert!(
                (f64::from(y) - exact).abs() <= 2.0 * 130.0 * 6e-8 * (size + 1.0),
                "{what}, row {row}: {y} {exact}"
            );
        }
    }
    assert!(SideTerm::of(patch, "u.weight", (ROWS, COLUMNS)).expect("nothing is wrong").is_none());
    let wrong = SideTerm::of(patch, "t.weight", (ROWS + 16, COLUMNS));
    assert!(matches!(wrong, Err(PatchError::Shape { .. })), "{what}");
}

#[test]
fn changes_in_few_bits_are_packed_matrices() {
    let folder = tempfile::tempdir().expect("a folder");
    for bits in [8, 4, 3, 2] {
        let width = Bits::new(bits).expect("a width");
        let (codes, scales) = pack(&values(ROWS * COLUMNS, 1), width);
        let mut change = vec![0.0; ROWS * COLUMNS];
        reweight_patches::packed::Packed { bits: width, codes: &codes, scales: &scales }.read(0, &mut change);
        let parts = vec![
            ("codes", Dtype::U8, vec![codes.len()], codes.clone()),
            ("scales", Dtype::Bf16, vec![scales.len() / 2], scales),
        ];
        let patch = made(folder.path(), Change::Packed { bits }, &[ROWS, COLUMNS], &parts);
        agrees(&patch, &change, &format!("{bits} bits"));
    }
}

#[test]
fn low_rank_and_repeated_blocks_are_two_thin_matrices() {
    let folder = tempfile::tempdir().expect("a folder");
    let (rank, scale) = (3, 2.0);
    let (a, b) = (values(rank * COLUMNS, 5), values(ROWS * rank, 6));
    let single = |values: &[f64]| values.iter().map(|&value| f64::from(value as f32)).collect::<Vec<_>>();
    let (exact_a, exact_b) = (single(&a), single(&b));
    let product = |place: usize| -> f64 {
        let (row, column) = (place / COLUMNS, place % COLUMNS);
        (0..rank).map(|k| scale * exact_b[row * rank + k] * exact_a[k * COLUMNS + column]).sum()
    };
    let change: Vec<f64> = (0..ROWS * COLUMNS).map(product).collect();
    let parts = vec![("a", Dtype::F32, vec![rank, COLUMNS], bytes(&a)), ("b", Dtype::F32, vec![ROWS, rank], bytes(&b))];
    let kind = Change::LowRank { rank, scale, transposed: false, magnitude: false };
    agrees(&made(folder.path(), kind, &[ROWS, COLUMNS], &parts), &change, "low rank");

    let rank = 5;
    let block = values(rank * ROWS, 8);
    let exact = single(&block);
    let repeated = |place: usize| exact[place % COLUMNS % rank * ROWS + place / COLUMNS];
    let change: Vec<f64> = (0..ROWS * COLUMNS).map(repeated).collect();
    let parts = vec![("block", Dtype::F32, vec![rank, ROWS], bytes(&block))];
    agrees(&made(folder.path(), Change::Shards { rank, repeated: false }, &[ROWS], &parts), &change, "repeated");
}

#[test]
fn what_is_no_sum_is_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    for (change, part) in [(Change::Replace, "value"), (Change::Plain { scale: 1.0 }, "delta")] {
        let parts = vec![(part, Dtype::F32, vec![ROWS, COLUMNS], bytes(&values(ROWS * COLUMNS, 2)))];
        let patch = made(folder.path(), change, &[ROWS, COLUMNS], &parts);
        let term = SideTerm::of(&patch, "t.weight", (ROWS, COLUMNS));
        assert!(matches!(term, Err(PatchError::Side { .. })), "{part}");
    }
}

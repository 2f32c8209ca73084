//! Packed matrices: every kernel on every grid, against formulas in f64 and in whole numbers, and each other.

use reweight_kernels::packed::{Activations, CodedMatrix, PackedKernels, PackedMatrix, PackedMatrixError, Side, Zeros};

use crate::random::Random;

const EPS: f64 = f32::EPSILON as f64;

/// Levels of NF4 to three digits: no whole multiples of anything coarse.
const UNEVEN: [f32; 16] =
    [-1.0, -0.696, -0.525, -0.395, -0.284, -0.185, -0.091, 0.0, 0.08, 0.161, 0.246, 0.338, 0.441, 0.563, 0.723, 1.0];
/// Levels of MXFP4: halves.
const HALVES: [f32; 16] = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, -0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0];

#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    Asymmetric,
    Symmetric,
    MidRise,
    OddZero,
    Codebook(&'static [f32; 16]),
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Precision {
    F16,
    Bf16,
    F32,
}

#[derive(Clone, Debug)]
struct Case {
    rows: usize,
    columns: usize,
    bits: u8,
    group: usize,
    kind: Kind,
    codes: Vec<u8>,
    scales: Vec<f32>,
    zeros: Vec<u8>,
    x: Vec<f32>,
}

impl Case {
    fn new(random: &mut Random, (rows, columns): (usize, usize), bits: u8, group: usize, kind: Kind) -> Self {
        let n_groups = rows * columns.div_ceil(group.min(columns));
        Self {
            rows,
            columns,
            bits,
            group,
            kind,
            codes: (0..rows * columns).map(|_| random.below(1 << bits) as u8).collect(),
            scales: (0..n_groups).map(|_| (1 + random.below(1000)) as f32 / 8192.0).collect(),
            zeros: (0..n_groups).map(|_| random.below(1 << bits) as u8).collect(),
            x: random.normals(columns, 1.0),
        }
    }

    fn source(&self) -> CodedMatrix<'_> {
        let half = (1_u32 << self.bits) as f32 / 2.0;
        let zeros = match self.kind {
            Kind::Asymmetric => Zeros::PerGroup(&self.zeros),
            Kind::Symmetric => Zeros::Shared(half),
            Kind::MidRise => Zeros::Shared(half - 0.5),
            Kind::OddZero => Zeros::Shared(1.3),
            Kind::Codebook(levels) => Zeros::Codebook(levels),
        };
        let Self { rows, columns, bits, group, ref codes, ref scales, .. } = *self;
        CodedMatrix { rows, columns, bits, group, codes, scales, zeros }
    }

    fn packed(&self) -> PackedMatrix {
        PackedMatrix::new(&self.source()).expect("a case fits together")
    }

    fn group_of(&self, row: usize, column: usize) -> usize {
        let group = self.group.min(self.columns);
        row * self.columns.div_ceil(group) + column / group
    }

    /// What a code means before it is scaled.
    fn level(&self, row: usize, column: usize) -> f32 {
        let code = self.codes[row * self.columns + column];
        match self.source().zeros {
            Zeros::PerGroup(zeros) => f32::from(code) - f32::from(zeros[self.group_of(row, column)]),
            Zeros::Shared(zero) => f32::from(code) - zero,
            Zeros::Codebook(levels) => levels[usize::from(code)],
        }
    }

    fn weight(&self, row: usize, column: usize) -> f32 {
        self.level(row, column) * self.scales[self.group_of(row, column)]
    }

    /// Groups of columns that share an activation scale: at most 128 of a group.
    fn spans(&self) -> Vec<std::ops::Range<usize>> {
        let (group, mut spans) = (self.group.min(self.columns), Vec::new());
        for start in (0..self.columns).step_by(group) {
            let end = self.columns.min(start + group);
            spans.extend((start..end).step_by(128).map(|from| from..end.min(from + 128)));
        }
        spans
    }

    fn matvec(&self, kernels: &PackedKernels, activations: Activations) -> Vec<f32> {
        let mut y = vec![f32::NAN; self.rows];
        self.packed().matvec(kernels, activations, &self.x, &mut y);
        y
    }
}

/// Every grid, on shapes that fill tiles and blocks and on shapes that do not.
fn cases(random: &mut Random) -> Vec<Case> {
    let kinds = [Kind::Asymmetric, Kind::Symmetric, Kind::MidRise, Kind::OddZero];
    let codebooks = [Kind::Codebook(&UNEVEN), Kind::Codebook(&HALVES)];
    let shapes = [(16, 128), (17, 576), (33, 100), (48, 320), (3, 1), (5, 31), (2, 1056)];
    let mut cases = Vec::new();
    for shape in shapes {
        for group in [32, 64, 128, 16, 48, 256, usize::MAX] {
            for bits in 1..=8 {
                cases.extend(kinds.iter().map(|kind| Case::new(random, shape, bits, group, *kind)));
                if (2..=4).contains(&bits) {
                    cases.extend(codebooks.iter().map(|kind| Case::new(random, shape, bits, group, *kind)));
                }
            }
        }
    }
    cases
}

fn name(case: &Case, kernels: &PackedKernels) -> String {
    let Case { rows, columns, bits, group, kind, .. } = case;
    format!("{rows}x{columns} int{bits} g{group} {kind:?} on {}+{}", kernels.table, kernels.dot)
}

/// Fails with every line there is.
fn report(failures: &[String]) {
    assert!(failures.is_empty(), "{} failures:\n{}", failures.len(), failures.join("\n"));
}

#[test]
fn every_supported_table_is_there() {
    let mut tables: Vec<_> = PackedKernels::supported().iter().map(|kernels| kernels.table).collect();
    tables.dedup();
    let expected: Vec<_> = reweight_kernels::supported().iter().map(|kernels| kernels.name).collect();
    assert_eq!(tables, expected);
    for kernels in reweight_kernels::supported() {
        assert_eq!(PackedKernels::of(kernels).table, kernels.name);
    }
}

#[test]
fn dequantizes_to_the_bits_of_the_formula() {
    let mut failures = Vec::new();
    for case in cases(&mut Random::new(1)) {
        let packed = case.packed();
        let expected: Vec<u32> =
            (0..case.rows * case.columns).map(|i| case.weight(i / case.columns, i % case.columns).to_bits()).collect();
        let part = case.rows / 3..case.rows;
        for kernels in PackedKernels::supported() {
            let mut all = vec![f32::NAN; case.rows * case.columns];
            packed.dequantize(kernels, 0..case.rows, &mut all);
            let mut some = vec![f32::NAN; part.len() * case.columns];
            packed.dequantize(kernels, part.clone(), &mut some);
            let same =
                |values: &[f32], expected: &[u32]| values.iter().map(|v| v.to_bits()).eq(expected.iter().copied());
            if !same(&all, &expected) || !same(&some, &expected[part.start * case.columns..]) {
                failures.push(name(&case, kernels));
            }
        }
    }
    report(&failures);
}

#[test]
fn dequantizes_as_the_kernels_of_rows_do() {
    let mut random = Random::new(2);
    for precision in [Precision::F16, Precision::Bf16, Precision::F32] {
        let mut case = Case::new(&mut random, (40, 384), 4, 64, Kind::Asymmetric);
        for scale in &mut case.scales {
            *scale = match precision {
                Precision::F16 => half::f16::from_f32(random.unit()).to_f32(),
                Precision::Bf16 => half::bf16::from_f32(random.unit() * 1e9).to_f32(),
                Precision::F32 => random.unit() * 1.234_567,
            };
        }
        let packed = case.packed();
        let bytes_a_scale = if precision == Precision::F32 { 4 } else { 2 };
        assert_eq!(packed.bytes(), 48 * 384 / 2 + 48 * 6 * (bytes_a_scale + 1), "{precision:?}");
        for (kernels, rows) in PackedKernels::supported().iter().zip(std::iter::repeat(reweight_kernels::best())) {
            let (mut ours, mut theirs) = (vec![0.0; 40 * 384], vec![0.0; 40 * 384]);
            packed.dequantize(kernels, 0..40, &mut ours);
            rows.dequantize(64, &case.codes, &case.scales, &case.zeros, &mut theirs);
            assert_eq!(ours, theirs, "{precision:?} {}", name(&case, kernels));
        }
    }
}

#[test]
fn f32_products_are_within_the_bound() {
    let mut failures = Vec::new();
    for case in cases(&mut Random::new(3)) {
        for kernels in PackedKernels::supported() {
            for (row, y) in case.matvec(kernels, Activations::F32).into_iter().enumerate() {
                let products = (0..case.columns).map(|c| f64::from(case.weight(row, c)) * f64::from(case.x[c]));
                let (exact, sum) = products.fold((0.0, 0.0), |(exact, sum), p| (exact + p, sum + p.abs()));
                let error = (f64::from(y) - exact).abs();
                // Products of few columns still round once each, and so do the weights compared with.
                let bound = case.columns.max(4) as f64 * EPS * sum;
                if error.is_nan() || error > bound {
                    failures.push(format!("{} row {row}: {error:e} > {bound:e}", name(&case, kernels)));
                }
            }
        }
    }
    report(&failures);
}

/// Codes of a span of x and their scale, by the rule.
fn int8(x: &[f32]) -> (Vec<i64>, f32) {
    let most = x.iter().fold(0.0_f32, |most, x| most.max(x.abs()));
    if most < 1e-36 {
        return (vec![0; x.len()], 0.0);
    }
    (x.iter().map(|x| (x * (127.0 / most)).round_ties_even() as i64).collect(), most / 127.0)
}

/// The int8 product in whole numbers, and the bound on what summing its terms in f32 may change.
fn int8_reference(case: &Case, row: usize) -> (f64, f64) {
    // A codebook that is no multiple of a small unit is rounded to bytes; the others are exact.
    let unit = if case.kind == Kind::Codebook(&UNEVEN) {
        let levels = &UNEVEN[..1 << case.bits];
        f64::from(levels.iter().fold(0.0_f32, |most, level| most.max(level.abs())) / 127.0)
    } else {
        0.1
    };
    let (mut total, mut sum) = (0.0, 0.0);
    for span in case.spans() {
        let (codes, scale) = int8(&case.x[span.clone()]);
        let scale = f64::from(scale) * f64::from(case.scales[case.group_of(row, span.start)]);
        let mut products = 0.0;
        for (column, code) in span.zip(codes) {
            let level = f64::from(case.level(row, column));
            let level = if case.kind == Kind::Codebook(&UNEVEN) { (level / unit).round() * unit } else { level };
            products += level * code as f64;
            sum += scale * (level * code as f64).abs();
            // A zero that is no multiple of 1/2 is rounded in f32, and meets the sum of the codes.
            if case.kind == Kind::OddZero {
                sum += scale * 1.3 * code.abs() as f64;
            }
        }
        total += scale * products;
    }
    (total, (case.spans().len() + 8) as f64 * EPS * sum)
}

#[test]
fn int8_products_are_those_of_whole_numbers_on_every_table() {
    let mut failures = Vec::new();
    for case in cases(&mut Random::new(4)) {
        let scalar = case.matvec(PackedKernels::supported()[0], Activations::Int8);
        for (row, y) in scalar.iter().enumerate() {
            let (expected, bound) = int8_reference(&case, row);
            let error = (f64::from(*y) - expected).abs();
            if error.is_nan() || error > bound {
                failures.push(format!("{} row {row}: {y} for {expected}", name(&case, PackedKernels::supported()[0])));
            }
        }
        for kernels in PackedKernels::supported() {
            if case.matvec(kernels, Activations::Int8) != scalar {
                failures.push(name(&case, kernels));
            }
        }
    }
    report(&failures);
}

#[test]
fn int8_activations_err_by_half_a_step() {
    let mut random = Random::new(5);
    for bits in [2, 3, 4, 8] {
        let case = Case::new(&mut random, (64, 1024), bits, 128, Kind::Asymmetric);
        for (row, y) in case.matvec(PackedKernels::best(), Activations::Int8).into_iter().enumerate() {
            let (mut exact, mut bound) = (0.0, 0.0);
            for span in case.spans() {
                let (_, scale) = int8(&case.x[span.clone()]);
                for column in span {
                    let weight = f64::from(case.weight(row, column));
                    exact += weight * f64::from(case.x[column]);
                    bound += weight.abs() * f64::from(scale) * 0.501;
                }
            }
            assert!((f64::from(y) - exact).abs() <= bound, "int{bits} row {row}: {y} for {exact} +- {bound}");
        }
    }
}

/// The largest codes meet the largest activations of one sign, and of alternating signs: where sums of 16 bits would
/// overflow.
#[test]
fn the_largest_products_do_not_overflow() {
    let mut random = Random::new(6);
    for bits in 1..=8 {
        for kind in [Kind::Asymmetric, Kind::Symmetric] {
            for signs in [[1.0, 1.0], [-1.0, -1.0], [1.0, -1.0]] {
                let mut case = Case::new(&mut random, (16, 512), bits, 128, kind);
                case.codes.fill(0xFF >> (8 - bits));
                case.zeros.fill(0);
                case.scales.fill(1.0);
                case.x = (0..512).map(|i| signs[i % 2]).collect();
                let (expected, bound) = int8_reference(&case, 0);
                for kernels in PackedKernels::supported() {
                    for y in case.matvec(kernels, Activations::Int8) {
                        let error = (f64::from(y) - expected).abs();
                        assert!(error <= bound, "{}: {y} for {expected}", name(&case, kernels));
                    }
                }
            }
        }
    }
}

#[test]
fn rows_of_x_are_independent() {
    let mut random = Random::new(7);
    let mut failures = Vec::new();
    for (bits, kind) in [(2, Kind::MidRise), (3, Kind::Symmetric), (4, Kind::Asymmetric), (8, Kind::Asymmetric)] {
        let case = Case::new(&mut random, (50, 200), bits, 64, kind);
        let packed = case.packed();
        for n in [1, 2, 3, 4, 5, 6, 7, 8, 9, 23, 24, 32, 33] {
            let x = random.normals(n * 200, 1.0);
            for kernels in PackedKernels::supported() {
                for activations in [Activations::F32, Activations::Int8] {
                    let mut y = vec![f32::NAN; n * 50];
                    packed.matmul(kernels, activations, &x, &mut y);
                    for (x, y) in x.chunks(200).zip(y.chunks(50)) {
                        let mut alone = vec![f32::NAN; 50];
                        packed.matvec(kernels, activations, x, &mut alone);
                        for (row, (y, alone)) in y.iter().zip(&alone).enumerate() {
                            let sum: f64 = (0..200).map(|c| f64::from((case.weight(row, c) * x[c]).abs())).sum();
                            let bound = if activations == Activations::Int8 { 0.0 } else { 2.0 * 200.0 * EPS * sum };
                            let error = f64::from(y - alone).abs();
                            if error.is_nan() || error > bound {
                                failures.push(format!("{} {activations:?} n {n} row {row}", name(&case, kernels)));
                            }
                        }
                    }
                }
            }
        }
    }
    report(&failures);
}

#[test]
fn threads_change_nothing() {
    let mut random = Random::new(8);
    let case = Case::new(&mut random, (3000, 512), 4, 128, Kind::Asymmetric);
    let packed = case.packed();
    for (n, activations) in
        [(1, Activations::F32), (1, Activations::Int8), (5, Activations::Int8), (40, Activations::F32)]
    {
        let x = random.normals(n * 512, 1.0);
        let results = [1, 2, 3, 8].map(|threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("threads can be started");
            let mut y = vec![0.0; n * 3000];
            pool.install(|| packed.matmul(PackedKernels::best(), activations, &x, &mut y));
            y
        });
        assert!(results.iter().all(|y| *y == results[0]), "{n} rows in {activations:?}");
    }
}

#[test]
fn sides_are_added() {
    let mut random = Random::new(9);
    let case = Case::new(&mut random, (37, 256), 4, 128, Kind::Asymmetric);
    let delta = Case::new(&mut random, (37, 256), 2, 64, Kind::MidRise);
    let (rank, strength) = (5, -0.75);
    let (down, up) = (random.normals(rank * 256, 0.1), random.normals(37 * rank, 0.1));
    let (packed, packed_delta) = (case.packed(), delta.packed());
    let sides =
        [Side::Packed { matrix: &packed_delta, strength }, Side::LowRank { down: &down, up: &up, strength: 0.5 }];
    for n in [1, 3, 30] {
        let x = random.normals(n * 256, 1.0);
        for kernels in PackedKernels::supported() {
            let mut y = vec![f32::NAN; n * 37];
            packed.matmul_with(kernels, Activations::F32, &sides, &x, &mut y);
            for (x, y) in x.chunks(256).zip(y.chunks(37)) {
                for (row, y) in y.iter().enumerate() {
                    let (mut exact, mut sum) = (0.0, 0.0);
                    for column in 0..256 {
                        let low: f64 =
                            (0..rank).map(|r| f64::from(up[row * rank + r]) * f64::from(down[r * 256 + column])).sum();
                        let terms = [
                            f64::from(case.weight(row, column)),
                            f64::from(strength) * f64::from(delta.weight(row, column)),
                            0.5 * low,
                        ];
                        exact += terms.iter().sum::<f64>() * f64::from(x[column]);
                        sum += terms.iter().map(|term| term.abs()).sum::<f64>() * f64::from(x[column].abs());
                    }
                    let error = (f64::from(*y) - exact).abs();
                    assert!(error <= 256.0 * EPS * sum, "{}+{} n {n} row {row}: {error:e}", kernels.table, kernels.dot);
                }
            }
        }
    }
}

#[test]
fn what_does_not_fit_is_refused() {
    let mut random = Random::new(10);
    let case = Case::new(&mut random, (4, 64), 4, 32, Kind::Asymmetric);
    let source = case.source();
    let refused = |matrix: CodedMatrix<'_>| match PackedMatrix::new(&matrix) {
        Err(error) => error,
        Ok(_) => panic!("packed {matrix:?}"),
    };
    assert_eq!(
        refused(CodedMatrix { rows: 0, ..source }),
        PackedMatrixError::Empty { rows: 0, columns: 64, group: 32 }
    );
    assert_eq!(refused(CodedMatrix { bits: 9, ..source }), PackedMatrixError::Bits { bits: 9 });
    assert_eq!(refused(CodedMatrix { bits: 0, ..source }), PackedMatrixError::Bits { bits: 0 });
    let length = |what, expected, found| PackedMatrixError::Length { what, expected, found };
    assert_eq!(refused(CodedMatrix { codes: &[0; 9], ..source }), length("codes", 256, 9));
    assert_eq!(refused(CodedMatrix { group: 64, ..source }), length("scales", 4, 8));
    assert_eq!(refused(CodedMatrix { zeros: Zeros::PerGroup(&[0; 3]), ..source }), length("zeros", 8, 3));
    assert_eq!(refused(CodedMatrix { zeros: Zeros::Codebook(&[0.0; 17]), ..source }), length("levels", 16, 17));
    assert_eq!(
        refused(CodedMatrix { zeros: Zeros::PerGroup(&[17; 8]), ..source }),
        PackedMatrixError::Zero { zero: 17, bits: 4 }
    );
    assert_eq!(refused(CodedMatrix { zeros: Zeros::Shared(f32::NAN), ..source }), PackedMatrixError::NotFinite);
    assert_eq!(
        refused(CodedMatrix { bits: 8, zeros: Zeros::Codebook(&UNEVEN), ..source }),
        PackedMatrixError::Bits { bits: 8 }
    );
}

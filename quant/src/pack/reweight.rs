//! The toolkit's own container: every scheme, each with the levels that its codes stand for (`docs/format.md` gives it byte by byte).
//!
//! A linear weight `P.weight` of N rows and K columns, in groups of G columns at b bits, becomes
//!
//! | tensor | dtype | shape | content |
//! |---|---|---|---|
//! | `P.weight_codes` | U8 | N, R | codes, value i of a row at bit i b, least significant first; ternary ones five a byte, in base 3 |
//! | `P.weight_scales` | as the model, or f16 | N, K / G | |
//! | `P.weight_zeros` | U8 | N, Z | zeros as codes, packed like a row; of asymmetric integers only |
//! | `P.weight_levels` | F32 | L | what codes stand for, ascending; not of integers |
//! | `P.weight_scheme` | U8 | length | the name of the scheme, in ASCII |
//! | `P.weight_shape` | I64 | 2 | N, K |
//!
//! R and Z are whole words of four bytes. A weight is `level[code] * scale`, or `(code - zero) * scale` of integers, where a symmetric zero is 2^(b-1).

use reweight_kernels::Kernels;
use serde_json::{Value, json};

use super::rows::{CodedRows, Matrix, packed_bytes, unpack_codes};
use super::{Layout, PackedTensor, module_name};
use crate::scheme::{Levels, Scheme};
use crate::store::safetensors::NewTensor;
use crate::tensor::Dtype;

/// The version of the layout that this module writes and reads.
const VERSION: u32 = 1;

/// The container.
pub(super) struct Reweight;

/// How many levels a file states for a scheme; none for integers.
pub(super) fn n_levels(scheme: Scheme) -> usize {
    match scheme.levels() {
        Levels::Affine { .. } => 0,
        Levels::Ternary => 3,
        Levels::MidRise { bits, .. } | Levels::Lloyd { bits } => 1 << bits,
        Levels::Nf4 => 16,
    }
}

/// Bytes of a row of zeros.
pub(super) fn zero_bytes(matrix: Matrix) -> usize {
    packed_bytes(matrix.groups(), matrix.scheme.bits())
}

impl Layout for Reweight {
    fn quant_method(&self) -> &'static str {
        "reweight"
    }

    fn scheme_limit(&self, _: Scheme, scale_dtype: Dtype) -> Option<String> {
        let held = matches!(scale_dtype, Dtype::Bf16 | Dtype::F16 | Dtype::F32);
        (!held).then(|| format!("the reweight layout holds scales in BF16, F16 or F32, not in {scale_dtype}"))
    }

    fn outputs(&self, weight_name: &str, matrix: Matrix, scale_dtype: Dtype) -> Vec<NewTensor> {
        let module = module_name(weight_name);
        let tensor = |suffix: &str, dtype, shape| NewTensor { name: format!("{module}.{suffix}"), dtype, shape };
        let (Matrix { rows, scheme, .. }, groups) = (matrix, matrix.groups());
        let mut outputs = vec![
            tensor("weight_codes", Dtype::U8, vec![rows, matrix.row_bytes()]),
            tensor("weight_scales", scale_dtype, vec![rows, groups]),
        ];
        if !scheme.symmetric() {
            outputs.push(tensor("weight_zeros", Dtype::U8, vec![rows, zero_bytes(matrix)]));
        }
        if !scheme.is_affine() {
            outputs.push(tensor("weight_levels", Dtype::F32, vec![n_levels(scheme)]));
        }
        outputs.push(tensor("weight_scheme", Dtype::U8, vec![scheme.to_string().len()]));
        outputs.push(tensor("weight_shape", Dtype::I64, vec![2]));
        outputs
    }

    fn lay_out(&self, kernels: &Kernels, matrix: Matrix, rows: &mut CodedRows, parts: &mut Vec<Vec<u8>>) {
        let Matrix { rows: n_rows, columns, scheme } = matrix;
        let optional = usize::from(!scheme.symmetric()) + usize::from(!scheme.is_affine());
        parts.resize(4 + optional, Vec::new());
        // Codes and scales stand as they are stored.
        std::mem::swap(&mut rows.packed, &mut parts[0]);
        std::mem::swap(&mut rows.scales, &mut parts[1]);
        let mut rest = parts[2..].iter_mut();
        let mut next = || rest.next().expect("there are as many parts as outputs");
        if !scheme.symmetric() {
            let (bytes, zeros) = (zero_bytes(matrix), next());
            zeros.resize(n_rows * bytes, 0);
            let packed = zeros.chunks_exact_mut(bytes.max(1)).zip(rows.zeros.chunks_exact(matrix.groups().max(1)));
            packed.for_each(|(packed, zeros)| kernels.pack(scheme.bits(), zeros, packed));
        }
        if !scheme.is_affine() {
            let levels = next();
            levels.clear();
            levels.extend(rows.levels.iter().flat_map(|level| level.to_le_bytes()));
        }
        *next() = scheme.to_string().into_bytes();
        let shape = next();
        shape.clear();
        shape.extend([n_rows, columns].into_iter().flat_map(|size| (size as u64).to_le_bytes()));
    }

    fn read_row(&self, kernels: &Kernels, stored: &PackedTensor, row: usize, codes: &mut [u8], zeros: &mut [u8]) {
        let (matrix, row_bytes) = (stored.matrix, stored.matrix.row_bytes());
        unpack_codes(kernels, matrix.scheme, &stored.codes.data()[row * row_bytes..(row + 1) * row_bytes], codes);
        if let Some(packed) = &stored.zeros {
            let bytes = zero_bytes(matrix);
            kernels.unpack(matrix.scheme.bits(), &packed.data()[row * bytes..(row + 1) * bytes], zeros);
        }
    }

    fn scales_by_group(&self) -> bool {
        false
    }

    fn settings_file(&self) -> Option<&'static str> {
        None
    }

    fn quantization_config(&self, quantized: &[(&str, Scheme)], ignored: &[String]) -> Value {
        let schemes: serde_json::Map<String, Value> =
            quantized.iter().map(|(name, scheme)| (module_name(name).to_owned(), scheme.to_string().into())).collect();
        json!({ "quant_method": self.quant_method(), "version": VERSION, "schemes": schemes, "ignore": ignored })
    }
}

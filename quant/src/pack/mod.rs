//! Containers: how codes, scales and zeros become the tensors of a checkpoint, and back. One container, one file.

mod awq;
pub mod compressed_tensors;
pub mod gguf;
mod gptq;
mod join;
mod reweight;
mod rows;
mod stored;

use std::fmt;

use reweight_kernels::Kernels;
use serde_json::Value;

use crate::scheme::{Group, Scheme};
use crate::store::safetensors::NewTensor;
use crate::tensor::Dtype;

pub(crate) use join::{holds_codes, join};
pub(crate) use rows::pack_codes;
pub use rows::{CodedRows, Matrix, packed_bytes};
pub use stored::PackedTensor;

/// A layout of quantized weights that inference engines read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Container {
    /// The `pack-quantized` format of the compressed-tensors library.
    #[default]
    CompressedTensors,
    /// `AutoAWQ`'s `gemm` version: 4 bits, asymmetric, f16.
    Awq,
    /// GPTQ as `AutoGPTQ` wrote it: zeros are stored less one.
    Gptq,
    /// GPTQ with zeros stored as they are, `gptq_v2`.
    GptqV2,
    /// This toolkit's own, for what the others cannot hold.
    Reweight,
}

/// What every container can say about itself and do.
pub(crate) trait Layout: Sync {
    /// The `quant_method` of `config.json`.
    fn quant_method(&self) -> &'static str;

    /// The scheme that it holds best, in groups of 128.
    fn default_scheme(&self) -> &'static str {
        "int4-g128"
    }

    /// The element type that its loaders compute in, where they know but one.
    fn float_dtype(&self) -> Option<Dtype> {
        None
    }

    /// Whether every tensor must have the same scheme.
    fn one_scheme(&self) -> bool {
        false
    }

    /// Why no tensor can be stored by this scheme, or `None`.
    fn scheme_limit(&self, scheme: Scheme, scale_dtype: Dtype) -> Option<String>;

    /// Why a matrix of that many rows and columns cannot be stored at that many bits, or `None`.
    fn shape_limit(&self, _rows: usize, _columns: usize, _bits: u8) -> Option<String> {
        None
    }

    /// The tensors that a matrix becomes, in the order in which they are digested.
    fn outputs(&self, weight_name: &str, matrix: Matrix, scale_dtype: Dtype) -> Vec<NewTensor>;

    /// Lays out the bytes of [`Layout::outputs`], in that order. `rows` may be left without content.
    fn lay_out(&self, kernels: &Kernels, matrix: Matrix, rows: &mut CodedRows, parts: &mut Vec<Vec<u8>>);

    /// Reads a row of codes, and its zeros where the container stores any.
    fn read_row(&self, kernels: &Kernels, stored: &PackedTensor, row: usize, codes: &mut [u8], zeros: &mut [u8]);

    /// Whether scales stand by group and row, `[K / G, N]`, and not by row and group.
    fn scales_by_group(&self) -> bool;

    /// A file beside `config.json` that holds the same settings, for older loaders.
    fn settings_file(&self) -> Option<&'static str>;

    /// The `quantization_config` of `config.json`. `ignored` are the linear modules that keep their dtype.
    fn quantization_config(&self, quantized: &[(&str, Scheme)], ignored: &[String]) -> Value;
}

impl Container {
    /// Every container, in the order of the enum.
    pub const ALL: [Self; 5] = [Self::CompressedTensors, Self::Awq, Self::Gptq, Self::GptqV2, Self::Reweight];

    pub(crate) fn layout(self) -> &'static dyn Layout {
        match self {
            Self::CompressedTensors => &compressed_tensors::CompressedTensors,
            Self::Awq => &awq::Awq,
            Self::Gptq => &gptq::V1,
            Self::GptqV2 => &gptq::V2,
            Self::Reweight => &reweight::Reweight,
        }
    }

    /// The name on a command line.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::CompressedTensors => "compressed-tensors",
            Self::Awq => "awq",
            Self::Gptq => "gptq",
            Self::GptqV2 => "gptq-v2",
            Self::Reweight => "reweight",
        }
    }

    /// The `quant_method` of `config.json`.
    #[must_use]
    pub fn quant_method(self) -> &'static str {
        self.layout().quant_method()
    }

    /// The scheme to take where none is asked for.
    ///
    /// # Panics
    /// Never: each container names one that parses.
    #[must_use]
    pub fn default_scheme(self) -> Scheme {
        self.layout().default_scheme().parse().expect("a container names a scheme that parses")
    }

    /// The element type of floats and scales that loaders of this container compute in, where they know but one.
    #[must_use]
    pub fn float_dtype(self) -> Option<Dtype> {
        self.layout().float_dtype()
    }

    /// Whether it states one scheme for all tensors.
    #[must_use]
    pub fn one_scheme(self) -> bool {
        self.layout().one_scheme()
    }

    /// The layout for a scheme where none is asked for.
    #[must_use]
    pub const fn for_scheme(scheme: Scheme) -> Self {
        if scheme.is_affine() { Self::CompressedTensors } else { Self::Reweight }
    }

    /// Why no tensor can be stored by this scheme with scales of that type, or `None` where some can.
    #[must_use]
    pub fn scheme_limit(self, scheme: Scheme, scale_dtype: Dtype) -> Option<String> {
        if self != Self::Reweight && !scheme.is_affine() {
            return Some(format!("{self} holds integer codes, and those of {scheme} stand for other numbers"));
        }
        self.layout().scheme_limit(scheme, scale_dtype)
    }
}

impl fmt::Display for Container {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// The module a weight belongs to: its name without `.weight`.
#[must_use]
pub fn module_name(weight_name: &str) -> &str {
    weight_name.strip_suffix(".weight").unwrap_or(weight_name)
}

/// The `group_size` of configurations that have one for all tensors: -1 for a scale a row.
fn group_size(quantized: &[(&str, Scheme)]) -> Value {
    match quantized.first().map(|(_, scheme)| scheme.group()) {
        Some(Group::Size(size)) => size.get().into(),
        Some(Group::Channel) | None => (-1).into(),
    }
}

/// What a configuration says it is, or `None` where it is not quantized.
#[must_use]
pub fn quant_method(config: &Value) -> Option<&str> {
    config.get("quantization_config")?.get("quant_method")?.as_str()
}

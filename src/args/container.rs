//! Layouts and element types, by the names that the command line has for them.

use clap::ValueEnum;

/// Layout of a quantized model's files.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Container {
    /// safetensors as the compressed-tensors library lays them out
    #[default]
    CompressedTensors,
    /// safetensors as `AutoAWQ` lays them out
    Awq,
    /// safetensors as `AutoGPTQ` lays them out
    Gptq,
    /// The same with zeros as they are
    GptqV2,
    /// safetensors in the toolkit's own layout
    Reweight,
    /// One file for llama.cpp
    Gguf,
}

impl Container {
    /// The layout of folders; `None` for a GGUF file.
    pub(crate) const fn layout(self) -> Option<reweight_quant::pack::Container> {
        use reweight_quant::pack::Container as Layout;
        Some(match self {
            Self::CompressedTensors => Layout::CompressedTensors,
            Self::Awq => Layout::Awq,
            Self::Gptq => Layout::Gptq,
            Self::GptqV2 => Layout::GptqV2,
            Self::Reweight => Layout::Reweight,
            Self::Gguf => return None,
        })
    }
}

/// What `convert` writes: floats, or codes in a layout.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ConvertTo {
    /// Every weight in floating point.
    Floats(FloatDtype),
    /// Codes in this layout.
    Codes(Container),
}

impl ValueEnum for ConvertTo {
    fn value_variants<'a>() -> &'a [Self] {
        &[
            Self::Floats(FloatDtype::Bf16),
            Self::Floats(FloatDtype::F16),
            Self::Floats(FloatDtype::F32),
            Self::Codes(Container::CompressedTensors),
            Self::Codes(Container::Awq),
            Self::Codes(Container::Gptq),
            Self::Codes(Container::GptqV2),
            Self::Codes(Container::Reweight),
            Self::Codes(Container::Gguf),
        ]
    }

    fn to_possible_value(&self) -> Option<clap::builder::PossibleValue> {
        match self {
            Self::Floats(dtype) => dtype.to_possible_value(),
            Self::Codes(container) => container.to_possible_value(),
        }
    }
}

/// A floating-point type, or the one that fits best.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum AutoDtype {
    /// Decided from the model.
    #[default]
    Auto,
    /// IEEE 754 binary16.
    F16,
    /// The upper half of binary32.
    Bf16,
    /// IEEE 754 binary32.
    F32,
}

/// A floating-point type.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum FloatDtype {
    /// bfloat16: the range of f32 in half the bytes
    Bf16,
    /// IEEE 754 half precision
    F16,
    /// IEEE 754 single precision
    F32,
}

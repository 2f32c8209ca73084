//! Ways of choosing codes, and what each of them needs to know.

use serde::Serialize;

/// Steps from a decision boundary within which OFQ takes a weight for one of low confidence, which training on the grid would leave swinging
/// between two codes (nbasyl/OFQ, `cga.py`).
pub const LOW_CONFIDENCE_BAND: f64 = 0.005;

/// How codes are chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Method {
    /// Minimum and maximum of the group, nearest code.
    Rtn,
    /// Range and zero with the least squared error, nearest code.
    Search,
    /// Activation-aware scaling of channels, then `Search`.
    Awq,
    /// `Search`; weights near a decision boundary then take the code that is better for the outputs.
    Confident,
    /// Scaling as `Awq` and rounding as `Confident`.
    AwqConfident,
    /// The ranges of `Search`, and rounding that compensates its errors.
    Gptq,
    /// Scaling as `Awq` and rounding as `Gptq`.
    Best,
    /// Activation-aware scaling as published: minimum and maximum, clipped; a baseline.
    AwqPaper,
}

impl Method {
    /// Whether channels are scaled before they are quantized.
    #[must_use]
    pub const fn scales(self) -> bool {
        matches!(self, Self::Awq | Self::AwqConfident | Self::Best | Self::AwqPaper)
    }

    /// Whether it goes by how channels go together (x x^T).
    #[must_use]
    pub const fn correlates(self) -> bool {
        self.rounds_by_outputs() || matches!(self, Self::AwqPaper)
    }

    /// Whether codes are chosen by what they do together, not the nearest ones.
    #[must_use]
    pub const fn rounds_by_outputs(self) -> bool {
        self.compensates() || self.settles()
    }

    /// Whether weights near a decision boundary are decided by what they do to outputs.
    #[must_use]
    pub const fn settles(self) -> bool {
        matches!(self, Self::Confident | Self::AwqConfident)
    }

    /// Whether rounding needs to know how columns go together.
    #[must_use]
    pub const fn compensates(self) -> bool {
        matches!(self, Self::Gptq | Self::Best)
    }
}

impl std::fmt::Display for Method {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Self::Rtn => "rtn",
            Self::Search => "search",
            Self::Awq => "awq",
            Self::Confident => "confident",
            Self::AwqConfident => "awq-confident",
            Self::Gptq => "gptq",
            Self::Best => "best",
            Self::AwqPaper => "awq-paper",
        })
    }
}

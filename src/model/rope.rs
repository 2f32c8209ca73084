//! Rotary position embeddings (Su et al., arXiv 2104.09864) and their extensions to longer contexts.
//!
//! Element `i` of the first half of a head turns with element `i` of the second: the layout of Hugging Face checkpoints.
//! Formulas by the names of transformers' `rope_type`: `default`; `linear` (positions divided by a factor); `dynamic` (NTK: the
//! base grows with a window beyond the trained length); `llama3` (low frequencies divided, a smooth step between);
//! `yarn` (arXiv 2309.00071); `longrope` (arXiv 2402.13753: a factor per frequency, another set beyond the trained length).

use std::f64::consts::PI;

use super::config::Config;
use super::error::ModelError;

/// Frequencies as a configuration states them; they may depend on the length of a window.
#[derive(Clone, Debug)]
pub(super) struct Rope {
    base: f64,
    /// Elements of a head that turn: the first so many.
    dims: usize,
    kind: RopeKind,
    /// What sine and cosine are multiplied by.
    amplitude: f64,
}

#[derive(Clone, Debug)]
enum RopeKind {
    Default,
    Linear { factor: f64 },
    Dynamic { factor: f64, trained: usize },
    Llama3 { factor: f64, low: f64, high: f64, trained: usize },
    Yarn { factor: f64, low: f64, high: f64 },
    Long { short: Vec<f64>, long: Vec<f64>, trained: usize },
}

/// Sines and cosines of every position of a window, `[position][dims / 2]`.
#[derive(Debug)]
pub(super) struct Turns {
    half: usize,
    cos: Vec<f32>,
    sin: Vec<f32>,
}

impl Rope {
    /// Reads `rope_theta` with `rope_scaling`, or `rope_parameters` (of a kind of layer, where it has kinds).
    pub(super) fn of(config: Config<'_>, head_dim: usize, layer_type: &str) -> Result<Self, ModelError> {
        let parameters = config.part("rope_parameters").map(|all| all.part(layer_type).unwrap_or(all));
        let scaling = parameters.or_else(|| config.part("rope_scaling")).unwrap_or(Config { json: &EMPTY, ..config });
        let base = match scaling.float_if("rope_theta")? {
            Some(base) => base,
            None => config.float_or("rope_theta", 10_000.0)?,
        };
        let share = match scaling.float_if("partial_rotary_factor")? {
            Some(share) => share,
            None => config.float_or("partial_rotary_factor", 1.0)?,
        };
        let dims = (head_dim as f64 * share) as usize;
        if dims == 0 || dims > head_dim || dims % 2 == 1 || base <= 1.0 {
            return Err(config.unsupported(format!("a rotation of {dims} of {head_dim} elements with base {base}")));
        }
        let mut rope = Self { base, dims, kind: RopeKind::Default, amplitude: 1.0 };
        rope.extend(config, scaling)?;
        Ok(rope)
    }

    /// The same without any extension, at another base.
    pub(super) fn plain(head_dim: usize, base: f64) -> Self {
        Self { base, dims: head_dim, kind: RopeKind::Default, amplitude: 1.0 }
    }

    fn extend(&mut self, config: Config<'_>, scaling: Config<'_>) -> Result<(), ModelError> {
        let positions = config.size_or("max_position_embeddings", 2048)?;
        let key = "original_max_position_embeddings";
        let trained = match scaling.size_if(key)? {
            Some(trained) => trained,
            None => config.size_or(key, positions)?,
        };
        let stretch = positions as f64 / trained as f64;
        let kind = scaling.text_if(scaling.first_of(&["rope_type", "type"]))?.unwrap_or("default");
        self.kind = match kind {
            // Positions of a text are the same in all three sections of `mrope`.
            "default" | "mrope" => RopeKind::Default,
            "linear" => RopeKind::Linear { factor: scaling.float(&["factor"])? },
            "dynamic" => RopeKind::Dynamic { factor: scaling.float(&["factor"])?, trained: positions },
            "llama3" => RopeKind::Llama3 {
                factor: scaling.float(&["factor"])?,
                low: scaling.float(&["low_freq_factor"])?,
                high: scaling.float(&["high_freq_factor"])?,
                trained,
            },
            "yarn" => {
                let factor = scaling.float_if("factor")?.unwrap_or(stretch);
                self.amplitude = yarn_amplitude(scaling, factor)?;
                let (low, high) = self.yarn_range(scaling, trained)?;
                RopeKind::Yarn { factor, low, high }
            }
            // `su` is the name of the first Phi-3 checkpoints.
            "longrope" | "su" => {
                let factor = scaling.float_if("factor")?.unwrap_or(stretch);
                let amplitude = if factor <= 1.0 { 1.0 } else { (1.0 + factor.ln() / (trained as f64).ln()).sqrt() };
                self.amplitude = scaling.float_if("attention_factor")?.unwrap_or(amplitude);
                let (short, long) = (scaling.floats("short_factor")?, scaling.floats("long_factor")?);
                for (key, factors) in [("short_factor", &short), ("long_factor", &long)] {
                    if factors.len() != self.dims / 2 {
                        return Err(scaling.wrong(key, format!("{} numbers", self.dims / 2)));
                    }
                }
                RopeKind::Long { short, long, trained }
            }
            other => return Err(config.unsupported(format!("rope type {other:?}"))),
        };
        Ok(())
    }

    /// Between which frequencies it goes from extrapolating to interpolating.
    fn yarn_range(&self, scaling: Config<'_>, trained: usize) -> Result<(f64, f64), ModelError> {
        let dims = self.dims as f64;
        let at = |turns: f64| dims * (trained as f64 / (turns * 2.0 * PI)).ln() / (2.0 * self.base.ln());
        let (mut low, mut high) = (at(scaling.float_or("beta_fast", 32.0)?), at(scaling.float_or("beta_slow", 1.0)?));
        if scaling.flag_or("truncate", true)? {
            (low, high) = (low.floor(), high.ceil());
        }
        let (low, high) = (low.max(0.0), high.min(dims - 1.0));
        Ok((low, if low < high { high } else { low + 0.001 }))
    }

    /// Radians a position, for a window of so many tokens.
    fn frequencies(&self, n_tokens: usize) -> Vec<f64> {
        let dims = self.dims as f64;
        let base = match self.kind {
            RopeKind::Dynamic { factor, trained } if n_tokens > trained => {
                let stretch = factor * n_tokens as f64 / trained as f64 - (factor - 1.0);
                self.base * stretch.powf(dims / (dims - 2.0))
            }
            _ => self.base,
        };
        let plain = (0..self.dims / 2).map(|i| base.powf(-2.0 * i as f64 / dims));
        match &self.kind {
            RopeKind::Default | RopeKind::Dynamic { .. } => plain.collect(),
            RopeKind::Linear { factor } => plain.map(|frequency| frequency / factor).collect(),
            RopeKind::Llama3 { factor, low, high, trained } => {
                let smooth = |frequency: f64| {
                    let turns = *trained as f64 * frequency / (2.0 * PI);
                    let share = ((turns - low) / (high - low)).clamp(0.0, 1.0);
                    (1.0 - share) * frequency / factor + share * frequency
                };
                plain.map(smooth).collect()
            }
            RopeKind::Yarn { factor, low, high } => {
                let mix = |(i, frequency): (usize, f64)| {
                    let interpolated = ((i as f64 - low) / (high - low)).clamp(0.0, 1.0);
                    frequency / factor * interpolated + frequency * (1.0 - interpolated)
                };
                plain.enumerate().map(mix).collect()
            }
            RopeKind::Long { short, long, trained } => {
                let factors = if n_tokens > *trained { long } else { short };
                plain.zip(factors).map(|(frequency, factor)| frequency / factor).collect()
            }
        }
    }

    /// What a window of so many tokens turns by. Angles are rounded to f32 as torch has them.
    pub(super) fn turns(&self, n_tokens: usize) -> Turns {
        let half = self.dims / 2;
        let frequencies: Vec<f32> = self.frequencies(n_tokens).into_iter().map(|x| x as f32).collect();
        let (mut cos, mut sin) = (Vec::with_capacity(n_tokens * half), Vec::with_capacity(n_tokens * half));
        for position in 0..n_tokens {
            for frequency in &frequencies {
                let angle = f64::from(position as f32 * frequency);
                cos.push((angle.cos() * self.amplitude) as f32);
                sin.push((angle.sin() * self.amplitude) as f32);
            }
        }
        Turns { half, cos, sin }
    }
}

fn yarn_amplitude(scaling: Config<'_>, factor: f64) -> Result<f64, ModelError> {
    let scale = |mscale: f64| if factor <= 1.0 { 1.0 } else { 0.1 * mscale * factor.ln() + 1.0 };
    if let Some(amplitude) = scaling.float_if("attention_factor")? {
        return Ok(amplitude);
    }
    let (one, all) = (scaling.float_or("mscale", 0.0)?, scaling.float_or("mscale_all_dim", 0.0)?);
    Ok(if one != 0.0 && all != 0.0 { scale(one) / scale(all) } else { scale(1.0) })
}

static EMPTY: serde_json::Value = serde_json::Value::Null;

impl Turns {
    /// Turns one head of a token.
    pub(super) fn turn(&self, position: usize, head: &mut [f32]) {
        let (cos, sin) =
            (&self.cos[position * self.half..][..self.half], &self.sin[position * self.half..][..self.half]);
        let (first, rest) = head.split_at_mut(self.half);
        for (((a, b), cos), sin) in first.iter_mut().zip(rest).zip(cos).zip(sin) {
            (*a, *b) = (*a * cos - *b * sin, *b * cos + *a * sin);
        }
    }
}

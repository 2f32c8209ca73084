//! Corruptions of grey images as MNIST-C publishes them for 28x28 (Mu and Gilmer 2019, arXiv 1906.02337; formulas and severities from
//! google-research/mnist-c, `corruptions.py`), made anew of counted draws (`draws.rs`).
//!
//! An image in bytes becomes x = byte / 255, is spoiled in f64, held within 0 and 1, and rounded to the nearest byte. What an image
//! becomes depends on the corruption, its severity, the seed and the image's index, on nothing else.

mod blur;
mod draws;
mod noise;
mod plane;
mod tone;
mod warp;
mod weather;

use std::fmt;
use std::str::FromStr;

use draws::Draws;
use plane::Plane;

/// Most severities of a corruption.
pub const SEVERITIES: usize = 5;

type Spoil = fn(&Plane, usize, &mut Draws) -> Plane;

/// Name, whether it has severities, and what it does. The place in this table is part of the key of its draws: new ones go at the end.
const TABLE: [(&str, bool, Spoil); 21] = [
    ("gaussian_noise", true, noise::gaussian),
    ("shot_noise", true, noise::shot),
    ("impulse_noise", true, noise::impulse),
    ("speckle_noise", true, noise::speckle),
    ("gaussian_blur", true, blur::gaussian),
    ("glass_blur", true, blur::glass),
    ("defocus_blur", true, blur::defocus),
    ("zoom_blur", true, blur::zoom),
    ("fog", true, weather::fog),
    ("spatter", true, weather::spatter),
    ("contrast", true, tone::contrast),
    ("brightness", true, tone::brightness),
    ("pixelate", true, tone::pixelate),
    ("quantize", true, tone::quantize),
    ("shear", true, warp::shear),
    ("rotate", true, warp::rotate),
    ("scale", true, warp::scale),
    ("translate", true, warp::translate),
    ("stripe", false, tone::stripe),
    ("inverse", false, tone::inverse),
    ("dotted_line", false, tone::dotted_line),
];

/// One corruption at one severity.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Corruption {
    index: usize,
    severity: usize,
}

impl Corruption {
    /// All names, in the order of the table.
    pub fn names() -> impl Iterator<Item = &'static str> {
        TABLE.iter().map(|(name, ..)| *name)
    }

    /// Its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        TABLE[self.index].0
    }

    /// 1 to 5; 1 where it has but one.
    #[must_use]
    pub fn severity(self) -> usize {
        self.severity
    }

    /// A spoiled copy of a grey image of `height` by `width` bytes, number `index` of its set.
    ///
    /// Cost: some hundred operations a pixel; fog draws a map of 256 by 256.
    ///
    /// # Panics
    /// Unless there are as many bytes as pixels, at least one.
    #[must_use]
    pub fn apply(self, (height, width): (usize, usize), pixels: &[u8], index: usize, seed: u64) -> Vec<u8> {
        assert!(pixels.len() == height * width && !pixels.is_empty(), "a byte for each pixel");
        let mut draws = Draws::new(seed, self.index as u64, index as u64);
        let spoil = TABLE[self.index].2;
        spoil(&Plane::of_bytes(height, width, pixels), self.severity - 1, &mut draws).bytes()
    }
}

impl fmt::Display for Corruption {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.name(), self.severity)
    }
}

/// One or more corruptions as the command line names them: `NAME:SEVERITY`, `NAME` at every severity, `all` of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Corruptions(pub Vec<Corruption>);

impl FromStr for Corruptions {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, severity) = text.split_once(':').map_or((text, None), |(name, severity)| (name, Some(severity)));
        let asked = severity.map(|severity| {
            let number = severity.parse().ok().filter(|n| (1..=SEVERITIES).contains(n));
            number.ok_or_else(|| format!("severity {severity:?}: expected 1 to {SEVERITIES}"))
        });
        let asked = asked.transpose()?;
        let mut found = Vec::new();
        for (index, (known, has_severities, _)) in TABLE.iter().enumerate() {
            let severities = if *has_severities { 1..=SEVERITIES } else { 1..=1 };
            if name == *known || name == "all" {
                // What has but one severity is the same at all of them.
                let asked = asked.filter(|_| *has_severities || name != "all");
                if asked.is_some_and(|asked| !severities.contains(&asked)) {
                    return Err(format!("{name} has no severities: expected `{name}`"));
                }
                let wanted = severities.filter(|severity| asked.is_none_or(|asked| asked == *severity));
                found.extend(wanted.map(|severity| Corruption { index, severity }));
            }
        }
        if found.is_empty() {
            let known: Vec<&str> = Corruption::names().collect();
            return Err(format!("no corruption {name:?}: known are {}, and `all`", known.join(", ")));
        }
        Ok(Self(found))
    }
}

#[cfg(test)]
mod tests;

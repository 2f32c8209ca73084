//! From bytes of pixels to what a network takes.

use serde_json::Value;

use super::maps::Maps;
use crate::model::config::Config;
use crate::model::error::ModelError;

/// Channels, rows and columns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ImageShape {
    /// 1 for grey images.
    pub channels: usize,
    /// Rows.
    pub height: usize,
    /// Columns.
    pub width: usize,
}

impl ImageShape {
    /// Bytes of an image.
    #[must_use]
    pub const fn len(self) -> usize {
        self.channels * self.height * self.width
    }

    /// Whether an image has no pixel.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.len() == 0
    }
}

impl std::fmt::Display for ImageShape {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}x{}x{}", self.channels, self.height, self.width)
    }
}

/// One image: a byte a pixel and channel, channel after channel, row after row.
pub type Pixels<'a> = &'a [u8];

/// How pixels become numbers: `(pixel / 255 - mean) / deviation`, for each channel.
#[derive(Clone, Debug)]
pub(super) struct Normalization {
    means: Vec<f32>,
    deviations: Vec<f32>,
}

impl Normalization {
    /// `image_mean` and `image_std` of a configuration: as in `preprocessor_config.json`, one number a channel. Absent, they are 0 and 1.
    pub(super) fn of(config: Config<'_>, channels: usize) -> Result<Self, ModelError> {
        let list = |key: &str, default: f32| {
            if config.get(key).is_none_or(|value| *value == Value::Null) {
                return Ok(vec![default; channels]);
            }
            let values: Vec<f32> = config.floats(key)?.into_iter().map(|x| x as f32).collect();
            if values.len() != channels {
                return Err(config.wrong(key, format!("{channels} numbers")));
            }
            Ok(values)
        };
        let (means, deviations) = (list("image_mean", 0.0)?, list("image_std", 1.0)?);
        if deviations.iter().any(|x| *x <= 0.0) {
            return Err(config.wrong("image_std", "numbers above 0"));
        }
        Ok(Self { means, deviations })
    }

    /// The value of each byte in each channel: what torchvision computes in f32.
    fn table(&self, channel: usize) -> [f32; 256] {
        std::array::from_fn(|pixel| (pixel as f32 / 255.0 - self.means[channel]) / self.deviations[channel])
    }

    /// An image channel after channel.
    pub(super) fn planes(&self, shape: ImageShape, pixels: Pixels<'_>) -> Vec<f32> {
        let mut values = Vec::with_capacity(pixels.len());
        for (channel, plane) in pixels.chunks_exact(shape.height * shape.width).enumerate() {
            let table = self.table(channel);
            values.extend(plane.iter().map(|pixel| table[usize::from(*pixel)]));
        }
        values
    }

    /// An image as maps.
    pub(super) fn maps(&self, shape: ImageShape, pixels: Pixels<'_>) -> Maps {
        let mut values = vec![0.0; shape.len()];
        let area = shape.height * shape.width;
        for (channel, plane) in pixels.chunks_exact(area).enumerate() {
            let table = self.table(channel);
            for (to, pixel) in values[channel..].iter_mut().step_by(shape.channels).zip(plane) {
                *to = table[usize::from(*pixel)];
            }
        }
        Maps { channels: shape.channels, height: shape.height, width: shape.width, values }
    }
}

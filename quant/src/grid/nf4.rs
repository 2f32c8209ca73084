//! `NormalFloat` of 4 bits (Dettmers et al. 2023, "`QLoRA`", arXiv 2305.14314, appendix E): sixteen levels at quantiles of a normal distribution, one
//! of them zero, the ends -1 and 1. The scale is the largest magnitude of the group; a value takes the nearest level.
//!
//! The numbers are those of bitsandbytes (`create_normal_map` in `functional.py`, and its kernels), in f32.

/// The levels before the scale.
pub(super) const LEVELS: [f32; 16] = [
    -1.0,
    -0.696_192_8,
    -0.525_073_05,
    -0.394_917_5,
    -0.284_441_38,
    -0.184_773_43,
    -0.091_050_036,
    0.0,
    0.079_580_3,
    0.160_930_2,
    0.246_112_3,
    0.337_915_24,
    0.440_709_83,
    0.562_617,
    0.722_956_84,
    1.0,
];

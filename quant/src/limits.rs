//! Every bound on what a file may ask for, in one place.

/// Longest safetensors header, in bytes; the reference reader has the same bound.
pub const SAFETENSORS_HEADER_BYTES: usize = 100_000_000;
/// Most dimensions of one tensor.
pub const TENSOR_RANK: usize = 16;
/// Largest JSON side file (`config.json`, an index), in bytes.
pub const JSON_BYTES: u64 = 100_000_000;
/// Largest recipe, in bytes: a line for each of half a million tensors.
pub const RECIPE_BYTES: u64 = 50_000_000;
/// Deepest level of folders searched for side files.
pub const FOLDER_DEPTH: usize = 4;

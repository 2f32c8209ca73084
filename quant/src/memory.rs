//! Memory: what a run will need, stated before it starts, and what the process has used.

use std::fs;

use crate::encode::Encoded;
use crate::plan::{Action, PlannedTensor};
use crate::store::Model;

/// Tensors in memory at once: one being quantized, one being written.
pub const TENSORS_IN_FLIGHT: usize = 2;
/// Bytes of a piece of a tensor that is cast or copied.
pub const PIECE_BYTES: usize = 8 << 20;
/// What the process needs besides buffers: program, allocator, thread stacks. Measured on a plan of a few tensors.
const BASE_BYTES: usize = 6 << 20;
/// What one tensor's name, plan and report take. Measured on a folder of 3000 tensors.
const BYTES_PER_TENSOR: usize = 4 << 10;

/// Anonymous memory that a plan will take at its peak, in bytes. Mapped files do not count: the system can drop them.
#[must_use]
pub fn peak_anonymous_bytes(model: &Model, tensors: &[PlannedTensor]) -> usize {
    let buffers = model.weights().iter().zip(tensors).map(|(weight, tensor)| match tensor.action {
        Action::Quantize { scheme, scale_dtype } => {
            Encoded::bytes_needed(weight.rows(), weight.columns(), scheme, scale_dtype)
        }
        Action::Cast(_) => PIECE_BYTES,
        Action::Copy => 0,
    });
    // Buffers are reused and keep the size of the largest tensor they held.
    BASE_BYTES + tensors.len() * BYTES_PER_TENSOR + TENSORS_IN_FLIGHT * buffers.max().unwrap_or(0)
}

/// The most memory this process has had resident so far, mapped files included, in bytes; 0 where the system does not
/// say.
#[must_use]
pub fn peak_rss_bytes() -> usize {
    status_field("VmHWM:")
}

/// Anonymous memory this process has resident now, in bytes; 0 where the system does not say.
#[must_use]
pub fn anonymous_bytes() -> usize {
    status_field("RssAnon:")
}

fn status_field(field: &str) -> usize {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix(field));
    let kibibytes = line.and_then(|rest| rest.trim().strip_suffix("kB")?.trim().parse::<usize>().ok());
    kibibytes.unwrap_or(0) * 1024
}

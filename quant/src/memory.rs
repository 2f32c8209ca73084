//! Memory: what a run will need, stated before it starts, and what the process has used.

use std::fs;

use reweight_kernels::QuadraticForm;

use crate::compensate::Factor;
use crate::encode::Encoded;
use crate::pack::{Container, Matrix};
use crate::plan::{Action, Method, PlannedTensor};
use crate::store::{Model, Weight};

/// Tensors in memory at once: one being quantized, one being written.
pub const TENSORS_IN_FLIGHT: usize = 2;
/// Bytes of a piece of a tensor that is cast or copied.
pub const PIECE_BYTES: usize = 8 << 20;
/// A tensor of at most this many bytes, before and after, is worked on by one thread.
pub const SMALL_BYTES: usize = 4 << 20;
/// What the process needs besides buffers: program, allocator, thread stacks. A run of the bundled model takes 5 MB.
const BASE_BYTES: usize = 6 << 20;
/// What one tensor's name, plan and report take, about.
const BYTES_PER_TENSOR: usize = 4 << 10;

/// Whether a tensor goes through whole on one thread, beside others.
#[must_use]
pub fn is_small(weight: &Weight, tensor: &PlannedTensor) -> bool {
    weight.stored_bytes().max(tensor.bytes_out()) <= SMALL_BYTES
}

/// Anonymous memory that a plan will take at its peak, in bytes, with the threads of this process. Mapped files do not
/// count: the system can drop them.
#[must_use]
pub fn peak_anonymous_bytes(model: &Model, tensors: &[PlannedTensor], method: Method, container: Container) -> usize {
    let (mut small, mut large) = (0, 0);
    for (weight, tensor) in model.weights().iter().zip(tensors) {
        let buffers = match tensor.action {
            Action::Quantize { scheme, scale_dtype } | Action::Repack { scheme, scale_dtype } => {
                let matrix = Matrix { rows: weight.rows(), columns: weight.columns(), scheme };
                let by_outputs = match method {
                    _ if method.compensates() => Factor::bytes_needed(weight.columns()),
                    _ if method.settles() => QuadraticForm::bytes_needed(weight.columns()),
                    _ => 0,
                };
                Encoded::bytes_needed(container, matrix, scale_dtype) + by_outputs
            }
            Action::Cast(_) => PIECE_BYTES.min(tensor.bytes_out()),
            Action::Copy => 0,
        };
        let side = if is_small(weight, tensor) { &mut small } else { &mut large };
        *side = buffers.max(*side);
    }
    // Buffers are reused and keep the size of the largest tensor they held.
    let in_flight = rayon::current_num_threads() * small + TENSORS_IN_FLIGHT * large;
    BASE_BYTES + tensors.len() * BYTES_PER_TENSOR + in_flight
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

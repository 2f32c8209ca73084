//! SIMD kernels for low-bit weights.

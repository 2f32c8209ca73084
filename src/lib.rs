//! Quantize and patch model weights.

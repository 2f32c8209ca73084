//! Content digests of model tensors.

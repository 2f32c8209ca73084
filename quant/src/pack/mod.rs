//! Containers: how codes, scales and zeros become the tensors of a checkpoint. One container, one file.

pub mod compressed_tensors;

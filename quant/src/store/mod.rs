//! Files: mapped for reading, streamed and renamed for writing.

mod bytes;

pub use bytes::Bytes;

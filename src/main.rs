//! The `reweight` command.

fn main() {}

//! The binary: settings, composition, serve and demo.

fn main() {}

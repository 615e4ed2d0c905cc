//! The gRPC edge: parse, call, render, map errors, one instrumentation layer.
mod parse;

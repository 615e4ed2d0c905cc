//! The process side: the seed that makes keepers, and what a keeper does. One thread each, no
//! runtime; the heap may be used after clone3(2), because no other thread can hold its lock.

mod client;
mod connection;
mod container;
mod dial;
mod exec;
mod line;
mod log;
mod pid_one;
mod pod;
mod poller;
mod request;
pub(crate) mod sandbox;
pub(crate) mod seed;
mod streams;
mod template;
mod writer;

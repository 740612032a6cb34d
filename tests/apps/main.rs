//! Apps at work on a mounted store: the real program, real processes, real WebAssembly.

#[path = "../support/mod.rs"]
mod support;

mod hostile;
mod http;
mod life;
mod locks;
mod messages;
mod notes;
mod policy;
mod site;
mod sockets;
mod stage;
mod thumbnails;
mod tutorial;
mod typescript;
mod wasi;

//! HTTP, which others ask of apps and apps of others, and connections that apps open.
//!
//! `server` takes requests, `origin` says which of them are meant for it, `exchange` is one of them as the app's thread
//! has it; `client` sends requests, `socket` is connections of an app. `dial` connects both to other hosts, `address` says which
//! addresses are of the public network. `message` reads what others send, `stream` has it come in time, `pipe` carries an
//! answer from one thread to another. Threads and blocking calls, since what is here is bounded in number anyway: an app does
//! one thing at a time, and only programs of this machine are served.

mod address;
mod client;
mod dial;
mod exchange;
mod message;
mod origin;
mod pipe;
mod server;
mod socket;
mod stream;

pub use address::is_public;
#[cfg(feature = "fuzzing")]
pub use message::read_http;

pub(super) use client::{Asked, Fetches, Net};
pub(super) use exchange::Exchange;
pub(super) use server::{Front, serve};
pub(super) use socket::Sockets;

//! HTTP: requests that others send to apps, and requests of apps to others.
//!
//! `server` takes requests, `origin` says which of them are meant for it, `exchange` is one of them as the app's thread
//! has it; `client` sends requests, `dial` connects to where they go, `address` says which addresses are of the public
//! network. `message` reads what others send, `stream` has it come in time, `pipe` carries an answer from one thread to
//! another. Threads and blocking calls, since what is here is bounded in number anyway: an app does one thing at a time, and
//! only programs of this machine are served.

mod address;
mod client;
mod dial;
mod exchange;
mod message;
mod origin;
mod pipe;
mod server;
mod stream;

#[cfg(feature = "fuzzing")]
pub use message::read_http;

pub(super) use client::{Asked, Fetches, Net};
pub(super) use exchange::Exchange;
pub(super) use server::{Front, serve};

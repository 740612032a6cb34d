//! The layer of apps: signed WebAssembly components that work on the files of a store, triggered by changes of them.
//!
//! ```text
//! package   what an author makes: manifest, signature, code
//! node      in the daemon: which apps there are, what they were granted, when they are called, what they ask for
//! ipc       between the two: messages and shared memory
//! guest     in a process of its own for each app: the runtime, confined
//! ```
//!
//! **The node trusts nothing that comes from a sandbox.** The sandbox keeps an app from leaving its runtime, and the
//! process from leaving its confinement; but what may be done to files is decided by the node alone, for each request.

#[cfg(feature = "guest")]
pub mod guest;
pub mod ipc;
pub mod limits;
pub mod node;
pub mod package;

//! Apps of a mounted store: what the crate for them needs of a daemon.

use std::net::TcpListener;
use std::sync::Arc;

use blocktree_sandbox::node::{Apps, Kernel, Program, Runner};
use blocktree_vfs::fuse::{KernelCache, Mounted};
use blocktree_vfs::{Fs, Ino};

use crate::store_control::StoreControl;

/// The name of the hidden command that is an app's process.
const SANDBOX: &str = "app-sandbox";

struct Cache(KernelCache);

impl Kernel for Cache {
    fn forget_name(&self, parent: Ino, name: &[u8]) {
        self.0.forget_name(parent, name);
    }

    fn forget_inode(&self, ino: Ino) {
        self.0.forget_inode(ino);
    }

    fn lengthen_inode(&self, ino: Ino, size: u64, last: u8) {
        self.0.lengthen_inode(ino, size, last);
    }
}

/// Starts the apps of a mounted store, and answers calls for them until the mount ends. A mount that cannot be written
/// only shows them. What goes wrong here does not keep a store from being mounted.
pub(crate) fn serve(
    fs: &Arc<Fs>,
    mounted: &Mounted,
    control: &StoreControl,
    http: Option<TcpListener>,
    is_read_only: bool,
) {
    let runner = (!is_read_only).then(|| Runner {
        kernel: Arc::new(Cache(mounted.kernel_cache())),
        // The running program itself, even if its file was replaced meanwhile.
        program: Program { path: "/proc/self/exe".into(), arguments: vec![SANDBOX.into()] },
        http,
    });
    match Apps::open(fs, runner) {
        Ok(apps) => {
            let apps = Arc::new(apps);
            let theirs = Arc::clone(&apps);
            control.answer_calls(move |request| theirs.call(request));
            mounted.handle().before_close(move || apps.stop());
        }
        Err(error) => tracing::error!(%error, "no app runs"),
    }
}

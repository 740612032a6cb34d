use super::MountOptions;
use crate::control::Service;
use crate::fs::Fs;
use std::sync::Arc;

pub(super) struct Adapter {
    fs: Arc<Fs>,
    service: Arc<dyn Service>,
    options: MountOptions,
}
impl Adapter {
    pub(super) fn new(fs: Arc<Fs>, service: Arc<dyn Service>, options: &MountOptions) -> Self {
        Self { fs, service, options: options.clone() }
    }
}
impl fuser::Filesystem for Adapter {
    fn init(&mut self, _request: &fuser::Request, config: &mut fuser::KernelConfig) -> std::io::Result<()> {
        super::kernel::negotiate(config, &self.options)
    }
}

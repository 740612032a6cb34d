//! Index nodes, read from the device.

use std::io;
use std::sync::Arc;

use crate::device::{Device, Read, SectorBuf};
use crate::limits::{NODE_BYTES, NODE_SECTORS};
use crate::tree::{NodeBytes, NodeReader};

pub(super) struct DeviceNodes {
    device: Arc<dyn Device>,
    /// Whether the host's cache may be asked first.
    cached: bool,
}

impl DeviceNodes {
    pub(super) fn new(device: &Arc<dyn Device>) -> Self {
        Self { device: Arc::clone(device), cached: true }
    }

    /// For who has to know what is on the device itself.
    pub(super) fn uncached(device: &Arc<dyn Device>) -> Self {
        Self { device: Arc::clone(device), cached: false }
    }

    fn buffer_for(&self, sector: u64) -> io::Result<SectorBuf> {
        if sector.checked_add(NODE_SECTORS as u64).is_none_or(|end| end > self.device.sectors()) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        Ok(self.device.buffer(NODE_SECTORS))
    }
}

impl NodeReader for DeviceNodes {
    fn read_node(&self, sector: u64, bytes: &mut NodeBytes) -> io::Result<()> {
        let mut buffer = self.buffer_for(sector)?;
        self.device.read(&mut [Read { sector, bytes: &mut buffer }])?;
        bytes.copy_from_slice(&buffer);
        Ok(())
    }

    fn read_node_cached(&self, sector: u64, bytes: &mut NodeBytes) -> io::Result<()> {
        if !self.cached {
            return self.read_node(sector, bytes);
        }
        let mut buffer = self.buffer_for(sector)?;
        self.device.read_cached(&mut [Read { sector, bytes: &mut buffer }])?;
        bytes.copy_from_slice(&buffer);
        Ok(())
    }

    fn read_nodes(&self, sectors: &[u64]) -> io::Result<Vec<Box<NodeBytes>>> {
        let mut buffers: Vec<_> = sectors.iter().map(|_| self.device.buffer(NODE_SECTORS)).collect();
        let reads = sectors.iter().zip(&mut buffers);
        self.device.read(&mut reads.map(|(&sector, bytes)| Read { sector, bytes }).collect::<Vec<_>>())?;
        let copied = buffers.iter().map(|buffer| {
            let mut bytes = Box::new([0; NODE_BYTES]);
            bytes.copy_from_slice(buffer);
            bytes
        });
        Ok(copied.collect())
    }
}

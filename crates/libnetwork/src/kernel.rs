//! The seam to the host's interfaces.

use async_trait::async_trait;
use calico_workload::LoosePair;

/// What the plugin does to interfaces.
#[async_trait]
pub(crate) trait Kernel: Send + Sync {
    /// Makes a pair, anew if there is one of the name.
    async fn make(&self, pair: &LoosePair) -> Result<(), String>;

    /// Removes the pair of a host's end; `false` if there is none.
    async fn remove(&self, host_interface: &str) -> Result<bool, String>;
}

/// The real one.
#[derive(Clone, Copy, Debug)]
pub(crate) struct HostKernel;

#[async_trait]
impl Kernel for HostKernel {
    async fn make(&self, pair: &LoosePair) -> Result<(), String> {
        calico_workload::make_loose(pair).await.map_err(|error| error.to_string())
    }

    async fn remove(&self, host_interface: &str) -> Result<bool, String> {
        calico_workload::detach(host_interface).await.map_err(|error| error.to_string())
    }
}

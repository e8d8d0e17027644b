//! The veth pair.

use std::net::IpAddr;

use crate::{AttachError, Attached, Attachment, NetnsRef};

/// Checks everything that can be refused before acting: both names valid and free, the namespace there and not the
/// host's own, no address on any of the workload's interfaces already, gateways and MTU possible.
///
/// # Errors
/// The first refusal.
pub async fn check(netns: &NetnsRef, attachment: &Attachment) -> Result<(), AttachError> {
    let _ = (netns, attachment);
    unimplemented!()
}

/// Makes the veth pair with its addresses, routes and neighbour entries; [`check`]s first.
///
/// # Errors
/// What [`check`] refuses, [`AttachError::Kernel`] and [`AttachError::Permission`]; all that was made is removed then.
pub async fn attach(netns: &NetnsRef, attachment: &Attachment) -> Result<Attached, AttachError> {
    let _ = (netns, attachment);
    unimplemented!()
}

/// Removes the veth pair and gives default routes that were moved aside their place back. `Ok(false)` if there is
/// no such interface.
///
/// # Errors
/// [`AttachError::Kernel`], [`AttachError::Permission`].
pub async fn detach(host_interface: &str) -> Result<bool, AttachError> {
    let _ = host_interface;
    unimplemented!()
}

/// Adds an address to an attached interface, and with the first of a family its default route and neighbour entry.
/// `gateway` is used only then; `None` is the family's default.
///
/// # Errors
/// [`AttachError::NoInterface`], [`AttachError::Address`], [`AttachError::NotAttached`], …
pub async fn add_address(
    netns: &NetnsRef,
    interface: &str,
    address: IpAddr,
    gateway: Option<IpAddr>,
) -> Result<(), AttachError> {
    let _ = (netns, interface, address, gateway);
    unimplemented!()
}

/// Removes an address from an interface, and with the last of a family the default route through the interface.
///
/// # Errors
/// [`AttachError::NoInterface`], [`AttachError::NoAddress`], …
pub async fn remove_address(netns: &NetnsRef, interface: &str, address: IpAddr) -> Result<(), AttachError> {
    let _ = (netns, interface, address);
    unimplemented!()
}

/// True if the namespace has an interface of the name.
///
/// # Errors
/// [`AttachError::Namespace`], [`AttachError::Kernel`].
pub async fn interface_exists(netns: &NetnsRef, interface: &str) -> Result<bool, AttachError> {
    let _ = (netns, interface);
    unimplemented!()
}

//! The devices, their addresses and forwarding entries: read back, compared, mended.

use std::net::IpAddr;

use calico_model::{LEAST_MTU, VXLAN_OVERHEAD};
use calico_policy::instruction::Tunnel;
use rustix::io::Errno;

use super::{Overlay, is_link_local, name};
use crate::{
    Error, Problem, Report,
    family::Family,
    netlink::{Device, Rtnl, VxlanParameters},
};

/// Why a device is not as wanted.
enum Hindrance {
    Kernel(Error),
    Told(String),
}

impl From<Error> for Hindrance {
    fn from(error: Error) -> Self {
        Self::Kernel(error)
    }
}

impl Overlay {
    /// Brings devices and forwarding entries to what is wanted, as far as they may differ. What cannot be done for a
    /// device is in the report.
    ///
    /// # Errors
    /// The kernel's state could not be read.
    pub(crate) async fn apply(&mut self, rtnl: &Rtnl, report: &mut Report) -> Result<(), Error> {
        // What is stale stays so until all is done, also if this future is dropped half-way.
        if self.stale {
            self.apply_devices(rtnl, report).await?;
            self.stale = false;
        }
        if self.forwarding_stale {
            let mut done = true;
            for family in Family::ALL {
                if let Some(device) = self.devices[family.index()] {
                    done &= self.apply_forwarding(family, device, rtnl, report).await;
                }
            }
            self.forwarding_stale = !done;
        }
        Ok(())
    }

    async fn apply_devices(&mut self, rtnl: &Rtnl, report: &mut Report) -> Result<(), Error> {
        let locals = self.locals();
        let addresses = if locals.is_empty() { Vec::new() } else { rtnl.addresses().await? };
        let homes = locals.iter().filter_map(|local| {
            let found = addresses.iter().filter(|(_, address)| address == local).map(|(index, _)| *index);
            Some((*local, found.min()?))
        });
        self.homes = homes.collect();
        self.needed.clone_from(&locals);
        let mut problems = Vec::new();
        for family in Family::ALL {
            let wanted = self.tunnel(family).cloned();
            let outcome = match &wanted {
                Some(tunnel) => self.apply_device(family, tunnel, &addresses, rtnl, report).await,
                None => remove(family, rtnl, report).await.map(|()| None),
            };
            self.devices[family.index()] = match outcome {
                Ok(device) => device,
                Err(hindrance) => {
                    problems.push(Problem::new(name(family), words(hindrance)));
                    report.retry = true;
                    None
                }
            };
        }
        let missing = locals.iter().filter(|local| !self.homes.contains_key(*local));
        problems.extend(missing.map(|local| {
            let reason = "no interface has this address of the Node, so hosts that are reached from it are not \
                          reached; give it to an interface, or start calico-node with the right one (--ip, --ip6)";
            Problem::new(local, reason)
        }));
        self.problems = problems;
        (self.all, self.forwarding_stale) = (true, true);
        Ok(())
    }

    /// Returns the device's index, or nothing if the host's own address is missing.
    async fn apply_device(
        &self,
        family: Family,
        tunnel: &Tunnel,
        addresses: &[(u32, IpAddr)],
        rtnl: &Rtnl,
        report: &mut Report,
    ) -> Result<Option<u32>, Hindrance> {
        let Some(parent) = self.homes.get(&tunnel.local).copied() else { return Ok(None) };
        let Some(carrier) = rtnl.device_at(parent).await? else { return Ok(None) };
        let parameters =
            VxlanParameters { vni: tunnel.vni, port: tunnel.port, local: tunnel.local, parent, plain: true };
        let mtu = mtu(family, tunnel, carrier.mtu)?;
        let name = name(family);
        let there = match rtnl.device(&name).await? {
            Some(device) if device.vxlan.is_none() => {
                let reason = "an interface of another kind has this name; rename or remove it";
                return Err(Hindrance::Told(reason.to_owned()));
            }
            Some(device) if device.vxlan.as_ref() == Some(&parameters) && device.mac == tunnel.mac.0 => Some(device),
            Some(device) => {
                tracing::info!(%name, "the VXLAN device has other parameters than it should; it is made anew");
                rtnl.delete_link(device.index).await?;
                report.tunnel_changes += 1;
                None
            }
            None => None,
        };
        let is_new = there.is_none();
        let device = match there {
            Some(device) => device,
            None => {
                rtnl.create_vxlan(&name, &parameters, tunnel.mac.0, mtu).await.map_err(explained)?;
                report.tunnel_changes += 1;
                let made = rtnl.device(&name).await?;
                made.ok_or_else(|| Hindrance::Told("it vanished right after it was made".to_owned()))?
            }
        };
        if !device.up || device.mtu != mtu {
            rtnl.set_link(device.index, mtu).await?;
            report.tunnel_changes += 1;
        }
        let present = addresses.iter().filter(|(index, _)| *index == device.index && !is_new);
        apply_addresses(family, &device, tunnel.address, present.map(|(_, address)| *address), rtnl, report).await?;
        Ok(Some(device.index))
    }

    /// Returns whether all entries are as wanted. One that the kernel refuses holds up no other.
    async fn apply_forwarding(&self, family: Family, device: u32, rtnl: &Rtnl, report: &mut Report) -> bool {
        let present = match rtnl.forwarding(device).await {
            Ok(present) => present,
            Err(error) => return is_done(family, Err(error), report),
        };
        let wanted = self.forwarding_wanted(family);
        let mut done = true;
        for mac in present.keys().filter(|mac| !wanted.contains_key(*mac)) {
            done &= is_done(family, rtnl.delete_forwarding(device, *mac).await, report);
        }
        for (mac, host) in &wanted {
            let there = present.get(mac);
            if there.is_some_and(|there| there.plain && there.host == *host) {
                continue;
            }
            let replace = async {
                // What an entry has beyond our own cannot be taken from it.
                if there.is_some_and(|there| !there.plain) {
                    rtnl.delete_forwarding(device, *mac).await?;
                }
                rtnl.set_forwarding(device, *mac, *host).await
            };
            done &= is_done(family, replace.await, report);
        }
        done
    }
}

/// Reports what came of a change of a forwarding entry. Returns whether it was made.
fn is_done(family: Family, outcome: Result<(), Error>, report: &mut Report) -> bool {
    match outcome {
        Ok(()) => {
            report.tunnel_changes += 1;
            true
        }
        Err(error) => {
            report.problems.push(Problem::new(name(family), error));
            report.retry = true;
            false
        }
    }
}

/// The device has its address and no other of its family.
async fn apply_addresses(
    family: Family,
    device: &Device,
    wanted: IpAddr,
    present: impl Iterator<Item = IpAddr>,
    rtnl: &Rtnl,
    report: &mut Report,
) -> Result<(), Error> {
    let mut found = false;
    for address in present.filter(|address| Family::of_address(address) == family && !is_link_local(address)) {
        if address == wanted {
            found = true;
        } else {
            rtnl.delete_address(device.index, address).await?;
            report.tunnel_changes += 1;
        }
    }
    if !found {
        rtnl.add_address(device.index, wanted).await?;
        report.tunnel_changes += 1;
    }
    Ok(())
}

/// What fits into the carrying interface, or less if that is asked for. More than fits the kernel would refuse.
fn mtu(family: Family, tunnel: &Tunnel, carrier: u32) -> Result<u32, Hindrance> {
    let fits = carrier.saturating_sub(VXLAN_OVERHEAD[family.index()]);
    let mtu = tunnel.mtu.map_or(fits, |mtu| mtu.min(fits));
    if mtu >= LEAST_MTU[family.index()] {
        return Ok(mtu);
    }
    Err(Hindrance::Told(format!(
        "the interface with {} has an MTU of {carrier}, which leaves {fits} inside VXLAN, less than {} at least; raise it",
        tunnel.local,
        LEAST_MTU[family.index()]
    )))
}

/// Removes a family's device if it is one of ours.
async fn remove(family: Family, rtnl: &Rtnl, report: &mut Report) -> Result<(), Hindrance> {
    let Some(device) = rtnl.device(&name(family)).await?.filter(|device| device.vxlan.is_some()) else {
        return Ok(());
    };
    match rtnl.delete_link(device.index).await {
        Ok(()) => report.tunnel_changes += 1,
        Err(Error::Kernel(error)) if error.is(Errno::NODEV) => {}
        Err(error) => return Err(error.into()),
    }
    Ok(())
}

/// Removes both devices, as far as they are ours.
pub(crate) async fn remove_devices(rtnl: &Rtnl) -> Result<(), Error> {
    for family in Family::ALL {
        match remove(family, rtnl, &mut Report::default()).await {
            Err(Hindrance::Kernel(error)) => return Err(error),
            Ok(()) | Err(Hindrance::Told(_)) => {}
        }
    }
    Ok(())
}

fn words(hindrance: Hindrance) -> String {
    match hindrance {
        Hindrance::Kernel(error) => error.to_string(),
        Hindrance::Told(reason) => reason,
    }
}

/// Two refusals that say little by themselves.
fn explained(error: Error) -> Hindrance {
    match error {
        Error::Kernel(kernel) if kernel.is(Errno::OPNOTSUPP) => Hindrance::Told(format!(
            "{}: this kernel has no VXLAN; load the module `vxlan`, or use pools without",
            kernel.operation
        )),
        Error::Kernel(kernel) if kernel.is(Errno::EXIST) => {
            Hindrance::Told(format!("{kernel}: another device has the same VXLAN identifier and port; remove it"))
        }
        error => Hindrance::Kernel(error),
    }
}

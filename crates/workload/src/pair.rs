//! A veth pair under work: its two ends, what has been made on it so far, and how to take that back.

use std::{fs, net::IpAddr, path::Path};

use nlink::{
    Connection, Ipv4Address, Ipv6Address, Route,
    netlink::{devconf::AddrGenMode, neigh::Neighbor},
};

use crate::{
    AttachError,
    error::kernel,
    netns::{Workload, write_sysctl},
    routes::{self, ASIDE, SteppedAside},
};

/// The steps of attaching. Each must be undone when a later one fails; the tests make each of them fail in turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    Create,
    HostSettings,
    WorkloadSettings,
    HostUp,
    WorkloadUp,
    Address,
    Neighbour,
    Aside,
    DefaultRoute,
}

/// Called before each step; an error takes the place of the step's own.
pub(crate) type Before<'a> = &'a (dyn Fn(Step) -> Result<(), AttachError> + Sync);

/// What production passes for [`Before`].
pub(crate) fn go_on(_: Step) -> Result<(), AttachError> {
    Ok(())
}

/// Something that was made and may have to be taken back.
#[derive(Debug)]
enum Made {
    Pair,
    /// A sysctl in the workload, with its value before.
    Setting(String, String),
    Address(IpAddr),
    Neighbour(IpAddr),
    Aside(SteppedAside),
    Default(IpAddr),
}

/// Both ends of a pair. Indices are 0 until the pair exists.
pub(crate) struct Pair<'a> {
    pub(crate) host: Connection<Route>,
    pub(crate) workload: Workload,
    /// Index of the host's end, in the host's namespace.
    pub(crate) host_index: u32,
    /// Index of the workload's end, in its namespace.
    pub(crate) index: u32,
    /// MAC address of the host's end: where packets for the gateway go.
    pub(crate) host_mac: [u8; 6],
    pub(crate) before: Before<'a>,
    made: Vec<Made>,
}

impl<'a> Pair<'a> {
    pub(crate) fn new(host: Connection<Route>, workload: Workload, host_mac: [u8; 6], before: Before<'a>) -> Self {
        Self { host, workload, host_index: 0, index: 0, host_mac, before, made: Vec::new() }
    }

    /// Says that the pair itself is new, so that undoing removes it.
    pub(crate) fn created(&mut self) {
        self.made.push(Made::Pair);
    }

    /// [`prepare_host6`] for the host's end.
    pub(crate) async fn prepare_host6(&self, interface: &str, needs: bool) -> Result<(), AttachError> {
        (self.before)(Step::HostSettings)?;
        prepare_host6(&self.host, self.host_index, interface, needs).await
    }

    /// Makes IPv6 work at once on the workload's end; Docker switches it off in the containers it makes.
    pub(crate) fn prepare_workload6(&mut self, interface: &str) -> Result<(), AttachError> {
        (self.before)(Step::WorkloadSettings)?;
        let settings = format!("net/ipv6/conf/{interface}");
        let mut changed = Vec::new();
        let within = self.workload.netns().run(|| {
            if !Path::new("/proc/sys").join(&settings).exists() {
                return Err(no_ipv6("the workload's namespace"));
            }
            for name in ["accept_dad", "disable_ipv6"] {
                let path = format!("{settings}/{name}");
                if let Some(before) = set_to_0(&path)? {
                    changed.push(Made::Setting(path, before));
                }
            }
            Ok(())
        });
        self.made.append(&mut changed);
        within.map_err(kernel(|| "entering the workload's namespace".into()))?
    }

    /// Gives the workload's end an address, as a /32 or /128.
    pub(crate) async fn add_address(&mut self, address: IpAddr) -> Result<(), AttachError> {
        (self.before)(Step::Address)?;
        let links = &self.workload.links;
        let added = match address {
            IpAddr::V4(v4) => links.add_address(Ipv4Address::with_index(self.index, v4, 32)).await,
            // Nobody else is on the link, so there is nothing to detect, and the address must work at once.
            IpAddr::V6(v6) => links.add_address(Ipv6Address::with_index(self.index, v6, 128).nodad()).await,
        };
        added.map_err(kernel(|| format!("adding the address {address}")))?;
        self.made.push(Made::Address(address));
        Ok(())
    }

    /// Leads the traffic of `gateway`'s family through the pair: the neighbour entry, room for the route, the route.
    pub(crate) async fn add_gateway(&mut self, gateway: IpAddr) -> Result<(), AttachError> {
        (self.before)(Step::Neighbour)?;
        let entry = Neighbor::with_index(self.index, gateway).lladdr(self.host_mac).permanent();
        let what = || format!("adding the neighbour entry of the gateway {gateway}");
        self.workload.links.replace_neighbor(entry).await.map_err(kernel(what))?;
        self.made.push(Made::Neighbour(gateway));
        if gateway.is_ipv4() {
            self.make_room().await?;
        }
        (self.before)(Step::DefaultRoute)?;
        routes::add_default(&self.workload.links, self.index, gateway).await?;
        self.made.push(Made::Default(gateway));
        Ok(())
    }

    async fn make_room(&mut self) -> Result<(), AttachError> {
        (self.before)(Step::Aside)?;
        let aside = SteppedAside::make_room(&self.workload.links).await?;
        if aside.is_empty() {
            return Ok(());
        }
        self.made.push(Made::Aside(aside));
        let marked = self.host.set_link_alias_by_index(self.host_index, ASIDE).await;
        marked.map_err(kernel(|| "noting that default routes stepped aside".into()))
    }

    /// Takes back all that was made, last first, and returns `cause`, with what could not be taken back if anything.
    pub(crate) async fn undo(mut self, cause: AttachError) -> AttachError {
        let mut left = Vec::new();
        let created = matches!(self.made.first(), Some(Made::Pair));
        if created {
            // Everything on the pair goes with it.
            let removed = self.host.del_link_if_exists(self.host_index).await;
            if let Err(error) = removed.map_err(kernel(|| "removing the veth pair".into())) {
                left.push(error.to_string());
            }
        }
        while let Some(made) = self.made.pop() {
            if let Err(error) = self.take_back(made, created).await {
                left.push(error.to_string());
            }
        }
        if left.is_empty() { cause } else { AttachError::Undo { cause: Box::new(cause), left } }
    }

    async fn take_back(&self, made: Made, pair_is_gone: bool) -> Result<(), AttachError> {
        let links = &self.workload.links;
        match made {
            Made::Aside(aside) => {
                aside.undo(links).await?;
                if !pair_is_gone {
                    unmark(&self.host, self.host_index).await?;
                }
                Ok(())
            }
            _ if pair_is_gone => Ok(()),
            Made::Pair => Ok(()),
            Made::Setting(path, before) => {
                let within = self.workload.netns().run(|| write_sysctl(&path, &before));
                within.map_err(kernel(|| "entering the workload's namespace".into()))?
            }
            Made::Address(address) => remove_address(links, self.index, address).await.map(drop),
            Made::Neighbour(gateway) => remove_neighbour(links, self.index, gateway).await,
            Made::Default(IpAddr::V6(_)) => routes::remove_default6(links, self.index).await.map(drop),
            Made::Default(IpAddr::V4(_)) => routes::remove_default4(links, self.index).await,
        }
    }
}

/// Makes IPv6 work at once on the host's end: a link-local address derived from its MAC address, usable as soon as the
/// interface is up. Where the host has no IPv6 that is an error only if the workload `needs` it.
pub(crate) async fn prepare_host6(
    host: &Connection<Route>,
    index: u32,
    interface: &str,
    needs: bool,
) -> Result<(), AttachError> {
    let settings = format!("net/ipv6/conf/{interface}");
    if !Path::new("/proc/sys").join(&settings).exists() {
        return if needs { Err(no_ipv6("this host")) } else { Ok(()) };
    }
    let what = || format!("setting how {interface} makes its link-local address");
    host.set_addr_gen_mode_by_index(index, AddrGenMode::Eui64).await.map_err(kernel(what))?;
    set_to_0(&format!("{settings}/accept_dad"))?;
    if needs {
        set_to_0(&format!("{settings}/disable_ipv6"))?;
    }
    Ok(())
}

/// Removes an address; `Ok(false)` if the interface does not have it.
pub(crate) async fn remove_address(
    links: &Connection<Route>,
    index: u32,
    address: IpAddr,
) -> Result<bool, AttachError> {
    let length = if address.is_ipv4() { 32 } else { 128 };
    match links.del_address_by_index(index, address, length).await {
        Ok(()) => Ok(true),
        Err(error) if error.is_not_found() || error.errno() == Some(EADDRNOTAVAIL) => Ok(false),
        Err(error) => Err(kernel(|| format!("removing the address {address}"))(error)),
    }
}

/// What the kernel answers to the removal of an address that is not there.
const EADDRNOTAVAIL: i32 = 99;

/// Removes the neighbour entry of a gateway, if it is there.
pub(crate) async fn remove_neighbour(
    links: &Connection<Route>,
    index: u32,
    gateway: IpAddr,
) -> Result<(), AttachError> {
    let removed = links.del_neighbor_if_exists(Neighbor::with_index(index, gateway)).await;
    removed.map(drop).map_err(kernel(|| format!("removing the neighbour entry of the gateway {gateway}")))
}

/// Forgets that default routes stepped aside.
pub(crate) async fn unmark(host: &Connection<Route>, host_index: u32) -> Result<(), AttachError> {
    let cleared = host.set_link_alias_by_index(host_index, "").await;
    cleared.map_err(kernel(|| "clearing the note that default routes stepped aside".into()))
}

/// Sets a sysctl of the calling thread's namespace to 0; returns its value before if that was another.
fn set_to_0(path: &str) -> Result<Option<String>, AttachError> {
    let before = fs::read_to_string(Path::new("/proc/sys").join(path)).unwrap_or_default();
    if before.trim() == "0" {
        return Ok(None);
    }
    write_sysctl(path, "0")?;
    Ok(Some(before.trim().to_owned()))
}

fn no_ipv6(place: &str) -> AttachError {
    AttachError::Kernel {
        operation: "adding an IPv6 address".into(),
        cause: format!("{place} has no IPv6; switch it on or use IPv4 addresses only"),
    }
}

//! What is refused, with nothing changed.

use super::support::{Host, Namespace, attachment, block_on};
use crate::{AttachError, Attachment, NetnsRef, attach, check, detach, interface_exists};

/// Both `check` and `attach` must refuse, and change nothing.
fn refused(host: &Host, netns: &NetnsRef, workload: &Namespace, wanted: &Attachment) -> AttachError {
    let before = (host.namespace.state(), workload.state());
    let checked = block_on(check(netns, wanted)).expect_err("check refuses");
    let attached = block_on(attach(netns, wanted)).expect_err("attach refuses");
    assert_eq!(checked.to_string(), attached.to_string());
    assert_eq!((host.namespace.state(), workload.state()), before);
    attached
}

#[test]
fn names_that_are_taken() {
    let host = Host::new();
    let workload = Namespace::new();
    workload.run("ip link add eth1 type veth peer name other");
    let error = refused(&host, &workload.at(), &workload, &attachment("cali1", "eth1", &["192.168.1.7"]));
    assert!(matches!(&error, AttachError::InterfaceTaken { name } if name == "eth1"), "{error}");
    let error = refused(&host, &workload.at(), &workload, &attachment("uplink", "eth2", &["192.168.1.7"]));
    assert!(matches!(&error, AttachError::HostInterfaceTaken { name } if name == "uplink"), "{error}");
    let error = refused(&host, &workload.at(), &workload, &attachment("cali1", "eth0123456789abc", &[]));
    assert!(matches!(&error, AttachError::InterfaceName { .. }), "{error}");
    assert!(block_on(interface_exists(&workload.at(), "eth1")).unwrap());
    assert!(!block_on(interface_exists(&workload.at(), "eth2")).unwrap());
}

#[test]
fn addresses_and_gateways_that_clash() {
    let host = Host::new();
    let workload = Namespace::new();
    workload.run("ip addr add 192.168.1.7/24 dev lo && ip addr add fd80::7/128 dev lo");
    for taken in ["192.168.1.7", "fd80::7"] {
        let error = refused(&host, &workload.at(), &workload, &attachment("cali1", "eth1", &["192.168.1.8", taken]));
        assert!(matches!(&error, AttachError::Address { address, .. } if address.to_string() == taken), "{error}");
    }
    let mut wanted = attachment("cali1", "eth1", &["192.168.1.8"]);
    wanted.gateway4 = Some([192, 168, 1, 7].into());
    let error = refused(&host, &workload.at(), &workload, &wanted);
    assert!(matches!(error, AttachError::Gateway { .. }), "{error}");
}

#[test]
fn namespaces_that_are_not_a_workloads() {
    let host = Host::new();
    let workload = Namespace::new();
    let wanted = attachment("cali1", "eth1", &["192.168.1.7"]);
    for own in [host.namespace.at(), NetnsRef::Path("/proc/thread-self/ns/net".into())] {
        let error = refused(&host, &own, &workload, &wanted);
        assert!(matches!(error, AttachError::HostNamespace { .. }), "{error}");
    }
    let gone = { Namespace::new().at() };
    for none in [
        gone,
        NetnsRef::Pid(0),
        NetnsRef::Pid(-1),
        NetnsRef::Path("/proc/version".into()),
        NetnsRef::Path("/proc/self/ns/mnt".into()),
        NetnsRef::Path("/no/such/file".into()),
    ] {
        let error = refused(&host, &none, &workload, &wanted);
        assert!(matches!(error, AttachError::Namespace { .. }), "{none}: {error}");
    }
}

#[test]
fn a_namespace_file_serves_as_well_as_a_process() {
    let host = Host::new();
    let workload = Namespace::new();
    let wanted = attachment("cali1", "eth1", &["192.168.1.7"]);
    let at = NetnsRef::Path(workload.path());
    block_on(check(&at, &wanted)).unwrap();
    block_on(attach(&at, &wanted)).unwrap();
    host.route(&wanted);
    assert!(workload.pings("10.5.0.1"));
}

#[test]
fn only_veth_pairs_are_detached() {
    let host = Host::new();
    host.namespace.run("ip link add br0 type bridge");
    for foreign in ["br0", "lo"] {
        let error = block_on(detach(foreign)).expect_err("it is not a pair");
        assert!(matches!(error, AttachError::NotAttached { .. }), "{error}");
    }
    assert!(host.namespace.try_run("ip link show br0").is_ok());
    assert!(!block_on(detach("cali9")).unwrap());
}

#[test]
fn what_the_kernel_refuses_leaves_nothing() {
    let host = Host::new();
    let workload = Namespace::new();
    let before = (host.namespace.state(), workload.state());
    let mut wanted = attachment("cali1", "eth1", &["192.168.1.7"]);
    // A broadcast address passes our checks and not the kernel's.
    wanted.gateway4 = Some([255, 255, 255, 255].into());
    let error = block_on(attach(&workload.at(), &wanted)).expect_err("no route goes there");
    assert!(matches!(error, AttachError::Kernel { .. }), "{error}");
    assert_eq!((host.namespace.state(), workload.state()), before);
}

//! Every step fails once, and nothing is left of those before it.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::support::{Host, attachment, block_on, docker_container};
use crate::{AttachError, NetnsRef, address::add_address_with, attach, attach::attach_with, pair::Step};

const STEPS: [Step; 9] = [
    Step::Create,
    Step::HostSettings,
    Step::WorkloadSettings,
    Step::HostUp,
    Step::WorkloadUp,
    Step::Address,
    Step::Neighbour,
    Step::Aside,
    Step::DefaultRoute,
];

fn injected() -> AttachError {
    AttachError::Kernel { operation: "injected".into(), cause: "fault".into() }
}

#[test]
fn a_failed_attach_leaves_nothing_whichever_step_fails() {
    let host = Host::new();
    let workload = docker_container(&host, 1);
    let wanted = attachment("cali1", "eth1", &["192.168.1.7", "fd80::7", "192.168.1.8"]);
    let before = (host.namespace.state(), workload.state(), workload.settings());
    for step in STEPS {
        // Some steps happen several times, once for each address or family: each occasion fails in turn.
        for occasion in 0.. {
            let seen = AtomicUsize::new(0);
            let fail = |at: Step| {
                if at == step && seen.fetch_add(1, Ordering::Relaxed) == occasion { Err(injected()) } else { Ok(()) }
            };
            let result = block_on(attach_with(&workload.at(), &wanted, &fail));
            if seen.load(Ordering::Relaxed) <= occasion {
                assert!(occasion > 0, "{step:?} does not happen, so its failure is not tested");
                result.unwrap();
                block_on(crate::detach("cali1")).unwrap();
                break;
            }
            let error = result.expect_err("the step failed");
            assert_eq!(error.to_string(), "injected: fault", "{step:?} {occasion}");
            assert_eq!((host.namespace.state(), workload.state(), workload.settings()), before, "{step:?} {occasion}");
        }
    }
}

#[test]
fn a_failed_addition_leaves_the_interface_as_it_was() {
    let host = Host::new();
    let workload = docker_container(&host, 1);
    block_on(attach(&workload.at(), &attachment("cali1", "eth1", &[]))).unwrap();
    for (address, steps) in [
        ("fd80::7", &[Step::WorkloadSettings, Step::Address, Step::Neighbour, Step::DefaultRoute][..]),
        ("192.168.1.7", &[Step::Address, Step::Neighbour, Step::Aside, Step::DefaultRoute]),
    ] {
        for &step in steps {
            let before = (host.namespace.state(), workload.state(), workload.settings());
            let fail = |at: Step| if at == step { Err(injected()) } else { Ok(()) };
            let (at, address) = (workload.at(), address.parse().unwrap());
            let error = block_on(add_address_with(&at, "eth1", address, None, &fail)).expect_err("the step failed");
            assert_eq!(error.to_string(), "injected: fault", "{step:?}");
            assert_eq!((host.namespace.state(), workload.state(), workload.settings()), before, "{address} {step:?}");
        }
    }
}

#[test]
fn a_failure_of_the_undoing_is_told() {
    let host = Host::new();
    let workload = docker_container(&host, 1);
    let wanted = attachment("cali1", "eth1", &["192.168.1.7"]);
    // Between the routes' stepping aside and the failure somebody takes the place they would come back to.
    let fail = |at: Step| {
        if at == Step::DefaultRoute {
            workload.run("ip route add default via 172.17.1.9 dev eth0");
            return Err(injected());
        }
        Ok(())
    };
    let error = block_on(attach_with(&NetnsRef::Pid(workload.pid()), &wanted, &fail)).expect_err("the step failed");
    let AttachError::Undo { cause, left } = &error else { panic!("{error}") };
    assert_eq!(cause.to_string(), "injected: fault");
    assert!(left.iter().any(|what| what.contains("metric")), "{error}");
    assert!(host.namespace.try_run("ip link show cali1").is_err(), "the rest is undone all the same");
}

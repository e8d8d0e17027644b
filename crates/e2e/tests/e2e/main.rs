//! End to end: the whole product in the lab, by what users type. One program for all files, so that two tests always run at
//! a time and the linker works once.

mod bad_input;
mod bgp;
mod broken_records;
mod classic;
mod concurrency;
mod datastore_moves;
mod disturbances;
mod docker_network;
mod docker_ports;
mod docker_restarts;
mod embedded;
mod golden;
mod joining;
mod package;
mod package_docker;
mod policies;
mod readme;
mod scenarios_one_host;
mod scenarios_two_hosts;
mod service;
mod stand_in;
mod strangers;
mod supervision;
mod unfit_hosts;
mod vxlan;
mod walk_through;

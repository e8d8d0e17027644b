//! One step of an apply: routes and neighbour entries, in the order that lets no packet take a way that is not wanted
//! any more. What is unwanted goes first; then connections of addresses that moved are forgotten; routes come last,
//! after the neighbours that they lead to.

use std::collections::HashMap;

use rustix::io::Errno;

use super::{BACK_OFF, Dataplane};
use crate::{Error, Problem, Report, family::Family, routing::Route, tracker::Step};

impl Dataplane {
    /// Routes and neighbours. A route that is there against expectation makes us read back, once.
    pub(super) async fn apply_routes(&mut self, report: &mut Report) -> Result<(), Error> {
        for family in Family::ALL {
            if std::mem::take(&mut self.exposed[family.index()]) {
                self.routing.distrust_connections(family);
            }
        }
        for round in 0..2 {
            if self.routing.stale {
                let (mut routes, mut neighbours) = (Vec::new(), HashMap::new());
                for family in Family::ALL {
                    routes.extend(self.rtnl.routes(family).await?);
                    neighbours.extend(self.rtnl.neighbours(family).await?);
                }
                self.routing.read_back(routes, neighbours);
            }
            self.remove_routes(report).await;
            let clean = self.forget_moved(report).await;
            self.set_neighbours(report).await;
            let taken = if clean { self.add_routes(report).await } else { Vec::new() };
            if taken.is_empty() {
                return Ok(());
            }
            self.routing.stale = true;
            if round == 1 {
                report.problems.extend(taken.iter().map(|route| {
                    let reason = "another program has a route there with the same metric; remove it";
                    Problem::new(route.destination, reason)
                }));
                report.retry = true;
            }
        }
        Ok(())
    }

    async fn remove_routes(&mut self, report: &mut Report) {
        for (route, _) in self.routing.route_steps().into_iter().filter(|(_, step)| *step == Step::Delete) {
            match self.rtnl.delete_route(&route).await {
                Ok(()) => report.routes_removed += 1,
                Err(Error::Kernel(error)) if error.is(Errno::SRCH) || error.is(Errno::NODEV) => {}
                Err(error) => {
                    report.problems.push(Problem::new(route.destination, error));
                    report.retry = true;
                    continue;
                }
            }
            self.routing.route_done(&route);
        }
        let unwanted = self.routing.neighbour_steps().into_iter().filter(|(_, mac)| mac.is_none());
        for (neighbour, _) in unwanted.collect::<Vec<_>>() {
            // It goes with its interface, so it may be gone; what is left of it is harmless without a route.
            match self.rtnl.delete_neighbour(&neighbour).await {
                Ok(()) => report.routes_removed += 1,
                Err(error) => tracing::debug!(%neighbour, %error, "neighbour entry not deleted"),
            }
            self.routing.neighbour_done(&neighbour);
        }
    }

    /// Deletes connection tracking entries of addresses that moved. Returns whether routes may be added now.
    async fn forget_moved(&mut self, report: &mut Report) -> bool {
        const TRIES: u32 = 3;
        let moved = self.routing.moved();
        if moved.is_empty() {
            return true;
        }
        for attempt in 1..=TRIES {
            match self.conntrack.forget(&moved).await {
                Ok(()) => {
                    report.conntrack_cleaned += moved.len();
                    self.routing.cleaned();
                    return true;
                }
                Err(error) if attempt == TRIES => {
                    let reason = format!("{error}; routes wait until former owners' connections are forgotten");
                    report.problems.push(Problem::new("conntrack", reason));
                    report.retry = true;
                }
                Err(error) => {
                    tracing::warn!(attempt, %error, "connection tracking entries could not be deleted");
                    tokio::time::sleep(BACK_OFF * attempt).await;
                }
            }
        }
        false
    }

    /// Has datagrams that go on coming to a port which is published only now led to the workload. Connections of TCP and
    /// SCTP end by themselves and come anew.
    pub(super) async fn follow_ports(&mut self, report: &mut Report) {
        let ports = self.state.fresh_ports();
        if ports.is_empty() {
            return;
        }
        let followed = match self.rtnl.addresses().await {
            Ok(local) => {
                let local = local.into_iter().map(|(_, address)| address).collect();
                self.conntrack.forget_untranslated(&ports, &local).await
            }
            Err(error) => Err(error),
        };
        match followed {
            Ok(()) => self.state.ports_followed(),
            Err(error) => {
                let reason = format!("{error}; datagrams that began before their port was published do not follow yet");
                report.problems.push(Problem::new("conntrack", reason));
                report.retry = true;
            }
        }
    }

    async fn set_neighbours(&mut self, report: &mut Report) {
        for (neighbour, mac) in self.routing.neighbour_steps() {
            let Some(mac) = mac else { continue };
            match self.rtnl.set_neighbour(&neighbour, mac).await {
                Ok(()) => {
                    report.routes_added += 1;
                    self.routing.neighbour_done(&neighbour);
                }
                Err(error) if is_interface_gone(&error) => {}
                Err(error) => {
                    report.problems.push(Problem::new(neighbour.address, error));
                    report.retry = true;
                }
            }
        }
    }

    /// Adds routes; returns those whose place is taken.
    async fn add_routes(&mut self, report: &mut Report) -> Vec<Route> {
        let mut taken = Vec::new();
        for (route, _) in self.routing.route_steps().into_iter().filter(|(_, step)| *step != Step::Delete) {
            match self.rtnl.add_route(&route).await {
                Ok(()) => {
                    report.routes_added += 1;
                    self.routing.route_done(&route);
                }
                Err(Error::Kernel(error)) if error.is(Errno::EXIST) => taken.push(route),
                // The link event that says so is on its way.
                Err(error) if is_interface_gone(&error) => tracing::debug!(%route, %error, "interface went away"),
                Err(error) => {
                    report.problems.push(Problem::new(route.destination, error));
                    report.retry = true;
                }
            }
        }
        taken
    }
}

fn is_interface_gone(error: &Error) -> bool {
    let gone = [Errno::NODEV, Errno::NETDOWN, Errno::NXIO, Errno::NETUNREACH];
    matches!(error, Error::Kernel(error) if gone.iter().any(|errno| error.is(*errno)))
}

//! The network driver: endpoints and their interfaces.
//!
//! No request asks Docker anything: Docker waits for the answer, and holds locks meanwhile. What only Docker knows
//! (names, labels) is found out afterwards by [`crate::follow`]; until then an endpoint is closed. Each request can be
//! repeated and can come after any other: what is there already is left or made anew, what is gone already is no error.

use std::{net::IpAddr, sync::Arc};

use calico_model::{EndpointPort, MacAddress, ResourceKey, WorkloadEndpoint, WorkloadEndpointSpec, WorkloadName};
use calico_store::{Error, Store};
use calico_workload::LoosePair;
use ipnet::IpNet;
use serde_json::{Value, json};
use tokio::sync::Mutex;

use crate::{
    dead::Undertaker,
    endpoint::{self, ANNOTATION_WORKLOAD, EndpointId, LIBNETWORK, collide},
    ipam::ADDRESS_SPACE,
    kernel::Kernel,
    protocol::{EndpointRequest, InterfaceName, JoinAnswer, NetworkRequest, StaticRoute, port_bindings},
    record::{self, LocalNetwork},
    retire,
};

/// The annotation that says in which sandbox an endpoint lies, and to which ranges it leads there.
const ANNOTATION_SANDBOX: &str = "org.projectcalico/docker-sandbox";

/// The driver.
pub(crate) struct NetworkDriver {
    node: String,
    store: Store,
    kernel: Arc<dyn Kernel>,
    undertaker: Undertaker,
    /// Ports of the host are given to one endpoint at a time.
    ports: Mutex<()>,
}

impl NetworkDriver {
    pub(crate) fn new(node: &str, store: &Store, kernel: Arc<dyn Kernel>, undertaker: Undertaker) -> Self {
        Self { node: node.to_owned(), store: store.clone(), kernel, undertaker, ports: Mutex::new(()) }
    }

    /// `CreateNetwork`: noted, as nobody says it again; refused if its addresses are not Calico's.
    pub(crate) async fn create_network(&self, request: &NetworkRequest) -> Result<Value, String> {
        let data = || request.ipv4_data.iter().chain(&request.ipv6_data);
        if let Some(foreign) = data().find(|data| data.address_space != ADDRESS_SPACE) {
            return Err(format!(
                "addresses of this network ({}) would not be Calico's; create it with --ipam-driver calico-ipam",
                foreign.pool
            ));
        }
        if data().next().is_none() {
            return Err("a network of Calico needs addresses; create it with --ipam-driver calico-ipam".to_owned());
        }
        // Without a choice it is all addresses.
        let chosen = data().filter_map(|data| data.pool.parse::<IpNet>().ok()).filter(|net| net.prefix_len() > 0);
        let network = LocalNetwork {
            id: request.network_id.clone(),
            subnets: chosen.map(|net| net.trunc()).collect(),
            internal: request.options.get("com.docker.network.internal").and_then(Value::as_bool) == Some(true),
            noted_at: calico_model::timestamp(time::OffsetDateTime::now_utc()),
        };
        let noted = record::note(&**self.store.kv(), &self.node, &network).await;
        noted.map_err(|error| format!("the network cannot be noted: {error}"))?;
        tracing::info!(network = network.id, internal = network.internal, "network created");
        Ok(json!({}))
    }

    /// `DeleteNetwork`: where the network came from, its record goes, and the other hosts follow.
    pub(crate) async fn delete_network(&self, request: &NetworkRequest) -> Result<Value, String> {
        let (records, _) = record::list(&**self.store.kv()).await.map_err(|error| error.to_string())?;
        let made_here =
            |stored: &&record::Stored| stored.record.origin == self.node && stored.record.id == request.network_id;
        if let Some(stored) = records.values().find(made_here) {
            let name = &stored.record.name;
            if record::delete(&**self.store.kv(), stored).await.map_err(|error| error.to_string())? {
                tracing::info!(network = name, "the network is removed, from every host");
            }
            let profile = calico_model::normalise(name);
            if let Err(error) = retire::profiles(&self.store, &[profile].into()).await {
                tracing::warn!(network = name, %error, "the profile of the removed network stays for now");
            }
        }
        let forgotten = record::forget(&**self.store.kv(), &self.node, &request.network_id).await;
        forgotten.map(|()| json!({})).map_err(|error| error.to_string())
    }

    /// The key of an endpoint of this node.
    fn key(&self, id: &EndpointId) -> Result<ResourceKey, String> {
        let name =
            WorkloadName { node: &self.node, orchestrator: LIBNETWORK, workload: LIBNETWORK, endpoint: id.as_str() };
        Ok(ResourceKey::new(calico_model::KindName::WorkloadEndpoint, Some(LIBNETWORK), &name.build()?))
    }

    async fn stored(&self, id: &EndpointId) -> Result<Option<WorkloadEndpoint>, String> {
        match self.store.get_key::<WorkloadEndpointSpec>(&self.key(id)?).await {
            Ok(endpoint) => Ok(Some(endpoint)),
            Err(Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(error.to_string()),
        }
    }

    /// `CreateEndpoint`: the endpoint is stored, closed.
    pub(crate) async fn create_endpoint(&self, request: &EndpointRequest) -> Result<Value, String> {
        let id = EndpointId::parse(&request.endpoint_id)?;
        let interface = request.interface.as_ref().ok_or("the request describes no interface")?;
        let addresses = endpoint::addresses(interface)?;
        let given: Option<MacAddress> = match interface.mac_address.as_str() {
            "" => None,
            text => Some(text.parse().map_err(|_| format!("{text:?} is not a MAC address"))?),
        };
        let mac = given.unwrap_or_else(|| id.mac());
        let wanted = endpoint::closed(&self.node, &id, &request.network_id, &addresses, mac);
        match self.store.create(wanted.clone()).await {
            Ok(_) => tracing::debug!(endpoint = id.as_str(), ?addresses, "endpoint created"),
            Err(Error::AlreadyExists { .. }) => self.create_again(&id, &addresses, wanted).await?,
            Err(error) => return Err(format!("the endpoint cannot be stored: {error}")),
        }
        // Docker takes what it gave itself for an error when it comes back.
        Ok(match given {
            Some(_) => json!({ "Interface": {} }),
            None => json!({ "Interface": { "MacAddress": mac.to_string() } }),
        })
    }

    /// A request that came twice. With other addresses it is another endpoint, and closed again.
    async fn create_again(
        &self,
        id: &EndpointId,
        addresses: &[IpAddr],
        wanted: WorkloadEndpoint,
    ) -> Result<(), String> {
        let Some(stored) = self.stored(id).await? else { return Err("the endpoint was deleted meanwhile".to_owned()) };
        if endpoint::stored_addresses(&stored).eq(addresses.iter().copied()) {
            return Ok(());
        }
        let replaced = WorkloadEndpoint { revision: stored.revision, ..wanted };
        self.store.update(replaced).await.map(drop).map_err(|error| format!("the endpoint cannot be stored: {error}"))
    }

    /// `Join`: the pair is made; Docker moves its other end.
    pub(crate) async fn join(&self, request: &EndpointRequest) -> Result<Value, String> {
        let id = EndpointId::parse(&request.endpoint_id)?;
        let Some(stored) = self.stored(&id).await? else {
            return Err(format!("endpoint {} is not stored; it has to be created first", id.as_str()));
        };
        let addresses: Vec<IpAddr> = endpoint::stored_addresses(&stored).collect();
        let has = |v4: bool| addresses.iter().any(|address| address.is_ipv4() == v4);
        let (gateway4, gateway6) = (has(true).then(|| id.gateway4()), has(false).then(|| id.gateway6()));
        let mac = stored.spec.mac.parse().map_err(|_| format!("{:?} is not a MAC address", stored.spec.mac))?;
        let pair = LoosePair {
            host_interface: id.host_interface(),
            workload_interface: id.container_interface(),
            mac,
            gateway4,
            gateway6,
            mtu: None,
        };
        self.kernel.make(&pair).await?;
        let network = self.network(&stored).await?;
        let gateways: Vec<IpAddr> =
            [gateway4.map(IpAddr::from), gateway6.map(IpAddr::from)].into_iter().flatten().collect();
        let mut routes: Vec<StaticRoute> = gateways.iter().map(|gateway| on_link(*gateway)).collect();
        let mut ranges = network.subnets.clone();
        if network.internal {
            ranges.extend(self.pools().await?);
        }
        if !ranges.is_empty() {
            ranges = self.not_routed_yet(&stored, &request.sandbox_key, ranges).await?;
        }
        routes.extend(ranges.iter().filter_map(|range| via(*range, &gateways)));
        let text = |gateway: Option<String>| gateway.filter(|_| !network.internal).unwrap_or_default();
        let answer = JoinAnswer {
            interface_name: InterfaceName { src_name: pair.workload_interface, dst_prefix: "eth".to_owned() },
            gateway: text(gateway4.map(|gateway| gateway.to_string())),
            gateway_ipv6: text(gateway6.map(|gateway| gateway.to_string())),
            static_routes: routes,
            disable_gateway_service: true,
        };
        Ok(serde_json::to_value(answer).expect("an answer has string keys only"))
    }

    /// What was noted of the endpoint's network when it was created.
    async fn network(&self, endpoint: &WorkloadEndpoint) -> Result<LocalNetwork, String> {
        let id = endpoint.metadata.annotations.get(endpoint::ANNOTATION_NETWORK).map_or("", String::as_str);
        record::noted(&**self.store.kv(), &self.node, id).await.map_err(|error| error.to_string())
    }

    /// The ranges of all pools.
    async fn pools(&self) -> Result<Vec<IpNet>, String> {
        let (pools, _) = self.store.list::<calico_model::IPPoolSpec>().await.map_err(|error| error.to_string())?;
        Ok(pools.iter().map(|pool| pool.spec.cidr.trunc()).collect())
    }

    /// The ranges to which no other network of the same container leads already: Docker takes a second route
    /// to a range for an error. Notes for the next one which container this is.
    async fn not_routed_yet(
        &self,
        endpoint: &WorkloadEndpoint,
        sandbox: &str,
        mut ranges: Vec<IpNet>,
    ) -> Result<Vec<IpNet>, String> {
        ranges.sort_unstable();
        ranges.dedup();
        let note = ranges.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
        let others = self.local_endpoints().await?;
        for other in others.iter().filter(|other| other.name() != endpoint.name()) {
            let Some((theirs, routed)) =
                other.metadata.annotations.get(ANNOTATION_SANDBOX).and_then(|note| note.split_once(' '))
            else {
                continue;
            };
            if theirs == sandbox {
                ranges.retain(|range| !routed.split(',').any(|text| text == range.to_string()));
            }
        }
        let key = endpoint.key();
        let changed = self.store.modify::<WorkloadEndpointSpec, Error>(&key, |endpoint| {
            let note = format!("{sandbox} {note}");
            endpoint.metadata.annotations.insert(ANNOTATION_SANDBOX.to_owned(), note);
            Ok(())
        });
        changed.await.map_err(|error| error.to_string())?;
        Ok(ranges)
    }

    async fn local_endpoints(&self) -> Result<Vec<WorkloadEndpoint>, String> {
        local_endpoints(&self.store, &self.node).await.map_err(|error| error.to_string())
    }

    /// `Leave`: the pair goes.
    pub(crate) async fn leave(&self, request: &EndpointRequest) -> Result<Value, String> {
        let id = EndpointId::parse(&request.endpoint_id)?;
        self.kernel.remove(&id.host_interface()).await?;
        Ok(json!({}))
    }

    /// `DeleteEndpoint`: interface, then record; the address goes last, by a request of its own.
    pub(crate) async fn delete_endpoint(&self, request: &EndpointRequest) -> Result<Value, String> {
        let id = EndpointId::parse(&request.endpoint_id)?;
        self.kernel.remove(&id.host_interface()).await?;
        remove_record(&self.store, &self.key(&id)?).await.map_err(|error| error.to_string())?;
        Ok(json!({}))
    }

    /// `ProgramExternalConnectivity`: this endpoint is the container's way out, and has its published ports.
    pub(crate) async fn publish(&self, request: &EndpointRequest) -> Result<Value, String> {
        let id = EndpointId::parse(&request.endpoint_id)?;
        let bindings = port_bindings(&request.options)?;
        if bindings.is_empty() {
            return Ok(json!({}));
        }
        let _turn = self.ports.lock().await;
        let endpoints = self.local_endpoints().await?;
        let (own, mut others): (Vec<_>, Vec<_>) =
            endpoints.into_iter().partition(|endpoint| endpoint.spec.endpoint == id.as_str());
        others.retain(|other| !other.spec.ports.is_empty());
        let (alive, dead): (Vec<_>, Vec<_>) =
            others.into_iter().partition(|other| self.kernel.exists(&other.spec.interface_name));
        let mut taken: Vec<(String, EndpointPort)> = Vec::new();
        for other in &alive {
            let name = other.metadata.annotations.get(ANNOTATION_WORKLOAD).map_or(other.name(), String::as_str);
            taken.extend(other.spec.ports.iter().map(|port| (name.to_owned(), port.clone())));
        }
        let everywhere = endpoint::everywhere(own.iter().flat_map(endpoint::stored_addresses));
        let probe = |port| self.kernel.probe(port);
        let ports = endpoint::ports(&bindings, &taken, self.kernel.dynamic_ports(), &everywhere, probe)?;
        let in_the_way =
            |dead: &&WorkloadEndpoint| dead.spec.ports.iter().any(|old| ports.iter().any(|new| collide(old, new)));
        for dead in dead.iter().filter(in_the_way) {
            self.undertaker.bury(dead).await?;
        }
        self.set_ports(&id, ports).await
    }

    /// `RevokeExternalConnectivity`
    pub(crate) async fn withdraw(&self, request: &EndpointRequest) -> Result<Value, String> {
        let id = EndpointId::parse(&request.endpoint_id)?;
        match self.stored(&id).await? {
            Some(stored) if !stored.spec.ports.is_empty() => self.set_ports(&id, Vec::new()).await,
            _ => Ok(json!({})),
        }
    }

    async fn set_ports(&self, id: &EndpointId, ports: Vec<EndpointPort>) -> Result<Value, String> {
        let key = self.key(id)?;
        let changed = self.store.modify::<WorkloadEndpointSpec, Error>(&key, |endpoint| {
            // Ports of other names are people's.
            let ours = |port: &EndpointPort| endpoint::PUBLISHED.iter().any(|(_, name)| port.name == *name);
            endpoint.spec.ports.retain(|port| !ours(port));
            endpoint.spec.ports.extend(ports.clone());
            Ok(())
        });
        changed.await.map(|_| json!({})).map_err(|error| format!("the published ports cannot be stored: {error}"))
    }
}

/// The endpoints of Docker's networks on a node. Only their own part of the datastore is read.
pub(crate) async fn local_endpoints(store: &Store, node: &str) -> Result<Vec<WorkloadEndpoint>, Error> {
    let prefix = format!(
        "{}{LIBNETWORK}/{}{LIBNETWORK}-{LIBNETWORK}-",
        ResourceKey::prefix(calico_model::KindName::WorkloadEndpoint),
        WorkloadName::node_prefix(node)
    );
    let (mut endpoints, unreadable) = store.list_prefix::<WorkloadEndpointSpec>(&prefix).await?;
    for error in unreadable {
        tracing::warn!(%error, "skipping an endpoint that cannot be read");
    }
    endpoints.retain(|endpoint| endpoint.spec.node == node && endpoint.spec.orchestrator == LIBNETWORK);
    Ok(endpoints)
}

/// How often a deletion is tried again that somebody's change came before.
const TRIES: usize = 20;

/// Deletes an endpoint whatever it has become meanwhile; one that is gone is no error, but `false`.
pub(crate) async fn remove_record(store: &Store, key: &ResourceKey) -> Result<bool, Error> {
    let mut tries = 0;
    loop {
        let Some(entry) = store.kv().get(&key.to_string()).await? else { return Ok(false) };
        match store.kv().delete(&entry.key, entry.revision).await {
            Ok(()) => return Ok(true),
            Err(Error::NotFound { .. }) => return Ok(false),
            Err(Error::Conflict { .. }) if tries < TRIES => tries += 1,
            Err(error) => return Err(error),
        }
    }
}

/// The route that says on which link a gateway is.
fn on_link(gateway: IpAddr) -> StaticRoute {
    StaticRoute { destination: IpNet::from(gateway).to_string(), route_type: 1, next_hop: String::new() }
}

/// The route to a range by the gateway of its family.
fn via(range: IpNet, gateways: &[IpAddr]) -> Option<StaticRoute> {
    let gateway = gateways.iter().find(|gateway| gateway.is_ipv4() == range.addr().is_ipv4())?;
    Some(StaticRoute { destination: range.to_string(), route_type: 0, next_hop: gateway.to_string() })
}

//! The seam to Docker's API, and what is read through it.
//!
//! Nothing here is called while Docker waits for an answer of ours. Names and labels come from the lists of networks
//! and containers, for which Docker takes no lock of a container: they answer also while one is being started.

use std::{
    collections::{BTreeMap, HashMap},
    future::Future,
    net::IpAddr,
    time::Duration,
};

use async_trait::async_trait;
use bollard::{
    errors::Error as ApiError,
    models::{Ipam, IpamConfig, NetworkCreateRequest, NetworkInspect},
    query_parameters::{EventsOptionsBuilder, ListContainersOptionsBuilder},
};
use futures::{StreamExt, stream::BoxStream};
use ipnet::IpNet;

use crate::{record::NetworkRecord, server};

/// How long Docker may take to answer what it knows.
const CALL_LIMIT: Duration = Duration::from_secs(30);
/// How long it may take to make or remove a network: it asks us meanwhile.
const CHANGE_LIMIT: Duration = Duration::from_secs(90);

/// The label on networks that calico-node made after a record.
pub(crate) const LABEL_MADE_BY: &str = "org.projectcalico.network.made-by";
/// Its value.
pub(crate) const MADE_BY: &str = "calico-node";

/// A network in Docker.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Network {
    pub id: String,
    pub name: String,
    pub driver: String,
    pub ipam_driver: String,
    pub internal: bool,
    pub ipv6: bool,
    /// Ranges that were asked for.
    pub subnets: Vec<IpNet>,
    /// Parts of these to take addresses from.
    pub ip_ranges: Vec<IpNet>,
    /// Addresses of them that are kept from containers (`--aux-address`).
    pub auxiliary: Vec<IpAddr>,
    pub labels: BTreeMap<String, String>,
    pub options: BTreeMap<String, String>,
    /// By id.
    pub endpoints: BTreeMap<String, Endpoint>,
}

impl Network {
    /// True for a network of our driver.
    pub(crate) fn is_calico(&self) -> bool {
        self.driver == server::NETWORK
    }

    /// True if calico-node made it after a record.
    pub(crate) fn is_copy(&self) -> bool {
        self.labels.get(LABEL_MADE_BY).is_some_and(|by| by == MADE_BY)
    }
}

/// An endpoint of a network.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Endpoint {
    /// The container, where Docker says which.
    pub container: Option<String>,
    /// Addresses with prefix lengths, empty where there is none.
    pub address4: String,
    pub address6: String,
    pub mac: String,
}

/// A container.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Container {
    pub name: String,
    pub labels: BTreeMap<String, String>,
}

/// All that Docker knows, as far as it concerns networks of ours.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct State {
    /// All networks; those of others without endpoints.
    pub networks: Vec<Network>,
    /// All containers, by id.
    pub containers: BTreeMap<String, Container>,
}

/// What the reconciler asks of Docker. Errors are words for people.
#[async_trait]
pub(crate) trait Engine: Send + Sync {
    /// Reads everything.
    async fn look(&self) -> Result<State, String>;

    /// Makes the network of a record.
    async fn create_network(&self, record: &NetworkRecord) -> Result<(), String>;

    /// Removes a network; one that is gone is no error.
    async fn remove_network(&self, id: &str) -> Result<(), String>;

    /// Says when something has changed. Ends when Docker does.
    async fn events(&self) -> Result<BoxStream<'static, ()>, String>;
}

/// The real one, at an address such as `unix:///var/run/docker.sock`.
pub(crate) struct DockerEngine {
    host: String,
}

impl DockerEngine {
    pub(crate) fn new(host: &str) -> Self {
        Self { host: host.to_owned() }
    }

    fn api(&self) -> Result<bollard::Docker, String> {
        let limit = CHANGE_LIMIT.as_secs();
        // Docker 20.10; newer ones speak it too.
        let version = &bollard::ClientVersion { major_version: 1, minor_version: 41 };
        let opened = match self.host.split_once("://") {
            Some(("unix", _)) => bollard::Docker::connect_with_unix(&self.host, limit, version),
            Some(("tcp" | "http", _)) => bollard::Docker::connect_with_http(&self.host, limit, version),
            _ => return Err(format!("{} is no address of Docker: it must begin with unix:// or tcp://", self.host)),
        };
        opened.map_err(|error| format!("Docker at {}: {error}", self.host))
    }

    async fn call<T>(
        &self,
        what: &str,
        limit: Duration,
        call: impl Future<Output = Result<T, ApiError>>,
    ) -> Result<T, String> {
        match tokio::time::timeout(limit, call).await {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(error)) => Err(format!("Docker at {}, {what}: {}", self.host, words(&error))),
            Err(_) => Err(format!("Docker at {}, {what}: no answer within {} s", self.host, limit.as_secs())),
        }
    }
}

/// What a refusal says; of other errors the cause at the bottom.
fn words(error: &ApiError) -> String {
    if let ApiError::DockerResponseServerError { message, .. } = error {
        return message.trim().to_owned();
    }
    let mut words = error.to_string();
    let mut next = std::error::Error::source(error);
    while let Some(source) = next {
        words = source.to_string();
        next = source.source();
    }
    words
}

#[async_trait]
impl Engine for DockerEngine {
    async fn look(&self) -> Result<State, String> {
        let api = self.api()?;
        let mut state = State::default();
        let listed = self.call("listing networks", CALL_LIMIT, api.list_networks(None)).await?;
        for found in listed {
            let (id, driver) = (found.id.unwrap_or_default(), found.driver.unwrap_or_default());
            if driver != server::NETWORK {
                let name = found.name.unwrap_or_default();
                state.networks.push(Network { id, name, driver, ..Network::default() });
                continue;
            }
            // Only the look at a single network says which endpoints it has.
            match tokio::time::timeout(CALL_LIMIT, api.inspect_network(&id, None)).await {
                Ok(Ok(network)) => state.networks.push(network_of(network)),
                // Removed meanwhile.
                Ok(Err(ApiError::DockerResponseServerError { status_code: 404, .. })) => {}
                Ok(Err(error)) => return Err(format!("Docker, inspecting network {id}: {}", words(&error))),
                Err(_) => return Err(format!("Docker, inspecting network {id}: no answer")),
            }
        }
        let options = ListContainersOptionsBuilder::new().all(true).build();
        let listed = self.call("listing containers", CALL_LIMIT, api.list_containers(Some(options))).await?;
        for found in listed {
            // Names with a second slash are those of links.
            let mut names =
                found.names.unwrap_or_default().into_iter().map(|name| name[1.min(name.len())..].to_owned());
            let name = names.find(|name| !name.contains('/')).unwrap_or_default();
            let labels = found.labels.unwrap_or_default().into_iter().collect();
            state.containers.insert(found.id.unwrap_or_default(), Container { name, labels });
        }
        Ok(state)
    }

    async fn create_network(&self, record: &NetworkRecord) -> Result<(), String> {
        let api = self.api()?;
        let mut labels: HashMap<String, String> = record.labels.clone().into_iter().collect();
        labels.insert(LABEL_MADE_BY.to_owned(), MADE_BY.to_owned());
        let subnet = |net: &IpNet| IpamConfig {
            subnet: Some(net.to_string()),
            ip_range: record.ip_ranges.iter().find(|part| net.contains(*part)).map(ToString::to_string),
            ..IpamConfig::default()
        };
        let ipam = Ipam {
            driver: Some(record.ipam_driver.clone()),
            config: Some(record.subnets.iter().map(subnet).collect::<Vec<_>>()).filter(|nets| !nets.is_empty()),
            options: None,
        };
        let request = NetworkCreateRequest {
            name: record.name.clone(),
            driver: Some(server::NETWORK.to_owned()),
            internal: Some(record.internal),
            enable_ipv6: Some(record.ipv6),
            ipam: Some(ipam),
            options: Some(record.options.clone().into_iter().collect()),
            labels: Some(labels),
            ..NetworkCreateRequest::default()
        };
        let what = format!("creating network {}", record.name);
        self.call(&what, CHANGE_LIMIT, api.create_network(request)).await.map(drop)
    }

    async fn remove_network(&self, id: &str) -> Result<(), String> {
        let api = self.api()?;
        match tokio::time::timeout(CHANGE_LIMIT, api.remove_network(id)).await {
            Ok(Ok(()) | Err(ApiError::DockerResponseServerError { status_code: 404, .. })) => Ok(()),
            Ok(Err(error)) => Err(format!("Docker, removing network {id}: {}", words(&error))),
            Err(_) => Err(format!("Docker, removing network {id}: no answer")),
        }
    }

    async fn events(&self) -> Result<BoxStream<'static, ()>, String> {
        let api = self.api()?;
        self.call("asking whether it runs", CALL_LIMIT, api.ping()).await?;
        let filters = HashMap::from([
            ("type", vec!["network", "container"]),
            ("event", vec!["create", "destroy", "connect", "disconnect", "rename", "start"]),
        ]);
        let options = EventsOptionsBuilder::new().filters(&filters).build();
        let events = api.events(Some(options));
        Ok(events.take_while(|event| std::future::ready(event.is_ok())).map(drop).boxed())
    }
}

fn network_of(found: NetworkInspect) -> Network {
    let ipam = found.ipam.unwrap_or_default();
    let configs = ipam.config.unwrap_or_default();
    let range = |text: &Option<String>| text.as_ref()?.parse::<IpNet>().ok();
    let subnets = configs.iter().filter_map(|config| range(&config.subnet));
    let ip_ranges = configs.iter().filter_map(|config| range(&config.ip_range));
    let auxiliary = configs.iter().flat_map(|config| config.auxiliary_addresses.iter().flat_map(HashMap::values));
    let auxiliary = auxiliary.filter_map(|text| text.split('/').next()?.parse().ok()).collect();
    let endpoints = found.containers.unwrap_or_default().into_iter().map(|(key, endpoint)| {
        // An endpoint that no container has joined goes by `ep-<id>`.
        let container = Some(key).filter(|key| !key.starts_with("ep-"));
        let text = Option::unwrap_or_default;
        let (address4, address6) = (text(endpoint.ipv4_address), text(endpoint.ipv6_address));
        let mac = text(endpoint.mac_address);
        (text(endpoint.endpoint_id), Endpoint { container, address4, address6, mac })
    });
    Network {
        id: found.id.unwrap_or_default(),
        name: found.name.unwrap_or_default(),
        driver: found.driver.unwrap_or_default(),
        ipam_driver: ipam.driver.unwrap_or_default(),
        internal: found.internal.unwrap_or(false),
        ipv6: found.enable_ipv6.unwrap_or(false),
        // What nobody asked for is shown as all addresses.
        subnets: subnets.filter(|net| net.prefix_len() > 0).collect(),
        ip_ranges: ip_ranges.collect(),
        auxiliary,
        labels: found.labels.unwrap_or_default().into_iter().collect(),
        options: found.options.unwrap_or_default().into_iter().collect(),
        endpoints: endpoints.collect(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_network_is_read_as_docker_shows_it() {
        let shown = serde_json::json!({
            "Id": "n1", "Name": "web", "Driver": "calico", "IPAM": { "Driver": "calico-ipam", "Config": [
                { "Subnet": "10.20.0.0/16", "IPRange": "10.20.7.0/24", "Gateway": "169.254.1.1",
                  "AuxiliaryAddresses": { "r": "10.20.0.5" } },
                { "Subnet": "0.0.0.0/0" },
            ] },
            "Containers": {
                "c1": { "EndpointID": "e1", "IPv4Address": "10.20.7.9/32", "MacAddress": "02:00:00:00:00:01" },
                "ep-e2": { "EndpointID": "e2", "IPv4Address": "10.20.7.8/32" },
            },
        });
        let network = network_of(serde_json::from_value(shown).unwrap());
        assert_eq!(network.subnets, ["10.20.0.0/16".parse().unwrap()]);
        assert_eq!(network.ip_ranges, ["10.20.7.0/24".parse().unwrap()]);
        assert_eq!(network.auxiliary, ["10.20.0.5".parse::<IpAddr>().unwrap()]);
        assert_eq!(network.endpoints["e1"].container.as_deref(), Some("c1"));
        assert_eq!(network.endpoints["e2"].container, None);
    }
}

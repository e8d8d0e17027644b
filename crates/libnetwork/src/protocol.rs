//! The wire: JSON bodies of Docker's remote network and IPAM drivers, as Docker 20.10 and newer send them.
//!
//! Members that decide nothing here are not read. Docker is Go and writes `null` for an empty list or map.

use serde::{Deserialize, Deserializer, Serialize, de::DeserializeOwned};
use serde_json::{Map, Value};

/// The content type of every answer.
pub(crate) const CONTENT_TYPE: &str = "application/vnd.docker.plugins.v1.1+json";

/// Reads `null` as the empty value.
fn nothing<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    Ok(Option::<T>::deserialize(deserializer)?.unwrap_or_default())
}

/// A request's body.
///
/// # Errors
/// A sentence on what is wrong with it.
pub(crate) fn parse<T: DeserializeOwned>(method: &str, body: &[u8]) -> Result<T, String> {
    serde_json::from_slice(body).map_err(|error| format!("the body of {method} is not the JSON of one: {error}"))
}

/// `IpamDriver.RequestPool`
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct RequestPool {
    /// The range asked for, empty for any.
    pub pool: String,
    /// A part of it to take addresses from.
    pub sub_pool: String,
    /// Of IPv6.
    #[serde(rename = "V6")]
    pub v6: bool,
}

/// The answer.
#[derive(Debug, PartialEq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct PoolAnswer {
    #[serde(rename = "PoolID")]
    pub pool_id: String,
    /// With its prefix length.
    pub pool: String,
    /// `com.docker.network.gateway` says that no address is to be asked for.
    pub data: Map<String, Value>,
}

/// `IpamDriver.ReleasePool`
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct ReleasePool {
    #[serde(rename = "PoolID")]
    pub pool_id: String,
}

/// `IpamDriver.RequestAddress`
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct RequestAddress {
    #[serde(rename = "PoolID")]
    pub pool_id: String,
    /// The address asked for, empty for any.
    pub address: String,
    #[serde(deserialize_with = "nothing")]
    pub options: Map<String, Value>,
}

impl RequestAddress {
    /// True if it is for the network's gateway and not for an endpoint.
    pub(crate) fn is_gateway(&self) -> bool {
        let kind = self.options.get("RequestAddressType").and_then(Value::as_str);
        kind == Some(GATEWAY)
    }
}

/// The name that Docker has for a gateway.
pub(crate) const GATEWAY: &str = "com.docker.network.gateway";

/// `IpamDriver.ReleaseAddress`
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct ReleaseAddress {
    pub address: String,
}

/// `NetworkDriver.CreateNetwork`, `.DeleteNetwork`: nothing of its name, which a driver is not told.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct NetworkRequest {
    #[serde(rename = "NetworkID")]
    pub network_id: String,
    #[serde(rename = "Options", deserialize_with = "nothing")]
    pub options: Map<String, Value>,
    #[serde(rename = "IPv4Data", deserialize_with = "nothing")]
    pub ipv4_data: Vec<IpamData>,
    #[serde(rename = "IPv6Data", deserialize_with = "nothing")]
    pub ipv6_data: Vec<IpamData>,
}

/// What the network's IPAM driver answered.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct IpamData {
    pub address_space: String,
    pub pool: String,
}

/// `NetworkDriver.CreateEndpoint`, `.Join`, `.Leave`, `.DeleteEndpoint`, `.ProgramExternalConnectivity`, …
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct EndpointRequest {
    #[serde(rename = "NetworkID")]
    pub network_id: String,
    #[serde(rename = "EndpointID")]
    pub endpoint_id: String,
    #[serde(rename = "SandboxKey")]
    pub sandbox_key: String,
    #[serde(rename = "Options", deserialize_with = "nothing")]
    pub options: Map<String, Value>,
    #[serde(rename = "Interface")]
    pub interface: Option<Interface>,
}

/// Addresses of an endpoint, with prefix lengths; empty where there is none.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Interface {
    #[serde(rename = "Address")]
    pub address: String,
    #[serde(rename = "AddressIPv6")]
    pub address_ipv6: String,
    #[serde(rename = "MacAddress")]
    pub mac_address: String,
}

/// A published port, one of `com.docker.network.portmap`.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(default)]
pub(crate) struct PortBinding {
    /// IANA's number.
    #[serde(rename = "Proto")]
    pub protocol: u8,
    /// The container's.
    #[serde(rename = "Port")]
    pub port: u16,
    /// Empty or unspecified for all addresses of the host.
    #[serde(rename = "HostIP", deserialize_with = "nothing")]
    pub host_ip: String,
    /// The host's; 0 for any.
    #[serde(rename = "HostPort")]
    pub host_port: u16,
    /// The last of a range to choose from.
    #[serde(rename = "HostPortEnd")]
    pub host_port_end: u16,
}

/// The published ports among the options of a request.
///
/// # Errors
/// They are there and cannot be read.
pub(crate) fn port_bindings(options: &Map<String, Value>) -> Result<Vec<PortBinding>, String> {
    match options.get("com.docker.network.portmap") {
        None | Some(Value::Null) => Ok(Vec::new()),
        Some(map) => serde_json::from_value(map.clone())
            .map_err(|error| format!("the published ports cannot be read (com.docker.network.portmap): {error}")),
    }
}

/// The answer to `NetworkDriver.Join`.
#[derive(Debug, PartialEq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct JoinAnswer {
    pub interface_name: InterfaceName,
    pub gateway: String,
    #[serde(rename = "GatewayIPv6")]
    pub gateway_ipv6: String,
    pub static_routes: Vec<StaticRoute>,
    /// No bridge of Docker's own beside ours.
    pub disable_gateway_service: bool,
}

/// How the interface is called before Docker moves it, and how it is to be called then, without number.
#[derive(Debug, PartialEq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct InterfaceName {
    pub src_name: String,
    pub dst_prefix: String,
}

/// A route of the container.
#[derive(Debug, PartialEq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct StaticRoute {
    pub destination: String,
    /// 0 via `next_hop`, 1 on the link.
    pub route_type: u8,
    pub next_hop: String,
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn null_is_nothing_and_strangers_are_passed_over() {
        let body = br#"{"NetworkID":"n1","Options":null,"IPv4Data":[{"AddressSpace":"calico","Pool":"0.0.0.0/0",
            "Gateway":"169.254.1.1/32","AuxAddresses":null}],"IPv6Data":null,"New":1}"#;
        let request: NetworkRequest = parse("CreateNetwork", body).unwrap();
        assert_eq!((request.network_id.as_str(), request.ipv4_data[0].pool.as_str()), ("n1", "0.0.0.0/0"));
    }

    #[test]
    fn what_is_not_json_is_told_as_such() {
        let error = parse::<RequestPool>("RequestPool", b"hello").unwrap_err();
        assert!(error.contains("RequestPool"), "{error}");
    }

    #[test]
    fn ports_are_read_as_docker_writes_them() {
        let options = br#"{"com.docker.network.portmap":[{"Proto":6,"IP":"","Port":80,"HostIP":"","HostPort":8080,
            "HostPortEnd":8080}]}"#;
        let ports = port_bindings(&serde_json::from_slice(options).unwrap()).unwrap();
        let wanted =
            PortBinding { protocol: 6, port: 80, host_ip: String::new(), host_port: 8080, host_port_end: 8080 };
        assert_eq!(ports, [wanted]);
        assert!(port_bindings(&serde_json::from_str(r#"{"com.docker.network.portmap":7}"#).unwrap()).is_err());
    }
}

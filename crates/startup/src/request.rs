//! What was asked for, from arguments or from the environment.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    str::FromStr,
};

use calico_model::AsNumber;

use crate::StartupError;

/// What was asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Request {
    /// The node's name; `None` is the name of the operating system's host.
    pub name: Option<String>,
    /// The host's IPv4 address; `None` is detected.
    pub ip: Option<Ipv4Addr>,
    /// The host's IPv6 address; `None` is no IPv6 between hosts.
    pub ip6: Option<Ipv6Addr>,
    /// The node's AS number; `None` is the cluster's.
    pub as_number: Option<AsNumber>,
    /// Creates no pools where there are none.
    pub no_default_pools: bool,
}

impl Request {
    /// Reads `HOSTNAME`, `IP`, `IP6`, `AS` and `NO_DEFAULT_POOLS` by `variable`. Empty is absent, and `IP=autodetect`
    /// is too.
    ///
    /// # Errors
    /// [`StartupError::Setting`] names the first variable that makes no sense.
    pub fn from_environment(variable: impl Fn(&str) -> Option<String>) -> Result<Self, StartupError> {
        let given = |setting: &str| variable(setting).map(|value| value.trim().to_owned()).filter(|v| !v.is_empty());
        let ip = given("IP").filter(|value| value != "autodetect");
        let request = Self {
            name: given("HOSTNAME"),
            ip: parsed("IP", ip, "it is not an IPv4 address such as 10.0.0.1")?,
            ip6: parsed("IP6", given("IP6"), "it is not an IPv6 address such as fd00::1")?,
            as_number: parsed("AS", given("AS"), "it is not an AS number, 1 to 4294967295 or dotted as 64512.1")?,
            no_default_pools: given("NO_DEFAULT_POOLS").map_or(Ok(false), |value| truth("NO_DEFAULT_POOLS", &value))?,
        };
        request.check()?;
        Ok(request)
    }

    /// Refuses values that no host can have.
    ///
    /// # Errors
    /// [`StartupError::Setting`] names the first such value by its variable.
    pub fn check(&self) -> Result<(), StartupError> {
        if let Some(ip) = self.ip {
            usable("IP", ip.into())?;
        }
        if let Some(ip6) = self.ip6 {
            usable("IP6", ip6.into())?;
        }
        if self.as_number == Some(AsNumber(0)) {
            return Err(refused("AS", "0", "AS number 0 is reserved (RFC 7607)"));
        }
        Ok(())
    }
}

fn parsed<T: FromStr>(setting: &'static str, value: Option<String>, wanted: &str) -> Result<Option<T>, StartupError> {
    value.map(|value| value.parse().map_err(|_| refused(setting, &value, wanted))).transpose()
}

fn truth(setting: &'static str, value: &str) -> Result<bool, StartupError> {
    match value.to_ascii_lowercase().as_str() {
        "true" | "1" | "yes" | "on" => Ok(true),
        "false" | "0" | "no" | "off" => Ok(false),
        _ => Err(refused(setting, value, "it is neither true nor false")),
    }
}

fn usable(setting: &'static str, address: IpAddr) -> Result<(), StartupError> {
    let cause = if address.is_unspecified() {
        "it is the unspecified address"
    } else if address.is_loopback() {
        "it is a loopback address, which other hosts cannot reach"
    } else if address.is_multicast() || address == IpAddr::V4(Ipv4Addr::BROADCAST) {
        "it is a multicast or broadcast address"
    } else if matches!(address, IpAddr::V6(address) if address.is_unicast_link_local()) {
        "it is a link-local address, which means nothing beyond its link"
    } else {
        return Ok(());
    };
    Err(refused(setting, &address.to_string(), cause))
}

fn refused(setting: &'static str, value: &str, cause: &str) -> StartupError {
    StartupError::Setting { setting, value: value.to_owned(), cause: cause.to_owned() }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn read(pairs: &[(&str, &str)]) -> Result<Request, StartupError> {
        Request::from_environment(|name| {
            pairs.iter().find(|(found, _)| *found == name).map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn absent_and_empty_are_the_same() {
        let empty = [("HOSTNAME", ""), ("IP", ""), ("IP6", " "), ("AS", ""), ("NO_DEFAULT_POOLS", "")];
        assert_eq!(read(&empty).unwrap(), Request::default());
        assert_eq!(read(&[]).unwrap(), Request::default());
        assert_eq!(read(&[("IP", "autodetect")]).unwrap(), Request::default());
    }

    #[test]
    fn everything_given() {
        let pairs =
            [("HOSTNAME", "h1"), ("IP", "10.0.0.1"), ("IP6", "fd00::1"), ("AS", "1.2"), ("NO_DEFAULT_POOLS", "TRUE")];
        let request = Request {
            name: Some("h1".into()),
            ip: Some([10, 0, 0, 1].into()),
            ip6: Some("fd00::1".parse().unwrap()),
            as_number: Some(AsNumber(65538)),
            no_default_pools: true,
        };
        assert_eq!(read(&pairs).unwrap(), request);
    }

    #[test]
    fn nonsense_is_named() {
        for (setting, value) in [
            ("IP", "10.0.0"),
            ("IP", "10.0.0.1/24"),
            ("IP", "fd00::1"),
            ("IP", "0.0.0.0"),
            ("IP", "127.0.0.1"),
            ("IP", "224.0.0.1"),
            ("IP6", "10.0.0.1"),
            ("IP6", "::1"),
            ("IP6", "fe80::1"),
            ("AS", "0"),
            ("AS", "many"),
            ("AS", "4294967296"),
            ("NO_DEFAULT_POOLS", "maybe"),
        ] {
            let error = read(&[(setting, value)]).expect_err(value);
            assert!(matches!(error, StartupError::Setting { setting: named, .. } if named == setting), "{value}");
            assert!(error.to_string().starts_with(&format!("{setting}={value:?}")), "{error}");
        }
    }
}

//! Block affinities of this node, as IPAM stores them: `/calico/ipam/v2/host/<node>/ipv4/block/10.0.0.64-26`.
//!
//! Routing needs only which blocks are this node's. A claim that is pending or being given up is not: announcing it
//! would draw another node's traffic here.

use ipnet::IpNet;
use serde_json::{Map, Value};

/// The sizes of blocks, by family: a "block" outside of them would be a blackhole for far too much.
const SIZES: [std::ops::RangeInclusive<u8>; 2] = [20..=32, 116..=128];

/// The prefix below which a node's affinities stand.
pub(crate) fn prefix(node: &str) -> String {
    format!("/calico/ipam/v2/host/{node}/")
}

/// The block in the rest of a key behind [`prefix`]; `None` for keys that are no affinities.
///
/// # Errors
/// What is wrong with the block.
pub(crate) fn block(rest: &str) -> Result<Option<IpNet>, String> {
    let Some((version, text)) = rest.split_once("/block/") else { return Ok(None) };
    let net: IpNet =
        text.replacen('-', "/", 1).parse().map_err(|_| format!("{text:?} is not a block (address-length)"))?;
    let (family, sizes) = match net {
        IpNet::V4(_) => ("ipv4", &SIZES[0]),
        IpNet::V6(_) => ("ipv6", &SIZES[1]),
    };
    if version != family {
        return Err(format!("{net} is not a block of {version}"));
    }
    if net.trunc() != net {
        return Err(format!("{net} has host bits set"));
    }
    if !sizes.contains(&net.prefix_len()) {
        return Err(format!("{net} has not the size of a block (/{} to /{})", sizes.start(), sizes.end()));
    }
    Ok(Some(net))
}

/// True if the value says that the block is the node's: `confirmed`, or the legacy empty state or value.
///
/// # Errors
/// The JSON error.
pub(crate) fn is_confirmed(value: &[u8]) -> Result<bool, String> {
    if value.trim_ascii().is_empty() {
        return Ok(true);
    }
    let members: Map<String, Value> = serde_json::from_slice(value).map_err(|error| error.to_string())?;
    match members.get("state") {
        None | Some(Value::Null) => Ok(true),
        Some(Value::String(state)) => Ok(matches!(state.as_str(), "" | "confirmed")),
        Some(other) => Err(format!("state is {other}, not a text")),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn keys() {
        assert_eq!(block("ipv4/block/10.10.0.64-26"), Ok(Some("10.10.0.64/26".parse().unwrap())));
        assert_eq!(block("ipv6/block/fd00::40-122"), Ok(Some("fd00::40/122".parse().unwrap())));
        assert_eq!(block(""), Ok(None), "the obsolete host marker");
        for bad in [
            "ipv4/block/10.10.0.65-26",
            "ipv4/block/0.0.0.0-0",
            "ipv4/block/10.0.0.0-8",
            "ipv6/block/10.10.0.64-26",
            "ipv4/block/fd00::40-122",
            "ipv6/block/::-0",
            "ipv4/block/",
            "ipv4/block/x",
        ] {
            assert!(block(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn states() {
        for mine in ["", "{}", r#"{"state":"","deleted":false}"#, r#"{"state":"confirmed","deleted":false}"#] {
            assert_eq!(is_confirmed(mine.as_bytes()), Ok(true), "{mine:?}");
        }
        for not in [r#"{"state":"pending"}"#, r#"{"state":"pendingDeletion"}"#, r#"{"state":"Confirmed"}"#] {
            assert_eq!(is_confirmed(not.as_bytes()), Ok(false), "{not:?}");
        }
        for bad in ["{", "[]", r#"{"state":1}"#, "\u{0}"] {
            assert!(is_confirmed(bad.as_bytes()).is_err(), "{bad:?}");
        }
    }
}

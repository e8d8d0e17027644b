//! `ipam info <IP>` and `ipam release <IP>` in the classic tool's words.

use calico_ipam::{Ipam, LookupError, ReleaseError, ReleaseRequest};
use serde_json::json;

use crate::{
    failure::{Failure, sentence},
    output::Output,
};

fn address(text: &str) -> Result<std::net::IpAddr, Failure> {
    text.parse().map_err(|_| {
        Failure::new("Invalid IP address specified.")
            .because(format!("{text:?} is neither an IPv4 nor an IPv6 address"))
    })
}

/// `ipam info`
pub(super) async fn info(ipam: &Ipam, text: &str) -> Result<Output, Failure> {
    let address = address(text)?;
    match ipam.get_assignment_attributes(address).await {
        Ok(assignment) => {
            let notes = assignment.attribute.secondary.clone().unwrap_or_default();
            let words = if notes.is_empty() {
                format!("No attributes defined for {address}\n")
            } else {
                format!("{}\n", json!(notes))
            };
            let facts = json!({
                "ip": address,
                "assigned": true,
                "handle": assignment.attribute.handle_id,
                "attributes": notes,
                "block": assignment.block,
            });
            Ok(Output::of(words, facts))
        }
        Err(LookupError::NotInPool { .. } | LookupError::Unassigned { .. } | LookupError::Cooling { .. }) => {
            let facts = json!({ "ip": address, "assigned": false });
            Ok(Output::of(format!("IP {address} is not currently assigned\n"), facts))
        }
        Err(error) => Err(Failure::new(sentence(&error))),
    }
}

/// `ipam release <IP>`. Scripts rely on code 0 also where nothing was assigned.
pub(super) async fn release(ipam: &Ipam, text: &str) -> Result<Output, Failure> {
    match ipam.release_ips(&[ReleaseRequest::from(address(text)?)]).await {
        Ok(done) if done.released.is_empty() => Ok(Output::line("Failed to release address")),
        Ok(_) => Ok(Output::line("Address successfully released")),
        Err(error @ ReleaseError::Mismatch { .. }) => {
            Err(Failure::new("Failed to release address").because(error.to_string()).hint("run the command again"))
        }
        Err(error) => Err(Failure::new(sentence(&error))),
    }
}

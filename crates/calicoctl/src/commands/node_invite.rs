//! `calicoctl node invite`: one line to paste on the host that is to join.

use calico_datastore::{
    admin::{Client, InviteAnswer, InviteRequest},
    pki::shown,
};
use calico_model::NodeSpec;

use super::{Caller, keeper, node_show};
use crate::{args::NodeInvite, context::Context, failure::Failure, output::Output};

/// `node invite`
pub(crate) async fn run(ctx: &Context, args: &NodeInvite, caller: &Caller) -> Result<Output, Failure> {
    keeper::must_be_here(caller.etcd.source(), "hosts are invited")?;
    invite(ctx, args, &Client::default()).await
}

async fn invite(ctx: &Context, args: &NodeInvite, client: &Client) -> Result<Output, Failure> {
    let Some(ttl) = calico_model::parse_go_duration(&args.ttl) else {
        return Err(Failure::new(format!("--ttl {:?} is no duration.", args.ttl)).hint("write 90s, 15m or 1h"));
    };
    ctx.require_root()?;
    let address = match &args.address {
        Some(address) => Some(bare(address)),
        None => node_address(ctx).await,
    };
    let request = InviteRequest { ttl_seconds: ttl.as_secs(), address };
    let invited = client.invite(&request).await.map_err(keeper::failure)?;
    let command = command(&invited);
    let mut text = format!(
        "Run this on the host that is to join, as root:\n\n    {command}\n\nIt is good for one host, once, until {}.\n",
        shown(invited.expires)
    );
    if invited.opened {
        text.push_str(&format!(
            "TCP port {} of this host is open now: the other host must be able to reach it. Nobody gets at the datastore \
             there without a certificate.\n",
            invited.port
        ));
    }
    let data = serde_json::json!({
        "command": command,
        "address": invited.address,
        "token": invited.token,
        "caFingerprint": invited.fingerprint,
        "expires": invited.expires,
        "opened": invited.opened,
    });
    Ok(Output::of(text, data))
}

fn command(invited: &InviteAnswer) -> String {
    format!(
        "calicoctl node --join={} --token={} --ca-fingerprint={}",
        invited.address, invited.token, invited.fingerprint
    )
}

/// The address as other hosts know it from BGP. Without one the datastore looks for itself.
async fn node_address(ctx: &Context) -> Option<String> {
    let node = ctx.store.get::<NodeSpec>(&ctx.node).await.ok()?;
    let bgp = node.spec.bgp?;
    node_show::address(bgp.ipv4_address.as_deref()).or_else(|| node_show::address(bgp.ipv6_address.as_deref()))
}

/// An IPv6 address without its brackets.
fn bare(address: &str) -> String {
    let address = address.trim();
    address.strip_prefix('[').and_then(|inner| inner.strip_suffix(']')).unwrap_or(address).to_owned()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use calico_datastore::enrol::{Token, join::Address};

    use super::*;
    use crate::{
        commands::node_join::keeper_for_tests::Keeper,
        testing::{Bench, NODE, refusal, text},
    };

    fn args(ttl: &str, address: Option<&str>) -> NodeInvite {
        NodeInvite { ttl: ttl.into(), address: address.map(str::to_owned), ..NodeInvite::default() }
    }

    #[tokio::test]
    async fn the_line_can_be_pasted_and_says_how_long_it_holds() {
        let (bench, keeper) = (Bench::new(), Keeper::start().await);
        bench.node(NODE, "10.0.0.5/24", None).await;
        let said = text(invite(&bench.ctx, &args("1h", None), &keeper.client).await);
        let line = said.lines().find(|line| line.starts_with("    calicoctl node --join=10.0.0.5:")).unwrap();
        assert!(line.contains(" --token=") && line.contains(" --ca-fingerprint=sha256:"), "{line}");
        assert!(!line.contains(['"', '\'', '$']), "{line}");
        assert!(said.contains("once, until 20") && said.contains("UTC"), "{said}");
        assert!(said.contains("TCP port") && said.contains("is open now"), "{said}");
        let said = invite(&bench.ctx, &args("90s", Some("[fd00::1]")), &keeper.client).await.unwrap();
        assert!(!said.text.contains("is open now"));
        assert!(said.data["address"].as_str().unwrap().starts_with("[fd00::1]:"));
        assert!(said.data["address"].as_str().unwrap().parse::<Address>().is_ok());
        assert!(said.data["token"].as_str().unwrap().parse::<Token>().is_ok());
        assert_eq!(keeper.client.status().await.unwrap().invitations, 2);
    }

    #[tokio::test]
    async fn what_cannot_be_is_told() {
        let (bench, keeper) = (Bench::new(), Keeper::start().await);
        for (ttl, address, words) in [
            ("soon", None, "no duration"),
            ("0s", Some("10.0.0.1"), "1 second to 7 days"),
            ("169h", Some("10.0.0.1"), "1 second to 7 days"),
            ("1h", Some("10.0.0.1:2379"), "neither an address nor a host name"),
        ] {
            let said = refusal(invite(&bench.ctx, &args(ttl, address), &keeper.client).await);
            assert!(said.contains(words), "{said}");
        }
        assert_eq!(keeper.client.status().await.unwrap().invitations, 0);
        assert!(refusal(invite(&Bench::not_root().ctx, &args("1h", None), &keeper.client).await).contains("as root"));
        let nobody = Client::new(std::path::Path::new("/nonexistent/socket"));
        let said = refusal(invite(&bench.ctx, &args("1h", None), &nobody).await);
        assert!(said.contains("does not run") && said.contains("hint: start it: calicoctl node"), "{said}");
    }
}

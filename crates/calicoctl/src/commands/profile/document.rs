//! `profile <PROFILE> rule json|update`

use calico_classic::{BadDocument, document, read_document};

use super::{Edited, change, existing};
use crate::{context::Context, failure::Failure, names::Wanted, output::Output};

/// `rule json`: the rules as `rule update` takes them, and an empty line.
pub(super) async fn print(ctx: &Context, word: &str) -> Result<Output, Failure> {
    let profile = existing(ctx, &Wanted::parse(word)?).await?;
    let document = document(profile.profile_name().as_typed(), &profile.spec.ingress, &profile.spec.egress);
    let text = serde_json::to_string_pretty(&document).expect("a JSON value can be written");
    Ok(Output::of(format!("{text}\n\n"), document))
}

/// `rule update`: replaces both lists by those of the document on standard input.
pub(super) async fn update(ctx: &Context, word: &str) -> Result<Output, Failure> {
    let wanted = Wanted::parse(word)?;
    let name = existing(ctx, &wanted).await?.profile_name();
    let text = ctx.console.input().map_err(|error| {
        Failure::new("The rules cannot be read from standard input.")
            .cause(&error)
            .hint(format!("give them as: calicoctl profile {name} rule update < FILE"))
    })?;
    let (inbound, outbound) =
        read_document(&text, &[name.as_typed(), name.as_stored()]).map_err(|BadDocument(faults)| {
            Failure::all(faults).hint(format!("see how a document looks with: calicoctl profile {name} rule json"))
        })?;
    change(ctx, &wanted, |profile| {
        let done = Output::line(format!("Successfully updated rules on profile {name}"));
        let spec = &mut profile.spec;
        if spec.ingress == inbound && spec.egress == outbound {
            return Ok((Edited::No, done));
        }
        (spec.ingress, spec.egress) = (inbound.clone(), outbound.clone());
        Ok((Edited::Yes, done))
    })
    .await
}

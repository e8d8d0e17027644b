//! `calicoctl why`: one answer to why traffic is allowed or denied.
//!
//! The answer itself is [`calico_explain::why`]'s; here are the names that people type, and the words. Both families
//! are asked where both ends have them, and told once if their answers are the same.

mod cluster;
mod ends;
mod live;
mod text;

use calico_explain::{
    Cluster,
    why::{Answer, Party, Question, Share, by_port, why as answer},
};
use calico_policy::packet::Transport;
use serde_json::json;

pub(crate) use self::{cluster::load, live::counters};
use crate::{
    args::Why,
    context::Context,
    failure::{Exit, Failure},
    output::Output,
};
use ends::Traffic;

/// One family's answer.
struct Told {
    answer: Answer,
    question: Question,
    /// What becomes of all ports, if none was named.
    shares: Vec<Share>,
}

/// `why`
pub(crate) async fn why(ctx: &Context, args: &Why) -> Result<Output, Failure> {
    let traffic = ends::traffic(args.protocol.as_deref(), args.port.as_deref())?;
    let cluster = load(ctx).await?;
    let from = ends::find(ctx, &cluster, &args.from).await?;
    let to = ends::find(ctx, &cluster, &args.to).await?;
    let told = ask(&cluster, &from, &to, traffic);
    if told.is_empty() {
        return Err(Failure::new(format!("{} and {} have no address of the same family.", args.from, args.to)));
    }
    let live = if args.live { Some(live::look(ctx, &cluster, &told).await?) } else { None };
    let denied = told.iter().any(|told| !told.answer.verdict.is_allow());
    let mut words = text::text(&told);
    if let Some(live) = &live {
        words.push_str(&live.text());
    }
    let answers: Vec<_> = told
        .iter()
        .map(|told| {
            let mut value = json!(told.answer);
            value["byPort"] = json!(told.shares);
            value
        })
        .collect();
    let verdict = if denied { "denied" } else { "allowed" };
    let data = json!({ "verdict": verdict, "answers": answers, "live": live });
    Ok(Output::of(words, data).exit(if denied { Exit::Denied } else { Exit::Done }))
}

/// An answer for each family that both ends have.
fn ask(cluster: &Cluster, from: &[Party], to: &[Party], traffic: Traffic) -> Vec<Told> {
    let mut told = Vec::new();
    for is_four in [true, false] {
        let of = |parties: &[Party]| parties.iter().find(|party| party.address.is_ipv4() == is_four).cloned();
        let (Some(from), Some(to)) = (of(from), of(to)) else { continue };
        told.push(one(cluster, from, to, traffic, is_four));
    }
    told
}

fn one(cluster: &Cluster, from: Party, to: Party, traffic: Traffic, is_four: bool) -> Told {
    let mut shares = Vec::new();
    let question = match traffic {
        Traffic::Port(protocol, port) => Question::to_port(from, to, protocol, port),
        Traffic::AllPorts(protocol) => {
            let question = Question::to_port(from, to, protocol, 1);
            shares = by_port(cluster, &question, protocol);
            // The ports that nobody names are the widest range.
            let widest = shares.iter().max_by_key(|share| share.ports.1 - share.ports.0).map(|share| share.ports);
            let ports = widest.unwrap_or((1, u16::MAX));
            Question { ports: Some(ports), ..Question::to_port(question.from, question.to, protocol, ports.0) }
        }
        Traffic::Ping => {
            let icmp_type = if is_four { 8 } else { 128 };
            Question::of(from, to, Transport::Icmp { icmp_type, code: 0 })
        }
        Traffic::Protocol(number) => Question::of(from, to, Transport::Other(number)),
    };
    Told { answer: answer(cluster, &question), question, shares }
}

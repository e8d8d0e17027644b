//! The answer as people read it: verdict first, then the way of the packet, then what would change it.

use std::fmt::Write;

use calico_explain::{
    plan::verdict_word,
    why::{Answer, HostVerdict, Place, StepTaken},
};

use super::Told;

/// Longer commands are in the JSON form only.
const LONGEST_COMMAND: usize = 600;
/// More ways to deny are not told.
const MOST_WAYS: usize = 3;

pub(super) fn text(told: &[Told]) -> String {
    let mut text = String::new();
    match told {
        [first, second] if alike(&first.answer, &second.answer) => {
            one(&mut text, first, &format!("IPv4 and IPv6 ({})", ends(&second.answer)));
        }
        _ => {
            for (at, told) in told.iter().enumerate() {
                text.push_str(if at > 0 { "\n" } else { "" });
                one(&mut text, told, &format!("IPv{}", told.answer.ip_version));
            }
        }
    }
    text
}

/// True if a person would learn nothing from the second answer.
fn alike(first: &Answer, second: &Answer) -> bool {
    let decided = |answer: &Answer| -> Vec<String> {
        let steps = answer.hosts.iter().flat_map(|host| host.steps.iter().chain(&host.reply));
        steps.map(|step| format!("{} {}", step.stage, step.decided)).collect()
    };
    first.verdict == second.verdict
        && first.traffic == second.traffic
        && decided(first) == decided(second)
        && second.route.warnings == first.route.warnings
}

fn ends(answer: &Answer) -> String {
    format!("{} to {}", answer.from.address, answer.to.address)
}

fn one(text: &mut String, told: &Told, families: &str) {
    let answer = &told.answer;
    let _ = writeln!(text, "{}\n", answer.summary);
    let _ = writeln!(text, "from   {}", place(&answer.from));
    let _ = writeln!(text, "to     {}", place(&answer.to));
    let _ = writeln!(text, "what   {}, {families}", answer.traffic);
    let _ = writeln!(text, "route  {}", answer.route.text);
    if let Some(seen) = answer.route.masqueraded {
        let _ = writeln!(text, "       its source becomes {seen}: the pool has natOutgoing");
    }
    for warning in &answer.route.warnings {
        let _ = writeln!(text, "       warning: {warning}");
    }
    for host in &answer.hosts {
        judged(text, host);
    }
    let others: Vec<String> = told
        .shares
        .iter()
        .filter(|share| share.traffic != answer.traffic)
        .map(|share| format!("  {}: {}", share.traffic, verdict_word(share.verdict)))
        .collect();
    if !others.is_empty() {
        let _ = writeln!(text, "\nother ports:\n{}", others.join("\n"));
    }
    changes(text, answer);
}

fn place(place: &Place) -> String {
    let Place { name, address, node, .. } = place;
    match node {
        None => format!("{name}, outside the cluster"),
        Some(node) if *name == format!("host {node}") => format!("{name} ({address})"),
        Some(node) => format!("{name} ({address}) on {node}"),
    }
}

fn judged(text: &mut String, host: &HostVerdict) {
    let _ = writeln!(text, "\n{}: {}", host.node, verdict_word(host.verdict));
    if host.steps.is_empty() {
        text.push_str("  no policy of this host has a say\n");
    }
    host.steps.iter().for_each(|taken| step(text, taken));
    if !host.reply.is_empty() {
        text.push_str("  the answer on its way back:\n");
        host.reply.iter().for_each(|taken| step(text, taken));
    }
}

fn step(text: &mut String, taken: &StepTaken) {
    let of = taken.of.as_ref().map_or(String::new(), |of| format!(" of {of}"));
    let _ = writeln!(text, "  {}{of}: {}", taken.stage, verdict_word(taken.verdict));
    for asked in &taken.asked {
        let _ = writeln!(text, "      {}: {}", asked.object, asked.outcome);
    }
    let _ = writeln!(text, "    > {}", taken.decided);
}

fn changes(text: &mut String, answer: &Answer) {
    if answer.hosts.is_empty() {
        return;
    }
    let denied = !answer.verdict.is_allow();
    if answer.changes.is_empty() {
        let _ = writeln!(text, "\nNo policy changes this.");
        return;
    }
    let verb = if denied { "allow" } else { "deny" };
    let several = match (answer.changes.len(), denied) {
        (1, _) => "",
        (_, true) => " (all of these)",
        (_, false) => " (one of these)",
    };
    let _ = writeln!(text, "\nto {verb} it{several}:");
    let most = if denied { usize::MAX } else { MOST_WAYS };
    for fix in answer.changes.iter().take(most) {
        let _ = writeln!(text, "  {}", fix.text);
        if let Some(command) = fix.command.as_ref().filter(|command| command.len() <= LONGEST_COMMAND) {
            let _ = writeln!(text, "    {command}");
        }
    }
    if denied && !answer.proven {
        text.push_str("  That may not be enough: ask again afterwards.\n");
    }
}

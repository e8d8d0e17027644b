//! Programming nftables: tables of many sets and chains, read back without a change, with one member more, and with one
//! chain replaced. Beside each stands the same on an equal table by the tool `nft`, which is started anew each time as
//! it is in programs that use it. Beside the chain also stands the bare transaction: it is what the kernel needs to look
//! up the sets and, whenever a rule with a look-up comes, to walk all rules that base chains lead to
//! (`nft_table_validate`), so that no program can be faster at this table.

use std::{
    io::Write,
    net::Ipv4Addr,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use calico_dataplane::Dataplane;
use calico_policy::instruction::{EntityMatch, Instruction, Members, Rule, RuleAction, RuleSet, SetId};
use ipnet::IpNet;
use miette::{IntoDiagnostic, Result, miette};

use crate::{bare::Replacement, cpu, felix, report::Report, rig};

/// Sets (and chains), members of a set, rules of a chain.
const SPECS: [Spec; 3] =
    [Spec { count: 100, members: 20 }, Spec { count: 500, members: 50 }, Spec { count: 2000, members: 100 }];
const RULES: usize = 10;
/// Samples of small changes, and of whole read-backs.
const SAMPLES: usize = 50;
const READ_BACKS: usize = 7;

#[derive(Clone, Copy)]
struct Spec {
    count: usize,
    members: usize,
}

pub(crate) fn measure(report: &mut Report) -> Result<()> {
    for spec in SPECS {
        let lab = rig::bare_lab(1)?;
        let (ours, theirs) = felix::inside(lab.host(1), || async move {
            let ours = sample(spec).await?;
            Ok((ours, yardstick().await?))
        })?;
        let (in_kernel, chain) = (ours.in_kernel, median(ours.chain.iter().map(|sample| sample.wall).collect()));
        let Spec { count, members } = spec;
        let table = format!("{count} sets of {members}, {count} chains of {RULES} rules");
        let load = format!("{table}, from nothing; {:.1} ms of it this thread", ours.load.cpu.as_secs_f64() * 1e3);
        report.add(format!("nft/load/{count}"), ours.load.wall.as_secs_f64() * 1e3, "ms", 1, load);
        for (name, ours, theirs, what) in [
            ("resync", ours.resync, theirs.read, "read back and compared, no change; `nft list table` alone"),
            ("member", ours.member, theirs.member, "one member of a set comes or goes; by `nft -f`"),
            ("chain", ours.chain, theirs.chain, "the rules of one chain replaced; by `nft -f`"),
        ] {
            let nft = median(theirs).as_secs_f64() * 1e3;
            let cpu = median(ours.iter().map(|sample| sample.cpu).collect()).as_secs_f64() * 1e3;
            let detail = format!("{table}: {what} takes {nft:.1} ms; this thread ran {cpu:.3} ms");
            report.add_times(&format!("nft/{name}/{count}"), ours.iter().map(|sample| sample.wall).collect(), &detail);
            report.add(format!("nft/{name}/{count}/tool"), nft, "ms", 1, "yardstick: by the tool `nft`");
        }
        report.add(format!("nft/chain/{count}/kernel"), 100.0 * in_kernel, "%", 1, "share of the kernel in it");
        let ratio = chain.as_secs_f64() / median(theirs.bare.clone()).as_secs_f64();
        let detail = format!("yardstick: the same as a bare batch made before; ours takes {ratio:.2} x that");
        report.add_times(&format!("nft/chain_bare/{count}"), theirs.bare, &detail);
    }
    Ok(())
}

struct Ours {
    load: Sample,
    resync: Vec<Sample>,
    member: Vec<Sample>,
    chain: Vec<Sample>,
    /// Share of the kernel in replacing chains.
    in_kernel: f64,
}

async fn sample(spec: Spec) -> Result<Ours> {
    let mut dataplane = rig::dataplane().await?;
    for number in 0..spec.count {
        let members = (0..spec.members).map(|member| net(number, member)).collect();
        dataplane.absorb(Instruction::SetReplace { id: set(number), members: Members::Nets(members) });
    }
    for number in 0..spec.count {
        dataplane.absorb(policy(spec, number, 0));
    }
    dataplane.absorb(rig::endpoint("cali0", Vec::new(), spec.count));
    let load = timed(&mut dataplane, None).await?;
    let mut ours = Ours { load, resync: Vec::new(), member: Vec::new(), chain: Vec::new(), in_kernel: 0.0 };
    for round in 0..SAMPLES {
        let set = set(round * 7 % spec.count);
        for remove in [false, true] {
            let (mut added, mut removed) = (vec![net(round, spec.members)], Vec::new());
            if remove {
                std::mem::swap(&mut added, &mut removed);
            }
            let (added, removed) = (Members::Nets(added), Members::Nets(removed));
            let change = Instruction::SetDelta { id: set.clone(), added, removed };
            ours.member.push(timed(&mut dataplane, Some(change)).await?);
        }
    }
    let before = cpu::kernel_share();
    for round in 0..SAMPLES {
        let change = policy(spec, round * 7 % spec.count, 1 + round);
        ours.chain.push(timed(&mut dataplane, Some(change)).await?);
    }
    let after = cpu::kernel_share();
    ours.in_kernel = (after.0 - before.0) as f64 / (after.1 - before.1).max(1) as f64;
    for _ in 0..READ_BACKS {
        dataplane.distrust();
        ours.resync.push(timed(&mut dataplane, None).await?);
    }
    Ok(ours)
}

async fn timed(dataplane: &mut Dataplane, change: Option<Instruction>) -> Result<Sample> {
    let wanted = change.is_some();
    let (cpu, start) = (cpu::of_this_thread(), Instant::now());
    if let Some(change) = change {
        dataplane.absorb(change);
    }
    let operations = rig::apply(dataplane).await?;
    let sample = Sample { wall: start.elapsed(), cpu: cpu::of_this_thread().saturating_sub(cpu) };
    if wanted && operations == 0 {
        return Err(miette!("a change wrote nothing to the kernel"));
    }
    Ok(sample)
}

/// How long an apply took by the clock, and how long this thread ran for it, in the kernel too.
#[derive(Clone, Copy)]
struct Sample {
    wall: Duration,
    cpu: Duration,
}

fn set(number: usize) -> SetId {
    SetId(format!("s:set-{number}"))
}

/// Members that no other set has.
fn net(set: usize, member: usize) -> IpNet {
    let number = u32::try_from(set * 1000 + member).expect("few sets of few members");
    IpNet::from(std::net::IpAddr::from(Ipv4Addr::from_bits(Ipv4Addr::new(10, 0, 0, 0).to_bits() + number)))
}

/// A policy of ten rules for IPv4, so that it is one chain of ten rules; another version has other ports.
fn policy(spec: Spec, number: usize, version: usize) -> Instruction {
    let rule = |place: usize| Rule {
        ip_version: Some(4),
        protocol: Some(6),
        source: EntityMatch { sets: vec![set((number + place) % spec.count)], ..EntityMatch::default() },
        destination: EntityMatch { ports: vec![port(1000 + place), port(2000 + version)], ..EntityMatch::default() },
        ..Rule::of(RuleAction::Allow)
    };
    let rules = RuleSet { ingress: (0..RULES).map(rule).collect(), egress: Vec::new() };
    Instruction::PolicyUpdate { id: rig::policy(number), rules: rules.into() }
}

fn port(number: usize) -> (u16, u16) {
    let number = u16::try_from(number).expect("ports are small");
    (number, number)
}

struct Theirs {
    /// The kernel alone, replacing a chain of our own table.
    bare: Vec<Duration>,
    read: Vec<Duration>,
    member: Vec<Duration>,
    chain: Vec<Duration>,
}

/// Our table, a chain of it replaced by the kernel alone; and a copy of it, changed by the tool.
async fn yardstick() -> Result<Theirs> {
    let listing = rig::run("nft list table ip calico")?.replacen("table ip calico", "table ip yardstick", 1);
    let set = name_after(&listing, "\tset s-").or_else(|| name_after(&listing, "\tset "));
    let set = set.ok_or_else(|| miette!("no set in the table"))?;
    let (chain, rules) = policy_chain(&listing).ok_or_else(|| miette!("no chain of {RULES} rules in the table"))?;
    let mut theirs = Theirs { bare: Vec::new(), read: Vec::new(), member: Vec::new(), chain: Vec::new() };
    let replacement = Replacement::of_chain("calico", &chain).await?;
    for _ in 0..SAMPLES {
        theirs.bare.push(replacement.commit().await?);
    }
    nft(&listing)?;
    for _ in 0..3 {
        let start = Instant::now();
        rig::run("nft list table ip yardstick")?;
        theirs.read.push(start.elapsed());
    }
    for _ in 0..5 {
        for verb in ["add", "delete"] {
            theirs.member.push(nft(&format!("{verb} element ip yardstick {set} {{ 203.0.113.9 }}"))?);
        }
        let mut replacement = format!("flush chain ip yardstick {chain}\n");
        for rule in &rules {
            replacement += &format!("add rule ip yardstick {chain} {rule}\n");
        }
        theirs.chain.push(nft(&replacement)?);
    }
    rig::run("nft delete table ip yardstick")?;
    Ok(theirs)
}

/// The word after the first such text.
fn name_after(listing: &str, text: &str) -> Option<String> {
    let start = listing.find(text)? + "\tset ".len();
    listing[start..].split_whitespace().next().map(str::to_owned)
}

/// The first chain with as many rules as a policy has, and the rules.
fn policy_chain(listing: &str) -> Option<(String, Vec<String>)> {
    listing.split("\tchain ").skip(1).find_map(|text| {
        let (name, body) = text.split_once(" {")?;
        let body = body.split_once("\n\t}")?.0;
        let rules: Vec<String> = body
            .lines()
            .map(|line| line.trim().to_owned())
            .filter(|l| !l.is_empty() && !l.starts_with("comment"))
            .collect();
        let plain = rules.iter().filter(|rule| rule.contains("tcp dport")).count();
        (plain >= RULES).then(|| (name.to_owned(), rules))
    })
}

/// Feeds the tool and returns how long it took.
fn nft(text: &str) -> Result<Duration> {
    let start = Instant::now();
    let mut child = Command::new("nft").args(["-f", "-"]).stdin(Stdio::piped()).spawn().into_diagnostic()?;
    child.stdin.take().expect("it was asked for").write_all(text.as_bytes()).into_diagnostic()?;
    if !child.wait().into_diagnostic()?.success() {
        return Err(miette!("nft refused: {}", text.lines().next().unwrap_or_default()));
    }
    Ok(start.elapsed())
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times.get(times.len() / 2).copied().unwrap_or_default()
}

//! Which iptables to speak to, and where its programs are.

use std::path::{Path, PathBuf};

use calico_policy::instruction::IptablesBackend;

use super::command::{find, run};
use crate::{error::Error, family::Family};

/// What Kubernetes leaves in the mangle table, so that others see which kind of iptables is in use.
const HINTS: [&str; 2] = ["KUBE-IPTABLES-HINT", "KUBE-KUBELET-CANARY"];

/// Which kernel interface iptables uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Variant {
    /// Tables of nftables, in iptables' words.
    Nft,
    /// The older one.
    Legacy,
}

impl Variant {
    /// Both, the default first.
    pub(crate) const ALL: [Self; 2] = [Self::Nft, Self::Legacy];

    /// The program's name.
    pub(crate) fn program(self) -> &'static str {
        match self {
            Self::Nft => "iptables-nft",
            Self::Legacy => "iptables-legacy",
        }
    }
}

/// The programs of one kind of iptables.
#[derive(Clone, Debug)]
pub(super) struct Programs {
    save: [PathBuf; 2],
    restore: [PathBuf; 2],
    /// `ipset`.
    pub ipset: PathBuf,
}

impl Programs {
    /// Looks for all of them.
    pub(super) fn find(variant: Variant) -> Result<Self, Error> {
        let one = |program: String| find(&program).ok_or(Error::ProgramMissing { program });
        let v4 = variant.program();
        let v6 = v4.replace("iptables", "ip6tables");
        let both = |what: &str| -> Result<[PathBuf; 2], Error> {
            Ok([one(format!("{v4}-{what}"))?, one(format!("{v6}-{what}"))?])
        };
        Ok(Self { save: both("save")?, restore: both("restore")?, ipset: one("ipset".to_owned())? })
    }

    /// The program that prints a family's rules.
    pub(super) fn save(&self, family: Family) -> &Path {
        &self.save[family.index()]
    }

    /// The program that changes them.
    pub(super) fn restore(&self, family: Family) -> &Path {
        &self.restore[family.index()]
    }
}

/// Chooses the kind of iptables: the one that was asked for, else the one that the host's other rules are in.
///
/// # Errors
/// [`Error::ProgramMissing`] if none, or not the one that was asked for, is installed.
pub(crate) async fn choose(wanted: IptablesBackend) -> Result<Variant, Error> {
    let installed = |variant| Programs::find(variant);
    match wanted {
        IptablesBackend::Nft => installed(Variant::Nft).map(|_| Variant::Nft),
        IptablesBackend::Legacy => installed(Variant::Legacy).map(|_| Variant::Legacy),
        IptablesBackend::Auto => match (installed(Variant::Nft), installed(Variant::Legacy)) {
            (Ok(nft), Ok(legacy)) => Ok(most_used(&weigh(&nft, true).await?, &weigh(&legacy, has_legacy()).await?)),
            (Ok(_), Err(_)) => Ok(Variant::Nft),
            (Err(_), Ok(_)) => Ok(Variant::Legacy),
            (Err(error), Err(_)) => Err(error),
        },
    }
}

/// Whether there is a table of iptables-legacy. Asking its programs would make one.
fn has_legacy() -> bool {
    ["ip_tables_names", "ip6_tables_names"].iter().any(|file| {
        std::fs::read_to_string(format!("/proc/thread-self/net/{file}")).is_ok_and(|names| !names.trim().is_empty())
    })
}

/// What one kind of iptables holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Weight {
    /// Kubernetes says that it is this one.
    hinted: bool,
    /// Rules of others.
    others: usize,
    /// Rules of an earlier run of ours.
    ours: usize,
}

async fn weigh(programs: &Programs, there: bool) -> Result<Weight, Error> {
    let mut weight = Weight::default();
    for family in Family::ALL.into_iter().filter(|_| there) {
        weight.add(&run(programs.save(family), &[], "").await?.text);
    }
    Ok(weight)
}

impl Weight {
    fn add(&mut self, saved: &str) {
        for line in saved.lines() {
            self.hinted |= line.strip_prefix(':').is_some_and(|chain| HINTS.iter().any(|hint| chain.starts_with(hint)));
            let ours = line.contains(super::name::CHAIN_PREFIX) || line.contains(super::layout::COMMENT_PREFIX);
            match line.starts_with("-A ") {
                true if ours => self.ours += 1,
                true => self.others += 1,
                false => {}
            }
        }
    }
}

/// The hint of Kubernetes, then the number of others' rules, then our own, then the newer one.
fn most_used(nft: &Weight, legacy: &Weight) -> Variant {
    let key = |weight: &Weight| (weight.hinted, weight.others, weight.ours);
    if nft.hinted || key(nft) >= key(legacy) { Variant::Nft } else { Variant::Legacy }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn weight(saved: &str) -> Weight {
        let mut weight = Weight::default();
        weight.add(saved);
        weight
    }

    #[test]
    fn a_missing_program_is_named_with_the_way_out() {
        assert!(find("iptables-of-nobody-restore").is_none());
        let error = Error::ProgramMissing { program: "ipset".to_owned() }.to_string();
        assert!(error.starts_with("ipset is not installed") && error.contains("apt-get install iptables ipset"));
    }

    #[test]
    fn the_kind_that_is_in_use_is_chosen() {
        let empty = weight("*filter\n:INPUT ACCEPT [0:0]\nCOMMIT\n");
        let one = weight("*filter\n-A INPUT -i lo -j ACCEPT\nCOMMIT\n");
        let two = weight("*filter\n-A INPUT -i lo -j ACCEPT\n-A INPUT -j DROP\nCOMMIT\n");
        let ours = weight("*filter\n-A FORWARD -m comment --comment \"cali:0123456789abcdef\" -j cali-FORWARD\n");
        let kube = weight("*mangle\n:KUBE-KUBELET-CANARY - [0:0]\nCOMMIT\n");
        for (nft, legacy, expected) in [
            (empty, empty, Variant::Nft),
            (one, one, Variant::Nft),
            (one, two, Variant::Legacy),
            (two, one, Variant::Nft),
            (empty, ours, Variant::Legacy),
            (one, ours, Variant::Nft),
            (kube, two, Variant::Nft),
            (two, kube, Variant::Legacy),
            (kube, kube, Variant::Nft),
        ] {
            assert_eq!(most_used(&nft, &legacy), expected, "{nft:?} {legacy:?}");
        }
    }
}

//! The words that people use for kinds.

use calico_model::KindName;

use crate::failure::Failure;

/// The words for each kind beside its name and its plural. BlockAffinity is missing on purpose, as upstream: on etcd
/// nothing follows such a resource.
const KINDS: &[(KindName, &[&str])] = &[
    (KindName::BGPConfiguration, &["bgpconfig", "bgpconfigs"]),
    (KindName::BGPFilter, &["bgpf", "bgpfs", "bf", "bfs"]),
    (KindName::BGPPeer, &["bgpp", "bgpps", "bp", "bps"]),
    (KindName::CalicoNodeStatus, &["nodestatus", "nodestatuses"]),
    (KindName::ClusterInformation, &["clusterinfo", "clusterinfos"]),
    (KindName::FelixConfiguration, &["felixconfig", "felixconfigs"]),
    (KindName::GlobalNetworkPolicy, &["gnp", "gnps"]),
    (KindName::GlobalNetworkSet, &["gnetset", "gnetsets"]),
    (KindName::HostEndpoint, &["hep", "heps"]),
    (KindName::IPAMConfiguration, &["ipamconfig", "ipamconfigs"]),
    (KindName::IPPool, &["ipp", "ipps", "pool", "pools"]),
    (KindName::IPReservation, &["reservation", "reservations"]),
    (KindName::KubeControllersConfiguration, &["kubecontrollersconfig", "kubecontrollersconfigs"]),
    (KindName::NetworkPolicy, &["policy", "policies", "np", "nps", "pol", "pols"]),
    (KindName::NetworkSet, &["netset", "netsets"]),
    (KindName::Node, &["no", "nos"]),
    (KindName::Profile, &["pro", "pros"]),
    (KindName::StagedGlobalNetworkPolicy, &["sgnp", "sgnps"]),
    (
        KindName::StagedKubernetesNetworkPolicy,
        &["stagedkubernetespolicy", "stagedkubernetespolicies", "sknp", "sknps", "skpol", "skpols"],
    ),
    (KindName::StagedNetworkPolicy, &["stagedpolicy", "stagedpolicies", "snp", "snps", "spol", "spols"]),
    (KindName::Tier, &[]),
    (KindName::WorkloadEndpoint, &["wep", "weps"]),
];

/// The plurals of the kinds that are worked with by hand.
pub(crate) fn plurals() -> impl Iterator<Item = String> {
    KINDS.iter().map(|(kind, _)| kind.plural().to_string())
}

/// The kind that a word stands for, in any case.
///
/// # Errors
/// There is none, or none that is worked with by hand.
pub(crate) fn parse(word: &str) -> Result<KindName, Failure> {
    let wanted = word.to_ascii_lowercase();
    let is_it = |(kind, short): &&(KindName, &[&str])| {
        kind.as_str().eq_ignore_ascii_case(&wanted) || kind.plural() == wanted || short.contains(&wanted.as_str())
    };
    KINDS.iter().find(is_it).map(|(kind, _)| *kind).ok_or_else(|| {
        Failure::new(format!("Resource type {word:?} is not supported."))
            .hint("the kinds are listed by: calicoctl get --help")
    })
}

/// True if resources of this kind are worked with by hand.
pub(super) fn is_supported(kind: KindName) -> bool {
    KINDS.iter().any(|(known, _)| *known == kind)
}

/// True for the kinds that stand in a tier.
pub(super) fn is_policy(kind: KindName) -> bool {
    use KindName::{GlobalNetworkPolicy, NetworkPolicy, StagedGlobalNetworkPolicy, StagedNetworkPolicy};
    matches!(kind, NetworkPolicy | GlobalNetworkPolicy | StagedNetworkPolicy | StagedGlobalNetworkPolicy)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn every_word_stands_for_one_kind() {
        let mut words: Vec<String> = Vec::new();
        for (kind, short) in KINDS {
            let own = [kind.as_str().to_lowercase(), kind.plural().to_owned()];
            for word in own.into_iter().chain(short.iter().map(|word| (*word).to_owned())) {
                assert_eq!(parse(&word).unwrap(), *kind, "{word}");
                assert_eq!(parse(&word.to_uppercase()).unwrap(), *kind, "{word}");
                words.push(word);
            }
        }
        let count = words.len();
        words.sort_unstable();
        words.dedup();
        assert_eq!(words.len(), count, "a word stands for two kinds");
    }

    #[test]
    fn only_what_nothing_follows_is_missing() {
        let missing: Vec<_> = KindName::ALL.iter().filter(|kind| !is_supported(**kind)).collect();
        assert_eq!(missing, [&KindName::BlockAffinity]);
        assert!(parse("blockaffinity").unwrap_err().to_string().contains("not supported"));
    }
}

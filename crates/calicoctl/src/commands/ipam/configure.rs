//! `ipam configure`: the cluster's settings of address management.

use calico_ipam::{Config, ConfigError, ConfigureError, Ipam};

use crate::{
    args::IpamConfigure,
    failure::{Failure, sentence},
    output::Output,
};

const SEE: &str = "see: calicoctl ipam show --show-configuration";

/// What is to be changed.
#[derive(Debug, Default)]
struct Change {
    strict_affinity: Option<bool>,
    auto_allocate: Option<bool>,
    max_blocks: Option<i64>,
    persistence: Option<String>,
    cooldown: Option<i64>,
}

/// `ipam configure`
pub(super) async fn configure(ipam: &Ipam, args: &IpamConfigure) -> Result<Output, Failure> {
    let change = read(args)?;
    match ipam.modify_config(|config| change.apply(config)).await {
        Ok(_) => Ok(Output::lines(change.words())),
        Err(ConfigureError::Invalid(ConfigError::MaxNeedsStrict)) => {
            Err(Failure::new("MaxBlocksPerHost requires StrictAffinity to be enabled")
                .hint("add --strictaffinity=true, or --max-blocks-per-host=0 for no maximum of your own"))
        }
        Err(ConfigureError::Invalid(ConfigError::NeitherStrictNorAuto)) => {
            Err(Failure::new("Cannot disable 'StrictAffinity' and 'AutoAllocateBlocks' at the same time")
                .because("hosts could neither claim blocks nor be kept from other hosts' blocks")
                .hint("set one of them to true"))
        }
        Err(error) => Err(Failure::new(sentence(&error))),
    }
}

/// The values that were typed; an empty one counts as not typed.
fn read(args: &IpamConfigure) -> Result<Change, Failure> {
    let typed = |value: &Option<String>| value.clone().filter(|value| !value.is_empty());
    let truth = |value: &Option<String>, name: &str| {
        let invalid = || Failure::new(format!("invalid value. Use true or false to set {name}"));
        typed(value).map(|value| boolean(&value).ok_or_else(invalid)).transpose()
    };
    let number = |value: &Option<String>, name: &str| {
        let invalid = || Failure::new(format!("invalid value for {name}. Use a valid number"));
        typed(value).map(|value| value.parse::<i32>().map(i64::from).map_err(|_| invalid())).transpose()
    };
    let persistence = typed(&args.kubevirt_ip_persistence);
    let change = Change {
        strict_affinity: truth(&args.strict_affinity, "strictaffinity")?,
        auto_allocate: truth(&args.auto_allocate_blocks, "auto-allocate-blocks")?,
        max_blocks: number(&args.max_blocks_per_host, "maxblockhost")?,
        persistence: match persistence.as_deref() {
            None | Some("Enabled" | "Disabled") => persistence,
            Some(_) => {
                return Err(Failure::new("invalid value for --kubevirt-ip-persistence. Use Enabled or Disabled"));
            }
        },
        // Upstream takes a negative one as none said.
        cooldown: number(&args.ip_cooldown_seconds, "ip-cooldown-seconds")?.filter(|seconds| *seconds >= 0),
    };
    if change.words().is_empty() {
        return Err(Failure::new("at least one configuration option must be specified").hint(SEE));
    }
    Ok(change)
}

/// The words for true and false that upstream takes.
fn boolean(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

impl Change {
    fn apply(&self, config: &mut Config) {
        let set = |place: &mut bool, value: Option<bool>| *place = value.unwrap_or(*place);
        set(&mut config.strict_affinity, self.strict_affinity);
        set(&mut config.auto_allocate_blocks, self.auto_allocate);
        config.max_blocks_per_host = self.max_blocks.unwrap_or(config.max_blocks_per_host);
        config.cooldown_seconds = self.cooldown.unwrap_or(config.cooldown_seconds);
        config.vm_address_persistence = self.persistence.clone().or_else(|| config.vm_address_persistence.take());
    }

    fn words(&self) -> Vec<String> {
        let said = [
            ("StrictAffinity", self.strict_affinity.map(|value| value.to_string())),
            ("AutoAllocateBlocks", self.auto_allocate.map(|value| value.to_string())),
            ("MaxBlocksPerHost", self.max_blocks.map(|value| value.to_string())),
            ("KubeVirtVMAddressPersistence", self.persistence.clone()),
            ("IPCooldownSeconds", self.cooldown.map(|value| value.to_string())),
        ];
        let line = |(name, value): (&str, Option<String>)| Some(format!("Successfully set {name} to: {}", value?));
        said.into_iter().filter_map(line).collect()
    }
}

//! Who writes the rules: nftables or one kind of iptables, and the change from one to another.
//!
//! A change makes the new rules complete before the old ones go, so for a moment a packet has to pass both, and both
//! say the same. What another renderer left, also before a restart, is looked for once after the first complete
//! write and removed; that costs no program unless something is found, and its failure holds up nothing.

use std::sync::Arc;

use calico_policy::instruction::{IptablesBackend, Renderer, Settings};

use crate::{
    Options,
    error::Error,
    family::Family,
    foreign,
    iptables::{self, CHAIN_PREFIX, Iptables, Variant},
    netlink::{Nft, legacy_filter_mentions},
    op::{Op, OpKind, Plan},
    passing,
    table::{ReadBase, ReadTable},
};

/// What a commit did.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Committed {
    /// Transactions, or programs that were run.
    pub transactions: usize,
    /// Operations, or lines that they read.
    pub operations: usize,
    /// Per family: somebody had changed or removed rules that were there.
    pub interfered: [bool; 2],
}

/// Writes rules by the renderer in use.
pub(crate) struct Writer {
    /// nftables, also for single rules in other programs' tables.
    pub nft: Nft,
    options: Arc<Options>,
    /// `None`: nftables.
    iptables: Option<Box<Iptables>>,
    /// What the renderer in use was chosen for.
    chosen_for: Option<(Renderer, IptablesBackend)>,
    /// No other renderer's rules are there.
    alone: bool,
}

impl Writer {
    /// nftables, until something else is chosen.
    pub(crate) fn open(options: Arc<Options>) -> Result<Self, Error> {
        Ok(Self { nft: Nft::open()?, options, iptables: None, chosen_for: None, alone: false })
    }

    /// Whether iptables is in use.
    pub(crate) fn is_iptables(&self) -> bool {
        self.iptables.is_some()
    }

    /// Whether iptables-legacy is in use, whose policies then do not stand in the way.
    pub(crate) fn is_legacy(&self) -> bool {
        self.iptables.as_ref().is_some_and(|iptables| iptables.variant() == Variant::Legacy)
    }

    /// Takes the renderer that the settings, or before all of them the options, ask for. Returns whether it is another
    /// one than before, of which nothing is known yet.
    ///
    /// # Errors
    /// [`Error::ProgramMissing`] if iptables is asked for and not there; the renderer stays.
    pub(crate) async fn follow(&mut self, settings: &Settings) -> Result<bool, Error> {
        let asked = (
            self.options.renderer.unwrap_or(settings.renderer),
            self.options.iptables_backend.unwrap_or(settings.iptables_backend),
        );
        if let Some(iptables) = &mut self.iptables {
            iptables.set_return_allowed(settings.return_allowed);
        }
        if self.chosen_for == Some(asked) {
            return Ok(false);
        }
        let wanted = match asked.0 {
            Renderer::Nftables => None,
            Renderer::Auto if has_nftables(&self.nft).await => None,
            Renderer::Auto | Renderer::Iptables => Some(iptables::choose(asked.1).await?),
        };
        let changed = wanted != self.iptables.as_ref().map(|iptables| iptables.variant());
        if changed {
            self.iptables = match wanted {
                Some(variant) => {
                    let mut iptables = Iptables::open(variant, self.options.clone())?;
                    iptables.set_return_allowed(settings.return_allowed);
                    Some(Box::new(iptables))
                }
                None => None,
            };
            self.alone = false;
            let name = wanted.map_or("nftables", Variant::program);
            tracing::info!(renderer = name, "rules are written by this from now on");
        }
        self.chosen_for = Some(asked);
        Ok(changed)
    }

    /// Whether rules of ours are there, whoever wrote them: then packets are judged already, and a base without
    /// endpoints beside them would close what they let pass.
    pub(crate) async fn is_installed(&mut self, family: Family) -> Result<bool, Error> {
        if let Some(iptables) = &mut self.iptables
            && iptables.is_installed(family).await?
        {
            return Ok(true);
        }
        if has_nftables(&self.nft).await && self.nft.has_table(family).await? {
            return Ok(true);
        }
        for variant in Variant::ALL {
            if left_by_iptables(&self.nft, variant, family).await {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// What the planner is to believe of a family's table.
    pub(crate) async fn read_table(&self, family: Family) -> Result<Option<ReadTable>, Error> {
        match &self.iptables {
            Some(iptables) => Ok(iptables.read_table(family)),
            None => self.nft.read_table(family).await,
        }
    }

    /// Believes nothing of a family's rules any more. Those of nftables are the planner's to read again.
    pub(crate) fn distrust_rules(&mut self, family: Family) {
        if let Some(iptables) = &mut self.iptables {
            iptables.distrust_rules(family);
        }
    }

    /// Believes nothing of anything any more.
    pub(crate) fn distrust(&mut self) {
        Family::ALL.iter().for_each(|family| self.distrust_rules(*family));
        if let Some(iptables) = &mut self.iptables {
            iptables.distrust_sets();
        }
    }

    /// Carries out a plan, for some families only if they are told.
    pub(crate) async fn commit(&mut self, plan: &Plan, families: &[Family]) -> Result<Committed, Error> {
        let mut committed = Committed::default();
        if let Some(iptables) = &mut self.iptables {
            for op in plan.transactions().flatten().filter(|op| families.contains(&op.family)) {
                iptables.absorb(op)?;
            }
            let written = iptables.write(families).await?;
            return Ok(Committed {
                transactions: written.runs,
                operations: written.lines,
                interfered: written.interfered,
            });
        }
        for transaction in plan.transactions() {
            let ops: Vec<Op> = transaction.iter().filter(|op| families.contains(&op.family)).cloned().collect();
            if ops.is_empty() {
                continue;
            }
            if committed.transactions > 0 && std::ptr::eq(transaction, plan.cleanup.as_slice()) {
                tokio::time::sleep(passing::AT_LEAST).await;
            }
            self.nft.commit(&ops).await?;
            committed.transactions += 1;
            committed.operations += ops.len();
        }
        Ok(committed)
    }

    /// Processes that changed something on our behalf since the last call.
    pub(crate) fn take_processes(&mut self) -> Vec<u32> {
        self.iptables.as_mut().map(|iptables| iptables.take_processes()).unwrap_or_default()
    }

    /// Removes what other renderers left, once the one in use has written everything.
    pub(crate) async fn sweep(&mut self) {
        if std::mem::replace(&mut self.alone, true) {
            return;
        }
        let variant = self.iptables.as_ref().map(|iptables| iptables.variant());
        if variant.is_some()
            && has_nftables(&self.nft).await
            && let Err(error) = self.remove_nftables().await
        {
            tracing::warn!(%error, "what nftables held of ours is still there");
        }
        for other in Variant::ALL.into_iter().filter(|other| Some(*other) != variant) {
            if !self.is_left(other).await {
                continue;
            }
            tracing::info!(renderer = other.program(), "removing the rules that this one left");
            // Sets that are still needed are not another's.
            if let Err(error) = iptables::remove(other, self.options.clone(), variant.is_some()).await {
                tracing::warn!(%error, "what iptables held of ours is still there");
            }
        }
    }

    /// Removes everything of ours, whoever wrote it.
    ///
    /// # Errors
    /// The first thing that could not be removed.
    pub(crate) async fn remove_everything(&mut self) -> Result<(), Error> {
        for variant in Variant::ALL {
            if self.is_left(variant).await {
                iptables::remove(variant, self.options.clone(), false).await?;
            }
        }
        if has_nftables(&self.nft).await { self.remove_nftables().await } else { Ok(()) }
    }

    async fn remove_nftables(&self) -> Result<(), Error> {
        for family in Family::ALL {
            let there = self.nft.read_filter(family, foreign::TABLE, &foreign::CHAINS).await?;
            let ours = foreign::removals(family, &there);
            if !ours.is_empty() {
                self.nft.commit_foreign(&ours).await?;
            }
            let Some(table) = self.nft.read_table(family).await? else { continue };
            // First no packet gets there any more: one under way that looks up a map would find it empty, and what is
            // not in the map is dropped.
            let bases = table.chains.into_iter().filter(|(_, chain)| chain.base != ReadBase::Regular);
            let unhook = |name: String| [OpKind::FlushChain { name: name.clone() }, OpKind::DeleteChain { name }];
            let unhook: Vec<Op> = bases.flat_map(|(name, _)| unhook(name)).map(|kind| Op { family, kind }).collect();
            if !unhook.is_empty() {
                self.nft.commit(&unhook).await?;
            }
            self.nft.commit(&[Op { family, kind: OpKind::DeleteTable }]).await?;
        }
        Ok(())
    }

    async fn is_left(&self, variant: Variant) -> bool {
        left_by_iptables(&self.nft, variant, Family::V4).await || left_by_iptables(&self.nft, variant, Family::V6).await
    }
}

/// Whether chains of ours are in one kind of iptables. Starts no program.
pub(crate) async fn left_by_iptables(nft: &Nft, variant: Variant, family: Family) -> bool {
    match variant {
        Variant::Legacy => legacy_filter_mentions(family, CHAIN_PREFIX),
        Variant::Nft => match nft.read_filter(family, foreign::TABLE, &[]).await {
            Ok(there) => there.chains.keys().any(|chain| chain.starts_with(CHAIN_PREFIX)),
            Err(error) => {
                tracing::debug!(%error, "cannot look for rules of iptables");
                false
            }
        },
    }
}

/// Whether the kernel has nftables at all.
pub(crate) async fn has_nftables(nft: &Nft) -> bool {
    match nft.has_table(Family::V4).await {
        Ok(_) => true,
        Err(error) => {
            tracing::debug!(%error, "the kernel has no nftables");
            false
        }
    }
}

//! What must hold after each event, one file each, named as in the TLA+ specification of Zab where that has it.
//!
//! | number | where |
//! |---|---|
//! | Z1 to Z8, I1 to I12, I14 | the files here, asked after each fact |
//! | I13, sessions never go back | [`crate::check`], over the histories of the clients: only there it is known what they saw |
//! | I15, reconfiguration | not here: the membership does not change yet |
//! | I16, replay over a snapshot gives the live tree | I14, which is asked after each start; sessions and stats by [`crate::check::compare`] |

mod i10_leader_is_complete;
mod i11_only_committed_is_seen;
mod i12_nothing_committed_is_cut;
mod i14_digests_agree;
mod i1_epochs_cover_the_log;
mod i2_epochs_only_grow;
mod i3_promise_is_durable;
mod i4_new_leader_is_durable;
mod i5_acknowledged_is_durable;
mod i6_committed_by_a_quorum;
mod i7_applied_is_logged;
mod i8_up_to_date_after_a_quorum;
mod i9_service_after_agreement;
mod z1_leadership;
mod z2_prefix_consistency;
mod z3_integrity;
mod z4_agreement;
mod z5_total_order;
mod z6_local_primary_order;
mod z7_global_primary_order;
mod z8_primary_integrity;

use crate::book::{Book, Fact};

/// Something that must hold.
pub trait Invariant: Send {
    /// Its name.
    fn name(&self) -> &'static str;
    /// Judges a fact against what was true before it.
    fn check(&mut self, book: &Book, fact: &Fact<'_>) -> Result<(), String>;
}

/// All of them.
pub fn all() -> Vec<Box<dyn Invariant>> {
    vec![
        Box::<z1_leadership::Leadership>::default(),
        Box::<z2_prefix_consistency::PrefixConsistency>::default(),
        Box::<z3_integrity::Integrity>::default(),
        Box::<z4_agreement::Agreement>::default(),
        Box::<z5_total_order::TotalOrder>::default(),
        Box::<z6_local_primary_order::LocalPrimaryOrder>::default(),
        Box::<z7_global_primary_order::GlobalPrimaryOrder>::default(),
        Box::<z8_primary_integrity::PrimaryIntegrity>::default(),
        Box::<i1_epochs_cover_the_log::EpochsCoverTheLog>::default(),
        Box::<i2_epochs_only_grow::EpochsOnlyGrow>::default(),
        Box::<i3_promise_is_durable::PromiseIsDurable>::default(),
        Box::<i4_new_leader_is_durable::NewLeaderIsDurable>::default(),
        Box::<i5_acknowledged_is_durable::AcknowledgedIsDurable>::default(),
        Box::<i6_committed_by_a_quorum::CommittedByAQuorum>::default(),
        Box::<i7_applied_is_logged::AppliedIsLogged>::default(),
        Box::<i8_up_to_date_after_a_quorum::UpToDateAfterAQuorum>::default(),
        Box::<i9_service_after_agreement::ServiceAfterAgreement>::default(),
        Box::<i10_leader_is_complete::LeaderIsComplete>::default(),
        Box::<i11_only_committed_is_seen::OnlyCommittedIsSeen>::default(),
        Box::<i12_nothing_committed_is_cut::NothingCommittedIsCut>::default(),
        Box::<i14_digests_agree::DigestsAgree>::default(),
    ]
}

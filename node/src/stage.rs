//! The stages of a write, in their order: one enum for code, metrics, traces and documents.

/// A stage of the pipeline, with the name of Apache's processor beside it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Stage {
    /// Frame to request, on the connection's thread.
    Decode,
    /// The gate of the connection: session, order, throttles.
    Admit,
    /// Validation against tree and changes in flight (PrepRequestProcessor).
    Prepare,
    /// To the peers' queues and to the log (ProposalRequestProcessor).
    Propose,
    /// One batch of everything that waits (SyncRequestProcessor).
    Append,
    /// The batch is on stable storage: only now an own acknowledgement can exist (AckRequestProcessor).
    Persist,
    /// A quorum of acknowledgements, in zxid order (CommitProcessor).
    Commit,
    /// Tree, sessions, watches (FinalRequestProcessor).
    Apply,
    /// Events first, then the reply, in request order.
    Reply,
}

impl Stage {
    /// All stages in their order.
    pub const ALL: [Stage; 9] = [
        Stage::Decode,
        Stage::Admit,
        Stage::Prepare,
        Stage::Propose,
        Stage::Append,
        Stage::Persist,
        Stage::Commit,
        Stage::Apply,
        Stage::Reply,
    ];

    /// The name in metrics and traces.
    pub const fn name(self) -> &'static str {
        match self {
            Stage::Decode => "decode",
            Stage::Admit => "admit",
            Stage::Prepare => "prepare",
            Stage::Propose => "propose",
            Stage::Append => "append",
            Stage::Persist => "persist",
            Stage::Commit => "commit",
            Stage::Apply => "apply",
            Stage::Reply => "reply",
        }
    }
}

//! One commit on its way to etcd, until it is certain what became of it. Pure.
//!
//! An answer that is lost says nothing: the commit may be made, may never be, or may be made in a moment. So the same
//! transaction is sent again, which is made at most once, until etcd's answer to one of the tries decides. No other
//! question does, with one exception: once our term is over, no try can be made any more, and whether one was, anybody
//! can see.

use registry_nodes::Error;
use registry_nodes::kv::{Answer, Fault, Transaction};

use crate::server::registry::{Term, Tx};

use super::transaction::Planned;

/// What is to be sent next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// The part of that index.
    Part(usize),
    /// The commit itself.
    Commit,
    /// The question what became of it: etcd refuses the commit, but an earlier try may have been made.
    Question,
}

/// What an answer means for the commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Progress {
    /// Send what [`Commit::next`] says.
    Next,
    /// Send what [`Commit::next`] says after a pause, because of this.
    Again(Error),
    /// The changes are made, in the commit of that revision.
    Committed { revision: i64 },
    /// The changes are not made and never will be.
    Rejected(Rejection),
}

/// Why a commit was not made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Rejection {
    /// The term is over.
    TermOver,
    /// etcd refuses it.
    Refused(Error),
}

/// See the module.
#[derive(Debug)]
pub(super) struct Commit {
    planned: Planned,
    question: Transaction,
    term: Term,
    number: u64,
    stage: Stage,
    /// Whether a try had no answer.
    is_doubtful: bool,
}

impl Commit {
    /// `question` reads what tells what became of the commit, which is the term's `number`th.
    pub(super) fn new(planned: Planned, question: Transaction, term: Term, number: u64) -> Commit {
        let stage = if planned.parts.is_empty() { Stage::Commit } else { Stage::Part(0) };
        Commit { planned, question, term, number, stage, is_doubtful: false }
    }

    /// The changes that wait for it.
    pub(super) fn txs(&self) -> &[Tx] {
        &self.planned.txs
    }

    /// The term that it belongs to.
    pub(super) fn term(&self) -> Term {
        self.term
    }

    /// Which of its term's commits it is.
    pub(super) fn number(&self) -> u64 {
        self.number
    }

    /// The transaction to send.
    pub(super) fn next(&self) -> &Transaction {
        match self.stage {
            Stage::Part(part) => &self.planned.parts[part],
            Stage::Commit => &self.planned.commit,
            Stage::Question => &self.question,
        }
    }

    /// Takes the answer to what was sent last.
    pub(super) fn answered(&mut self, answer: Result<Answer, Fault>) -> Progress {
        match (self.stage, answer) {
            (Stage::Part(part), answer) => self.part_answered(part, answer),
            (Stage::Commit, Ok(answer)) if answer.succeeded => {
                Progress::Committed { revision: answer.revision }
            }
            (_, Ok(answer)) => self.looked(&answer),
            (_, Err(Fault::Away(error))) => {
                self.is_doubtful = true;
                self.stage = Stage::Commit;
                Progress::Again(error)
            }
            (_, Err(fault)) if self.is_doubtful => {
                self.stage = Stage::Question;
                Progress::Again(fault.error())
            }
            (_, Err(fault)) => Progress::Rejected(Rejection::Refused(fault.error())),
        }
    }

    /// Nobody sees parts before the commit, so whether one was written twice, or for nothing, does not matter.
    fn part_answered(&mut self, part: usize, answer: Result<Answer, Fault>) -> Progress {
        match answer {
            Ok(answer) if answer.succeeded => {
                let next = part + 1;
                self.stage = if next < self.planned.parts.len() { Stage::Part(next) } else { Stage::Commit };
                Progress::Next
            }
            Ok(_) => Progress::Rejected(Rejection::TermOver),
            Err(Fault::Away(error)) => Progress::Again(error),
            Err(fault) => Progress::Rejected(Rejection::Refused(fault.error())),
        }
    }

    /// Takes the leader's key and the count of the term's commits, as they were read at one revision.
    fn looked(&mut self, answer: &Answer) -> Progress {
        let [leader, count] = &answer.found[..] else {
            return Progress::Again(Error::Refused("a transaction without its answer".to_owned()));
        };
        let count = count.as_ref().map(|count| (unsigned(count.version), count.modified));
        if let Some((made, revision)) = count.filter(|(made, _)| *made >= self.number) {
            debug_assert!(made == self.number, "one commit at a time");
            return Progress::Committed { revision };
        }
        if leader.as_ref().is_none_or(|leader| unsigned(leader.created) != self.term.0) {
            return Progress::Rejected(Rejection::TermOver);
        }
        if self.stage == Stage::Question {
            // The term goes on, so a try that is on its way can still be made.
            self.stage = Stage::Commit;
            return Progress::Again(Error::Refused(
                "it is not known yet whether the commit was made".to_owned(),
            ));
        }
        // Somebody has deleted the count, so that no try of this can hold any more.
        Progress::Rejected(Rejection::TermOver)
    }
}

/// etcd's numbers are positive.
fn unsigned(number: i64) -> u64 {
    u64::try_from(number).unwrap_or(0)
}

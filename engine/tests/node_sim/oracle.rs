//! What a key may hold.
//!
//! A key is used by one client, which does up to three things with it at once. What may be there afterwards is found by
//! trying every order in which they may have taken effect. While a drive is lost that may have a blob of the key, the blob
//! may be hidden: then the key may be put again, and the hidden blob may come back once there is no other.

use std::collections::BTreeSet;

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct Value(pub(crate) u32);

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Op {
    Put(Value),
    Delete,
    Read,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Answer {
    Created,
    AlreadyThere,
    Deleted(bool),
    Saw(Option<Value>),
    /// It was refused and has had no effect.
    Refused,
    /// None, or one that does not tell what it did.
    Unknown,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Known {
    pub(crate) now: BTreeSet<Option<Value>>,
    /// Blobs that lost drives may have, and give back when there is no other.
    pub(crate) hidden: BTreeSet<Value>,
    /// Two drives were away one after the other: a later blob may come back when an earlier one was read already.
    pub(crate) is_outdated: bool,
    /// A drive was forgotten that may have had parts of it: it goes when somebody notices, and until then it is there for
    /// those who put.
    pub(crate) is_fragile: bool,
}

impl Known {
    pub(crate) fn nothing() -> Self {
        Self {
            now: [None].into(),
            hidden: BTreeSet::new(),
            is_outdated: false,
            is_fragile: false,
        }
    }

    /// What may be seen now.
    pub(crate) fn starts(&self, may_be_lost: bool) -> BTreeSet<Option<Value>> {
        let mut starts = self.now.clone();
        if may_be_lost {
            starts.insert(None);
        }
        if starts.contains(&None) || self.is_outdated {
            starts.extend(self.hidden.iter().copied().map(Some));
        }
        starts
    }

    /// Learns from what was done at once and how it was answered.
    pub(crate) fn learn(
        &mut self,
        done: &[(Op, Answer)],
        may_be_lost: bool,
        all_are_here: bool,
        is_cache: bool,
    ) -> Result<(), String> {
        let mut done = done.to_vec();
        if is_cache || self.is_fragile {
            // It may have made room for others, or lack a part, at any time.
            done.extend([(Op::Delete, Answer::Unknown); 2]);
        }
        let is_in_doubt = done
            .iter()
            .any(|(op, answer)| *op == Op::Delete && *answer == Answer::Unknown);
        if [Answer::Created, Answer::Deleted(true)]
            .iter()
            .all(|wanted| done.iter().any(|(_, answer)| answer == wanted))
        {
            // Where drives come or go, a delete looks again, and may take away what was put after it took the first.
            done.push((Op::Delete, Answer::Unknown));
        }
        if may_be_lost {
            // Its drive may have been lost in the middle: then it is hidden, and another one may be put; its own next
            // attempt may have found that one.
            let put = done.iter().filter_map(|(op, answer)| match (op, answer) {
                (Op::Put(_), Answer::Refused) => None,
                (Op::Put(value), _) => Some(*value),
                _ => None,
            });
            self.hidden.extend(put);
            done.push((Op::Delete, Answer::Unknown));
        }
        let done = &done[..];
        let starts = self.starts(may_be_lost);
        let mut ends = BTreeSet::new();
        // A drive that takes no changes any more may still be read.
        let is_of_lost = |(_, answer): &&(Op, Answer)| match answer {
            Answer::Saw(Some(value)) => {
                may_be_lost && (self.hidden.contains(value) || self.now.contains(&Some(*value)))
            }
            _ => false,
        };
        let others: Vec<_> = done
            .iter()
            .filter(|done| !is_of_lost(done))
            .copied()
            .collect();
        let all_done = [done, &others];
        for (start, done) in starts
            .iter()
            .flat_map(|start| all_done.map(|done| (start, done)))
        {
            follow(*start, done, &mut ends);
        }
        if ends.is_empty() {
            return Err(format!(
                "no order of {done:?} explains the answers, from {starts:?}"
            ));
        }
        if is_in_doubt {
            // Others do not see it any more before it is durable.
            ends.extend(starts.iter().copied());
        }
        let is_deleted = done
            .iter()
            .any(|(_, answer)| matches!(answer, Answer::Deleted(_)));
        if may_be_lost {
            self.hidden.extend(self.now.iter().flatten());
            self.hidden.extend(ends.iter().flatten());
        } else if is_deleted && !is_in_doubt && all_are_here {
            self.hidden.clear();
        }
        self.now = ends;
        self.is_outdated &= may_be_lost;
        Ok(())
    }
}

fn follow(there: Option<Value>, left: &[(Op, Answer)], ends: &mut BTreeSet<Option<Value>>) {
    if left.is_empty() {
        ends.insert(there);
        return;
    }
    for at in 0..left.len() {
        let (op, answer) = left[at];
        let mut rest = left.to_vec();
        rest.remove(at);
        if matches!(answer, Answer::Refused | Answer::Unknown) {
            follow(there, &rest, ends);
        }
        if answer == Answer::Refused {
            continue;
        }
        let (then, did) = match (op, there) {
            (Op::Put(value), None) => (Some(value), Answer::Created),
            (Op::Put(_), there) => (there, Answer::AlreadyThere),
            (Op::Delete, there) => (None, Answer::Deleted(there.is_some())),
            (Op::Read, there) => (there, Answer::Saw(there)),
        };
        if answer == Answer::Unknown || answer == did {
            follow(then, &rest, ends);
        }
    }
}

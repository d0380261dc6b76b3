//! Step-KTO (arXiv:2501.10799): learning from single completions of which only is known whether they are right, as a whole
//! and step by step; with a step weight of 0 it is KTO (arXiv:2402.01306).
//!
//! What the loss looks at are sums of log-probabilities over the parts of a completion, its steps and the rest, less the
//! same sums under the reference policy, which never changes and is therefore computed once ([`score`]).

mod loss;
mod mismatch;
mod sequence;
mod update;

pub use loss::{Feedback, LossSettings, LossSums, LossType, ReferencePoints, loss};
pub use mismatch::mismatched;
pub use sequence::{Sequence, score};
pub use update::{Item, Mismatched, Objective, Update, update};

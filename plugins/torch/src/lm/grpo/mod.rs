//! Group relative policy optimization (DeepSeekMath, arXiv:2402.03300): advantages, the clipped loss and its variants,
//! and optimizer steps on groups of judged completions, each prompt computed once.

mod batch;
mod loss;
mod update;

pub use batch::GroupBatch;
pub use loss::{
    BatchSize, ImportanceSamplingLevel, LossSettings, LossSums, LossType, Rollouts, ScaleRewards, advantages, loss,
    standard_deviation,
};
pub use update::{Completion, Group, Objective, Reference, Update, largest_joint, score_old, update};

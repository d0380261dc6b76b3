//! Events and records turned into text. Pure: nothing here reads, writes, or asks what time it is.

mod change;
pub mod graph;
mod lines;
mod plan;
mod record;
mod summary;
mod text;

pub use change::{Extent, PlanChange, Planned, describe_plan_change, describe_reuse};
pub use lines::Lines;
pub use plan::{describe_cause, describe_change, describe_parts, describe_plan, describe_plan_counts};
pub use record::{artifact_line, describe_record};
pub use summary::{describe_counts, describe_run};
pub use text::{Paint, bytes, duration, table};

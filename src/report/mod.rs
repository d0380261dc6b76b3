//! Events and records turned into text. Pure: nothing here reads, writes, or asks what time it is.

mod change;
mod compare;
mod diff;
mod fsck;
mod gc;
pub mod graph;
mod lineage;
mod lines;
mod plan;
mod record;
mod summary;
mod text;

pub use change::{Extent, PlanChange, Planned, describe_plan_change, describe_reuse};
pub use compare::{OTHER_COLUMNS, describe_table, number, table_as_csv, table_as_json};
pub use diff::describe_difference;
pub use fsck::describe_fsck;
pub use gc::{describe_collected, describe_kept_size, describe_pins};
pub use lineage::{Lineage, describe_lineage, lineage_as_json, lineage_as_mermaid};
pub use lines::{Lines, pushing};
pub use plan::{describe_cause, describe_change, describe_parts, describe_plan, describe_plan_counts};
pub use record::{artifact_line, describe_record};
pub use summary::{describe_counts, describe_run};
pub use text::{Paint, bytes, duration, table};

//! What results there are and how they relate: the pure middle of `compare`, `diff` and `lineage`.
//!
//! It joins the nodes of a pipeline, or of an earlier run, with their records, and returns plain tables and trees. It
//! runs nothing, prints nothing and knows no kind. [`Listing`] is the one form in which nodes of either origin are
//! looked at.

mod census;
mod changed;
mod difference;
mod lineage;
mod listing;
mod points;
mod query;
mod reads;
mod runs;
mod spread;
mod table;
mod wanted;

pub use census::{Census, Entry, EntryRead, User, UserLink};
pub use changed::{Changed, Difference, Known, MetricChange, Outside, Renamed};
pub use difference::difference;
pub use lineage::{OutsideFile, Source, Step, upstream};
pub use listing::{Listed, Listing};
pub use points::{Datum, Outputs, Point, PointState, names_at, points, value_at};
pub use query::{CompareError, Direction, Over, Query, counted};
pub use runs::{events, last_words, runs_of};
pub use spread::Spread;
pub use table::{Best, Cell, Row, Table, compare};
pub use wanted::{Operator, Sort, Wanted};

//! Reports: values in, SVG, HTML, text, CSV and DOT out.
//!
//! Pure: nothing here reads a file, a clock or a random source that it was not given, and nothing knows what a stage
//! or a request is. `kinds/report_compare.rs` and `kinds/report_graph.rs` read the inputs and write what these
//! functions return. Imports `formats`, `scoring` and itself only.
//!
//! | file | owns |
//! | --- | --- |
//! | `names` | what a row is called, from its label and axes |
//! | `stats`, `mcnemar` | equal-token pass@k, bootstrap over seeds and problems, paired differences and their test |
//! | `pool` | arms that differ in the seed alone -> one row |
//! | `compare`, `notes` | scores of several models -> one comparison, and what can be said about it |
//! | `study` | a comparison for each benchmark |
//! | `compare_tables`, `compare_csv` | a comparison as tables |
//! | `table` | a table as aligned text, CSV and HTML |
//! | `markup` | escaping, text measure and wrapping, the style sheet that pages and drawings share |
//! | `chart` | line charts and interval charts as SVG |
//! | `page` | the comparison as one HTML page |
//! | `solution`, `solution_target` | the graph of steps and returns behind a solution's text; where a return goes |
//! | `select` | which tree and which sample are worth drawing |
//! | `layout`, `solution_layout` | where the nodes of a tree and the steps of a solution go |
//! | `draw_tree`, `draw_solution` | a search tree and a solution as SVG |
//! | `dot` | the same two graphs for Graphviz |

pub mod chart;
pub mod compare;
pub mod compare_csv;
pub mod compare_tables;
pub mod dot;
pub mod draw_solution;
pub mod draw_tree;
pub mod layout;
pub mod markup;
pub mod mcnemar;
pub mod names;
pub mod notes;
pub mod page;
pub mod pool;
pub mod select;
pub mod solution;
pub mod solution_layout;
pub mod solution_target;
pub mod stats;
pub mod study;
pub mod table;

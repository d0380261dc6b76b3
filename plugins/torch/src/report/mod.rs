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
//! | `chart`, `scatter` | line charts, interval charts and scatter plots as SVG |
//! | `page` | the comparison as one HTML page |
//! | `correlate` | Pearson's and Spearman's correlation with intervals, and the partial one |
//! | `analysis`, `analysis_samples` | scores and samples of checkpoints -> how backtracks, length and accuracy go together |
//! | `analysis_tables`, `analysis_page`, `analysis_notes` | an analysis as tables, as one HTML page, and in words |
//! | `solution`, `solution_target` | the graph of steps and returns behind a solution's text; where a return goes |
//! | `select` | which tree and which sample are worth drawing |
//! | `layout`, `solution_layout` | where the nodes of a tree and the steps of a solution go |
//! | `prune` | the part of a search tree that a drawing has room for |
//! | `draw_tree`, `draw_solution` | a search tree and a solution as SVG |
//! | `draw_outline` | a whole search tree as SVG, a line of text for each node |
//! | `graph_data`, `graph_page`, `assets/` | trees, traces and solutions on one page that is panned, zoomed, folded and searched |
//! | `dot` | the same two graphs for Graphviz |

pub mod analysis;
pub mod analysis_notes;
pub mod analysis_page;
pub mod analysis_samples;
pub mod analysis_tables;
pub mod chart;
pub mod compare;
pub mod compare_csv;
pub mod compare_tables;
pub mod correlate;
pub mod dot;
pub mod draw_outline;
pub mod draw_solution;
pub mod draw_tree;
pub mod graph_data;
pub mod graph_page;
pub mod layout;
pub mod markup;
pub mod mcnemar;
pub mod names;
pub mod notes;
pub mod page;
pub mod pool;
pub mod prune;
pub mod scatter;
pub mod select;
pub mod solution;
pub mod solution_layout;
pub mod solution_target;
pub mod stats;
pub mod study;
pub mod table;

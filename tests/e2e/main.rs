//! Black-box tests: the real program in temporary folders. One binary, a module per area.

mod mistakes;
mod plan;

//! Tests of the index against a map, against damage and against malice.

mod damage;
mod memory;
mod model;
mod scale;

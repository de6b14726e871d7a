//! The program's own log: lines on stderr by tracing.
//!
//! Dependencies are capped at warn whatever is configured: at debug and trace some print the bodies they carry.

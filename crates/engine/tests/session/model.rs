//! Any sequence of operations: what must hold whatever clients and drivers do.

//! The worker-local hub: which sessions get a publication, and in which encoding.

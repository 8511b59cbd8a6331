//! The broker of a single node: hands publications to this process' workers.

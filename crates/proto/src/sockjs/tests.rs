//! Transcripts of the protocol's test suite, and what holds for any text.

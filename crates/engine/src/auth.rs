//! Identity: claims checked and turned into a principal.

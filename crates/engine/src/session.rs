//! The session state machine: transport messages in, effects out.

//! Every bound that concerns a session, with its unit and default.

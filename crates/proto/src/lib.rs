//! Fanlight's wire formats: bytes ⇄ frames, without I/O and without a clock.
//!
//! | module | what |
//! |---|---|
//! | [`ws`] | WebSocket frames, messages and permessage-deflate (RFC 6455, RFC 7692) |
//! | [`stomp`] | STOMP 1.0, 1.1 and 1.2 frames |
//! | [`native`] | the native protocol `fanlight.v1.json` |
//! | [`destination`], [`pattern`] | where messages go, and patterns over that |
//! | [`close`] | why a session ends, in every protocol's terms |

pub mod close;
pub mod destination;
pub mod native;
pub mod pattern;
pub mod position;
pub mod stomp;
pub mod ws;

pub use close::{CloseReason, ReconnectAdvice};
pub use destination::{Destination, DestinationError};
pub use pattern::{DestinationPattern, PatternError};
pub use position::Position;

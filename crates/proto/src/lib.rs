//! Fanlight's wire formats: bytes ⇄ frames, without I/O and without a clock.
//!
//! | module | what |
//! |---|---|
//! | [`ws`] | WebSocket frames, messages and permessage-deflate (RFC 6455, RFC 7692) |
//! | [`stomp`] | STOMP 1.0, 1.1 and 1.2 frames |
//! | [`native`] | the native protocol `fanlight.v1.json` |
//! | [`sockjs`] | SockJS 0.3.4: frames and bodies of all its transports |
//! | [`sse`] | server-sent events |
//! | [`cursor`] | where a reader of many destinations stands |
//! | [`destination`], [`pattern`] | where messages go, and patterns over that |
//! | [`close`] | why a session ends, in every protocol's terms |

pub mod close;
pub mod cursor;
pub mod destination;
pub mod native;
pub mod pattern;
pub mod position;
mod scan;
pub mod sockjs;
pub mod sse;
pub mod stomp;
pub mod ws;

pub use close::{CloseReason, ReconnectAdvice};
pub use cursor::{Cursor, CursorError};
pub use destination::{Destination, DestinationError};
pub use pattern::{DestinationPattern, PatternError};
pub use position::Position;

//! The native protocol `fanlight.v1.json`: one JSON object per text message, or an array of them.

//! Error replies by which a server says that a command belongs elsewhere, or must wait.

use crate::config::Endpoint;

/// Why a command was not executed, though nothing is wrong with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Redirect {
    /// The slot has another master: there, or where the server can't say.
    Moved(Option<Endpoint>),
    /// The slot is just moving, and this one command is to be tried there.
    Ask(Option<Endpoint>),
    /// The server is no master any more.
    ReadOnly,
    /// The slot is just moving, and the keys of the command are not all on one side.
    TryAgain,
    /// The slot has no master.
    Down,
}

impl Redirect {
    /// From an error reply, if it is one of these. Redis says them before it executes anything.
    pub(crate) fn of(answer: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(answer).ok()?;
        let mut words = text.split(' ');
        match words.next()? {
            "MOVED" => Some(Self::Moved(words.nth(1).and_then(endpoint))),
            "ASK" => Some(Self::Ask(words.nth(1).and_then(endpoint))),
            "READONLY" => Some(Self::ReadOnly),
            "TRYAGAIN" => Some(Self::TryAgain),
            "CLUSTERDOWN" | "MASTERDOWN" => Some(Self::Down),
            _ => None,
        }
    }
}

/// `host:port`, where an IPv6 address has no brackets; the host may be missing.
fn endpoint(text: &str) -> Option<Endpoint> {
    let (host, port) = text.trim_end().rsplit_once(':')?;
    let port = port.parse().ok()?;
    (!host.is_empty() && host != "?").then(|| Endpoint { host: host.to_owned(), port })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redirections_are_told_from_other_errors() {
        let at = |host: &str, port| Some(Endpoint { host: host.to_owned(), port });
        for (answer, redirect) in [
            ("MOVED 3999 127.0.0.1:6381", Some(Redirect::Moved(at("127.0.0.1", 6381)))),
            ("MOVED 3999 ::1:6381", Some(Redirect::Moved(at("::1", 6381)))),
            ("MOVED 3999 :6381", Some(Redirect::Moved(None))),
            ("MOVED", Some(Redirect::Moved(None))),
            ("ASK 3999 h:1", Some(Redirect::Ask(at("h", 1)))),
            ("READONLY You can't write", Some(Redirect::ReadOnly)),
            ("CLUSTERDOWN The cluster is down", Some(Redirect::Down)),
            ("TRYAGAIN Multiple keys", Some(Redirect::TryAgain)),
            ("ERR MOVED", None),
            ("NOPERM no", None),
        ] {
            assert_eq!(Redirect::of(answer.as_bytes()), redirect, "{answer}");
        }
    }
}

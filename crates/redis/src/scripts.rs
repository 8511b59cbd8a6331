//! The scripts that run in Redis: their sources in `lua/`, called by their hash.

use std::fmt::Write;
use std::sync::LazyLock;

use sha1::{Digest, Sha1};

use crate::command;

/// A script. All keys that it touches are given to it, and share a partition.
#[derive(Debug)]
pub(crate) struct Script {
    pub(crate) source: &'static str,
    /// SHA-1 of the source in hexadecimal, by which Redis knows it.
    sha: LazyLock<String>,
}

impl Script {
    /// The call of this script.
    pub(crate) fn call(&self, keys: &[&[u8]], arguments: &[&[u8]]) -> Vec<u8> {
        let mut out = Vec::new();
        self.begin(keys, arguments.len(), &mut out);
        for argument in arguments {
            command::word(argument, &mut out);
        }
        out
    }

    /// Begins the call of this script: `arguments` words are to follow.
    pub(crate) fn begin(&self, keys: &[&[u8]], arguments: usize, out: &mut Vec<u8>) {
        let count = keys.len().to_string();
        command::begin(3 + keys.len() + arguments, out);
        for word in [&b"EVALSHA"[..], self.sha.as_bytes(), count.as_bytes()].iter().chain(keys) {
            command::word(word, out);
        }
    }
}

fn hex_sha1(source: &str) -> String {
    Sha1::digest(source).iter().fold(String::with_capacity(40), |mut hex, byte| {
        let _ = write!(hex, "{byte:02x}");
        hex
    })
}

/// Declares the scripts, each made of one or more files, and the list that each new connection
/// loads. Scripts can't call each other, so what several share is put before each of them.
macro_rules! scripts {
    ($($name:ident = $($file:literal)+;)*) => {
        $(
            pub(crate) static $name: Script = Script {
                source: concat!($(include_str!(concat!("../lua/", $file))),+),
                sha: LazyLock::new(|| hex_sha1($name.source)),
            };
        )*
        /// All of them; loaded on every new command connection, because a failover or a restart
        /// may have lost them.
        pub(crate) static ALL: &[&Script] = &[$(&$name),*];
    };
}

scripts! {
    PUBLISH = "meta.lua" "publish.lua";
    HISTORY = "meta.lua" "history.lua";
    HISTORY_REMOVE = "meta.lua" "history_remove.lua";
    REVOKE = "revoke.lua";
    REVOKED_SINCE = "revoked_since.lua";
    AGREEMENT = "agreement.lua";
    EVENTS_BEGIN = "events_begin.lua";
    EVENTS_HOLD = "events_hold.lua";
    EVENTS_GIVE_UP = "events_give_up.lua";
    LEASE = "node_changes.lua" "lease.lua";
    LEASE_END = "node_changes.lua" "lease_end.lua";
    PEER_CLAIM = "peer_claim.lua";
    PEER_KNOWN = "peer_known.lua";
    PEER_RELEASE = "peer_release.lua";
    PEER_RENEW = "peer_renew.lua";
    PRESENCE_SET = "presence_set.lua";
    PRESENCE_SHUT_OUT = "presence_shut_out.lua";
    PRESENCE_TELL = "presence_tell.lua";
    REAP_CLAIM = "node_changes.lua" "reap_claim.lua";
    REAP_FORGET = "node_changes.lua" "reap_forget.lua";
    RELAY_LEASE = "relay_lease.lua";
    RELAY_LEASE_END = "relay_lease_end.lua";
    RELAY_PUBLISH = "meta.lua" "relay_publish.lua";
    RELAY_READ = "relay_read.lua";
    RELAY_TOPS = "relay_tops.lua";
    REGISTRY = "registry.lua";
    REGISTRY_REAP = "registry_reap.lua";
    REGISTRY_SHUT_OUT = "registry_shut_out.lua";
    REGISTRY_REAP_DESTINATIONS = "registry_reap_destinations.lua";
    QUEUE_PUBLISH = "queue_publish.lua";
    QUEUE_FETCH = "queue_fetch.lua";
    QUEUE_ACK = "queue_ack.lua";
    QUEUE_RELEASE = "queue_release.lua";
    QUEUE_DEAD = "queue_dead.lua";
    QUEUE_TAKE_DEAD = "queue_take_dead.lua";
    QUEUE_REAP = "queue_reap.lua";
}

//! The scripts that run in Redis: their sources in `lua/`, called by their hash.

use std::fmt::Write;
use std::sync::LazyLock;

use sha1::{Digest, Sha1};

use crate::command;

/// A script. All keys that it touches are given to it, and share a partition.
#[derive(Debug)]
pub(crate) struct Script {
    /// How errors and metrics call it.
    pub(crate) name: &'static str,
    pub(crate) source: &'static str,
    /// SHA-1 of the source in hexadecimal, by which Redis knows it.
    sha: LazyLock<String>,
}

impl Script {
    /// The call of this script.
    pub(crate) fn call(&self, keys: &[&[u8]], arguments: &[&[u8]]) -> Vec<u8> {
        let count = keys.len().to_string();
        let mut words: Vec<&[u8]> = Vec::with_capacity(3 + keys.len() + arguments.len());
        words.extend([&b"EVALSHA"[..], self.sha.as_bytes(), count.as_bytes()]);
        words.extend(keys);
        words.extend(arguments);
        let mut out = Vec::new();
        command::words(&words, &mut out);
        out
    }
}

fn hex_sha1(source: &str) -> String {
    Sha1::digest(source).iter().fold(String::with_capacity(40), |mut hex, byte| {
        let _ = write!(hex, "{byte:02x}");
        hex
    })
}

/// Declares the scripts, and the list that each new connection loads.
macro_rules! scripts {
    ($($name:ident = $file:literal;)*) => {
        $(
            pub(crate) static $name: Script = Script {
                name: $file,
                source: include_str!(concat!("../lua/", $file, ".lua")),
                sha: LazyLock::new(|| hex_sha1($name.source)),
            };
        )*
        /// All of them; loaded on every new command connection, because a failover or a restart
        /// may have lost them.
        pub(crate) static ALL: &[&Script] = &[$(&$name),*];
    };
}

scripts! {
    QUEUE_PUBLISH = "queue_publish";
    QUEUE_FETCH = "queue_fetch";
    QUEUE_ACK = "queue_ack";
    QUEUE_RELEASE = "queue_release";
}

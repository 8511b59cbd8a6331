//! A server that says what a test wants it to, where a real Redis would need luck.

use std::time::Duration;

use fanlight_engine::broker::{Joined, PublishError, Reach};
use fanlight_redis::RedisConfig;
use futures_util::FutureExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::nodes::{RedisNode, config, reach};

#[tokio::test]
async fn a_confirmation_counts_for_its_own_connection_only() {
    let server = Scripted::start().await;
    let ann = RedisNode::start(server.config(), 2);
    let joining = ann.node.subscribe(0, "/topic/a");
    let mut first = server.connection("sub").await;
    read_until(&mut first, "fl:{111}:c:/topic/a").await;
    // Confirmed, but at once the connection is of no more use.
    let answers = format!("{}-NOPERM no\r\n", confirmed("fl:{111}:c:/topic/a"));
    first.write_all(answers.as_bytes()).await.unwrap();
    assert_eq!(joining.await, Joined::Live);
    let mut second = server.connection("sub").await;
    read_until(&mut second, "fl:{111}:c:/topic/a").await;
    let joining = ann.node.subscribe(1, "/topic/a");
    second.write_all(confirmed("fl:{117}:c:/topic/other").as_bytes()).await.unwrap();
    assert_eq!(joining.await, Joined::Degraded, "nothing was confirmed on this connection");
    second.write_all(confirmed("fl:{111}:c:/topic/a").as_bytes()).await.unwrap();
    assert_eq!(ann.node.subscribe(1, "/topic/a").await, Joined::Live);
}

#[tokio::test]
async fn what_was_still_queued_when_the_connection_broke_was_not_published() {
    let server = Scripted::start().await;
    let ann = RedisNode::start(server.config(), 1);
    let mut publisher = server.connection("pub").await;
    let written = loop {
        let mut publishing = ann.node.publish("/topic/a", "written");
        match (&mut publishing).now_or_never() {
            None => break publishing,
            Some(refused) => assert_eq!(reach(refused), Ok(Reach::ThisNode)),
        }
        tokio::task::yield_now().await;
    };
    // Three batches of 128 may be unanswered, so the last of these can't be among them.
    let queued: Vec<_> = (0..3 * 128).map(|_| ann.node.publish("/topic/a", "queued")).collect();
    read_until(&mut publisher, "written").await;
    drop(publisher);
    assert_eq!(written.await, Err(PublishError::Unknown));
    let last = queued.into_iter().next_back().unwrap();
    let last = tokio::time::timeout(Duration::from_secs(10), last).await;
    assert_eq!(reach(last.expect("it was left in the queue")), Ok(Reach::ThisNode));
}

struct Scripted(TcpListener);

impl Scripted {
    async fn start() -> Self {
        Self(TcpListener::bind("127.0.0.1:0").await.unwrap())
    }

    /// Nothing happens by itself, except that joins give up.
    fn config(&self) -> RedisConfig {
        let hour = Duration::from_secs(3600);
        RedisConfig {
            join_timeout: Duration::from_secs(1),
            canary_interval: hour,
            keepalive: hour,
            ..config(&format!("redis://{}", self.0.local_addr().unwrap()))
        }
    }

    /// The next connection with this job, logged in. Others are turned away.
    async fn connection(&self, job: &str) -> TcpStream {
        loop {
            let (mut stream, _) = self.0.accept().await.unwrap();
            let hello = read_until(&mut stream, "fanlight-").await;
            if hello.contains(&format!("fanlight-{job}-")) {
                stream.write_all(b"%1\r\n$4\r\nrole\r\n$6\r\nmaster\r\n").await.unwrap();
                if job == "pub" {
                    prepare(&mut stream).await;
                }
                return stream;
            }
        }
    }
}

/// Answers what every command connection begins with.
async fn prepare(stream: &mut TcpStream) {
    let info = "role:master\r\nmaster_replid:aa\r\n";
    read_until(stream, "replication\r\n").await;
    stream.write_all(format!("${}\r\n{info}\r\n", info.len()).as_bytes()).await.unwrap();
    let files = std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/lua")).unwrap();
    let names = files.map(|file| file.unwrap().file_name());
    for _ in names.filter(|name| NOT_LOADED.iter().all(|other| name != *other)) {
        // Each comes once the one before is answered.
        read_until(stream, "$4\r\nLOAD\r\n").await;
        stream.write_all(b"$2\r\nok\r\n").await.unwrap();
    }
}

/// Parts of other scripts, and what only the doctor runs.
const NOT_LOADED: [&str; 3] = ["meta.lua", "node_changes.lua", "doctor.lua"];

fn confirmed(channel: &str) -> String {
    format!(">3\r\n$9\r\nsubscribe\r\n${}\r\n{channel}\r\n:1\r\n", channel.len())
}

/// What comes up to `end`, and perhaps more.
async fn read_until(stream: &mut TcpStream, end: &str) -> String {
    let mut read = Vec::new();
    loop {
        let text = String::from_utf8_lossy(&read).into_owned();
        if text.contains(end) {
            return text;
        }
        assert_ne!(stream.read_buf(&mut read).await.unwrap(), 0, "closed before {end:?}");
    }
}

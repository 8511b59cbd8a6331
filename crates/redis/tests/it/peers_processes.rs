//! Peers of a process that is killed, or stopped and continued, by signals.

use std::process::{Child, Command, Stdio};

use fanlight_engine::peers::{Claim, Holder, PeerError};
use fanlight_redis::RedisConfig;
use fanlight_testkit::contract::peers::name;
use fanlight_testkit::{RedisServer, eventually};

use crate::lease::{LEASE, leased};
use crate::peers::{Node, hear_each_other};

/// This test binary again, as the node that [`a_node_as_a_process`] is.
struct Process(Child);

impl Process {
    fn start(url: &str) -> Self {
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "peers_processes::a_node_as_a_process", "--ignored"])
            .env(URL, url)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        Self(child)
    }

    fn signal(&self, signal: &str) {
        let pid = self.0.id().to_string();
        assert!(Command::new("kill").args([signal, &pid]).status().unwrap().success());
    }

    /// Returns once none of its threads runs any more: on a loaded machine, that takes a while.
    async fn stop(&self) {
        self.signal("-STOP");
        let threads = format!("/proc/{}/task", self.0.id());
        let is_stopped = |stat: String| stat.rsplit(')').next().unwrap().trim().starts_with('T');
        eventually("it is stopped", || {
            let mut threads = std::fs::read_dir(&threads).unwrap();
            threads.all(|thread| {
                is_stopped(std::fs::read_to_string(thread.unwrap().path().join("stat")).unwrap())
            })
        })
        .await;
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A node of this process, and what it finds under the name that the other one has claimed.
async fn with_process(config: RedisConfig, url: &str) -> (Node, Process, Holder) {
    let process = Process::start(url);
    let node = Node::start(config);
    hear_each_other(&[&node]).await;
    node.asks_at_last("a", "x").await;
    let holder = node.finds_anyone("a").await;
    let listed = || node.lease.nodes().iter().any(|seen| seen.owner == holder.owner);
    eventually("it is listed", listed).await;
    (node, process, holder)
}

#[tokio::test]
#[ignore = "not a test by itself: the process that others kill and stop"]
async fn a_node_as_a_process() {
    let Ok(url) = std::env::var(URL) else { return };
    let node = Node::start(leased(&url));
    node.claims_at_last("a").await;
    eventually("it is told that it has lost", || !node.contract.answers.lost().is_empty()).await;
    let asked = node.contract.answers.asked();
    let verdict = if asked.iter().any(|(_, request)| request == "late") { "bad" } else { "good" };
    node.claims_at_last(verdict).await;
    // Who has started it ends it before.
    tokio::time::sleep(LEASE * 120).await;
}

#[tokio::test]
async fn a_process_that_is_killed_is_gone_at_once_and_its_name_is_free_after_its_lease() {
    let server = RedisServer::start().unwrap();
    let (node, process, holder) = with_process(leased(&server.url()), &server.url()).await;
    process.signal("-KILL");
    let told = || node.contract.peers.ask(&holder, "x".into(), LEASE / 2);
    while told().await != Err(PeerError::Gone) {}
    assert!(matches!(node.claims_at_last("a").await.0, Claim::TakenOver(_)));
}

#[tokio::test]
async fn a_process_that_was_stopped_past_its_lease_ends_the_session_that_another_has_claimed() {
    let server = RedisServer::start().unwrap();
    let (node, process, holder) = with_process(leased(&server.url()), &server.url()).await;
    process.stop().await;
    let in_flight = node.contract.peers.ask(&holder, "late".into(), LEASE * 4);
    let (claim, handle) = node.claims_at_last("a").await;
    assert!(matches!(claim, Claim::TakenOver(_)), "{claim:?}");
    process.signal("-CONT");
    assert!(in_flight.await.is_err());
    let verdict = async {
        while !matches!(node.contract.peers.holder(name("good")).await, Ok(Some(_))) {
            assert!(!matches!(node.contract.peers.holder(name("bad")).await, Ok(Some(_))));
            tokio::time::sleep(LEASE / 20).await;
        }
    };
    tokio::time::timeout(LEASE * 20, verdict).await.expect("it was told that it has lost");
    assert_eq!(node.finds_at_last("a", handle).await.owner, node.lease.owner());
    assert!(node.contract.answers.lost().is_empty());
}

const URL: &str = "FANLIGHT_TEST_PEERS_URL";

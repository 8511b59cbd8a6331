//! A real Spring Boot application that has Fanlight as its broker, and Spring's own clients: the
//! tests of `examples/spring-relay`, by Maven.

use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use tokio::process::Command;

use crate::support::Gateway;

#[tokio::test(flavor = "multi_thread")]
async fn a_spring_application_has_it_as_its_broker_and_springs_clients_connect_to_it() {
    let held = [hold_port(), hold_port(), hold_port()];
    let addresses = held.each_ref().map(|held| held.local_addr().unwrap());
    let mut gateway = start(addresses).await;
    let [public, admin, stomp] = addresses;
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/spring-relay");
    let log = tempfile::NamedTempFile::new().unwrap();
    let mut maven = Command::new("mvn")
        .args(["--batch-mode", "--no-transfer-progress", "--quiet", "test"])
        .arg(format!("-Dfanlight.public={public}"))
        .arg(format!("-Dfanlight.admin={admin}"))
        .arg(format!("-Dfanlight.port={}", stomp.port()))
        .current_dir(example)
        .stdin(Stdio::null())
        .stdout(log.reopen().unwrap())
        .stderr(log.reopen().unwrap())
        .kill_on_drop(true)
        .spawn()
        .expect("Maven and a JDK are needed: run `cargo xtask test`");
    let tested = async {
        loop {
            tokio::select! {
                status = maven.wait() => break status.unwrap(),
                // The tests drain it, and expect it to come back.
                () = gateway.runs_out() => gateway = start(addresses).await,
            }
        }
    };
    let status = tokio::time::timeout(DOWNLOADS_INCLUDED, tested).await;
    let said = std::fs::read_to_string(log.path()).unwrap_or_default();
    assert!(status.is_ok_and(|status| status.success()), "{said}");
}

async fn start([public, admin, stomp]: [SocketAddr; 3]) -> Gateway {
    let [public, admin, stomp] = [public, admin, stomp].map(|address| address.to_string());
    let args = [
        "serve",
        "--dev",
        "--listen",
        &public,
        "--admin",
        &admin,
        "--stomp",
        &stomp,
        "--api",
        "127.0.0.1:0",
    ];
    // The shortest there are, so that it is soon known whether they are kept.
    let beats = ["FANLIGHT__STOMP__HEARTBEAT_SEND", "FANLIGHT__STOMP__HEARTBEAT_RECEIVE"];
    Gateway::with_args(&args, &beats.map(|name| (name, "2s"))).await
}

/// A port below those that the kernel gives out, held by the UDP socket of the same number: so it
/// stays the test's own while the node restarts.
fn hold_port() -> UdpSocket {
    let ports = std::iter::repeat_with(|| rand::random_range(20_000..30_000));
    let is_free = |port: u16| {
        let held = UdpSocket::bind((Ipv4Addr::LOCALHOST, port)).ok()?;
        TcpListener::bind((Ipv4Addr::LOCALHOST, port)).ok().map(|_| held)
    };
    ports.into_iter().find_map(is_free).unwrap()
}

/// The first run on a machine fetches Spring.
const DOWNLOADS_INCLUDED: Duration = Duration::from_secs(900);

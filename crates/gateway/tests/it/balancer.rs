//! A load balancer without stickiness: each request goes to the next node. It can also serve the
//! pages that browsers begin with.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};

use crate::stompjs::js_folder;
use crate::support::Gateway;

/// Listens before its nodes are there, because they must know its address.
pub struct Balancer {
    pub address: SocketAddr,
    listener: TcpListener,
}

impl Balancer {
    pub async fn bind() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        Self { address: listener.local_addr().unwrap(), listener }
    }

    /// Begins to serve; ends with the test's runtime.
    pub fn serve(self, nodes: &[Gateway]) -> SocketAddr {
        let nodes: Arc<[SocketAddr]> = nodes.iter().map(|node| node.public).collect();
        let turn = Arc::new(AtomicUsize::new(0));
        tokio::spawn(async move {
            while let Ok((client, _)) = self.listener.accept().await {
                let (nodes, turn) = (Arc::clone(&nodes), Arc::clone(&turn));
                tokio::spawn(async move { pass(client, &nodes, &turn).await });
            }
        });
        self.address
    }
}

/// One request: its connection is closed behind it, so that the next comes to another node.
async fn pass(mut client: TcpStream, nodes: &[SocketAddr], turn: &AtomicUsize) -> Option<()> {
    let mut request = Vec::new();
    let end = loop {
        if let Some(at) = request.windows(4).position(|window| window == b"\r\n\r\n") {
            break at;
        }
        if client.read_buf(&mut request).await.ok()? == 0 {
            return None;
        }
    };
    let rest = request.split_off(end);
    let head = String::from_utf8(request).ok()?;
    let path = head.split(' ').nth(1)?.to_owned();
    if let Some(file) = path.strip_prefix("/page/") {
        return page(&mut client, file).await;
    }
    let is_upgrade = head.to_lowercase().contains("\r\nupgrade: websocket");
    let mut lines: Vec<_> = head.split("\r\n").collect();
    if !is_upgrade {
        lines.retain(|line| !line.to_lowercase().starts_with("connection:"));
        lines.push("Connection: close");
    }
    let node = nodes[turn.fetch_add(1, Ordering::Relaxed) % nodes.len()];
    let mut server = TcpStream::connect(node).await.ok()?;
    server.write_all(lines.join("\r\n").as_bytes()).await.ok()?;
    server.write_all(&rest).await.ok()?;
    copy_bidirectional(&mut client, &mut server).await.ok().map(drop)
}

async fn page(client: &mut TcpStream, name: &str) -> Option<()> {
    let name = name.split('?').next()?;
    let (path, content_type) = match name {
        "sockjs.js" => ("node_modules/sockjs-client/dist/sockjs.min.js", "text/javascript"),
        "stomp.js" => ("node_modules/@stomp/stompjs/bundles/stomp.umd.min.js", "text/javascript"),
        _ => ("transports.html", "text/html; charset=utf-8"),
    };
    let body = std::fs::read(js_folder().join(path)).unwrap();
    let length = body.len();
    let head = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: {content_type}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n"
    );
    client.write_all(head.as_bytes()).await.ok()?;
    client.write_all(&body).await.ok()?;
    client.shutdown().await.ok()
}

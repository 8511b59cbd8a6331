//! A backend of a test: a real HTTP server that answers as the test says, and keeps what it was asked.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::post;
use serde_json::Value;
use tokio::net::TcpListener;

/// It ends with the test's runtime.
pub struct Backend {
    pub address: SocketAddr,
    asked: Arc<Mutex<Vec<Value>>>,
}

/// What it answers to a request.
pub enum Says {
    /// 200 and this.
    Json(Value),
    /// This status and nothing more.
    Status(u16),
    /// Nothing, ever.
    Nothing,
}

type Answers = Arc<dyn Fn(&Value) -> Says + Send + Sync>;

impl Backend {
    pub async fn start(answers: impl Fn(&Value) -> Says + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let asked = Arc::default();
        let state: (Answers, Arc<Mutex<Vec<Value>>>) = (Arc::new(answers), Arc::clone(&asked));
        let router = Router::new().route("/", post(answer)).with_state(state);
        tokio::spawn(async move { axum::serve(listener, router).await });
        Self { address, asked }
    }

    /// What it was asked about this destination, in the order in which it was.
    pub fn asked(&self, destination: &str) -> Vec<Value> {
        let asked = self.asked.lock().unwrap();
        asked.iter().filter(|asked| asked["destination"] == destination).cloned().collect()
    }

    /// Its webhook of this name, as TOML.
    pub fn webhook(&self, name: &str, more: &str) -> String {
        let address = self.address;
        format!(
            "[[webhooks]]\nname = \"{name}\"\nurl = \"http://{address}/\"\nallow_private = true\n\
             secret = \"a secret for tests, thirty-two bytes or more\"\n{more}\n"
        )
    }
}

async fn answer(
    State((answers, kept)): State<(Answers, Arc<Mutex<Vec<Value>>>)>,
    body: Bytes,
) -> (StatusCode, String) {
    let asked: Value = serde_json::from_slice(&body).unwrap();
    let says = answers(&asked);
    kept.lock().unwrap().push(asked);
    match says {
        Says::Json(answer) => (StatusCode::OK, answer.to_string()),
        Says::Status(status) => (StatusCode::from_u16(status).unwrap(), String::new()),
        Says::Nothing => std::future::pending().await,
    }
}

//! What the gateway asks: signed by Standard Webhooks, answered with who gets what.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Context;
use aws_lc_rs::hmac;
use axum::Json;
use axum::body::Bytes;
use axum::extract::State as Shared;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::State;

/// The secret that webhooks are signed with.
pub struct Key(hmac::Key);

impl Key {
    /// Its bytes, or those that are in base64 behind `whsec_`.
    pub fn new(secret: &str) -> anyhow::Result<Self> {
        let bytes = match secret.strip_prefix("whsec_") {
            Some(encoded) => STANDARD.decode(encoded).context("the webhooks' secret")?,
            None => secret.as_bytes().to_vec(),
        };
        anyhow::ensure!(bytes.len() >= 24, "the webhooks' secret has fewer than 24 bytes");
        Ok(Self(hmac::Key::new(hmac::HMAC_SHA256, &bytes)))
    }

    /// Whether a webhook comes from the gateway, unchanged and just now.
    fn has_signed(&self, headers: &HeaderMap, body: &[u8], now_seconds: u64) -> Option<()> {
        let header = |name| headers.get(name).and_then(|value| value.to_str().ok());
        let timestamp = header("webhook-timestamp")?;
        let seconds: u64 = timestamp.parse().ok()?;
        (now_seconds.abs_diff(seconds) <= TOLERANCE_SECONDS).then_some(())?;
        let mut signed = format!("{}.{timestamp}.", header("webhook-id")?).into_bytes();
        signed.extend_from_slice(body);
        // There are several while a secret is being replaced by another.
        let is_good = |signature: &str| {
            let given = STANDARD.decode(signature.strip_prefix("v1,")?).ok()?;
            hmac::verify(&self.0, &signed, &given).ok()
        };
        header("webhook-signature")?.split(' ').find_map(is_good)
    }
}

/// Answers a webhook. A failure is told to the sender by the gateway.
pub async fn answer(
    Shared(state): Shared<Arc<State>>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, (StatusCode, String)> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    if state.webhook_key.has_signed(&headers, &body, now.as_secs()).is_none() {
        return Err((StatusCode::UNAUTHORIZED, "no good signature".to_owned()));
    }
    let event = serde_json::from_slice(&body);
    let event = event.map_err(|error| (StatusCode::BAD_REQUEST, error.to_string()))?;
    match state.chat.answer(event, now.as_millis() as i64).await {
        Ok(reply) => Ok(Json(reply).into_response()),
        Err(error) => {
            eprintln!("{error:#}");
            Err((StatusCode::SERVICE_UNAVAILABLE, "try again".to_owned()))
        }
    }
}

const TOLERANCE_SECONDS: u64 = 300;

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of the specification.
    #[test]
    fn a_signature_is_that_of_standard_webhooks() {
        let key = Key::new("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").expect("a secret");
        let mut headers = HeaderMap::new();
        let mut put = |name: &'static str, value| headers.insert(name, value);
        put("webhook-id", "msg_p5jXN8AQM9LWM0D4loKWxJek".parse().expect("a header"));
        put("webhook-timestamp", "1614265330".parse().expect("a header"));
        let signature = "v1,bm90IHRoaXM= v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=";
        put("webhook-signature", signature.parse().expect("a header"));
        let body = br#"{"test": 2432232314}"#;
        assert!(key.has_signed(&headers, body, 1_614_265_330 + 300).is_some());
        assert!(key.has_signed(&headers, body, 1_614_265_330 + 301).is_none());
        assert!(key.has_signed(&headers, b"{}", 1_614_265_330).is_none());
        headers.remove("webhook-signature");
        assert!(key.has_signed(&headers, body, 1_614_265_330).is_none());
    }
}

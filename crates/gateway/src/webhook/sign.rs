//! Signatures, as the specification of Standard Webhooks has them: existing libraries check them.

use std::fmt;

use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

/// What requests to a webhook are signed with.
#[derive(Clone)]
pub struct SigningKey {
    key: hmac::Key,
    previous: Option<hmac::Key>,
}

impl SigningKey {
    /// What stands before a key in base64.
    pub const PREFIX: &'static str = "whsec_";

    /// One of these bytes.
    pub fn new(key: &[u8]) -> Self {
        Self { key: hmac::Key::new(hmac::HMAC_SHA256, key), previous: None }
    }

    /// The same, and one that some of the backend's processes may still check with: its signature
    /// comes second.
    #[must_use]
    pub fn with_previous(self, previous: Self) -> Self {
        Self { previous: Some(previous.key), ..self }
    }

    /// The value of `webhook-signature`: of the id and the time too, so that a request can be
    /// neither changed nor sent again later. Of two keys, both signatures, as the specification has
    /// it for a time in which a key is changed.
    pub fn sign(&self, id: &str, unix_s: u64, body: &[u8]) -> String {
        let signed = |key: &hmac::Key| {
            let mut context = hmac::Context::with_key(key);
            context.update(format!("{id}.{unix_s}.").as_bytes());
            context.update(body);
            format!("v1,{}", STANDARD.encode(context.sign()))
        };
        let signature = signed(&self.key);
        match &self.previous {
            Some(previous) => format!("{signature} {}", signed(previous)),
            None => signature,
        }
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SigningKey(hidden)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signature_is_the_one_of_the_specification() {
        // The example of Standard Webhooks' own libraries.
        let key = STANDARD.decode("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").unwrap();
        let signature = SigningKey::new(&key).sign(
            "msg_p5jXN8AQM9LWM0D4loKWxJek",
            1_614_265_330,
            br#"{"test": 2432232314}"#,
        );
        assert_eq!(signature, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
    }
}

//! Signatures of AWS' API, version 4, for requests of one form: POST of a form to `/`. The signer of
//! AWS' SDK brings some fifteen crates; botocore has made the signatures in the tests.

use std::time::SystemTime;

use aws_lc_rs::{digest, hmac};
use serde::Deserialize;

/// Temporary credentials of a role, as an agent gives them.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Credentials {
    access_key_id: String,
    secret_access_key: String,
    token: Option<String>,
}

/// What is signed.
pub(super) struct Request<'r> {
    /// The service's host, as the `Host` header has it.
    pub(super) host: &'r str,
    pub(super) region: &'r str,
    pub(super) service: &'r str,
    /// The body, of the type [`FORM`].
    pub(super) body: &'r str,
}

/// The headers by which AWS knows who asks, beside those of the host and the type.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Signed {
    pub(super) date: String,
    pub(super) token: Option<String>,
    pub(super) authorization: String,
}

impl Credentials {
    /// Signs a request that is sent now; AWS refuses it some minutes later.
    pub(super) fn sign(&self, request: &Request<'_>, now: SystemTime) -> Signed {
        let Request { host, region, service, body } = request;
        let date = humantime::format_rfc3339_seconds(now).to_string().replace(['-', ':'], "");
        let day = &date[..DAY_CHARS];
        let headers = format!("content-type:{FORM}\nhost:{host}\nx-amz-date:{date}\n");
        let (headers, names) = match &self.token {
            Some(token) => (format!("{headers}{TOKEN}:{token}\n"), format!("{NAMES};{TOKEN}")),
            None => (headers, NAMES.to_owned()),
        };
        let canonical = format!("POST\n/\n\n{headers}\n{names}\n{}", digest_of(body));
        let scope = format!("{day}/{region}/{service}/{END}");
        let text = format!("{ALGORITHM}\n{date}\n{scope}\n{}", digest_of(&canonical));
        let secret = format!("AWS4{}", self.secret_access_key);
        let key = [day, region, service, END]
            .into_iter()
            .fold(secret.into_bytes(), |key, part| mac(&key, part).as_ref().to_vec());
        let signature = hex(mac(&key, &text).as_ref());
        let authorization = format!(
            "{ALGORITHM} Credential={}/{scope}, SignedHeaders={names}, Signature={signature}",
            self.access_key_id
        );
        Signed { date, token: self.token.clone(), authorization }
    }
}

fn mac(key: &[u8], text: &str) -> hmac::Tag {
    hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), text.as_bytes())
}

fn digest_of(text: &str) -> String {
    hex(digest::digest(&digest::SHA256, text.as_bytes()).as_ref())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |text, byte| format!("{text}{byte:02x}"))
}

/// The type of all bodies.
pub(super) const FORM: &str = "application/x-www-form-urlencoded";
/// The header that tells when a request was signed.
pub(super) const DATE: &str = "x-amz-date";
/// The header that belongs to temporary credentials.
pub(super) const TOKEN: &str = "x-amz-security-token";
const ALGORITHM: &str = "AWS4-HMAC-SHA256";
const NAMES: &str = "content-type;host;x-amz-date";
const END: &str = "aws4_request";
const DAY_CHARS: usize = "20261129".len();

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;

    #[test]
    fn a_request_is_signed_as_botocore_signs_it() {
        let request = Request {
            host: "elasticloadbalancing.eu-west-1.amazonaws.com",
            region: "eu-west-1",
            service: "elasticloadbalancing",
            body: "Action=DescribeTargetHealth&Version=2015-12-01&TargetGroupArn=arn%3Aaws%3A\
                   elasticloadbalancing%3Aeu-west-1%3A123456789012%3Atargetgroup%2Ffl-abc%2F\
                   0123456789abcdef&Targets.member.1.Id=10.0.1.7&Targets.member.1.Port=8080",
        };
        let now = UNIX_EPOCH + Duration::from_secs(1_795_975_200);
        for (token, names, signature) in [
            (
                None,
                "content-type;host;x-amz-date",
                "1a8a976e73496309d7b2fac25b973f92b589bfcf3deba94b52a54ec841980fc2",
            ),
            (
                Some("a/token+of=the role"),
                "content-type;host;x-amz-date;x-amz-security-token",
                "47ec418d5645c44ddfb60cb1840279d01279ac17a48cf0ba28dbdb40ce9ff2c4",
            ),
        ] {
            let credentials = Credentials {
                access_key_id: "AKIDEXAMPLE".into(),
                secret_access_key: "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY".into(),
                token: token.map(Into::into),
            };
            let authorization = format!(
                "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20261129/eu-west-1/elasticloadbalancing/\
                 aws4_request, SignedHeaders={names}, Signature={signature}"
            );
            let token = token.map(Into::into);
            let signed = Signed { date: "20261129T180000Z".into(), token, authorization };
            assert_eq!(credentials.sign(&request, now), signed);
        }
    }
}

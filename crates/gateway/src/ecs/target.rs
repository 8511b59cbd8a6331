//! Whether the load balancer takes this task out. A service's task is deregistered before it is
//! stopped, and gets SIGTERM only when its target is unused; its own metadata say nothing of it until
//! then. The target group does, at once.

use std::str::FromStr;
use std::time::{Duration, SystemTime};

use axum::body::Body;
use http::{Method, Request, Uri, header};
use hyper_rustls::HttpsConnector;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Deserialize;
use tokio::time::{sleep, timeout};

use super::signature::{self, Credentials, FORM};
use super::{AgentError, Call, Failures, METADATA_URI, PATIENCE, base_of, read, refused};
use crate::causes::causes;
use crate::config::Config;
use crate::drain::Trigger;
use crate::http_client::{ANSWER_BYTES, Answer, BaseUrl};
use crate::node::Node;
use crate::tls;

/// A target group of Elastic Load Balancing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TargetGroup {
    arn: String,
    region: String,
    /// The host of the service's API.
    host: String,
}

/// Why a text is not a [`TargetGroup`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not the ARN of a target group")]
pub struct NotATargetGroup;

/// The load balancer's API, asked about this task.
pub(super) struct Balancer {
    group: TargetGroup,
    endpoint: Uri,
    metadata: BaseUrl,
    credentials: BaseUrl,
    client: Client<HttpsConnector<HttpConnector>, Body>,
    /// Where the load balancer reaches this task: the port that clients come to.
    port: u16,
    interval: Duration,
    /// The same: its address, once its metadata were read.
    address: Option<String>,
}

/// What the load balancer thinks of a target.
#[derive(Debug, PartialEq, Eq)]
struct Health {
    /// As in `healthy`.
    state: String,
    /// As in `Target.NotRegistered`; of some states there is none.
    reason: String,
}

/// Begins the drain as soon as the target is taken out.
pub(super) async fn watch(node: &Node, mut balancer: Balancer, mut failures: Failures) {
    let mut was_registered = false;
    let mut wait = balancer.interval;
    while !node.is_draining() {
        match balancer.health().await {
            Ok(health) => {
                failures.over(Call::TargetHealth);
                if health.is_leaving() || health.is_unregistered() && was_registered {
                    return node.begin_drain(Trigger::Deregistered);
                }
                // It is registered only once it has started.
                was_registered |= !health.is_unregistered();
                wait = balancer.interval;
            }
            Err(error) => {
                failures.count(Call::TargetHealth, &error);
                wait = (wait * 2).min(RETRY_MAX);
            }
        }
        tokio::select! {
            // Not all tasks at once: AWS bounds how often an account asks.
            () = sleep(wait.mul_f64(rand::random_range(0.8..1.0))) => {}
            () = node.drain.begun() => {}
        }
    }
}

impl Balancer {
    /// The one to ask about this task, or why there is none.
    pub(super) fn of(config: &Config) -> Result<Self, String> {
        let group: TargetGroup = config
            .drain
            .watch_target_group
            .parse()
            .map_err(|error: NotATargetGroup| error.to_string())?;
        let endpoint = match std::env::var(ENDPOINT) {
            Ok(endpoint) => endpoint.parse().map_err(|_| format!("{ENDPOINT} is not a URL"))?,
            Err(_) => format!("https://{}/", group.host).parse().map_err(|_| "not a host")?,
        };
        let client = tls::https_client("drain.watch_target_group", None)
            .map_err(|problem| problem.to_string())?;
        Ok(Self {
            group,
            endpoint,
            metadata: base_of(METADATA_URI)?,
            credentials: credentials()?,
            client,
            port: config.listen.public.port(),
            interval: config.drain.watch_interval.0,
            address: None,
        })
    }

    async fn health(&mut self) -> Result<Health, AgentError> {
        let address = match &self.address {
            Some(address) => address.clone(),
            None => self.own_address().await?,
        };
        let body = self.question(&address);
        self.address = Some(address);
        let given = self.credentials.ask(Method::GET, "", None, PATIENCE).await?;
        let credentials: Credentials = read(&given)?;
        let asked = timeout(BALANCER_PATIENCE, self.ask(&credentials, body));
        let answer = asked.await.map_err(|_| AgentError::Silence(BALANCER_PATIENCE))??;
        if answer.status != 200 {
            return Err(refused(&answer));
        }
        let text = String::from_utf8_lossy(&answer.body);
        Health::read(&text).ok_or_else(|| refused(&answer))
    }

    async fn own_address(&self) -> Result<String, AgentError> {
        let answer = self.metadata.ask(Method::GET, "", None, PATIENCE).await?;
        let Container { networks } = read(&answer)?;
        let mut addresses = networks.into_iter().flat_map(|network| network.addresses);
        addresses.next().ok_or_else(|| refused(&answer))
    }

    fn question(&self, address: &str) -> String {
        let arn = utf8_percent_encode(&self.group.arn, ENCODED);
        let id = utf8_percent_encode(address, ENCODED);
        format!(
            "Action=DescribeTargetHealth&Version=2015-12-01&TargetGroupArn={arn}\
             &Targets.member.1.Id={id}&Targets.member.1.Port={}",
            self.port
        )
    }

    async fn ask(&self, credentials: &Credentials, body: String) -> Result<Answer, AgentError> {
        let host = self.endpoint.authority().map_or(&*self.group.host, |own| own.as_str());
        let (region, service) = (&*self.group.region, SERVICE);
        let to_sign = signature::Request { host, region, service, body: &body };
        let signed = credentials.sign(&to_sign, SystemTime::now());
        let mut request = Request::post(self.endpoint.clone())
            .header(header::HOST, host)
            .header(header::CONTENT_TYPE, FORM)
            .header(signature::DATE, signed.date)
            .header(header::AUTHORIZATION, signed.authorization);
        if let Some(token) = signed.token {
            request = request.header(signature::TOKEN, token);
        }
        let request = request.body(Body::from(body)).map_err(|_| AgentError::Credentials)?;
        let answer = self.client.request(request).await;
        let answer = answer.map_err(|error| AgentError::Unreachable(causes(&error)))?;
        let status = answer.status().as_u16();
        let body = axum::body::to_bytes(Body::new(answer.into_body()), ANSWER_BYTES).await;
        let body = body.map_err(|_| crate::http_client::AskError::Body)?;
        Ok(Answer { status, body })
    }
}

impl Health {
    /// The only target of an answer.
    fn read(xml: &str) -> Option<Self> {
        let text = |name: &str| {
            let (_, rest) = xml.split_once(&format!("<{name}>"))?;
            rest.split_once('<').map(|(text, _)| text.trim().to_owned())
        };
        Some(Self { state: text("State")?, reason: text("Reason").unwrap_or_default() })
    }

    /// Whether it is being deregistered.
    fn is_leaving(&self) -> bool {
        self.state == "draining"
    }

    fn is_unregistered(&self) -> bool {
        self.state == "unused" && self.reason == "Target.NotRegistered"
    }
}

impl FromStr for TargetGroup {
    type Err = NotATargetGroup;

    fn from_str(arn: &str) -> Result<Self, NotATargetGroup> {
        let parts: Vec<_> = arn.splitn(6, ':').collect();
        let ["arn", partition, SERVICE, region, account, name] = parts[..] else {
            return Err(NotATargetGroup);
        };
        let is_plain = |text: &str, more: &[u8]| {
            let mut bytes = text.bytes();
            !text.is_empty()
                && bytes.all(|byte| byte.is_ascii_alphanumeric() || more.contains(&byte))
        };
        let suffix = match partition {
            "aws" | "aws-us-gov" => "amazonaws.com",
            "aws-cn" => "amazonaws.com.cn",
            _ => return Err(NotATargetGroup),
        };
        let is_group = name.starts_with("targetgroup/") && is_plain(name, b"-/");
        if !is_plain(region, b"-") || !is_plain(account, b"") || !is_group {
            return Err(NotATargetGroup);
        }
        let host = format!("{SERVICE}.{region}.{suffix}");
        Ok(Self { arn: arn.to_owned(), region: region.to_owned(), host })
    }
}

/// Where the role's credentials are, as AWS' SDKs look for them.
fn credentials() -> Result<BaseUrl, String> {
    match std::env::var(CREDENTIALS_PATH) {
        Ok(path) => format!("http://{CREDENTIALS_HOST}{path}")
            .parse()
            .map_err(|error| format!("on, but {CREDENTIALS_PATH} is {error}")),
        Err(_) => base_of(CREDENTIALS_URI),
    }
}

/// A container's own metadata, as far as they matter.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Container {
    networks: Vec<Network>,
}

#[derive(Deserialize)]
struct Network {
    #[serde(rename = "IPv4Addresses", default)]
    addresses: Vec<String>,
}

const SERVICE: &str = "elasticloadbalancing";
/// What AWS' tools take in place of a service's own address.
const ENDPOINT: &str = "AWS_ENDPOINT_URL_ELASTIC_LOAD_BALANCING_V2";
const CREDENTIALS_PATH: &str = "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI";
const CREDENTIALS_URI: &str = "AWS_CONTAINER_CREDENTIALS_FULL_URI";
const CREDENTIALS_HOST: &str = "169.254.170.2";
const RETRY_MAX: Duration = Duration::from_secs(60);
const BALANCER_PATIENCE: Duration = Duration::from_secs(10);
/// What AWS' query protocol escapes.
const ENCODED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_group_says_whom_to_ask() {
        let rest = "123456789012:targetgroup/fl-abc/0123456789abcdef";
        for (partition, region, host) in [
            ("aws", "eu-west-1", "elasticloadbalancing.eu-west-1.amazonaws.com"),
            ("aws-us-gov", "us-gov-west-1", "elasticloadbalancing.us-gov-west-1.amazonaws.com"),
            ("aws-cn", "cn-north-1", "elasticloadbalancing.cn-north-1.amazonaws.com.cn"),
        ] {
            let arn = format!("arn:{partition}:elasticloadbalancing:{region}:{rest}");
            let group: TargetGroup = arn.parse().expect("an ARN");
            assert_eq!((&*group.arn, &*group.region, &*group.host), (&*arn, region, host));
        }
        for bad in [
            "",
            "fl-abc",
            "arn:aws:elasticloadbalancing:eu-west-1:123456789012:loadbalancer/app/fl/0123",
            "arn:aws:ecs:eu-west-1:123456789012:targetgroup/fl/0123",
            "arn:aws:elasticloadbalancing::123456789012:targetgroup/fl/0123",
            "arn:aws:elasticloadbalancing:evil.example/:123456789012:targetgroup/fl/0123",
            "arn:aws:elasticloadbalancing:eu-west-1:123456789012:targetgroup/fl/0123&Action=x",
            "arn:elsewhere:elasticloadbalancing:eu-west-1:123456789012:targetgroup/fl/0123",
        ] {
            assert_eq!(bad.parse::<TargetGroup>(), Err(NotATargetGroup), "{bad}");
        }
    }

    #[test]
    fn a_target_leaves_when_it_drains_and_is_gone_when_it_is_not_registered() {
        let xml = |health: &str| {
            format!(
                "<DescribeTargetHealthResponse xmlns=\"http://elasticloadbalancing.amazonaws.com/doc/\
                 2015-12-01/\">\n  <DescribeTargetHealthResult>\n    <TargetHealthDescriptions>\n\
                 <member><HealthCheckPort>8080</HealthCheckPort><TargetHealth>{health}\
                 </TargetHealth><Target><Port>8080</Port><Id>10.0.1.7</Id></Target></member>"
            )
        };
        for (health, leaves, is_gone) in [
            ("<State>healthy</State>", false, false),
            ("<State>initial</State><Reason>Elb.RegistrationInProgress</Reason>", false, false),
            ("<State>unhealthy</State><Reason>Target.Timeout</Reason>", false, false),
            (
                "<State>draining</State><Reason>Target.DeregistrationInProgress</Reason>",
                true,
                false,
            ),
            ("<State>unused</State><Reason>Target.NotRegistered</Reason>", false, true),
            ("<State>unused</State><Reason>Target.NotInUse</Reason>", false, false),
        ] {
            let read = Health::read(&xml(health)).expect("a state");
            assert_eq!((read.is_leaving(), read.is_unregistered()), (leaves, is_gone), "{read:?}");
        }
        assert_eq!(Health::read("<ErrorResponse><Code>Throttling</Code></ErrorResponse>"), None);
    }
}

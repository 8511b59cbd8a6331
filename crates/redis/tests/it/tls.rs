//! TLS to Redis: what is refused, and how clearly.

use std::fs;
use std::path::Path;

use fanlight_engine::broker::{Joined, Reach};
use fanlight_redis::RedisConfig;
use fanlight_redis::config::{ClientCertificate, TlsConfig};
use fanlight_testkit::{RedisServer, eventually};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
};
use tempfile::TempDir;

use crate::nodes::{RedisNode, config};

fn trusting(server: &RedisServer, url: &str) -> RedisConfig {
    let ca_file = server.authority().map(Into::into);
    RedisConfig { tls: Some(TlsConfig { ca_file, ..TlsConfig::default() }), ..config(url) }
}

#[tokio::test]
async fn large_messages_pass_whole() {
    let server = RedisServer::start_tls().unwrap();
    let ann = RedisNode::ready(trusting(&server, &server.url()), 1).await;
    assert_eq!(ann.node.subscribe(0, "/topic/a").await, Joined::Live);
    let body = vec![b'x'; 3 << 20];
    for _ in 0..8 {
        ann.node.accepted("/topic/a", body.clone()).await;
    }
    eventually("all arrived", || ann.node.inboxes[0].count() == 8).await;
    assert!(ann.node.inboxes[0].bodies("/topic/a").iter().all(|arrived| *arrived == body));
}

#[tokio::test]
async fn an_unknown_authority_is_refused() {
    let server = RedisServer::start_tls().unwrap();
    let public = RedisNode::start(config(&server.url()), 1);
    public.unhealthy("its certificate is from an authority that is not trusted here").await;
    public.unhealthy("configure that authority's certificate as the CA file").await;
    let other = RedisServer::start_tls().unwrap();
    let wrong = RedisNode::start(trusting(&other, &server.url()), 1);
    // Both authorities have the same name, so it is the signature that gives it away.
    wrong.unhealthy("its certificate is").await;
    assert_eq!(wrong.node.publish("/topic/a", "x").await.unwrap().reach, Reach::ThisNode);
}

#[tokio::test]
async fn a_certificate_for_another_name_is_refused_and_the_name_can_be_given() {
    let server = RedisServer::start_tls().unwrap();
    let mut config = trusting(&server, &server.url());
    config.tls.as_mut().unwrap().server_name = Some("redis.example.com".to_owned());
    let wrong = RedisNode::start(config.clone(), 1);
    wrong.unhealthy("its certificate is not for \"redis.example.com\"").await;
    config.tls.as_mut().unwrap().server_name = Some("localhost".to_owned());
    RedisNode::ready(config, 1).await.node.accepted("/topic/a", "x").await;
}

#[tokio::test]
async fn a_plain_server_and_a_plain_client_are_told_to_change_the_url() {
    let plain = RedisServer::start().unwrap();
    let ann = RedisNode::start(config(&plain.url().replace("redis:", "rediss:")), 1);
    ann.unhealthy("write redis in place of rediss").await;
    let encrypted = RedisServer::start_tls().unwrap();
    let bob = RedisNode::start(config(&encrypted.url().replace("rediss:", "redis:")), 1);
    bob.unhealthy("TLS").await;
}

#[tokio::test]
async fn a_client_certificate_is_shown_where_it_is_asked_for() {
    let server = RedisServer::start_tls().unwrap();
    let directory = TempDir::new().unwrap();
    let client = issue_client_certificate(directory.path());
    let authority = directory.path().join("ca.pem");
    let set = ["CONFIG", "SET", "tls-ca-cert-file", authority.to_str().unwrap()];
    server.call(&[&set[..], &["tls-auth-clients", "yes"]].concat()).unwrap().ok().unwrap();
    let mut config = trusting(&server, &server.url());
    let without = RedisNode::start(config.clone(), 1);
    without.unhealthy("check whether it wants a client certificate").await;
    config.tls.as_mut().unwrap().client = Some(client);
    RedisNode::ready(config, 1).await.node.accepted("/topic/a", "x").await;
}

/// Makes an authority, `ca.pem`, and a client certificate that it has signed.
fn issue_client_certificate(directory: &Path) -> ClientCertificate {
    let authority_key = KeyPair::generate().unwrap();
    let mut authority = CertificateParams::default();
    authority.distinguished_name.push(DnType::CommonName, "The authority for clients");
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    fs::write(directory.join("ca.pem"), authority.self_signed(&authority_key).unwrap().pem())
        .unwrap();
    let issuer = Issuer::new(authority, authority_key);
    let key = KeyPair::generate().unwrap();
    let mut client = CertificateParams::new(vec!["fanlight".to_owned()]).unwrap();
    client.distinguished_name.push(DnType::CommonName, "fanlight");
    client.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    let certificate_file = directory.join("client.pem");
    fs::write(&certificate_file, client.signed_by(&key, &issuer).unwrap().pem()).unwrap();
    let key_file = directory.join("client.key");
    fs::write(&key_file, key.serialize_pem()).unwrap();
    ClientCertificate { certificate_file, key_file }
}

//! Single servers: commands, logins, replicas, TLS.

use std::path::Path;
use std::process::Command;

use fanlight_testkit::{RedisConnection, RedisServer, Reply, redis_command};

#[test]
fn arguments_and_replies_carry_any_bytes() {
    let server = RedisServer::start().unwrap();
    let address = server.address();
    let hostile = b"a\r\n$1\r\n\0\xff";

    let set = redis_command(address, &[b"SET", b"key".as_slice(), hostile]).unwrap();
    assert_eq!(set, Reply::Simple("OK".to_owned()));
    let get = redis_command(address, &["GET", "key"]).unwrap();
    assert_eq!(get, Reply::Bulk(hostile.to_vec()));
    assert_eq!(redis_command(address, &["GET", "none"]).unwrap(), Reply::Nil);
    assert_eq!(redis_command(address, &["STRLEN", "key"]).unwrap().integer().unwrap(), 9);
    let error = redis_command(address, &["INCR", "key"]).unwrap();
    assert!(error.ok().unwrap_err().to_string().contains("not an integer"));
    let nested = redis_command(address, &["EVAL", "return {1, {'a', {}}}", "0"]).unwrap();
    let inner = Reply::Array(vec![Reply::Bulk(b"a".to_vec()), Reply::Array(vec![])]);
    assert_eq!(nested, Reply::Array(vec![Reply::Integer(1), inner]));
}

#[test]
fn a_relaunched_server_has_its_port_and_none_of_its_data() {
    let mut server = RedisServer::start().unwrap();
    let address = server.address();
    server.call(&["SET", "key", "value"]).unwrap().ok().unwrap();
    server.kill();
    assert!(redis_command(address, &["PING"]).is_err());
    server.launch().unwrap();
    assert_eq!(redis_command(address, &["GET", "key"]).unwrap(), Reply::Nil);
}

#[test]
fn a_server_that_cannot_start_says_why() {
    let error = RedisServer::start_with(&["--no-such-option", "1"]).unwrap_err();
    assert!(error.to_string().contains("Bad directive"), "{error}");
}

#[test]
fn users_of_the_options_may_do_what_their_rules_say() {
    let rules = ["--user", "ann", "on", ">pw", "~fl:*", "&*", "+@all", "-publish"];
    let server = RedisServer::start_with(&rules).unwrap();
    let mut ann = RedisConnection::open(server.address()).unwrap();
    assert!(ann.call(&["AUTH", "ann", "wrong"]).unwrap().ok().is_err());
    ann.call(&["AUTH", "ann", "pw"]).unwrap().ok().unwrap();
    ann.call(&["SET", "fl:key", "1"]).unwrap().ok().unwrap();
    for refused in [["SET", "key", "1"].as_slice(), &["PUBLISH", "fl:c", "1"]] {
        let error = ann.call(refused).unwrap().ok().unwrap_err();
        assert!(error.to_string().contains("NOPERM"), "{error}");
    }
}

#[test]
fn users_of_a_file_are_the_only_ones() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("users.acl");
    std::fs::write(&file, "user default off\nuser ann on >pw ~* &* +@all\n").unwrap();
    let server = RedisServer::start_with(&["--aclfile", file.to_str().unwrap()]).unwrap();
    let mut connection = RedisConnection::open(server.address()).unwrap();
    let error = connection.call(&["GET", "key"]).unwrap().ok().unwrap_err();
    assert!(error.to_string().contains("NOAUTH"), "{error}");
    connection.call(&["AUTH", "ann", "pw"]).unwrap().ok().unwrap();
    assert_eq!(connection.call(&["GET", "key"]).unwrap(), Reply::Nil);
}

#[test]
fn a_replica_is_in_step_from_the_start_and_after_a_relaunch() {
    let master = RedisServer::start().unwrap();
    master.call(&["SET", "key", "value"]).unwrap().ok().unwrap();
    let mut replica = RedisServer::start_replica_of(&master).unwrap();
    let get = ["GET", "key"];
    assert_eq!(redis_command(replica.address(), &get).unwrap().text().unwrap(), "value");
    let error = redis_command(replica.address(), &["SET", "key", "2"]).unwrap().ok().unwrap_err();
    assert!(error.to_string().contains("READONLY"), "{error}");

    replica.kill();
    master.call(&["SET", "key", "later"]).unwrap().ok().unwrap();
    replica.launch().unwrap();
    replica.wait_until_replica_of(&master).unwrap();
    assert_eq!(redis_command(replica.address(), &get).unwrap().text().unwrap(), "later");
    for value in ["1", "2", "3"] {
        master.call(&["SET", "key", value]).unwrap().ok().unwrap();
        replica.wait_until_replica_of(&master).unwrap();
        assert_eq!(redis_command(replica.address(), &get).unwrap().text().unwrap(), value);
    }
}

#[test]
fn tls_needs_the_right_authority_and_plain_tcp_gets_nothing() {
    let server = RedisServer::start_tls().unwrap();
    let stranger = RedisServer::start_tls().unwrap();
    assert!(server.url().starts_with("rediss://127.0.0.1:"));
    server.call(&["SET", "key", "by TLS"]).unwrap().ok().unwrap();

    let get = |authority: Option<&Path>, host: &str| {
        let port = server.address().port().to_string();
        let client = Command::new("redis-cli")
            .args(["--tls", "-h", host, "-p", &port, "--cacert"])
            .arg(authority.unwrap())
            .args(["GET", "key"])
            .output()
            .unwrap();
        String::from_utf8(client.stdout).unwrap()
    };
    assert_eq!(get(server.authority(), "127.0.0.1"), "by TLS\n");
    assert_eq!(get(server.authority(), "localhost"), "by TLS\n");
    assert_eq!(get(stranger.authority(), "127.0.0.1"), "");
    assert!(redis_command(server.address(), &["PING"]).is_err());
}

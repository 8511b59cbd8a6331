//! The command line, run as a process: what it prints, and how it ends.
#![expect(clippy::unwrap_used, reason = "what fails here fails the test")]

mod process;

use fanlight_testkit::{RedisCluster, RedisSentinel, RedisServer};
use process::{Node, run, run_with};
use serde_json::Value;

/// It begins as one that is made at random may.
const SECRET: &str = "-123456789abcdef0123456789abcdef";

fn mint(args: &[&str]) -> String {
    let args = [&["token", "mint", "--secret", SECRET, "--user", "ann"], args].concat();
    run(&args).succeeded().trim().to_owned()
}

#[test]
fn serving_without_a_configuration_says_which_options_are_needed() {
    let error = run(&["serve"]).failed();
    for needed in ["auth.keys", "namespaces", "redis.url", "serve --dev"] {
        assert!(error.contains(needed), "{error}");
    }
}

#[test]
fn conformance_endpoints_are_for_development_only() {
    let error = run(&["serve", "--conformance"]).failed();
    assert!(error.contains("--dev"), "{error}");
}

#[test]
fn development_mode_is_for_this_machine_only() {
    for option in ["--listen", "--admin", "--api", "--stomp"] {
        let error = run(&["serve", "--dev", option, "0.0.0.0:0"]).failed();
        assert!(error.contains("this machine only"), "{error}");
    }
}

#[test]
fn a_file_that_cannot_be_read_is_told_with_its_cause_once() {
    let error = run(&["config", "check", "/nowhere/fanlight.toml"]).failed();
    assert_eq!(error.matches("os error").count(), 1, "{error}");
}

#[test]
fn a_reader_that_has_had_enough_is_no_fault() {
    let program = env!("CARGO_BIN_EXE_fanlight");
    for args in ["config defaults", "config env", "config schema", "completions bash"] {
        let script = format!("{program} {args} | true; exit ${{PIPESTATUS[0]}}");
        let ended = std::process::Command::new("bash").args(["-c", &script]).output().unwrap();
        let error = String::from_utf8_lossy(&ended.stderr);
        assert!(ended.status.success() && error.is_empty(), "{args}: {error}");
    }
}

#[test]
fn a_checked_file_is_told_with_its_warnings_and_without_its_secrets() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("fanlight.toml");
    let file = format!(
        "broker.kind = 'memory'\nauth.keys = [{{ algorithm = 'HS256', secret = '{SECRET}' }}]\n\
         namespaces = [{{ name = 'topic', match = '/topic/**' }}]"
    );
    std::fs::write(&path, file).unwrap();
    let path = path.to_str().unwrap();
    let told = run(&["config", "check", path]).succeeded();
    assert!(told.contains("warning: policy.rules") && told.contains("ok"), "{told}");
    let json = run(&["config", "check", path, "--json"]).succeeded();
    assert!(!json.contains(SECRET), "{json}");
    let json: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["config"]["broker"]["kind"], "memory");
    let wrong = ("FANLIGHT__LIMITS__MESAGE", "1MiB");
    let error = run_with(&["config", "check", path], &[wrong]).failed();
    assert!(error.contains("FANLIGHT__LIMITS__MESSAGE"), "{error}");
}

#[test]
fn the_reference_lists_every_option_in_every_form() {
    let toml = run(&["config", "defaults"]).succeeded();
    let env = run(&["config", "env"]).succeeded();
    let schema: Value = serde_json::from_str(&run(&["config", "schema"]).succeeded()).unwrap();
    let options: Value =
        serde_json::from_str(&run(&["config", "env", "--json"]).succeeded()).unwrap();
    for option in options.as_array().unwrap() {
        let key = option["path"].as_str().unwrap().rsplit('.').next().unwrap();
        assert!(toml.contains(key.trim_end_matches("[]")), "{key}");
        assert!(env.contains(option["env"].as_str().unwrap()), "{key}");
    }
    assert!(schema["properties"]["listen"].is_object());
}

#[test]
fn a_minted_token_is_read_back_as_valid() {
    let token = mint(&["--role", "ops", "--claim", "level=3", "--claim", "team=blue"]);
    let text = run(&["token", "inspect", &token, "--secret", SECRET]).succeeded();
    assert!(text.contains("valid      for the user \"ann\""), "{text}");
    assert!(text.contains("(in 59m") || text.contains("(in 1h"), "{text}");
    let json = run(&["token", "inspect", &token, "--secret", SECRET, "--json"]).succeeded();
    let json: Value = serde_json::from_str(&json).unwrap();
    let claims = &json["claims"];
    assert_eq!((&claims["level"], &claims["team"]), (&3.into(), &"blue".into()));
    assert_eq!((&json["valid"], &json["user"]), (&true.into(), &"ann".into()));
}

#[test]
fn a_capability_is_minted_with_its_grants_and_read_back_as_one() {
    let mint = ["token", "mint", "--secret", SECRET, "--capability"];
    let grants = ["--grant", "subscribe:/topic/a", "--grant", "subscribe:/topic/b"];
    let token = run(&[&mint[..], &grants].concat()).succeeded();
    let inspect = ["token", "inspect", token.trim(), "--secret", SECRET];
    let text = run(&inspect).succeeded();
    assert!(text.contains("valid      as a capability of anybody"), "{text}");
    let json = run(&[&inspect[..], &["--json"]].concat()).succeeded();
    let json: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(
        json["claims"]["fanlight"],
        serde_json::json!({ "subscribe": ["/topic/a", "/topic/b"] })
    );
    assert_eq!(json["header"]["typ"], "fl-cap+jwt");
    for (arguments, told) in [
        (&["--grant", "subscribe:/user/*/queue/a"][..], "other users'"),
        (&["--grant", "/topic/a"], "ACTION:DESTINATION"),
    ] {
        let error = run(&[&mint[..], arguments].concat()).failed();
        assert!(error.contains(told), "{error}");
    }
}

#[test]
fn what_is_wrong_with_a_token_is_told_and_fails() {
    let other = SECRET.replace('0', "9");
    let error = run(&["token", "inspect", &mint(&[]), "--secret", &other]).failed();
    assert!(error.contains("signature is wrong"), "{error}");
    let expired = mint(&["--claim", "exp=1000"]);
    let error = run(&["token", "inspect", &expired, "--secret", SECRET]).failed();
    assert!(error.contains("expired"), "{error}");
    assert!(run(&["token", "inspect", "nonsense"]).failed().contains("not a signed token"));
    let short = run(&["token", "mint", "--secret", "short", "--user", "ann"]).failed();
    assert!(short.contains("too short"), "{short}");
}

#[test]
fn a_token_is_minted_with_a_private_key_too() {
    let pem = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/keys/p256.private.pem");
    let args = ["token", "mint", "--key-file", pem, "--algorithm", "ES256", "--user", "ann"];
    let token = run(&args).succeeded();
    let text = run(&["token", "inspect", token.trim()]).succeeded();
    assert!(text.contains("ES256") && text.contains("not checked"), "{text}");
    // Anybody could have written a token whose signature nobody checked.
    assert!(!text.contains("valid"), "{text}");
    let json = run(&["token", "inspect", token.trim(), "--json"]).succeeded();
    assert_eq!(serde_json::from_str::<Value>(&json).unwrap()["valid"], Value::Null);
}

#[test]
fn a_message_goes_from_pub_to_sub() {
    let node = Node::start();
    let url = node.url();
    let everything = node.subscribe(&["/topic/**", "/topic/a", "--count", "2"]);
    let as_json = node.subscribe(&["/topic/a", "--count", "2", "--json"]);
    let sent = run(&["pub", &url, "/topic/a", r#"{"x":1}"#, "--json"]).succeeded();
    assert!(sent.contains("message_id"), "{sent}");
    run(&["pub", &url, "/topic/a", "\u{1b}[31mred"]).succeeded();
    let text = everything.ended().succeeded();
    let lines: Vec<_> = text.lines().collect();
    assert_eq!(lines[0], r#"/topic/a {"x":1}"#);
    assert!(lines[1..].iter().all(|line| !line.contains('\u{1b}')), "{lines:?}");
    let json: Vec<Value> = as_json.ended().succeeded().lines().map(parsed).collect();
    assert_eq!(
        (&json[0]["data"]["x"], &json[1]["content_type"]),
        (&1.into(), &"text/plain".into())
    );
}

#[test]
fn a_subscriber_goes_on_when_its_node_is_replaced() {
    let node = Node::start();
    let mut subscriber = node.subscribe(&["/topic/a", "--count", "1"]);
    let address = node.stop();
    let node = Node::start_on(&address);
    let url = node.url();
    for _ in 0..100 {
        run(&["pub", &url, "/topic/a", "1"]).succeeded();
        if !subscriber.is_running() {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
    assert_eq!(subscriber.ended().succeeded(), "/topic/a 1\n");
}

#[test]
fn what_pub_and_sub_are_refused_is_told_and_fails() {
    let node = Node::start();
    let url = node.url();
    let error = run(&["pub", &url, "/queue/a", "x"]).failed();
    assert!(error.contains("can't publish to /queue/a") && error.contains("forbidden"), "{error}");
    let error = run(&["sub", &url, "/queue/a", "--count", "1"]).failed();
    assert!(error.contains("can't subscribe to /queue/a"), "{error}");
    let error = run_with(&["pub", &url, "/topic/a", "x"], &[("FANLIGHT_TOKEN", "bad")]).failed();
    assert!(error.contains("HTTP 401") && error.contains("remedy"), "{error}");
    let error = run(&["pub", "wss://127.0.0.1/ws", "/topic/a", "x"]).failed();
    assert!(error.contains("TLS"), "{error}");
    let error = run(&["pub", "ws://127.0.0.1:1/ws", "/topic/a", "x"]).failed();
    assert!(error.contains("can't reach 127.0.0.1:1") && error.contains("remedy"), "{error}");
}

/// A node with a history of two messages, and with queues, and a token for it.
fn kept() -> (Node, String) {
    kept_on("127.0.0.1:0")
}

fn kept_on(address: &str) -> (Node, String) {
    let config = format!(
        r#"
workers = 1
listen = {{ public = "{address}", admin = "127.0.0.1:0" }}
broker.kind = "memory"
auth.keys = [{{ algorithm = "HS256", secret = "{SECRET}" }}]
drain = {{ grace = "0s", window = "1s" }}
[[namespaces]]
name = "passing"
match = "/topic/passing/*"
[[namespaces]]
name = "news"
match = "/topic/**"
patterns = true
history = {{ size = 2, ttl = "1h" }}
[[namespaces]]
name = "jobs"
match = "/queue/**"
mode = "queue"
queue = {{ ack_timeout = "1h" }}
[[policy.rules]]
effect = "allow"
destination = "/topic/**"
[[policy.rules]]
effect = "allow"
destination = "/queue/**"
"#
    );
    (Node::start_configured(&config), mint(&[]))
}

/// What `sub` prints of these, as JSON.
fn lines(printed: &str) -> Vec<Value> {
    printed.lines().map(parsed).collect()
}

fn values<'l>(lines: &'l [Value], field: &str) -> Vec<&'l Value> {
    lines.iter().map(|line| &line[field]).collect()
}

#[test]
fn sub_goes_on_behind_a_position_or_says_why_it_can_not() {
    let (node, token) = kept();
    let (url, to) = (node.url(), "/topic/a");
    let publish = |n: u8| run(&["pub", &url, to, &n.to_string(), "--token", &token]).succeeded();
    let sub = |args: &[&str]| {
        node.subscribe(&[&[to, "--json", "--token", &token, "--count", "2"], args].concat())
    };
    publish(1);
    let first = sub(&["--history", "2"]);
    publish(2);
    let printed = lines(&first.ended().succeeded());
    assert_eq!(values(&printed, "data"), [1, 2]);
    let since = printed[0]["position"].as_str().unwrap();
    let epoch = printed[0]["epoch"].as_str().unwrap();
    assert_eq!((&*format!("{epoch}:1"), &printed[1]["offset"]), (since, &2.into()));

    publish(3);
    let later = sub(&["--since", since]);
    assert!(!later.notes.contains("recovered"), "{}", later.notes);
    let printed = lines(&later.ended().succeeded());
    assert_eq!(values(&printed, "data"), [2, 3]);

    publish(4);
    for (position, reason) in [(since, "position_too_old"), ("0:1", "epoch_changed")] {
        let later = sub(&["--since", position]);
        let told = format!("not recovered: what came after {position} in {to} can't be had");
        let behind = format!("({reason}); going on behind {epoch}:");
        assert!(later.notes.contains(&told) && later.notes.contains(&behind), "{}", later.notes);
        publish(5);
        publish(6);
        assert_eq!(values(&lines(&later.ended().succeeded()), "data"), [5, 6]);
    }
}

#[test]
fn a_script_is_told_of_messages_that_can_not_be_had() {
    let (node, token) = kept();
    let publish = |node: &Node, n: &str| {
        run(&["pub", &node.url(), "/topic/a", n, "--token", &token]).succeeded();
    };
    publish(&node, "1");
    let args = ["/topic/a", "--json", "--token", &token, "--history", "1", "--count", "2"];
    let mut subscriber = node.subscribe(&args);
    // Its memory, and so its history, ends with it.
    let (node, _) = kept_on(&node.stop());
    while subscriber.is_running() {
        publish(&node, "2");
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
    let printed = lines(&subscriber.ended().succeeded());
    assert_eq!(printed[0]["data"], 1);
    assert_eq!(
        (&printed[1]["to"], &printed[1]["lost"]),
        (&"/topic/a".into(), &"epoch_changed".into())
    );
    assert_eq!(printed[2]["data"], 2);
}

#[test]
fn sub_acknowledges_what_it_has_printed_and_no_more() {
    let (node, token) = kept();
    let (url, to) = (node.url(), "/queue/a");
    for body in ["1", "2", "3"] {
        run(&["pub", &url, to, body, "--token", &token]).succeeded();
    }
    let take = |count: &str| {
        let args = [to, "--json", "--ack", "--token", &token, "--count", count];
        lines(&node.subscribe(&args).ended().succeeded())
    };
    // What is not acknowledged would come again at once, as its consumer leaves.
    assert_eq!(values(&take("1"), "data"), [1]);
    assert_eq!(values(&take("2"), "data"), [2, 3]);
    run(&["pub", &url, to, "4", "--token", &token]).succeeded();
    assert_eq!(values(&take("1"), "data"), [4]);
}

#[test]
fn what_sub_can_not_begin_with_is_told() {
    let (node, token) = kept();
    let url = node.url();
    let sub =
        |args: &[&str]| run(&[&["sub", &url, "--token", &token, "--count", "1"], args].concat());
    let error = sub(&["/topic/a", "/topic/b", "--since", "1:1"]).failed();
    assert!(error.contains("one destination"), "{error}");
    let error = sub(&["/topic/a", "--ack"]).failed();
    assert!(
        error.contains("can't subscribe to /topic/a") && error.contains("not_a_queue"),
        "{error}"
    );
    for wrong in [&["--since", "1"][..], &["--since", "1:1", "--ack"], &["--history", "0"]] {
        let error = sub(&[&["/topic/a"], wrong].concat()).refused();
        assert!(error.contains(wrong[0]), "{error}");
    }
    let pattern =
        node.subscribe(&["/topic/*", "--since", "1:1", "--token", &token, "--count", "1"]);
    assert!(pattern.notes.contains("can't be had (no_history)"), "{}", pattern.notes);
    run(&["pub", &url, "/topic/a", "1", "--token", &token]).succeeded();
    assert_eq!(pattern.ended().succeeded(), "/topic/a 1\n");
    let passing =
        node.subscribe(&["/topic/passing/a", "--history", "1", "--token", &token, "--count", "1"]);
    assert!(passing.notes.contains("no history is kept of /topic/passing/a"), "{}", passing.notes);
    run(&["pub", &url, "/topic/passing/a", "1", "--token", &token]).succeeded();
    assert_eq!(passing.ended().succeeded(), "/topic/passing/a 1\n");
}

#[test]
fn a_completion_script_knows_the_commands() {
    let script = run(&["completions", "bash"]).succeeded();
    assert!(script.contains("completions") && script.contains("serve"));
}

fn parsed(line: &str) -> Value {
    serde_json::from_str(line).unwrap()
}

#[test]
fn doctor_passes_a_redis_that_works_and_warns_of_what_will_give_trouble() {
    let redis = RedisServer::start_with(&["--maxmemory-policy", "allkeys-lru"]).unwrap();
    let report = run(&["doctor", "--redis", &redis.url()]).succeeded();
    for (verdict, check) in [
        ("ok", "connection"),
        ("ok", "version"),
        ("ok", "scripts"),
        ("warning", "eviction"),
        ("warning", "durability"),
        ("warning", "output buffer"),
    ] {
        assert!(report.contains(&format!("{verdict:8} {check}")), "{check}: {report}");
    }
    let json = run(&["doctor", "--json", "--redis", &redis.url()]).succeeded();
    let findings: Vec<Value> = serde_json::from_str(&json).unwrap();
    assert!(findings.iter().any(|finding| finding["check"] == "delivery"), "{json}");
}

#[test]
fn doctor_fails_where_fanlight_can_not_work_and_says_why() {
    let redis = RedisServer::start().unwrap();
    redis.command("ACL SETUSER ann on >pw ~other:* &other:* +@all").unwrap();
    let url = format!("redis://ann:pw@{}", redis.address());
    let ended = run(&["doctor", "--redis", &url]);
    let report = ended.output();
    assert!(ended.failed().contains("2 problems"), "{report}");
    assert!(report.contains("problem  scripts"), "{report}");
    assert!(report.contains("problem  delivery"), "{report}");
    assert!(!report.contains("pw@"), "{report}");
    let nobody = RedisServer::stopped().unwrap();
    let ended = run(&["doctor", "--redis", &nobody.url()]);
    assert!(ended.output().contains("connection refused"));
    ended.failed();
}

#[test]
fn doctor_looks_at_every_master_of_a_cluster_and_at_who_sentinels_name() {
    let cluster = RedisCluster::start(3, 0).unwrap();
    let report = run(&["doctor", "--redis", &cluster.url()]).succeeded();
    assert!(report.contains("ok       slots"), "{report}");
    assert_eq!(report.matches("ok       delivery").count(), 3, "{report}");
    let sentinel = RedisSentinel::start(1, 3).unwrap();
    let report = run(&["doctor", "--redis", &sentinel.url()]).succeeded();
    assert!(report.contains("3 sentinels, one master"), "{report}");
    assert!(report.contains(&sentinel.master().unwrap().to_string()), "{report}");
    let wrong = sentinel.url().replace("/fanlight", "/other");
    let ended = run(&["doctor", "--redis", &wrong]);
    assert!(ended.output().contains("does not know this master"), "{}", ended.output());
    ended.failed();
}

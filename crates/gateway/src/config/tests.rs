//! What layers do to each other, and what a wrong option is told.

use std::ffi::OsString;
use std::path::PathBuf;

use expect_test::{Expect, expect};

use super::reference::OptionDoc;
use super::*;

fn layers(file: &str, env: &[(&str, &str)]) -> (tempfile::TempDir, Layers) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("f.toml");
    std::fs::write(&path, file).unwrap();
    let env = env.iter().map(|(k, v)| (OsString::from(k), OsString::from(v))).collect();
    (folder, Layers { file: Some(path), env, ..Layers::default() })
}

fn load(file: &str, env: &[(&str, &str)]) -> Config {
    let (_folder, layers) = layers(file, env);
    Config::load(&layers).unwrap().config
}

/// The error for a file and an environment, with the file called `f.toml`.
fn check(file: &str, env: &[(&str, &str)], expected: &Expect) {
    let (folder, layers) = layers(file, env);
    let error = Config::load(&layers).and_then(Loaded::checked).unwrap_err();
    let folder = format!("{}/", folder.path().display());
    expected.assert_eq(&error.to_string().replace(&folder, ""));
}

#[test]
fn each_layer_wins_over_the_one_before() {
    let (_folder, mut layers) = layers(
        "workers = 3\n[listen]\npublic = '127.0.0.1:1'\nadmin = '127.0.0.1:2'",
        &[("FANLIGHT__LISTEN__PUBLIC", "127.0.0.1:3"), ("FANLIGHT__LISTEN__ADMIN", "127.0.0.1:4")],
    );
    layers.dev = true;
    layers.flags.push(Flag { name: "--admin", key: "listen.admin", value: "127.0.0.1:5".into() });
    let config = Config::load(&layers).unwrap().config;
    assert_eq!(config.broker.kind, BrokerKind::Memory, "the preset, over the default");
    assert_eq!(config.workers, 3, "the file, over the default");
    assert_eq!(config.listen.public.port(), 3, "the environment, over the file");
    assert_eq!(config.listen.admin.port(), 5, "a flag, over the environment");
}

#[test]
fn the_environment_can_set_lists_and_what_is_in_them() {
    let config = load(
        "[[auth.keys]]\nid = 'a'\nalgorithm = 'HS256'",
        &[
            ("FANLIGHT__ORIGIN__ALLOW", "https://a.test, https://*.b.test"),
            ("FANLIGHT__AUTH__KEYS__0__SECRET", "from the environment"),
            ("FANLIGHT__POLICY__RULES", "[{ effect = 'allow', destination = '/topic/**' }]"),
            ("FANLIGHT__AUTH__QUERY", "false"),
            ("FANLIGHT__LIMITS__MESSAGE", "1MiB"),
            ("UNRELATED", "x"),
        ],
    );
    assert_eq!(config.origin.allow.len(), 2);
    assert_eq!(config.auth.keys[0].id, "a");
    assert_eq!(config.auth.keys[0].secret, Secret::new("from the environment"));
    assert_eq!(config.policy.rules[0].effect, Effect::Allow);
    assert!(!config.auth.query);
    assert_eq!(config.limits.message, Size(1 << 20));
}

#[test]
fn an_unknown_option_is_an_error_with_a_suggestion() {
    check(
        "[listen]\npubic = '0.0.0.0:80'\n[native]\nheartbeat_send = '1s'\n[nonsense]\nx = 1",
        &[("FANLIGHT__ORIGIN__ALOW", "*")],
        &expect![[r"
            listen.pubic (f.toml:2): there is no such option
              remedy: did you mean `listen.public`?
            native.heartbeat_send (f.toml:4): there is no such option
              remedy: did you mean `native.heartbeat`?
            nonsense (f.toml:6): there is no such option
              remedy: remove it; `fanlight config defaults` lists every option
            origin.alow (FANLIGHT__ORIGIN__ALOW): there is no such option
              remedy: did you mean FANLIGHT__ORIGIN__ALLOW?"]],
    );
}

#[test]
fn a_wrong_value_is_told_with_its_place_and_the_remedy() {
    check(
        "[limits]\nmessage = '64 potatoes'",
        &[],
        &expect![[r#"
        limits.message = "64 potatoes" (f.toml:2): not a size
          remedy: write a number of bytes with or without a unit, as in "64KiB" or "1MiB""#]],
    );
    check(
        "[auth]\nquery = [1]",
        &[],
        &expect![[r"
            auth.query (f.toml:2): a list, where a boolean belongs
              remedy: expected is true or false; the default is true"]],
    );
    check(
        "[broker]\nkind = 'redsi'",
        &[],
        &expect![[r#"
            broker.kind = "redsi" (f.toml:2): not one of "memory", "redis"
              remedy: expected is "memory" or "redis"; the default is "redis""#]],
    );
    check(
        "[origin]\nallow = ['https://a.test', 'a.test']",
        &[],
        &expect![[r#"
            origin.allow[1] = "a.test" (f.toml:2): not an origin
              remedy: write scheme and host without a path, as in "https://app.example.com", "https://*.example.com" or "http://localhost:3000", or "*" for any"#]],
    );
    check(
        "[[auth.keys]]\nsecret = 'x'",
        &[],
        &expect![[r"
        auth.keys[0] (f.toml:1): `algorithm` is missing
          remedy: add `algorithm`; `fanlight config defaults` tells what it is"]],
    );
    check(
        "[[namespaces]]\nname = 'x'\nmatch = '/nowhere/**'",
        &[],
        &expect![[r#"
            namespaces[0].match = "/nowhere/**" (f.toml:3): destination must begin with /topic/, /queue/, /user/ or /app/
              remedy: expected is pattern"#]],
    );
    check(
        "",
        &[("FANLIGHT__WORKERS", "many")],
        &expect![[r#"
            workers = "many" (FANLIGHT__WORKERS): text, where an integer belongs
              remedy: expected is whole number; the default is 0"#]],
    );
    check(
        "",
        &[("FANLIGHT__STOMP__HEARTBEAT_SEND", "10")],
        &expect![[r#"
            stomp.heartbeat_send = "10" (FANLIGHT__STOMP__HEARTBEAT_SEND): not a duration
              remedy: write a number with its unit, as in "25s", "1m 30s" or "250ms""#]],
    );
    check(
        "[listen\n",
        &[],
        &expect![[r"
        f.toml is not valid TOML: TOML parse error at line 1, column 8
          |
        1 | [listen
          |        ^
        unclosed table, expected `]`"]],
    );
}

#[test]
fn leases_and_events_that_could_not_work_are_refused() {
    let rest = "
[[auth.keys]]
algorithm = 'HS256'
secret = 'thirty-two bytes or more of secret'
[[namespaces]]
name = 'topic'
match = '/topic/**'
patterns = true
events = true";
    check(
        &format!("[broker]\nkind = 'memory'\n[events]\nenabled = true\nmax_length = 0{rest}"),
        &[],
        &expect![[r#"
            events.enabled = true (f.toml:4): set, but without Redis there is nowhere to write events
              remedy: remove it, name a webhook in events.webhooks, or set broker.kind = "redis"
            events.max_length = 0 (f.toml:5): zero
              remedy: set it above zero
            namespaces[0].events = true (f.toml:13): set together with patterns
              remedy: choose one, or split the namespace"#]],
    );
    let cluster = "[cluster]\nlease = '5s'\nlease_renew = '2s'";
    let redis = "[redis]\nurl = 'redis://h'";
    check(
        &format!("{cluster}\n{redis}{rest}"),
        &[],
        &expect![[r#"
        cluster.lease = "5s" (f.toml:2): less than three times cluster.lease_renew (2s)
          remedy: make it longer: a renewal or two may fail
        namespaces[0].events = true (f.toml:13): set, but no events are written
          remedy: set events.enabled = true"#]],
    );
}

#[test]
fn what_is_missing_or_does_not_fit_is_told_all_at_once() {
    check(
        "",
        &[],
        &expect![[r#"
        auth.keys: there are none, so nobody could connect
          remedy: add an [[auth.keys]] with `algorithm` and `secret_file` or `public_key_file`, or a namespace with `anonymous = true`, or have a backend decide by hooks.connect; to try Fanlight out, use `fanlight serve --dev`
        namespaces: there are none, so no destination could be used
          remedy: add a [[namespaces]] for each part of the destination space, as in `name = "topic"`, `match = "/topic/**"`
        redis.url: not set
          remedy: set it to redis://host:6379, by file, FANLIGHT__REDIS__URL or --redis; for a single node without Redis set broker.kind = "memory""#]],
    );
    check(
        "[auth]
cookie = 'sid'
[origin]
allow = ['*']
[[auth.keys]]
id = 'a'
algorithm = 'HS256'
secret = 'hunter2'
[[auth.keys]]
id = 'a'
algorithm = 'RS256'
secret = 'hunter2'
[[namespaces]]
name = 'Topic!'
match = '/topic/**'
[limits]
outbox = '1KiB'
[broker]
kind = 'memory'",
        &[],
        &expect![[r#"
            auth.keys[0].secret = (hidden) (f.toml:8): a secret of 7 bytes is too short for HS256
              remedy: use 32 random bytes or more, as from `openssl rand -hex 32`
            auth.keys[1].id = "a" (f.toml:10): the id of another key too
              remedy: give each key an id of its own
            auth.keys[1].secret = (hidden) (f.toml:12): does not fit the algorithm
              remedy: RS256 needs exactly one of public_key_pem and public_key_file
            origin.allow (f.toml:4): "*" together with auth.cookie: any web page could act as its visitor
              remedy: list the origins of your own pages, or don't use a cookie
            namespaces[0].name = "Topic!" (f.toml:14): namespace "Topic!": a name is 1-64 of a-z, A-Z, 0-9, _ and -
              remedy: choose a name of its own, as in "news"
            limits.outbox = "1KiB" (f.toml:17): smaller than limits.message (64KiB): such a message could never be sent
              remedy: make it several times as large"#]],
    );
}

#[test]
fn a_message_that_would_not_fit_between_nodes_in_sockjs_is_refused() {
    check(
        "[broker]
kind = 'memory'
[[namespaces]]
name = 'a'
match = '/topic/**'
anonymous = true
[limits]
message = '2MiB'
outbox = '4MiB'",
        &[],
        &expect![[r#"
            limits.message = "2MiB" (f.toml:8): more than 1MiB: a byte of it may be six in a frame of SockJS, and what goes from node to node has 8MiB at most
              remedy: send less at once, or where to fetch it"#]],
    );
}

#[test]
fn a_history_has_bounds_and_defaults() {
    let namespace = |history: &str| {
        format!(
            "[broker]\nkind = 'memory'\n[[namespaces]]\nname = 'a'\nmatch = '/topic/**'\n\
             anonymous = true\nhistory = {history}"
        )
    };
    check(
        &namespace("{ size = 0, ttl = '31days' }"),
        &[],
        &expect![[r#"
        namespaces[0].history.size = 0 (f.toml:7): not from 1 to 100000
          remedy: keep as many messages as come while a client reconnects, as in 100
        namespaces[0].history.ttl = "31days" (f.toml:7): not from "1s" to "30days"
          remedy: keep them for as long as a client may be away, as in "5m""#]],
    );
    check(
        &namespace("{ size = 100001, ttl = '999ms' }"),
        &[],
        &expect![[r#"
        namespaces[0].history.size = 100001 (f.toml:7): not from 1 to 100000
          remedy: keep as many messages as come while a client reconnects, as in 100
        namespaces[0].history.ttl = "999ms" (f.toml:7): not from "1s" to "30days"
          remedy: keep them for as long as a client may be away, as in "5m""#]],
    );
    check(
        &namespace("{ sise = 7 }"),
        &[],
        &expect![[r"
        namespaces[0].history.sise (f.toml:7): there is no such option
          remedy: did you mean `namespaces[0].history.size`?"]],
    );
    let config = load(&namespace("{ size = 100000 }"), &[]);
    assert_eq!(
        config.namespaces[0].history,
        Some(History { size: 100_000, ttl: Span::seconds(300) })
    );
    assert_eq!(load(&namespace("{}"), &[]).namespaces[0].history, Some(History::default()));
}

#[test]
fn no_secret_is_shown_by_errors_debug_or_json() {
    let file = "[redis]\nurl = 'hunter2'\n[[auth.keys]]\nalgorithm = 'HS256'\nsecret = 'hunter2'\n\
                [[auth.accounts]]\nlogin = 'app'\npasscode = 'hunter2'\npasscode_file = 'f'";
    let (_folder, layers) = layers(file, &[]);
    let loaded = Config::load(&layers).unwrap();
    let json = serde_json::to_string(&loaded.config).unwrap();
    let shown = format!("{:?} {json}", loaded.config);
    let error = loaded.checked().unwrap_err().to_string();
    assert!(!shown.contains("hunter2") && !error.contains("hunter2"), "{shown} {error}");
}

#[test]
fn accounts_that_could_not_be_used_are_refused() {
    let rest = "[broker]\nkind = 'memory'\n[[namespaces]]\nname = 'a'\nmatch = '/topic/**'\n";
    check(
        &format!(
            "{rest}[[auth.accounts]]\nlogin = 'app'\npasscode = 'sixteen or more of them'\n\
             [[auth.accounts]]\nlogin = 'app'\n\
             [[auth.accounts]]\nlogin = \"a\\nb\"\npasscode_file = '/nowhere/passcode'"
        ),
        &[],
        &expect![[r#"
            auth.accounts[1].login = "app" (f.toml:10): the login of another account too
              remedy: give each account a login of its own
            auth.accounts[1].passcode: empty
              remedy: give exactly one of passcode and passcode_file
            auth.accounts[2].login = "a\nb" (f.toml:12): not a name of 1-128 bytes without control characters
              remedy: choose one that no token names, as in "backend"
            auth.accounts[2].passcode_file = "/nowhere/passcode" (f.toml:13): can't read /nowhere/passcode: No such file or directory (os error 2)
              remedy: check the path and its permissions"#]],
    );
}

#[test]
fn a_passcode_that_can_be_guessed_is_warned_of_wherever_it_stands() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("passcode");
    std::fs::write(&path, "hunter2\r\n").unwrap();
    let account =
        |login: &str, more: String| format!("[[auth.accounts]]\nlogin = '{login}'\n{more}\n");
    let file = [
        account("a", "passcode = 'guest'".into()),
        account("b", format!("passcode_file = '{}'", path.display())),
        account("c", "passcode = '0123456789abcdef'".into()),
    ];
    let config = load(&file.concat(), &[]);
    let passcode = config.auth.accounts[1].read_passcode("").unwrap();
    assert_eq!(passcode.reveal(), "hunter2");
    let warnings: Vec<_> = config.warnings().iter().map(ToString::to_string).collect();
    let warnings: Vec<_> = warnings.iter().filter(|text| text.contains("accounts")).collect();
    assert_eq!(warnings.len(), 2, "{warnings:?}");
    assert!(warnings[0].contains("auth.accounts[0].passcode") && !warnings[0].contains("guest"));
    assert!(warnings[1].contains("auth.accounts[1].passcode_file"), "{warnings:?}");
}

#[test]
fn a_listener_that_could_not_be_served_is_refused() {
    let rest = "[broker]\nkind = 'memory'\n[[namespaces]]\nname = 'a'\nmatch = '/topic/**'\nanonymous = true\n";
    check(
        &format!("[listen]\npublic = '127.0.0.1:8080'\nstomp = '127.0.0.1:8080'\n{rest}"),
        &[],
        &expect![[r#"
            listen.stomp = "127.0.0.1:8080" (f.toml:3): the same address as listen.public
              remedy: give STOMP over TCP a port of its own, as in 61613"#]],
    );
    let pem = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/keys/p256.public.pem");
    for (tls, fault) in [
        ("certificate_file = '/nowhere/a.pem'", "missing beside the other file"),
        ("private_key_file = '/nowhere/a.pem'", "missing beside the other file"),
        ("certificate_file = '/nowhere/a'\nprivate_key_file = '/nowhere/a'", "can't read"),
        (
            &format!("certificate_file = '{pem}'\nprivate_key_file = '{pem}'"),
            "p256.public.pem holds none",
        ),
    ] {
        for option in ["listen.tls", "listen.stomp_tls"] {
            let file = format!("{rest}[listen]\nstomp = '127.0.0.1:0'\n[{option}]\n{tls}");
            let (_folder, layers) = layers(&file, &[]);
            let error = Config::load(&layers).and_then(Loaded::checked).unwrap_err().to_string();
            assert!(error.contains(option) && error.contains(fault), "{error}");
        }
    }
}

#[test]
fn the_development_preset_can_be_served_and_has_a_new_secret_each_time() {
    let dev = || Config::load(&Layers { dev: true, ..Layers::default() }).unwrap();
    assert_ne!(dev().config.auth.keys[0].secret, dev().config.auth.keys[0].secret);
    let config = dev().checked().unwrap();
    assert!(config.listen.public.ip().is_loopback() && config.listen.admin.ip().is_loopback());
    assert_eq!(config.drain.grace.as_ms(), 0);
}

#[test]
fn the_reference_parses_back_to_the_defaults() {
    let config = load(&reference::defaults(), &[]);
    assert_eq!(config, Config::default());
}

#[test]
fn the_examples_of_the_reference_are_valid() {
    let config = load(reference::EXAMPLES, &[]);
    assert!(!config.auth.keys.is_empty() && !config.namespaces.is_empty());
    assert!(!config.policy.rules.is_empty());
}

#[test]
fn every_option_can_be_set_by_its_variable_and_has_a_meaning() {
    for option in reference::options() {
        assert!(!option.doc.is_empty(), "{} has no doc", option.path);
        let Some(default) = option.default.as_deref().filter(|_| !option.is_list) else {
            continue;
        };
        let value = default.trim_matches('"');
        assert_eq!(load("", &[(&option.env, value)]), Config::default(), "{}", option.env);
    }
}

/// `UPDATE_EXPECT=1 cargo test -p fanlight` writes them anew.
#[test]
fn the_reference_in_the_documentation_is_up_to_date() {
    expect_test::expect_file![docs().join("reference.toml")].assert_eq(&reference::defaults());
    let schema = serde_json::to_string_pretty(&reference::schema()).unwrap();
    expect_test::expect_file![docs().join("reference.schema.json")].assert_eq(&(schema + "\n"));
}

/// `UPDATE_EXPECT=1 cargo test -p fanlight` writes it anew.
#[test]
fn the_table_of_options_in_the_documentation_is_up_to_date() {
    let path = docs().join("configuration.md");
    let text = std::fs::read_to_string(&path).unwrap();
    let (before, rest) = text.split_once("<!-- options -->\n").unwrap();
    let (_, after) = rest.split_once("<!-- end of options -->").unwrap();
    let mut table = String::from("| option | holds | default | meaning |\n|---|---|---|---|\n");
    for OptionDoc { path, kind, default, doc, is_required, .. } in reference::options() {
        let default = match (default, is_required) {
            (Some(default), _) => format!("`{default}`"),
            (None, true) => "required".into(),
            (None, false) => String::new(),
        };
        table.extend(["| `", &path, "` | ", &kind, " | ", &default, " | ", &doc, " |\n"]);
    }
    let current = format!("{before}<!-- options -->\n{table}<!-- end of options -->{after}");
    expect_test::expect_file![path].assert_eq(&current);
}

#[test]
fn the_example_in_the_documentation_can_be_served() {
    let text = std::fs::read_to_string(docs().join("configuration.md")).unwrap();
    let (_, rest) = text.split_once("```toml\n").unwrap();
    let (example, _) = rest.split_once("```").unwrap();
    let pem = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/keys/p256.public.pem");
    let (_folder, layers) = layers(&example.replace("/etc/fanlight/jwt.pem", pem), &[]);
    let config = Config::load(&layers).and_then(Loaded::checked).unwrap();
    assert_eq!(config.warnings(), []);
}

fn docs() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../docs")
}

#[test]
fn a_heartbeat_that_could_not_be_kept_is_refused_and_none_is_allowed() {
    let file = "[broker]\nkind = 'memory'\n[[namespaces]]\nname = 'a'\nmatch = '/topic/**'\nanonymous = true\n";
    for (key, beats) in [
        ("stomp.heartbeat_send", "[stomp]\nheartbeat_send = '500ms'"),
        ("stomp.heartbeat_receive", "[stomp]\nheartbeat_receive = '1999ms'"),
        ("native.heartbeat", "[native]\nheartbeat = '1s'"),
    ] {
        let (_folder, layers) = layers(&format!("{file}{beats}"), &[]);
        let error = Config::load(&layers).and_then(Loaded::checked).unwrap_err().to_string();
        assert!(error.contains(key) && error.contains("at least \"2s\""), "{error}");
    }
    let beats =
        "[stomp]\nheartbeat_send = '0s'\nheartbeat_receive = '2s'\n[native]\nheartbeat = '2s'";
    let (_folder, layers) = layers(&format!("{file}{beats}"), &[]);
    Config::load(&layers).and_then(Loaded::checked).unwrap();
}

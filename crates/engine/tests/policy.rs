//! The policy: namespaces, ordered rules, default deny, user destinations, patterns.

#![expect(clippy::unwrap_used, reason = "to panic is how a test fails")]

use fanlight_engine::auth::Principal;
use fanlight_engine::hub::Target;
use fanlight_engine::ids::Ids;
use fanlight_engine::policy::{
    Action, Denied, Grants, Namespace, Namespaces, Policy, PolicyError, PolicyRule, PublishPermit,
    RuleEffect, Subject, Who,
};
use fanlight_engine::publication::SessionId;
use fanlight_engine::time::Now;
use fanlight_proto::{Destination, DestinationPattern};
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;

#[test]
fn what_no_rule_matches_is_denied() {
    let policy = policy(&["/topic/**"], &[allow("/topic/a")]);
    assert!(may_subscribe(&policy, &user("ann"), "/topic/a"));
    assert!(!may_subscribe(&policy, &user("ann"), "/topic/b"));
    assert!(!may_publish(&policy, &user("ann"), "/topic/b"));
}

#[test]
fn what_no_namespace_has_is_denied_to_clients_and_backends() {
    let policy = policy(&["/topic/a"], &[allow("/topic/**")]);
    let denied = policy.subscribe(&subject(Some(&user("ann"))), &destination("/topic/b"));
    assert_eq!(denied.err(), Some(Denied::NoNamespace));
    let backend = PublishPermit::for_backend(policy.namespaces(), &destination("/topic/b"));
    assert_eq!(backend, Err(Denied::NoNamespace));
}

#[test]
fn the_first_rule_that_matches_decides() {
    let rules = [allow("/topic/a.1"), deny("/topic/a.*"), allow("/topic/**")];
    let policy = policy(&["/topic/**"], &rules);
    for (text, expected) in [("/topic/a.1", true), ("/topic/a.2", false), ("/topic/b", true)] {
        assert_eq!(may_subscribe(&policy, &user("ann"), text), expected, "{text}");
    }
}

#[test]
fn a_rule_is_about_its_actions_or_about_all() {
    let subscribe = PolicyRule { actions: vec![Action::Subscribe], ..allow("/topic/a") };
    let policy = policy(&["/topic/**"], &[subscribe, allow("/topic/b")]);
    assert!(may_subscribe(&policy, &user("ann"), "/topic/a"));
    assert!(!may_publish(&policy, &user("ann"), "/topic/a"));
    assert!(may_publish(&policy, &user("ann"), "/topic/b"));
}

#[test]
fn every_condition_of_a_rule_must_hold() {
    let ops = || Principal { roles: ["ops".into()].into(), ..user("ann") };
    let acme = || Principal {
        claims: [("org".into(), "x".into()), ("org".into(), "acme".into())].into(),
        ..ops()
    };
    let by = |change: fn(&mut PolicyRule)| {
        let mut rule = allow("/topic/a");
        change(&mut rule);
        policy(&["/topic/**"], &[rule])
    };
    let everything = by(|rule| {
        rule.users = vec!["bob".to_owned(), "ann".to_owned()];
        rule.roles = vec!["ops".to_owned(), "admin".to_owned()];
        rule.claims = [("org".to_owned(), "acme".to_owned())].into();
    });
    assert!(may_subscribe(&everything, &acme(), "/topic/a"));
    assert!(!may_subscribe(&everything, &ops(), "/topic/a"));
    assert!(!may_subscribe(&everything, &user("ann"), "/topic/a"));
    assert!(!may_subscribe(&everything, &Principal { user: "eve".into(), ..acme() }, "/topic/a"));
    let anonymous = by(|rule| rule.who = Who::Anonymous);
    assert!(!may_subscribe(&anonymous, &user("ann"), "/topic/a"));
}

#[test]
fn without_a_user_only_rules_without_conditions_count_and_only_anonymous_namespaces() {
    let namespaces =
        [namespace("open", "/topic/open/**", true), namespace("rest", "/topic/**", false)];
    let authenticated = PolicyRule { who: Who::Authenticated, ..allow("/topic/open/b") };
    let by_role = PolicyRule { roles: vec!["x".to_owned()], ..allow("/topic/open/c") };
    let only = PolicyRule { who: Who::Anonymous, ..allow("/topic/open/d") };
    let named = allow("/topic/open/{user}/x");
    let rules = [authenticated, by_role, only, named, allow("/topic/open/a"), allow("/topic/z")];
    let policy = Policy::new(&namespaces, &rules).unwrap();
    let nobody = subject(None);
    for (text, expected) in [
        ("/topic/open/a", None),
        ("/topic/open/b", Some(Denied::NotAllowed)),
        ("/topic/open/c", Some(Denied::NotAllowed)),
        ("/topic/open/d", None),
        ("/topic/open/ann/x", Some(Denied::NotAllowed)),
        ("/topic/z", Some(Denied::Anonymous)),
    ] {
        let denied = policy.subscribe(&nobody, &destination(text)).err();
        assert_eq!(denied, expected, "{text}");
    }
    assert!(policy.allows_anonymous());
}

#[test]
fn the_variable_user_is_the_principals_name_literally() {
    let policy =
        policy(&["/**"], &[allow("/topic/of.{user}.x/**"), allow("/user/{user}/topic/**")]);
    for (name, text, expected) in [
        ("ann", "/topic/of.ann.x/a", true),
        ("ann", "/topic/of.bob.x/a", false),
        ("an", "/topic/of.ann.x/a", false),
        ("a.x", "/topic/of.a.x.x/a", true),
        ("a/b", "/topic/of.a/b.x/a", false),
        ("*", "/topic/of.ann.x/a", false),
        ("{user}", "/topic/of.ann.x/a", false),
        ("ann", "/user/ann/topic/a", true),
        ("ann", "/user/bob/topic/a", false),
        ("a/b", "/user/a%2Fb/topic/a", true),
        ("a/b", "/user/topic/a", true),
    ] {
        assert_eq!(may_subscribe(&policy, &user(name), text), expected, "{name} {text}");
    }
}

#[test]
fn a_variable_may_be_compared_with_a_claim() {
    let mut rule = allow("/topic/{tenant}/{room}");
    rule.claims = [("org".to_owned(), "{tenant}".to_owned())].into();
    let policy = policy(&["/topic/**"], &[rule]);
    let of = |org: &str| Principal { claims: [("org".into(), org.into())].into(), ..user("ann") };
    assert!(may_subscribe(&policy, &of("acme"), "/topic/acme/1"));
    assert!(!may_subscribe(&policy, &of("acme"), "/topic/other/1"));
    assert!(!may_subscribe(&policy, &user("ann"), "/topic/acme/1"));
    assert_eq!(policy.claim_names(), ["org"]);
}

#[test]
fn an_own_destination_is_matched_by_either_of_its_names() {
    for rule in ["/user/queue/**", "/user/{user}/queue/**", "/user/*/queue/**", "/user/ann/queue/x"]
    {
        let policy = policy(&["/**"], &[allow(rule)]);
        for text in ["/user/queue/x", "/user/ann/queue/x", "/user/%61nn/queue/x"] {
            assert!(may_subscribe(&policy, &user("ann"), text), "{rule} {text}");
        }
        let denying = self::policy(&["/**"], &[deny(rule), allow("/user/*/queue/**")]);
        for text in ["/user/queue/x", "/user/ann/queue/x", "/user/%61nn/queue/x"] {
            assert!(!may_subscribe(&denying, &user("ann"), text), "deny {rule} {text}");
        }
    }
}

#[test]
fn another_users_destination_is_matched_by_its_absolute_name_only() {
    for (rule, expected) in [
        ("/user/queue/**", false),
        ("/user/**", false),
        ("/user/{user}/queue/**", false),
        ("/user/{name}/queue/**", true),
        ("/user/*/queue/**", true),
        ("/user/bob/queue/**", true),
    ] {
        let policy = policy(&["/**"], &[allow(rule)]);
        assert_eq!(may_publish(&policy, &user("ann"), "/user/bob/queue/x"), expected, "{rule}");
    }
    let denying = policy(&["/**"], &[deny("/user/**"), allow("/user/*/queue/**")]);
    assert!(!may_publish(&denying, &user("ann"), "/user/bob/queue/x"));
}

#[test]
fn no_users_name_is_mistaken_for_a_part_of_a_destination() {
    let policy = policy(&["/**"], &[allow("/user/{user}/queue/**")]);
    for (name, other) in [
        ("queue", "/user/topic/queue/x"),
        ("topic", "/user/ann/queue/x"),
        ("~0198", "/user/~0198/queue/x"),
        ("**", "/user/ann/queue/x"),
        ("ann/queue", "/user/ann/queue/queue/x"),
    ] {
        let permit = policy.subscribe(&subject(Some(&user(name))), &destination("/user/queue/x"));
        let (target, _) = permit.unwrap().permit().unwrap().into_parts();
        let Target::Destination(own) = target else { panic!("{name}") };
        assert_eq!(own.user_name().as_deref(), Some(name));
        let denied = policy.subscribe(&subject(Some(&user(name))), &destination(other));
        assert!(denied.is_err(), "{name} {other}");
    }
}

#[test]
fn the_first_namespace_that_matches_decides_on_channel_and_anonymity() {
    let namespaces = [
        Namespace { patterns: true, ..namespace("wide", "/topic/w.*", true) },
        namespace("mine", "/user/queue/**", true),
        namespace("rest", "/topic/**", false),
    ];
    let compiled = Namespaces::new(&namespaces).unwrap();
    for (text, channel) in [
        ("/topic/w.1", "ns:wide"),
        ("/topic/x", "/topic/x"),
        ("/user/ann/queue/x", "/user/ann/queue/x"),
        ("/user/%61nn/queue/x", "/user/ann/queue/x"),
    ] {
        let permit = PublishPermit::for_backend(&compiled, &destination(text)).unwrap();
        assert_eq!(permit.channel().as_str(), channel, "{text}");
    }
    let own = PublishPermit::for_backend(&compiled, &destination("/user/queue/x"));
    assert_eq!(own, Err(Denied::NoUser));
    let private = PublishPermit::for_backend(&compiled, &destination("/user/~7/queue/x")).unwrap();
    assert_eq!(private.destination().as_str(), "/user/~7/queue/x");
}

#[test]
fn a_session_without_a_user_has_its_own_destinations() {
    let namespaces = [namespace("mine", "/user/queue/**", true)];
    let policy = Policy::new(&namespaces, &[allow("/user/queue/**")]).unwrap();
    let one = subject(None);
    let other = Subject { session: Ids::new(2).session(NOW), ..one };
    let own = |subject: &Subject<'_>| {
        policy.publish(subject, &destination("/user/queue/x")).unwrap().destination().clone()
    };
    assert_eq!(own(&one).as_str(), format!("/user/~{}/queue/x", one.session));
    let denied = policy.subscribe(&other, &own(&one));
    assert_eq!(denied.err(), Some(Denied::SessionPrivate));
}

#[test]
fn a_faulty_configuration_is_refused_and_names_what_is_faulty() {
    let namespaces = |all: &[Namespace]| Policy::new(all, &[]).unwrap_err().to_string();
    assert_eq!(
        namespaces(&[namespace("a b", "/topic/**", false)]),
        r#"namespace "a b": a name is 1-64 of a-z, A-Z, 0-9, _ and -"#
    );
    let twice = [namespace("a", "/topic/**", false), namespace("a", "/queue/**", false)];
    assert_eq!(namespaces(&twice), r#"namespace "a" is defined twice; rename one"#);
    assert_eq!(
        namespaces(&[namespace("a", "/topics/**", false)]),
        r#"namespace "a": pattern "/topics/**": destination must begin with /topic/, /queue/, /user/ or /app/"#
    );
    let second = |rule: PolicyRule| Policy::new(&[], &[allow("/topic/a"), rule]).unwrap_err();
    assert!(matches!(second(allow("/topic/{")), PolicyError::BadRulePattern { rule: 1, .. }));
    let mut unknown = allow("/topic/{room}");
    unknown.claims = [("org".to_owned(), "{tenant}".to_owned())].into();
    assert_eq!(
        second(unknown).to_string(),
        "rule 1: the destination has no {tenant} to compare a claim with"
    );
    for ambiguous in ["/topic/**/{user}", "/topic/{user}*", "/topic/{x}{user}", "/topic/?{user}"] {
        let error = second(allow(ambiguous));
        let variable = "user".to_owned();
        assert_eq!(error, PolicyError::AmbiguousVariable { rule: 1, variable }, "{ambiguous}");
    }
}

#[test]
fn a_pattern_is_permitted_only_where_all_of_it_surely_is() {
    let rules = [
        deny("/topic/a/secret.*"),
        allow("/topic/a/**"),
        PolicyRule { roles: vec!["ops".to_owned()], ..deny("/topic/b/x") },
        allow("/topic/b/{user}/*"),
        allow("/topic/c/1.*"),
        allow("/topic/c/2.*"),
        allow("/user/queue/**"),
        deny("/topic/d/**"),
        allow("/topic/**"),
    ];
    let namespaces = [
        Namespace { patterns: true, ..namespace("e", "/topic/e/**", false) },
        namespace("f", "/topic/f/**", false),
        Namespace { patterns: true, ..namespace("topic", "/topic/**", false) },
        Namespace { patterns: true, ..namespace("user", "/user/**", false) },
    ];
    let policy = Policy::new(&namespaces, &rules).unwrap();
    let ann = user("ann");
    for (text, expected) in [
        ("/topic/a/b/*", None),
        ("/topic/a/*", Some(Denied::NotAllowed)),
        ("/topic/a/secret.*", Some(Denied::NotAllowed)),
        ("/topic/a/?ecret", None),
        ("/topic/b/ann/*", None),
        ("/topic/b/ann/{x}.{y}", None),
        ("/topic/c/*.x", None),
        ("/topic/e/**", None),
        ("/topic/f/*", Some(Denied::Patterns)),
        ("/topic/*/x", Some(Denied::PatternTooWide)),
        ("/topic/**", Some(Denied::PatternTooWide)),
        ("/queue/*", Some(Denied::NoNamespace)),
        ("/topic/d/*", Some(Denied::NotAllowed)),
        ("/user/queue/*", None),
        ("/user/ann/queue/*", None),
        ("/user/bob/queue/*", Some(Denied::NotAllowed)),
        ("/user/topic/*", Some(Denied::NotAllowed)),
        ("/user/*/queue/x", Some(Denied::PatternOverUsers)),
        ("/user/**", Some(Denied::PatternOverUsers)),
        ("/user/~7/queue/*", Some(Denied::SessionPrivate)),
    ] {
        let permit = policy.subscribe_pattern(&subject(Some(&ann)), &pattern(text));
        assert_eq!(permit.err(), expected, "{text}");
    }
    let anonymous = policy.subscribe_pattern(&subject(None), &pattern("/topic/e/**"));
    assert_eq!(anonymous.err(), Some(Denied::Anonymous));
    for (name, text) in [("*", "/topic/b/*/x*"), ("a*", "/topic/b/a*/*"), ("{x}", "/topic/b/{x}/*")]
    {
        let by_name = [allow("/topic/b/{user}/*")];
        let policy = Policy::new(&namespaces, &by_name).unwrap();
        let permit = policy.subscribe_pattern(&subject(Some(&user(name))), &pattern(text));
        assert_eq!(permit.err(), Some(Denied::NotAllowed), "{name} {text}");
    }
}

#[test]
fn a_permitted_pattern_is_absolute_and_on_its_namespaces_channel() {
    let namespaces = [Namespace { patterns: true, ..namespace("user", "/user/queue/**", true) }];
    let policy = Policy::new(&namespaces, &[allow("/user/queue/**")]).unwrap();
    let named = user("a*b");
    for (subject, expected) in [
        (subject(Some(&named)), "/user/a%2Ab/queue/n.*".to_owned()),
        (subject(None), format!("/user/~{}/queue/n.*", subject(None).session)),
    ] {
        let right = policy.subscribe_pattern(&subject, &pattern("/user/queue/n.*")).unwrap();
        let permit = right.permit().unwrap();
        let (Target::Pattern(absolute), channel) = permit.into_parts() else { panic!() };
        assert_eq!((absolute.as_str(), channel.as_str()), (expected.as_str(), "ns:user"));
    }
}

/// The soundness of pattern subscriptions: whatever the policy, each destination that a permitted
/// pattern matches could be subscribed to by itself, on the same channel.
#[test]
fn every_destination_of_a_permitted_pattern_is_permitted_by_itself() {
    let mut runner = TestRunner::deterministic();
    let (policies, patterns, destinations) = (policies(), patterns(), destinations(25));
    let (mut permitted, mut matched) = (0, 0);
    for _ in 0..2_000 {
        let policy = policies.new_tree(&mut runner).unwrap().current();
        let Ok(policy) = Policy::new(&policy.0, &policy.1) else { continue };
        let text = patterns.new_tree(&mut runner).unwrap().current();
        let Ok(pattern) = text.parse::<DestinationPattern>() else { continue };
        let destinations = destinations.new_tree(&mut runner).unwrap().current();
        for principal in principals() {
            let subject = subject(principal.as_ref());
            let Ok(permit) = policy.subscribe_pattern(&subject, &pattern) else { continue };
            permitted += 1;
            let permit = permit.permit().unwrap();
            let (Target::Pattern(absolute), channel) = permit.into_parts() else {
                panic!("{text}")
            };
            for destination in &destinations {
                let Ok(destination) = destination.parse::<Destination>() else { continue };
                if !absolute.matches(resolved(&subject, &destination).as_str()) {
                    continue;
                }
                matched += 1;
                let alone = policy.subscribe(&subject, &destination);
                let alone = alone.unwrap_or_else(|denied| {
                    panic!("{text} lets {principal:?} see {destination}: {denied}\n{policy:#?}")
                });
                let alone = alone.permit().unwrap();
                assert_eq!(*alone.channel(), channel, "{text} {destination}");
            }
        }
    }
    assert!(permitted > 500 && matched > 1500, "{permitted} permitted, {matched} matched");
}

/// What the destination is to the subject, by the wire format's own means.
fn resolved(subject: &Subject<'_>, destination: &Destination) -> Destination {
    match (subject.principal, destination.user_path()) {
        (None, Some(path)) if destination.user_name().is_none() => {
            Destination::for_session(&subject.session.to_string(), path).unwrap()
        }
        (None, _) => destination.clone(),
        (Some(principal), _) => destination.resolve_for(&principal.user).unwrap(),
    }
}

fn principals() -> [Option<Principal>; 3] {
    let ann = Principal {
        roles: ["r".into()].into(),
        claims: [("org".into(), "b".into()), ("org".into(), "a".into())].into(),
        ..user("a")
    };
    [None, Some(ann), Some(user("b"))]
}

fn policies() -> impl Strategy<Value = (Vec<Namespace>, Vec<PolicyRule>)> {
    let namespaces = proptest::collection::vec((patterns(), any::<bool>(), any::<bool>()), 0..3)
        .prop_map(|all| {
            let mut namespaces: Vec<Namespace> = all
                .into_iter()
                .enumerate()
                .map(|(at, (pattern, patterns, anonymous))| Namespace {
                    patterns,
                    ..namespace(&format!("n{at}"), &pattern, anonymous)
                })
                .collect();
            for (name, pattern) in [("topic", "/topic/**"), ("user", "/user/**")] {
                namespaces.push(Namespace { patterns: true, ..namespace(name, pattern, true) });
            }
            namespaces
        });
    (namespaces, proptest::collection::vec(rules(), 1..5))
}

fn rules() -> impl Strategy<Value = PolicyRule> {
    let destination = prop_oneof![
        patterns(),
        "/topic/\\{user\\}(/[ab*]{1,2}|/\\*\\*)?",
        "/topic/(a|\\*)/b?\\{t\\}(/[ab*]{1,2}|/\\*\\*)?",
        "/user/(\\*|\\{t\\}|\\{user\\}|a)/queue/(\\*\\*|[ab]|\\*)",
        Just("/topic/**".to_owned()),
        Just("/user/queue/**".to_owned()),
    ];
    (destination, 0..4_u8, 0..6_u8).prop_map(|(destination, effect, condition)| {
        let effect = if effect == 0 { RuleEffect::Deny } else { RuleEffect::Allow };
        let has_variable = destination.contains("{t}");
        let mut rule = PolicyRule::new(effect, &destination);
        match condition {
            0 => rule.who = Who::Authenticated,
            1 => rule.who = Who::Anonymous,
            2 => rule.users = vec!["b".to_owned()],
            3 => rule.roles = vec!["r".to_owned()],
            _ => {}
        }
        if has_variable && condition % 2 == 0 {
            rule.claims = [("org".to_owned(), "{t}".to_owned())].into();
        }
        rule
    })
}

fn patterns() -> impl Strategy<Value = String> {
    prop_oneof![
        3 => "/topic(/(\\*\\*|\\*|[ab]|[ab]\\*|\\?|\\{v\\})){1,3}",
        1 => "/user/queue/(\\*\\*|\\*|[ab]|[ab]\\*)",
        1 => "/user/(a|b|%61|\\*)/queue/(\\*\\*|\\*|[ab]\\*)",
        1 => Just("/user/**".to_owned()),
    ]
}

fn destinations(count: usize) -> impl Strategy<Value = Vec<String>> {
    let one = prop_oneof![
        3 => "/topic(/[ab]{1,2}){1,3}",
        1 => "/user/(a/|b/)?queue/[ab]{1,2}(/[ab])?",
    ];
    proptest::collection::vec(one, count)
}

const NOW: Now = Now { mono_ms: 0, unix_ms: 1_800_000_000_000 };

fn session() -> SessionId {
    Ids::new(1).session(NOW)
}

fn subject(principal: Option<&Principal>) -> Subject<'_> {
    Subject::new(principal, session())
}

fn user(name: &str) -> Principal {
    Principal::of_user(name)
}

fn may_subscribe(policy: &Policy, principal: &Principal, text: &str) -> bool {
    policy.subscribe(&subject(Some(principal)), &destination(text)).is_ok()
}

fn may_publish(policy: &Policy, principal: &Principal, text: &str) -> bool {
    policy.publish(&subject(Some(principal)), &destination(text)).is_ok()
}

fn destination(text: &str) -> Destination {
    text.parse().unwrap()
}

fn pattern(text: &str) -> DestinationPattern {
    text.parse().unwrap()
}

fn allow(destination: &str) -> PolicyRule {
    PolicyRule::new(RuleEffect::Allow, destination)
}

fn deny(destination: &str) -> PolicyRule {
    PolicyRule::new(RuleEffect::Deny, destination)
}

fn namespace(name: &str, pattern: &str, anonymous: bool) -> Namespace {
    Namespace { anonymous, ..Namespace::new(name, pattern) }
}

/// Everything is `/topic/**` and `/user/**`, where it does not matter.
fn policy(patterns: &[&str], rules: &[PolicyRule]) -> Policy {
    let roots = patterns.iter().flat_map(|pattern| match *pattern {
        "/**" => vec!["/topic/**", "/user/**"],
        other => vec![other],
    });
    let namespaces: Vec<_> =
        roots.enumerate().map(|(at, root)| namespace(&format!("n{at}"), root, false)).collect();
    Policy::new(&namespaces, rules).unwrap()
}

fn granting(user_name: &str, claim: &serde_json::Value) -> Principal {
    let grants = Grants::read(claim, 8).unwrap();
    Principal { grants, ..user(user_name) }
}

#[test]
fn grants_add_what_no_rule_decides_and_a_rule_that_denies_wins() {
    let namespaces = [
        Namespace { patterns: true, ..namespace("topic", "/topic/**", false) },
        namespace("user", "/user/**", false),
    ];
    let rules = [deny("/topic/orders.secret"), allow("/topic/open.*")];
    let policy = Policy::new(&namespaces, &rules).unwrap();
    let claim = serde_json::json!({
        "subscribe": ["/topic/orders.*", "/topic/carts/{user}/*", "/user/queue/x"],
        "publish": ["/user/bob/queue/x"],
    });
    let ann = granting("ann", &claim);
    for (to, allowed) in [
        ("/topic/orders.1", true),
        ("/topic/orders.secret", false),
        ("/topic/open.a", true),
        ("/topic/carts/ann/1", true),
        ("/topic/carts/bob/1", false),
        ("/user/queue/x", true),
        ("/user/ann/queue/x", true),
        ("/user/bob/queue/x", false),
        ("/queue/nowhere", false),
    ] {
        assert_eq!(may_subscribe(&policy, &ann, to), allowed, "{to}");
    }
    for (to, allowed) in [
        // The rule denies one of these.
        ("/topic/orders.*", false),
        ("/topic/carts/ann/*", true),
        ("/topic/carts/*/*", false),
        ("/topic/**", false),
    ] {
        let permitted = policy.subscribe_pattern(&subject(Some(&ann)), &to.parse().unwrap());
        assert_eq!(permitted.is_ok(), allowed, "{to}");
    }
    assert!(may_publish(&policy, &ann, "/user/bob/queue/x"));
    assert!(!may_publish(&policy, &ann, "/user/eve/queue/x"));
    assert!(!may_publish(&policy, &ann, "/topic/orders.1"));
    assert!(!may_publish(&policy, &user("ann"), "/user/bob/queue/x"));
    assert!(!ann.has_rights_of(&user("ann")));
}

#[test]
fn a_claim_that_could_reach_others_or_without_bound_is_refused() {
    for claim in [
        serde_json::json!({ "subscribe": ["/**"] }),
        serde_json::json!({ "subscribe": ["/*/a"] }),
        serde_json::json!({ "publish": ["/{any}/a/queue/b"] }),
        serde_json::json!({ "subscribe": ["/user/**"] }),
        serde_json::json!({ "subscribe": ["/user/*/queue/a"] }),
        serde_json::json!({ "publish": ["/user/{name}/queue/a"] }),
        serde_json::json!({ "publish": ["/user/b*/queue/a"] }),
        serde_json::json!({ "publish": ["/user/~s/queue/a"] }),
        serde_json::json!({ "subscribe": ["/user/bob/queue/a"] }),
        serde_json::json!({ "history": ["/user/bob/queue/a"] }),
        serde_json::json!({ "subscribe": ["/topic/**/{user}"] }),
        serde_json::json!({ "subscribe": ["topic/a"] }),
        serde_json::json!({ "subscribe": [format!("/topic/{}", "a".repeat(255))] }),
        serde_json::json!({ "subscribe": "/topic/a" }),
        serde_json::json!({ "subscribe": [1] }),
        serde_json::json!({ "receive": ["/topic/a"] }),
        serde_json::json!(["/topic/a"]),
        serde_json::json!({ "subscribe": vec!["/topic/a"; 5], "publish": vec!["/topic/a"; 4] }),
    ] {
        assert!(Grants::read(&claim, 8).is_err(), "{claim}");
    }
    assert_eq!(Grants::read(&serde_json::json!({ "subscribe": [] }), 8), Ok(Grants::default()));
}

//! Consuming queues: acknowledging in each mode and version, redelivery, transactions.

use expect_test::expect;
use fanlight_engine::policy::{
    Namespace, NamespaceOptions, Policy, PolicyError, PolicyRule, RuleEffect,
};
use fanlight_engine::queue::QueueOptions;
use fanlight_engine::session::Rules;

use crate::transcript::check_rules;

/// `/queue/**` are queues, `/topic/**` is not.
fn rules() -> Rules {
    let options = QueueOptions { prefetch: 4, ack_timeout_ms: 10_000, ..QueueOptions::default() };
    let namespace = |name: &str, queue| Namespace {
        options: NamespaceOptions { queue, ..NamespaceOptions::default() },
        ..Namespace::new(name, &format!("/{name}/**"))
    };
    let namespaces = [namespace("queue", Some(options)), namespace("topic", None)];
    let rules = ["/queue/**", "/topic/**"].map(|all| PolicyRule::new(RuleEffect::Allow, all));
    Rules { policy: Policy::new(&namespaces, &rules).unwrap(), ..Rules::default() }
}

#[test]
fn an_ack_names_one_message_or_all_up_to_it_by_the_mode() {
    check_rules(
        rules(),
        expect![[r#"
            # stomp 1.2 ann
            C> SUBSCRIBE id:c destination:/queue/a ack:client receipt:1
            S? join /queue/a
            S< RECEIPT receipt-id:1
            D> fetched /queue/a 1 2 3
            S< MESSAGE ack:c:#1 content-length:1 destination:/queue/a message-id:#1 subscription:c | 1
            S< MESSAGE ack:c:#2 content-length:1 destination:/queue/a message-id:#2 subscription:c | 2
            S< MESSAGE ack:c:#3 content-length:1 destination:/queue/a message-id:#3 subscription:c | 3
            C> ACK id:c:#2
            S! settle /queue/a 1 2
        "#]],
    );
    check_rules(
        rules(),
        expect![[r#"
            # stomp 1.2 ann
            C> SUBSCRIBE id:i:i destination:/queue/a ack:client-individual
            S? join /queue/a
            D> fetched /queue/a 1 2 3
            S< MESSAGE ack:i:i:#1 content-length:1 destination:/queue/a message-id:#1 subscription:i:i | 1
            S< MESSAGE ack:i:i:#2 content-length:1 destination:/queue/a message-id:#2 subscription:i:i | 2
            S< MESSAGE ack:i:i:#3 content-length:1 destination:/queue/a message-id:#3 subscription:i:i | 3
            C> ACK id:i:i:#2
            S! settle /queue/a 2
            C> NACK id:i:i:#1
            S! settle /queue/a -1
        "#]],
    );
}

#[test]
fn a_nack_gives_back_one_message_or_all_up_to_it_by_the_mode() {
    check_rules(
        rules(),
        expect![[r#"
            # stomp 1.2 ann
            C> SUBSCRIBE id:c destination:/queue/a ack:client
            S? join /queue/a
            D> fetched /queue/a 1 2 3
            S< MESSAGE ack:c:#1 content-length:1 destination:/queue/a message-id:#1 subscription:c | 1
            S< MESSAGE ack:c:#2 content-length:1 destination:/queue/a message-id:#2 subscription:c | 2
            S< MESSAGE ack:c:#3 content-length:1 destination:/queue/a message-id:#3 subscription:c | 3
            C> NACK id:c:#2
            S! settle /queue/a -1 -2
        "#]],
    );
}

#[test]
fn auto_acknowledges_what_is_written() {
    check_rules(
        rules(),
        expect![[r#"
            # stomp 1.2 ann
            C> SUBSCRIBE id:a destination:/queue/a
            S? join /queue/a
            D> fetched /queue/a 1 2
            S< MESSAGE content-length:1 destination:/queue/a message-id:#1 subscription:a | 1
            S< MESSAGE content-length:1 destination:/queue/a message-id:#2 subscription:a | 2
            S! settle /queue/a 1 2
        "#]],
    );
}

#[test]
fn stomp_1_1_names_the_subscription_and_the_message() {
    check_rules(
        rules(),
        expect![[r#"
            # stomp 1.1 ann
            C> SUBSCRIBE id:c destination:/queue/a ack:client-individual
            S? join /queue/a
            D> fetched /queue/a 1 2
            S< MESSAGE ack:c:#1 content-length:1 destination:/queue/a message-id:#1 subscription:c | 1
            S< MESSAGE ack:c:#2 content-length:1 destination:/queue/a message-id:#2 subscription:c | 2
            C> ACK subscription:other message-id:#2
            C> ACK subscription:c message-id:#2
            S! settle /queue/a 2
            C> NACK subscription:c message-id:#1
            S! settle /queue/a -1
        "#]],
    );
}

#[test]
fn stomp_1_0_names_the_message_alone_and_has_no_nack() {
    check_rules(
        rules(),
        expect![[r#"
            # stomp 1.0 ann
            C> SUBSCRIBE destination:/queue/a ack:client
            S? join /queue/a
            D> fetched /queue/a 1 2
            S< MESSAGE ack:/queue/a:#1 content-length:1 destination:/queue/a message-id:#1 subscription:/queue/a | 1
            S< MESSAGE ack:/queue/a:#2 content-length:1 destination:/queue/a message-id:#2 subscription:/queue/a | 2
            C> ACK message-id:#2
            S! settle /queue/a 1 2
            C> NACK message-id:#1
            S< ERROR code:bad_header message:STOMP 1.0 has no NACK
            S! leave /queue/a
            S| close protocol_error
        "#]],
    );
}

#[test]
fn a_message_that_was_delivered_before_says_so_and_how_often() {
    check_rules(
        rules(),
        expect![[r#"
            # stomp 1.2 ann
            C> SUBSCRIBE id:c destination:/queue/a ack:client
            S? join /queue/a
            D> fetched /queue/a 1x3
            S< MESSAGE ack:c:#1 content-length:1 delivery-count:3 destination:/queue/a message-id:#1 redelivered:true subscription:c | 1
        "#]],
    );
    check_rules(
        rules(),
        expect![[r##"
            # native ann
            C> {"type":"subscribe","to":"/queue/a","ack":"client"}
            S? join /queue/a
            D> fetched /queue/a 1x3 2
            S< message {"ack":true,"at":1800000000000,"data":1,"delivery_count":3,"id":"#1","redelivered":true,"to":"/queue/a"}
            S< message {"ack":true,"at":1800000000000,"data":2,"id":"#2","to":"/queue/a"}
        "##]],
    );
}

#[test]
fn an_ack_of_what_is_not_held_is_ignored() {
    check_rules(
        rules(),
        expect![[r#"
            # stomp 1.2 ann
            C> SUBSCRIBE id:c destination:/queue/a ack:client
            S? join /queue/a
            D> fetched /queue/a 1
            S< MESSAGE ack:c:#1 content-length:1 destination:/queue/a message-id:#1 subscription:c | 1
            C> ACK id:c:#1
            S! settle /queue/a 1
            C> ACK id:c:#1 receipt:again
            S< RECEIPT receipt-id:again
            C> NACK id:never-heard-of receipt:2
            S< RECEIPT receipt-id:2
            C> ACK id:other:#1 receipt:3
            S< RECEIPT receipt-id:3
        "#]],
    );
}

#[test]
fn a_receipt_for_an_ack_waits_until_the_broker_has_it() {
    check_rules(
        rules(),
        expect![[r#"
            # stomp 1.2 ann
            C> SUBSCRIBE id:c destination:/queue/a ack:client
            S? join /queue/a
            D> fetched /queue/a 1 2
            S< MESSAGE ack:c:#1 content-length:1 destination:/queue/a message-id:#1 subscription:c | 1
            S< MESSAGE ack:c:#2 content-length:1 destination:/queue/a message-id:#2 subscription:c | 2
            D> hold
            C> ACK id:c:#1 receipt:1
            S? settle /queue/a 1
            D> settled
            S< RECEIPT receipt-id:1
            C> ACK id:c:#2 receipt:2
            S? settle /queue/a 2
            D> settled unavailable
            S< ERROR code:unavailable message:the broker can't be reached; the message may be delivered again receipt-id:2 retry-after:1
            S! leave /queue/a
            S| close unavailable
        "#]],
    );
}

#[test]
fn acks_of_a_transaction_take_effect_at_its_commit_after_its_sends() {
    check_rules(
        rules(),
        expect![[r#"
            # stomp 1.2 ann
            C> SUBSCRIBE id:c destination:/queue/a ack:client-individual
            S? join /queue/a
            D> fetched /queue/a 1 2
            S< MESSAGE ack:c:#1 content-length:1 destination:/queue/a message-id:#1 subscription:c | 1
            S< MESSAGE ack:c:#2 content-length:1 destination:/queue/a message-id:#2 subscription:c | 2
            C> BEGIN transaction:t
            C> ACK id:c:#1 transaction:t receipt:1
            S< RECEIPT receipt-id:1
            C> SEND destination:/topic/done transaction:t | 1
            C> NACK id:c:#2 transaction:t
            C> COMMIT transaction:t receipt:2
            S? publish /topic/done from ann | 1
            S? settle /queue/a 1 -2
            S< RECEIPT receipt-id:2
        "#]],
    );
    check_rules(
        rules(),
        expect![[r#"
            # stomp 1.2 ann
            C> SUBSCRIBE id:c destination:/queue/a ack:client-individual
            S? join /queue/a
            D> fetched /queue/a 1
            S< MESSAGE ack:c:#1 content-length:1 destination:/queue/a message-id:#1 subscription:c | 1
            C> BEGIN transaction:t
            C> ACK id:c:#1 transaction:t
            C> ABORT transaction:t
            C> BEGIN transaction:u
            C> ACK id:c:#1 transaction:u
            C> UNSUBSCRIBE id:c
            S! leave /queue/a
            S! settle /queue/a -1
            C> COMMIT transaction:u receipt:1
            S< RECEIPT receipt-id:1
        "#]],
    );
}

#[test]
fn a_commit_whose_acks_fail_says_that_its_sends_were_published() {
    check_rules(
        rules(),
        expect![[r#"
            # stomp 1.2 ann
            C> SUBSCRIBE id:c destination:/queue/a ack:client-individual
            S? join /queue/a
            D> fetched /queue/a 1
            S< MESSAGE ack:c:#1 content-length:1 destination:/queue/a message-id:#1 subscription:c | 1
            C> BEGIN transaction:t
            C> ACK id:c:#1 transaction:t
            C> SEND destination:/topic/done transaction:t | 1
            D> hold
            C> COMMIT transaction:t receipt:1
            S? publish /topic/done from ann | 1
            D> published
            S? settle /queue/a 1
            D> settled unavailable
            S< ERROR code:commit_incomplete message:the broker can't be reached; published before: all 1 of the transaction's sends; what it acknowledges may be delivered again receipt-id:1
            S! leave /queue/a
            S| close unavailable
        "#]],
    );
    check_rules(
        rules(),
        expect![[r#"
            # stomp 1.2 ann
            C> SUBSCRIBE id:c destination:/queue/a ack:client-individual
            S? join /queue/a
            D> fetched /queue/a 1
            S< MESSAGE ack:c:#1 content-length:1 destination:/queue/a message-id:#1 subscription:c | 1
            C> BEGIN transaction:t
            C> ACK id:c:#1 transaction:t
            D> hold
            C> COMMIT transaction:t receipt:1
            S? settle /queue/a 1
            D> settled unavailable
            S< ERROR code:unavailable message:the broker can't be reached; the message may be delivered again receipt-id:1 retry-after:1
            S! leave /queue/a
            S| close unavailable
        "#]],
    );
}

#[test]
fn acks_count_as_frames_of_their_transaction() {
    let mut rules = rules();
    rules.limits.transaction_frames = 1;
    check_rules(
        rules,
        expect![[r#"
            # stomp 1.2 ann
            C> SUBSCRIBE id:c destination:/queue/a ack:client-individual
            S? join /queue/a
            D> fetched /queue/a 1 2
            S< MESSAGE ack:c:#1 content-length:1 destination:/queue/a message-id:#1 subscription:c | 1
            S< MESSAGE ack:c:#2 content-length:1 destination:/queue/a message-id:#2 subscription:c | 2
            C> BEGIN transaction:t
            C> ACK id:c:#1 transaction:t
            C> ACK id:c:#2 transaction:t receipt:1
            S< ERROR code:limit_exceeded message:what waits for COMMIT exceeds 1 frames receipt-id:1
            S! leave /queue/a
            S| close limit_exceeded
            S! settle /queue/a -1 -2
        "#]],
    );
}

#[test]
fn what_is_not_acknowledged_is_given_back_when_the_subscription_ends() {
    for end in ["C> UNSUBSCRIBE id:c", "C> DISCONNECT", "D> gone", "D> drain"] {
        let mut driver = crate::driver::Driver::new(
            rules(),
            None,
            fanlight_engine::session::Handshake::default(),
        );
        driver.receive(true, b"CONNECT\naccept-version:1.2\npasscode:ann\n\n\0");
        driver.receive(true, b"SUBSCRIBE\nid:c\ndestination:/queue/a\nack:client\n\n\0");
        driver.fetched("/queue/a", &["1", "2"]);
        driver.log.clear();
        match end {
            "D> gone" => driver.transport_closed(),
            "D> drain" => driver.drain(1000),
            frame => {
                let frame = frame.strip_prefix("C> ").unwrap().replacen(' ', "\n", 1);
                driver.receive(true, format!("{frame}\n\n\0").as_bytes());
            }
        }
        assert!(driver.log.contains(&"S! settle /queue/a -1 -2".to_owned()), "{:?}", driver.log);
        assert!(driver.consumers.is_empty());
    }
}

#[test]
fn what_is_not_acknowledged_in_time_is_given_back_and_a_late_ack_is_ignored() {
    check_rules(
        rules(),
        expect![[r#"
            # stomp 1.2 ann
            C> SUBSCRIBE id:c destination:/queue/a ack:client
            S? join /queue/a
            D> fetched /queue/a 1
            S< MESSAGE ack:c:#1 content-length:1 destination:/queue/a message-id:#1 subscription:c | 1
            T> 9s
            T> 1s
            @1s S! settle /queue/a -1
            C> ACK id:c:#1 receipt:1
            S< RECEIPT receipt-id:1
        "#]],
    );
}

#[test]
fn a_smaller_prefetch_can_be_asked_for_and_a_bad_one_is_refused() {
    check_rules(
        rules(),
        expect![[r#"
            # stomp 1.2 ann
            C> SUBSCRIBE id:c destination:/queue/a ack:client prefetch-count:none receipt:1
            S< ERROR code:bad_header message:the header prefetch-count is no count receipt-id:1
            S| close protocol_error
        "#]],
    );
    for (asked, count) in [("", 4), ("prefetch-count:2\n", 2), ("prefetch-count:9999\n", 4)] {
        let mut driver = crate::driver::Driver::new(
            rules(),
            None,
            fanlight_engine::session::Handshake::default(),
        );
        driver.receive(true, b"CONNECT\naccept-version:1.2\npasscode:ann\n\n\0");
        let subscribe = format!("SUBSCRIBE\nid:c\ndestination:/queue/a\nack:client\n{asked}\n\0");
        driver.receive(true, subscribe.as_bytes());
        let fetch = driver.consumers.next_fetch(|_| true).unwrap();
        assert_eq!(fetch.count, count, "{asked:?}");
    }
}

#[test]
fn a_native_client_acknowledges_by_message_ids() {
    check_rules(
        rules(),
        expect![[r##"
            # native ann
            C> {"type":"subscribe","to":"/queue/a","ack":"client-individual","prefetch":3,"id":1}
            S? join /queue/a
            S< ok {"id":1}
            D> fetched /queue/a 1 2 3
            S< message {"ack":true,"at":1800000000000,"data":1,"id":"#1","to":"/queue/a"}
            S< message {"ack":true,"at":1800000000000,"data":2,"id":"#2","to":"/queue/a"}
            S< message {"ack":true,"at":1800000000000,"data":3,"id":"#3","to":"/queue/a"}
            C> {"type":"ack","ids":["#1","#3"],"id":2}
            S? settle /queue/a 1 3
            S< ok {"id":2}
            C> {"type":"nack","ids":["#2"]}
            S! settle /queue/a -2
            C> {"type":"ack","ids":["#2","nonsense"],"id":3}
            S< ok {"id":3}
            C> {"type":"ack","ids":"#2","id":4}
            S< error {"code":"protocol_error","id":4,"message":"`ids` must be an array of at most 256 strings"}
            C> {"type":"ack","id":5}
            S< error {"code":"protocol_error","id":5,"message":"missing field `ids` in ack, which needs ids"}
        "##]],
    );
}

#[test]
fn a_native_client_can_ask_for_acks_of_queues_only() {
    check_rules(
        rules(),
        expect![[r##"
            # native ann
            C> {"type":"subscribe","to":"/topic/a","ack":"client","id":1}
            S< error {"code":"not_a_queue","id":1,"message":"only what queues deliver is acknowledged, and this is none; subscribe without ack and prefetch"}
            C> {"type":"subscribe","to":"/queue/a","ack":"never","id":2}
            S< error {"code":"protocol_error","id":2,"message":"`ack` has an unknown value; use auto, client or client-individual"}
            C> {"type":"subscribe","to":"/queue/a","prefetch":0,"id":3}
            S< error {"code":"protocol_error","id":3,"message":"`prefetch` must be a whole number from 1 to 65535"}
            C> {"type":"subscribe","to":"/topic/a","id":4}
            S? join /topic/a
            S< ok {"id":4}
        "##]],
    );
}

#[test]
fn acks_of_what_is_held_do_not_count_against_the_rate() {
    let mut rules = rules();
    rules.limits.commands = fanlight_engine::limits::Rate { per_s: 1, burst: 1 };
    check_rules(
        rules,
        expect![[r#"
            # stomp 1.2 ann
            C> SUBSCRIBE id:c destination:/queue/a ack:client
            S? join /queue/a
            D> fetched /queue/a 1 2
            S< MESSAGE ack:c:#1 content-length:1 destination:/queue/a message-id:#1 subscription:c | 1
            S< MESSAGE ack:c:#2 content-length:1 destination:/queue/a message-id:#2 subscription:c | 2
            C> ACK id:c:#1
            S! settle /queue/a 1
            C> ACK id:c:#2
            S! settle /queue/a 2
            C> ACK id:c:#2 receipt:1
            S< ERROR code:rate_limited message:too many messages receipt-id:1 retry-after:1
            S! leave /queue/a
            S| close rate_limited
        "#]],
    );
}

#[test]
fn a_full_queue_refuses_what_is_sent() {
    check_rules(
        rules(),
        expect![[r##"
            # native ann
            D> hold
            C> {"type":"send","to":"/queue/a","data":1,"id":1}
            S? publish /queue/a from ann as known application/json | 1
            D> published queue_full
            S< error {"code":"queue_full","id":1,"message":"the queue is full; nothing was published, try again once some of it is consumed","retry_after_ms":1000}
        "##]],
    );
}

#[test]
fn queues_have_neither_patterns_nor_history_nor_presence() {
    let queue = Some(QueueOptions::default());
    let history = Some(fanlight_engine::history::History { size: 1, ttl_ms: 1 });
    let refused = [(true, None, false), (false, history, false), (false, None, true)];
    for (patterns, history, presence) in refused {
        let namespace = Namespace {
            patterns,
            options: NamespaceOptions {
                queue: queue.clone(),
                history,
                presence,
                ..NamespaceOptions::default()
            },
            ..Namespace::new("queue", "/queue/**")
        };
        let error = Policy::new(&[namespace], &[]).unwrap_err();
        assert_eq!(error, PolicyError::NotForQueues { name: "queue".to_owned() });
    }
}

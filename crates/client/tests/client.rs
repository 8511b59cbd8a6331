//! The client against a scripted server: what it says, and what it does when things go wrong.
#![expect(clippy::unwrap_used, reason = "what fails here fails the test")]

mod peer;

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use fanlight_client::{
    AckMode, Backoff, Begin, Capability, Client, ConnectOptions, ConsumeOptions, Consumer, Event,
    LinkError, Position, Received, RecvError, RequestError, SendOptions, Sent, SubscribeOptions,
    Subscription,
};
use peer::{Peer, Server};
use serde_json::{Value, json};

fn options(server: &Server) -> ConnectOptions {
    let quick = Backoff { first: Duration::from_millis(1), longest: Duration::from_millis(5) };
    ConnectOptions::new(&server.url()).unwrap().backoff(quick)
}

/// A connected client and the server's end of it.
async fn connected(server: &Server) -> (Client, Peer) {
    let (client, peer) = tokio::join!(Client::connect(options(server)), server.welcome());
    (client.unwrap(), peer)
}

async fn subscribed(client: &Client, peer: &mut Peer, to: &str) -> Subscription {
    let (subscription, ()) = tokio::join!(client.subscribe(to), peer.grant("subscribe", to));
    subscription.unwrap()
}

#[tokio::test]
async fn it_subscribes_receives_and_sends() {
    let server = Server::start().await;
    let options = options(&server).token("the.to.ken");
    let (client, mut peer) = tokio::join!(Client::connect(options), server.welcome());
    let client = client.unwrap();
    assert!(peer.head.contains("authorization: Bearer the.to.ken\r\n"), "{}", peer.head);
    assert_eq!(client.session().unwrap().user.as_deref(), Some("ann"));

    let mut news = subscribed(&client, &mut peer, "/topic/*").await;
    peer.publish("/topic/a", 1).await;
    peer.publish("/queue/other", 2).await;
    peer.publish("/topic/b", 3).await;
    assert_eq!(news.recv().await.unwrap().data.get(), "1");
    assert_eq!(news.recv().await.unwrap().data.get(), "3");

    let answer = async {
        let request = peer.hear().await;
        assert_eq!(request["data"], "aGkg/w==");
        peer.say(&json!({ "type": "ok", "id": request["id"], "message_id": "m1" })).await;
    };
    let (sent, ()) = tokio::join!(client.send("/topic/a", b"hi \xff", Some("text/plain")), answer);
    let expected =
        Sent { message_id: Some("m1".into()), degraded: false, duplicate: false, position: None };
    assert_eq!(sent, Ok(expected));
}

#[tokio::test]
async fn one_subscription_at_the_server_serves_several_and_ends_with_the_last() {
    let server = Server::start().await;
    let (client, mut peer) = connected(&server).await;
    let mut first = subscribed(&client, &mut peer, "/topic/a").await;
    let mut second = client.subscribe("/topic/a").await.unwrap();
    peer.publish("/topic/a", 1).await;
    assert!(first.recv().await.is_ok() && second.recv().await.is_ok());
    drop(first);
    peer.publish("/topic/a", 2).await;
    assert!(second.recv().await.is_ok());
    drop(second);
    let request = peer.hear().await;
    assert_eq!((&request["type"], &request["to"]), (&json!("unsubscribe"), &json!("/topic/a")));
}

#[tokio::test]
async fn a_message_that_several_subscriptions_match_is_given_once_to_each() {
    let server = Server::start().await;
    let (client, mut peer) = connected(&server).await;
    let mut all = subscribed(&client, &mut peer, "/topic/**").await;
    let mut one = subscribed(&client, &mut peer, "/topic/a").await;
    for (id, data) in [("m1", 1), ("m2", 2), ("m1", 1), ("m2", 2), ("m3", 3)] {
        let message =
            json!({ "type": "message", "to": "/topic/a", "id": id, "data": data, "at": 1 });
        peer.say(&message).await;
    }
    for subscription in [&mut all, &mut one] {
        for expected in ["1", "2", "3"] {
            assert_eq!(subscription.recv().await.unwrap().data.get(), expected);
        }
    }
}

#[tokio::test]
async fn a_refused_connection_tells_the_status_and_the_servers_words() {
    let server = Server::start().await;
    let refuse = server.answer("HTTP/1.1 401 x\r\ncontent-length: 9\r\n\r\nbad token");
    let (client, ()) = tokio::join!(Client::connect(options(&server)), refuse);
    let refused = LinkError::Refused { status: 401, detail: "bad token".into(), retry_after: None };
    assert_eq!(client.unwrap_err(), refused);
}

#[tokio::test]
async fn a_server_that_did_not_answer_our_key_is_not_trusted() {
    let server = Server::start().await;
    let forge = server.answer(
        "HTTP/1.1 101 x\r\nupgrade: websocket\r\nconnection: upgrade\r\n\
         sec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n",
    );
    let (client, ()) = tokio::join!(Client::connect(options(&server)), forge);
    assert!(matches!(client.unwrap_err(), LinkError::WrongProtocol { .. }));
}

#[tokio::test]
async fn a_refused_request_is_typed_and_leaves_the_session() {
    let server = Server::start().await;
    let (client, mut peer) = connected(&server).await;
    let refuse = async {
        let id = peer.hear().await["id"].clone();
        let error = json!({ "type": "error", "id": id, "code": "forbidden", "message": "no",
            "retry_after_ms": 20 });
        peer.say(&error).await;
    };
    let (refused, ()) = tokio::join!(client.subscribe("/topic/secret"), refuse);
    let expected = RequestError::Refused {
        code: "forbidden".into(),
        message: "no".into(),
        retry_after: Some(Duration::from_millis(20)),
    };
    assert_eq!(refused.unwrap_err(), expected);
    subscribed(&client, &mut peer, "/topic/a").await;
}

#[tokio::test]
async fn an_unanswered_request_times_out() {
    let server = Server::start().await;
    let limit = Duration::from_millis(30);
    let mut options = options(&server);
    options.request_timeout = limit;
    let (client, _peer) = tokio::join!(Client::connect(options), server.welcome());
    let sent = client.unwrap().send("/topic/a", b"1", None).await;
    assert_eq!(sent, Err(RequestError::TimedOut(limit)));
}

#[tokio::test]
async fn a_draining_server_is_left_as_it_advises_and_subscriptions_are_renewed() {
    let server = Server::start().await;
    let (client, mut peer) = connected(&server).await;
    let mut events = client.events();
    let mut news = subscribed(&client, &mut peer, "/topic/a").await;
    let cut = async {
        peer.hear().await;
        peer.say(&json!({ "type": "reconnect", "after_ms": 40, "reason": "draining" })).await;
        peer.close(1012).await;
    };
    let (sent, ()) = tokio::join!(client.send("/topic/a", b"1", None), cut);
    assert_eq!(sent, Err(RequestError::ConnectionLost));
    let Some(Event::Disconnected { error, retry_in }) = events.next().await else { panic!() };
    assert!(matches!(error, LinkError::Closed { code: 1012, .. }), "{error}");
    assert_eq!(retry_in, Some(Duration::from_millis(40)));

    let mut peer = server.welcome().await;
    peer.grant("subscribe", "/topic/a").await;
    assert!(matches!(events.next().await, Some(Event::Connected(_))));
    peer.publish("/topic/a", 7).await;
    assert_eq!(news.recv().await.unwrap().data.get(), "7");
}

#[tokio::test]
async fn a_terminal_close_ends_the_client_with_the_servers_reason() {
    let server = Server::start().await;
    let (client, mut peer) = connected(&server).await;
    let mut news = subscribed(&client, &mut peer, "/topic/a").await;
    peer.publish("/topic/a", 1).await;
    peer.say(&json!({ "type": "error", "code": "forbidden", "message": "go away" })).await;
    peer.close(4503).await;
    assert!(news.recv().await.is_ok(), "what came before is still received");
    let ended = LinkError::Closed { code: 4503, reason: "go away".into() };
    assert_eq!(news.recv().await.unwrap_err(), RecvError::Ended(ended.to_string()));
    let sent = client.send("/topic/a", b"1", None).await;
    assert_eq!(sent, Err(RequestError::Ended(ended)));
}

#[tokio::test]
async fn an_expired_token_is_fetched_anew() {
    let server = Server::start().await;
    let fetched = AtomicU32::new(0);
    let fetched: &'static AtomicU32 = Box::leak(Box::new(fetched));
    let options = options(&server).token_with(move || async move {
        Ok::<_, String>(format!("token-{}", fetched.fetch_add(1, Ordering::Relaxed)))
    });
    let (client, mut peer) = tokio::join!(Client::connect(options), server.welcome());
    let _client = client.unwrap();
    assert!(peer.head.contains("Bearer token-0"), "{}", peer.head);
    peer.close(4501).await;
    let peer = server.welcome().await;
    assert!(peer.head.contains("Bearer token-1"), "{}", peer.head);
}

#[tokio::test]
async fn a_silent_server_is_pinged_and_then_given_up() {
    let server = Server::start_with_heartbeat(40).await;
    let (client, mut peer) = connected(&server).await;
    let mut events = client.events();
    assert_eq!(peer.hear().await["type"], "ping");
    peer.say(&json!({ "type": "pong" })).await;
    assert_eq!(peer.hear().await["type"], "ping", "an answered ping begins a new silence");
    let Some(Event::Disconnected { error, .. }) = events.next().await else { panic!() };
    assert_eq!(error, LinkError::Silent { silence: Duration::from_millis(80) });
}

#[tokio::test]
async fn closing_says_goodbye_and_dropping_ends_the_task() {
    let server = Server::start().await;
    let (client, mut peer) = connected(&server).await;
    let (code, ()) = tokio::join!(peer.closed(), client.close());
    assert_eq!(code, Some(1000));
    let (client, mut peer) = connected(&server).await;
    drop(client);
    assert_eq!(peer.closed().await, Some(1000));
}

#[tokio::test]
async fn it_reads_members_and_is_told_who_comes_and_goes() {
    let server = Server::start().await;
    let (client, mut peer) = connected(&server).await;
    let mut plain = subscribed(&client, &mut peer, "/topic/a").await;
    let answer = async {
        assert_eq!(peer.hear().await["type"], "unsubscribe");
        let request = peer.hear().await;
        assert_eq!((&request["type"], &request["presence"]), (&json!("subscribe"), &json!(true)));
        peer.say(&json!({ "type": "ok", "id": request["id"] })).await;
    };
    let (room, ()) = tokio::join!(client.subscribe_with_presence("/topic/a"), answer);
    let mut room = room.unwrap();
    let joined = json!({ "type": "presence", "to": "/topic/a", "joined": [{ "user": "bob" }], "left": [], "count": 2 });
    peer.say(&joined).await;
    peer.publish("/topic/a", 1).await;
    let Ok(Received::Presence(change)) = room.recv_any().await else { panic!("no presence") };
    assert_eq!((change.joined[0].user.as_deref(), change.count), (Some("bob"), 2));
    assert_eq!(room.recv().await.unwrap().data.get(), "1");
    assert_eq!(plain.recv().await.unwrap().data.get(), "1", "who did not ask is not told");

    let answer = async {
        let request = peer.hear().await;
        assert_eq!((&request["type"], &request["limit"]), (&json!("presence"), &json!(2)));
        let users = json!([{ "user": "ann", "sessions": 3 }]);
        let members = json!({ "type": "members", "id": request["id"], "to": "/topic/a", "users": users, "count": 9, "cursor": "c" });
        peer.say(&members).await;
    };
    let (members, ()) = tokio::join!(client.members("/topic/a", None, 2), answer);
    let members = members.unwrap();
    assert_eq!((members.count, members.cursor.as_deref()), (9, Some("c")));
    assert_eq!(members.users[0].sessions, Some(3));
    let refusal = async {
        let request = peer.hear().await;
        peer.say(
            &json!({ "type": "error", "id": request["id"], "code": "bad_cursor", "message": "" }),
        )
        .await;
    };
    let (refused, ()) = tokio::join!(client.members("/topic/a", Some("x"), 2), refusal);
    assert!(matches!(refused, Err(RequestError::Refused { code, .. }) if code == "bad_cursor"));
}

#[tokio::test]
async fn a_subscription_that_is_made_anew_for_presence_goes_on_where_it_was() {
    let server = Server::start().await;
    let (client, mut peer) = connected(&server).await;
    let message = |offset: u64| {
        json!({ "type": "message", "to": "/topic/a", "id": offset.to_string(), "data": offset,
            "at": 1, "epoch": "e", "offset": offset })
    };
    let mut plain = subscribed(&client, &mut peer, "/topic/a").await;
    peer.say(&message(4)).await;
    assert_eq!(plain.recv().await.unwrap().id, "4");
    let answer = async {
        assert_eq!(peer.hear().await["type"], "unsubscribe");
        let request = peer.hear().await;
        assert_eq!(request["presence"], json!(true));
        assert_eq!(request["since"], json!({ "epoch": "e", "offset": 4 }));
        peer.say(&message(5)).await;
        peer.say(&json!({ "type": "ok", "id": request["id"], "epoch": "e", "offset": 5,
            "recovered": true, "count": 1 }))
            .await;
    };
    let (room, ()) = tokio::join!(client.subscribe_with_presence("/topic/a"), answer);
    assert_eq!(plain.recv().await.unwrap().id, "5");
    assert_eq!(room.unwrap().recv().await.unwrap().id, "5");
}

#[tokio::test]
async fn a_renewed_subscription_goes_on_where_it_was_and_tells_what_is_lost() {
    let server = Server::start().await;
    let (client, mut peer) = connected(&server).await;
    let message = |offset: u64| {
        json!({ "type": "message", "to": "/topic/a", "id": offset.to_string(), "data": offset,
            "at": 1, "epoch": "e", "offset": offset })
    };
    let begin = Begin::After(Position { epoch: 0xe, offset: 3 });
    let answer = async {
        let request = peer.hear().await;
        assert_eq!(request["since"], json!({ "epoch": "e", "offset": 3 }));
        peer.say(&message(4)).await;
        peer.say(&json!({ "type": "ok", "id": request["id"], "epoch": "e", "offset": 4,
            "recovered": true, "count": 1 }))
            .await;
    };
    let (news, ()) = tokio::join!(client.subscribe_from("/topic/a", begin), answer);
    let mut news = news.unwrap();
    assert_eq!(news.is_recovered(), Some(true));
    let second = client.subscribe_from("/topic/a", begin).await;
    assert_eq!(second.unwrap_err(), RequestError::AlreadySubscribed);
    for offset in [5, 5, 6] {
        peer.say(&message(offset)).await;
    }
    for expected in ["4", "5", "6"] {
        assert_eq!(news.recv().await.unwrap().id, expected);
    }
    drop(peer);

    let mut peer = server.welcome().await;
    let request = peer.hear().await;
    assert_eq!(request["since"], json!({ "epoch": "e", "offset": 6 }));
    peer.say(&message(7)).await;
    peer.say(&json!({ "type": "ok", "id": request["id"], "epoch": "e", "offset": 7,
        "recovered": true, "count": 1 }))
        .await;
    peer.say(&json!({ "type": "lost", "to": "/topic/a", "reason": "epoch_changed", "epoch": "f",
        "offset": 2 }))
        .await;
    assert_eq!(news.recv().await.unwrap().id, "7");
    assert_eq!(news.recv().await.unwrap_err(), RecvError::Lost("epoch_changed".into()));
    drop(peer);

    let mut peer = server.welcome().await;
    let request = peer.hear().await;
    assert_eq!(request["since"], json!({ "epoch": "f", "offset": 2 }));
    peer.say(&json!({ "type": "ok", "id": request["id"], "epoch": "f", "offset": 9,
        "recovered": false, "reason": "position_too_old", "count": 0 }))
        .await;
    assert_eq!(news.recv().await.unwrap_err(), RecvError::Lost("position_too_old".into()));
}

const JOBS: &str = "/queue/jobs";

/// A consumer, and what the server was asked for.
async fn consuming(
    client: &Client,
    peer: &mut Peer,
    mode: AckMode,
    prefetch: Option<u16>,
) -> (Consumer, Value) {
    let answer = async {
        let request = peer.hear().await;
        peer.say(&json!({ "type": "ok", "id": request["id"] })).await;
        request
    };
    let (consumer, request) = tokio::join!(client.consume(JOBS, mode, prefetch), answer);
    (consumer.unwrap(), request)
}

async fn hand_out(peer: &mut Peer, ids: &[&str]) {
    for id in ids {
        peer.say(&json!({ "type": "message", "to": JOBS, "id": id, "data": 1, "at": 1,
            "ack": true }))
            .await;
    }
}

/// Confirms the next request, which must be of this type and for these messages.
async fn confirm(peer: &mut Peer, kind: &str, ids: &[&str]) {
    let request = peer.hear().await;
    assert_eq!((&request["type"], &request["ids"]), (&json!(kind), &json!(ids)));
    peer.say(&json!({ "type": "ok", "id": request["id"] })).await;
}

fn not_held(id: &str) -> Result<(), RequestError> {
    Err(RequestError::NotHeld { id: id.into() })
}

#[tokio::test]
async fn messages_of_a_queue_are_acknowledged_or_given_back_each_by_itself() {
    let server = Server::start().await;
    let (client, mut peer) = connected(&server).await;
    let (mut jobs, asked) = consuming(&client, &mut peer, AckMode::ClientIndividual, Some(4)).await;
    assert_eq!((&asked["ack"], &asked["prefetch"]), (&json!("client-individual"), &json!(4)));
    hand_out(&mut peer, &["a", "b", "c", "d"]).await;
    let (a, b) = (jobs.recv().await.unwrap(), jobs.recv().await.unwrap());
    assert_eq!((&*a.id, a.data.get()), ("a", "1"));
    let done = tokio::join!(client.ack(&b), confirm(&mut peer, "ack", &["b"])).0;
    assert_eq!(done, Ok(()));
    let done = tokio::join!(client.nack(&a), confirm(&mut peer, "nack", &["a"])).0;
    assert_eq!(done, Ok(()));
    // By their ids, also those that were not received yet.
    let both = client.ack_ids(["d", "c"]);
    assert_eq!(tokio::join!(both, confirm(&mut peer, "ack", &["d", "c"])).0, Ok(()));
    for id in ["a", "b", "c", "never"] {
        assert_eq!(client.ack_ids([id]).await, not_held(id));
    }
    assert_eq!(client.ack(&a).await, not_held("a"), "it was given back");
    // What was given back comes again, as another delivery.
    hand_out(&mut peer, &["a"]).await;
    let again = async { while client.nack_ids(["a"]).await == not_held("a") {} };
    tokio::join!(again, confirm(&mut peer, "nack", &["a"]));
}

#[tokio::test]
async fn acknowledging_in_client_mode_is_for_all_before_it_too() {
    let server = Server::start().await;
    let (client, mut peer) = connected(&server).await;
    let (mut jobs, asked) = consuming(&client, &mut peer, AckMode::Client, None).await;
    assert_eq!((&asked["ack"], &asked["prefetch"]), (&json!("client"), &json!(1024)));
    hand_out(&mut peer, &["a", "b", "c"]).await;
    let (a, b) = (jobs.recv().await.unwrap(), jobs.recv().await.unwrap());
    let c = jobs.recv().await.unwrap();
    assert_eq!(tokio::join!(client.ack(&b), confirm(&mut peer, "ack", &["b"])).0, Ok(()));
    assert_eq!(client.ack(&a).await, not_held("a"), "it is done");
    assert_eq!(tokio::join!(client.ack(&c), confirm(&mut peer, "ack", &["c"])).0, Ok(()));
}

#[tokio::test]
async fn an_acknowledgement_that_is_refused_can_be_tried_again() {
    let server = Server::start().await;
    let (client, mut peer) = connected(&server).await;
    let (mut jobs, _) = consuming(&client, &mut peer, AckMode::ClientIndividual, None).await;
    hand_out(&mut peer, &["a"]).await;
    let job = jobs.recv().await.unwrap();
    let refuse = async {
        let id = peer.hear().await["id"].clone();
        peer.say(&json!({ "type": "error", "id": id, "code": "unavailable", "message": "" })).await;
    };
    let (refused, ()) = tokio::join!(client.ack(&job), refuse);
    assert!(matches!(refused, Err(RequestError::Refused { code, .. }) if code == "unavailable"));
    assert_eq!(tokio::join!(client.ack(&job), confirm(&mut peer, "ack", &["a"])).0, Ok(()));
}

#[tokio::test]
async fn what_came_on_a_former_connection_can_not_be_acknowledged_and_is_not_received_any_more() {
    let server = Server::start().await;
    let (client, mut peer) = connected(&server).await;
    let mut events = client.events();
    let (mut jobs, first) = consuming(&client, &mut peer, AckMode::ClientIndividual, Some(3)).await;
    hand_out(&mut peer, &["a", "b", "c"]).await;
    let former = jobs.recv().await.unwrap();
    // Asked on the connection that is lost before the answer.
    let cut = async {
        peer.hear().await;
        drop(peer);
    };
    let (unknown, ()) = tokio::join!(client.ack(&former), cut);
    assert_eq!(unknown, Err(RequestError::ConnectionLost));
    assert!(matches!(events.next().await, Some(Event::Disconnected { .. })));
    assert_eq!(client.ack(&former).await, not_held("a"), "at once, without a connection");

    let mut peer = server.welcome().await;
    let renewed = peer.hear().await;
    for field in ["type", "to", "ack", "prefetch"] {
        assert_eq!(renewed[field], first[field], "{field}");
    }
    peer.say(&json!({ "type": "ok", "id": renewed["id"] })).await;
    assert_eq!(client.ack_ids(["b"]).await, not_held("b"));
    // The server gave it all back, and "a" comes here again.
    hand_out(&mut peer, &["a"]).await;
    let again = jobs.recv().await.unwrap();
    assert_eq!(again.id, "a", "what waited is not given as if it could be acknowledged");
    assert_eq!(client.ack(&former).await, not_held("a"), "that is another delivery of it");
    assert_eq!(tokio::join!(client.ack(&again), confirm(&mut peer, "ack", &["a"])).0, Ok(()));
}

#[tokio::test]
async fn what_a_consumer_prefetches_always_finds_room() {
    let server = Server::start().await;
    let mut options = options(&server);
    options.subscription_queue = 2;
    let (client, mut peer) = tokio::join!(Client::connect(options), server.welcome());
    let client = client.unwrap();
    let (jobs, asked) = consuming(&client, &mut peer, AckMode::Client, None).await;
    assert_eq!(asked["prefetch"], json!(2), "no more than there is room for");
    drop(jobs);
    assert_eq!(peer.hear().await["type"], "unsubscribe");
    let (mut jobs, _) = consuming(&client, &mut peer, AckMode::Client, Some(4)).await;
    let ids = ["a", "b", "c", "d"];
    hand_out(&mut peer, &ids).await;
    // The answer comes behind them.
    let sent = tokio::join!(client.send("/topic/x", b"1", None), peer.grant("send", "/topic/x"));
    assert!(sent.0.is_ok());
    for id in ids {
        assert_eq!(jobs.recv().await.unwrap().id, id);
    }
}

#[tokio::test]
async fn a_queue_has_one_consumer_of_a_client_and_ends_with_it() {
    let server = Server::start().await;
    let (client, mut peer) = connected(&server).await;
    let (mut jobs, _) = consuming(&client, &mut peer, AckMode::ClientIndividual, None).await;
    let taken = RequestError::AlreadySubscribed;
    assert_eq!(client.subscribe(JOBS).await.unwrap_err(), taken);
    let second = client.consume(JOBS, AckMode::Client, None).await;
    assert_eq!(second.unwrap_err(), taken);
    hand_out(&mut peer, &["a"]).await;
    let job = jobs.recv().await.unwrap();
    drop(jobs);
    let request = peer.hear().await;
    assert_eq!((&request["type"], &request["to"]), (&json!("unsubscribe"), &json!(JOBS)));
    assert_eq!(client.ack(&job).await, not_held("a"), "the server gave it back");
    consuming(&client, &mut peer, AckMode::Client, None).await;
}

/// Refuses the next request as one too many.
async fn limit_rate(peer: &mut Peer, retry_after_ms: u32) {
    let request = peer.hear().await;
    assert_eq!(request["type"], "subscribe");
    peer.say(&json!({ "type": "error", "id": request["id"], "code": "rate_limited",
        "message": "", "retry_after_ms": retry_after_ms }))
        .await;
}

#[tokio::test]
async fn a_subscription_that_may_not_be_renewed_yet_is_tried_again_when_the_server_says() {
    let server = Server::start().await;
    let (client, mut peer) = connected(&server).await;
    let mut a = subscribed(&client, &mut peer, "/topic/a").await;
    let mut b = subscribed(&client, &mut peer, "/topic/b").await;
    drop(peer);

    let mut peer = server.welcome().await;
    limit_rate(&mut peer, 60).await;
    let refused_at = tokio::time::Instant::now();
    limit_rate(&mut peer, 60).await;
    // The session answers meanwhile.
    let (sent, ()) =
        tokio::join!(client.send("/topic/x", b"1", None), peer.grant("send", "/topic/x"));
    assert!(sent.is_ok());
    let mut renewed = Vec::new();
    for nth in 1..=3 {
        if nth == 2 {
            // Once more too early.
            limit_rate(&mut peer, 60).await;
            continue;
        }
        let request = peer.hear().await;
        let waited = refused_at.elapsed();
        assert!(waited >= nth * Duration::from_millis(60), "one by one, at the pace asked for");
        renewed.push(request["to"].as_str().unwrap().to_owned());
        peer.say(&json!({ "type": "ok", "id": request["id"] })).await;
    }
    renewed.sort_unstable();
    assert_eq!(renewed, ["/topic/a", "/topic/b"]);
    for (subscription, to) in [(&mut a, "/topic/a"), (&mut b, "/topic/b")] {
        peer.publish(to, 7).await;
        assert_eq!(subscription.recv().await.unwrap().data.get(), "7");
    }
}

#[tokio::test]
async fn a_subscription_that_waits_to_be_renewed_can_be_dropped_and_made_anew() {
    let server = Server::start().await;
    let (client, mut peer) = connected(&server).await;
    let news = subscribed(&client, &mut peer, "/topic/a").await;
    drop(peer);
    let mut peer = server.welcome().await;
    limit_rate(&mut peer, 3_600_000).await;
    // Its answer comes behind the refusal.
    let (sent, ()) =
        tokio::join!(client.send("/topic/x", b"1", None), peer.grant("send", "/topic/x"));
    assert!(sent.is_ok());
    drop(news);
    // Nothing is said of the one that is not subscribed.
    subscribed(&client, &mut peer, "/topic/a").await;
}

#[tokio::test]
async fn a_subscription_that_waits_to_be_renewed_is_renewed_once_on_the_next_connection() {
    let server = Server::start().await;
    let (client, mut peer) = connected(&server).await;
    let _a = subscribed(&client, &mut peer, "/topic/a").await;
    let _b = subscribed(&client, &mut peer, "/topic/b").await;
    drop(peer);
    let mut peer = server.welcome().await;
    limit_rate(&mut peer, 20).await;
    limit_rate(&mut peer, 3_600_000).await;
    drop(peer);
    let mut peer = server.welcome().await;
    let granted = peer.hear().await;
    peer.say(&json!({ "type": "ok", "id": granted["id"] })).await;
    limit_rate(&mut peer, 20).await;
    let again = peer.hear().await;
    assert_ne!(again["to"], granted["to"]);
    peer.say(&json!({ "type": "ok", "id": again["id"] })).await;
    // Nothing else waits.
    let sent = tokio::join!(client.send("/topic/x", b"1", None), peer.grant("send", "/topic/x"));
    assert!(sent.0.is_ok());
}

#[tokio::test]
async fn a_subscription_that_may_not_be_renewed_at_all_ends() {
    let server = Server::start().await;
    let (client, mut peer) = connected(&server).await;
    let mut news = subscribed(&client, &mut peer, "/topic/a").await;
    drop(peer);
    let mut peer = server.welcome().await;
    let id = peer.hear().await["id"].clone();
    peer.say(&json!({ "type": "error", "id": id, "code": "forbidden", "message": "no" })).await;
    assert!(matches!(news.recv().await.unwrap_err(), RecvError::Ended(_)));
}

#[tokio::test]
async fn a_subscription_that_begins_with_a_position_tells_why_it_can_not_have_all() {
    let server = Server::start().await;
    let (client, mut peer) = connected(&server).await;
    let begin = Begin::After(Position { epoch: 0xe, offset: 3 });
    let answer = async {
        let id = peer.hear().await["id"].clone();
        peer.say(&json!({ "type": "ok", "id": id, "epoch": "f", "offset": 9,
            "recovered": false, "reason": "epoch_changed", "count": 0 }))
            .await;
    };
    let (news, ()) = tokio::join!(client.subscribe_from("/topic/a", begin), answer);
    let news = news.unwrap();
    assert_eq!((news.is_recovered(), news.lost_reason()), (Some(false), Some("epoch_changed")));
    assert_eq!(news.begun_at(), Some(Position { epoch: 0xf, offset: 9 }));
}

/// Grants the next request, which is asked for with this capability.
async fn grant_by(peer: &mut Peer, to: &str, token: &str) {
    let request = peer.hear().await;
    assert_eq!((&request["to"], &request["token"]), (&json!(to), &json!(token)));
    peer.say(&json!({ "type": "ok", "id": request["id"] })).await;
}

#[tokio::test]
async fn a_capability_is_given_again_on_each_connection_and_its_end_ends_what_it_allowed() {
    let server = Server::start().await;
    let (client, mut peer) = connected(&server).await;
    let by = |token: &str| Some(Capability::new(token));
    let options = SubscribeOptions { capability: by("one"), ..SubscribeOptions::default() };
    let (news, ()) = tokio::join!(
        client.subscribe_with("/topic/a", options.clone()),
        grant_by(&mut peer, "/topic/a", "one")
    );
    let mut news = news.unwrap();
    // It is subscribed already; but what counts from now on is this one.
    let options = SubscribeOptions { capability: by("two"), ..options };
    let mut more = client.subscribe_with("/topic/a", options).await.unwrap();
    let options = ConsumeOptions { capability: by("three"), prefetch: None };
    let (jobs, ()) = tokio::join!(
        client.consume_with(JOBS, AckMode::Client, options),
        grant_by(&mut peer, JOBS, "three")
    );
    drop(jobs.unwrap());
    assert_eq!(peer.hear().await["type"], "unsubscribe");
    drop(peer);
    let mut peer = server.welcome().await;
    grant_by(&mut peer, "/topic/a", "two").await;

    let (exclude_self, capability) = (true, Capability::new("four"));
    let capability = Some(&capability);
    let own = SendOptions { exclude_self, capability, ..SendOptions::default() };
    let answer = async {
        let request = peer.hear().await;
        assert_eq!((&request["exclude_self"], &request["token"]), (&json!(true), &json!("four")));
        peer.say(&json!({ "type": "ok", "id": request["id"] })).await;
    };
    let (sent, ()) = tokio::join!(client.send_with("/topic/a", b"1", &own), answer);
    assert!(sent.is_ok());
    peer.publish("/topic/a", 2).await;
    peer.say(&json!({ "type": "error", "code": "capability_expired", "message": "it is over",
        "to": "/topic/a" }))
        .await;
    for subscription in [&mut news, &mut more] {
        assert_eq!(subscription.recv().await.unwrap().data.get(), "2");
        match subscription.recv().await.unwrap_err() {
            RecvError::Ended(reason) => assert!(reason.contains("capability_expired"), "{reason}"),
            other => panic!("{other}"),
        }
    }
    // The session goes on, and the destination is free.
    subscribed(&client, &mut peer, "/topic/a").await;
}

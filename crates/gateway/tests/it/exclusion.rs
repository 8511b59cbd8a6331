//! A publisher may ask that its own session does not get what it publishes.

use fanlight_testkit::RedisServer;

use crate::http::post;
use crate::returning::bearer;
use crate::support::{CONFIG, Gateway, RawClient, eventually, with_redis};

const TOPIC: &str = "/topic/open.chat";

async fn subscribed(mut client: RawClient) -> RawClient {
    client.send(&format!(r#"{{"type":"subscribe","to":"{TOPIC}","id":1}}"#)).await;
    client.expect("\"ok\"").await;
    client
}

async fn stomp_subscribed(gateway: &Gateway, user: &str) -> RawClient {
    let mut client = RawClient::stomp(gateway, user).await;
    client.send(&format!("SUBSCRIBE\nid:s\nreceipt:r\ndestination:{TOPIC}\n\n\0")).await;
    client.expect("RECEIPT").await;
    client
}

#[tokio::test(flavor = "multi_thread")]
async fn the_sender_alone_does_not_get_what_it_excludes_itself_from_with_and_without_history() {
    let redis = RedisServer::start().unwrap();
    for more in ["", "history = { size = 100, ttl = \"1m\" }\n"] {
        let config = with_redis(CONFIG, &redis)
            .replace("match = \"/topic/**\"\n", &format!("match = \"/topic/**\"\n{more}"));
        let (a, b) = (Gateway::with_config(&config).await, Gateway::with_config(&config).await);
        for node in [&a, &b] {
            eventually("ready", async || node.admin_get("/readyz").await.0 == 200).await;
        }
        let mut sender = subscribed(RawClient::native(&a, "ann").await).await;
        let mut elsewhere = subscribed(RawClient::native(&b, "ann").await).await;
        let mut stomp = stomp_subscribed(&b, "bob").await;
        let mut neighbour = stomp_subscribed(&a, "eve").await;
        for (data, exclude) in [(1, true), (2, false)] {
            sender
                .send(&format!(
                    r#"{{"type":"send","to":"{TOPIC}","data":{data},"exclude_self":{exclude},"id":2}}"#
                ))
                .await;
            // The answer, and where it is not excluded the message.
            let parts: &[&str] = if exclude { &["\"ok\""] } else { &["\"ok\"", "\"data\":2"] };
            sender.expect_each(parts).await;
            elsewhere.expect(&format!("\"data\":{data}")).await;
            for other in [&mut stomp, &mut neighbour] {
                other.expect(&format!("\n\n{data}\0")).await;
            }
        }
        for (body, exclude) in [("s1", "true"), ("s2", "false")] {
            stomp
                .send(&format!("SEND\ndestination:{TOPIC}\nexclude-self:{exclude}\n\n{body}\0"))
                .await;
        }
        let own = stomp.expect("MESSAGE").await;
        assert!(own.ends_with("\n\ns2\0") && !own.contains("exclude"), "{own}");
        for body in ["s1", "s2"] {
            neighbour.expect(&format!("\n\n{body}\0")).await;
        }
        for body in ["czE=", "czI="] {
            sender.expect(body).await;
        }
        if !more.is_empty() {
            recovers_without(&mut stomp, &own).await;
            sender.send(&format!(r#"{{"type":"history","to":"{TOPIC}","limit":9,"id":3}}"#)).await;
            let all = sender.expect("\"history\"").await;
            assert!(all.contains("czE=") && all.contains("\"offset\":3"), "{all}");
        }
    }
}

/// The same session does not get it by what it recovers either.
async fn recovers_without(stomp: &mut RawClient, own: &str) {
    let epoch = own.split("epoch:").nth(1).unwrap().split('\n').next().unwrap();
    stomp.send("UNSUBSCRIBE\nid:s\nreceipt:u\n\n\0").await;
    stomp.expect("RECEIPT").await;
    stomp
        .send(&format!(
            "SUBSCRIBE\nid:t\nreceipt:t\nepoch:{epoch}\noffset:2\ndestination:{TOPIC}\n\n\0"
        ))
        .await;
    let first = stomp.expect("MESSAGE").await;
    assert!(first.ends_with("\n\ns2\0") && first.contains("offset:4"), "{first}");
    stomp.expect("recovered:true").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_exclusion_that_could_not_hold_is_refused() {
    let gateway = Gateway::start("").await;
    let authorization = bearer("ann").await;
    let body = format!(r#"{{"to":"{TOPIC}","data":1,"exclude_self":true}}"#);
    let lines = [("Authorization", &*authorization)];
    let response = post(gateway.public, "/publish", &lines, &body).await;
    assert_eq!((response.status, response.json()["code"].as_str()), (400, Some("bad_exclusion")));
    let mut stomp = RawClient::stomp(&gateway, "bob").await;
    stomp.send(&format!("SEND\ndestination:{TOPIC}\nexclude-self:yes\n\nx\0")).await;
    stomp.expect("code:bad_header").await;
}

//! Conflation for those who are slow, who come by requests, and on a worker that always has more
//! to do.

use fanlight_engine::ids::Ids;
use fanlight_engine::peers::ClaimName;
use fanlight_engine::publication::ContentType;
use fanlight_engine::session::{Form, Listening};

use super::*;
use crate::mail::{Mail, MailReply, MailRequest, Receive, Wish};

/// Delivers one publication after the other at once.
async fn deliver(handle: &WorkerHandle, to: &str, bodies: &[&str]) {
    let now = Clock::start().now();
    let publication = |(n, body): (usize, &&str)| {
        Arc::new(Publication {
            id: Ids::new(n as u64).publication(now),
            destination: to.parse().unwrap(),
            body: format!("\"{body}\"").into(),
            content_type: ContentType::Json,
            headers: [].into(),
            publisher: None,
            at_unix_ms: now.unix_ms,
            position: None,
            only_for: None,
            except: None,
            is_json: false,
        })
    };
    let publications: Vec<_> = bodies.iter().enumerate().map(publication).collect();
    let channel = Channel::of_destination(to.into());
    let delivery = Delivery { channel, publications: publications.into() };
    assert!(handle.send(Inbox::Deliver(delivery)).await);
}

async fn subscribe(client: &mut Client, to: &str) {
    client.send(&format!(r#"{{"type":"subscribe","to":"{to}","id":"{to}"}}"#)).await;
    client.until(&format!(r#""id":"{to}""#)).await;
}

/// Runs `test` beside a worker that has these bounds.
fn with_bounds(
    outbox: OutboxLimits,
    conflation_bytes: usize,
    test: impl AsyncFnOnce(WorkerHandle, Arc<Semaphore>),
) {
    let go_on = Arc::new(Semaphore::new(0));
    let (handle, receiver) = inbox(64);
    let mut shared = shared(Arc::new(ToldBroker { go_on: Arc::clone(&go_on) }), outbox);
    Arc::get_mut(&mut shared).expect("nobody else has it yet").conflation_bytes = conflation_bytes;
    run(receiver, shared, test(handle, go_on));
}

#[test]
fn what_finds_no_room_does_not_overtake_what_passed_before_it() {
    with_bounds(OUTBOX, 2048, async |handle, _| {
        let mut client = Client::connect(&handle).await;
        subscribe(&mut client, "/topic/conflated/a").await;
        let large = format!("large{}", "x".repeat(4000));
        deliver(&handle, "/topic/conflated/a", &["small", &large]).await;
        client.until("small").await;
        client.until("large").await;
    });
}

#[test]
fn what_was_missed_by_a_subscription_that_has_ended_is_not_given_by_another() {
    with_worker(async |handle, _| {
        let mut other = Client::connect(&handle).await;
        let mut slow = Client::open_narrow(&handle, Protocol::Native).await;
        slow.send(r#"{"type":"connect"}"#).await;
        slow.until("\"connected\"").await;
        subscribe(&mut slow, "/topic/plain/full").await;
        subscribe(&mut slow, "/topic/conflated/a").await;
        deliver(&handle, "/topic/plain/full", &[&"x".repeat(256 * 1024)]).await;
        deliver(&handle, "/topic/conflated/a", &["missed"]).await;
        slow.send(r#"{"type":"unsubscribe","to":"/topic/conflated/a"}"#).await;
        slow.send(r#"{"type":"subscribe","to":"/topic/conflated/b","id":"b"}"#).await;
        // Most often the worker has taken that by the time that it reads on. If it has not, what it
        // missed comes while the first subscription is still there, which is as good.
        other.send(r#"{"type":"ping","id":"then"}"#).await;
        other.until("\"then\"").await;
        slow.until(r#""id":"b""#).await;
        // The second waits for a tick, which is no sooner than one of the other destination.
        deliver(&handle, "/topic/conflated/b", &["first", "second"]).await;
        let got = slow.until("second").await;
        assert!(!got.contains("missed"), "{got}");
    });
}

#[test]
fn a_tick_comes_though_there_is_always_something_else_to_do() {
    with_worker(async |handle, _| {
        let mut client = Client::connect(&handle).await;
        subscribe(&mut client, "/topic/conflated/a").await;
        let busy = async {
            loop {
                deliver(&handle, "/topic/plain/nobody", &["x"]).await;
            }
        };
        let ticked = async {
            deliver(&handle, "/topic/conflated/a", &["first", "second"]).await;
            client.until("second").await;
        };
        tokio::select! {
            () = busy => {}
            () = ticked => {}
        }
    });
}

/// A session that comes by requests.
struct Mailed<'h> {
    handle: &'h WorkerHandle,
    at: Handle,
}

impl<'h> Mailed<'h> {
    async fn open(handle: &'h WorkerHandle, kind: MailboxKind, opening: Opening) -> Self {
        let (reply, opened) = oneshot::channel();
        let mailbox = MailboxOptions {
            kind,
            name: ClaimName::new("test", &["a"]).unwrap(),
            caller: None,
            linger_ms: 60_000,
            ended: None,
        };
        let admitted = Admission::new(0, 0, &[]).admit(IpAddr::from([127, 0, 0, 1])).unwrap();
        let open = Opened { mailbox, opening, admitted, reply };
        assert!(handle.send(Inbox::Open(Box::new(open))).await);
        Self { handle, at: opened.await.unwrap() }
    }

    async fn listen(handle: &'h WorkerHandle, wanted: impl IntoIterator<Item = String>) -> Self {
        let wanted = wanted.into_iter().map(Into::into).collect();
        let listening = Listening::new(wanted, None, false, Form::Items).unwrap();
        let opening = Opening::Listener(Handshake::default(), listening);
        let mailed = Self::open(handle, MailboxKind::Poll, opening).await;
        mailed.receive().await;
        mailed
    }

    async fn ask(&self, what: Wish) -> oneshot::Receiver<MailReply> {
        let (reply, answer) = oneshot::channel();
        let request = MailRequest { caller: None, what };
        let mail = Mail { handle: self.at, request, reply };
        assert!(self.handle.send(Inbox::Mail(Box::new(mail))).await);
        answer
    }

    /// The next page, which is not the last.
    async fn receive(&self) -> String {
        let (receiver, max_bytes, wait_ms) = (1, u32::MAX, 10_000);
        let receive = Receive { receiver, stays: false, max_bytes, wait_ms, from: None };
        match self.ask(Wish::Receive(receive)).await.await.unwrap() {
            MailReply::Frame(page) => String::from_utf8(page.to_vec()).unwrap(),
            reply => panic!("{reply:?}"),
        }
    }

    async fn send(&self, message: &str) -> oneshot::Receiver<MailReply> {
        self.ask(Wish::Send { messages: vec![message.into()] }).await
    }
}

#[test]
fn a_poll_gets_the_latest_also_where_something_else_waits_for_it() {
    with_worker(async |handle, _| {
        let wanted = ["/topic/conflated/a", "/topic/plain/a"].map(str::to_owned);
        let poll = Mailed::listen(&handle, wanted).await;
        for n in 0..3 {
            deliver(&handle, "/topic/conflated/a", &["early", &format!("latest{n}.")]).await;
            deliver(&handle, "/topic/plain/a", &["other"]).await;
            // Until the tick that lets it pass, only the first is there.
            let mut page = poll.receive().await;
            assert!(page.contains("other"), "{page}");
            while !page.contains(&format!("latest{n}.")) {
                deliver(&handle, "/topic/plain/a", &["other"]).await;
                page = poll.receive().await;
            }
        }
    });
}

#[test]
fn who_has_missed_the_latest_of_more_than_an_outbox_holds_gets_it_by_and_by() {
    let outbox = OutboxLimits { bytes: 64 * 1024, frames: 100 };
    with_bounds(outbox, CONFLATION_BYTES, async |handle, _| {
        let name = |n| format!("/topic/conflated/{n}");
        let poll = Mailed::listen(&handle, (0..30).map(name)).await;
        let body = "x".repeat(10_000);
        for n in 0..30 {
            deliver(&handle, &name(n), &[&body]).await;
        }
        let mut missing: Vec<_> = (0..30).map(|n| format!("\"to\":\"{}\"", name(n))).collect();
        while !missing.is_empty() {
            let page = poll.receive().await;
            assert!(page.len() <= 64 * 1024, "{}", page.len());
            missing.retain(|to| !page.contains(to));
        }
    });
}

#[test]
fn a_session_that_waits_for_its_answer_takes_few_requests_with_more() {
    with_worker(async |handle, go_on| {
        let opening = Opening::Session(Handshake::default(), Some(Protocol::Native));
        let mailed = Mailed::open(&handle, MailboxKind::SockJs, opening).await;
        assert_eq!(mailed.receive().await, "o");
        let connected = mailed.send(r#"{"type":"connect"}"#).await;
        assert_eq!(connected.await.unwrap(), MailReply::Sent);
        let stall = r#"{"type":"send","to":"/topic/plain/a","data":"stall"}"#;
        let mut waiting = Vec::new();
        for _ in 0..4 {
            waiting.push(mailed.send(stall).await);
        }
        assert_eq!(mailed.send(stall).await.await.unwrap(), MailReply::Full);
        go_on.add_permits(4);
        for sent in waiting {
            assert_eq!(sent.await.unwrap(), MailReply::Sent);
        }
    });
}

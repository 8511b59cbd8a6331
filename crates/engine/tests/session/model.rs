//! Any sequence of operations: what must hold whatever clients, brokers and drivers do. A short
//! random smoke under `cargo test`, real fuzzing under `cargo bolero test`.
//!
//! The driver itself asserts that one effect is under way at a time, that it comes last, and that
//! nothing follows a close; here it is asserted that nothing is acknowledged that has not happened,
//! and that nothing is left behind.

use std::collections::HashSet;

use fanlight_engine::app::AppFailure;
use fanlight_engine::broker::{Joined, PublishError};
use fanlight_engine::history::HistoryError;
use fanlight_engine::session::{Done, Handshake};
use fanlight_proto::CloseReason;

use crate::driver::{Driver, Pending};

const SMOKE_ITERATIONS: usize = 3000;

/// One operation and what it is about, small enough that operations meet.
type Operation = (u8, u8, u8);

#[test]
fn fuzz_session_operations() {
    bolero::check!()
        .with_iterations(SMOKE_ITERATIONS)
        .with_type::<(bool, Vec<Operation>)>()
        .for_each(|(native, operations)| {
            let mut model = Model::new(*native);
            for operation in operations {
                model.run(*operation);
            }
            model.end();
        });
}

#[test]
fn fuzz_session_bytes() {
    bolero::check!()
        .with_iterations(SMOKE_ITERATIONS)
        .with_type::<(bool, Vec<Vec<u8>>)>()
        .for_each(|(native, messages)| {
            let mut model = Model::new(*native);
            for message in messages {
                model.driver.receive(std::str::from_utf8(message).is_ok(), message);
            }
            model.end();
        });
}

struct Model {
    driver: Driver,
    native: bool,
    /// The number of the next request: its receipt or id, its body, its destination.
    next: u32,
    /// What the pending answer decides on.
    under_way: Option<u32>,
    /// The requests whose publication or join has happened.
    happened: HashSet<u32>,
    /// Those that need it before they are acknowledged.
    needing: HashSet<u32>,
    has_failed: bool,
}

impl Model {
    fn new(native: bool) -> Self {
        let mut rules = crate::app::app_rules();
        rules.limits.subscriptions = 5;
        rules.limits.transactions = 2;
        rules.limits.transaction_frames = 3;
        rules.limits.messages.burst = 20;
        let mut driver = Driver::new(rules, None, Handshake::default());
        driver.hold = true;
        Self {
            driver,
            native,
            next: 0,
            under_way: None,
            happened: HashSet::new(),
            needing: HashSet::new(),
            has_failed: false,
        }
    }

    fn run(&mut self, (kind, a, b): Operation) {
        match kind % 16 {
            0..=8 => self.requests(1 + usize::from(kind % 3 == 0), a, b),
            11 => self.fail(a),
            12 => self.driver.pass(u64::from(a % 30)),
            13 => self.driver.heard(),
            14 if a % 8 == 0 => self.driver.drain(u64::from(b)),
            15 if a % 16 == 0 => self.driver.transport_closed(),
            15 if a % 16 == 1 => self.driver.fault(CloseReason::TooLarge, "too large"),
            _ => self.succeed(),
        }
        self.check();
    }

    /// Sends some requests in one message.
    fn requests(&mut self, count: usize, a: u8, b: u8) {
        let requests: Vec<String> = (0..count)
            .map(|at| {
                let choice = a.wrapping_add(at as u8);
                if self.native { self.native_request(choice, b) } else { self.frame(choice, b) }
            })
            .collect();
        let message = match (self.native, count) {
            (true, 2..) => format!("[{}]", requests.join(",")),
            _ => requests.concat(),
        };
        self.driver.receive(true, message.as_bytes());
    }

    fn number(&mut self, needs: bool) -> u32 {
        self.next += 1;
        if needs {
            self.needing.insert(self.next);
        }
        self.next
    }

    fn frame(&mut self, choice: u8, b: u8) -> String {
        let small = b % 3;
        match choice % 12 {
            0 => format!("CONNECT\naccept-version:1.{small}\n\n\0"),
            1 | 2 => "CONNECT\naccept-version:1.2\npasscode:ann@60\nheart-beat:9,9\n\n\0".into(),
            3 => {
                let n = self.number(true);
                format!("SEND\ndestination:/topic/a\nreceipt:{n}\n\n{n}\0")
            }
            4 => {
                let n = self.number(true);
                format!("SEND\ndestination:/app/open/x\nreceipt:{n}\n\n{n}\0")
            }
            5 => {
                let n = self.number(false);
                let to = if b % 2 == 0 { "/topic/a" } else { "/app/open/x" };
                format!("SEND\ndestination:{to}\ntransaction:{small}\nreceipt:{n}\n\nt\0")
            }
            6 => format!("BEGIN\ntransaction:{small}\n\n\0"),
            7 => {
                // Any failure of a publication ends the session, so a receipt tells of success.
                let n = self.number(false);
                format!("COMMIT\ntransaction:{small}\nreceipt:{n}\n\n\0")
            }
            8 => {
                let n = self.number(true);
                format!("SUBSCRIBE\nid:{b}\ndestination:/topic/single/{n}\nreceipt:{n}\n\n\0")
            }
            9 if b == 1 => "SUBSCRIBE\nid:1\ndestination:/app/open/x\n\n\0".into(),
            9 => format!("UNSUBSCRIBE\nid:{b}\nreceipt:u\n\n\0"),
            10 => format!("ABORT\ntransaction:{small}\n\n\0"),
            _ if b == 0 => "DISCONNECT\nreceipt:d\n\n\0".into(),
            _ => "\n".into(),
        }
    }

    fn native_request(&mut self, choice: u8, b: u8) -> String {
        match choice % 8 {
            0 | 1 => r#"{"type":"connect","token":"ann@60"}"#.into(),
            2 | 3 => {
                let n = self.number(true);
                let to = if b % 2 == 0 { "/topic/a" } else { "/app/open/x" };
                format!(r#"{{"type":"send","to":"{to}","data":{n},"id":{n}}}"#)
            }
            4 => {
                let n = self.number(true);
                format!(r#"{{"type":"subscribe","to":"/topic/single/{n}","id":{n}}}"#)
            }
            5 => format!(r#"{{"type":"unsubscribe","to":"/topic/single/{b}","id":"u"}}"#),
            6 => r#"{"type":"refresh","token":"ann@60","id":"r"}"#.into(),
            _ => r#"{"type":"ping","id":"p"}"#.into(),
        }
    }

    fn succeed(&mut self) {
        self.happened.extend(self.under_way.take());
        match self.driver.pending {
            None => {}
            Some(Pending::Authenticated(_)) => self.driver.answer_authenticated(),
            Some(Pending::Published(_)) => self.driver.answer_published(Ok(())),
            Some(Pending::Joined) => self.driver.done(Done::Joined(Joined::Live)),
            Some(Pending::Members) => panic!("the model asks for no members"),
            Some(Pending::Introduced | Pending::Renewed | Pending::Decided) => {
                panic!("the model has no backend")
            }
            Some(Pending::Entered) => unreachable!("it is answered unseen"),
            Some(Pending::Recovered) => self.driver.answer_recovered(None, 0),
            Some(Pending::History) => {
                self.driver.done(Done::History(Err(HistoryError::Unavailable)));
            }
            Some(Pending::Settled) => self.driver.answer_settled(Ok(())),
            Some(Pending::App) => self.driver.done(Done::App(Ok(None))),
        }
    }

    fn fail(&mut self, a: u8) {
        if self.driver.pending == Some(Pending::App) {
            self.under_way = None;
            return self.driver.done(Done::App(Err(AppFailure::Unavailable)));
        }
        if let Some(Pending::Published(_)) = self.driver.pending {
            let errors =
                [PublishError::Unavailable, PublishError::Unknown, PublishError::Overloaded];
            self.under_way = None;
            self.has_failed = true;
            self.driver.answer_published(Err(errors[usize::from(a) % 3]));
        }
    }

    /// Reads what was written down.
    fn check(&mut self) {
        for line in std::mem::take(&mut self.driver.log) {
            let line = line.split_once('S').map_or(line.as_str(), |(_, rest)| rest);
            if let Some(asked) = line.strip_prefix("? ") {
                let number = asked.rsplit([' ', '/']).next();
                self.under_way = number.and_then(|number| number.parse().ok());
            }
            let receipt = line.strip_prefix("< RECEIPT receipt-id:");
            let ok =
                line.strip_prefix("< ok {\"id\":").map(|ok| ok.split([',', '}']).next().unwrap());
            if let Some(acknowledged) = receipt.or(ok).and_then(|text| text.parse().ok()) {
                assert!(
                    !self.needing.contains(&acknowledged) || self.happened.contains(&acknowledged),
                    "{acknowledged} was acknowledged and had not happened"
                );
                assert!(self.native || !self.has_failed, "a receipt after a failed publication");
            }
        }
        assert!(self.driver.hub.len() <= self.driver.rules.limits.subscriptions);
        let is_connected = self.driver.session.is_connected();
        assert_eq!(self.driver.entered, i32::from(is_connected), "entered while connected");
        let joins: i32 = self.driver.joined.values().sum();
        assert_eq!(
            usize::try_from(joins),
            Ok(self.driver.hub.len()),
            "each subscription is joined once"
        );
    }

    fn end(mut self) {
        self.driver.transport_closed();
        self.driver.transport_closed();
        assert!(self.driver.hub.is_empty(), "a subscription is left in the hub");
        assert!(self.driver.joined.values().all(|joins| *joins == 0), "{:?}", self.driver.joined);
        assert!(!self.driver.session.is_busy());
    }
}

//! Whom a backend has let in without a session, for a short time: `hooks.connect` is not asked anew
//! for each of many requests.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use aws_lc_rs::digest::{Context, SHA256};
use fanlight_engine::hook::Introduction;
use fanlight_engine::time::Now;

use crate::transport::door::Caller;

/// What was decided lately; bounded, and forgotten when it is full.
pub struct Decisions {
    /// How long one counts; 0: never.
    reuse_ms: u64,
    known: Mutex<HashMap<Question, Decision>>,
}

/// All that a backend is told of a request, as a digest: what differs in anything is another one.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Question([u8; 32]);

struct Decision {
    caller: Caller,
    until_ms: u64,
}

impl Decisions {
    /// Without any.
    pub fn new(reuse: Duration) -> Self {
        let reuse_ms = u64::try_from(reuse.as_millis()).unwrap_or(u64::MAX);
        Self { reuse_ms, known: Mutex::default() }
    }

    /// What `introduction` asks, where answers are kept.
    pub fn question(&self, introduction: Option<&Introduction>) -> Option<Question> {
        introduction.filter(|_| self.reuse_ms > 0).map(Question::of)
    }

    /// Who it is that was let in, if that still counts.
    pub fn of(&self, question: Question, now: Now) -> Option<Caller> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let Decision { caller, until_ms } = known.get(&question)?;
        let expires = caller.as_ref().and_then(|caller| caller.expires_unix_s);
        let is_over = *until_ms <= now.mono_ms || expires.is_some_and(|at| at <= now.unix_s());
        (!is_over).then(|| caller.clone())
    }

    /// Keeps that somebody was let in.
    pub fn keep(&self, question: Question, caller: &Caller, now: Now) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= DECISIONS_MAX {
            known.retain(|_, decision| decision.until_ms > now.mono_ms);
            if known.len() >= DECISIONS_MAX {
                known.clear();
            }
        }
        let until_ms = now.mono_ms.saturating_add(self.reuse_ms);
        known.insert(question, Decision { caller: caller.clone(), until_ms });
    }
}

impl Question {
    fn of(introduction: &Introduction) -> Self {
        let mut digest = Context::new(&SHA256);
        // With its length, so that no two tell the same.
        let mut add = |part: &str| {
            digest.update(&(part.len() as u64).to_le_bytes());
            digest.update(part.as_bytes());
        };
        add(&introduction.address.map(|address| address.to_string()).unwrap_or_default());
        add(introduction.token.as_ref().map_or("", |token| token.as_str()));
        for (name, value) in &introduction.headers {
            add(name);
            add(value);
        }
        let mut own = [0; 32];
        own.copy_from_slice(digest.finish().as_ref());
        Self(own)
    }
}

impl fmt::Debug for Decisions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Decisions").field("reuse_ms", &self.reuse_ms).finish_non_exhaustive()
    }
}

/// Decisions that are kept at the same time.
const DECISIONS_MAX: usize = 16_384;

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use fanlight_engine::auth::{Principal, Token};

    use super::*;

    fn told(token: &str, header: (&str, &str)) -> Introduction {
        Introduction {
            address: Some([192, 0, 2, 1].into()),
            token: Some(Token::new(token)),
            headers: [(header.0.into(), header.1.into())].into(),
        }
    }

    fn at(mono_ms: u64) -> Now {
        Now { mono_ms, unix_ms: 1_000_000 + mono_ms }
    }

    #[test]
    fn a_decision_counts_for_the_same_question_and_for_its_time() {
        let decisions = Decisions::new(Duration::from_secs(5));
        let ask = |told: &Introduction| decisions.question(Some(told)).unwrap();
        let question = ask(&told("t", ("cookie", "a")));
        let ann: Caller =
            Some(Arc::new(Principal { expires_unix_s: Some(1_004), ..Principal::of_user("ann") }));
        decisions.keep(question, &ann, at(0));
        let user = |question, now| decisions.of(question, now).map(|caller| caller.is_some());
        assert_eq!(user(question, at(3_999)), Some(true));
        assert_eq!(user(question, at(4_000)), None, "its own time is over");
        decisions.keep(question, &None, at(0));
        assert_eq!(user(question, at(4_999)), Some(false));
        assert_eq!(user(question, at(5_000)), None);
        let elsewhere =
            Introduction { address: Some([192, 0, 2, 2].into()), ..told("t", ("cookie", "a")) };
        for other in [
            told("u", ("cookie", "a")),
            told("t", ("cookie", "b")),
            told("tc", ("ookie", "a")),
            elsewhere,
        ] {
            assert_eq!(user(ask(&other), at(0)), None);
        }
        assert!(Decisions::new(Duration::ZERO).question(Some(&told("t", ("a", "b")))).is_none());
    }

    #[test]
    fn no_more_are_kept_than_a_bound() {
        let decisions = Decisions::new(Duration::from_secs(5));
        for n in 0..DECISIONS_MAX + 10 {
            let question = Question::of(&told(&n.to_string(), ("a", "b")));
            decisions.keep(question, &None, at(0));
        }
        assert!(decisions.known.lock().unwrap().len() <= DECISIONS_MAX);
    }
}

//! How far a drain is: what began it, by which plan it goes, and who waits for its end.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::Notify;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::config::DrainPlan;

/// What begins a drain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Trigger {
    /// SIGTERM, or SIGINT, as by Ctrl-C.
    Sigterm,
    /// `POST /drain`, as by `fanlight drain`.
    Admin,
    /// The load balancer takes the task of ECS out.
    Deregistered,
}

/// How far it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stage {
    /// There is none.
    None,
    /// Readiness has failed; the load balancer is to notice.
    Grace,
    /// Connections are being closed.
    Closing,
    /// The last one is closed, or cut; the process ends.
    Finishing,
}

/// A drain as those see it who ask.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// How far it is.
    pub state: Stage,
    /// Connections that the node has, still.
    pub connections: u64,
    /// What there is to say of a drain that has begun.
    #[serde(flatten)]
    pub begun: Option<Begun>,
}

/// Of a drain that has begun.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Begun {
    /// What began it.
    pub trigger: Trigger,
    /// Whether it goes by the shorter plan of a process that is to end.
    pub hurried: bool,
    /// Connections when their closes began; before that, as many as there are.
    pub connections_at_start: u64,
    /// Connections that its deadline has cut.
    pub cut: u64,
    /// Its grace, in seconds.
    pub grace_s: f64,
    /// Its window, in seconds.
    pub window_s: f64,
    /// What follows the window, in seconds.
    pub deadline_s: f64,
    /// Seconds since it began.
    pub elapsed_s: f64,
    /// Seconds until its deadline, at most.
    pub left_s: f64,
}

/// Keeps it.
#[derive(Debug, Default)]
pub struct Progress {
    begun: CancellationToken,
    state: Mutex<Option<State>>,
    /// Somebody was told that it has ended.
    told: Notify,
}

#[derive(Debug)]
struct State {
    stage: Stage,
    trigger: Trigger,
    hurried: bool,
    plan: DrainPlan,
    connections_at_start: u64,
    cut: u64,
    began_ms: u64,
    plan_began_ms: u64,
    /// When somebody asked who may ask again.
    asked_ms: Option<u64>,
}

impl Progress {
    /// Begins the drain; whether it had not begun before.
    pub(crate) fn begin(&self, trigger: Trigger, plan: DrainPlan, now_ms: u64) -> bool {
        let mut state = self.state();
        if state.is_some() {
            return false;
        }
        *state = Some(State {
            stage: Stage::Grace,
            trigger,
            hurried: false,
            plan,
            connections_at_start: 0,
            cut: 0,
            began_ms: now_ms,
            plan_began_ms: now_ms,
            asked_ms: None,
        });
        drop(state);
        self.begun.cancel();
        true
    }

    /// Whether a drain has begun.
    pub fn is_begun(&self) -> bool {
        self.begun.is_cancelled()
    }

    /// Resolves once a drain has begun.
    pub async fn begun(&self) {
        self.begun.cancelled().await;
    }

    /// From now on it goes by this plan.
    pub(super) fn follow(&self, plan: DrainPlan, hurried: bool, now_ms: u64) {
        if let Some(state) = &mut *self.state() {
            (state.plan, state.hurried, state.plan_began_ms) = (plan, hurried, now_ms);
        }
    }

    /// The grace is over, in which others may have come.
    pub(super) fn close(&self, connections: u64) {
        if let Some(state) = &mut *self.state()
            && state.stage == Stage::Grace
        {
            (state.stage, state.connections_at_start) = (Stage::Closing, connections);
        }
    }

    /// Nothing is left, but for what was `cut`. Returns once whoever waits has heard of it.
    pub(super) async fn finish(&self, cut: u64, now_ms: u64) {
        let asked_ms = match &mut *self.state() {
            Some(state) => {
                (state.stage, state.cut) = (Stage::Finishing, cut);
                state.asked_ms
            }
            None => None,
        };
        let waits = asked_ms.is_some_and(|asked_ms| now_ms < asked_ms + ASKS_AGAIN_MS);
        if waits {
            // If that one is gone, it does not matter.
            let _ = timeout(Duration::from_millis(ASKS_AGAIN_MS), self.told.notified()).await;
        }
    }

    /// What is left of the time in which connections are closed.
    pub(crate) fn window_left(&self, now_ms: u64) -> Duration {
        self.state().as_ref().map_or(Duration::ZERO, |state| {
            (state.plan.grace + state.plan.window).saturating_sub(state.of_plan(now_ms))
        })
    }

    /// How far it is, for somebody who may ask again.
    pub fn asked(&self, connections: u64, now_ms: u64) -> Report {
        if let Some(state) = &mut *self.state() {
            state.asked_ms = Some(now_ms);
            if state.stage == Stage::Finishing {
                self.told.notify_one();
            }
        }
        self.report(connections, now_ms)
    }

    /// How far it is.
    pub fn report(&self, connections: u64, now_ms: u64) -> Report {
        let state = self.state();
        let Some(state) = &*state else {
            return Report { state: Stage::None, connections, begun: None };
        };
        Report { state: state.stage, connections, begun: Some(state.begun(connections, now_ms)) }
    }

    fn state(&self) -> MutexGuard<'_, Option<State>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Begun {
    /// What is left until its deadline, at most, in whole seconds.
    pub fn left(&self) -> Duration {
        // It may have come from anybody.
        let left = Duration::try_from_secs_f64(self.left_s).unwrap_or_default();
        Duration::from_secs(left.as_secs().saturating_add(u64::from(left.subsec_nanos() > 0)))
    }
}

impl State {
    /// How long it has gone by this plan.
    fn of_plan(&self, now_ms: u64) -> Duration {
        Duration::from_millis(now_ms.saturating_sub(self.plan_began_ms))
    }

    fn begun(&self, connections: u64, now_ms: u64) -> Begun {
        let DrainPlan { grace, window, deadline } = self.plan;
        let left = match self.stage {
            Stage::Finishing => Duration::ZERO,
            _ => (grace + window + deadline).saturating_sub(self.of_plan(now_ms)),
        };
        Begun {
            trigger: self.trigger,
            hurried: self.hurried,
            connections_at_start: match self.stage {
                Stage::Grace => connections,
                _ => self.connections_at_start,
            },
            cut: self.cut,
            grace_s: grace.as_secs_f64(),
            window_s: window.as_secs_f64(),
            deadline_s: deadline.as_secs_f64(),
            elapsed_s: Duration::from_millis(now_ms.saturating_sub(self.began_ms)).as_secs_f64(),
            left_s: left.as_secs_f64(),
        }
    }
}

impl Trigger {
    /// As metrics and logs call it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Sigterm => "sigterm",
            Self::Admin => "admin",
            Self::Deregistered => "deregistered",
        }
    }
}

impl Stage {
    /// As JSON has it.
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Grace => "grace",
            Self::Closing => "closing",
            Self::Finishing => "finishing",
        }
    }
}

/// Who has asked asks again within this, or is gone.
const ASKS_AGAIN_MS: u64 = 2000;

#[cfg(test)]
mod tests {
    use super::*;

    const PLAN: DrainPlan = DrainPlan {
        grace: Duration::from_secs(10),
        window: Duration::from_secs(240),
        deadline: Duration::from_secs(5),
    };

    #[test]
    fn the_first_trigger_is_told_and_the_time_left_is_that_of_the_newest_plan() {
        let progress = Progress::default();
        assert_eq!(progress.report(7, 0).state, Stage::None);
        assert!(progress.begin(Trigger::Deregistered, PLAN, 1000));
        assert!(!progress.begin(Trigger::Admin, PLAN, 2000));
        let report = progress.report(9, 11_000);
        let begun = report.begun.expect("it has begun");
        assert_eq!(
            (report.state, begun.trigger, begun.hurried),
            (Stage::Grace, Trigger::Deregistered, false)
        );
        assert_eq!((begun.elapsed_s, begun.left_s), (10.0, 245.0));
        assert_eq!(begun.connections_at_start, 9, "two have come in the grace");

        progress.close(8);
        let hurried = DrainPlan { grace: Duration::ZERO, window: Duration::from_secs(25), ..PLAN };
        progress.follow(hurried, true, 61_000);
        let report = progress.report(3, 71_000);
        let begun = report.begun.expect("it has begun");
        assert_eq!((report.state, begun.hurried), (Stage::Closing, true));
        assert_eq!((begun.elapsed_s, begun.left_s), (70.0, 20.0));
        progress.close(3);
        assert_eq!(begun.connections_at_start, 8, "that is how many are to go");
        assert_eq!(progress.window_left(71_000), Duration::from_secs(15));
        assert_eq!(progress.window_left(90_000), Duration::ZERO);
    }

    #[test]
    fn a_report_is_read_back_as_it_was() {
        let progress = Progress::default();
        let none = serde_json::to_string(&progress.report(3, 0)).expect("JSON");
        assert_eq!(none, r#"{"state":"none","connections":3}"#);
        progress.begin(Trigger::Admin, PLAN, 0);
        for report in [serde_json::from_str(&none).expect("a report"), progress.report(3, 0)] {
            let text = serde_json::to_string(&report).expect("JSON");
            assert_eq!(serde_json::from_str::<Report>(&text).expect(&text), report);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_end_waits_for_who_asks_and_not_for_who_has_long_gone() {
        let progress = Progress::default();
        progress.begin(Trigger::Admin, PLAN, 0);
        progress.asked(1, 0);
        // Nobody is about to ask any more.
        timeout(Duration::ZERO, progress.finish(0, ASKS_AGAIN_MS)).await.expect("at once");
        progress.asked(1, 5000);
        // What was told above counts no more than once.
        let _ = timeout(Duration::ZERO, progress.told.notified()).await;
        let ended = async {
            tokio::join!(progress.finish(0, 5500), async {
                assert_eq!(progress.asked(0, 6000).state, Stage::Finishing);
            })
        };
        timeout(Duration::from_millis(1), ended).await.expect("once it was told");
    }
}

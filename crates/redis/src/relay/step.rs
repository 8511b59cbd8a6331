//! One step with one destination: where we are, what follows there, and that into the target.

use std::sync::{Arc, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use fanlight_engine::broker::PublishError;
use fanlight_engine::publication::Publication;
use fanlight_proto::{Destination, Position};

use super::calls::{self, EpochOf, Outcome, Page, Publish};
use super::passage::Skip;
use super::{Core, Place};
use crate::history::BadAnswer;
use crate::resp3::Value;

/// What is known of the position up to which a destination has been relayed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Known {
    /// Nothing: the target is to be asked.
    Nothing,
    /// This one; `None` if nothing has been relayed.
    Position(Option<Position>),
}

/// How a step ended.
#[derive(Debug)]
pub(super) struct Done {
    pub(super) destination: Destination,
    pub(super) known: Known,
    /// The source's top, where that was read.
    pub(super) top: Option<Position>,
    pub(super) result: Result<Progress, Fault>,
    pub(super) tidings: Tidings,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Progress {
    /// Everything that was there is in the target.
    CaughtUp,
    /// There is more.
    More,
    /// The source keeps nothing of it any more.
    Gone,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    /// The source can't be asked now.
    Source,
    /// The target can't be asked now, or it is not known what it did.
    Target,
    /// One of them refused something of this destination.
    Refused,
    /// Another process has taken over.
    Fenced,
}

/// What operators should hear of, once it is so.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct Tidings {
    /// Publications that are gone for good.
    pub(super) lost: u64,
    /// Epochs that have ended.
    pub(super) epochs: u64,
    /// Publications that are in the target's history, but were not told live.
    pub(super) unannounced: u64,
}

/// What a page comes to.
struct Batch {
    publications: Vec<Publication>,
    skipped: Vec<Skip>,
    to: Position,
    kept_ms: u64,
    tidings: Tidings,
}

/// Does one step.
pub(super) async fn step(
    core: Arc<Core>,
    token: u64,
    destination: Destination,
    known: Known,
) -> Done {
    let tidings = Tidings::default();
    let mut done = Done { known, top: None, result: Ok(Progress::Gone), tidings, destination };
    if let Some(place) = core.place(&done.destination) {
        done.result = advance(&core, token, &place, &mut done).await;
    }
    if done.result == Err(Fault::Target) {
        done.known = Known::Nothing;
    }
    done
}

async fn advance(
    core: &Core,
    token: u64,
    place: &Place,
    done: &mut Done,
) -> Result<Progress, Fault> {
    let from = match done.known {
        Known::Position(position) => position,
        Known::Nothing => position(core, place).await?,
    };
    done.known = Known::Position(from);
    let Some(page) = read(core, place, from).await? else {
        return Ok(Progress::Gone);
    };
    let top = page.top;
    done.top = Some(top);
    if page.entries.is_empty() && page.epoch == EpochOf::Known && page.lost == 0 {
        return Ok(Progress::CaughtUp);
    }
    let batch = batch(core, page, from);
    match publish(core, token, place, from, &batch).await? {
        Outcome::Published { refused } => {
            done.known = Known::Position(Some(batch.to));
            done.tidings = Tidings { unannounced: refused, ..batch.tidings };
            on_published(core, &batch);
            let is_last = batch.to.offset >= top.offset;
            Ok(if is_last { Progress::CaughtUp } else { Progress::More })
        }
        Outcome::Fenced => Err(Fault::Fenced),
        Outcome::Elsewhere(position) => {
            done.known = Known::Position(position);
            Ok(Progress::More)
        }
    }
}

async fn position(core: &Core, place: &Place) -> Result<Option<Position>, Fault> {
    let command = calls::position(&core.target.names, &core.options.name, place);
    let answer = core.target.shards.call(place.partition, |_| command).await;
    calls::position_found(&answered(answer, Fault::Target)?).map_err(|BadAnswer| Fault::Refused)
}

async fn read(core: &Core, place: &Place, from: Option<Position>) -> Result<Option<Page>, Fault> {
    let command = calls::read(&core.source.names, place, from);
    let answer = core.source.shards.call(place.partition, |_| command).await;
    calls::page(answered(answer, Fault::Source)?).map_err(|BadAnswer| Fault::Refused)
}

async fn publish(
    core: &Core,
    token: u64,
    place: &Place,
    from: Option<Position>,
    batch: &Batch,
) -> Result<Outcome, Fault> {
    let Some(history) = place.permit.history() else {
        return Err(Fault::Refused);
    };
    let call = Publish {
        relay: &core.options.name,
        place,
        history,
        token,
        from,
        to: batch.to,
        kept_ms: batch.kept_ms,
        publications: &batch.publications,
        sharded: core.target.shards.sharded_pubsub(),
    };
    let names = &core.target.names;
    let answer = core.target.shards.call_kept(place.partition, |link| call.call(names, link));
    calls::outcome(&answered(answer.await, Fault::Target)?).map_err(|BadAnswer| Fault::Refused)
}

/// An error reply concerns this destination; anything else that is no answer, everything there.
fn answered(answer: Result<Value, PublishError>, away: Fault) -> Result<Value, Fault> {
    match answer {
        Ok(Value::Error(_)) => Err(Fault::Refused),
        Ok(value) => Ok(value),
        Err(_) => Err(away),
    }
}

/// What is passed on of a page, and the position after it.
fn batch(core: &Core, page: Page, from: Option<Position>) -> Batch {
    let mut tidings = Tidings { lost: page.lost, ..Tidings::default() };
    tidings.epochs = u64::from(page.epoch != EpochOf::Known);
    let mut to = Position { epoch: page.top.epoch, offset: page.after };
    if page.entries.is_empty() && page.epoch == EpochOf::Known && page.lost == 0 {
        to = from.unwrap_or(to);
    }
    let mut destinations = core.destinations.lock().unwrap_or_else(PoisonError::into_inner);
    let (mut publications, mut skipped) = (Vec::with_capacity(page.entries.len()), Vec::new());
    for entry in page.entries {
        // By its place in the list, as an entry that can't be read has one too.
        to.offset += 1;
        match core.cells.pass(entry, &mut destinations) {
            Ok(publication) => publications.push(publication),
            Err(skip) => {
                tidings.lost += u64::from(skip == Skip::Unreadable);
                skipped.push(skip);
            }
        }
    }
    Batch { publications, skipped, to, kept_ms: page.kept_ms, tidings }
}

fn on_published(core: &Core, batch: &Batch) {
    let meters = &core.meters;
    meters.relayed.increment(batch.publications.len() as u64);
    batch.skipped.iter().for_each(|skip| meters.on_skipped(*skip));
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    for publication in &batch.publications {
        let lag_ms = (now.as_millis() as u64).saturating_sub(publication.at_unix_ms);
        meters.lag.record(lag_ms as f64 / 1000.0);
    }
}

//! What of a source's publications is passed on, and what not: here loops end.
//!
//! A relayed publication carries the cells that it has been in, oldest first, in a header that no
//! client can set. It is never brought to a cell that it has been in.

use bytes::Bytes;
use fanlight_engine::publication::{CELL_HEADER, Publication};

use super::RelayOptions;
use crate::envelope::{self, Destinations};

/// The two ends of a relay.
#[derive(Debug)]
pub(super) struct Cells {
    source: String,
    target: String,
    transit: bool,
}

/// Why a publication is not passed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Skip {
    /// It has been in the target already.
    Returning,
    /// It came to the source from a third cell, which has a relay of its own.
    ThirdCell,
    /// It is no envelope that this version reads.
    Unreadable,
}

impl Cells {
    pub(super) fn new(options: &RelayOptions) -> Self {
        Self {
            source: options.source_cell.clone(),
            target: options.target_cell.clone(),
            transit: options.transit,
        }
    }

    /// The publication of a history's entry as it goes to the target.
    pub(super) fn pass(
        &self,
        entry: Bytes,
        destinations: &mut Destinations,
    ) -> Result<Publication, Skip> {
        let mut publication =
            envelope::decode(entry, destinations).map_err(|_| Skip::Unreadable)?;
        let mut headers = Vec::from(std::mem::take(&mut publication.headers));
        let before = headers.iter().position(|(name, _)| &**name == CELL_HEADER);
        let been_in = before.map(|at| headers.remove(at).1);
        let path = match &been_in {
            None => self.source.clone(),
            Some(path) if path.split(',').any(|cell| cell == self.target) => {
                return Err(Skip::Returning);
            }
            Some(path) if path.split(',').count() >= CELLS_MAX => return Err(Skip::Returning),
            Some(_) if !self.transit => return Err(Skip::ThirdCell),
            Some(path) => format!("{path},{}", self.source),
        };
        headers.push((CELL_HEADER.into(), path.into()));
        publication.headers = headers.into();
        // The target gives it a place in its own history.
        publication.position = None;
        Ok(publication)
    }
}

/// No arrangement of cells needs a longer way.
const CELLS_MAX: usize = 8;

#[cfg(test)]
mod tests {
    use super::*;
    use fanlight_engine::publication::{ContentType, PublicationId};
    use fanlight_proto::Position;
    use uuid::Uuid;

    fn entry(headers: &[(&str, &str)]) -> Bytes {
        let publication = Publication {
            id: PublicationId(Uuid::from_u128(7)),
            destination: "/topic/a".parse().unwrap(),
            body: Bytes::from_static(b"hello"),
            content_type: ContentType::Text,
            headers: headers.iter().map(|&(name, value)| (name.into(), value.into())).collect(),
            publisher: Some("ann".into()),
            at_unix_ms: 5,
            position: Some(Position { epoch: 1, offset: 2 }),
            only_for: None,
            except: None,
            is_json: false,
        };
        let mut out = Vec::new();
        envelope::encode(&publication, &mut out);
        out.into()
    }

    fn passed(headers: &[(&str, &str)], transit: bool) -> Result<String, Skip> {
        let cells = Cells { source: "b".into(), target: "c".into(), transit };
        let publication = cells.pass(entry(headers), &mut Destinations::one())?;
        assert_eq!((publication.position, &*publication.body), (None, &b"hello"[..]));
        let headers = publication.headers.iter().map(|(name, value)| format!("{name}={value}"));
        Ok(headers.collect::<Vec<_>>().join(";"))
    }

    #[test]
    fn what_is_passed_on_says_where_it_has_been() {
        assert_eq!(passed(&[("x", "1")], false), Ok("x=1;fanlight-cell=b".into()));
        assert_eq!(passed(&[("fanlight-cell", "a")], true), Ok("fanlight-cell=a,b".into()));
    }

    #[test]
    fn nothing_comes_to_a_cell_where_it_has_been_nor_by_two_ways() {
        for path in ["c", "a,c", "c,a"] {
            assert_eq!(passed(&[("fanlight-cell", path)], true), Err(Skip::Returning), "{path}");
        }
        assert_eq!(passed(&[("fanlight-cell", "a")], false), Err(Skip::ThirdCell));
        let long = ["a"; CELLS_MAX].join(",");
        assert_eq!(passed(&[("fanlight-cell", &long)], true), Err(Skip::Returning));
    }

    #[test]
    fn what_can_not_be_read_is_not_passed_on() {
        let cells = Cells { source: "b".into(), target: "c".into(), transit: false };
        let foreign = Bytes::from_static(b"foreign");
        assert_eq!(cells.pass(foreign, &mut Destinations::one()), Err(Skip::Unreadable));
    }
}

//! What presence is called in Redis: keys, entries and members.

use std::sync::Arc;

use fanlight_engine::broker::Channel;
use fanlight_engine::presence::{Member, Place, Present};

use crate::lease::boot_of;
use crate::names::{Kind, Names, Partition};

/// The partition of everything that concerns a place: its channel's.
pub(super) fn partition_of(place: &Place) -> Partition {
    Partition::of(place.channel.as_str())
}

/// The hash of a place's members.
pub(super) fn members_key(names: &Names, place: &Place) -> Vec<u8> {
    names.key(partition_of(place), MEMBERS, place.destination.as_str())
}

/// The hash of what changed at a place and is not told yet.
pub(super) fn changes_key(names: &Names, place: &Place) -> Vec<u8> {
    names.key(partition_of(place), CHANGES, place.destination.as_str())
}

/// The hash of what an owner has entered in a partition.
pub(super) fn entries_key(names: &Names, partition: Partition, owner: &str) -> Vec<u8> {
    names.key(partition, ENTRIES, owner)
}

/// What keeps calls of an owner's process out that arrive too late.
pub(super) fn calls_key(names: &Names, partition: Partition, owner: &str) -> Vec<u8> {
    names.key(partition, CALLS, boot_of(owner))
}

/// What the names of a place's entries begin with; the member follows. A channel that is the
/// destination's own is left out. Neither channels nor destinations have control characters.
pub(super) fn entry_start(place: &Place) -> String {
    let destination = place.destination.as_str();
    let channel = place.channel.as_str();
    let channel = if channel == destination { "" } else { channel };
    format!("{channel}\0{destination}\0")
}

/// An entry's place, and its member as [`member_text`] writes it.
pub(super) fn read_entry(entry: &str) -> Option<(Place, &str)> {
    let (channel, rest) = entry.split_once('\0')?;
    let (destination, member) = rest.split_once('\0')?;
    let destination: fanlight_proto::Destination = destination.parse().ok()?;
    let channel = match channel.strip_prefix("ns:") {
        Some(name) => Channel::of_namespace(name),
        None if channel.is_empty() => Channel::of_destination(destination.to_shared()),
        None => return None,
    };
    Some((Place { channel, destination }, member))
}

/// `u` and the user, or `s` and the session.
pub(super) fn member_text(member: &Member) -> String {
    match member {
        Member::User(user) => format!("u{user}"),
        Member::Anonymous(session) => format!("s{session}"),
    }
}

/// A member of the hash, with its sessions.
pub(super) fn read_member(member: &str, sessions: &str) -> Option<Present> {
    let user = match member.split_at_checked(1)? {
        ("u", user) => Some(Arc::from(user)),
        ("s", _) => None,
        _ => return None,
    };
    Some(Present { user, sessions: sessions.parse().ok()? })
}

const MEMBERS: Kind = Kind("presence");
const CHANGES: Kind = Kind("presence-changes");
const ENTRIES: Kind = Kind("presence-of");
const CALLS: Kind = Kind("presence-calls");

#[cfg(test)]
mod tests {
    use super::*;

    fn place(channel: Option<&str>) -> Place {
        let destination: fanlight_proto::Destination = "/topic/ä:b".parse().unwrap();
        let own = || Channel::of_destination(destination.to_shared());
        Place { channel: channel.map_or_else(own, Channel::of_namespace), destination }
    }

    #[test]
    fn an_entry_leads_back_to_its_place_and_member_whatever_the_user_is_called() {
        for place in [place(None), place(Some("rooms"))] {
            for user in ["ann", "", "a\0b", "\0\0", "!"] {
                let member = member_text(&Member::User(user.into()));
                let entry = entry_start(&place) + &member;
                assert_eq!(read_entry(&entry), Some((place.clone(), &*member)));
                let present = Present { user: Some(user.into()), sessions: 3 };
                assert_eq!(read_member(&member, "3"), Some(present));
            }
            assert_eq!(read_entry(&entry_start(&place)), Some((place, "")));
        }
        assert_eq!(read_entry("other\0/topic/a\0u"), None);
    }
}

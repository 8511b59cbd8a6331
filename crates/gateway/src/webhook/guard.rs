//! Which addresses a webhook may be at. It is the resolved address that is looked at, right before
//! it is connected to: a name, or a number written in some odd way, can't be trusted before.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

/// What is allowed of addresses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Guard {
    /// Whether private and loopback addresses are.
    pub allow_private: bool,
    /// Ranges that are whatever else holds.
    pub allowed: Box<[IpNet]>,
    /// Whether nobody on the way can read or change what is sent. Else no public address is.
    pub is_encrypted: bool,
}

/// Where an address leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reach {
    /// Anywhere on the internet.
    Public,
    /// Within somebody's own network, or machine.
    Private,
    /// Nowhere that a backend is: metadata of clouds, the local link, groups, documentation.
    Nowhere,
}

impl Guard {
    /// Whether a webhook may be there.
    pub fn admits(&self, address: IpAddr) -> bool {
        let address = unwrapped(address);
        if self.allowed.iter().any(|range| range.contains(&address)) {
            return true;
        }
        match reach(address) {
            Reach::Public => self.is_encrypted,
            Reach::Private => self.allow_private,
            Reach::Nowhere => false,
        }
    }
}

/// The IPv4 address that an IPv6 address stands for: mapped (RFC 4291 §2.5.5), translated (RFC 6052
/// §2.1) or tunnelled (RFC 3056 §2).
fn unwrapped(address: IpAddr) -> IpAddr {
    let IpAddr::V6(v6) = address else { return address };
    if v6.is_loopback() || v6.is_unspecified() {
        return address;
    }
    match v6.segments() {
        [0, 0, 0, 0, 0, 0 | 0xffff, high, low]
        | [0, 0, 0, 0, 0xffff, 0, high, low]
        | [0x64, 0xff9b, 0, 0, 0, 0, high, low]
        | [0x2002, high, low, ..] => {
            IpAddr::V4(Ipv4Addr::from_bits(u32::from(high) << 16 | u32::from(low)))
        }
        _ => address,
    }
}

fn reach(address: IpAddr) -> Reach {
    if is_metadata(address) {
        return Reach::Nowhere;
    }
    match address {
        IpAddr::V4(v4) => reach_v4(v4),
        IpAddr::V6(v6) => reach_v6(v6),
    }
}

/// What clouds have among addresses that others use: Alibaba Cloud, Azure, Amazon.
fn is_metadata(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => {
            matches!(v4.octets(), [100, 100, 100, 200] | [168, 63, 129, 16])
        }
        IpAddr::V6(v6) => matches!(v6.segments(), [0xfd00, 0x0ec2, ..]),
    }
}

/// RFC 6890.
fn reach_v4(address: Ipv4Addr) -> Reach {
    match address.octets() {
        [127 | 10, ..] | [172, 16..=31, ..] | [192, 168, ..] | [100, 64..=127, ..] => {
            Reach::Private
        }
        [0 | 224..=255, ..]
        | [169, 254, ..]
        | [192, 0, 0 | 2, _]
        | [192, 88, 99, _]
        | [198, 18..=19, ..]
        | [198, 51, 100, _]
        | [203, 0, 113, _] => Reach::Nowhere,
        _ => Reach::Public,
    }
}

fn reach_v6(address: Ipv6Addr) -> Reach {
    if address.is_loopback() {
        return Reach::Private;
    }
    let [first, second, ..] = address.segments();
    // Teredo and others of the registry of special purposes, and documentation.
    let is_special = match first {
        0x2001 => second <= 0x1ff || second == 0xdb8,
        0x3fff => second <= 0xfff,
        _ => false,
    };
    match first {
        0xfc00..=0xfdff => Reach::Private,
        0x2000..=0x3fff if !is_special => Reach::Public,
        _ => Reach::Nowhere,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn admitted(guard: &Guard, addresses: &[&str]) -> Vec<bool> {
        addresses.iter().map(|address| guard.admits(address.parse().unwrap())).collect()
    }

    const PUBLIC: [&str; 4] = ["8.8.8.8", "2606:4700::1", "::ffff:8.8.8.8", "64:ff9b::808:808"];
    const PRIVATE: [&str; 10] = [
        "127.0.0.1",
        "127.9.9.9",
        "10.1.2.3",
        "172.31.0.1",
        "192.168.1.1",
        "100.64.0.1",
        "::1",
        "fd12::1",
        "::ffff:10.0.0.1",
        "64:ff9b::7f00:1",
    ];
    const NOWHERE: [&str; 20] = [
        "0.0.0.0",
        "169.254.169.254",
        "169.254.170.2",
        "100.100.100.200",
        "168.63.129.16",
        "fd00:ec2::254",
        "::ffff:169.254.169.254",
        "64:ff9b::a9fe:a9fe",
        "::169.254.169.254",
        "2002:a9fe:a9fe::1",
        "64:ff9b:1::a9fe:a9fe",
        "::",
        "fe80::1",
        "ff02::1",
        "224.0.0.1",
        "255.255.255.255",
        "198.18.0.1",
        "2001::1",
        "2001:db8::1",
        "fec0::1",
    ];

    #[test]
    fn without_more_only_public_addresses_are_admitted_and_those_only_by_https() {
        let guard = Guard { allow_private: false, allowed: Box::default(), is_encrypted: true };
        assert_eq!(admitted(&guard, &PUBLIC), [true; 4]);
        assert_eq!(admitted(&guard, &PRIVATE), [false; 10]);
        assert_eq!(admitted(&guard, &NOWHERE), [false; 20]);
        let plain = Guard { allow_private: true, is_encrypted: false, ..guard };
        assert_eq!(admitted(&plain, &PUBLIC), [false; 4]);
        assert_eq!(admitted(&plain, &PRIVATE), [true; 10]);
        assert_eq!(admitted(&plain, &NOWHERE), [false; 20]);
    }

    #[test]
    fn listed_ranges_are_admitted_in_whichever_way_their_addresses_are_written() {
        let allowed = ["10.0.0.0/8".parse().unwrap(), "169.254.170.0/24".parse().unwrap()].into();
        let guard = Guard { allow_private: false, allowed, is_encrypted: false };
        let addresses = ["10.1.2.3", "::ffff:10.1.2.3", "169.254.170.2", "11.0.0.1", "127.0.0.1"];
        assert_eq!(admitted(&guard, &addresses), [true, true, true, false, false]);
    }
}

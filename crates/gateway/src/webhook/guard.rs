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

/// Why a webhook may not be at an address, and what to set if it is to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// Anybody on the way could read and change what is sent.
    #[error("a public address, to which only https goes; set an https url, or allow_addresses")]
    Plain,
    /// It is within somebody's own network, or this machine.
    #[error("a private address; set allow_private or allow_addresses if it is to be there")]
    Private,
    /// No backend is there, or the cloud's own servers are, which tell secrets.
    #[error(
        "an address of a cloud's metadata, a local link or a special purpose, where no backend \
         is; only allow_addresses allows it"
    )]
    Nowhere,
}

impl Guard {
    /// Whether a webhook may be there.
    pub fn check(&self, address: IpAddr) -> Result<(), Refused> {
        let address = unwrapped(address);
        if self.allowed.iter().any(|range| range.contains(&address)) {
            return Ok(());
        }
        match reach(address) {
            Reach::Public if self.is_encrypted => Ok(()),
            Reach::Public => Err(Refused::Plain),
            Reach::Private if self.allow_private => Ok(()),
            Reach::Private => Err(Refused::Private),
            Reach::Nowhere => Err(Refused::Nowhere),
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

/// What clouds have among addresses that others use. What the rest have is in a local link,
/// as 169.254.169.254.
fn is_metadata(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => {
            // Alibaba Cloud, Azure.
            matches!(v4.octets(), [100, 100, 100, 200] | [168, 63, 129, 16])
        }
        IpAddr::V6(v6) => matches!(
            v6.segments(),
            // Amazon: metadata, and what EKS gives its pods credentials by.
            [0xfd00, 0x0ec2, ..]
                // Google.
                | [0xfd20, 0x00ce, 0, 0, 0, 0, 0, 0x0254]
                // Oracle.
                | [0xfd00, 0x00c1, 0, 0, 0, 0, 0xa9fe, 0xa9fe]
                // Scaleway.
                | [0xfd00, 0x0042, 0, 0, 0, 0, 0, 0x0042]
                // Akamai (Linode).
                | [0xfd00, 0xa9fe, 0xa9fe, 0, 0, 0, 0, 1]
                // Alibaba Cloud.
                | [0xfd00, 0x0100, 0, 0, 0, 0, 0x0100, 0x0200]
        ),
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
        addresses.iter().map(|address| guard.check(address.parse().unwrap()).is_ok()).collect()
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
    const NOWHERE: [&str; 27] = [
        "0.0.0.0",
        "169.254.169.254",
        "169.254.170.2",
        "100.100.100.200",
        "168.63.129.16",
        "192.0.0.192",
        "fd00:ec2::254",
        "fd00:ec2::23",
        "fd20:ce::254",
        "fd00:c1::a9fe:a9fe",
        "fd00:42::42",
        "fd00:a9fe:a9fe::1",
        "fd00:100::100:200",
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
        assert_eq!(admitted(&guard, &NOWHERE), [false; 27]);
        let plain = Guard { allow_private: true, is_encrypted: false, ..guard };
        assert_eq!(admitted(&plain, &PUBLIC), [false; 4]);
        assert_eq!(admitted(&plain, &PRIVATE), [true; 10]);
        assert_eq!(admitted(&plain, &NOWHERE), [false; 27]);
    }

    #[test]
    fn a_refusal_names_what_would_help() {
        let refused = |allow_private, is_encrypted, address: &str| {
            let guard = Guard { allow_private, allowed: Box::default(), is_encrypted };
            guard.check(address.parse().unwrap()).unwrap_err()
        };
        assert_eq!(refused(false, true, "10.0.0.1"), Refused::Private);
        assert_eq!(refused(true, true, "fd20:ce::254"), Refused::Nowhere);
        assert_eq!(refused(true, false, "8.8.8.8"), Refused::Plain);
        let told = |refused: Refused| refused.to_string();
        assert!(told(Refused::Private).contains("allow_private"));
        // It is set already, or helps nothing.
        for why in [Refused::Nowhere, Refused::Plain] {
            assert!(!told(why).contains("allow_private"), "{why}");
            assert!(told(why).contains("allow_addresses"), "{why}");
        }
    }

    #[test]
    fn listed_ranges_are_admitted_in_whichever_way_their_addresses_are_written() {
        let allowed = ["10.0.0.0/8".parse().unwrap(), "169.254.170.0/24".parse().unwrap()].into();
        let guard = Guard { allow_private: false, allowed, is_encrypted: false };
        let addresses = ["10.1.2.3", "::ffff:10.1.2.3", "169.254.170.2", "11.0.0.1", "127.0.0.1"];
        assert_eq!(admitted(&guard, &addresses), [true, true, true, false, false]);
    }
}

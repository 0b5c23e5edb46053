//! Addresses of this machine and of its link.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The address at which Amazon's machines ask for their credentials by IPv6 (documentation of EC2, "instance metadata"). By IPv4 it is
/// a link-local one.
const METADATA: Ipv6Addr = Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254);
/// Prefixes of IPv6 addresses that stand for an IPv4 one, and the byte at which that begins: mapped and compatible (RFC 4291), translated
/// (RFC 6052, RFC 8215), and 6to4 (RFC 3056).
const EMBEDDED: [(&[u8], usize); 5] = [
    (&[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff], 12),
    (&[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], 12),
    (&[0, 0x64, 0xff, 0x9b, 0, 0, 0, 0, 0, 0, 0, 0], 12),
    (&[0, 0x64, 0xff, 0x9b, 0, 1, 0, 0, 0, 0, 0, 0], 12),
    (&[0x20, 0x02], 2),
];

/// Returns true for loopback and link-local addresses, and those that lead to this machine in another way.
pub(crate) fn is_local(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => is_local_4(address),
        IpAddr::V6(address) => {
            address.is_loopback()
                || address.is_unspecified()
                || address.is_unicast_link_local()
                || address.is_multicast()
                || address == METADATA
                || embedded(address).is_some_and(is_local_4)
        }
    }
}

fn is_local_4(address: Ipv4Addr) -> bool {
    // All of 0.0.0.0/8 means "this network" (RFC 1122), and Linux connects to itself.
    address.is_loopback()
        || address.is_link_local()
        || address.octets()[0] == 0
        || address.is_multicast()
        || address.is_broadcast()
}

fn embedded(address: Ipv6Addr) -> Option<Ipv4Addr> {
    let octets = address.octets();
    EMBEDDED
        .iter()
        .find(|(prefix, _)| octets.starts_with(prefix))
        .map(|(_, at)| Ipv4Addr::new(octets[*at], octets[at + 1], octets[at + 2], octets[at + 3]))
}

/// Returns true if a list names a host, with or without its port.
pub(crate) fn is_named(allow: &[String], host: &str, port: u16) -> bool {
    let bare =
        |text: &str| text.trim_start_matches('[').trim_end_matches(']').trim_end_matches('.').to_ascii_lowercase();
    let wanted = bare(host);
    allow.iter().any(|named| {
        let with_port = named.rsplit_once(':').filter(|(host, _)| !host.contains(':') || host.ends_with(']'));
        match with_port.and_then(|(host, port)| Some((host, port.parse::<u16>().ok()?))) {
            Some((host, own)) => bare(host) == wanted && own == port,
            None => bare(named) == wanted,
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn addresses_of_this_machine_are_known_in_every_form() {
        for local in [
            "127.0.0.1",
            "127.1.2.3",
            "0.0.0.0",
            "0.1.2.3",
            "169.254.169.254",
            "255.255.255.255",
            "224.0.0.251",
            "::1",
            "::",
            "fe80::1",
            "ff02::1",
            "::ffff:127.0.0.1",
            "::127.0.0.1",
            "::ffff:169.254.169.254",
            "64:ff9b::7f00:1",
            "64:ff9b:1::7f00:1",
            "2002:7f00:1::",
            "2002:a9fe:a9fe::1",
            "fd00:ec2::254",
        ] {
            assert!(is_local(local.parse().unwrap()), "{local}");
        }
        for other in [
            "10.0.0.1",
            "192.168.1.1",
            "172.17.0.1",
            "8.8.8.8",
            "2001:db8::1",
            "fd12::1",
            "::ffff:10.0.0.1",
            "2002:a00:1::",
        ] {
            assert!(!is_local(other.parse().unwrap()), "{other}");
        }
    }

    #[test]
    fn a_host_is_named_with_its_port_or_with_all() {
        let allow = ["localhost:5000", "mirror.internal", "[::1]:80", "::1"].map(str::to_owned);
        for (host, port, named) in [
            ("localhost", 5000, true),
            ("LOCALHOST.", 5000, true),
            ("localhost", 5001, false),
            ("mirror.internal", 1, true),
            ("other.mirror.internal", 1, false),
            ("[::1]", 80, true),
            ("::1", 81, true),
            ("127.0.0.1", 5000, false),
        ] {
            assert_eq!(is_named(&allow, host, port), named, "{host}:{port}");
        }
    }

    proptest! {
        #[test]
        fn no_form_of_an_address_hides_it(octets in any::<[u8; 4]>()) {
            let plain = Ipv4Addr::from(octets);
            let mapped = IpAddr::V6(plain.to_ipv6_mapped());
            prop_assert_eq!(is_local(IpAddr::V4(plain)), is_local(mapped));
        }
    }
}

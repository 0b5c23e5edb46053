//! Proxies, and the addresses that are asked without one.
//!
//! The rules are those of Go's programs (golang.org/x/net/http/httpproxy), so that a machine that is set up for Docker,
//! podman or skopeo is set up for kiln. Nothing is looked for here: the command line says what the environment has.

use std::net::IpAddr;

use reqwest::ClientBuilder;
use url::{Host, Url};

use crate::redirect::is_loopback;

/// The proxies of this machine.
#[derive(Debug, Clone, Default)]
pub struct Proxies {
    /// For addresses of plain HTTP (`HTTP_PROXY`).
    http: Option<String>,
    /// For all others (`HTTPS_PROXY`).
    https: Option<String>,
    /// Addresses that are asked without one.
    direct: Vec<Rule>,
}

/// Addresses that are asked without a proxy.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Rule {
    /// All of them.
    All,
    /// Those in a network: its address, and the bits that count.
    Network(IpAddr, u8),
    /// An address, on a port or on all of them.
    Address(IpAddr, Option<u16>),
    /// Names that end so.
    Domain {
        /// With the dot that it begins with.
        suffix: String,
        /// The name without that dot counts too.
        itself: bool,
        port: Option<u16>,
    },
}

impl Proxies {
    /// Proxies by the values of the environment. What is empty is none; an address without a scheme is one of HTTP.
    pub fn new(http: &str, https: &str, no_proxy: &str) -> Self {
        let address = |text: &str| match text.trim() {
            "" => None,
            text if text.contains("://") => Some(text.to_owned()),
            text => Some(format!("http://{text}")),
        };
        let direct = no_proxy.split([',', ' ', '\t', '\n']).filter_map(Rule::parse).collect();
        Self { http: address(http), https: address(https), direct }
    }

    /// Makes a client use these proxies, and none of its own finding.
    pub fn apply(&self, builder: ClientBuilder) -> ClientBuilder {
        if self.http.is_none() && self.https.is_none() {
            return builder.no_proxy();
        }
        let proxies = self.clone();
        builder.proxy(reqwest::Proxy::custom(move |url| proxies.of(url).map(str::to_owned)))
    }

    /// Returns the proxy for an address.
    fn of(&self, url: &Url) -> Option<&str> {
        let proxy = if url.scheme() == "http" { &self.http } else { &self.https };
        let host = url.host()?;
        let ip = match host {
            Host::Ipv4(ip) => Some(IpAddr::from(ip)),
            Host::Ipv6(ip) => Some(IpAddr::from(ip)),
            Host::Domain(_) => None,
        };
        let (name, port) = (host.to_string().to_ascii_lowercase(), url.port_or_known_default());
        let is_direct = is_loopback(&name) || self.direct.iter().any(|rule| rule.matches(&name, ip, port));
        proxy.as_deref().filter(|_| !is_direct)
    }
}

impl Rule {
    fn parse(text: &str) -> Option<Self> {
        let text = text.to_ascii_lowercase();
        if text == "*" {
            return Some(Self::All);
        }
        let network = text.split_once('/').and_then(|(ip, bits)| Some((ip.parse().ok()?, bits.parse().ok()?)));
        if let Some((ip, bits)) = network {
            return Some(Self::Network(ip, bits));
        }
        // An IPv6 address without brackets is all colons.
        let (host, port) = match text.rsplit_once(':').filter(|(host, _)| host.ends_with(']') || !host.contains(':')) {
            Some((host, port)) => (host, Some(port.parse().ok()?)),
            None => (text.as_str(), None),
        };
        let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        if let Ok(ip) = host.parse() {
            return Some(Self::Address(ip, port));
        }
        let host = if host.starts_with("*.") { &host[1..] } else { host };
        let itself = !host.starts_with('.');
        let suffix = format!("{}{host}", if itself { "." } else { "" });
        (suffix.len() > 1).then_some(Self::Domain { suffix, itself, port })
    }

    fn matches(&self, name: &str, ip: Option<IpAddr>, port: Option<u16>) -> bool {
        let on = |wanted: &Option<u16>| wanted.is_none() || *wanted == port;
        match self {
            Self::All => true,
            Self::Network(network, bits) => ip.is_some_and(|ip| is_within(ip, *network, *bits)),
            Self::Address(address, wanted) => ip == Some(*address) && on(wanted),
            Self::Domain { suffix, itself, port: wanted } => {
                on(wanted) && (name.ends_with(suffix.as_str()) || (*itself && name == &suffix[1..]))
            }
        }
    }
}

/// Returns true for an address of a network.
fn is_within(ip: IpAddr, network: IpAddr, bits: u8) -> bool {
    let (ip, network, width) = match (ip, network) {
        (IpAddr::V4(ip), IpAddr::V4(network)) => (u128::from(ip.to_bits()), u128::from(network.to_bits()), 32),
        (IpAddr::V6(ip), IpAddr::V6(network)) => (ip.to_bits(), network.to_bits(), 128),
        _ => return false,
    };
    bits <= width && (ip ^ network).checked_shr(u32::from(width - bits)).unwrap_or(0) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn uses_proxy(no_proxy: &str, url: &str) -> bool {
        Proxies::new("proxy:1", "http://proxy:2", no_proxy).of(&url.parse().unwrap()).is_some()
    }

    #[test]
    fn each_scheme_has_its_proxy() {
        let both = Proxies::new("proxy:1", "https://user:secret@proxy:2", "");
        let of = |url: &str| both.of(&url.parse().unwrap()).map(str::to_owned);
        assert_eq!(of("http://a.example/").as_deref(), Some("http://proxy:1"));
        assert_eq!(of("https://a.example/").as_deref(), Some("https://user:secret@proxy:2"));
        assert_eq!(Proxies::new("", " ", "*").of(&"http://a.example/".parse().unwrap()), None);
    }

    #[test]
    fn addresses_without_a_proxy_are_those_of_gos_programs() {
        for (no_proxy, url, expected) in [
            ("", "http://a.example:5000/", true),
            ("", "http://localhost:5000/", false),
            ("", "http://127.0.0.2:5000/", false),
            ("", "http://[::1]:5000/", false),
            ("*", "http://a.example:5000/", false),
            ("b.example, *", "http://a.example:5000/", false),
            ("a.example", "http://a.example:5000/", false),
            ("A.EXAMPLE", "http://a.example:5000/", false),
            ("a.example", "http://sub.a.example/", false),
            ("a.example", "http://ba.example/", true),
            (".a.example", "http://a.example/", true),
            (".a.example", "http://sub.a.example/", false),
            ("*.a.example", "http://a.example/", true),
            ("*.a.example", "http://sub.a.example/", false),
            ("a.example:5000", "http://a.example:5000/", false),
            ("a.example:5000", "http://a.example:5001/", true),
            ("a.example:443", "https://a.example/", false),
            ("*.a.example:80", "http://sub.a.example/", false),
            ("10.0.0.7", "http://10.0.0.7:5000/", false),
            ("10.0.0.7:5000", "http://10.0.0.7:5000/", false),
            ("10.0.0.7:5001", "http://10.0.0.7:5000/", true),
            ("10.0.0.0/8", "http://10.1.2.3:5000/", false),
            ("10.0.0.0/8", "http://11.1.2.3:5000/", true),
            ("0.0.0.0/0", "http://11.1.2.3:5000/", false),
            ("10.0.0.0/33", "http://10.0.0.1/", true),
            ("fd00::/8", "http://[fd12::1]:5000/", false),
            ("fd00::/8", "http://10.0.0.1:5000/", true),
            ("fd12::1", "http://[fd12::1]:5000/", false),
            ("[fd12::1]:5000", "http://[fd12::1]:5000/", false),
            ("[fd12::1]:5001", "http://[fd12::1]:5000/", true),
            (" , .,:,a.example:x", "http://a.example/", true),
        ] {
            assert_eq!(uses_proxy(no_proxy, url), expected, "NO_PROXY={no_proxy} {url}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_value_makes_it_panic(no_proxy in "[ -~é]{0,40}", host in "[a-z0-9.]{1,20}") {
            if let Ok(url) = format!("http://{host}/").parse() {
                let _ = Proxies::new(&no_proxy, &no_proxy, &no_proxy).of(&url);
            }
        }
    }
}

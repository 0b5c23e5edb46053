//! Connections to other machines.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use hyper::Uri;
use hyper::header::HeaderValue;
use hyper_util::client::proxy::matcher::Matcher;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::Rules;
use crate::address::{is_local, is_named};

/// Time to reach one address.
const PATIENCE: Duration = Duration::from_secs(30);
/// Bytes of the answer to `CONNECT` at most.
const ANSWER: usize = 16 << 10;

/// Proxies that this machine itself must use.
#[derive(Debug, Default)]
pub struct Upstream(Option<Matcher>);

impl Upstream {
    /// Returns the proxies that variables name (`http_proxy`, `https_proxy`, `all_proxy`, `no_proxy`), which `get` looks up.
    pub fn of(get: impl Fn(&str) -> Option<String>) -> Self {
        let value = |name: &str| get(name).or_else(|| get(&name.to_uppercase())).unwrap_or_default();
        let matcher = Matcher::builder().http(value("http_proxy")).https(value("https_proxy")).all(value("all_proxy"));
        Self(Some(matcher.no(value("no_proxy")).build()))
    }
}

/// A connection.
pub(crate) struct Connection {
    pub(crate) stream: TcpStream,
    /// It leads to another proxy, which wants whole addresses, and these credentials.
    pub(crate) proxy: Option<Option<HeaderValue>>,
}

/// A connection that was not made.
pub(crate) enum Failed {
    /// The address is this machine's.
    Refused,
    Unreachable(io::Error),
}

impl From<io::Error> for Failed {
    fn from(error: io::Error) -> Self {
        Self::Unreachable(error)
    }
}

impl Rules {
    /// Connects to a host. `tunnel`: another proxy on the way must not see requests.
    pub(crate) async fn connect(&self, host: &str, port: u16, tunnel: bool) -> Result<Connection, Failed> {
        let name = host.trim_start_matches('[').trim_end_matches(']');
        let found = tokio::net::lookup_host((name, port)).await.map(Vec::from_iter);
        let allowed = |found: &[SocketAddr]| {
            is_named(&self.allow, host, port) || found.iter().all(|address| !is_local(address.ip()))
        };
        // A name may have addresses of both kinds.
        if found.as_ref().is_ok_and(|found| !allowed(found)) {
            return Err(Failed::Refused);
        }
        let scheme = if tunnel { "https" } else { "http" };
        let destination: Uri = format!("{scheme}://{host}:{port}/").parse().map_err(io::Error::other)?;
        let proxy = self.upstream.0.as_ref().and_then(|upstream| upstream.intercept(&destination));
        let Some(proxy) = proxy else {
            return Ok(Connection { stream: first_of(found?).await?, proxy: None });
        };
        if proxy.uri().scheme_str() != Some("http") {
            return Err(io::Error::other(format!("{} is a proxy of another kind than http", proxy.uri())).into());
        }
        let at = (proxy.uri().host().unwrap_or_default(), proxy.uri().port_u16().unwrap_or(80));
        let mut stream = first_of(tokio::net::lookup_host(at).await?.collect()).await?;
        let credentials = proxy.basic_auth().cloned();
        if tunnel {
            ask_for_tunnel(&mut stream, host, port, credentials.as_ref()).await?;
            return Ok(Connection { stream, proxy: None });
        }
        Ok(Connection { stream, proxy: Some(credentials) })
    }
}

/// Connects to the first of some addresses that answers.
async fn first_of(addresses: Vec<SocketAddr>) -> io::Result<TcpStream> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for address in addresses {
        match timeout(PATIENCE, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => return Ok(stream),
            Ok(Err(error)) => last = error,
            Err(_) => last = io::ErrorKind::TimedOut.into(),
        }
    }
    Err(last)
}

async fn ask_for_tunnel(
    stream: &mut TcpStream,
    host: &str,
    port: u16,
    credentials: Option<&HeaderValue>,
) -> io::Result<()> {
    let mut request = format!("CONNECT {host}:{port} HTTP/1.1\r\nHost: {host}:{port}\r\n").into_bytes();
    if let Some(credentials) = credentials {
        request.extend([b"Proxy-Authorization: ", credentials.as_bytes(), b"\r\n"].concat());
    }
    request.extend(b"\r\n");
    stream.write_all(&request).await?;
    let mut answer = Vec::new();
    // Byte by byte: the tunnel's own follow at once.
    while !answer.ends_with(b"\r\n\r\n") {
        if answer.len() == ANSWER {
            return Err(io::Error::other("the proxy's answer has no end"));
        }
        answer.push(stream.read_u8().await?);
    }
    let line = String::from_utf8_lossy(&answer);
    let line = line.lines().next().unwrap_or_default();
    match line.split(' ').nth(1).is_some_and(|status| status.starts_with('2')) {
        true => Ok(()),
        false => Err(io::Error::other(format!("the proxy answers `{line}`"))),
    }
}

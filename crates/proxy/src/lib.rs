//! The network of a command: an HTTP proxy (RFC 9110, section 9.3.6 and 7.4) that is its only peer.
//!
//! A command behind a proxy needs no route and no interface, so that it works without root and inside containers; and the proxy can
//! record what the command took in. It answers requests for `http` addresses, and tunnels everything else (`CONNECT`): of a tunnel
//! it sees the host and how much passed.
//!
//! The proxy runs where this machine's own services can be reached. So it refuses addresses of the loopback and link-local kind, among
//! them those at which clouds hand out credentials, unless [`Rules`] names the host.

mod address;
mod connect;
mod material;
mod serve;

use std::io;
use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;

pub use connect::Upstream;
pub use material::{Material, Materials};

/// Threads of a proxy.
const THREADS: usize = 2;
/// Time in which connections end.
const END: Duration = Duration::from_millis(500);

/// Rules of a proxy.
#[derive(Debug, Default)]
pub struct Rules {
    /// Hosts that may have an address of this machine or of its link: `HOST` or `HOST:PORT`, as requests name them.
    pub allow: Vec<String>,
    /// Proxies that this machine itself must use.
    pub upstream: Upstream,
}

/// A proxy that runs.
#[derive(Debug)]
pub struct Proxy {
    runtime: tokio::runtime::Runtime,
    materials: Arc<Materials>,
}

impl Proxy {
    /// Serves connections of a listener from now on.
    ///
    /// # Errors
    ///
    /// If threads cannot be started, or the listener cannot be used.
    pub fn start(listener: TcpListener, rules: Rules) -> io::Result<Self> {
        listener.set_nonblocking(true)?;
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(THREADS).enable_io().enable_time().build()?;
        let materials = Arc::new(Materials::default());
        let service = Arc::new(serve::Service { rules, materials: Arc::clone(&materials) });
        let entered = runtime.enter();
        let listener = tokio::net::TcpListener::from_std(listener)?;
        drop(entered);
        runtime.spawn(serve::serve(listener, service));
        Ok(Self { runtime, materials })
    }

    /// Ends all connections, and returns what passed.
    pub fn finish(self) -> Vec<Material> {
        // Names that are looked up are not waited for.
        self.runtime.shutdown_timeout(END);
        self.materials.all()
    }
}

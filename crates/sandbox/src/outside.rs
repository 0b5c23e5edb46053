//! A network that leads to other machines by any protocol: slirp4netns speaks for the command, as a process of this user.
//!
//! It refuses this machine's loopback addresses itself; link-local ones, among them those at which clouds hand out credentials, get a
//! route that leads nowhere. The command can change neither: its privileges over the network are gone before it starts.

use std::io::{self, Read as _};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::net::{AddressFamily, SocketType, recv, send};
use rustix::process::Pid;

/// The interface of the command.
pub(crate) const INTERFACE: &[u8] = b"tap0";
/// The name server that slirp4netns is (slirp4netns(1)).
pub const NAME_SERVER: &str = "10.0.2.3";
/// Time for it to begin.
const PATIENCE: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(5);

/// The process that speaks for a command. It ends when the value is dropped, and when this process does: its standard input closes.
pub(crate) struct Outside(Child);

impl Outside {
    /// Connects the network namespace of a process with others.
    pub(crate) fn start(program: &Path, process: Pid) -> io::Result<Self> {
        let namespace = |name: &str| format!("/proc/{}/ns/{name}", process.as_raw_nonzero());
        let mut command = Command::new(program);
        command.args(["--configure", "--mtu=65520", "--disable-host-loopback", "--exit-fd=0", "--ready-fd=1"]);
        command.arg(format!("--userns-path={}", namespace("user"))).arg("--netns-type=path").arg(namespace("net"));
        command.arg(String::from_utf8_lossy(INTERFACE).as_ref()).env_clear().process_group(0);
        let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        let mut outside = Self(child);
        outside.wait_until_ready().map(|()| outside)
    }

    fn wait_until_ready(&mut self) -> io::Result<()> {
        let deadline = Instant::now() + PATIENCE;
        let (Some(stdout), Some(mut stderr)) = (&mut self.0.stdout, self.0.stderr.take()) else {
            return Err(io::ErrorKind::BrokenPipe.into());
        };
        let time = rustix::time::Timespec::try_from(deadline - Instant::now()).map_err(io::Error::other)?;
        let mut waiting = [PollFd::new(stdout, PollFlags::IN)];
        if poll(&mut waiting, Some(&time))? == 0 {
            return Err(io::Error::new(io::ErrorKind::TimedOut, "slirp4netns did not begin"));
        }
        let mut byte = [0];
        if stdout.read(&mut byte)? == 1 {
            // It says more for as long as it runs, which nobody needs.
            std::thread::spawn(move || io::copy(&mut stderr, &mut io::sink()));
            return Ok(());
        }
        let mut words = String::new();
        stderr.read_to_string(&mut words)?;
        let last = words.lines().last().unwrap_or("it ended at once").to_owned();
        Err(io::Error::other(format!("slirp4netns: {last}")))
    }
}

impl Drop for Outside {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Waits until the interface of this namespace is up, and refuses link-local addresses.
pub(crate) fn join() -> io::Result<()> {
    let deadline = Instant::now() + PATIENCE;
    while !crate::network::is_up(INTERFACE)? {
        if Instant::now() > deadline {
            return Err(io::Error::new(io::ErrorKind::TimedOut, "the interface did not come up"));
        }
        std::thread::sleep(PAUSE);
    }
    refuse([169, 254, 0, 0], 16)
}

/// Adds a route that refuses addresses (rtnetlink(7)).
fn refuse(address: [u8; 4], bits: u8) -> io::Result<()> {
    // Its protocol 0 is that of routes.
    let socket = rustix::net::socket(AddressFamily::NETLINK, SocketType::RAW, None)?;
    let flags = (libc::NLM_F_REQUEST | libc::NLM_F_ACK | libc::NLM_F_CREATE | libc::NLM_F_EXCL) as u16;
    let mut message = Vec::new();
    // The header: length, kind, flags, number, sender.
    message.extend(36_u32.to_ne_bytes());
    message.extend(libc::RTM_NEWROUTE.to_ne_bytes());
    message.extend(flags.to_ne_bytes());
    message.extend([0; 8]);
    // The route: family, bits of the destination and of the source, service, table, protocol, scope, kind, flags.
    message.extend([libc::AF_INET as u8, bits, 0, 0, libc::RT_TABLE_MAIN, libc::RTPROT_BOOT, libc::RT_SCOPE_UNIVERSE]);
    message.push(libc::RTN_UNREACHABLE);
    message.extend([0; 4]);
    // The destination: length, kind, address.
    message.extend(8_u16.to_ne_bytes());
    message.extend(libc::RTA_DST.to_ne_bytes());
    message.extend(address);
    send(&socket, &message, rustix::net::SendFlags::empty())?;
    let mut answer = [0; 64];
    let (read, _) = recv(&socket, &mut answer, rustix::net::RecvFlags::empty())?;
    // The error stands behind the header.
    let code = answer.get(16..20).filter(|_| read >= 20).and_then(|code| code.try_into().ok()).map(i32::from_ne_bytes);
    match code {
        Some(0) => Ok(()),
        Some(code) => Err(io::Error::from_raw_os_error(-code)),
        None => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}

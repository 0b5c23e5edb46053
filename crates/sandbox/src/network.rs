//! A network that leads nowhere.
//!
//! `getaddrinfo` leaves out families of which the machine has no address but a loopback one (`AI_ADDRCONFIG`, getaddrinfo(3)): with
//! nothing but 127.0.0.1 even `localhost` is not found. So the loopback interface gets a second address, of a range that is
//! kept for documentation (RFC 5737).

use std::io;
use std::net::Ipv4Addr;
use std::os::fd::AsRawFd as _;

use rustix::net::{AddressFamily, SocketType, socket};

const NOWHERE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);

/// Brings the loopback interface up, and gives it the address.
pub(crate) fn up() -> io::Result<()> {
    let socket = socket(AddressFamily::INET, SocketType::DGRAM, None)?;
    let mut request = request(b"lo");
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
    ask(&socket, libc::SIOCSIFFLAGS, &mut request)?;
    let mut request = self::request(b"lo:0");
    request.ifr_ifru.ifru_addr = address(NOWHERE);
    ask(&socket, libc::SIOCSIFADDR, &mut request)?;
    request.ifr_ifru.ifru_netmask = address(Ipv4Addr::BROADCAST);
    ask(&socket, libc::SIOCSIFNETMASK, &mut request)
}

/// Returns true if an interface is up and has an address.
pub(crate) fn is_up(name: &[u8]) -> io::Result<bool> {
    let socket = socket(AddressFamily::INET, SocketType::DGRAM, None)?;
    let mut request = request(name);
    match ask(&socket, libc::SIOCGIFADDR, &mut request) {
        Ok(()) => Ok(true),
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENODEV | libc::EADDRNOTAVAIL)) => Ok(false),
        Err(error) => Err(error),
    }
}

fn request(name: &[u8]) -> libc::ifreq {
    // SAFETY: the struct holds integers and arrays of them alone, for which zeros are values.
    #[allow(unsafe_code, reason = "the struct has no other constructor")]
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(name) {
        *to = *from as libc::c_char;
    }
    request
}

fn address(ip: Ipv4Addr) -> libc::sockaddr {
    let mut data = [0; 14];
    for (to, from) in data[2..].iter_mut().zip(ip.octets()) {
        *to = from as libc::c_char;
    }
    libc::sockaddr { sa_family: libc::AF_INET as libc::sa_family_t, sa_data: data }
}

fn ask(socket: &impl std::os::fd::AsFd, what: libc::Ioctl, request: &mut libc::ifreq) -> io::Result<()> {
    // SAFETY: the descriptor is open as long as the borrow, and the kernel reads and writes one `ifreq` for each of these requests
    // (netdevice(7)).
    #[allow(unsafe_code, reason = "no safe function makes these requests")]
    let done = unsafe { libc::ioctl(socket.as_fd().as_raw_fd(), what, std::ptr::from_mut(request)) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

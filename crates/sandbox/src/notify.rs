//! Notifications of system calls (seccomp_unotify(2)): a call of a command waits until another process has answered it.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd, RawFd};

use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
    recvmsg, sendmsg,
};

/// A program of the kernel's filter machine.
pub(crate) type Program = Vec<libc::sock_filter>;

#[cfg(target_arch = "x86_64")]
const ARCHITECTURE: u32 = 0xc000_003e;
#[cfg(target_arch = "aarch64")]
const ARCHITECTURE: u32 = 0xc000_00b7;

/// Bytes of a notification at most: the kernel's structs grow (`SECCOMP_GET_NOTIF_SIZES`).
const ROOM: usize = 512;

/// The answer to a call.
pub(crate) enum Answer {
    /// The call returns this.
    Value(i64),
    /// The call fails.
    Error(Errno),
    /// The kernel makes the call. Its arguments may have changed since it was looked at.
    Through,
}

/// Returns a program that sends a notification of each of these calls, and of each of the others if an argument has one of these bits in
/// its lower half, and allows all else.
pub(crate) fn program(calls: &[libc::c_long], calls_with: &[(libc::c_long, usize, u32)]) -> Program {
    const LOAD: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
    const EQUAL: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
    const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;
    let step = |code, k, jt, jf| libc::sock_filter { code, jt, jf, k };
    const BITS: u16 = (libc::BPF_JMP | libc::BPF_JSET | libc::BPF_K) as u16;
    // Jumps are counted in instructions; the lists are shorter than 256 together. The last instruction notifies, the one before allows.
    let allow = 3 + calls.len() + 3 * calls_with.len();
    let over = |from: usize, to: usize| (to - from - 1) as u8;
    let mut program = vec![
        step(LOAD, std::mem::offset_of!(libc::seccomp_data, arch) as u32, 0, 0),
        step(EQUAL, ARCHITECTURE, 0, over(1, allow)),
        step(LOAD, std::mem::offset_of!(libc::seccomp_data, nr) as u32, 0, 0),
    ];
    program.extend(calls.iter().enumerate().map(|(at, call)| step(EQUAL, *call as u32, over(3 + at, allow + 1), 0)));
    for (call, argument, bits) in calls_with {
        let here = program.len();
        let value = std::mem::offset_of!(libc::seccomp_data, args) + 8 * argument;
        program.extend([
            step(EQUAL, *call as u32, 0, 2),
            step(LOAD, value as u32, 0, 0),
            step(BITS, *bits, over(here + 2, allow + 1), over(here + 2, allow)),
        ]);
    }
    program.push(step(RETURN, libc::SECCOMP_RET_ALLOW, 0, 0));
    program.push(step(RETURN, libc::SECCOMP_RET_USER_NOTIF, 0, 0));
    program
}

/// Installs such a program for this process and its children; they cannot take it off. Returns the end at which notifications arrive.
/// Allocates nothing.
pub(crate) fn listen(program: &Program) -> io::Result<OwnedFd> {
    let length = libc::c_ushort::try_from(program.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    let program = libc::sock_fprog { len: length, filter: program.as_ptr().cast_mut() };
    let install = |flags: libc::c_ulong| {
        // SAFETY: the program points to `length` instructions that live longer than the call, which only reads them.
        #[allow(unsafe_code, reason = "no safe function installs a filter with a listener")]
        let made = unsafe {
            libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, flags, std::ptr::from_ref(&program))
        };
        RawFd::try_from(made).ok().filter(|made| *made >= 0).ok_or_else(io::Error::last_os_error)
    };
    // A call that a signal interrupts would be made, and answered, again and again. The flag is new in Linux 5.19.
    let whole = libc::SECCOMP_FILTER_FLAG_NEW_LISTENER | libc::SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV;
    let listener = match install(whole) {
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => install(libc::SECCOMP_FILTER_FLAG_NEW_LISTENER),
        made => made,
    }?;
    // SAFETY: the kernel just made the descriptor, and nobody else has it.
    #[allow(unsafe_code, reason = "the call returns a number")]
    Ok(unsafe { OwnedFd::from_raw_fd(listener) })
}

/// Sends a listener, or the news that there is none. Allocates nothing.
pub(crate) fn send(socket: BorrowedFd<'_>, listener: Option<BorrowedFd<'_>>) -> rustix::io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    let descriptors = listener.as_slice();
    if !descriptors.is_empty() {
        // The space is for one descriptor.
        let _ = ancillary.push(SendAncillaryMessage::ScmRights(descriptors));
    }
    sendmsg(socket, &[io::IoSlice::new(&[1])], &mut ancillary, SendFlags::NOSIGNAL).map(drop)
}

/// Receives what [`send`] sent. `None` if there is no listener, or the other end is gone.
pub(crate) fn receive(socket: BorrowedFd<'_>) -> rustix::io::Result<Option<Listener>> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    loop {
        let flags = RecvFlags::CMSG_CLOEXEC;
        match recvmsg(socket, &mut [io::IoSliceMut::new(&mut byte)], &mut ancillary, flags) {
            Err(Errno::INTR) => {}
            done => break done.map(drop)?,
        }
    }
    let rights = ancillary.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
        _ => None,
    });
    Ok(rights.map(Listener))
}

/// The end at which notifications arrive.
pub(crate) struct Listener(OwnedFd);

impl From<Listener> for OwnedFd {
    fn from(listener: Listener) -> Self {
        listener.0
    }
}

/// A call that waits for its answer.
#[derive(Clone, Copy)]
pub(crate) struct Call {
    pub(crate) id: u64,
    /// The thread, as this process sees it.
    pub(crate) thread: u32,
    pub(crate) number: libc::c_long,
    pub(crate) arguments: [u64; 6],
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Listener {
    /// Asks the kernel to wake the process that answers on the processor of the one that calls, which waits anyway: another processor
    /// takes several times as long to wake. Kernels before 6.6 cannot.
    pub(crate) fn wake_here(&self) {
        /// `SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP` (seccomp.h).
        const SYNC_WAKE_UP: u64 = 1;
        // SAFETY: the request takes a number, and no address.
        #[allow(unsafe_code, reason = "no safe function makes this request")]
        unsafe {
            libc::ioctl(self.0.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_SET_FLAGS, SYNC_WAKE_UP)
        };
    }

    /// Returns the next call; `None` if it went away.
    pub(crate) fn next(&self) -> io::Result<Option<Call>> {
        #[repr(C, align(8))]
        struct Buffer([u8; ROOM]);
        // The kernel wants zeros.
        let mut buffer = Buffer([0; ROOM]);
        // SAFETY: the kernel writes one notification, whose size it told to be at most the buffer's (`is_supported`).
        #[allow(unsafe_code, reason = "no safe function makes this request")]
        let done = unsafe { libc::ioctl(self.0.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_RECV, buffer.0.as_mut_ptr()) };
        if done != 0 {
            let error = io::Error::last_os_error();
            return match error.raw_os_error() {
                Some(libc::ENOENT | libc::EINTR | libc::EAGAIN) => Ok(None),
                _ => Err(error),
            };
        }
        // SAFETY: the buffer is aligned and larger than the struct, whose integers take every value.
        #[allow(unsafe_code, reason = "the kernel's struct may be longer than the one that is known here")]
        let notification = unsafe { buffer.0.as_ptr().cast::<libc::seccomp_notif>().read() };
        let libc::seccomp_notif { id, pid, data, .. } = notification;
        Ok(Some(Call { id, thread: pid, number: data.nr.into(), arguments: data.args }))
    }

    /// Returns true if the call still waits: what was read of its process was that process's.
    pub(crate) fn is_waiting(&self, call: &Call) -> bool {
        // SAFETY: the kernel reads one id.
        #[allow(unsafe_code, reason = "no safe function makes this request")]
        let done = unsafe {
            libc::ioctl(self.0.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_ID_VALID, std::ptr::from_ref(&call.id))
        };
        done == 0
    }

    /// Answers a call.
    pub(crate) fn answer(&self, call: &Call, answer: Answer) {
        let (val, error, flags) = match answer {
            Answer::Value(value) => (value, 0, 0),
            Answer::Error(error) => (0, -error.raw_os_error(), 0),
            Answer::Through => (0, 0, libc::SECCOMP_USER_NOTIF_FLAG_CONTINUE as u32),
        };
        let mut response = libc::seccomp_notif_resp { id: call.id, val, error, flags };
        // SAFETY: the kernel reads one response. An error says that the caller is gone.
        #[allow(unsafe_code, reason = "no safe function makes this request")]
        unsafe {
            libc::ioctl(self.0.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_SEND, std::ptr::from_mut(&mut response))
        };
    }
}

/// Returns true if this kernel has notifications, of a size that is expected.
pub(crate) fn is_supported() -> bool {
    let mut sizes = libc::seccomp_notif_sizes { seccomp_notif: 0, seccomp_notif_resp: 0, seccomp_data: 0 };
    // SAFETY: the kernel writes the three sizes.
    #[allow(unsafe_code, reason = "no safe function makes this call")]
    let done = unsafe {
        libc::syscall(libc::SYS_seccomp, libc::SECCOMP_GET_NOTIF_SIZES, 0_u32, std::ptr::from_mut(&mut sizes))
    };
    let response = size_of::<libc::seccomp_notif_resp>();
    let fits = (size_of::<libc::seccomp_notif>()..=ROOM).contains(&usize::from(sizes.seccomp_notif));
    done == 0 && fits && usize::from(sizes.seccomp_notif_resp) == response
}

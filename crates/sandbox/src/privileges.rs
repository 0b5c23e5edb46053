//! Privileges that a command loses, though it is root of its namespace: it may not change mounts, make further namespaces, use
//! keyrings or load programs into the kernel.
//!
//! If the machine's root runs the sandbox, root inside is that user. Files of the host are out of sight, and each capability
//! over the machine is gone; what would bring them back is refused by the filter.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd};

use rustix::process::{Gid, Uid};
use rustix::thread::{
    CapabilitySet, CapabilitySets, clear_ambient_capability_set, remove_capability_from_bounding_set, set_capabilities,
    set_thread_groups, set_thread_res_gid, set_thread_res_uid,
};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule, TargetArch,
};

use crate::notify;

/// Capabilities of root in a container (Docker's default list). All are over the namespace alone.
const KEPT: CapabilitySet = CapabilitySet::CHOWN
    .union(CapabilitySet::DAC_OVERRIDE)
    .union(CapabilitySet::FSETID)
    .union(CapabilitySet::FOWNER)
    .union(CapabilitySet::MKNOD)
    .union(CapabilitySet::SETGID)
    .union(CapabilitySet::SETUID)
    .union(CapabilitySet::SETFCAP)
    .union(CapabilitySet::SETPCAP)
    .union(CapabilitySet::NET_BIND_SERVICE)
    .union(CapabilitySet::SYS_CHROOT)
    .union(CapabilitySet::KILL)
    .union(CapabilitySet::AUDIT_WRITE);

/// Calls that fail with EPERM: they change mounts, namespaces, keyrings, clocks or the kernel.
const FORBIDDEN: [libc::c_long; 40] = [
    libc::SYS_acct,
    libc::SYS_add_key,
    libc::SYS_adjtimex,
    libc::SYS_bpf,
    libc::SYS_clock_adjtime,
    libc::SYS_clock_settime,
    libc::SYS_delete_module,
    libc::SYS_fanotify_init,
    libc::SYS_finit_module,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fsopen,
    libc::SYS_fspick,
    libc::SYS_init_module,
    libc::SYS_kexec_file_load,
    libc::SYS_kexec_load,
    libc::SYS_keyctl,
    libc::SYS_lookup_dcookie,
    libc::SYS_mount,
    libc::SYS_mount_setattr,
    libc::SYS_move_mount,
    libc::SYS_name_to_handle_at,
    libc::SYS_open_by_handle_at,
    libc::SYS_open_tree,
    libc::SYS_perf_event_open,
    libc::SYS_pivot_root,
    libc::SYS_quotactl,
    libc::SYS_quotactl_fd,
    libc::SYS_reboot,
    libc::SYS_request_key,
    libc::SYS_setdomainname,
    libc::SYS_sethostname,
    libc::SYS_setns,
    libc::SYS_settimeofday,
    libc::SYS_swapoff,
    libc::SYS_swapon,
    libc::SYS_syslog,
    libc::SYS_umount2,
    libc::SYS_unshare,
    libc::SYS_userfaultfd,
];
/// Calls that are not there (ENOSYS), for which programs have another way. The arguments of `clone3` lie in memory, which no filter
/// reads.
const ABSENT: [libc::c_long; 4] =
    [libc::SYS_clone3, libc::SYS_io_uring_setup, libc::SYS_io_uring_enter, libc::SYS_io_uring_register];
/// Families of sockets. Others do not keep to the network namespace (a machine's hypervisor, `AF_VSOCK`), or bring parts of the kernel
/// that no build needs.
const FAMILIES: [libc::c_int; 4] = [libc::AF_UNIX, libc::AF_INET, libc::AF_INET6, libc::AF_NETLINK];
/// Namespaces, in the flags of `clone`.
const NAMESPACES: u64 = (libc::CLONE_NEWUSER
    | libc::CLONE_NEWNS
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWNET
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWUTS
    | libc::CLONE_NEWCGROUP) as u64;
/// Calls of the x32 kind have this bit (x86-64 alone), and would pass a list of the others.
#[cfg(target_arch = "x86_64")]
pub(crate) const X32: libc::c_long = 0x4000_0000;
#[cfg(not(target_arch = "x86_64"))]
pub(crate) const X32: libc::c_long = 0;

/// The filters, made before the command's process is: there nothing may be allocated.
pub(crate) struct Filters {
    refused: Vec<BpfProgram>,
    /// Calls that are answered by another process.
    answered: Option<notify::Program>,
}

/// Calls that are answered, and calls that are answered where an argument has one of some bits.
pub(crate) type Answered<'c> = (&'c [libc::c_long], &'c [(libc::c_long, usize, u32)]);

impl Filters {
    pub(crate) fn new(answered: Option<Answered<'_>>) -> Result<Self, seccompiler::BackendError> {
        let arch = TargetArch::try_from(std::env::consts::ARCH)?;
        let always = |calls: &[libc::c_long]| calls.iter().map(|call| (*call, Vec::new())).collect::<BTreeMap<_, _>>();
        let mut forbidden = always(&FORBIDDEN);
        let flag = |bit: u64| {
            let set = SeccompCmpOp::MaskedEq(bit);
            SeccompRule::new(vec![SeccompCondition::new(0, SeccompCmpArgLen::Qword, set, bit)?])
        };
        let bits = (0..64).map(|shift| 1 << shift).filter(|bit| NAMESPACES & bit != 0);
        forbidden.insert(libc::SYS_clone, bits.map(flag).collect::<Result<_, _>>()?);
        #[cfg(target_arch = "x86_64")]
        forbidden.extend(always(&FORBIDDEN.map(|call| call | X32)));
        #[cfg(target_arch = "x86_64")]
        forbidden.extend(always(&[libc::SYS_clone | X32]));
        let absent = always(&ABSENT);
        #[cfg(target_arch = "x86_64")]
        let absent = absent.into_iter().chain(always(&ABSENT.map(|call| call | X32))).collect();
        let of_others =
            |family: libc::c_int| SeccompCondition::new(0, SeccompCmpArgLen::Dword, SeccompCmpOp::Ne, family as u64);
        let others = SeccompRule::new(FAMILIES.map(of_others).into_iter().collect::<Result<_, _>>()?)?;
        let sockets = [libc::SYS_socket, libc::SYS_socket | X32].map(|call| (call, vec![others.clone()]));
        let filter = |rules, code: i32| {
            let action = SeccompAction::Errno(code as u32);
            BpfProgram::try_from(SeccompFilter::new(rules, SeccompAction::Allow, action, arch)?)
        };
        let sockets = filter(BTreeMap::from(sockets), libc::EAFNOSUPPORT)?;
        let refused = vec![filter(forbidden, libc::EPERM)?, filter(absent, libc::ENOSYS)?, sockets];
        let all = |(calls, calls_with): Answered<'_>| {
            let mut all: Vec<_> = calls.iter().flat_map(|call| [*call, call | X32]).collect();
            all.dedup();
            let with = |(call, argument, bits): &(libc::c_long, usize, u32)| {
                [(*call, *argument, *bits), (call | X32, *argument, *bits)]
            };
            let mut all_with: Vec<_> = calls_with.iter().flat_map(with).collect();
            all_with.dedup();
            notify::program(&all, &all_with)
        };
        Ok(Self { refused, answered: answered.map(all) })
    }
}

/// Gives up what the command may not have, and becomes its user. `supervisor` gets the notifications of calls that are to be
/// answered. Allocates nothing.
pub(crate) fn give_up(
    filters: &Filters,
    supervisor: BorrowedFd<'_>,
    user: (Uid, Gid),
    groups: &[Gid],
) -> io::Result<()> {
    clear_ambient_capability_set()?;
    for capability in CapabilitySet::all().difference(KEPT).iter() {
        match remove_capability_from_bounding_set(capability) {
            // The kernel knows fewer.
            Err(rustix::io::Errno::INVAL) => {}
            done => done?,
        }
    }
    filters.refused.iter().try_for_each(install)?;
    match set_thread_groups(groups) {
        // One id is mapped, which forbids it (user_namespaces(7), `setgroups`).
        Err(rustix::io::Errno::PERM) if groups.is_empty() => {}
        done => done?,
    }
    set_thread_res_gid(user.1, user.1, user.1)?;
    set_thread_res_uid(user.0, user.0, user.0)?;
    if let Some(program) = &filters.answered {
        // A kernel may have no notifications, or another supervisor already: then nobody answers.
        let listener = notify::listen(program).ok();
        notify::send(supervisor, listener.as_ref().map(|listener| listener.as_fd()))?;
    }
    if user.0.is_root() {
        set_capabilities(
            None,
            CapabilitySets { effective: KEPT, permitted: KEPT, inheritable: CapabilitySet::empty() },
        )?;
    }
    Ok(())
}

/// Installs a filter for this process and its children. It must have `CAP_SYS_ADMIN` in its namespace: then programs with a setuid bit
/// go on working, which `PR_SET_NO_NEW_PRIVS` would end (seccomp(2)).
fn install(filter: &BpfProgram) -> io::Result<()> {
    let length = libc::c_ushort::try_from(filter.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    // `seccompiler::sock_filter` is the kernel's struct, as `libc::sock_filter` is.
    let program = libc::sock_fprog { len: length, filter: filter.as_ptr().cast_mut().cast() };
    // SAFETY: the program points to `length` instructions that live longer than the call, which only reads them.
    #[allow(unsafe_code, reason = "the safe function of the library forbids setuid programs, too")]
    let done =
        unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, 0_u32, std::ptr::from_ref(&program)) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/* Counts the system calls by which one program changes the file system, and disturbs it at a chosen one.
 *
 * Loaded into kiln by LD_PRELOAD. It does not interpose functions of the C library: kiln's dependencies call the kernel
 * directly too (tempfile renames through rustix), and those calls matter most. Instead a seccomp filter makes every such
 * system call a SIGSYS, whose handler counts, disturbs, and makes the call itself. The handler calls the kernel from one
 * page at a fixed address, which the filter lets pass. Filters outlive execve: programs that kiln
 * starts get the library too, whatever environment kiln gives them, and there it only makes the calls for them.
 *
 * TORTURE_PROGRAM  the executable whose calls are counted
 * TORTURE_LOG      the file that gets a line for each call: number, function and path, separated by tabs
 * TORTURE_AT       the number of the call that is disturbed; 0 for none
 * TORTURE_MODE     kill   SIGKILL in the place of the call
 *                  tear   half of what would be written, then SIGKILL
 *                  full   the disk is full from this call on
 *                  short  half of what would be written, and the disk is full from then on
 *                  once   the disk is full for this call alone
 * TORTURE_SENDS    set where what is sent to sockets counts too, under the name `send`
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <signal.h>
#include <spawn.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <ucontext.h>
#include <unistd.h>

#define PAGE ((uintptr_t)0x7e5a00000000)
#define LONGEST 4096
/* The filter looks at these flags of an open. */
#define CREATES (O_CREAT | O_TRUNC | (O_TMPFILE & ~O_DIRECTORY))

typedef long (*raw_call)(long, long, long, long, long, long, long);
#define raw ((raw_call)PAGE)

#if defined(__x86_64__)
#define ARCHITECTURE AUDIT_ARCH_X86_64
/* As syscall(2): number and arguments move to the registers of the kernel's convention. */
static const unsigned char code[] = {0x48, 0x89, 0xf8, 0x48, 0x89, 0xf7, 0x48, 0x89, 0xd6, 0x48, 0x89, 0xca, 0x4d,
                                     0x89, 0xc2, 0x4d, 0x89, 0xc8, 0x4c, 0x8b, 0x4c, 0x24, 0x08, 0x0f, 0x05, 0xc3};
#define AFTER_CALL (PAGE + 25)
#elif defined(__aarch64__)
#define ARCHITECTURE AUDIT_ARCH_AARCH64
static const uint32_t code[] = {0xaa0003e8, 0xaa0103e0, 0xaa0203e1, 0xaa0303e2, 0xaa0403e3,
                                0xaa0503e4, 0xaa0603e5, 0xd4000001, 0xd65f03c0};
#define AFTER_CALL (PAGE + 32)
#else
#error "this processor is unknown here"
#endif

/* How a call names the file that it changes. */
enum names { BY_FD, BY_FD_2, BY_PATH, BY_PATH_AT, BY_PATHS, BY_PATHS_AT, BY_TARGET, BY_TARGET_AT, BY_SYNC };
/* What a full disk does to it: nothing, refuses it, or takes a part of it. SENDS is for sockets alone. */
enum space { FREES, TAKES, WRITES, SENDS };

struct call {
    long number;
    const char *name;
    enum names names;
    enum space space;
    /* The argument with the flags of an open, or -1. */
    int flags;
};

static const struct call calls[] = {
#ifdef SYS_open
    {SYS_open, "open", BY_PATH, TAKES, 1},
    {SYS_creat, "creat", BY_PATH, TAKES, -1},
    {SYS_rename, "rename", BY_PATHS, FREES, -1},
    {SYS_link, "link", BY_PATHS, TAKES, -1},
    {SYS_symlink, "symlink", BY_TARGET, TAKES, -1},
    {SYS_unlink, "unlink", BY_PATH, FREES, -1},
    {SYS_mkdir, "mkdir", BY_PATH, TAKES, -1},
    {SYS_rmdir, "rmdir", BY_PATH, FREES, -1},
    {SYS_chmod, "chmod", BY_PATH, FREES, -1},
#endif
#ifdef SYS_renameat
    {SYS_renameat, "renameat", BY_PATHS_AT, FREES, -1},
#endif
    {SYS_openat, "openat", BY_PATH_AT, TAKES, 2},
    {SYS_write, "write", BY_FD, WRITES, -1},
    {SYS_pwrite64, "pwrite", BY_FD, WRITES, -1},
    {SYS_writev, "writev", BY_FD, TAKES, -1},
    {SYS_pwritev, "pwritev", BY_FD, TAKES, -1},
    {SYS_pwritev2, "pwritev2", BY_FD, TAKES, -1},
    {SYS_sendto, "sendto", BY_FD, SENDS, -1},
    {SYS_sendmsg, "sendmsg", BY_FD, SENDS, -1},
    {SYS_truncate, "truncate", BY_PATH, TAKES, -1},
    {SYS_ftruncate, "ftruncate", BY_FD, TAKES, -1},
    {SYS_fallocate, "fallocate", BY_FD, TAKES, -1},
    {SYS_copy_file_range, "copy_file_range", BY_FD_2, TAKES, -1},
    {SYS_sendfile, "sendfile", BY_FD, TAKES, -1},
    {SYS_renameat2, "renameat2", BY_PATHS_AT, FREES, -1},
    {SYS_linkat, "linkat", BY_PATHS_AT, TAKES, -1},
    {SYS_symlinkat, "symlinkat", BY_TARGET_AT, TAKES, -1},
    {SYS_unlinkat, "unlinkat", BY_PATH_AT, FREES, -1},
    {SYS_mkdirat, "mkdirat", BY_PATH_AT, TAKES, -1},
    {SYS_fchmod, "fchmod", BY_FD, FREES, -1},
    {SYS_fchmodat, "fchmodat", BY_PATH_AT, FREES, -1},
    {SYS_fsync, "fsync", BY_SYNC, FREES, -1},
    {SYS_fdatasync, "fdatasync", BY_SYNC, FREES, -1},
    {SYS_syncfs, "syncfs", BY_SYNC, FREES, -1},
};
#define CALLS (sizeof calls / sizeof *calls)

static int counting, sends, record = -1;
static long at, counted;
static char mode[16];
static int full;

static const struct call *find(long number) {
    for (size_t i = 0; i < CALLS; i++)
        if (calls[i].number == number) return &calls[i];
    return NULL;
}

/* Text that ends somewhere. */
struct line {
    char text[2 * LONGEST + 128];
    size_t length;
};

static void put(struct line *line, const char *text) {
    while (*text && line->length < sizeof line->text - 2) line->text[line->length++] = *text++;
}

static void put_number(struct line *line, long number) {
    char digits[24];
    int i = sizeof digits - 1;
    digits[i] = 0;
    do digits[--i] = '0' + number % 10;
    while ((number /= 10) > 0);
    put(line, digits + i);
}

static void put_fd(struct line *line, long fd) {
    char target[LONGEST];
    struct line link = {{0}, 0};
    put(&link, "/proc/self/fd/");
    put_number(&link, fd);
    link.text[link.length] = 0;
    long length = raw(SYS_readlinkat, AT_FDCWD, (long)link.text, (long)target, sizeof target - 1, 0, 0);
    target[length > 0 ? length : 0] = 0;
    put(line, target);
}

static void put_path(struct line *line, long directory, long path) {
    const char *text = (const char *)path;
    if (text && *text != '/' && (int)directory != AT_FDCWD) {
        put_fd(line, (int)directory);
        put(line, "/");
    }
    put(line, text ? text : "");
}

static void describe(struct line *line, const struct call *call, const long *a) {
    switch (call->names) {
    case BY_FD:
    case BY_SYNC: put_fd(line, (int)a[0]); break;
    case BY_FD_2: put_fd(line, (int)a[2]); break;
    case BY_PATH: put_path(line, AT_FDCWD, a[0]); break;
    case BY_PATH_AT: put_path(line, a[0], a[1]); break;
    case BY_TARGET: put_path(line, AT_FDCWD, a[1]); break;
    case BY_TARGET_AT: put_path(line, a[1], a[2]); break;
    case BY_PATHS:
        put_path(line, AT_FDCWD, a[0]);
        put(line, "\t");
        put_path(line, AT_FDCWD, a[1]);
        break;
    case BY_PATHS_AT:
        put_path(line, a[0], a[1]);
        put(line, "\t");
        put_path(line, a[2], a[3]);
        break;
    }
}

static void log_call(long number, const char *name, const struct call *call, const long *a) {
    struct line line;
    line.length = 0;
    put_number(&line, number);
    put(&line, "\t");
    put(&line, name);
    put(&line, "\t");
    describe(&line, call, a);
    line.text[line.length++] = '\n';
    raw(SYS_write, record, (long)line.text, (long)line.length, 0, 0, 0);
}

static int is_file(long fd, int or_directory) {
    struct stat found;
    if (raw(SYS_fstat, fd, (long)&found, 0, 0, 0, 0) != 0) return 0;
    return S_ISREG(found.st_mode) || (or_directory && S_ISDIR(found.st_mode));
}

static int is_socket(long fd) {
    struct stat found;
    return raw(SYS_fstat, fd, (long)&found, 0, 0, 0, 0) == 0 && S_ISSOCK(found.st_mode);
}

/* Whether a call changes files: pipes, sockets and terminals do not count, nor does opening what is there. */
static int changes(const struct call *call, const long *a) {
    switch (call->names) {
    case BY_FD: return call->space != SENDS && a[0] > 2 && is_file(a[0], 0);
    case BY_FD_2: return is_file(a[2], 0);
    case BY_SYNC: return is_file(a[0], 1);
    default: break;
    }
    if (call->flags < 0 || a[call->flags] & O_TRUNC) return 1;
    if (a[call->flags] & (O_TMPFILE & ~O_DIRECTORY)) return 1;
    long directory = call->names == BY_PATH_AT ? a[0] : AT_FDCWD;
    long path = call->names == BY_PATH_AT ? a[1] : a[0];
    return raw(SYS_faccessat, directory, path, F_OK, 0, 0, 0) != 0;
}

static void end(void) {
    raw(SYS_kill, raw(SYS_getpid, 0, 0, 0, 0, 0, 0), SIGKILL, 0, 0, 0, 0);
    for (;;) raw(SYS_sched_yield, 0, 0, 0, 0, 0, 0);
}

static long half(const struct call *call, const long *a) {
    return raw(call->number, a[0], a[1], a[2] / 2, a[3], a[4], a[5]);
}

static long disturbed(const struct call *call, const long *a, long number) {
    int here = at > 0 && number == at;
    int torn = call->space == WRITES && a[2] > 1;
    if (here && !strcmp(mode, "kill")) end();
    if (here && !strcmp(mode, "tear")) {
        if (torn) half(call, a);
        end();
    }
    if (here && !strcmp(mode, "once") && call->space != FREES) return -ENOSPC;
    if (here && (!strcmp(mode, "full") || !strcmp(mode, "short"))) {
        __atomic_store_n(&full, 1, __ATOMIC_SEQ_CST);
        if (!strcmp(mode, "short") && torn) return half(call, a);
    }
    if (__atomic_load_n(&full, __ATOMIC_SEQ_CST) && call->space != FREES) return -ENOSPC;
    return raw(call->number, a[0], a[1], a[2], a[3], a[4], a[5]);
}

static long make(long number, const long *a) {
    const struct call *call = find(number);
    int sent = sends && call && call->names == BY_FD && is_socket(a[0]);
    if (!counting || !call || !(sent || changes(call, a))) return raw(number, a[0], a[1], a[2], a[3], a[4], a[5]);
    long mine = __atomic_add_fetch(&counted, 1, __ATOMIC_SEQ_CST);
    log_call(mine, sent ? "send" : call->name, call, a);
    if (!sent) return disturbed(call, a, mine);
    if (mine == at && (!strcmp(mode, "kill") || !strcmp(mode, "tear"))) end();
    return raw(number, a[0], a[1], a[2], a[3], a[4], a[5]);
}

static void handler(int signal, siginfo_t *information, void *context) {
    (void)signal;
    ucontext_t *user = context;
#if defined(__x86_64__)
    greg_t *r = user->uc_mcontext.gregs;
    long a[6] = {r[REG_RDI], r[REG_RSI], r[REG_RDX], r[REG_R10], r[REG_R8], r[REG_R9]};
    r[REG_RAX] = make(information->si_syscall, a);
#else
    unsigned long long *r = user->uc_mcontext.regs;
    long a[6] = {r[0], r[1], r[2], r[3], r[4], r[5]};
    r[0] = make(information->si_syscall, a);
#endif
}

static void install_filter(void) {
    struct sock_filter filter[8 + 6 * CALLS];
    unsigned short n = 0;
#define ADD(...) filter[n++] = (struct sock_filter)__VA_ARGS__
#define LOAD(offset) ADD(BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offset))
#define FIELD(name) ((unsigned)offsetof(struct seccomp_data, name))
    LOAD(FIELD(arch));
    ADD(BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, ARCHITECTURE, 1, 0));
    ADD(BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW));
    LOAD(FIELD(instruction_pointer));
    ADD(BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (uint32_t)AFTER_CALL, 0, 3));
    LOAD(FIELD(instruction_pointer) + 4);
    ADD(BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (uint32_t)(AFTER_CALL >> 32), 0, 1));
    ADD(BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW));
    for (size_t i = 0; i < CALLS; i++) {
        LOAD(FIELD(nr));
        if (calls[i].flags < 0) {
            ADD(BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, calls[i].number, 0, 1));
        } else {
            ADD(BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, calls[i].number, 0, 3));
            LOAD(FIELD(args) + 8 * calls[i].flags);
            ADD(BPF_JUMP(BPF_JMP | BPF_JSET | BPF_K, CREATES, 0, 1));
        }
        ADD(BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_TRAP));
    }
    ADD(BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW));
    struct sock_fprog program = {n, filter};
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) || prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program)) {
        perror("torture: seccomp");
        _exit(99);
    }
}

static void map_page(void) {
    void *page = mmap((void *)PAGE, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
    if (page != (void *)PAGE) {
        perror("torture: mmap");
        _exit(99);
    }
    memcpy(page, code, sizeof code);
    mprotect(page, 4096, PROT_READ | PROT_EXEC);
    __builtin___clear_cache((char *)PAGE, (char *)PAGE + sizeof code);
}

static void open_record(void) {
    const char *path = getenv("TORTURE_LOG");
    int fd = path ? open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644) : -1;
    /* Out of the way of the numbers that the program will have. */
    record = fcntl(fd, F_DUPFD_CLOEXEC, 700);
    if (record < 0) {
        perror("torture: TORTURE_LOG");
        _exit(99);
    }
    close(fd);
}

/* Programs that kiln starts run under its filter and need the handler, whatever environment they are given. */
static char *kept[3];

static void keep(int place, const char *name, const char *value) {
    size_t length = strlen(name) + strlen(value) + 2;
    kept[place] = malloc(length);
    if (kept[place]) snprintf(kept[place], length, "%s=%s", name, value);
}

#define MOST_VARIABLES 1024
static char **with_kept(char *const environment[]) {
    static __thread char *variables[MOST_VARIABLES + 4];
    size_t n = 0;
    for (; environment && environment[n] && n < MOST_VARIABLES; n++) variables[n] = environment[n];
    for (size_t i = 0; i < 3; i++)
        if (kept[i]) variables[n++] = kept[i];
    variables[n] = NULL;
    return variables;
}

int posix_spawnp(pid_t *child, const char *file, const posix_spawn_file_actions_t *actions,
                 const posix_spawnattr_t *attributes, char *const arguments[], char *const environment[]) {
    int (*real)(pid_t *, const char *, const posix_spawn_file_actions_t *, const posix_spawnattr_t *, char *const[],
                char *const[]) = dlsym(RTLD_NEXT, "posix_spawnp");
    return real(child, file, actions, attributes, arguments, counting ? with_kept(environment) : environment);
}

int execvp(const char *file, char *const arguments[]) {
    int (*real)(const char *, char *const[], char *const[]) = dlsym(RTLD_NEXT, "execvpe");
    return real(file, arguments, counting ? with_kept(environ) : environ);
}

__attribute__((constructor)) static void start(void) {
    char own[LONGEST] = {0};
    const char *program = getenv("TORTURE_PROGRAM"), *when = getenv("TORTURE_AT"), *how = getenv("TORTURE_MODE");
    if (!program || readlink("/proc/self/exe", own, sizeof own - 1) < 0) return;
    /* Under a filter already: this program was started by the one that is counted. */
    int inherited = prctl(PR_GET_SECCOMP, 0, 0, 0, 0) == SECCOMP_MODE_FILTER && getenv("TORTURE_INHERITED");
    map_page();
    struct sigaction action;
    memset(&action, 0, sizeof action);
    action.sa_sigaction = handler;
    action.sa_flags = SA_SIGINFO | SA_NODEFER | SA_RESTART;
    sigaction(SIGSYS, &action, NULL);
    if (!inherited && strcmp(own, program) == 0) {
        open_record();
        at = when ? atol(when) : 0;
        sends = getenv("TORTURE_SENDS") != NULL;
        strncpy(mode, how ? how : "", sizeof mode - 1);
        keep(0, "LD_PRELOAD", getenv("LD_PRELOAD") ? getenv("LD_PRELOAD") : "");
        keep(1, "TORTURE_PROGRAM", program);
        keep(2, "TORTURE_INHERITED", "1");
        counting = 1;
        setenv("TORTURE_INHERITED", "1", 1);
        install_filter();
    }
}

"""Numbers of Linux system calls that a confined process is refused, or may make with certain arguments only.

From ``asm/unistd_64.h`` of each architecture; a test holds them against the headers that zig brings. A call
that an architecture lacks is left out of its table.
"""

from __future__ import annotations

NETWORK = """
socket socketpair connect bind listen accept accept4 sendto sendmsg sendmmsg recvfrom recvmsg recvmmsg
""".split()  # a connection, or anything sent over one
PROGRAMS = """
execve execveat fork vfork ptrace process_vm_readv process_vm_writev process_madvise pidfd_open pidfd_getfd
pidfd_send_signal kcmp kill tkill rt_sigqueueinfo rt_tgsigqueueinfo setrlimit
""".split()  # another program, another process, or its own limits
WRITES = """
creat unlink unlinkat rename renameat renameat2 mkdir mkdirat rmdir link linkat symlink symlinkat mknod
mknodat chmod fchmod fchmodat fchmodat2 chown fchown lchown fchownat truncate ftruncate fallocate setxattr
lsetxattr fsetxattr setxattrat removexattr lremovexattr fremovexattr removexattrat utimensat utime utimes
futimesat file_setattr
""".split()  # a change of the file system; of `open` the flags decide
KERNEL = """
mount umount2 pivot_root chroot move_mount fsopen fsmount fsconfig fspick open_tree open_tree_attr
mount_setattr unshare setns open_by_handle_at swapon swapoff reboot sethostname setdomainname init_module
finit_module delete_module kexec_load kexec_file_load bpf perf_event_open keyctl add_key request_key
userfaultfd io_uring_setup io_uring_enter io_uring_register memfd_create memfd_secret fanotify_init ioperm
iopl quotactl quotactl_fd acct syslog settimeofday clock_settime adjtimex clock_adjtime shmget shmat shmctl
msgget msgsnd msgrcv msgctl semget semop semctl mq_open mq_unlink mq_timedsend migrate_pages move_pages setuid
setgid setreuid setregid setresuid setresgid setgroups setfsuid setfsgid capset personality
""".split()  # mounts, namespaces, users, shared memory, the clock, and ways around a filter

NUMBERS = {
    "x86_64": {
        "accept": 43, "accept4": 288, "acct": 163, "add_key": 248, "adjtimex": 159, "bind": 49, "bpf": 321,
        "capset": 126, "chmod": 90, "chown": 92, "chroot": 161, "clock_adjtime": 305, "clock_settime": 227, "clone":
        56, "clone3": 435, "connect": 42, "creat": 85, "delete_module": 176, "execve": 59, "execveat": 322,
        "fallocate": 285, "fanotify_init": 300, "fchmod": 91, "fchmodat": 268, "fchmodat2": 452, "fchown": 93,
        "fchownat": 260, "file_setattr": 469, "finit_module": 313, "fork": 57, "fremovexattr": 199, "fsconfig": 431,
        "fsetxattr": 190, "fsmount": 432, "fsopen": 430, "fspick": 433, "ftruncate": 77, "futimesat": 261,
        "init_module": 175, "io_uring_enter": 426, "io_uring_register": 427, "io_uring_setup": 425, "ioperm": 173,
        "iopl": 172, "kcmp": 312, "kexec_file_load": 320, "kexec_load": 246, "keyctl": 250, "kill": 62,
        "landlock_add_rule": 445, "landlock_create_ruleset": 444, "landlock_restrict_self": 446, "lchown": 94,
        "link": 86, "linkat": 265, "listen": 50, "lremovexattr": 198, "lsetxattr": 189, "memfd_create": 319,
        "memfd_secret": 447, "migrate_pages": 256, "mkdir": 83, "mkdirat": 258, "mknod": 133, "mknodat": 259,
        "mount": 165, "mount_setattr": 442, "move_mount": 429, "move_pages": 279, "mq_open": 240, "mq_timedsend":
        242, "mq_unlink": 241, "msgctl": 71, "msgget": 68, "msgrcv": 70, "msgsnd": 69, "open": 2,
        "open_by_handle_at": 304, "open_tree": 428, "open_tree_attr": 467, "openat": 257, "openat2": 437,
        "perf_event_open": 298, "personality": 135, "pidfd_getfd": 438, "pidfd_open": 434, "pidfd_send_signal": 424,
        "pivot_root": 155, "prctl": 157, "prlimit64": 302, "process_madvise": 440, "process_vm_readv": 310,
        "process_vm_writev": 311, "ptrace": 101, "quotactl": 179, "quotactl_fd": 443, "reboot": 169, "recvfrom": 45,
        "recvmmsg": 299, "recvmsg": 47, "removexattr": 197, "removexattrat": 466, "rename": 82, "renameat": 264,
        "renameat2": 316, "request_key": 249, "rmdir": 84, "rt_sigqueueinfo": 129, "rt_tgsigqueueinfo": 297,
        "semctl": 66, "semget": 64, "semop": 65, "sendmmsg": 307, "sendmsg": 46, "sendto": 44, "setdomainname": 171,
        "setfsgid": 123, "setfsuid": 122, "setgid": 106, "setgroups": 116, "sethostname": 170, "setns": 308,
        "setregid": 114, "setresgid": 119, "setresuid": 117, "setreuid": 113, "setrlimit": 160, "settimeofday": 164,
        "setuid": 105, "setxattr": 188, "setxattrat": 463, "shmat": 30, "shmctl": 31, "shmget": 29, "socket": 41,
        "socketpair": 53, "swapoff": 168, "swapon": 167, "symlink": 88, "symlinkat": 266, "syslog": 103, "tgkill":
        234, "tkill": 200, "truncate": 76, "umount2": 166, "unlink": 87, "unlinkat": 263, "unshare": 272,
        "userfaultfd": 323, "utime": 132, "utimensat": 280, "utimes": 235, "vfork": 58,
    },  # fmt: skip
    "aarch64": {
        "accept": 202, "accept4": 242, "acct": 89, "add_key": 217, "adjtimex": 171, "bind": 200, "bpf": 280,
        "capset": 91, "chroot": 51, "clock_adjtime": 266, "clock_settime": 112, "clone": 220, "clone3": 435,
        "connect": 203, "delete_module": 106, "execve": 221, "execveat": 281, "fallocate": 47, "fanotify_init": 262,
        "fchmod": 52, "fchmodat": 53, "fchmodat2": 452, "fchown": 55, "fchownat": 54, "file_setattr": 469,
        "finit_module": 273, "fremovexattr": 16, "fsconfig": 431, "fsetxattr": 7, "fsmount": 432, "fsopen": 430,
        "fspick": 433, "ftruncate": 46, "init_module": 105, "io_uring_enter": 426, "io_uring_register": 427,
        "io_uring_setup": 425, "kcmp": 272, "kexec_file_load": 294, "kexec_load": 104, "keyctl": 219, "kill": 129,
        "landlock_add_rule": 445, "landlock_create_ruleset": 444, "landlock_restrict_self": 446, "linkat": 37,
        "listen": 201, "lremovexattr": 15, "lsetxattr": 6, "memfd_create": 279, "memfd_secret": 447,
        "migrate_pages": 238, "mkdirat": 34, "mknodat": 33, "mount": 40, "mount_setattr": 442, "move_mount": 429,
        "move_pages": 239, "mq_open": 180, "mq_timedsend": 182, "mq_unlink": 181, "msgctl": 187, "msgget": 186,
        "msgrcv": 188, "msgsnd": 189, "open_by_handle_at": 265, "open_tree": 428, "open_tree_attr": 467, "openat":
        56, "openat2": 437, "perf_event_open": 241, "personality": 92, "pidfd_getfd": 438, "pidfd_open": 434,
        "pidfd_send_signal": 424, "pivot_root": 41, "prctl": 167, "prlimit64": 261, "process_madvise": 440,
        "process_vm_readv": 270, "process_vm_writev": 271, "ptrace": 117, "quotactl": 60, "quotactl_fd": 443,
        "reboot": 142, "recvfrom": 207, "recvmmsg": 243, "recvmsg": 212, "removexattr": 14, "removexattrat": 466,
        "renameat": 38, "renameat2": 276, "request_key": 218, "rt_sigqueueinfo": 138, "rt_tgsigqueueinfo": 240,
        "semctl": 191, "semget": 190, "semop": 193, "sendmmsg": 269, "sendmsg": 211, "sendto": 206, "setdomainname":
        162, "setfsgid": 152, "setfsuid": 151, "setgid": 144, "setgroups": 159, "sethostname": 161, "setns": 268,
        "setregid": 143, "setresgid": 149, "setresuid": 147, "setreuid": 145, "setrlimit": 164, "settimeofday": 170,
        "setuid": 146, "setxattr": 5, "setxattrat": 463, "shmat": 196, "shmctl": 195, "shmget": 194, "socket": 198,
        "socketpair": 199, "swapoff": 225, "swapon": 224, "symlinkat": 36, "syslog": 116, "tgkill": 131, "tkill":
        130, "truncate": 45, "umount2": 39, "unlinkat": 35, "unshare": 97, "userfaultfd": 282, "utimensat": 88,
    },  # fmt: skip
}

"""Runs a program as the systemd unit would confine it, as far as that works without systemd. For the tests.

Usage: python confine.py PLAN SOCKET COMMAND…, where PLAN is a JSON file and SOCKET the number of a listening socket.

The program gets the socket as file descriptor 3, no capability, no way to new privileges, no memory that is writable
and executable, and a filter of system calls and address families. Imports nothing of ours: it becomes the program.
"""

import ctypes
import json
import os
import resource
import sys

PR_SET_NO_NEW_PRIVS, PR_SET_MDWE, PR_CAPBSET_DROP, PR_CAP_AMBIENT = 38, 65, 24, 47
CAPABILITY_VERSION = 0x20080522
ALLOW, ERRNO, EQUAL = 0x7FFF0000, 0x00050000, 4
EPERM = 1


class Argument(ctypes.Structure):
    _fields_ = (
        ("arg", ctypes.c_uint),
        ("op", ctypes.c_int),
        ("first", ctypes.c_uint64),
        ("second", ctypes.c_uint64),
    )


def drop_privileges(libc):
    for capability in range(64):
        libc.prctl(PR_CAPBSET_DROP, capability, 0, 0, 0)
    header = (ctypes.c_uint32 * 2)(CAPABILITY_VERSION, 0)
    nothing = (ctypes.c_uint32 * 6)()
    if libc.capset(header, nothing) != 0:
        sys.exit("confine: cannot drop capabilities")
    if libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
        sys.exit("confine: cannot set no_new_privs")


def filter_calls(seccomp, names, families):
    """Allows these system calls; all others end with EPERM. A socket must be of one of the families."""
    seccomp.seccomp_init.restype = ctypes.c_void_p
    context = ctypes.c_void_p(seccomp.seccomp_init(ctypes.c_uint32(ERRNO | EPERM)))
    allow = ctypes.c_uint32(ALLOW)
    for name in names:
        number = seccomp.seccomp_syscall_resolve_name(name.encode())
        if number < 0:
            continue  # of another architecture
        if name == "socket":
            for family in families:
                matches = (Argument * 1)(Argument(0, EQUAL, family, 0))
                if seccomp.seccomp_rule_add_array(context, allow, number, 1, matches) != 0:
                    sys.exit("confine: cannot filter sockets")
        elif seccomp.seccomp_rule_add_array(context, allow, number, 0, None) != 0:
            sys.exit(f"confine: cannot allow {name}")
    if seccomp.seccomp_load(context) != 0:
        sys.exit("confine: cannot load the filter")


def main():
    plan_path, socket_number, *command = sys.argv[1:]
    with open(plan_path) as file:
        plan = json.load(file)
    libc = ctypes.CDLL(None, use_errno=True)
    seccomp = ctypes.CDLL("libseccomp.so.2", use_errno=True)
    os.umask(plan["umask"])
    if int(socket_number) != 3:
        os.dup2(int(socket_number), 3)
    os.set_inheritable(3, True)
    limit = min(plan["open_files"], resource.getrlimit(resource.RLIMIT_NOFILE)[1])
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
    os.environ |= {"LISTEN_FDS": "1", "LISTEN_PID": str(os.getpid())}
    drop_privileges(libc)
    if libc.prctl(PR_SET_MDWE, 1, 0, 0, 0) != 0 and plan["needs_mdwe"]:
        sys.exit("confine: this kernel cannot refuse executable memory")
    filter_calls(seccomp, plan["calls"], plan["families"])
    os.execv(command[0], command)


main()

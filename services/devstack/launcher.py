"""The few lines that run between fork and exec of every process of the stack.

A bare interpreter runs this file by path: `python -I -S launcher.py PARENT SIGNAL UID GID LC_CTYPE -- COMMAND…`. It
makes the changes that a process can only make to itself, and then becomes COMMAND. `Popen(preexec_fn=…)` would do the
same inside a fork of a process with threads, which may deadlock and which Python >= 3.12 warns about.

The interpreter is started under the caller's account, so the account to which the process drops need not be able to
reach it.
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1
CANNOT_RUN = 127  # what a shell answers for a command that does not exist


def die_with_parent(parent: int, death_signal: int) -> None:
    """Ask the kernel for `death_signal` when the thread that started us ends (prctl(2), Linux only); 0 asks for none.

    The parent may have died before the request was made, so it is checked afterwards: if it is gone, this process
    exits. Raises OSError when the kernel refuses.
    """
    if sys.platform == "linux" and death_signal:
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.prctl(PR_SET_PDEATHSIG, death_signal, 0, 0, 0) != 0:
            raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
    if os.getppid() != parent:
        sys.exit(f"{sys.argv[0]}: the parent is gone")


def drop_to(uid: int, gid: int) -> None:
    """Become uid:gid with no other group, irreversibly, since the real and saved ids change too."""
    os.setgroups([])
    os.setgid(gid)
    os.setuid(uid)


def reset_signals() -> None:
    """Restore the default actions of signals that `nohup` or a shell's background job made us ignore, and unblock all
    signals: the command decides for itself."""
    for signum in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM):
        signal.signal(signum, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])


def main(arguments: list[str]) -> None:
    """Apply the arguments and become the command, given by its path. Never returns: exits with 127 if the command
    cannot be run, and with a message if the parent is gone.

    A negative uid keeps the account. An empty LC_CTYPE removes that variable, which the interpreter may have set by
    itself; any other value changes nothing.

    Nothing may be imported after the drop (`os.execvp` would): the standard library may be out of reach by then.
    """
    parent, death_signal, uid, gid = (int(argument) for argument in arguments[:4])
    lc_ctype, command = arguments[4], arguments[6:]
    if not lc_ctype:
        os.environ.pop("LC_CTYPE", None)  # PEP 538: in the C locale the interpreter sets it, for its children too
    if uid >= 0:
        drop_to(uid, gid)
    reset_signals()
    die_with_parent(parent, death_signal)  # after the drop: the kernel forgets the request when ids change
    try:
        os.execv(command[0], command)  # noqa: S606 - without a shell on purpose
    except OSError as error:
        sys.stderr.write(f"{command[0]}: {error.strerror}\n")
        os._exit(CANNOT_RUN)


if __name__ == "__main__":
    main(sys.argv[1:])

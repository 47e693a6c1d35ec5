"""The command `onward`, each call a fork of one process that has imported the libraries already.

Most of the time of a call is imports, and a page of the documentation has up to twenty calls. Here
a call is a process of its own still, with its own arguments, directory, environment and standard
streams, but what it would import first is there. The first call of a page is the real command.
"""

import gc
import importlib
import json
import os
import select
import socket
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

IMPORTED = ("torchvision.transforms.v2", "onnx", "lance_namespace", "pyarrow.dataset", "rich")
"""What takes long and starts no thread, which a fork would lack: not `lancedb`."""

CALL = """\
#!{python} -ISE
import json, os, socket, sys
try:
    os.close(os.open({called!r}, os.O_CREAT | os.O_EXCL))
    os.execv({real!r}, [{real!r}, *sys.argv[1:]])
except FileExistsError:
    pass
server = socket.socket(socket.AF_UNIX)
server.connect({address!r})
socket.send_fds(server, [b"+"], [0, 1, 2])
server.sendall(json.dumps([sys.argv[1:], os.getcwd(), dict(os.environ)]).encode())
server.shutdown(socket.SHUT_WR)
sys.exit(int(server.recv(9) or 99))
"""


def environment() -> dict[str, str]:
    """Return this process's variables, without what could lead to another `onward`."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | {"PATH": path}


def write_command(directory: Path, address: str) -> None:
    """Write `onward`, of which the first call is the real command and each later one a fork."""
    real = str(Path(sys.executable).with_name("onward"))
    called = str(directory / "called")
    command = directory / "onward"
    command.write_text(
        CALL.format(python=sys.executable, called=called, real=real, address=address)
    )
    command.chmod(0o700)


@contextmanager
def server_of_forks() -> Iterator[str]:
    """Run the process that is forked; give its address."""
    with tempfile.TemporaryDirectory(prefix="onward-forks-") as directory:
        address = f"{directory}/socket"
        command = [sys.executable, "-P", __file__, address]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        with subprocess.Popen(command, env=environment(), **pipes) as server:
            assert server.stdout.readline() == b"listening\n"
            yield address  # leaving closes its standard input, which ends it


def serve(address: str) -> list[str]:
    """Fork for each call until standard input is closed; return in forks alone: the arguments."""
    for name in IMPORTED:
        importlib.import_module(name)
    gc.freeze()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(address)
        listener.listen()
        os.write(1, b"listening\n")
        while 0 not in select.select([0, listener], [], [])[0]:
            call, _ = listener.accept()
            with call:
                if os.fork() == 0:
                    listener.close()
                    return answer(call)
            with suppress(ChildProcessError):
                while os.waitpid(-1, os.WNOHANG)[0]:
                    pass
    os._exit(0)


def answer(call: socket.socket) -> list[str]:
    """Take a call's place in a fork and return its arguments; outside, tell it how that ended."""
    _, streams, _, _ = socket.recv_fds(call, 1, 3)
    with call.makefile() as told:
        arguments, directory, variables = json.load(told)
    if child := os.fork():
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        call.sendall(str(code if code >= 0 else 128 - code).encode())
        os._exit(0)
    call.close()
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    os.chdir(directory)
    os.environ.clear()
    os.environ.update(variables)
    return arguments


def perform(arguments: list[str]) -> None:
    """Do as `onward` does, and end as a fork does: without taking the libraries apart."""
    from onward.cli import main

    code = 1
    try:
        main(arguments)
    except SystemExit as end:
        code = int(end.code or 0)
    except Exception:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    perform(serve(sys.argv[1]))

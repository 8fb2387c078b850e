"""A Python that has imported everything already: a process of its own costs 0.1 CPU s, and not those of `import torch`.

A server imports torch and dprune once and forks a child for each command; a launcher takes the place of
`python -m MODULE`: it hands its arguments, environment, folder and streams to the server, passes signals on and ends
as the child ended. What it cannot do (`-c`, scripts, a server that is gone), a fresh interpreter does.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import sys

PASSED_ON = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)


def launch(address: str, arguments: list[str]) -> None:
    """Run `python ARGUMENTS` in a child of the server, and end as it ends."""
    python = [sys.executable, *arguments]
    if arguments[:1] == ["-u"]:
        # As torchrun starts its ranks, whose output nobody reads before they end.
        del arguments[0]
    if arguments[:1] != ["-m"]:
        os.execv(sys.executable, python)
    request = json.dumps({"arguments": arguments, "folder": os.getcwd(), "environment": dict(os.environ)}).encode()
    with socket.socket(socket.AF_UNIX) as server:
        try:
            server.connect(address)
            socket.send_fds(server, [len(request).to_bytes(4, "big")], [0, 1, 2])
            server.sendall(request)
            child = int.from_bytes(_take(server, 4), "big")
        except OSError:
            os.execv(sys.executable, python)
        status = _follow(server, child)
    if os.WIFSIGNALED(status):
        signal.signal(os.WTERMSIG(status), signal.SIG_DFL)
        os.kill(os.getpid(), os.WTERMSIG(status))
    os._exit(os.waitstatus_to_exitcode(status))


def _follow(server: socket.socket, child: int) -> int:
    """Wait for the child's status; a signal does here what it would do there, and is passed on where that takes it."""

    def pass_on(number: int, _: object) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, number)

    taken: set[signal.Signals] = set()
    while not select.select([server], [], [], 0.02)[0]:
        with contextlib.suppress(OSError), open(f"/proc/{child}/status") as file:
            caught = int(next(line.split()[1] for line in file if line.startswith("SigCgt")), 16)
            for number in PASSED_ON:
                if number not in taken and caught >> (number - 1) & 1:
                    signal.signal(number, pass_on)
                    taken.add(number)
    return int.from_bytes(_take(server, 4), "big")


def _take(connection: socket.socket, count: int) -> bytes:
    taken = b""
    while len(taken) < count:
        more = connection.recv(count - len(taken))
        if not more:
            raise ConnectionResetError
        taken += more
    return taken


def serve(listener: socket.socket) -> None:
    """Fork a child for each launcher that asks, until stdin is closed; returns in the children alone."""
    waits, children = select.poll(), {}
    for watched in (0, listener.fileno()):
        waits.register(watched, select.POLLIN)
    while True:
        # One at a time: what ends here may leave its descriptor to the next.
        ready = waits.poll()[0][0]
        if ready == 0:
            _end(children)
        elif ready == listener.fileno():
            connection, _ = listener.accept()
            child = _fork(connection, [listener, *(entry[1] for entry in children.values())])
            if child is None:
                return
            end = os.pidfd_open(child)
            children[end] = children[connection.fileno()] = (child, connection, end)
            for watched in (end, connection.fileno()):
                waits.register(watched, select.POLLIN)
        else:
            child, connection, end = children[ready]
            if ready != end:
                # Nobody can pass SIGKILL on, but the launcher's end of the line is closed.
                _kill(child)
            status = os.waitpid(child, 0)[1]
            with contextlib.suppress(OSError):
                connection.sendall(status.to_bytes(4, "big"))
            for watched in (end, connection.fileno()):
                waits.unregister(watched)
                del children[watched]
            os.close(end)
            connection.close()


def _end(children: dict[int, tuple[int, socket.socket, int]]) -> None:
    for child in {entry[0] for entry in children.values()}:
        _kill(child)
        os.waitpid(child, 0)
    os._exit(0)


def _kill(child: int) -> None:
    # The child leads a group, so that this takes its own workers too.
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(child, signal.SIGKILL)


def _fork(connection: socket.socket, others: list[socket.socket]) -> int | None:
    """Fork a child for a launcher; return its process id, and None in the child."""
    streams: list[int] = []
    try:
        prefix, streams, _, _ = socket.recv_fds(connection, 4, 3)
        request = json.loads(_take(connection, int.from_bytes(prefix, "big")))
    except OSError:
        # A launcher that was killed on the way: whoever reads its streams waits for their end.
        for stream in streams:
            os.close(stream)
        request, streams = {"arguments": ["-m", "this"], "folder": "/", "environment": {}}, []
    child = os.fork()
    if child:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.setpgid(child, child)
        for stream in streams:
            os.close(stream)
        with contextlib.suppress(OSError):
            connection.sendall(child.to_bytes(4, "big"))
        return child
    for other in (connection, *others):
        other.close()
    _become(request, streams)
    return None


def _become(request: dict, streams: list[int]) -> None:
    os.setpgid(0, 0)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    sys.stdout.reconfigure(line_buffering=sys.stdout.line_buffering or os.isatty(1))
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["environment"])
    sys.argv = request["arguments"][1:]
    if "OMP_NUM_THREADS" in os.environ:
        import torch

        torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))


def warm_up() -> None:
    """Import what commands import, none of which starts a thread."""
    import gc
    import importlib
    import pkgutil

    import dprune

    for module in pkgutil.walk_packages(dprune.__path__, "dprune."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    for name in ("torch.distributed", "torch.utils.data", "safetensors.torch", "sklearn.cluster", "faiss"):
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    # The children share these pages as long as no collection writes to them.
    gc.collect()
    gc.freeze()


def run() -> None:
    """Do what `python -m` does, without the half second in which an interpreter that holds torch is taken apart."""
    import atexit
    import runpy
    import threading
    import traceback

    code: object = None
    try:
        runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
    except SystemExit as end:
        code = end.code
    except BaseException:  # noqa: BLE001 - whatever it is, the child must not go on as another server
        traceback.print_exc()
        code = 1
    threading._shutdown()
    atexit._run_exitfuncs()
    try:
        sys.stdout.flush()
    except OSError:
        code = 120
    os._exit(code if isinstance(code, int) else 0 if code is None else 1)


def main() -> None:
    """Be the server (`warm.py --serve DESCRIPTOR`) or a launcher (`warm.py ADDRESS ARGUMENTS`)."""
    if sys.argv[1] != "--serve":
        return launch(sys.argv[1], sys.argv[2:])
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    del sys.path[0]
    warm_up()
    serve(socket.socket(fileno=int(sys.argv[2])))
    return run()


if __name__ == "__main__":
    main()

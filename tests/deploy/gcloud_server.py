"""The real gcloud, loaded once:

a server that forks for every command, so that a suite of a thousand commands stays short.

The same code as `gcloud` runs, with the same arguments, environment, working directory and standard streams; only its
imports (half a second a command) are done beforehand. Runs under gcloud's own Python: `PYTHON gcloud_server.py SDK_ROOT
SOCKET`. `client()` is what stands on PATH as `gcloud`.
"""

# ruff: noqa: PTH109, PTH118, SIM105 - as small as can be: it is read before every command
from __future__ import annotations

import array
import json
import os
import signal
import socket
import sys

#: Imported before the first fork: what nearly every command needs, and the largest of the rest.
PRELOAD = (
    "googlecloudsdk.gcloud_main",
    "googlecloudsdk.core.credentials.requests",
    "googlecloudsdk.api_lib.util.apis",
    "googlecloudsdk.calliope.cli",
    "googlecloudsdk.command_lib.run.flags",
    "googlecloudsdk.command_lib.run.serverless_operations",
    "googlecloudsdk.command_lib.storage.tasks.task_executor",
    "googlecloudsdk.api_lib.storage.gcs_json.client",
    "googlecloudsdk.api_lib.sql.api_util",
    "googlecloudsdk.api_lib.secrets.api",
    "googlecloudsdk.command_lib.iam.iam_util",
)


def serve(root: str, path: str) -> None:
    """Listen at `path` until the parent dies; fork for every connection."""
    sys.path.insert(0, os.path.join(root, "lib"))
    sys.argv = [os.path.join(root, "lib", "gcloud.py")]
    sys.path.insert(1, os.path.join(root, "lib", "third_party"))
    os.environ.setdefault("CLOUDSDK_ROOT_DIR", root)
    for name in PRELOAD:
        __import__(name)
    # Children are reaped by whoever waits for them here: one small process for each command.
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen(64)
    print("ready", flush=True)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    while True:
        connection, _ = listener.accept()
        if os.fork() == 0:
            listener.close()
            _answer(connection)
        connection.close()


def _answer(connection: socket.socket) -> None:
    """Run one command in this process's child; send its exit code."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    fds = array.array("i")
    data, ancillary, _, _ = connection.recvmsg(1 << 20, socket.CMSG_SPACE(3 * fds.itemsize))
    for _, _, packed in ancillary:
        fds.frombytes(packed[: len(packed) - len(packed) % fds.itemsize])
    size = int(data[:8])
    while len(data) < 8 + size:
        data += connection.recv(1 << 20)
    request = json.loads(data[8:])
    worker = os.fork()
    if worker == 0:
        for target, source in enumerate(fds):
            os.dup2(source, target)
        for source in fds:
            os.close(source)
        connection.close()
        os.environ.clear()
        os.environ.update(request["environment"])
        os.chdir(request["directory"])
        _gcloud(request["arguments"])
    for source in fds:
        os.close(source)
    _, status = os.waitpid(worker, 0)
    try:
        connection.sendall(str(os.waitstatus_to_exitcode(status)).encode())
    except OSError:
        pass
    os._exit(0)


def _gcloud(arguments: list[str]) -> None:
    """Be gcloud; never returns."""
    sys.stdin, sys.stdout, sys.stderr = open(0), open(1, "w"), open(2, "w")  # noqa: SIM115
    sys.argv[1:] = arguments
    code = 0
    try:
        from googlecloudsdk import gcloud_main  # type: ignore[import-not-found]
        from googlecloudsdk.core import config  # type: ignore[import-not-found]

        config._cloudsdk_root_dir = None
        gcloud_main.main()
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 1 if error.code else 0
    except BaseException:
        import traceback

        traceback.print_exc()
        code = 1
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            pass
    os._exit(code)


def client(path: str) -> int:
    """Run the command of this process's arguments through the server, once it is written down."""
    with open(os.environ["GCLOUD_RECORD"], "a") as record:  # noqa: PTH123 - pathlib would double the time to start
        record.write(json.dumps(sys.argv[2:]) + "\n")
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(path)
    body = json.dumps({"arguments": sys.argv[2:], "environment": dict(os.environ), "directory": os.getcwd()}).encode()
    data = b"%08d" % len(body) + body
    fds = array.array("i", [0, 1, 2])
    sent = connection.sendmsg([data], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, fds)])
    connection.sendall(data[sent:])
    answer = connection.recv(16)
    return int(answer) if answer else 1


if __name__ == "__main__":
    if len(sys.argv) == 3 and sys.argv[1] != "--client":
        serve(sys.argv[1], sys.argv[2])
    sys.argv[1:2] = []
    sys.exit(client(sys.argv[1]))

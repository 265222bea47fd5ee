"""A viewer that means harm: many connections, each of which sends the worst request that it may, again and again.

A process of its own, so that what it does takes no time from those who are measured beside it
(:mod:`bench.siege`). It says ``ready`` once all connections are open, and at its end the statuses that it got.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import contextlib
import gzip
import json
import os
import random
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import TypeAlias
from urllib.parse import quote, urlsplit

KIB = 1024
API = "/api/2.0/mlflow"
#: Seconds that one answer may take before its connection is given up.
PATIENCE_S = 60
#: Seconds between two bytes of a request that trickles.
DRIP_S = 0.5

#: What one connection sends, piece by piece; None is a pause.
Pieces: TypeAlias = list[bytes | None]


class Attacker:
    """Makes the requests.

    Args:
        host: of the gate, as the Host header says it.
        token: the viewer's.
        experiment: one that has many runs.
        run: one of them, with a long history of the metric ``history``.
        choose: for what isn't the same each time.
    """

    def __init__(self, host: str, token: str, experiment: str, run: str, choose: random.Random) -> None:
        self._host = host
        self._token = token
        self._experiment = experiment
        self._run = run
        self._choose = choose
        self.moves: dict[str, Callable[[], Pieces]] = {
            name.removeprefix("do_"): getattr(self, name) for name in dir(self) if name.startswith("do_")
        }

    def _request(self, method: str, path: str, body: bytes | None = None, *headers: str, length: int = -1) -> bytes:
        lines = [f"{method} {path} HTTP/1.1", f"Host: {self._host}", f"Authorization: Bearer {self._token}", *headers]
        if body is not None and not any(line.lower().startswith("transfer-encoding") for line in headers):
            lines.append(f"Content-Length: {len(body) if length < 0 else length}")
        return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + (body or b"")

    def _post(self, path: str, document: object, *headers: str) -> Pieces:
        body = document if isinstance(document, bytes) else json.dumps(document, separators=(",", ":")).encode()
        return [self._request("POST", path, body, "Content-Type: application/json", *headers)]

    # --- bodies ----------------------------------------------------------------------------------------------

    def do_wide_search(self) -> Pieces:
        """As many values as a read may have."""
        return self._post(f"{API}/runs/search", {"experiment_ids": ["0"] * 12_000, "max_results": 1})

    def do_all_runs(self) -> Pieces:
        """A large answer."""
        return self._post(f"{API}/runs/search", {"experiment_ids": [self._experiment], "max_results": 1000})

    def do_joins(self) -> Pieces:
        """As many joins as a search may have."""
        order = [f"metrics.m{self._choose.random()} DESC" for _ in range(20)]
        filters = " AND ".join(f"params.p{number} LIKE '%{number}%'" for number in range(60))
        document = {"experiment_ids": [self._experiment], "order_by": order, "filter": filters}
        return self._post(f"{API}/runs/search", document)

    def do_long_filter(self) -> Pieces:
        """A filter as long as it may be."""
        text = " AND ".join(f"params.p{number} = 'x'" for number in range(2_600))
        return self._post(f"{API}/runs/search", {"experiment_ids": [self._experiment], "filter": text[:65_000]})

    def do_nested_filter(self) -> Pieces:
        """Brackets in a filter, which a parser counts."""
        return self._post(f"{API}/runs/search", {"experiment_ids": ["0"], "filter": "(" * 30_000 + ")" * 30_000})

    def do_traces_filter(self) -> Pieces:
        """The same at another parser."""
        text = " AND ".join(f"tags.t{number} = 'x'" for number in range(2_600))
        locations = [{"type": "MLFLOW_EXPERIMENT", "mlflow_experiment": {"experiment_id": self._experiment}}]
        return self._post("/api/3.0/mlflow/traces/search", {"locations": locations, "filter": text[:65_000]})

    def do_deep(self) -> Pieces:
        """Brackets up to the limit, in a body that is nearly too deep."""
        return self._post(f"{API}/runs/search", b'{"a":' + b"[" * 99 + b"]" * 99 + b"}" + b" " * (255 * KIB))

    def do_escapes(self) -> Pieces:
        """Backslashes, which a scanner must pair."""
        return self._post(f"{API}/runs/search", b'{"filter":"' + b'\\\\\\"' * (60 * KIB) + b'"}')

    def do_twice_encoded(self) -> Pieces:
        """A text that holds the JSON, which is parsed twice."""
        inner = json.dumps({"experiment_ids": ["0"] * 4_000, "max_results": 1})
        return self._post(f"{API}/runs/search", json.dumps(inner).encode())

    def do_graphql(self) -> Pieces:
        """A query as large as it may be, of another text each time."""
        fields = " ".join(
            f'a{self._choose.randrange(10**6)}: mlflowGetRun(input: {{runId: "x"}}) {{ apiError {{ code }} }}'
            for _ in range(40)
        )
        return self._post("/graphql", {"query": f"query {{ {fields} }}", "variables": {}})

    def do_graphql_aliases(self) -> Pieces:
        """Fields that a validator compares pair by pair."""
        fields = " ".join("__typename" for _ in range(900))
        return self._post("/graphql", {"query": f"query q{self._choose.randrange(10**6)} {{ {fields} }}"})

    def do_refused_write(self) -> Pieces:
        """A write whose body is looked at for the names in it, and whose refusal has a line."""
        return self._post(
            f"{API}/runs/log-batch", {"run_id": self._run, "tags": [{"key": "k", "value": "v" * 20}] * 1200}
        )

    def do_large_refused_write(self) -> Pieces:
        """A large body that nobody reads."""
        return self._post(f"{API}/runs/log-batch", b" " * (2 * 1024 * KIB))

    def do_too_large(self) -> Pieces:
        """A body that says nothing of its size, and is too large."""
        piece = b"8000\r\n" + b" " * 32 * KIB + b"\r\n"
        head = self._request("POST", f"{API}/runs/search", b"", "Transfer-Encoding: chunked")
        return [head + piece * 20 + b"0\r\n\r\n"]

    def do_small_chunks(self) -> Pieces:
        """A body in pieces of a byte."""
        body = json.dumps({"experiment_ids": ["0"] * 3_000}).encode()
        pieces = b"".join(b"1\r\n%c\r\n" % byte for byte in body)
        head = self._request(
            "POST", f"{API}/runs/search", b"", "Transfer-Encoding: chunked", "Content-Type: application/json"
        )
        return [head + pieces + b"0\r\n\r\n"]

    def do_gzip(self) -> Pieces:
        """A body that grows, where none may."""
        return self._post(f"{API}/runs/search", gzip.compress(b" " * 8 * 1024 * KIB), "Content-Encoding: gzip")

    def do_spans(self) -> Pieces:
        """Spans, which a viewer may not send."""
        body = gzip.compress(b"\x0a\x00" * 512 * KIB)
        headers = (
            "Content-Type: application/x-protobuf",
            "Content-Encoding: gzip",
            f"x-mlflow-experiment-id: {self._experiment}",
        )
        return [self._request("POST", "/v1/traces", body, *headers)]

    # --- queries, paths and headers --------------------------------------------------------------------------

    def do_parameters(self) -> Pieces:
        """As many parameters as a query may have."""
        query = "&".join(f"run_id={'x' * 20}" for _ in range(999))
        return [self._request("GET", f"{API}/runs/get?{query}")]

    def do_history(self) -> Pieces:
        """A long history."""
        return [self._request("GET", f"{API}/metrics/get-history?run_id={self._run}&metric_key=history")]

    def do_bulk_history(self) -> Pieces:
        """Histories of many runs."""
        query = "&".join(f"run_ids={self._run}" for _ in range(100))
        return [self._request("GET", f"/ajax-api/2.0/mlflow/metrics/get-history-bulk?{query}&metric_key=history")]

    def do_long_path(self) -> Pieces:
        """A path of many names."""
        path = "/".join("a%2e%2e" for _ in range(250))
        return [self._request("GET", f"/gateway/{path}/invocations")]

    def do_parsed_headers(self) -> Pieces:
        """The longest of what libraries parse."""
        headers = [
            "Accept: " + ",".join(f"a/b;q=0.{number}" for number in range(100))[:1000],
            "Accept-Encoding: " + ",;=" * 330,
            "Range: bytes=" + ",".join("0-1" for _ in range(240)),
            "If-None-Match: " + ",".join('"a' for _ in range(300))[:1000],
            "Digest: " + "a" * 1000,
            "Content-Type: multipart/form-data; " + ";".join('b="' for _ in range(240))[:900],
        ]
        return [self._request("GET", f"{API}/experiments/get?experiment_id=0", None, *headers)]

    def do_many_headers(self) -> Pieces:
        """More headers than may come; the proxy looks at all of them."""
        return [
            self._request(
                "GET", f"{API}/experiments/get?experiment_id=0", None, *(f"X-A{n}: {'v' * 90}" for n in range(3_000))
            )
        ]

    def do_cookies(self) -> Pieces:
        """Cookies by the thousand."""
        return [self._request("GET", "/", None, "Cookie: " + "; ".join(f"_gatehouse_{n}=x" for n in range(3_000)))]

    def do_long_token(self) -> Pieces:
        """A token of another sort, which the proxy decodes."""
        junk = base64.urlsafe_b64encode(os.urandom(48 * KIB)).decode()
        return [self._request("GET", "/", None).replace(self._token.encode(), f"a.{junk}.b".encode())]

    def do_artifact(self) -> Pieces:
        """Names that lead nowhere, to the store."""
        path = quote(f"{self._experiment}/{self._run}/artifacts/{self._choose.random()}")
        return [self._request("GET", f"/api/2.0/mlflow-artifacts/artifacts/{path}")]

    def do_pipelined(self) -> Pieces:
        """Many requests at once on a connection."""
        return [self._request("GET", f"{API}/experiments/get?experiment_id=0") * 50]

    # --- pace --------------------------------------------------------------------------------------------------

    def do_trickle(self) -> Pieces:
        """A body that comes a byte at a time."""
        head = self._request("POST", f"{API}/runs/search", b"{", "Content-Type: application/json", length=200 * KIB)
        return [head, *([None, b" "] * 40)]

    def do_trickled_upload(self) -> Pieces:
        """The same for an upload, which a viewer may not make."""
        head = self._request("PUT", "/api/2.0/mlflow-artifacts/artifacts/0/a/artifacts/b", b"x", length=50 * 1024 * KIB)
        return [head, *([None, b"x"] * 40)]

    def do_trickled_headers(self) -> Pieces:
        """Headers that don't end."""
        return [self._request("GET", "/")[:-2], *([None, b"X-A: b\r\n"] * 40)]

    def do_slow_reader(self) -> Pieces:
        """The UI's largest files, asked for and not read."""
        return [
            self._request("GET", f"{API}/metrics/get-history?run_id={self._run}&metric_key=history") * 20,
            *([None] * 20),
        ]


async def keep_on(
    attacker: Attacker,
    address: tuple[str, int],
    names: list[str],
    until: float,
    statuses: Counter[str],
    opened: Callable[[], None],
) -> None:
    """Send one request after the other on a connection, a new one where it was closed."""
    choose = attacker._choose
    first = True
    while time.monotonic() < until:
        writer = None
        try:
            reader, writer = await asyncio.open_connection(*address)
            if first:
                first = False
                opened()
            while time.monotonic() < until:
                name = choose.choice(names)
                async with asyncio.timeout(min(PATIENCE_S, max(0.1, until - time.monotonic()))):
                    await _send(writer, attacker.moves[name]())
                    status = await _answer(reader)
                statuses[f"{name} {status}"] += 1
                if status in {"closed", "400", "408", "413", "414", "431"}:
                    break
        except (OSError, TimeoutError, asyncio.IncompleteReadError, ValueError):
            statuses["connection ended"] += 1
        finally:
            if writer is not None:
                writer.close()


async def _send(writer: asyncio.StreamWriter, pieces: Pieces) -> None:
    for piece in pieces:
        if piece is None:
            await asyncio.sleep(DRIP_S)
        else:
            writer.write(piece)
            await writer.drain()


async def _answer(reader: asyncio.StreamReader) -> str:
    """Read one answer; return its status."""
    line = await reader.readline()
    if not line:
        return "closed"
    status = line.split(b" ")[1].decode("latin-1")
    length, chunked = 0, False
    while (header := (await reader.readline()).lower()).strip():
        if header.startswith(b"content-length:"):
            length = int(header.partition(b":")[2])
        chunked = chunked or (header.startswith(b"transfer-encoding:") and b"chunked" in header)
    if chunked:
        while size := int(await reader.readline(), 16):
            await reader.readexactly(size + 2)
        await reader.readline()
    else:
        await reader.readexactly(length)
    return status


async def attack(
    url: str, token: str, experiment: str, run: str, seconds: float, connections: int, number: int, names: list[str]
) -> Counter[str]:
    """Attack for so long; return how many answers had which status, by what was sent."""
    parts = urlsplit(url)
    statuses: Counter[str] = Counter()
    waiting = connections
    until = time.monotonic() + seconds

    def opened() -> None:
        nonlocal waiting
        waiting -= 1
        if not waiting:
            print("ready", flush=True)

    attackers = [Attacker(parts.netloc, token, experiment, run, random.Random(number + n)) for n in range(connections)]  # noqa: S311
    address = ("127.0.0.1", parts.port or 80)
    tasks: list[Awaitable[None]] = [
        keep_on(attacker, address, names or sorted(attacker.moves), until, statuses, opened) for attacker in attackers
    ]
    await asyncio.gather(*tasks)
    return statuses


def main() -> None:
    """Run the process."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url")
    parser.add_argument("experiment")
    parser.add_argument("run")
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--connections", type=int, required=True)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--only", default="", help="names of requests, separated by commas")
    given = parser.parse_args()
    token = sys.stdin.readline().strip()
    names = [name for name in given.only.split(",") if name]
    with contextlib.suppress(KeyboardInterrupt):
        statuses = asyncio.run(
            attack(given.url, token, given.experiment, given.run, given.seconds, given.connections, given.seed, names)
        )
        print(json.dumps(statuses, sort_keys=True), flush=True)


if __name__ == "__main__":
    main()

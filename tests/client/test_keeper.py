"""One token for many threads and forked processes; a refused one is replaced, and what was sent is sent again whole."""

from __future__ import annotations

from joserfc.jwk import RSAKey

from tests.client.conftest import Machine, login
from tests.client.googleapis import ACCOUNT, Google
from tests.client.openid import OpenIdProvider

KEEPER = """
import os, sys, threading, time
from mlflow_gatehouse.keeper import keeper_of
keeper = keeper_of(os.environ["MLFLOW_TRACKING_URI"])
"""


def on_google(google: Google) -> dict[str, str]:
    return {"NO_GCE_CHECK": "", **google.as_metadata}


def test_threads_that_come_at_once_share_one_token(machine: Machine, google: Google) -> None:
    text = (
        KEEPER
        + """
start = threading.Barrier(16)
tokens = []
def run():
    start.wait()
    tokens.append(keeper.current().value)
threads = [threading.Thread(target=run) for _ in range(16)]
for thread in threads: thread.start()
for thread in threads: thread.join()
print(len(tokens), len(set(tokens)))
"""
    )
    assert machine.script(text, env=on_google(google)).stdout.split() == ["16", "1"]
    assert google.count("/identity") == 1


def test_a_process_forked_in_the_middle_of_a_renewal_is_not_stuck(machine: Machine, google: Google) -> None:
    text = (
        KEEPER
        + """
keeper.current()
held, go = threading.Event(), threading.Event()
def hold():
    with keeper._lock, keeper._server_lock:
        held.set()
        go.wait()
thread = threading.Thread(target=hold)
thread.start()
held.wait()
child = os.fork()
if child == 0:
    keeper._token = None
    keeper._server = None
    os._exit(0 if keeper.current().value else 1)
deadline = time.monotonic() + 20
while (done := os.waitpid(child, os.WNOHANG)) == (0, 0) and time.monotonic() < deadline:
    time.sleep(0.05)
go.set()
thread.join()
if done == (0, 0):
    os.kill(child, 9)
    sys.exit("the child is stuck")
sys.exit(os.waitstatus_to_exitcode(done[1]))
"""
    )
    machine.script(text, env=on_google(google))


def test_a_living_token_goes_on_while_its_source_is_out_of_order(
    machine: Machine, google: Google, openid: OpenIdProvider
) -> None:
    """And once it has ended, nobody else's identity takes its place."""
    login(machine)
    google.mint = lambda **claims: openid.sign(life=100, **claims)
    text = (
        KEEPER
        + """
import logging, requests
logging.basicConfig(level="WARNING")
now = time.time()
keeper._clock = lambda: now
first = keeper.current()
print(first.email)
requests.get("http://" + os.environ["GCE_METADATA_HOST"] + "/down")
now += 85  # after 4/5 of its life
assert keeper.current().value == first.value
now += 30
try:
    keeper.current()
except Exception as error:
    print(type(error).__name__)
"""
    )
    answer = google.answer

    def going_down(request: object) -> tuple[int, object]:
        google.down = google.down or getattr(request, "path", "") == "/down"
        return answer(request)  # type: ignore[arg-type]

    google.answer = going_down  # type: ignore[method-assign,assignment]
    done = machine.script(text, env=on_google(google) | {"GATEHOUSE_TOKEN_SOURCE": "metadata, login"})
    assert done.stdout.split() == [ACCOUNT, "SourceFailed"]
    assert "the token can't be renewed yet" in done.stderr


def first_refused(google: Google, openid: OpenIdProvider) -> None:
    """Have the first token be one that the gate refuses: signed with a key that was withdrawn."""
    withdrawn = RSAKey.generate_key(2048)
    minted: list[str] = []

    def mint(**claims: object) -> str:
        minted.append(openid.sign(key=None if minted else withdrawn, **claims))  # type: ignore[arg-type]
        return minted[-1]

    google.mint = mint


def test_a_refused_request_is_sent_once_more_with_a_new_token_and_its_whole_body(
    machine: Machine, google: Google, openid: OpenIdProvider
) -> None:
    text = """
import os, pathlib, requests
from mlflow_gatehouse.auth import GatehouseAuth
url = os.environ["MLFLOW_TRACKING_URI"] + "/api/2.0/mlflow-artifacts/artifacts/retry/"
content = os.urandom(3_000_000)
pathlib.Path("file").write_bytes(b"skip" + content)
with requests.Session() as session, open("file", "rb") as file:
    session.auth = GatehouseAuth()
    file.seek(4)
    answer = session.put(url + "file", data=file)
    assert answer.status_code == 200, answer.text
    assert [earlier.status_code for earlier in answer.history] == [401]
    assert session.get(url + "file").content == content
print("whole")
"""
    first_refused(google, openid)
    assert machine.script(text, env=on_google(google)).stdout.strip() == "whole"
    assert google.count("/identity") == 2


def test_a_stream_that_cannot_be_wound_back_is_not_sent_in_part(
    machine: Machine, google: Google, openid: OpenIdProvider
) -> None:
    text = """
import os, requests
from mlflow_gatehouse.auth import GatehouseAuth
url = os.environ["MLFLOW_TRACKING_URI"] + "/api/2.0/mlflow-artifacts/artifacts/stream/"
with requests.Session() as session:
    session.auth = GatehouseAuth()
    try:
        session.put(url + "file", data=iter([b"one", b"two"]))
    except Exception as error:
        print(error)
    assert session.get(url + "file").status_code != 200
    assert session.put(url + "file", data=iter([b"one", b"two"])).status_code == 200
    assert session.get(url + "file").content == b"onetwo"
"""
    first_refused(google, openid)
    done = machine.script(text, env=on_google(google))
    assert "a stream can't be sent twice" in done.stdout
    assert "a new token is ready" in done.stdout


def test_a_token_that_is_refused_for_good_is_not_asked_for_over_and_over(
    machine: Machine, google: Google, openid: OpenIdProvider
) -> None:
    forged = RSAKey.generate_key(2048)
    google.mint = lambda **claims: openid.sign(key=forged, **claims)
    text = """
import os, requests
from mlflow_gatehouse.auth import GatehouseAuth
for _ in range(5):
    try:
        requests.get(os.environ["MLFLOW_TRACKING_URI"] + "/version", auth=GatehouseAuth())
    except Exception as error:
        print(type(error).__name__)
"""
    done = machine.script(text, env=on_google(google))
    assert done.stdout.split() == ["Refused"] * 5
    assert google.count("/identity") <= 6, "one for each request that was made, and the first"

"""What MLflow's server hardly ever uses is loaded on first use, and is then the real thing."""

from __future__ import annotations

import subprocess
import sys

import pytest

LOAD_MLFLOW = """
import gc, os, sys, threading, warnings
from gatehouse.upstream import lazy
warnings.simplefilter("ignore")
lazy.install()
import mlflow.server.fastapi_app
"""


def run_python(code: str) -> str:
    """Run code in an interpreter of its own after MLflow's start; return what it prints."""
    done = subprocess.run(
        [sys.executable, "-c", LOAD_MLFLOW + code], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_nothing_but_annotations_keeps_a_stand_in() -> None:
    """A stand-in in a tuple for isinstance, say, would be a silent fault: this holds for the installed MLflow.

    The unions in mlflow.models.utils are for annotations; mlflow.models.predict alone, a client's call, takes one
    apart.
    """
    printed = run_python("""
stand_ins = [thing for thing in gc.get_objects() if isinstance(thing, type) and thing.__bases__ == (object,)
             and thing.__module__ == "pandas" and "__slots__" not in thing.__dict__ and len(thing.__dict__) == 4]
assert stand_ins, "MLflow doesn't mention pandas any more: lazy.py isn't needed"
functions = [thing for thing in gc.get_objects() if type(thing).__name__ == "function"]
annotations = {id(function.__annotations__) for function in functions}
import mlflow.models.utils as utils
unions = [getattr(utils, name) for name in ("ModelInputExample", "PyFuncInput", "PyFuncOutput")]
in_a_union = lambda thing: isinstance(thing, tuple) and any(set(thing) - {type(None)} <= set(u.__args__) for u in unions)
for stand_in in stand_ins:
    for referrer in gc.get_referrers(stand_in):
        own = referrer is stand_ins or referrer is globals() or referrer == stand_in.__mro__
        if id(referrer) not in annotations and not own and not in_a_union(referrer) and type(referrer).__name__ != "getset_descriptor":
            print("kept by", type(referrer), str(referrer)[:300])
""")
    assert printed == ""


@pytest.mark.parametrize("first_use", ["pandas.DataFrame", "__import__('pandas.io.json')"])
def test_threads_that_use_it_first_at_the_same_moment_all_get_the_real_one(first_use: str) -> None:
    printed = run_python(f"""
lazy.started()
import pandas
together, seen = threading.Barrier(8), []
def use():
    together.wait()
    {first_use}
    seen.append(pandas.DataFrame({{"a": [1, 2]}})["a"].sum() + len(pandas.Series([3])))
threads = [threading.Thread(target=use) for _ in range(8)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
print([int(value) for value in seen], type(pandas).__name__)
import mlflow.types.utils, mlflow.data
print(mlflow.types.utils._infer_pandas_column(pandas.Series([1, 2])).name, mlflow.data.from_pandas(pandas.DataFrame({{"a": [1]}})).profile)
""")
    assert printed.splitlines() == ["[4, 4, 4, 4, 4, 4, 4, 4] module", "long {'num_rows': 1, 'num_elements': 1}"]


def test_a_name_that_pandas_has_not_is_an_attribute_error() -> None:
    printed = run_python("""
lazy.started()
import pandas
try:
    pandas.no_such_name
except AttributeError as error:
    print(error)
""")
    assert "has no attribute 'no_such_name'" in printed

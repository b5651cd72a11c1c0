"""Runs scripts in forks of a process that has done their imports, which take longer than most of what is tested.

Reads a request a line. A job, {"script", "arguments", "cwd", "env", "stdout", "stderr"}, is answered with its
{"pid"}; {"pid", "options"}, as of `os.wait4`, with {"code", "seconds"}, where the code is null while it runs.
A fork ends as a process of its own would: its exit code is the script's.
"""

import importlib
import json
import os
import runpy
import signal
import sys
import warnings
from pathlib import Path

MODULES = (
    *(
        f"cnnjax.commands.{command}"
        for command in ("chapters", "look", "predict", "prepare", "surface", "sweep", "train")
    ),
    *("matplotlib.backends.backend_agg", "matplotlib.figure", "orbax.checkpoint"),
    *("sklearn.datasets", "sklearn.model_selection"),
)
for name in MODULES:
    importlib.import_module(name)


def become(job: dict) -> None:
    """Turns this process into one that was started for a job."""
    os.chdir(job["cwd"])
    os.environ.clear()
    os.environ.update(job["env"])
    for number, name in ((0, os.devnull), (1, job["stdout"]), (2, job["stderr"])):
        file = os.open(name, os.O_RDWR | os.O_CREAT | (os.O_TRUNC if number else 0))
        os.dup2(file, number)
        os.close(file)
    sys.argv = [job["script"], *job["arguments"]]
    sys.path[0] = str(Path(job["script"]).parent)
    signal.alarm(300)
    runpy.run_path(job["script"], run_name="__main__")
    raise SystemExit(0)


def started(job: dict) -> dict:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that libraries may have threads: nothing has been computed yet
        child = os.fork()
    if child == 0:
        become(job)
    return {"pid": child}


def ended(pid: int, options: int) -> dict:
    found, status, usage = os.wait4(pid, options)
    code = os.waitstatus_to_exitcode(status) if found else None
    return {"code": code, "seconds": usage.ru_utime + usage.ru_stime}


for line in sys.stdin:
    request = json.loads(line)
    print(json.dumps(ended(**request) if "pid" in request else started(request)), flush=True)

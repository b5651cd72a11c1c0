"""Runs scripts in forks of a process that has done their imports, which take longer than most of what is tested.

Reads a job a line: {"script", "arguments", "cwd", "env", "stdout", "stderr"}; answers with {"code", "seconds"}.
A fork ends as a process of its own would: its exit code is the script's.
"""

import json
import os
import runpy
import signal
import sys
import warnings
from pathlib import Path

import cnnjax.commands.prepare
import cnnjax.commands.sweep
import cnnjax.commands.train  # noqa: F401


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


for line in sys.stdin:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that libraries may have threads: nothing has been computed yet
        child = os.fork()
    if child == 0:
        become(json.loads(line))
    _, status, usage = os.wait4(child, 0)
    print(
        json.dumps({"code": os.waitstatus_to_exitcode(status), "seconds": usage.ru_utime + usage.ru_stime}), flush=True
    )

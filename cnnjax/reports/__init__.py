"""Self-contained HTML pages, from plain values and pictures."""

from cnnjax.reports.page import Section as Section
from cnnjax.reports.page import Shown as Shown
from cnnjax.reports.page import render as render
from cnnjax.reports.page import write as write
from cnnjax.reports.run import Column as Column
from cnnjax.reports.run import Curves as Curves
from cnnjax.reports.run import Mistakes as Mistakes
from cnnjax.reports.run import Remark as Remark
from cnnjax.reports.run import Report as Report
from cnnjax.reports.run import Stat as Stat
from cnnjax.reports.run import Table as Table
from cnnjax.reports.run import write_run as write_run

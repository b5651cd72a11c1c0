"""Self-contained HTML pages, from plain values and pictures."""

from cnnjax.reports.page import Section as Section
from cnnjax.reports.page import Shown as Shown
from cnnjax.reports.page import render as render
from cnnjax.reports.page import write as write

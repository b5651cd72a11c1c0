"""Planning by measurement: how programs are executed, which widths share one, and what fits in memory."""

from cnnjax.planning.execution import Execution as Execution
from cnnjax.planning.execution import check_sweep as check_sweep
from cnnjax.planning.execution import choose_packing as choose_packing
from cnnjax.planning.execution import planned as planned
from cnnjax.planning.memory import in_chunks as in_chunks
from cnnjax.planning.packing import Packing as Packing
from cnnjax.planning.packing import pack_of as pack_of
from cnnjax.planning.plan_file import WrittenPlan as WrittenPlan
from cnnjax.planning.plan_file import describe_plan as describe_plan
from cnnjax.planning.plan_file import describe_timed as describe_timed
from cnnjax.planning.plan_file import parse_lanes as parse_lanes
from cnnjax.planning.plan_file import programs_in as programs_in
from cnnjax.planning.plan_file import read_plan as read_plan
from cnnjax.planning.plan_file import read_program as read_program
from cnnjax.planning.timing import Trialled as Trialled
from cnnjax.planning.timing import estimate as estimate
from cnnjax.planning.timing import fastest as fastest
from cnnjax.planning.timing import largest_of as largest_of
from cnnjax.planning.timing import tune as tune
from cnnjax.planning.verification import Difference as Difference
from cnnjax.planning.verification import VerificationError as VerificationError
from cnnjax.planning.verification import verify as verify
from cnnjax.planning.ways import alternatives as alternatives
from cnnjax.planning.ways import in_cache as in_cache
from cnnjax.planning.ways import works as works

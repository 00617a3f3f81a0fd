"""Who does the units of a run: this process, several of them, or Ray. What is done is the run folder's to say."""

from trueline.engine.carry_out import Phase, carry_out
from trueline.engine.crew import WorkerFailed
from trueline.engine.shares import Shard, batched
from trueline.engine.workers import WORKER, Engine, in_worker

__all__ = ["WORKER", "Engine", "Phase", "Shard", "WorkerFailed", "batched", "carry_out", "in_worker"]

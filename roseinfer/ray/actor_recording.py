"""Record some steps of an actor's engine while it answers blocks, and return the files of the run."""

import tempfile
from concurrent.futures import Future
from contextlib import ExitStack

import msgspec

from roseinfer.config import RunConfig
from roseinfer.engine.schedulers import Scheduler
from roseinfer.engine.step_plan import StepPlan
from roseinfer.errors import RoseinferError
from roseinfer.profiling.profile_run import matches_phase
from roseinfer.profiling.run_dir import ProfiledStep
from roseinfer.profiling.session import ProfileSession, record_session
from roseinfer.ray.answer_loop import AnswerLoop
from roseinfer.workload.provenance import ModelInfo
from roseinfer.workload.step_record import step_figures


class ActorRecording:
    """A recording of the next steps of a loop by the schedule in `config.profile`.

    It ends once the schedule is recorded, or when the loop has no request left. All of it runs on the loop's thread,
    as torch.profiler requires.
    """

    def __init__(self, loop: AnswerLoop, config: RunConfig) -> None:
        self.files: Future[dict[str, bytes]] = Future()
        """Content of each file of the run directory by name, once the recording has ended."""
        self._loop = loop
        self._config = config
        self._context = ExitStack()
        self._folder = tempfile.TemporaryDirectory(prefix="roseinfer-profile-")
        self._session: ProfileSession | None = None
        self._steps: list[ProfiledStep] = []

    def begin(self) -> None:
        """Record from the loop's next step on."""
        self._loop.at_idle = self._end
        self._loop.step = self._step

    def _step(self, scheduler: Scheduler) -> None:
        try:
            session = self._session or self._opened()
            scheduler.step(self._before_step)
            plan = scheduler.last_plan
            if plan is not None:
                recorder = session.recorder
                if recorder.is_recording:
                    figures = step_figures(self._loop.engine, plan)
                    self._steps.append(ProfiledStep(index=recorder.num_steps, cycle=recorder.cycle, **figures))
                recorder.end_step()
                if recorder.is_done:
                    self._end()
        except BaseException as error:
            self._restore_loop()
            self._folder.cleanup()
            if not self.files.done():
                self.files.set_exception(error)
            raise

    def _before_step(self, plan: StepPlan) -> None:
        assert self._session is not None
        batch = self._loop.engine.limits.max_batch_size  # the steady one, since requests always wait
        self._session.recorder.begin_step(matches_phase(self._config.profile, plan.phase, len(plan.chunks), batch))

    def _opened(self) -> ProfileSession:
        engine = self._loop.engine
        profile = msgspec.structs.replace(self._config.profile, profile_dir=self._folder.name)
        session = record_session(profile, engine.runner.device, "actor")
        self._session = self._context.enter_context(session)
        built = msgspec.structs.replace(self._config, engine=engine.config)
        self._session.details |= {
            "config": msgspec.to_builtins(built, str_keys=True),
            "model": ModelInfo.of(engine),
            "limits": engine.limits,
            "steps": self._steps,
        }
        return self._session

    def _end(self) -> None:
        """Write the files, read them, and let the loop run on."""
        if self._session is None:
            return
        self._restore_loop()
        try:
            with self._folder:
                self._context.close()
                files = {path.name: path.read_bytes() for path in self._session.run_dir.iterdir()}
        except (OSError, RoseinferError) as error:
            self.files.set_exception(RoseinferError(f"the recording in an actor failed: {error}"))
        else:
            self.files.set_result(files)

    def _restore_loop(self) -> None:
        self._loop.step, self._loop.at_idle = Scheduler.step, None

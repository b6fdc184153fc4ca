"""The TensorRT runtime over the stand-in for CUDA, with work done as late as possible and in random orders."""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from onnx import TensorProto, helper

from scanside.engine.cuda import OutOfDeviceMemory
from scanside.engine.cuda_runtime import CudaRuntime
from scanside.engine.cuda_worker import Job, Worker
from scanside.engine.tensorrt.session import Engine
from scanside.errors import EngineError
from tests.engine.cuda_stand_in import StandInDevice, StandInStream

if TYPE_CHECKING:
    from tests.engine.tensorrt.conftest import Fake

DIMS = {"height": 8, "width": 16}
Answer = Callable[[np.ndarray], np.ndarray]
Make = Callable[["Fake"], "Engine"]


def sections(count: int, seed: int = 1, height: int = 8, width: int = 16) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, 1, height, width), np.uint8)


def run(runtime: CudaRuntime, pixels: np.ndarray) -> np.ndarray:
    probability = np.full_like(pixels, 77)
    runtime.run({"pixels": pixels}, {"probability": probability})
    return probability


@pytest.mark.parametrize("seed", [None, *range(8)])
@pytest.mark.parametrize("count", [1, 4, 11])
def test_answers_are_those_of_onnx_runtime(
    fake: Callable[..., Fake], toy_engine: Make, toy_answer: Answer, seed: int | None, count: int
) -> None:
    runtime = CudaRuntime(toy_engine(fake(seed)), "fp32", DIMS)
    pixels = sections(count)
    assert np.array_equal(run(runtime, pixels), toy_answer(pixels))
    assert runtime.fallbacks == ()
    assert (runtime.name, runtime.precision, runtime.device_name) == ("tensorrt/cuda", "fp32", "stand-in")
    runtime.close()


@pytest.mark.parametrize("seed", [None, 3])
def test_slots_are_used_again_and_never_early(
    fake: Callable[..., Fake], toy_engine: Make, toy_answer: Answer, seed: int | None
) -> None:
    runtime = CudaRuntime(toy_engine(fake(seed)), "fp32", DIMS, workers=2, slots=2)
    batches = [sections(1 + k % 4, seed=k) for k in range(12)]
    answers = [np.zeros_like(batch) for batch in batches]
    # Twelve runs in flight over four slots: submitting waits for the oldest slot, which is the back-pressure.
    pending = [runtime.submit({"pixels": b}, {"probability": a}) for b, a in zip(batches, answers, strict=True)]
    for one in reversed(pending):
        one.wait()
    for batch, answer in zip(batches, answers, strict=True):
        assert np.array_equal(answer, toy_answer(batch))


@pytest.mark.parametrize("each", [1, 2])
def test_many_threads_share_it(fake: Callable[..., Fake], toy_engine: Make, toy_answer: Answer, each: int) -> None:
    runtime = CudaRuntime(toy_engine(fake(5)), "fp32", DIMS, workers=each, slots=each)
    wrong: list[int] = []

    def work(k: int) -> None:
        for turn in range(4):
            pixels = sections(3, seed=100 * k + turn)
            if not np.array_equal(run(runtime, pixels), toy_answer(pixels)):
                wrong.append(k)

    threads = [threading.Thread(target=work, args=(k,)) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


@pytest.mark.parametrize("forgotten", ["computing waits for the copy in", "copying out waits for computing"])
def test_a_forgotten_wait_shows(
    fake: Callable[..., Fake],
    toy_engine: Make,
    toy_answer: Answer,
    monkeypatch: pytest.MonkeyPatch,
    forgotten: str,
) -> None:
    """The proof that the stand-in can fail: without an event's wait the answers are wrong."""
    machine = fake()
    runtime = CudaRuntime(toy_engine(machine), "fp32", DIMS, workers=1)
    compute, out = list(machine.device.streams.values())[1:3]
    deaf = compute if forgotten.startswith("computing") else out
    wait = StandInStream.wait
    monkeypatch.setattr(StandInStream, "wait", lambda self, event: None if self is deaf else wait(self, event))
    pixels = sections(11)
    assert not np.array_equal(run(runtime, pixels), toy_answer(pixels))


def test_a_slot_used_too_early_shows(
    fake: Callable[..., Fake], toy_engine: Make, toy_answer: Answer, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = fake()
    runtime = CudaRuntime(toy_engine(machine), "fp32", DIMS, workers=1, slots=1)
    pixels = sections(11)
    monkeypatch.setattr("tests.engine.cuda_stand_in.StandInEvent.synchronize", lambda self: None)
    assert not np.array_equal(run(runtime, pixels), toy_answer(pixels))


def test_fixed_shapes_replay_graphs(fake: Callable[..., Fake], toy_engine: Make, toy_answer: Answer) -> None:
    machine = fake(2)
    runtime = CudaRuntime(toy_engine(machine), "fp32", DIMS, workers=1, slots=2)
    launches = machine.device.launches
    assert launches == 2  # the comparison with the plain run, one a slot
    pixels = sections(9)
    assert np.array_equal(run(runtime, pixels), toy_answer(pixels))
    assert machine.device.launches == launches + 3


def test_a_graph_that_answers_otherwise_is_left_out(
    fake: Callable[..., Fake], toy_engine: Make, toy_answer: Answer
) -> None:
    machine = fake()
    machine.api.broken_graphs = True
    runtime = CudaRuntime(toy_engine(machine), "fp32", DIMS)
    assert runtime.fallbacks == ("no CUDA graph: its answer was not the plain run's",)
    pixels = sections(5)
    assert np.array_equal(run(runtime, pixels), toy_answer(pixels))


def test_a_capture_that_fails_is_ended_and_left_out(
    fake: Callable[..., Fake], toy_engine: Make, toy_answer: Answer, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = fake()
    capture = StandInDevice.capture

    def refusing(self: StandInDevice, stream: StandInStream):  # type: ignore[no-untyped-def]
        machine.api.refuse.add("execute_async_v3")
        return capture(self, stream)

    monkeypatch.setattr(StandInDevice, "capture", refusing)
    engine = toy_engine(machine)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine, "_error", lambda what, otherwise: (machine.api.refuse.clear(), EngineError(what))[1])
        runtime = CudaRuntime(engine, "fp32", DIMS)
    assert runtime.fallbacks[0].startswith("no CUDA graph: the run was refused")
    assert all(stream.recording is None for stream in machine.device.streams.values())
    pixels = sections(5)
    assert np.array_equal(run(runtime, pixels), toy_answer(pixels))


@pytest.mark.parametrize(
    ("call", "text"),
    [
        ("create_execution_context", "an execution context cannot be made"),
        ("set_optimization_profile_async", "the profile cannot be chosen"),
        ("set_input_shape", "the shape of pixels is refused"),
        ("set_tensor_address", "is refused"),
        ("execute_async_v3", "the enqueue went wrong"),
    ],
)
def test_every_refused_call_is_an_error(fake: Callable[..., Fake], toy_engine: Make, call: str, text: str) -> None:
    machine = fake()
    machine.api.refuse.add(call)
    with pytest.raises(EngineError, match=text) as caught:
        CudaRuntime(toy_engine(machine), "fp32", DIMS)
    assert not machine.device.alive  # while the error, and with it the frames of the failed call, is still held
    assert "tensorrt 11.4.0.106, stand-in" in str(caught.value)
    assert "scanside build" in str(caught.value)


def test_a_call_that_throws_is_an_error_too(
    fake: Callable[..., Fake], toy_engine: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    def throwing(self: object, index: int, stream: int) -> bool:
        raise RuntimeError("Error in set optimization profile async.")

    machine = fake()
    engine = toy_engine(machine)
    monkeypatch.setattr(
        type(engine._engine.create_execution_context(machine.api.ExecutionContextAllocationStrategy.USER_MANAGED)),
        "set_optimization_profile_async",
        throwing,
    )
    with pytest.raises(EngineError, match=r"the profile cannot be chosen.*Error in set optimization profile async"):
        CudaRuntime(engine, "fp32", DIMS)


def test_a_run_refused_later_leaves_the_runtime_usable(
    fake: Callable[..., Fake], toy_engine: Make, toy_answer: Answer
) -> None:
    machine = fake()
    machine.api.broken_graphs = True  # no graphs: runs are enqueued plainly
    runtime = CudaRuntime(toy_engine(machine), "fp32", DIMS, workers=1)
    machine.api.refuse.add("execute_async_v3")
    with pytest.raises(EngineError, match=r"the run was refused.*the enqueue went wrong"):
        run(runtime, sections(6))
    machine.api.refuse.clear()
    pixels = sections(6, seed=9)
    assert np.array_equal(run(runtime, pixels), toy_answer(pixels))


def test_a_fault_on_the_gpu_is_raised_to_whoever_waits(fake: Callable[..., Fake], toy_engine: Make) -> None:
    machine = fake()
    runtime = CudaRuntime(toy_engine(machine), "fp32", DIMS)
    machine.api.fault = True
    pending = runtime.submit({"pixels": sections(2)}, {"probability": np.zeros((2, 1, 8, 16), np.uint8)})
    with pytest.raises(EngineError, match=r"work on the GPU failed.*an illegal instruction"):
        pending.wait()
    with pytest.raises(EngineError, match="work on the GPU failed"):
        run(runtime, sections(1))


def test_less_memory_means_smaller_batches(fake: Callable[..., Fake], toy_engine: Make, toy_answer: Answer) -> None:
    machine = fake(memory=40_000)
    runtime = CudaRuntime(toy_engine(machine), "fp32", DIMS)
    assert runtime.batch == 2
    assert runtime.fallbacks == ("batch 2 instead of 4: the GPU has no more room",)
    pixels = sections(7)
    assert np.array_equal(run(runtime, pixels), toy_answer(pixels))
    runtime.close()
    assert machine.device.used == 0


def test_no_room_for_one_item_is_one_error(fake: Callable[..., Fake], toy_engine: Make) -> None:
    machine = fake(memory=9_000)
    with pytest.raises(EngineError, match="the GPU has no room for a single batch") as caught:
        CudaRuntime(toy_engine(machine), "fp32", DIMS)
    assert "batch 1 on stand-in" in str(caught.value)
    assert machine.device.used == 0


@pytest.mark.parametrize("fault", [EngineError, OutOfDeviceMemory])
def test_a_fault_at_any_call_leaves_nothing_behind(
    fake: Callable[..., Fake], toy_engine: Make, toy_answer: Answer, fault: type[EngineError]
) -> None:
    pixels = sections(6)

    def use(machine: Fake) -> tuple[np.ndarray, tuple[str, ...]]:
        runtime = CudaRuntime(toy_engine(machine), "fp32", DIMS)
        try:
            return run(runtime, pixels), runtime.fallbacks
        finally:
            runtime.close()

    whole = fake(3)
    assert use(whole)[1] == ()
    told = 0
    for number in range(whole.device.calls.total()):
        machine = fake(3, fail_at=number, fault=fault)
        try:
            answer, remarks = use(machine)
        except EngineError as error:
            assert error.what  # noqa: PT017 - any one
        else:
            told += 1
            assert remarks, number
            assert np.array_equal(answer, toy_answer(pixels))
        assert not machine.device.alive
    assert told > 0


def test_the_exact_profile_comes_before_the_range(fake: Callable[..., Fake], toy_engine: Make) -> None:
    engine = toy_engine(fake())
    assert engine.profile_for({"pixels": (-1, 1, 8, 16)}) == 0
    assert engine.profile_for({"pixels": (-1, 1, 8, 20)}) == 1
    with pytest.raises(EngineError, match="no profile of the plan takes this size"):
        engine.profile_for({"pixels": (-1, 1, 8, 40)})


def test_another_size_runs_on_the_range(fake: Callable[..., Fake], toy_engine: Make, toy_answer: Answer) -> None:
    runtime = CudaRuntime(toy_engine(fake(1)), "fp32", {"height": 20, "width": 12})
    pixels = sections(5, height=20, width=12)
    assert np.array_equal(run(runtime, pixels), toy_answer(pixels))


def test_an_output_that_is_not_asked_for_is_not_fetched(
    fake: Callable[..., Fake], plan_of: Callable[[bytes, list], bytes]
) -> None:
    shape = ["batch", 1, "height", "width"]
    nodes = [
        helper.make_node("Cast", ["pixels"], ["grey"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["grey", "axes"], ["mean"], keepdims=0),
        helper.make_node("Add", ["grey", "grey"], ["doubled"]),
    ]
    graph = helper.make_graph(
        nodes,
        "two",
        [helper.make_tensor_value_info("pixels", TensorProto.UINT8, shape)],
        [
            helper.make_tensor_value_info("mean", TensorProto.FLOAT, ["batch"]),
            helper.make_tensor_value_info("doubled", TensorProto.FLOAT, shape),
        ],
        [helper.make_tensor("axes", TensorProto.INT64, [3], [1, 2, 3])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])
    model.ir_version = 9
    machine = fake(4)
    profiles = [{"pixels": [[1, 1, 8, 16], [4, 1, 8, 16], [4, 1, 8, 16]]}]
    plan = plan_of(model.SerializeToString(), profiles)
    runtime = CudaRuntime(Engine(machine.trt, machine.device, plan, where="two"), "fp32", DIMS)
    pixels = sections(6)
    mean, doubled = np.zeros(6, np.float32), np.zeros((6, 1, 8, 16), np.float32)
    runtime.run({"pixels": pixels}, {"mean": mean})
    np.testing.assert_allclose(mean, pixels.mean((1, 2, 3)), rtol=1e-6)
    runtime.run({"pixels": pixels}, {"doubled": doubled, "mean": mean})
    np.testing.assert_array_equal(doubled, pixels * np.float32(2))
    with pytest.raises(EngineError, match="other tensors than the graph's"):
        runtime.run({"pixels": pixels}, {"other": mean})
    with pytest.raises(EngineError, match="other tensors than the graph's"):
        runtime.run({"pixels": pixels}, {})


def test_wrong_tensors_and_a_closed_runtime_are_errors(fake: Callable[..., Fake], toy_engine: Make) -> None:
    machine = fake()
    runtime = CudaRuntime(toy_engine(machine), "fp32", DIMS)
    good = sections(2)
    with pytest.raises(EngineError, match="a tensor does not fit the graph"):
        runtime.run({"pixels": sections(2, width=20)}, {"probability": good.copy()})
    with pytest.raises(EngineError, match="differ in batch size"):
        runtime.run({"pixels": good}, {"probability": sections(3)})
    runtime.close()
    runtime.close()
    assert machine.device.used == 0
    with pytest.raises(EngineError, match="the runtime is closed"):
        run(runtime, good)


def test_closing_in_another_thread_gives_everything_back(fake: Callable[..., Fake], toy_engine: Make) -> None:
    machine = fake()
    runtime = CudaRuntime(toy_engine(machine), "fp32", DIMS)
    run(runtime, sections(3))
    closing = threading.Thread(target=runtime.close)
    closing.start()
    closing.join()
    assert not machine.device.alive


def test_closing_while_a_run_begins_is_said(
    fake: Callable[..., Fake], toy_engine: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run has its worker when the runtime is closed, and is not in it yet."""
    machine = fake()
    runtime = CudaRuntime(toy_engine(machine), "fp32", DIMS, workers=1)
    run(runtime, sections(1))
    begun, closed, errors = threading.Event(), threading.Event(), []
    submit = Worker.submit

    def late(self: Worker, *given: Any) -> Job:
        begun.set()
        closed.wait()
        return submit(self, *given)

    def attempt() -> None:
        try:
            run(runtime, sections(1))
        except BaseException as error:
            errors.append(error)

    monkeypatch.setattr(Worker, "submit", late)
    thread = threading.Thread(target=attempt)
    thread.start()
    begun.wait()
    runtime.close()
    closed.set()
    thread.join()
    (error,) = errors
    assert isinstance(error, EngineError)
    assert "the runtime is closed" in str(error)
    assert not machine.device.alive


def test_runs_that_were_started_get_their_answers_from_a_runtime_that_closes(
    fake: Callable[..., Fake], toy_engine: Make, toy_answer: Answer
) -> None:
    runtime = CudaRuntime(toy_engine(fake()), "fp32", DIMS)
    pixels = sections(3)
    answers = [np.zeros_like(pixels) for _ in range(4)]
    pending = [runtime.submit({"pixels": pixels}, {"probability": answer}) for answer in answers]
    closing = threading.Thread(target=runtime.close)
    closing.start()
    for one in pending:
        one.wait()
    closing.join()
    assert all(np.array_equal(answer, toy_answer(pixels)) for answer in answers)


@pytest.mark.parametrize("seed", range(3))
def test_threads_at_work_while_it_closes_end_right_or_with_one_error(
    fake: Callable[..., Fake], toy_engine: Make, toy_answer: Answer, seed: int
) -> None:
    machine = fake(seed)
    runtime = CudaRuntime(toy_engine(machine), "fp32", DIMS)
    wrong: list[object] = []
    under_way = threading.Barrier(5)

    def work(k: int) -> None:
        pixels = sections(6, seed=k)
        run(runtime, pixels)
        under_way.wait()
        try:
            while True:
                if not np.array_equal(run(runtime, pixels), toy_answer(pixels)):
                    wrong.append(k)
        except EngineError as error:
            if "the runtime is closed" not in str(error):
                wrong.append(error)
        except BaseException as error:
            wrong.append(error)

    threads = [threading.Thread(target=work, args=(k,)) for k in range(4)]
    for thread in threads:
        thread.start()
    under_way.wait()
    runtime.close()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert not machine.device.alive


def test_a_plan_that_tensorrt_refuses_is_one_error(fake: Callable[..., Fake]) -> None:
    machine = fake()
    with pytest.raises(EngineError, match="TensorRT refuses the plan"):
        Engine(machine.trt, machine.device, b"other", where="toy fp32")
    assert not machine.device.alive


@pytest.mark.parametrize("name", ["tensorrt", "tensorrt_rtx"])
def test_closing_frees_contexts_then_the_engine_then_the_runtime(
    fake: Callable[..., Fake], toy_engine: Make, name: str
) -> None:
    machine = fake(name=name)
    engine = toy_engine(machine)
    runtime = CudaRuntime(engine, "fp32", DIMS)
    gc.disable()
    try:
        runtime.close()
        assert machine.device.freed == ["context", "context", "engine", "runtime"]
        assert not machine.device.alive
    finally:
        gc.enable()
    assert not engine.share()


def test_an_engine_stays_for_the_sizes_that_still_run(
    fake: Callable[..., Fake], toy_engine: Make, toy_answer: Answer
) -> None:
    machine = fake()
    engine = toy_engine(machine)
    one = CudaRuntime(engine, "fp32", DIMS)
    assert engine.share()
    other = CudaRuntime(engine, "fp32", {"height": 20, "width": 12})
    one.close()
    one.close()
    assert machine.device.freed == ["context"] * 2
    pixels = sections(2, height=20, width=12)
    assert np.array_equal(run(other, pixels), toy_answer(pixels))
    other.close()
    assert machine.device.freed == [*["context"] * 4, "engine", "runtime"]
    assert not machine.device.alive


def test_an_unknown_type_of_tensor_frees_the_engine(
    fake: Callable[..., Fake], toy_engine: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = fake()
    monkeypatch.setattr(type(machine.trt), "numpy_types", {})
    with pytest.raises(EngineError, match="a tensor of a type the engine does not know"):
        toy_engine(machine)
    assert not machine.device.alive


def test_runs_for_which_tensorrt_finds_no_room_are_made_smaller(
    fake: Callable[..., Fake], toy_engine: Make, toy_answer: Answer
) -> None:
    machine = fake()
    machine.api.largest_batch = 2
    runtime = CudaRuntime(toy_engine(machine), "fp32", DIMS)
    assert runtime.fallbacks == ("batch 2 instead of 4: the GPU has no more room",)
    pixels = sections(7)
    assert np.array_equal(run(runtime, pixels), toy_answer(pixels))
    runtime.close()
    assert not machine.device.alive


def test_contexts_for_which_tensorrt_finds_no_room_are_one_error(fake: Callable[..., Fake], toy_engine: Make) -> None:
    machine = fake()
    machine.api.most_contexts = 1
    with pytest.raises(EngineError, match="the GPU has no room for a single batch") as caught:
        CudaRuntime(toy_engine(machine), "fp32", DIMS)
    assert machine.api.contexts == 3  # one of two, for batches of 4, 2 and 1
    assert "OutOfMemory" in str(caught.value)
    assert "scanside build" not in str(caught.value)
    assert not machine.device.alive


def test_a_refusal_after_one_for_memory_is_no_lack_of_memory(fake: Callable[..., Fake], toy_engine: Make) -> None:
    """What was logged for the larger batch says nothing of the smaller one."""
    close = Worker.close
    machine = fake()
    machine.api.largest_batch = 2
    engine = toy_engine(machine)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Worker, "close", lambda self: (close(self), machine.api.refuse.add("set_input_shape"))[0])
        with pytest.raises(EngineError, match="the shape of pixels is refused") as caught:
            CudaRuntime(engine, "fp32", DIMS)
    assert not isinstance(caught.value, OutOfDeviceMemory)
    assert not machine.device.alive

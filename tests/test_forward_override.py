"""A `forward` on one model: found, taken back, copied with it, out of the way of graphs and of others' wrappers."""

import copy
import inspect
import pickle

import accelerate
import pytest
import torch
from torch import nn

from altdiffusion.forward_override import ForwardOverride, find, fingerprint, install, is_captured, remove


class Scaled(ForwardOverride):
    """The class's result times a factor; `calls` is no argument, so copies start at 0."""

    def __init__(self, model, factor=2):
        super().__init__(model)
        self.factor, self.calls = factor, 0

    def arguments(self):
        return (self.factor,)

    def __call__(self, input):
        self.calls += 1
        return self.factor * self.original(input)


class Other(Scaled):
    pass


@pytest.fixture
def linear():
    torch.manual_seed(0)
    return nn.Linear(4, 3)


ROWS = torch.arange(8.0).view(2, 4)


def test_computes_in_place_of_the_class_until_it_is_removed(linear):
    expected = linear(ROWS)
    override = install(Scaled(linear))
    assert torch.equal(linear(ROWS), 2 * expected)
    assert find(linear, Scaled) is override
    assert find(linear, Other) is None
    remove(linear)
    assert torch.equal(linear(ROWS), expected)
    assert find(linear, Scaled) is None
    assert vars(linear).keys() == vars(nn.Linear(4, 3)).keys()


def test_another_takes_its_place(linear):
    expected = linear(ROWS)
    install(Scaled(linear))
    install(Other(linear, 3))
    assert torch.equal(linear(ROWS), 3 * expected)
    remove(linear)
    assert torch.equal(linear(ROWS), expected)


def test_removing_gives_back_what_it_replaced(linear):
    forward = linear.forward = lambda input: input
    install(Scaled(linear))
    install(Scaled(linear, 3))
    remove(linear)
    assert linear.forward is forward
    remove(linear)  # there is nothing of ours any more
    assert linear.forward is forward


def test_is_not_found_under_someone_elses_forward(linear):
    override, expected = install(Scaled(linear)), linear(ROWS)
    accelerate.hooks.add_hook_to_module(linear, accelerate.hooks.ModelHook())
    assert find(linear, Scaled) is None
    assert torch.equal(linear(ROWS), expected)
    accelerate.hooks.remove_hook_from_module(linear)
    assert find(linear, Scaled) is override


def test_is_a_method_with_the_class_signature_and_code(linear):
    before = inspect.signature(linear.forward)
    install(Scaled(linear))
    assert inspect.ismethod(linear.forward)
    assert inspect.signature(linear.forward) == before
    assert linear.forward.__code__ is not None


def test_state_dict_and_names_stay(linear):
    before = linear.state_dict().keys(), [name for name, _ in linear.named_modules()], type(linear)
    install(Scaled(linear))
    assert (linear.state_dict().keys(), [name for name, _ in linear.named_modules()], type(linear)) == before


@pytest.mark.parametrize("twin_of", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
@pytest.mark.parametrize("inside", [False, True])
def test_a_copy_has_its_own(linear, twin_of, inside):
    install(Scaled(linear, 5))
    linear(ROWS)
    twin = twin_of(nn.Sequential(linear, linear))[1] if inside else twin_of(linear)
    override = find(twin, Scaled)
    assert override.model is twin
    assert (override.factor, override.calls) == (5, 0)
    with torch.no_grad():
        twin.weight.zero_()
    assert torch.equal(twin(ROWS), (5 * twin.bias).expand(2, 3))
    assert not torch.equal(linear(ROWS), twin(ROWS))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "capture",
    [
        lambda model: torch.jit.trace(model, ROWS, check_trace=False),
        lambda model: torch.export.export(model, (ROWS,)).module(),
        lambda model: torch.compile(model, backend="eager", fullgraph=True),
    ],
)
def test_the_class_computes_in_captured_graphs(linear, capture):
    expected = linear(ROWS)
    override = install(Scaled(linear))
    assert torch.equal(capture(linear)(ROWS), expected)
    assert override.calls == 0
    assert not is_captured()


def test_other_methods_than_forward_can_be_overridden():
    class Counter:
        def count(self, start, step=1):
            return start + step

    class Twice(ForwardOverride):
        method = "count"

        def __call__(self, *args, **kwargs):
            return 2 * self.original(*args, **kwargs)

    counter = Counter()
    install(Twice(counter))
    assert counter.count(3, step=2) == 10
    remove(counter, "count")
    assert counter.count(3) == 4


@pytest.mark.parametrize("shape", [(), (0,), (3,), (7, 5), (2, 3, 4, 4)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int64])
def test_fingerprints_of_the_same_tensor_are_equal(shape, dtype):
    tensor = torch.ones(shape, dtype=dtype)
    assert fingerprint([tensor, tensor]) == fingerprint([tensor, tensor])
    assert hash(fingerprint([tensor])) == hash(fingerprint([tensor]))
    assert fingerprint([tensor]) != fingerprint([tensor, tensor])
    assert fingerprint([tensor]) != fingerprint([tensor.clone()]) or not tensor.numel()


@pytest.mark.parametrize(
    "tensor",
    [
        torch.zeros(40, 48),
        torch.zeros(4, 8, 3, 3).to(memory_format=torch.channels_last),
        torch.zeros(48, 40).T,
        torch.zeros(100, 10)[20:40],
    ],
    ids=["contiguous", "channels_last", "transposed", "slice"],
)
@torch.no_grad()
def test_fingerprints_tell_every_change(tensor):
    def in_place():
        tensor.add_(1)

    def through_data():
        tensor.data += 1  # PyTorch doesn't count this

    def other_values():
        tensor.data = torch.rand(tensor.shape)

    for change in (in_place, through_data, other_values):
        seen = fingerprint([tensor])
        change()
        assert fingerprint([tensor]) != seen


def test_tensors_that_repeat_their_values_have_fingerprints():
    assert len(fingerprint([torch.zeros(10).expand(5, 10)])) > 0


def test_tensors_of_inference_mode_have_fingerprints():
    with torch.inference_mode():
        tensor = torch.zeros(40)
        seen = fingerprint([tensor])
        tensor.add_(1)
        assert fingerprint([tensor]) != seen

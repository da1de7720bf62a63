"""Both networks in one module: trained and frozen parameters, and initial weights."""

import copy

import pytest
import torch
from diffusers import UNet2DConditionModel
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

from rigface.model.attention import blocks
from rigface.model.unets import RigFaceModel, build, dead_tail, network, stock, widen

SHAPES = {
    "tiny": {"channels": (16, 32), "layers": 1},
    "deep": {"channels": (8, 16, 16, 16), "layers": 2, "heads": (1, 2, 4, 4)},
}


@pytest.mark.parametrize("shape", SHAPES)
def test_only_parameters_without_effect_are_frozen(shape, asked, person):
    configs = network(**{"heads": 4, **SHAPES[shape]}, text_dim=24, groups=4)
    model = build(*configs, torch.randn(7, 24), expression=52)
    dead = {id(p) for p in dead_tail(model.identity)}
    for p in model.parameters():
        p.requires_grad_(True)
    model(**asked(side=16), reference=person(side=16)).square().mean().backward()
    unreached = {id(p) for p in model.parameters() if p.grad is None}
    assert dead == unreached
    assert 0 < len(dead) < len(list(model.identity.parameters()))


@pytest.fixture
def process_group(tmp_path):
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/meet", rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


def test_ddp_finds_no_unused_parameter(tiny, asked, person, process_group):
    """DDP complains at the second step about parameters the first did not reach; dropped rows must still reach."""
    wrapped = torch.nn.parallel.DistributedDataParallel(tiny.model.train())
    drop = torch.ones(2, 3, dtype=torch.bool)
    for step in range(3):
        out = wrapped(**asked(seed=step), reference=person(), drop=drop if step == 1 else None)
        out.square().mean().backward()


@pytest.mark.parametrize("half", [False, True], ids=["float32", "bfloat16"])
def test_fsdp_gives_same_gradients(tiny, asked, person, process_group, half):
    """Blocks sharded on their own: norm1 and the projections are only whole inside their block's forward.

    In bfloat16 with recomputation as well: there FSDP casts the inputs of the forward, and not those of its repetition.
    """
    plain, sharded = tiny.model.train(), copy.deepcopy(tiny.model).train()
    types = MixedPrecisionPolicy(torch.bfloat16, torch.float32) if half else MixedPrecisionPolicy()
    if half:
        sharded.enable_gradient_checkpointing()
    mesh = init_device_mesh("cpu", (1,))
    for unet in (sharded.identity, sharded.denoiser):
        for _, block in blocks(unet):
            fully_shard(block, mesh=mesh, mp_policy=types)
    fully_shard(sharded, mesh=mesh, mp_policy=types)
    drop = torch.tensor([[True, False, False], [False, True, True]])
    for model in (plain, sharded):
        model(**asked(), reference=person(), drop=drop).float().square().mean().backward()
    ours = dict(sharded.named_parameters())
    for name, p in plain.named_parameters():
        if p.grad is not None:
            apart = (ours[name].grad.full_tensor() - p.grad).norm() / (p.grad.norm() + 1e-6)
            assert apart < (0.1 if half else 1e-3), name


def test_widened_channels_start_without_effect():
    narrow = torch.nn.Conv2d(4, 8, 3, padding=1, bias=False)
    wide = torch.nn.Conv2d(12, 8, 3, padding=1, bias=False)
    wide.weight.data = widen(narrow.weight.data, 12)
    x, noise = torch.randn(1, 4, 6, 6), torch.randn(1, 8, 6, 6)
    torch.testing.assert_close(wide(torch.cat([x, noise], 1)), narrow(x))


@torch.no_grad()
@pytest.mark.parametrize(
    ("column", "changed"), [(1, ("render", "expression_code")), (2, ("text",))], ids=["attributes", "text"]
)
def test_dropped_condition_has_no_effect(tiny, asked, column, changed):
    tiny.model.default_text.normal_(generator=torch.Generator().manual_seed(0))
    drop = torch.zeros(2, 3, dtype=torch.bool)
    drop[:, column] = True
    q = {**asked(), "text": torch.randn(2, 7, 24)}
    other = {**q, **{name: q[name] + 1 for name in changed}}
    assert torch.equal(tiny.model(**q, drop=drop), tiny.model(**other, drop=drop))
    assert not torch.allclose(tiny.model(**q), tiny.model(**other), atol=1e-4)
    moved = {**q, "background": q["background"] + 1}
    assert not torch.allclose(tiny.model(**q, drop=drop), tiny.model(**moved, drop=drop), atol=1e-4)


def test_released_config_becomes_stock(upstream):
    assert type(upstream.model.denoiser) is type(upstream.model.identity) is UNet2DConditionModel
    assert upstream.model.expression_size == 64
    kept = stock({"_class_name": "UNetDenoise2DConditionModel", "in_channels": 12}, expression=64)
    assert kept["class_embed_type"] == "simple_projection"
    assert "_class_name" not in kept


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"in_channels": 8}, "want 12 input channels"),
        ({"class_embed_type": None, "projection_class_embeddings_input_dim": None}, "simple_projection"),
    ],
)
def test_denoiser_without_expression_input_is_refused(change, message):
    identity, denoiser = network((16, 32), text_dim=24, heads=4, layers=1, groups=4)
    networks = UNet2DConditionModel(**identity), UNet2DConditionModel(**{**stock(denoiser, 52), **change})
    with pytest.raises(ValueError, match=message):
        RigFaceModel(*networks, default_text=torch.zeros(7, 24))


def test_default_text_of_another_width_is_refused():
    with pytest.raises(ValueError, match=r"default_text: want \(L, 24\)"):
        build(*network((16, 32), text_dim=24, heads=4, layers=1, groups=4), torch.zeros(7, 25), expression=52)

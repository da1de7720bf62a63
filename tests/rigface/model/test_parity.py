"""Parity with the released RigFace code: random weights, its own inputs, its own outputs (tests/fixtures/rigface)."""

import pytest
import torch

from rigface.model.attention import record
from rigface.model.latents import decode
from rigface.model.pipeline import RigFacePipeline

TIMES = (1, 500, 981)


def apart(a: torch.Tensor, b: torch.Tensor) -> float:
    return (a - b).abs().max().item()


@torch.no_grad()
def test_identity_network_records_same_tokens_as_released_code(upstream, figures):
    recorded = record(upstream.model.identity, figures["source"], figures["text"]).blocks
    assert len(recorded) == 4
    for i, (tokens,) in enumerate(recorded.values()):  # in the order they run
        assert apart(tokens, figures[f"feat_{i:02d}"]) < 1e-5


@torch.no_grad()
def test_identity_network_equals_stock_network(upstream, figures):
    out = upstream.model.identity(figures["source"], 0, encoder_hidden_states=figures["text"]).sample
    assert apart(out, figures["id_out"]) < 1e-5


@torch.no_grad()
@pytest.mark.parametrize("time", TIMES)
def test_denoiser_predicts_same_noise_as_released_code(upstream, figures, time):
    reference_tokens = upstream.model.encode_reference(figures["source"], figures["text"])
    out = upstream.model(
        figures["noisy"],
        torch.tensor([time, time]),
        figures["bg"],
        figures["render"],
        figures["expression"],
        text=figures["text"],
        reference_tokens=reference_tokens,
    )
    assert apart(out, figures[f"noise_pred_t{time}"]) < 1e-5


@torch.no_grad()
def test_forward_equals_encode_reference_and_predict(upstream, figures):
    """Training's forward, with the default text, gives the reference's first row too."""
    row = {name: figures[name][:1] for name in ("noisy", "bg", "render", "expression", "source")}
    out = upstream.model(
        row["noisy"], torch.tensor([500]), row["bg"], row["render"], row["expression"], reference=row["source"]
    )
    assert apart(out, figures["noise_pred_t500"][:1]) < 1e-5


@pytest.mark.parametrize("scheduler", ["ddim", "unipc"])
def test_six_sampling_steps_equal_released_code(upstream, figures, scheduler):
    pipe = RigFacePipeline.of(upstream)
    out = pipe(
        *(figures[f"{scheduler}_{name}"] for name in ("source", "bg", "render")),
        figures["expression"][:1],
        noise=figures["noisy"][:1],
        num_inference_steps=6,
        scheduler=scheduler,
        output_type="latent",
    )
    assert apart(out.latents, figures[f"{scheduler}_latents"]) < 1e-4
    with torch.no_grad():
        image = 2 * decode(pipe.vae, out.latents) - 1  # the reference decodes to [-1, 1]
    assert apart(image, figures[f"{scheduler}_image"]) < 1e-4


def test_later_final_sigma_differs_from_released_code(upstream, figures):
    """The reason for `sigma_min` in the table of schedulers: today's default of diffusers gives another picture."""
    out = RigFacePipeline.of(upstream)(
        *(figures[f"unipc_{name}"] for name in ("source", "bg", "render")),
        figures["expression"][:1],
        noise=figures["noisy"][:1],
        num_inference_steps=6,
        scheduler="UniPCMultistepScheduler",
        output_type="latent",
    )
    assert apart(out.latents, figures["unipc_latents"]) > 1e-2

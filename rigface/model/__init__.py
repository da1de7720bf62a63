"""Diffusion model: conditions in, picture out. Depends on diffusers, and on nothing of faces, heads or detectors.

    attention    the identity network's tokens in the denoiser's self-attention (FaceFusion)
    unets        both networks in one module with one forward (identity encoder, attribute rigger)
    latents      pictures to latents and back, with the scaling factor
    diffusion    processes, loss, samplers, guidance: functions of tensors and one shared prediction
    checkpoint   folders: released, Stable Diffusion's and own; safetensors in and out
    pipeline     all of it behind one call, in the manner of diffusers

Importing this package imports nothing; its modules import torch and diffusers.
"""

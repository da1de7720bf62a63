"""The networks that imagine: conditions in, picture out. Knows diffusers and nothing of faces, heads or detectors.

    attention    the identity network's tokens in the denoiser's self-attention (FaceFusion)
    unets        both networks in one module with one forward (identity encoder, attribute rigger)
    latents      pictures to latents and back; the one place that knows which latents are scaled
    diffusion    processes, loss, samplers, guidance: functions of tensors and one shared prediction
    checkpoint   folders: upstream's, Stable Diffusion's and ours; safetensors in and out
    pipeline     all of it behind one call, as diffusers' users expect it

Importing this package imports nothing; its modules import torch and diffusers.
"""

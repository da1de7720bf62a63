"""Hugging Face conventions around a checkpoint folder: hub ids, upload, model card, index of diffusers' parts."""

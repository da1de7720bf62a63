"""Recognise, link, list and check the weights and licensed files that users bring."""

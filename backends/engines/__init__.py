"""Recipes of real engines that run anywhere: pinned requirements, servers, a model's conversion. Executed in venvs of their own."""

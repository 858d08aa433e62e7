"""The admin API under `/admin/api`: what operators look at and change while the router runs."""

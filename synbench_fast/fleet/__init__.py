"""Hundreds of encoders on many devices: a run store, a scheduler, and executors that survive their workers.

`store` keeps what is finished, `scheduler` decides what runs where, `executors` (this machine) and
`ray_executor` (a cluster) run it, `worker` does the work. See docs/fleet.md.
"""

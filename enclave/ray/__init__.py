"""Sandboxes on the nodes of a Ray cluster (layer 6): shards are actors that own sandboxes, and a manager that finds them.

Ray places the shards, holds their resources and sees them die. What is asked of a sandbox does not go through Ray: each shard
serves its sandboxes to the managers of its cluster as `enclave.server` does, over a connection of its own on the node's
address and with a key of its own, so that every verb, its repeats, its cancellation and its back-pressure are those of HTTP.
"""

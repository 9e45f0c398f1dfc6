"""Sandboxes for assistants that speak the Model Context Protocol (layer 6): ``ms-enclave mcp``, extra ``mcp``.

`sandboxes` finds or makes the sandbox of a call, `tools` are what a model is given, `sdk` fits them to both majors of the
official SDK, `http` serves them to many clients. Everything below `sdk` is blocking and knows nothing of the protocol.
"""

"""The former path of `enclave.tools.tool_factory`: programs that import from here keep working."""

from enclave.tools.tool_factory import ToolFactory, load_tools, register_tool

__all__ = ['ToolFactory', 'load_tools', 'register_tool']

"""``multi_code_executor``: run code in one of many languages, with what the image has for it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, ClassVar

from enclave.tools.multi_code import MultiCodeExecutor as CoreMultiCodeExecutor
from ms_enclave.sandbox.model.base import ExecutionStatus, SandboxType
from ms_enclave.sandbox.model.responses import ToolResult
from ms_enclave.sandbox.tools.base import register_tool
from ms_enclave.sandbox.tools.sandbox_tool import SandboxTool
from ms_enclave.sandbox.tools.sandbox_tools.results import NO_TIME, failure, failures_as_results, seconds, text_of
from ms_enclave.sandbox.tools.tool_info import ToolParams

_LANGUAGES = (
    'python, cpp, csharp, go, java, nodejs, ts, rust, php, bash, pytest, jest, go_test, lua, r, perl, d_ut, ruby, scala, '
    'julia, kotlin_script, verilog, lean, swift, racket, junit'
)
_OTHER_TEXT = re.compile(r'^Timed out after ([0-9.e+-]+) seconds?', re.MULTILINE)
"""How `enclave` says that time was up."""


@register_tool('multi_code_executor')
class MultiCodeExecutor(SandboxTool):
    """Build and run code in one of many languages.

    Attributes:
        LANG_MAIN_FILES: The name that the code's file gets, by language.
        LANGS_REQUIRE_PY_ENV: The languages that run in the image's own Python environment.
        JAVA_RUNTIME_CP: The class path of Java programs.
    """

    _name = 'multi_code_executor'
    _description = f'Build and run code in one of many languages ({_LANGUAGES}) and return what it prints'
    _sandbox_types = [SandboxType.DOCKER, SandboxType.VOLCENGINE]
    _parameters = ToolParams(
        type='object',
        properties={
            'language': {'type': 'string', 'description': f'The language: {_LANGUAGES}'},
            'code': {'type': 'string', 'description': 'Source code'},
            'files': {
                'type': 'object',
                'additionalProperties': {'type': 'string'},
                'description': 'Further files to write beside the code, by name',
            },
            'compile_timeout': {'type': 'integer', 'description': 'Seconds building may take; no limit if left out'},
            'run_timeout': {'type': 'integer', 'description': 'Seconds running may take', 'default': 30},
        },
        required=['language', 'code'],
    )

    LANG_MAIN_FILES: ClassVar[dict[str, str]] = CoreMultiCodeExecutor.LANG_MAIN_FILES
    LANGS_REQUIRE_PY_ENV: ClassVar[set[str]] = CoreMultiCodeExecutor.LANGS_REQUIRE_PY_ENV
    JAVA_RUNTIME_CP: ClassVar[str] = CoreMultiCodeExecutor.JAVA_RUNTIME_CP

    @failures_as_results
    async def execute(
        self,
        sandbox_context: Any,
        language: str,
        code: str,
        files: Mapping[str, str] | None = None,
        compile_timeout: float | None = None,
        run_timeout: float | None = 30,
    ) -> ToolResult:
        """Build and run the code, and say what became of it."""
        if not text_of(language, 'language').strip() or not text_of(code, 'code').strip():
            return failure(self.name, 'Invalid input')
        run = getattr(sandbox_context, '_run_core_tool', None)
        if run is None:
            return failure(self.name, f'{type(sandbox_context).__name__} cannot run {self.name}')
        result: ToolResult = await run(
            self.name,
            language=language,
            code=code,
            files=dict(files or {}),
            compile_timeout=None if compile_timeout is None else seconds(compile_timeout) or 0,
            run_timeout=None if run_timeout is None else seconds(run_timeout) or 0,
        )
        if result.status == ExecutionStatus.TIMEOUT:
            result.error = _OTHER_TEXT.sub(lambda found: NO_TIME.format(found[1]), result.error or '')
        return result


__all__ = ['MultiCodeExecutor']

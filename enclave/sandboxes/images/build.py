"""Building the images we have recipes for, on machines without a registry (layer 4, docker).

``mmdebstrap`` makes a Debian file tree from the package sources that this host itself uses, and the engine imports it; a
``dockerfile`` recipe stands on such an image and adds what pip brings. No registry of images is asked for anything.

A network that re-signs TLS has its own certificate authority, which the host trusts and a fresh image does not; pip in it
then fails. The host's bundle goes into the image when the host is to use one (``PIP_CERT``, ``REQUESTS_CA_BUNDLE``,
``SSL_CERT_FILE``, ``CURL_CA_BUNDLE``, or files in ``/usr/local/share/ca-certificates``), when the caller names one, or when a
build has failed for want of it.
"""

from __future__ import annotations

import io
import json
import logging
import os
import platform as host_platform
import shlex
import shutil
import ssl
import subprocess
import sys
import tarfile
import tempfile
import urllib.parse
from collections import deque
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from docker import utils as docker_utils

from enclave import __version__
from enclave.errors import EngineError, ImageNotFoundError, InvalidArgumentError, UnsupportedError
from enclave.records import utc_now
from enclave.sandboxes.docker.engine import Engine
from enclave.sandboxes.images.catalog import (
    LABEL_BUILT_BY,
    LABEL_CREATED,
    LABEL_HOST_CA,
    LABEL_RECIPE,
    LABEL_RECIPE_VERSION,
    ImageInfo,
    ImageRecipe,
    Progress,
    ProgressCallback,
    architecture_of,
    find_image,
    find_recipe,
    full_name,
    get_recipe,
    pull_image,
)

logger = logging.getLogger(__name__)

_CA_VARIABLES = ('PIP_CERT', 'REQUESTS_CA_BUNDLE', 'SSL_CERT_FILE', 'CURL_CA_BUNDLE')
_LOCAL_CAS = Path('/usr/local/share/ca-certificates')
_IMAGE_CA_BUNDLE = '/etc/ssl/certs/ca-certificates.crt'
_CA_ENV = dict.fromkeys(('SSL_CERT_FILE', 'REQUESTS_CA_BUNDLE', 'PIP_CERT'), _IMAGE_CA_BUNDLE)
_HOST_CA_MARK = '@HOST_CA@'
_PROXY_VARIABLES = ('HTTP_PROXY', 'HTTPS_PROXY', 'NO_PROXY', 'http_proxy', 'https_proxy', 'no_proxy')
_PIP_SETTINGS = {
    'index-url': 'PIP_INDEX_URL',
    'extra-index-url': 'PIP_EXTRA_INDEX_URL',
    'trusted-host': 'PIP_TRUSTED_HOST',
}
_CERTIFICATE_FAILURES = ('CERTIFICATE_VERIFY_FAILED', 'certificate verify failed', 'SSLCertVerificationError')
_TAIL_LINES = 15


def build_image(
    engine: Engine,
    recipe: ImageRecipe | str,
    *,
    tag: str | None = None,
    progress: ProgressCallback | None = None,
    ca_bundle: str | Path | None = 'auto',
) -> ImageInfo:
    """Build an image and return it. An older build of this library that only this name held is removed.

    Args:
        recipe: A recipe, its name, or the image's name.
        tag: The image's name, instead of the recipe's.
        ca_bundle: A PEM file with certificate authorities for the image to trust; ``'auto'`` as the module's docstring
            says, None for none.

    Raises:
        NotFoundError: There is no such recipe.
        InvalidArgumentError: ``ca_bundle`` is not a file of certificates.
        UnsupportedError: This host cannot build it; says what is missing and the command that installs it.
        ImageNotFoundError: The base image is not there and can neither be pulled nor built.
        EngineError: The build failed; carries its last lines.
    """
    recipe = get_recipe(recipe) if isinstance(recipe, str) else recipe
    report = progress or (lambda _: None)
    name = full_name(tag or recipe.image)
    bundle = find_host_ca(report) if ca_bundle == 'auto' else _read_bundle(ca_bundle)
    before = find_image(engine, name)
    build = _debootstrap if recipe.method == 'mmdebstrap' else _dockerfile
    try:
        build(engine, recipe, name, bundle, report)
    except EngineError as error:
        system = _system_bundle() if ca_bundle == 'auto' and bundle is None else None
        if system is None or not any(each in str(error) for each in _CERTIFICATE_FAILURES):
            raise
        report(
            Progress(message="pip does not trust the registry; trying again with this host's certificate authorities")
        )
        build(engine, recipe, name, system, report)
    built = find_image(engine, name)
    if built is None:
        raise EngineError(f'The engine said that {name!r} was built, but does not have it')
    _remove_replaced(engine, before, built, name)
    return built


def _labels(recipe: ImageRecipe, bundle: bytes | None) -> dict[str, str]:
    return {
        LABEL_BUILT_BY: f'ms-enclave {__version__}',
        LABEL_RECIPE: recipe.name,
        LABEL_RECIPE_VERSION: recipe.version,
        LABEL_CREATED: utc_now().isoformat(timespec='seconds'),
        LABEL_HOST_CA: 'no' if bundle is None else 'yes',
    }


def _debootstrap(
    engine: Engine, recipe: ImageRecipe, name: str, bundle: bytes | None, report: ProgressCallback
) -> None:
    _check_can_debootstrap(engine, recipe)
    with tempfile.TemporaryDirectory(prefix='enclave-build-') as scratch:
        folder = Path(scratch)
        folder.chmod(0o755)  # without root, mmdebstrap's hooks run as a mapped user who must be able to enter
        tree = folder / 'root.tar'
        _run(mmdebstrap_command(recipe, folder, tree, bundle), f'build {name}', report)
        size = tree.stat().st_size
        report(Progress(message=f'handing {size // 2**20} MiB to the engine'))
        import_image(engine, tree, name, changes=_import_changes(recipe, bundle))


def _import_changes(recipe: ImageRecipe, bundle: bytes | None) -> list[str]:
    environment = [f'ENV {key}={value}' for key, value in _CA_ENV.items()] if bundle is not None else []
    labels = [f'LABEL {key}={json.dumps(value)}' for key, value in _labels(recipe, bundle).items()]
    return [*recipe.changes, *environment, *labels]


def _check_can_debootstrap(engine: Engine, recipe: ImageRecipe) -> None:
    if not sys.platform.startswith('linux'):
        raise UnsupportedError(
            f'{recipe.image} is built with mmdebstrap, which runs on Debian and Ubuntu only. Build it there and move it here '
            f'with `docker save` and `docker load`, or pull it with `ms-enclave images pull {recipe.image}`.'
        )
    if shutil.which('mmdebstrap') is None:
        raise UnsupportedError(
            f'Building {recipe.image} needs mmdebstrap, which is not on the PATH. Install it with '
            '`apt-get install mmdebstrap` (as root), then try again.'
        )
    here, there = architecture_of(host_platform.machine()), architecture_of(engine.describe().architecture)
    if here != there:
        raise UnsupportedError(
            f"{recipe.image} would be built for this host's {here}, but the engine at {engine.address} runs {there}. "
            "Build it on the engine's own host."
        )


def mmdebstrap_command(recipe: ImageRecipe, folder: Path, tree: Path, bundle: bytes | None) -> list[str]:
    """Return the argv that makes the tar ``tree``, with the files it needs laid into ``folder``."""
    source = Path(recipe.folder)
    command = ['mmdebstrap', '--variant=minbase', '--format=tar']
    command += [f'--include={",".join(recipe.packages)}'] if recipe.packages else []
    # Packages of Java make links beside their manual pages, which fails where there is no directory for those.
    command.append('--essential-hook=mkdir -p "$1"/usr/share/man/man1')
    for kind in ('doc', 'man', 'info', 'locale', 'lintian'):
        command.append(f'--dpkgopt=path-exclude=/usr/share/{kind}/*')
    command += [f'--aptopt={line}' for line in _host_apt_options()]
    if bundle is not None:
        (folder / 'host-ca.pem').write_bytes(bundle)
        shutil.copy(source.parent / 'add_host_ca.py', folder / 'add_host_ca.py')
        files = f'{shlex.quote(str(folder / "host-ca.pem"))} {shlex.quote(str(folder / "add_host_ca.py"))}'
        command.append(f'--customize-hook=copy-in {files} /tmp')
        command.append('--customize-hook=chroot "$1" python3 /tmp/add_host_ca.py /tmp/host-ca.pem')
        command.append('--customize-hook=rm "$1"/tmp/host-ca.pem "$1"/tmp/add_host_ca.py')
    if (source / recipe.customize).is_file():
        shutil.copy(source / recipe.customize, folder / 'customize.sh')
        packages = ''.join(f' {shlex.quote(each)}' for each in recipe.npm)
        command.append(f'--customize-hook=sh {shlex.quote(str(folder / "customize.sh"))} "$1"{packages}')
    command += [recipe.suite, str(tree)]
    sources = host_apt_sources(recipe.suite)
    if sources:  # otherwise mmdebstrap has a mirror of its own choosing
        (folder / 'sources.list').write_text('\n'.join(sources) + '\n', 'utf-8')
        command.append(str(folder / 'sources.list'))
    return command


def host_apt_sources(suite: str, folder: Path = Path('/etc/apt')) -> list[str]:
    """Return the lines of this host's package sources for a Debian suite, its updates and its security fixes.

    Third parties' sources carry other suite names and stay out. Both of apt's formats are read (sources.list(5)).
    """
    suites = {suite, f'{suite}-updates', f'{suite}-security', f'{suite}/updates'}
    lines = []
    for path in [folder / 'sources.list', *sorted(folder.glob('sources.list.d/*'))]:
        if not path.is_file():
            continue
        text = path.read_text('utf-8', 'replace')
        if path.suffix == '.sources':
            lines += [line for stanza in text.split('\n\n') for line in _one_line_sources(stanza)]
        elif path.suffix == '.list':
            lines += [line.split('#')[0].strip() for line in text.splitlines()]
    wanted = []
    for line in lines:
        fields = line.split(']', 1)[-1].split() if '[' in line else line.split()[1:]
        if (
            line.startswith('deb ')
            and len(fields) >= 2
            and fields[1] in suites
            and 'main' in fields[2:]
            and line not in wanted
        ):
            wanted.append(line)
    return wanted


def _one_line_sources(stanza: str) -> Iterator[str]:
    fields: dict[str, str] = {}
    key = ''
    for line in stanza.splitlines():
        if line.startswith('#') or not line.strip():
            continue
        if line[0].isspace():
            fields[key] = f'{fields.get(key, "")} {line.strip()}'
        else:
            key, _, value = line.partition(':')
            key = key.strip().lower()
            fields[key] = value.strip()
    if fields.get('enabled', 'yes').lower() in ('no', 'false') or 'deb' not in fields.get('types', '').split():
        return
    key_file = fields.get('signed-by', '')
    option = f'[signed-by={key_file}] ' if key_file.startswith('/') and ' ' not in key_file else ''
    for uri in fields.get('uris', '').split():
        for suite in fields.get('suites', '').split():
            yield f'deb {option}{uri} {suite} {fields.get("components", "")}'


def _host_apt_options() -> list[str]:
    """Return how this host's apt reaches its mirrors, as apt.conf lines: proxies, and checks that it leaves out."""
    if shutil.which('apt-config') is None:
        return []
    dumped = subprocess.run(['apt-config', 'dump', 'Acquire'], capture_output=True, text=True, check=False).stdout
    kept = ('::Proxy', '::Check-Valid-Until', '::Check-Date', '::Retries')
    return [
        line
        for line in dumped.splitlines()
        if line.split(' ')[0].endswith(kept) and not line.endswith('"";') and '@' not in line
    ]


def import_image(engine: Engine, tree: str | Path, name: str, *, changes: Iterable[str] = ()) -> None:
    """Make an image of a tar file of a root file system, as ``docker import`` does.

    Args:
        changes: Dockerfile lines: CMD, ENV, LABEL, ...

    Raises:
        EngineError: The engine refuses the tar or a change.
    """
    repository, tag = docker_utils.parse_repository_tag(name)
    with engine.translate(f'import {tree} as {name!r}'):
        answer = engine.api.import_image_from_file(
            str(tree), repository=repository, tag=tag or 'latest', changes=list(changes)
        )
    for line in _json_lines(answer):
        if line.get('error'):
            raise EngineError(
                f'Could not import {tree} as {name!r}: {line["error"]}', details={'reason': line['error']}
            )


def _dockerfile(engine: Engine, recipe: ImageRecipe, name: str, bundle: bytes | None, report: ProgressCallback) -> None:
    if find_image(engine, recipe.base) is None:
        try:
            report(Progress(message=f'pulling the base image {recipe.base}'))
            pull_image(engine, recipe.base, progress=report)
        except ImageNotFoundError:
            if find_recipe(recipe.base) is None:
                raise
            report(Progress(message=f'no registry has the base image {recipe.base}; building it'))
            build_image(engine, recipe.base, progress=report)
    context = _build_context(recipe, bundle)
    report(Progress(message=f'building {name} on {recipe.base}'))
    tail: deque[str] = deque(maxlen=_TAIL_LINES)
    layers: list[str] = []
    try:
        with engine.translate(f'build {name!r}'):
            lines = engine.api.build(
                fileobj=context,
                custom_context=True,
                tag=name,
                rm=True,
                forcerm=True,
                nocache=True,
                labels=_labels(recipe, bundle),
                buildargs={'BASE': recipe.base, **_host_settings(report)},
                decode=True,
            )
            for line in lines:
                if line.get('error'):
                    said = '\n'.join([*tail, str(line['error'])])
                    raise EngineError(f'Could not build {name!r}. The last lines of the build:\n{said}')
                text = str(line.get('stream') or line.get('status') or '').strip()
                if text.startswith('---> ') and ' ' not in text[5:]:
                    layers.append(text[5:])
                if text:
                    tail.append(text)
                    report(Progress(message=text.splitlines()[-1]))
    except BaseException:
        _remove_unfinished(engine, layers)
        raise


def _remove_unfinished(engine: Engine, layers: list[str]) -> None:
    """Remove the nameless images that the steps of a failed build left; never the base, which has a name."""
    for layer in reversed(layers):
        try:
            found = find_image(engine, layer)
            if found is not None and not found.names:
                with engine.translate('remove an unfinished image'):
                    engine.api.remove_image(layer)
        except (EngineError, ImageNotFoundError) as error:
            logger.debug('left the unfinished image %s: %s', layer, error)


def _build_context(recipe: ImageRecipe, bundle: bytes | None) -> io.BytesIO:
    """Return a tar of the recipe's folder, its Dockerfile completed with the host's certificates where it says so."""
    source = Path(recipe.folder)
    context = io.BytesIO()
    with tarfile.open(fileobj=context, mode='w') as archive:
        for path in sorted(source.iterdir()):
            if path.name not in ('recipe.json', 'Dockerfile') and not path.name.startswith('__'):
                archive.add(path, arcname=path.name)
        text = (source / 'Dockerfile').read_text('utf-8')
        if bundle is not None:
            settings = ' '.join(f'{key}={value}' for key, value in _CA_ENV.items())
            steps = (
                'COPY host-ca.pem add_host_ca.py /tmp/\n'
                'RUN python3 /tmp/add_host_ca.py /tmp/host-ca.pem && rm /tmp/host-ca.pem /tmp/add_host_ca.py\n'
                f'ENV {settings}'
            )
            text = '\n'.join(steps if _HOST_CA_MARK in line else line for line in text.splitlines())
            _add_file(archive, 'host-ca.pem', bundle)
            _add_file(archive, 'add_host_ca.py', (source.parent / 'add_host_ca.py').read_bytes())
        _add_file(archive, 'Dockerfile', text.encode('utf-8'))
    context.seek(0)
    return context


def _host_settings(report: ProgressCallback) -> dict[str, str]:
    """Return build arguments with which pip in the build reaches what pip here reaches.

    Local folders mean nothing in there, and an address with a password in it would stay readable in the image's history.
    """
    settings = {name: os.environ[name] for name in _PROXY_VARIABLES if os.environ.get(name)}
    for option, variable in _PIP_SETTINGS.items():
        proxies = []
        for word in _pip_setting(option, variable).split():
            parsed = urllib.parse.urlsplit(word) if '://' in word else None
            if parsed is not None and parsed.scheme not in ('http', 'https'):
                continue
            if parsed is not None and parsed.password:
                report(Progress(message=f"leaving out pip's {option} with a password: it would stay in the image"))
                continue
            proxies.append(word)
        if proxies:
            settings[variable] = ' '.join(proxies)
    return settings


def _pip_setting(option: str, variable: str) -> str:
    if os.environ.get(variable):
        return os.environ[variable]
    command = [sys.executable, '-m', 'pip', 'config', 'get', f'global.{option}']
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    return found.stdout.strip() if found.returncode == 0 else ''


def _remove_replaced(engine: Engine, before: ImageInfo | None, built: ImageInfo, name: str) -> None:
    """Remove the build of this library that just lost its only name, unless a container still stands on it."""
    if before is None or before.id == built.id or before.origin != 'built here' or set(before.names) - {name}:
        return
    try:
        with engine.translate('remove the image that was replaced'):
            engine.api.remove_image(before.id)
    except (EngineError, ImageNotFoundError):
        pass  # in use, or gone already: both are fine


# The host's certificate authorities -----------------------------------------------------------------------------------


def find_host_ca(report: ProgressCallback = lambda _: None) -> bytes | None:
    """Return the PEM bundle this host is to trust, or None if nobody reported it anything."""
    for variable in _CA_VARIABLES:
        path = os.environ.get(variable)
        if path and os.path.isfile(path):
            report(Progress(message=f'adding the certificate authorities of {path} ({variable} names it)'))
            return _read_bundle(path)
    own = sorted(_LOCAL_CAS.rglob('*.crt')) if _LOCAL_CAS.is_dir() else []
    if own:
        report(Progress(message=f'adding the certificate authorities in {_LOCAL_CAS}'))
        return b'\n'.join(path.read_bytes() for path in own)
    return None


def _system_bundle() -> bytes | None:
    for path in (ssl.get_default_verify_paths().cafile, _IMAGE_CA_BUNDLE, '/etc/pki/tls/certs/ca-bundle.crt'):
        if path and os.path.isfile(path):
            return Path(path).read_bytes()
    return None


def _read_bundle(path: str | Path | None) -> bytes | None:
    if path is None:
        return None
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise InvalidArgumentError(f'The CA bundle {str(path)!r} cannot be read: {error.strerror}') from error
    if b'-----BEGIN CERTIFICATE-----' not in data:
        raise InvalidArgumentError(f'{str(path)!r} holds no certificate in PEM form')
    return data


# Small helpers ------------------------------------------------------------------------------------------------------


def _run(command: list[str], what: str, report: ProgressCallback) -> None:
    """Run a program to its end, passing on what it says line by line; it is stopped when we are."""
    tail: deque[str] = deque(maxlen=_TAIL_LINES)
    with subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors='replace',
    ) as child:
        assert child.stdout is not None
        try:
            for line in child.stdout:
                if line.strip():
                    tail.append(line.rstrip())
                    report(Progress(message=line.strip().removeprefix('I: ')))
        except BaseException:
            child.terminate()
            raise
    if child.returncode != 0:
        said = '\n'.join(tail)
        raise EngineError(
            f'Could not {what}: {command[0]} ended with exit code {child.returncode}. It said last:\n{said}'
        )


def _add_file(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size, member.mode = len(data), 0o644
    archive.addfile(member, io.BytesIO(data))


def _json_lines(answer: Any) -> Iterator[dict[str, Any]]:
    for line in str(answer or '').splitlines():
        try:
            value = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(value, dict):
            yield value

"""Add the host's certificate authorities to an image. Runs inside it: ``python3 add_host_ca.py BUNDLE.pem``.

Only those that the image does not trust already are added, one file each, the way Debian's update-ca-certificates wants
them. On an image without that program they are appended to the bundle that OpenSSL reads.
"""

import os
import re
import shutil
import subprocess
import sys

BUNDLE = '/etc/ssl/certs/ca-certificates.crt'
LOCAL = '/usr/local/share/ca-certificates'
PATTERN = re.compile('-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----', re.DOTALL)


def read_certificates(path: str) -> 'dict[str, str]':
    """Return {the certificate without white space: its PEM text} of a bundle; empty if there is no such file."""
    if not os.path.exists(path):
        return {}
    with open(path, encoding='utf-8', errors='replace') as file:
        return {''.join(pem.split()): pem + '\n' for pem in PATTERN.findall(file.read())}


def main(source: str) -> None:
    """Make the image trust what the bundle ``source`` holds."""
    known = read_certificates(BUNDLE)
    missing = [pem for key, pem in read_certificates(source).items() if key not in known]
    os.makedirs(os.path.dirname(BUNDLE), exist_ok=True)
    if shutil.which('update-ca-certificates'):
        os.makedirs(LOCAL, exist_ok=True)
        for number, pem in enumerate(missing):
            with open(os.path.join(LOCAL, f'enclave-host-{number:03}.crt'), 'w', encoding='utf-8') as file:
                file.write(pem)
        subprocess.check_call(['update-ca-certificates'], stdout=subprocess.DEVNULL)
    else:
        with open(BUNDLE, 'a', encoding='utf-8') as file:
            file.writelines(missing)
    print(f'added {len(missing)} certificate authorities of the host')


if __name__ == '__main__':
    main(sys.argv[1])

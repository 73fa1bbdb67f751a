"""Signatures of bundles in OpenSSH's format, by its program: ``ssh-keygen -Y sign`` and ``-Y verify``.

``manifest.sha256`` has a line for every file of a bundle, so one signature of it covers them all. The signature lies
beside it, as ``manifest.sha256.sig``. All keys of ssh-keygen work: with a passphrase, in ssh-agent, on a security key.

The trusted signers are given by a public key's file, or by a file of allowed signers (``man ssh-keygen``), which may
limit keys to times and namespaces, and name certificate authorities.
"""

from __future__ import annotations

import base64
import hashlib
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from tvm_mobilenet.bundle import received
from tvm_mobilenet.errors import MissingDependencyError, TvmMobilenetError, VerificationError, reason
from tvm_mobilenet.files import programs, reading
from tvm_mobilenet.files.temporary import TemporaryFolder

NAMESPACE = "tvm_mobilenet"  # a signature for another purpose is not accepted
_SECONDS = 60.0
_KEY = re.compile(r"(?:sk-)?(?:ssh|ecdsa)-[\w@.-]+ ([A-Za-z0-9+/]+=*)(?: +(.*))?", re.ASCII)
_NAME = re.compile(r"[\w@.+-]{1,80}", re.ASCII)  # a key's comment that can serve as its owner's name
_BEGIN, _END = "-----BEGIN SSH SIGNATURE-----", "-----END SSH SIGNATURE-----"
_WIDTH = 70  # characters of a line between them


@dataclass(frozen=True)
class Signers:
    """The allowed signers of a bundle.

    Attributes
    ----------
    path : path
        The file that names them.
    text : str
        The same as a file of allowed signers.
    """

    path: Path
    text: str

    @classmethod
    def read(cls, path: str | Path) -> Signers:
        """Read a public key's file, or a file of allowed signers.

        Raises
        ------
        TvmMobilenetError
            The file is neither, or cannot be read.
        """
        hint = "give a public key (KEY.pub), or a file of allowed signers: man ssh-keygen"
        if why := reading.refusal(path):
            raise TvmMobilenetError(f"the signers {path}: {why}", hint)
        try:
            text = reading.text(path)
        except (OSError, ValueError) as e:
            raise TvmMobilenetError(f"the signers {path}: {reason(e)}", hint) from None
        if "-----BEGIN" in text:
            raise TvmMobilenetError(f"{path} is a private key or a signature, not who may have signed", hint)
        lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
        if not lines:
            raise TvmMobilenetError(f"{path} names no signer", hint)
        if all(map(_KEY.fullmatch, lines)):
            lines = [f'{_owner(line)} namespaces="{NAMESPACE}" {line}' for line in lines]
        return cls(Path(path), "".join(f"{line}\n" for line in lines))


def _owner(line: str) -> str:
    """The owner's name of a public key: its comment if that is one word, ``me@laptop``, else its fingerprint."""
    blob, comment = _KEY.fullmatch(line).groups()
    if comment and _NAME.fullmatch(comment.strip()):
        return comment.strip()
    digest = hashlib.sha256(base64.b64decode(blob + "==")).digest()
    return f"SHA256:{base64.b64encode(digest).decode().rstrip('=')}"


def require_program() -> str:
    """The path of ssh-keygen.

    Raises
    ------
    MissingDependencyError
        It is not installed.
    """
    if found := shutil.which("ssh-keygen"):
        return found
    raise MissingDependencyError("ssh-keygen is not installed here", "apt-get install openssh-client")


def require_key(key: Path) -> None:
    """Check that a key can sign, before there are files to sign, without asking for its passphrase.

    Raises
    ------
    TvmMobilenetError
        It is no key.
    MissingDependencyError
        There is no ssh-keygen.
    """
    program = require_program()
    if why := reading.refusal(key):
        raise TvmMobilenetError(f"--sign {key}: {why}", "ssh-keygen -t ed25519 -f FILE makes a key")
    done = programs.run([program, "-l", "-f", str(key.absolute())], seconds=_SECONDS)
    if done.code and not _is_closed(key):
        raise TvmMobilenetError(f"--sign {key} is not a key: {_last(done)}", "ssh-keygen -t ed25519 -f FILE makes one")


def _is_closed(key: Path) -> bool:
    """Whether a key is of the older format, of which nothing is known without its passphrase."""
    try:
        return "ENCRYPTED" in reading.text(key)
    except (OSError, ValueError):
        return False


def sign(data: bytes, key: Path) -> bytes:
    """A signature by a key's file: ssh-keygen asks for its passphrase, or ssh-agent signs for its public key.

    Raises
    ------
    TvmMobilenetError
        It cannot be made; ssh-keygen itself writes to stderr why.
    MissingDependencyError
        There is no ssh-keygen.
    """
    with TemporaryFolder() as folder:
        (folder / received.SUM).write_bytes(data)
        command = [require_program(), "-q", "-Y", "sign", "-n", NAMESPACE, "-f", str(key.absolute())]
        done = subprocess.run([*command, folder / received.SUM], stdout=subprocess.DEVNULL)
        try:
            return (folder / received.SIGNATURE).read_bytes()
        except OSError:
            raise TvmMobilenetError(
                f"nothing was signed with {key}: ssh-keygen ended with exit code {done.returncode}",
                f"its messages stand above; try it alone: ssh-keygen -Y sign -n {NAMESPACE} -f {key} FILE",
            ) from None


def verify(data: bytes, signature: bytes, signers: Signers) -> str:
    """The signer of a signature, a name in the file of signers.

    Raises
    ------
    VerificationError
        The signature does not fit the data, or is not of a signer allowed at this time.
    MissingDependencyError
        There is no ssh-keygen.
    """
    program = require_program()
    if not _is_plain(signature):
        raise VerificationError("its signature is damaged", _REMEDY)
    with TemporaryFolder() as folder:
        allowed, made = folder / "signers", folder / received.SIGNATURE
        allowed.write_text(signers.text, encoding="utf-8")
        made.write_bytes(signature)
        names = programs.run([program, "-Y", "find-principals", "-f", str(allowed), "-s", str(made)], seconds=_SECONDS)
        why = _last(names)
        for name in names.out.splitlines() if not names.code else ():
            command = [program, "-Y", "verify", "-n", NAMESPACE, "-f", str(allowed), "-s", str(made), "-I", name]
            done = programs.run(command, data, _SECONDS)
            if not done.code:
                return name
            why = _last(done)
    raise VerificationError(f"its signature is from no signer in {signers.path}: {why}", _REMEDY)


_REMEDY = "do not trust it; `build --bundle FILE --sign KEY` makes a signed one"


def check(files: dict[str, bytes], manifest: dict, signers: Signers, others: list[str]) -> str:
    """Check the signature of a bundle that was read, and that it covers every file; return the signer's name.

    Parameters
    ----------
    files : dict
        By name; hashes in ``manifest`` have been compared.
    others : list of str
        Names of other files beside them.

    Raises
    ------
    VerificationError
        It is not signed, not by these signers, or holds files that were not signed.
    """
    if received.SIGNATURE not in files:
        raise VerificationError("it is not signed", _REMEDY)
    if others:
        raise VerificationError(f"{others[0][:80]!a} in it was not signed", "remove it, or take another bundle")
    if files[received.SUM] != received.sums_of(manifest, files[received.MANIFEST]):
        raise VerificationError(f"{received.SUM} does not name every file", _REMEDY)
    return verify(files[received.SUM], files[received.SIGNATURE], signers)


def _is_plain(signature: bytes) -> bool:
    """Whether a signature is exactly in ssh-keygen's form, which would otherwise ignore unsigned bytes."""
    lines = signature.decode("ascii", "replace").split("\n")
    if len(lines) < 4 or (lines[0], *lines[-2:]) != (_BEGIN, _END, ""):
        return False
    text = "".join(lines[1:-2])
    try:
        again = base64.b64encode(base64.b64decode(text, validate=True)).decode()
    except ValueError:  # binascii.Error is one; a text beyond ASCII is another
        return False
    return text == again and lines[1:-2] == [text[i : i + _WIDTH] for i in range(0, len(text), _WIDTH)]


def _last(done: programs.Done) -> str:
    return next(reversed((done.words or done.out).strip().splitlines()), f"ssh-keygen ended with {done.code}")[-300:]

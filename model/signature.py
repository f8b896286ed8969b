"""Who vouches for a version: an Ed25519 signature of its manifest, which holds the sha256 of every file.

``manifest.sig`` has the 64 bytes as ``openssl pkeyutl -sign -rawin`` writes them; to score takes the public key alone.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key, load_pem_public_key

from beam_jobs.credentials.references import read_secret
from beam_jobs.errors import UserError
from model.manifest import FILE_NAME, SIGNATURE

SIGNING_KEY, MODEL_KEY = "--signing_key", "--model_key"  # the options
SIGNATURE_BYTES = 64

_PUBLIC = re.compile(rb"-----BEGIN PUBLIC KEY-----.*?-----END PUBLIC KEY-----", re.DOTALL)


class Signer:
    """Signs manifests with a private key."""

    def __init__(self, reference: str) -> None:
        """Reads the key, PKCS8 in PEM.

        Args:
          reference: env:NAME, file:/path or secret://projects/P/secrets/S/versions/V.

        Raises:
          UserError: the reference leads nowhere, or to something else.
        """
        text = read_secret(reference, SIGNING_KEY)
        try:
            key = load_pem_private_key(text.encode(), None)
        except (ValueError, TypeError, UnsupportedAlgorithm):
            key = None
        if not isinstance(key, Ed25519PrivateKey):
            raise UserError(
                f"{SIGNING_KEY}: not an Ed25519 private key in PEM; make one with openssl genpkey -algorithm ed25519"
            )
        self._key = key

    def signature(self, manifest: bytes) -> bytes:
        """Of a manifest's bytes."""
        return self._key.sign(manifest)

    def sign(self, folder: Path) -> None:
        """Signs the manifest in the folder of a version in the making."""
        (folder / SIGNATURE).write_bytes(self.signature((folder / FILE_NAME).read_bytes()))


class Verifier:
    """Knows the public keys of those who may vouch for versions."""

    def __init__(self, reference: str) -> None:
        """Reads the keys, PEM, one after the other: the old one stays while the new one is brought in.

        Raises:
          UserError: the reference leads nowhere, or to something else.
        """
        text = read_secret(reference, MODEL_KEY)
        try:
            keys = [load_pem_public_key(part) for part in _PUBLIC.findall(text.encode())]
        except (ValueError, UnsupportedAlgorithm):
            keys = []
        self._keys: Sequence[Ed25519PublicKey] = [key for key in keys if isinstance(key, Ed25519PublicKey)]
        if not keys or len(self._keys) < len(keys):
            raise UserError(
                f"{MODEL_KEY}: not Ed25519 public keys in PEM; take the public half of the key that signs with "
                "openssl pkey -pubout"
            )

    def verify(self, manifest: bytes, signature: bytes | None, folder: str) -> None:
        """Checks the signature of a manifest's bytes; None: there is none.

        Raises:
          UserError: none of the keys has made it.
        """
        if signature is None:
            raise UserError(
                f"{folder} has no {SIGNATURE}, which {MODEL_KEY} asks for; sign it with "
                f"highbeam models sign, or name a version that is signed"
            )
        for key in self._keys:
            try:
                key.verify(signature, manifest)
                return
            except InvalidSignature:
                continue
        raise UserError(
            f"{folder}: {SIGNATURE} is not of this manifest by a key of {MODEL_KEY}; restore the version, or have it "
            "signed again by whom you trust"
        )

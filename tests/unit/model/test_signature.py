"""A version that is not signed by whom the job trusts is refused before anything of it is read."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from beam_jobs.errors import UserError
from model import manifest, registry, threshold
from model.registry import resolve
from model.signature import Signer, Verifier
from tests.unit.model.test_registry import publish


@dataclass
class Keys:
    private: Path
    public: Path

    @classmethod
    def make(cls, folder: Path, name: str) -> Keys:
        key = ed25519.Ed25519PrivateKey.generate()
        made = cls(folder / f"{name}.pem", folder / f"{name}.pub")
        pkcs8, plain = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        made.private.write_bytes(key.private_bytes(serialization.Encoding.PEM, pkcs8, plain))
        spki = serialization.PublicFormat.SubjectPublicKeyInfo
        made.public.write_bytes(key.public_key().public_bytes(serialization.Encoding.PEM, spki))
        return made


@pytest.fixture
def keys(tmp_path: Path) -> Keys:
    return Keys.make(tmp_path, "ours")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A registry with one version, the champion; it holds no file but the manifest that is loaded."""
    folder = tmp_path / "models"
    version = publish(folder)
    (folder / "cars" / "versions" / version / "model.keras").unlink()
    registry.promote(folder / "cars", version)
    return folder


def sign(model: Path, keys: Keys) -> Path:
    registry.main(["sign", f"{model}@champion", "--signing_key", f"file:{keys.private}"])
    return resolve(str(model)).path


def test_a_signed_version_is_accepted(model: Path, keys: Keys, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = sign(model, keys)
    others = Keys.make(tmp_path, "others")
    both = others.public.read_text() + keys.public.read_text()
    monkeypatch.setenv("MODEL_KEYS", both)
    assert (
        resolve(str(model), model_key=f"file:{keys.public}").path
        == resolve(str(model), model_key="env:MODEL_KEYS").path
    )
    registry.main(["promote", f"{model}@{folder.name}", "--model_key", "env:MODEL_KEYS"])
    registry.main(["show", str(model), "--model_key", f"file:{keys.public}"])
    with pytest.raises(UserError, match=r"manifest\.sig is not of this manifest by a key of --model_key"):
        resolve(str(model), model_key=f"file:{others.public}")


def test_openssl_makes_the_same_signature(model: Path, keys: Keys) -> None:
    folder = sign(model, keys)
    if shutil.which("openssl") is None:
        pytest.skip("no openssl here")
    command = ["openssl", "pkeyutl", "-verify", "-pubin", "-inkey", keys.public, "-rawin", "-in", "manifest.json"]
    subprocess.run([*command, "-sigfile", "manifest.sig"], cwd=folder, check=True, capture_output=True)


def test_what_is_not_signed_is_not_read(model: Path, keys: Keys) -> None:
    folder, key = resolve(str(model)).path, f"file:{keys.public}"
    (folder / manifest.FILE_NAME).chmod(0o644)
    text = (folder / manifest.FILE_NAME).read_bytes()
    with pytest.raises(UserError, match=r"has no manifest\.sig, which --model_key asks for; sign it with"):
        resolve(str(model), model_key=key)
    sign(model, keys)
    for changed in (text.replace(b"1.5", b"9.5"), text + b" ", b"no json"):
        (folder / manifest.FILE_NAME).write_bytes(changed)
        with pytest.raises(UserError, match="is not of this manifest by a key"):
            resolve(str(model), model_key=key)
    (folder / manifest.FILE_NAME).write_bytes(text)
    resolve(str(model), model_key=key)
    for signature in (b"", b"\0" * 64, b"\0" * 65, (folder / manifest.SIGNATURE).read_bytes() + b"\n"):
        (folder / manifest.SIGNATURE).write_bytes(signature)
        with pytest.raises(UserError, match="is not of this manifest by a key"):
            resolve(str(model), model_key=key)


def test_a_version_whose_files_have_changed_is_not_signed(model: Path, keys: Keys) -> None:
    (resolve(str(model)).path / "network.npz").write_bytes(b"another")
    with pytest.raises(UserError, match=r"network\.npz is not in the manifest"):
        sign(model, keys)


def test_a_job_loads_the_manifest_that_was_verified(version: Path) -> None:
    found = resolve(str(version))
    path = version / manifest.FILE_NAME
    path.write_text(path.read_text().replace('"alert_budget": 0.001', '"alert_budget": 0.5', 1))
    from model.loaded import LoadedModel

    with pytest.raises(UserError, match=r"manifest\.json has changed since the job was started"):
        LoadedModel.load(found.path, found.digest)


def test_another_threshold_is_signed_before_it_is_promoted(version: Path, keys: Keys) -> None:
    models, key = version.parent.parent, f"file:{keys.public}"
    with pytest.raises(UserError, match=r"has no manifest\.sig"):
        threshold.change(f"{models}@{version.name}", 0.01, model_key=key)
    made = threshold.change(f"{models}@{version.name}", 0.01, "champion", signing_key=f"file:{keys.private}")
    assert resolve(str(models), model_key=key).version == made.version


def test_keys_that_are_none_are_refused_and_not_shown(keys: Keys, monkeypatch: pytest.MonkeyPatch) -> None:
    elliptic = ec.generate_private_key(ec.SECP256R1()).public_key()
    encoding, spki = serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    wrong = elliptic.public_bytes(encoding, spki).decode()
    private, public = keys.private.read_text(), keys.public.read_text()
    for text in ("", "s3cret", private, wrong, public + wrong, public.replace("MCow", "AAAA")):
        monkeypatch.setenv("KEY", text)
        with pytest.raises(UserError, match=r"^--model_key: not Ed25519 public keys in PEM; .* openssl pkey -pubout$"):
            Verifier("env:KEY")
    for text in ("", "s3cret", public, wrong):
        monkeypatch.setenv("KEY", text)
        with pytest.raises(
            UserError, match=r"^--signing_key: not an Ed25519 private key in PEM; make one with openssl"
        ):
            Signer("env:KEY")
    for reference in ("s3cret", "env: s3cret", private):
        with pytest.raises(UserError) as refused:
            Signer(reference)
        assert "s3cret" not in str(refused.value)
        assert "PRIVATE" not in str(refused.value)

"""Tests of the sources of the vault's keys (the environment, AWS KMS, for which moto stands in, and a transit engine),
and of what each of them refuses."""

import base64
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from services.devstack import ports
from services.devstack.running_service import REPOSITORY
from services.user_management.container import Container
from services.user_management.exceptions import StartupError
from services.user_management.security.key_sources import KeySource, aws_kms, load_secrets, open_key_source, transit
from services.user_management.settings import Settings, load_settings
from services.user_management.settings.groups import EncryptionGroup
from services.user_management.tests.key_source_servers import (
    KEY,
    TOKEN,
    FakeTransit,
    fake_transit,
    moto_server,
    real_transit,
    transit_binary,
)

pytestmark = pytest.mark.slow

SECRET = b"0123456789abcdef0123456789abcdef"
REGION = "eu-central-1"


@pytest.fixture(autouse=True, scope="module")
def credentials() -> Iterator[None]:
    """Set arbitrary AWS credentials, which botocore needs and moto ignores; let KMS be asked once only, and a transit
    engine again without a pause."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ACCESS_KEY_ID", "test")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "test")
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        patch.setattr(aws_kms, "ATTEMPTS", 1)
        patch.setattr(transit, "PAUSE_SECONDS", 0.0)
        yield


@pytest.fixture(scope="module")
def aws(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with moto_server(tmp_path_factory.mktemp("moto") / "moto.log") as url:
        yield url


@pytest.fixture(scope="module")
def kms_key(aws: str, credentials: None) -> str:
    target = aws_kms.KmsTarget(key_id="", region=REGION, endpoint=aws)
    key: str = aws_kms.AwsKmsKeySource(target, {})._client().create_key()["KeyMetadata"]["KeyId"]
    return key


@pytest.fixture
def engine() -> Iterator[FakeTransit]:
    with fake_transit() as server:
        yield server


def group(**fields: Any) -> EncryptionGroup:
    return EncryptionGroup.model_validate(fields)


def kms(aws: str, key: str, keys: dict[int, str] | None = None) -> KeySource:
    given = json.dumps({str(version): wrapped for version, wrapped in (keys or {}).items()})
    return open_key_source(group(source="aws_kms", kms_key_id=key, kms_region=REGION, kms_endpoint=aws, keys=given))


def vault(url: str, keys: dict[int, str] | None = None, **fields: Any) -> KeySource:
    given = json.dumps({str(version): wrapped for version, wrapped in (keys or {}).items()})
    settings = {"transit_key": KEY, "transit_token": TOKEN, **fields}
    return open_key_source(group(source="transit", transit_url=url, keys=given, **settings))


def test_static_source_gives_what_it_was_given() -> None:
    source = open_key_source(group(keys=json.dumps({"2": base64.b64encode(SECRET).decode()})))

    assert source.versions() == [2]
    assert source.load(2) == SECRET
    assert base64.b64decode(source.wrap(3, SECRET)) == SECRET


def test_source_without_any_version_is_refused() -> None:
    with pytest.raises(StartupError, match="ENCRYPTION_KEYS: at least one"):
        load_secrets(open_key_source(group(keys="{}")))


@pytest.mark.parametrize("source", ["aws_kms", "transit"])
def test_wrapping_source_has_no_development_key(source: str) -> None:
    assert group(source=source).keys == {}


def test_kms_unwraps_what_it_wrapped(aws: str, kms_key: str) -> None:
    wrapped = kms(aws, kms_key).wrap(2, SECRET)

    assert SECRET not in base64.b64decode(wrapped)
    assert load_secrets(kms(aws, kms_key, {2: wrapped})) == {2: SECRET}


def test_kms_refuses_a_secret_that_was_wrapped_for_another_version(aws: str, kms_key: str) -> None:
    wrapped = kms(aws, kms_key).wrap(2, SECRET)

    with pytest.raises(StartupError, match=r"^ENCRYPTION_KEYS: version 3: .*InvalidCiphertext"):
        kms(aws, kms_key, {3: wrapped}).load(3)


def test_kms_key_that_does_not_exist_is_named(aws: str, kms_key: str) -> None:
    wrapped = kms(aws, kms_key).wrap(2, SECRET)

    with pytest.raises(StartupError, match=r"^ENCRYPTION_KMS_KEY_ID: version 2: .*no-such-key: \w+Exception"):
        kms(aws, "no-such-key", {2: wrapped}).load(2)


def test_kms_secret_of_a_wrong_length_is_refused(aws: str, kms_key: str) -> None:
    wrapped = kms(aws, kms_key).wrap(2, b"short")

    with pytest.raises(StartupError, match="ENCRYPTION_KEYS: version 2 unwraps to 5 bytes, 32 are needed"):
        kms(aws, kms_key, {2: wrapped}).load(2)


def test_kms_blob_that_is_not_base64_is_refused(aws: str, kms_key: str) -> None:
    with pytest.raises(StartupError, match="ENCRYPTION_KEYS: version 2 is not base64"):
        kms(aws, kms_key, {2: "%%%"}).load(2)


def test_kms_that_does_not_answer_is_named(aws: str, kms_key: str) -> None:
    wrapped = kms(aws, kms_key).wrap(2, SECRET)
    (closed,) = ports.free_ports(1)

    with pytest.raises(StartupError, match=r"^ENCRYPTION_KMS_ENDPOINT: version 2: AWS KMS cannot be asked: Endpoint"):
        kms(f"http://{ports.LOOPBACK}:{closed}", kms_key, {2: wrapped}).load(2)


@pytest.mark.parametrize("missing", ["kms_key_id", "kms_region"])
def test_kms_without_a_setting_is_refused_by_name(missing: str) -> None:
    fields = {"kms_key_id": "alias/x", "kms_region": REGION, missing: None}

    with pytest.raises(StartupError, match=f"^ENCRYPTION_{missing.upper()}: is required"):
        open_key_source(group(source="aws_kms", **fields))


def test_transit_unwraps_what_it_wrapped(engine: FakeTransit) -> None:
    wrapped = vault(engine.url).wrap(2, SECRET)

    assert wrapped.startswith("vault:v1:")
    assert load_secrets(vault(engine.url, {2: wrapped})) == {2: SECRET}


def test_transit_refuses_a_secret_that_was_wrapped_for_another_version(engine: FakeTransit) -> None:
    wrapped = vault(engine.url).wrap(2, SECRET)

    with pytest.raises(StartupError, match=r"^ENCRYPTION_KEYS: version 3: .*refuses to decrypt it: 400"):
        vault(engine.url, {3: wrapped}).load(3)


def test_transit_secret_of_a_wrong_length_is_refused(engine: FakeTransit) -> None:
    wrapped = engine.wrap_as_is(b"short", 2)

    with pytest.raises(StartupError, match="ENCRYPTION_KEYS: version 2 unwraps to 5 bytes"):
        vault(engine.url, {2: wrapped}).load(2)


def test_transit_token_that_may_not_is_named(engine: FakeTransit) -> None:
    with pytest.raises(StartupError, match=r"^ENCRYPTION_TRANSIT_TOKEN: version 2: may not decrypt"):
        vault(engine.url, {2: "vault:v1:x"}, transit_token="s.other").load(2)


def test_transit_mount_that_is_not_there_is_named(engine: FakeTransit) -> None:
    with pytest.raises(StartupError, match=r"^ENCRYPTION_TRANSIT_MOUNT: version 2: .*elsewhere"):
        vault(engine.url, {2: "vault:v1:x"}, transit_mount="elsewhere").load(2)


def test_transit_that_is_sealed_for_a_moment_is_asked_again(engine: FakeTransit) -> None:
    wrapped = vault(engine.url).wrap(2, SECRET)
    engine.failures_left = transit.ATTEMPTS - 1

    assert vault(engine.url, {2: wrapped}).load(2) == SECRET


def test_transit_that_stays_sealed_is_named(engine: FakeTransit) -> None:
    engine.failures_left = transit.ATTEMPTS

    with pytest.raises(StartupError, match=r"^ENCRYPTION_TRANSIT_URL: version 2: .*cannot be asked: 503"):
        vault(engine.url, {2: "vault:v1:x"}).load(2)


def test_transit_that_does_not_answer_is_named() -> None:
    (closed,) = ports.free_ports(1)

    with pytest.raises(StartupError, match=r"^ENCRYPTION_TRANSIT_URL: version 2: .*cannot be asked: ConnectError"):
        vault(f"http://{ports.LOOPBACK}:{closed}", {2: "vault:v1:x"}).load(2)


@pytest.mark.parametrize(
    "answer", [b"<html>", b"[]", b'{"data":null}', b'{"data":{"plaintext":7}}', b'{"data":{"plaintext":"%"}}']
)
def test_answer_of_something_else_than_a_transit_engine_is_refused(engine: FakeTransit, answer: bytes) -> None:
    engine.answer = 200, answer

    with pytest.raises(StartupError, match=r"^ENCRYPTION_TRANSIT_URL: version 2: .*not as a transit engine does"):
        vault(engine.url, {2: "vault:v1:x"}).load(2)


def test_transit_token_is_read_from_its_file_at_each_call(engine: FakeTransit, tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("s.expired\n")
    wrapped = engine.wrap_as_is(SECRET, 2)
    source = vault(engine.url, {2: wrapped}, transit_token=None, transit_token_file=file)
    with pytest.raises(StartupError, match="ENCRYPTION_TRANSIT_TOKEN"):
        source.load(2)

    file.write_text(f"{TOKEN}\n")

    assert source.load(2) == SECRET


def test_transit_token_file_that_is_not_there_is_named(engine: FakeTransit, tmp_path: Path) -> None:
    source = vault(engine.url, {2: "vault:v1:x"}, transit_token=None, transit_token_file=tmp_path / "none")

    with pytest.raises(StartupError, match=r"^ENCRYPTION_TRANSIT_TOKEN_FILE: version 2: cannot be read"):
        source.load(2)


def test_transit_with_unusable_certificates_is_refused(engine: FakeTransit, tmp_path: Path) -> None:
    file = tmp_path / "ca.pem"
    file.write_text("no certificate")

    with pytest.raises(StartupError, match=r"^ENCRYPTION_TRANSIT_CA_FILE: cannot be used"):
        vault(engine.url, {2: "vault:v1:x"}, transit_ca_file=file).load(2)


@pytest.mark.parametrize("missing", ["transit_url", "transit_key", "transit_token"])
def test_transit_without_a_setting_is_refused_by_name(missing: str) -> None:
    fields = {"transit_url": "https://bao.example.com", "transit_key": KEY, "transit_token": TOKEN, missing: None}

    with pytest.raises(StartupError, match=f"^ENCRYPTION_{missing.upper()}.*is required"):
        open_key_source(group(source="transit", **fields))


@pytest.mark.skipif(transit_binary() is None, reason="neither bao nor vault is on the PATH")
def test_real_transit_engine_unwraps_what_it_wrapped_and_nothing_else(tmp_path: Path) -> None:
    binary = transit_binary()
    assert binary is not None
    with real_transit(binary, tmp_path / "transit.log") as url:
        wrapped = vault(url).wrap(2, SECRET)

        assert vault(url, {2: wrapped}).load(2) == SECRET
        with pytest.raises(StartupError, match=r"^ENCRYPTION_KEYS: version 3: "):
            vault(url, {3: wrapped}).load(3)
        with pytest.raises(StartupError, match=r"^ENCRYPTION_TRANSIT_TOKEN: version 2"):
            vault(url, {2: wrapped}, transit_token="s.other").load(2)


@pytest.mark.parametrize("value", ['{"2": ""}', '{"2": 7}', '{"2": "vault:v1:ü"}'])
def test_wrapped_secret_that_is_no_text_is_named(value: str) -> None:
    with pytest.raises(StartupError, match=r"ENCRYPTION_KEYS: version 2 is not the text"):
        load_settings(_env_file=None, encryption={"source": "transit", "keys": value})


def test_wrapped_secrets_come_from_a_file_too(engine: FakeTransit, tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    file.write_text(json.dumps({"2": engine.wrap_as_is(SECRET, 2)}))

    assert load_secrets(vault(engine.url, {1: engine.wrap_as_is(b"1" * 32, 1)}, keys_file=file)) == {
        1: b"1" * 32,
        2: SECRET,
    }


@pytest.mark.usefixtures("clean_database")
async def test_process_whose_source_is_away_does_not_start(settings: Settings, engine: FakeTransit) -> None:
    engine.answer = 403, b"{}"
    unlocked = group(
        source="transit", transit_url=engine.url, transit_key=KEY, transit_token=TOKEN, keys='{"1": "vault:v1:x"}'
    )
    container = Container(settings.model_copy(update={"encryption": unlocked}))

    with pytest.raises(StartupError, match=r"^ENCRYPTION_TRANSIT_TOKEN: version 1"):
        await container.start()


def test_process_that_does_not_use_kms_does_not_load_botocore() -> None:
    code = (
        "import sys; import services.user_management.main, services.user_management.cli.__main__ as cli;"
        "cli.command_line({*cli.COMMANDS, *cli.GROUPS});"
        "from services.user_management.container import Container;"
        "from services.user_management.settings import load_settings;"
        "c = Container(load_settings(_env_file=None)); c.keys.vault._load_keys();"
        "print(sorted(name for name in sys.modules if name.split('.')[0] in {'botocore', 'boto3', 'moto'}))"
    )

    ended = subprocess.run(
        [sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, timeout=60, check=False
    )

    assert ended.stdout == "[]\n", ended.stderr

"""A short run of the fuzz target for session tokens and key sets, as a part of the ordinary tests."""

from hypothesis import given, settings
from hypothesis import strategies as st

from services.user_management.tests.fuzz.jwt_target import VERIFIER, fuzz_one, seeds


@settings(max_examples=500, deadline=None)
@given(data=st.binary(max_size=400))
def test_any_bytes_raise_only_what_is_documented(data: bytes) -> None:
    fuzz_one(data)


@settings(max_examples=500, deadline=None)
@given(
    seed=st.sampled_from(seeds()), start=st.integers(1, 800), length=st.integers(0, 8), inserted=st.binary(max_size=8)
)
def test_mutated_seed_raises_only_what_is_documented(seed: bytes, start: int, length: int, inserted: bytes) -> None:
    fuzz_one(seed[:start] + inserted + seed[start + length :])


async def test_seed_of_a_credential_verifies_so_that_mutations_reach_the_claims() -> None:
    session = await VERIFIER.verify(seeds()[0][1:].decode())

    assert session.subject == "user_1"

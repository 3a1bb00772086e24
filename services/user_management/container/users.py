"""The group of services for users: sign-in, profiles, administration, deletion and erasure."""

from dataclasses import dataclass
from datetime import timedelta

from services.user_management.container.resources import Resources
from services.user_management.services.preferences_service import PreferencesManager
from services.user_management.services.user_service import (
    ProfileService,
    SignIn,
    UpstreamUsers,
    UserAdministration,
    UserErasure,
    UserStates,
)


@dataclass(frozen=True, kw_only=True)
class UserServices:
    """Services for users, which users themselves, administrators, sibling services, the identity provider's webhooks,
    the reconciliation and the erasure job use."""

    states: UserStates
    upstream: UpstreamUsers
    sign_in: SignIn
    profiles: ProfileService
    administration: UserAdministration
    erasure: UserErasure


def build_users(resources: Resources) -> UserServices:
    """Build the services for users."""
    states = UserStates(resources.database, resources.clock)
    upstream = UpstreamUsers(preferences=PreferencesManager(), signer=resources.signer)
    hold_back = timedelta(days=resources.settings.erasure.after_days)
    return UserServices(
        states=states,
        upstream=upstream,
        sign_in=SignIn(
            states=states,
            upstream=upstream,
            unit_of_work=resources.unit_of_work,
            admin_user_ids=frozenset(resources.settings.admin.user_ids),
            hold_back=hold_back,
            clock=resources.clock,
        ),
        profiles=ProfileService(
            database=resources.database,
            unit_of_work=resources.unit_of_work,
            states=states,
            providers=resources.providers,
            hold_back=hold_back,
        ),
        administration=UserAdministration(
            database=resources.database,
            unit_of_work=resources.unit_of_work,
            states=states,
            signer=resources.signer,
            hold_back=hold_back,
        ),
        erasure=UserErasure(
            unit_of_work=resources.unit_of_work,
            signer=resources.signer,
            states=states,
            providers=resources.providers,
            hold_back=hold_back,
            start_slice=resources.start_slice,
        ),
    )

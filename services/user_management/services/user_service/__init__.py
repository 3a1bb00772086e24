"""Use cases on users: sign-in, changes by the users themselves and by administrators, changes reported by upstream (the
identity provider), deletion, and the erasure of deleted users' data."""

from services.user_management.services.user_service.administration import UserAdministration
from services.user_management.services.user_service.erasure import UserErasure
from services.user_management.services.user_service.profile import ExpectedVersions, ProfileService
from services.user_management.services.user_service.sessions import SignIn
from services.user_management.services.user_service.states import UserStates
from services.user_management.services.user_service.upstream import SIGN_IN_PRUNING, UpstreamUser, UpstreamUsers

__all__ = [
    "SIGN_IN_PRUNING",
    "ExpectedVersions",
    "ProfileService",
    "SignIn",
    "UpstreamUser",
    "UpstreamUsers",
    "UserAdministration",
    "UserErasure",
    "UserStates",
]

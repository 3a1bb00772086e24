"""The pages on which people sign in at the imitated Clerk: one with the users and a form for a new user, and one with a
session token and a command that uses it."""

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse, RedirectResponse

from services.sandbox.clerk.session_tokens import LIFETIME_SECONDS
from services.sandbox.clerk.users import ClerkUser, primary_email
from services.sandbox.dependencies import CurrentSandbox
from services.sandbox.errors import SandboxError
from services.sandbox.forms import read_form
from services.sandbox.pages import hidden, page, table, text

router = APIRouter(include_in_schema=False)

_NEW_USER_FORM = """
<form class="card" method="post" action="/sign-in/users"><h2>New user</h2>
<label>E-mail <input type="email" name="email" placeholder="ada@example.com"></label>
<label>First name <input type="text" name="first_name"></label>
<label>Last name <input type="text" name="last_name"></label>
<button class="primary">Create</button></form>
"""


def _sign_in_button(user: ClerkUser) -> str:
    field = hidden("user_id", user["id"])
    return f'<form method="post" action="/sign-in">{field}<button class="primary">Sign in</button></form>'


def _row(user: ClerkUser) -> tuple[str, ...]:
    name = " ".join(filter(None, (user["first_name"], user["last_name"])))
    return (text(name or "(no name)"), text(primary_email(user)), text(user["id"]), _sign_in_button(user))


@router.get("/sign-in")
async def sign_in_page(sandbox: CurrentSandbox) -> HTMLResponse:
    """Show the users, each with a button to sign in, and a form for a new user."""
    rows = [_row(user) for user in sandbox.clerk.users()]
    users = table(("Name", "E-mail", "Id", ""), rows) if rows else "<p>There are no users yet.</p>"
    return page("Sign in", users, _NEW_USER_FORM)


@router.post("/sign-in/users")
async def create_user(request: Request, sandbox: CurrentSandbox) -> RedirectResponse:
    """Create a user as Clerk would at sign-up, webhook included, and go back to the sign-in page."""
    form = await read_form(request)
    user = sandbox.clerk.create_user(
        email=form.get("email"), first_name=form.get("first_name"), last_name=form.get("last_name")
    )
    await sandbox.clerk.send_event("user.created", user)
    return RedirectResponse("/sign-in", status_code=303)


@router.post("/sign-in")
async def sign_in(request: Request, sandbox: CurrentSandbox) -> HTMLResponse:
    """Show a new session token of the user in the form, and a command that uses it; 404 for an unknown user."""
    user_id = (await read_form(request)).get("user_id") or ""
    if sandbox.clerk.user(user_id) is None:
        raise SandboxError(404, f"there is no user {user_id}")
    token = sandbox.clerk.session_token(user_id)
    command = f"curl -H 'Authorization: Bearer {token}' {sandbox.api_url}/users/me"
    again = f'<form method="post">{hidden("user_id", user_id)}<button>New token</button></form>'
    return page(
        "Signed in",
        f"<p>This session token is good for {LIFETIME_SECONDS} seconds.</p>{again}",
        f"<h2>Token</h2><pre>{text(token)}</pre><h2>Try it</h2><pre>{text(command)}</pre>",
    )

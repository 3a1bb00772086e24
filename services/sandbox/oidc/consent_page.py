"""The consent page, on which a person allows or denies access."""

from fastapi.responses import HTMLResponse

from services.sandbox.forms import Form
from services.sandbox.oidc.accounts import DEFAULT_EMAIL
from services.sandbox.oidc.authorization import AuthorizationRequest, carried_parameters
from services.sandbox.oidc.provider import Provider
from services.sandbox.pages import hidden, page, text
from services.sandbox.providers import CLIENT_ID, SCOPES


def _scope_box(scope: str) -> str:
    box = f'<input type="checkbox" name="granted_scope" value="{text(scope)}" checked>'
    return f"<label>{box} {text(SCOPES.get(scope))} <code class='quiet'>{text(scope)}</code></label>"


def _account_field(provider: Provider, chosen: str) -> str:
    options = "".join(
        f'<option value="{text(account.email)}">{text(account.name)}</option>' for account in provider.accounts.all()
    )
    return (
        f'<label>Account (pick one, or type any e-mail) <input type="text" name="account" list="accounts" required'
        f' value="{text(chosen)}"></label><datalist id="accounts">{options}</datalist>'
    )


def consent_page(provider: Provider, request: AuthorizationRequest, form: Form, *, action: str) -> HTMLResponse:
    """Return the page; its form posts the decision, and the request in hidden fields, to the path `action`."""
    carried = "".join(hidden(name, value) for name, value in form if name in carried_parameters(provider.persona))
    chosen = request.login_hint or DEFAULT_EMAIL
    boxes = "".join(_scope_box(scope) for scope in request.scopes)
    return page(
        f"Sandbox account ({provider.persona.name})",
        f"<p><strong>{text(CLIENT_ID)}</strong> asks for access to your account.</p>",
        f'<form class="card" method="post" action="{text(action)}">{carried}',
        _account_field(provider, chosen),
        f"<h2>It would be able to</h2>{hidden('granted_scope', '')}{boxes}",
        '<p><button class="primary" name="decision" value="approve">Allow</button> ',
        '<button name="decision" value="deny">Deny</button></p></form>',
        f"<p class='quiet'>Afterwards you return to {text(request.redirect_uri)}</p>",
    )
